//! One sampling from beginning to end: the model, the conditions and the latent are made ready, the sampler runs, each step is shown.

use std::sync::Arc;

use candle_core::Tensor;
use comfyd_models::backbone::{HookList, Hooks};
use comfyd_node::{CancellationToken, Context};
use comfyd_samplers::schedule::is_max_denoise;
use comfyd_samplers::{Denoiser, Observer, Schedule, Step, ksampler, noise};
use comfyd_values::Sigmas;

use super::batch::Predictor;
use super::conds::{self, Role};
use super::control::ControlRun;
use super::guidance::{Combine, Guidance, RunningModel};
use super::hooks::HookRun;
use super::inputs::{InputContext, encode};
use super::preview::Previews;
use super::request::{KSampler, LatentInput, Noise, Sampled, Sampler};
use crate::array::{is_zero, latent_mask, repeat_to_batch};
use crate::guider::GuiderKind;
use crate::patches::{ModelPatch, Sampling};
use crate::{Conditioning, Engine, Error, Guider, LatentSpec, Model, Result};

/// The reference's estimate of a pass: so many bytes per cell of the latent, and half of that to spare.
const BYTES_PER_CELL: f64 = 4.0 * 0.01 * 1024.0 * 1024.0;
const TO_SPARE: f64 = 1.5;

impl Engine {
    /// KSampler and KSamplerAdvanced. Reports progress and previews at every step.
    pub fn ksampler(
        &self,
        cx: &Context<'_>,
        model: &Model,
        positive: &Conditioning,
        negative: &Conditioning,
        latent: &LatentInput,
        settings: &KSampler,
    ) -> Result<Tensor> {
        let latent = fixed_channels(latent, model.latents())?;
        let schedule = &model.options.schedule;
        let sigmas = ksampler::sigmas(&settings.sampler, &settings.scheduler, schedule.as_ref(), settings.steps, settings.denoise)?;
        let part = ksampler::part(&sigmas, settings.start_step, settings.last_step, settings.force_full_denoise);
        let Some(sigmas) = part else { return Ok(latent.samples) };
        let seed = settings.seed;
        let noise = if settings.disable_noise { Noise::Disabled { seed } } else { Noise::Random(seed) };
        let sampler = Sampler::by_name(&settings.sampler)?;
        let guider = Guider::cfg(model, positive, negative, settings.cfg);
        let sampled = run(self, cx, &guider, &noise.generate(&latent)?, seed, &sampler, &sigmas, &latent)?;
        Ok(sampled.output)
    }

    /// SamplerCustomAdvanced; SamplerCustom with [`Guider::cfg`]. Reports progress and previews at every step.
    pub fn sample(
        &self,
        cx: &Context<'_>,
        guider: &Guider,
        noise: Noise,
        sampler: &Sampler,
        sigmas: &Sigmas,
        latent: &LatentInput,
    ) -> Result<Sampled> {
        let latent = fixed_channels(latent, guider.model.latents())?;
        run(self, cx, guider, &noise.generate(&latent)?, noise.seed(), sampler, &sigmas.0, &latent)
    }
}

/// An empty latent gets the channels of the model's latents.
fn fixed_channels(latent: &LatentInput, spec: &LatentSpec) -> Result<LatentInput> {
    let shape = latent.samples.dims();
    if shape.len() != spec.axes {
        return Err(Error::msg(format!("a latent of the shape {shape:?} cannot be sampled; these models take {} axes", spec.axes)));
    }
    let channels = shape[1];
    let mut latent = latent.clone();
    if channels == spec.channels {
        return Ok(latent);
    }
    if !is_zero(&latent.samples)? {
        let wanted = spec.channels;
        return Err(Error::msg(format!(
            "the latent has {channels} channels, the model takes {wanted}; encode it with the model's own VAE"
        )));
    }
    latent.samples = repeat_to_batch(&latent.samples.transpose(0, 1)?.contiguous()?, spec.channels)?.transpose(0, 1)?.contiguous()?;
    Ok(latent)
}

