//! One sampling from beginning to end: the model, the conditions and the latent are made ready, the sampler runs, each step is shown.

use std::sync::{Arc, Mutex};

use candle_core::Tensor;
use comfyd_kernels::random::Generator;
use comfyd_models::unet::hooks::{AttentionScores, Downscale, FreeU, FreeUVersion as Version, HyperTile, TokenMerging};
use comfyd_models::unet::{HookList, Hooks};
use comfyd_node::{CancelToken, Context};
use comfyd_samplers::schedule::is_max_denoise;
use comfyd_samplers::{Denoiser, Observer, Schedule, Step, noise};

use super::batch::Predictor;
use super::conds::{self, Role};
use super::guidance::{Combine, Guidance, GuidanceOptions, Momentum, differential_mask};
use super::inputs::{InputContext, encode};
use super::preview::Previews;
use super::{LatentInput, Sampled, Sampler};
use crate::array::{is_zero, latent_mask};
use crate::control::ControlRun;
use crate::guider::GuiderKind;
use crate::hooks::HookRun;
use crate::model::HookKind;
use crate::sampling::CfgFunction;
use crate::{Conditioning, Engine, Guider, Model, Result};

/// The reference's estimate of a pass: so many bytes per cell of the latent, and half of that to spare.
const BYTES_PER_CELL: f64 = 4.0 * 0.01 * 1024.0 * 1024.0 * 1.5;

/// Samples. `noise` has the latent's shape.
#[allow(clippy::too_many_arguments)]
pub(super) fn run(
    engine: &Engine,
    cx: &Context<'_>,
    guider: &Guider,
    noise: &Tensor,
    seed: u64,
    sampler: &Sampler,
    sigmas: &[f32],
    input: &LatentInput,
) -> Result<Sampled> {
    if sigmas.is_empty() {
        return Ok(Sampled { output: input.samples.clone(), denoised: input.samples.clone() });
    }
    cx.check_cancelled()?;
    let model = &guider.model;
    let (options, device) = (&model.options, engine.device());
    let schedule = Arc::clone(&options.schedule);
    let (b, c, h, w) = input.samples.dims4()?;
    let shape = [b, c, h, w];
    // An empty latent is not shifted.
    let latent = if is_zero(&input.samples)? { input.samples.clone() } else { options.format.process_in(&input.samples)? };
    let latent = latent.to_device(device)?;
    let mask = match &input.noise_mask {
        Some(mask) => Some(latent_mask(mask, &shape)?.to_device(device)?),
        None => None,
    };
    let noise = noise.to_device(device)?;

    let unet = model.unet()?;
    let context = InputContext {
        shape,
        adm: model.adm(),
        concat: model.concat(),
        format: options.format,
        latent: &latent,
        denoise_mask: mask.as_ref(),
        device,
    };
    let mut encoded = |entry: &crate::CondEntry, is_negative: bool| encode(entry, is_negative, &context);
    let (roles, combine) = roles_of(&guider.kind);
    let lists = conds::resolve(&roles, &shape, schedule.as_ref(), device, &mut encoded)?;
    let empty = match &options.cfg_function {
        Some(CfgFunction::PerpNeg { empty, .. }) => {
            let role = Role { conditioning: empty.clone(), is_negative: true };
            conds::resolve(&[role], &shape, schedule.as_ref(), device, &mut encoded)?.into_iter().flatten().collect()
        }
        Some(CfgFunction::Rescale(_) | CfgFunction::Renorm { .. } | CfgFunction::Linear { .. } | CfgFunction::Triangle { .. }) | None => {
            Vec::new()
        }
    };
    let controls = ControlRun::new(&lists, model, schedule.as_ref())?;
    let scores = AttentionScores::new();
    let fits = |cells: usize| (cells as f64 * BYTES_PER_CELL) < engine.memory().free as f64;
    let guidance = Guidance {
        predictor: Predictor { unet, schedule: Arc::clone(&schedule), controls, hooked: HookRun::new(model, sigmas), fits: &fits },
        hooks: hooks_of(model, cx.cancel_token(), &scores, seed, b * c * h * w),
        lists,
        combine,
        options: GuidanceOptions {
            cfg_function: options.cfg_function.clone(),
            pre: options.pre.clone(),
            post: options.post.clone(),
            disable_cfg1: options.disable_cfg1,
            empty,
        },
        momentum: options.pre.iter().map(|_| Momentum::default()).collect(),
        scores,
    };

    let keep = match mask {
        None => None,
        Some(mask) => {
            let noise = match sampler.sampler.fresh_inpaint_noise() {
                true => noise::inpaint(seed, &shape)?.to_device(device)?,
                false => noise.clone(),
            };
            Some(Keep { mask, noise, latent: latent.clone(), differential: options.differential })
        }
    };
    let start = schedule.add_noise(sigmas[0], &noise, &latent, is_max_denoise(schedule.as_ref(), sigmas[0]))?;
    let mut denoiser = Guided { guidance, keep, sigmas: sigmas.to_vec(), schedule: Arc::clone(&schedule) };
    let previews = Previews::new(engine, options.format)?;
    let steps = sigmas.len().saturating_sub(1);
    let (samples, last) = previews.with(cx, |show| {
        let mut steps = Steps { cx, steps, show, last: None };
        let samples = sampler.sampler.sample(&mut denoiser, start, sigmas, seed, &mut steps)?;
        Ok((samples, steps.last))
    })?;
    let samples = schedule.remove_scaling(sigmas[sigmas.len() - 1], &samples)?;
    let output = options.format.process_out(&samples)?.to_device(&candle_core::Device::Cpu)?;
    let denoised = match last {
        Some(last) => options.format.process_out(&last)?.to_device(&candle_core::Device::Cpu)?,
        None => output.clone(),
    };
    Ok(Sampled { output, denoised })
}

fn roles_of(kind: &GuiderKind) -> (Vec<Role>, Combine) {
    let role = |conditioning: &Conditioning, is_negative| Role { conditioning: conditioning.clone(), is_negative };
    match kind {
        GuiderKind::Cfg { positive, negative, cfg } => {
            let roles = std::iter::once(role(positive, false)).chain(negative.iter().map(|negative| role(negative, true)));
            (roles.collect(), Combine::Cfg { cfg: *cfg })
        }
        GuiderKind::Dual { first, second, negative, cfg_conds, cfg_second_negative, style } => {
            let combine = Combine::Dual { cfg_conds: *cfg_conds, cfg_second_negative: *cfg_second_negative, style: *style };
            (vec![role(first, false), role(second, true), role(negative, true)], combine)
        }
        GuiderKind::PerpNeg { positive, negative, empty, cfg, neg_scale } => {
            let combine = Combine::PerpNeg { cfg: *cfg, neg_scale: *neg_scale };
            (vec![role(positive, false), role(empty, true), role(negative, true)], combine)
        }
    }
}

/// What the model's patches and the user's interruption do inside a pass.
fn hooks_of(model: &Model, cancel: &CancelToken, scores: &AttentionScores, seed: u64, numbers: usize) -> HookList {
    let mut hooks = HookList::default();
    hooks.push(Cancel(cancel.clone()));
    // Where the reference's global generator stands after the latent's noise. Made only for those that draw from it.
    let random = || {
        let mut generator = Generator::new(seed);
        generator.randn(numbers);
        Arc::new(Mutex::new(generator))
    };
    let schedule = &model.options.schedule;
    for hook in &model.options.hooks {
        match hook {
            HookKind::FreeU { b1, b2, s1, s2, second_version } => hooks.push(FreeU {
                version: if *second_version { Version::V2 } else { Version::V1 },
                model_channels: model.info.config.model_channels,
                deep: (*b1, *s1),
                shallow: (*b2, *s2),
            }),
            HookKind::HyperTile { tile_size, swap_size, max_depth, scale_depth } => {
                hooks.push(HyperTile::new(*tile_size, *swap_size, *max_depth as u32, *scale_depth, random()));
            }
            HookKind::TokenMerging { ratio } => hooks.push(TokenMerging::new(*ratio, random())),
            HookKind::Downscale(settings) => hooks.push(Downscale {
                block: settings.block_number,
                factor: settings.factor,
                sigma_start: schedule.percent_to_sigma(settings.start_percent),
                sigma_end: schedule.percent_to_sigma(settings.end_percent),
                after_skip: settings.after_skip,
                shrink: settings.downscale_method,
                grow: settings.upscale_method,
            }),
            HookKind::KeepScores => hooks.push(scores.clone()),
        }
    }
    hooks
}

/// Ends a pass once the prompt was interrupted.
struct Cancel(CancelToken);

impl Hooks for Cancel {
    fn check(&mut self) -> comfyd_models::Result<()> {
        if self.0.is_cancelled() { Err(comfyd_models::Error::Interrupted) } else { Ok(()) }
    }
}

/// The part of a picture that is kept while the rest is sampled.
struct Keep {
    /// 1 where to sample.
    mask: Tensor,
    noise: Tensor,
    latent: Tensor,
    differential: Option<f64>,
}

/// The guided model as samplers see it.
struct Guided<'a> {
    guidance: Guidance<'a>,
    keep: Option<Keep>,
    sigmas: Vec<f32>,
    schedule: Arc<dyn Schedule>,
}

impl Guided<'_> {
    fn predict(&mut self, x: &Tensor, sigma: f32, force_uncond: bool) -> Result<(Tensor, Tensor)> {
        let Some(keep) = &self.keep else {
            let guided = self.guidance.predict(x, sigma, force_uncond)?;
            return Ok((guided.denoised, guided.uncond));
        };
        let mask = match keep.differential {
            Some(strength) => differential_mask(&keep.mask, sigma, &self.sigmas, self.schedule.as_ref(), strength)?,
            None => keep.mask.clone(),
        };
        let kept = mask.affine(-1.0, 1.0)?;
        let noised = self.schedule.add_noise(sigma, &keep.noise, &keep.latent, false)?;
        let x = ((x * &mask)? + (noised * &kept)?)?;
        let latent = (&keep.latent * kept)?;
        let guided = self.guidance.predict(&x, sigma, force_uncond)?;
        Ok((((guided.denoised * mask)? + latent)?, guided.uncond))
    }
}

impl Denoiser for Guided<'_> {
    fn denoise(&mut self, x: &Tensor, sigma: f32) -> comfyd_samplers::Result<Tensor> {
        Ok(self.predict(x, sigma, false)?.0)
    }

    fn denoise_with_uncond(&mut self, x: &Tensor, sigma: f32) -> comfyd_samplers::Result<(Tensor, Tensor)> {
        Ok(self.predict(x, sigma, true)?)
    }

    fn schedule(&self) -> &dyn Schedule {
        self.schedule.as_ref()
    }
}

/// Shows each step, and stops once the prompt was interrupted.
struct Steps<'a, 'c> {
    cx: &'a Context<'c>,
    steps: usize,
    show: &'a mut dyn FnMut(&Tensor),
    last: Option<Tensor>,
}

impl Observer for Steps<'_, '_> {
    fn step(&mut self, step: &Step<'_>) -> comfyd_samplers::Result<()> {
        (self.show)(step.denoised);
        self.last = Some(step.denoised.clone());
        let done = (step.index + 1) as f64;
        self.cx.progress(done, (self.steps as f64).max(done)).map_err(crate::Error::from)?;
        Ok(())
    }
}