/// Samples. `noise` has the latent's shape.
#[allow(clippy::too_many_arguments)]
fn run(
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
    let latent = if is_zero(&input.samples)? { input.samples.clone() } else { options.latents.process_in(&input.samples)? };
    let latent = latent.to_device(device)?;
    let mask = match &input.noise_mask {
        Some(mask) => Some(latent_mask(mask, &shape)?.to_device(device)?),
        None => None,
    };
    let noise = noise.to_device(device)?;

    let backbone = model.backbone()?;
    let context = InputContext {
        shape,
        kind: model.kind.as_ref(),
        latents: options.latents,
        latent: &latent,
        denoise_mask: mask.as_ref(),
        device,
        seed,
    };
    let resolve = |roles: &[Role]| {
        conds::resolve(roles, &shape, schedule.as_ref(), device, &|entry, is_negative| encode(entry, is_negative, &context))
    };
    let (roles, combine) = roles_of(&guider.kind);
    let lists = resolve(&roles)?;
    let resolve_negative = |conditioning: &Conditioning| {
        let role = Role { conditioning: conditioning.clone(), is_negative: true };
        Ok(resolve(&[role])?.into_iter().flatten().collect())
    };
    let controls = ControlRun::new(&lists, model, schedule.as_ref())?;
    // The model is there, so that what is left is for its passes.
    let room = engine.room(((b * h * w) as f64 * BYTES_PER_CELL) as u64)?;
    let fits = |cells: usize| engine.fits(((cells as f64 * BYTES_PER_CELL * TO_SPARE) as u64).saturating_sub(room.bytes()));
    let predictor = Predictor { backbone, schedule: Arc::clone(&schedule), controls, hooked: HookRun::new(model, sigmas), fits: &fits };
    let sampling = Sampling { schedule: schedule.as_ref(), sigmas, latents: options.latents, seed, numbers: b * c * h * w };
    let mut patches: Vec<Box<dyn ModelPatch>> = options.patches.iter().map(|patch| patch()).collect();
    let mut hooks = HookList::default();
    hooks.push(Cancel(cx.cancel_token().clone()));
    hooks.0.extend(patches.iter_mut().filter_map(|patch| patch.hooks(&sampling)));
    let guidance = Guidance { model: RunningModel { predictor, hooks, resolve: &resolve_negative }, lists, combine, patches };

    let keep = match &mask {
        Some(mask) if sampler.sampler.fresh_inpaint_noise() => Some((mask, noise::inpaint(seed, &shape)?.to_device(device)?)),
        Some(mask) => Some((mask, noise.clone())),
        None => None,
    };
    let keep = keep.map(|(mask, noise)| Keep { mask: mask.clone(), noise, latent: latent.clone() });
    let start = schedule.add_noise(sigmas[0], &noise, &latent, is_max_denoise(schedule.as_ref(), sigmas[0]))?;
    let mut denoiser = Guided { guidance, keep, sampling };
    let previews = Previews::new(engine, options.latents, cx)?;
    let steps = sigmas.len().saturating_sub(1);
    let (samples, last) = previews.with(cx, |show| {
        let mut steps = Steps { cx, steps, show, last: None };
        let samples = sampler.sampler.sample(&mut denoiser, start, sigmas, seed, &mut steps)?;
        Ok((samples, steps.last))
    })?;
    let samples = schedule.remove_scaling(sigmas[sigmas.len() - 1], &samples)?;
    let output = options.latents.process_out(&samples)?.to_device(&candle_core::Device::Cpu)?;
    let denoised = match last {
        Some(last) => options.latents.process_out(&last)?.to_device(&candle_core::Device::Cpu)?,
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

/// Ends a pass once the prompt was interrupted.
struct Cancel(CancellationToken);

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
}

/// The guided model as samplers see it.
struct Guided<'a> {
    guidance: Guidance<'a>,
    keep: Option<Keep>,
    sampling: Sampling<'a>,
}

impl Guided<'_> {
    fn predict(&mut self, x: &Tensor, sigma: f32, force_uncond: bool) -> Result<(Tensor, Tensor)> {
        let Some(keep) = &self.keep else {
            let guided = self.guidance.predict(x, sigma, force_uncond)?;
            return Ok((guided.denoised, guided.uncond));
        };
        let mut patches = self.guidance.patches.iter_mut().rev();
        let mask = patches.find_map(|patch| patch.mask(&self.sampling, &keep.mask, sigma).transpose()).transpose()?;
        let mask = mask.unwrap_or_else(|| keep.mask.clone());
        let kept = mask.affine(-1.0, 1.0)?;
        let noised = self.sampling.schedule.add_noise(sigma, &keep.noise, &keep.latent, false)?;
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
        self.sampling.schedule
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
