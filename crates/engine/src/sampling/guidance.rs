//! From the model's predictions with and without the prompt to one: classifier-free guidance, what model patches do before and after it,
//! and the guiders with more than two sides.

use candle_core::Tensor;
use comfyd_models::unet::HookList;
use comfyd_models::unet::hooks::{AttentionScores, PerturbedAttention};
use comfyd_samplers::Schedule;

use super::batch::Predictor;
use super::conds::Cond;
use super::fourier;
use crate::guider::DualStyle;
use crate::model::LatentFunction;
use crate::{Conditioning, Error, Result};

/// Takes the place of the usual formula.
#[derive(Debug, Clone)]
pub(crate) enum CfgFunction {
    /// Lin et al. (2023): guidance keeps the standard deviation of the prediction with the prompt.
    Rescale(f64),
    /// Only what is perpendicular in the negative prompt counts.
    PerpNeg { empty: Conditioning, neg_scale: f64 },
    /// Lumina's: below a noise level guidance grows no longer than the prediction with the prompt allows, above it there is none.
    Renorm { truncation: f64, limit: f64 },
    /// The strength grows from the first latent of the batch to the last.
    Linear { min: f64 },
    /// The strength grows to the middle of the batch and falls again.
    Triangle { min: f64 },
}

/// Changes the predictions before guidance.
#[derive(Clone)]
pub(crate) enum PreCfg {
    /// Sadat et al. (2024), adaptive projected guidance.
    Projected { eta: f64, norm_threshold: f64, momentum: f64 },
    /// Kwon et al. (2025), tangential damping.
    Tangential,
    /// FreSca: guidance scaled by frequency.
    Frequencies { low: f64, high: f64, cutoff: usize },
    /// A node's own operation on the guidance.
    Operation(LatentFunction),
}

/// Changes the result of guidance.
#[derive(Debug, Clone)]
pub(crate) enum PostCfg {
    /// Hong et al. (2022), self-attention guidance.
    SelfAttention { scale: f64, blur_sigma: f64 },
    /// Ahn et al. (2024), perturbed-attention guidance.
    PerturbedAttention { scale: f64 },
    /// Mahiro's guidance by direction.
    Mahiro,
    /// Fan et al. (2025), CFG-Zero*.
    ZeroStar,
    /// The norm over channels stays that of the prediction with the prompt.
    Norm { strength: f64 },
    /// Ning et al. (2023), epsilon scaling.
    Epsilon { factor: f64 },
}

/// How the lists of conditions are combined.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Combine {
    /// Lists: positive, negative.
    Cfg { cfg: f64 },
    /// Lists: positive, middle, negative.
    Dual { cfg_conds: f64, cfg_second_negative: f64, style: DualStyle },
    /// Lists: positive, empty, negative.
    PerpNeg { cfg: f64, neg_scale: f64 },
}

/// What guidance needs of the model's options.
pub(crate) struct GuidanceOptions {
    pub(crate) cfg_function: Option<CfgFunction>,
    pub(crate) pre: Vec<PreCfg>,
    pub(crate) post: Vec<PostCfg>,
    pub(crate) disable_cfg1: bool,
    /// The conditions of [`CfgFunction::PerpNeg`].
    pub(crate) empty: Vec<Cond>,
}

/// What a guided prediction gives.
pub(crate) struct Guided {
    /// The clean latent.
    pub(crate) denoised: Tensor,
    /// The prediction without the prompt.
    pub(crate) uncond: Tensor,
}

/// The state of [`PreCfg::Projected`].
#[derive(Default)]
pub(crate) struct Momentum {
    average: Option<Tensor>,
    sigma: Option<f32>,
}

/// Everything that one guided prediction works with.
pub(crate) struct Guidance<'a> {
    pub(crate) predictor: Predictor<'a>,
    pub(crate) hooks: HookList,
    pub(crate) lists: Vec<Vec<Cond>>,
    pub(crate) combine: Combine,
    pub(crate) options: GuidanceOptions,
    pub(crate) momentum: Vec<Momentum>,
    /// What [`PostCfg::SelfAttention`] looks at.
    pub(crate) scores: AttentionScores,
}

fn is_close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

/// The values of one call that the functions before and after guidance look at.
struct Call<'c> {
    x: &'c Tensor,
    sigma: f32,
    scale: f64,
    has_uncond: bool,
}

impl Guidance<'_> {
    /// The clean latent behind `x`. With `force_uncond` the prediction without the prompt is made even where guidance does not need it.
    pub(crate) fn predict(&mut self, x: &Tensor, sigma: f32, force_uncond: bool) -> Result<Guided> {
        let may_skip = !self.options.disable_cfg1 && !force_uncond;
        let lists = std::mem::take(&mut self.lists);
        let list = |i: usize| lists.get(i).map(Vec::as_slice);
        let result = match self.combine {
            Combine::Cfg { cfg } => {
                let negative = if may_skip && is_close(cfg, 1.0) { None } else { list(1) };
                let sides = [list(0), negative];
                let call = Call { x, sigma, scale: cfg, has_uncond: negative.is_some() };
                self.raw(&sides, x, sigma).and_then(|out| self.before(out, &call)).and_then(|out| {
                    let [cond, uncond] = take(out)?;
                    self.apply(&call, cond, uncond, sides[0], sides[1])
                })
            }
            Combine::Dual { cfg_conds, cfg_second_negative, style } => {
                self.dual(x, sigma, [list(0), list(1), list(2)], may_skip, cfg_conds, cfg_second_negative, style)
            }
            Combine::PerpNeg { cfg, neg_scale } => self.perp_neg(x, sigma, [list(0), list(1), list(2)], may_skip, cfg, neg_scale),
        };
        self.lists = lists;
        result
    }

    fn raw(&mut self, lists: &[Option<&[Cond]>], x: &Tensor, sigma: f32) -> Result<Vec<Tensor>> {
        self.predictor.predict(lists, x, sigma, &mut self.hooks)
    }

    #[allow(clippy::too_many_arguments)]
    fn dual(
        &mut self,
        x: &Tensor,
        sigma: f32,
        [positive, middle, negative]: [Option<&[Cond]>; 3],
        may_skip: bool,
        cfg_conds: f64,
        cfg_second_negative: f64,
        style: DualStyle,
    ) -> Result<Guided> {
        match style {
            DualStyle::Nested => {
                let [out_negative, out_middle, out_positive] = take(self.raw(&[negative, middle, positive], x, sigma)?)?;
                let call = Call { x, sigma, scale: cfg_conds, has_uncond: true };
                let text = self.apply(&call, out_positive, out_middle, positive, middle)?;
                let denoised = (&out_negative + ((text.denoised - &out_negative)? * cfg_second_negative)?)?;
                Ok(Guided { denoised, uncond: text.uncond })
            }
            DualStyle::Regular => {
                let skip_negative = may_skip && is_close(cfg_second_negative, 1.0);
                let negative = if skip_negative { None } else { negative };
                let middle = if skip_negative && is_close(cfg_conds, 1.0) { None } else { middle };
                let [out_negative, out_middle, out_positive] = take(self.raw(&[negative, middle, positive], x, sigma)?)?;
                let call = Call { x, sigma, scale: cfg_second_negative, has_uncond: negative.is_some() };
                let rest = ((out_positive - &out_middle)? * cfg_conds)?;
                let guided = self.apply(&call, out_middle, out_negative, middle, negative)?;
                Ok(Guided { denoised: (guided.denoised + rest)?, uncond: guided.uncond })
            }
        }
    }

    fn perp_neg(
        &mut self,
        x: &Tensor,
        sigma: f32,
        [positive, empty, negative]: [Option<&[Cond]>; 3],
        may_skip: bool,
        cfg: f64,
        neg_scale: f64,
    ) -> Result<Guided> {
        let skip_negative = may_skip && is_close(neg_scale, 0.0);
        let negative = if skip_negative { None } else { negative };
        let empty = if skip_negative && is_close(cfg, 1.0) { None } else { empty };
        let call = Call { x, sigma, scale: cfg, has_uncond: negative.is_some() };
        let out = self.raw(&[positive, negative, empty], x, sigma)?;
        let [out_positive, out_negative, out_empty] = take(self.before(out, &call)?)?;
        let mut denoised = perpendicular(&out_positive, &out_negative, &out_empty, neg_scale, cfg)?;
        for function in self.options.post.clone() {
            denoised = self.after(&function, denoised, &call, &out_positive, &out_negative, positive, negative)?;
        }
        Ok(Guided { denoised, uncond: out_negative })
    }

    /// Guidance and what comes after it.
    fn apply(&mut self, call: &Call<'_>, cond: Tensor, uncond: Tensor, conds: Option<&[Cond]>, unconds: Option<&[Cond]>) -> Result<Guided> {
        let function = self.options.cfg_function.clone();
        let mut denoised = match &function {
            None => (&uncond + ((&cond - &uncond)? * call.scale)?)?,
            Some(CfgFunction::Rescale(multiplier)) => rescaled(call.x, &cond, &uncond, call.scale, call.sigma, *multiplier)?,
            Some(CfgFunction::PerpNeg { neg_scale, .. }) => {
                let conds = std::mem::take(&mut self.options.empty);
                let empty = self.raw(&[Some(&conds)], call.x, call.sigma);
                self.options.empty = conds;
                let [empty] = take(empty?)?;
                perpendicular(&cond, &uncond, &empty, *neg_scale, call.scale)?
            }
            Some(CfgFunction::Renorm { truncation, .. }) if f64::from(call.sigma) >= *truncation => cond.clone(),
            Some(CfgFunction::Renorm { limit, .. }) => renormalised(&cond, &uncond, call.scale, *limit)?,
            Some(CfgFunction::Linear { min }) => over_batch(&cond, &uncond, |place| min + (call.scale - min) * place)?,
            Some(CfgFunction::Triangle { min }) => over_batch(&cond, &uncond, |place| {
                let wave = 2.0 * (place - (place + 0.5).floor()).abs();
                wave * (call.scale - min) + min
            })?,
        };
        for function in self.options.post.clone() {
            denoised = self.after(&function, denoised, call, &cond, &uncond, conds, unconds)?;
        }
        Ok(Guided { denoised, uncond })
    }

    fn before(&mut self, mut out: Vec<Tensor>, call: &Call<'_>) -> Result<Vec<Tensor>> {
        for i in 0..self.options.pre.len() {
            let (cond, uncond) = (out[0].clone(), out[1].clone());
            match self.options.pre[i].clone() {
                PreCfg::Projected { eta, norm_threshold, momentum } => {
                    let guidance = (&cond - &uncond)?;
                    let guidance = self.momentum[i].next(guidance, momentum, call.sigma)?;
                    out[0] = projected(&guidance, &cond, &uncond, eta, norm_threshold, call.scale)?;
                }
                PreCfg::Tangential if call.has_uncond => {
                    let damped = damped(&(call.x - &cond)?, &(call.x - &uncond)?)?;
                    out[1] = (call.x - damped)?;
                }
                PreCfg::Frequencies { low, high, cutoff } if call.has_uncond => {
                    out[0] = (fourier::scale_bands(&(cond - &uncond)?, low, high, cutoff)? + uncond)?;
                }
                PreCfg::Tangential | PreCfg::Frequencies { .. } => {}
                PreCfg::Operation(operation) => {
                    let guidance = if out.len() == 2 { (cond - &uncond)? } else { cond };
                    let (shape, values) = crate::values(&guidance)?;
                    let changed = crate::tensor(&shape, operation(&shape, values)?)?.to_device(guidance.device())?;
                    out[0] = if out.len() == 2 { (changed + uncond)? } else { changed };
                }
            }
        }
        Ok(out)
    }

    #[allow(clippy::too_many_arguments)]
    fn after(
        &mut self,
        function: &PostCfg,
        denoised: Tensor,
        call: &Call<'_>,
        cond: &Tensor,
        uncond: &Tensor,
        conds: Option<&[Cond]>,
        unconds: Option<&[Cond]>,
    ) -> Result<Tensor> {
        match function {
            PostCfg::SelfAttention { scale, blur_sigma } => {
                let (_, _, h, w) = denoised.dims4()?;
                let scores = self.scores.scores();
                let (Some(scores), false) = (scores, h.min(w) <= 4) else { return Ok(denoised) };
                let degraded = super::blur::degrade(uncond, &scores, *blur_sigma)?;
                let noised = ((&degraded + call.x)? - uncond)?;
                let [guess] = take(self.raw(&[unconds], &noised, call.sigma)?)?;
                Ok((denoised + ((degraded - guess)? * *scale)?)?)
            }
            PostCfg::PerturbedAttention { scale } if *scale == 0.0 => Ok(denoised),
            PostCfg::PerturbedAttention { scale } => {
                self.hooks.push(PerturbedAttention);
                let out = self.raw(&[conds], call.x, call.sigma);
                self.hooks.0.pop();
                let [guess] = take(out?)?;
                Ok((denoised + ((cond - guess)? * *scale)?)?)
            }
            PostCfg::Mahiro => mahiro(&denoised, cond, uncond, call.scale),
            PostCfg::ZeroStar => {
                let alpha = optimal_scale(&(call.x - cond)?, &(call.x - uncond)?)?;
                let rest = uncond.broadcast_mul(&(alpha * -1.0)?.affine(1.0, 1.0)?)?;
                // out + uncond * (alpha - 1) + scale * uncond * (1 - alpha)
                Ok(((denoised - &rest)? + (rest * call.scale)?)?)
            }
            PostCfg::Norm { strength } => {
                let norm = |t: &Tensor| -> Result<Tensor> { Ok(t.sqr()?.sum_keepdim(1)?.sqrt()?) };
                let scale = (norm(cond)? / (norm(&denoised)? + 1e-8)?)?.clamp(0f32, 1f32)?;
                Ok((denoised.broadcast_mul(&scale)? * *strength)?)
            }
            PostCfg::Epsilon { factor } => {
                let factor = if *factor == 0.0 { 1e-9 } else { *factor };
                Ok((call.x - ((call.x - denoised)? / factor)?)?)
            }
        }
    }
}

impl Momentum {
    /// The guidance with the memory of earlier steps; a rising noise level begins anew.
    fn next(&mut self, guidance: Tensor, momentum: f64, sigma: f32) -> Result<Tensor> {
        if self.sigma.is_some_and(|previous| sigma > previous) {
            self.average = None;
        }
        self.sigma = Some(sigma);
        if momentum == 0.0 {
            return Ok(guidance);
        }
        let average = match self.average.take() {
            None => guidance,
            Some(average) => ((average * momentum)? + guidance)?,
        };
        self.average = Some(average.clone());
        Ok(average)
    }
}

fn take<const N: usize>(out: Vec<Tensor>) -> Result<[Tensor; N]> {
    out.try_into().map_err(|out: Vec<Tensor>| Error::msg(format!("{} predictions where {N} were expected", out.len())))
}

/// The sum over everything but the batch, (B, 1, 1, 1).
fn total(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.sum_keepdim((1, 2, 3))?)
}

fn projected(guidance: &Tensor, cond: &Tensor, uncond: &Tensor, eta: f64, threshold: f64, scale: f64) -> Result<Tensor> {
    let mut limited = guidance.clone();
    if threshold > 0.0 {
        let norm = total(&guidance.sqr()?)?.sqrt()?;
        let factor = norm.ones_like()?.minimum(&(norm.recip()? * threshold)?)?;
        limited = limited.broadcast_mul(&factor)?;
    }
    let length = total(&cond.sqr()?)?.sqrt()?.maximum(1e-12f64)?;
    let direction = cond.broadcast_div(&length)?;
    let parallel = direction.broadcast_mul(&total(&(&limited * &direction)?)?)?;
    let orthogonal = (limited - &parallel)?;
    let changed = (orthogonal + (parallel * eta)?)?;
    Ok(((uncond + changed)? + ((cond - uncond)? / scale)?)?)
}

/// What of the score without the prompt lies along the first right singular vector of both scores.
fn damped(cond: &Tensor, uncond: &Tensor) -> Result<Tensor> {
    let dot = |a: &Tensor, b: &Tensor| -> Result<Vec<f32>> { Ok(total(&(a * b)?)?.flatten_all()?.to_vec1()?) };
    let (uu, uc, cc) = (dot(uncond, uncond)?, dot(uncond, cond)?, dot(cond, cond)?);
    let batch = uu.len();
    let mut parts = Vec::with_capacity(batch);
    for i in 0..batch {
        // The singular vector of the two rows from the eigenvector of their 2 x 2 Gram matrix.
        let (a, b, d) = (f64::from(uu[i]), f64::from(uc[i]), f64::from(cc[i]));
        let largest = (a + d) / 2.0 + (((a - d) / 2.0).powi(2) + b * b).sqrt();
        let (p, q) = if b.abs() > 1e-30 {
            (b, largest - a)
        } else if a >= d {
            (1.0, 0.0)
        } else {
            (0.0, 1.0)
        };
        let (u, c) = (uncond.narrow(0, i, 1)?, cond.narrow(0, i, 1)?);
        let vector = ((&u * p)? + (c * q)?)?;
        let length = f64::from(vector.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt().max(1e-30);
        let vector = (vector / length)?;
        let along = f64::from((&u * &vector)?.sum_all()?.to_scalar::<f32>()?);
        parts.push((vector * along)?);
    }
    Ok(Tensor::cat(&parts, 0)?)
}

fn perpendicular(positive: &Tensor, negative: &Tensor, empty: &Tensor, neg_scale: f64, scale: f64) -> Result<Tensor> {
    let (pos, neg) = ((positive - empty)?, (negative - empty)?);
    let along = f64::from((&neg * &pos)?.sum_all()?.to_scalar::<f32>()?);
    let squared = f64::from(pos.sqr()?.sum_all()?.to_scalar::<f32>()?);
    let perpendicular = (neg - (&pos * (along / squared))?)?;
    Ok((empty + ((pos - (perpendicular * neg_scale)?)? * scale)?)?)
}

/// Guidance on the velocity, its standard deviation brought back to that of the prediction with the prompt.
fn rescaled(x_orig: &Tensor, cond: &Tensor, uncond: &Tensor, scale: f64, sigma: f32, multiplier: f64) -> Result<Tensor> {
    let sigma = f64::from(sigma);
    let x = (x_orig / (sigma * sigma + 1.0))?;
    let factor = (sigma * sigma + 1.0).sqrt() / sigma;
    let velocity = |denoised: &Tensor| -> Result<Tensor> { Ok(((&x - denoised)? * factor)?) };
    let (cond, uncond) = (velocity(cond)?, velocity(uncond)?);
    let guided = (&uncond + ((&cond - &uncond)? * scale)?)?;
    let ratio = (deviation(&cond)? / deviation(&guided)?)?;
    let rescaled = guided.broadcast_mul(&ratio)?;
    let mixed = ((rescaled * multiplier)? + (guided * (1.0 - multiplier))?)?;
    Ok((x - (mixed * (sigma / (sigma * sigma + 1.0).sqrt()))?)?)
}

/// Guidance whose norm is bounded by a multiple of that of the prediction with the prompt; a limit of 0 bounds nothing.
fn renormalised(cond: &Tensor, uncond: &Tensor, scale: f64, limit: f64) -> Result<Tensor> {
    let guided = (uncond + ((cond - uncond)? * scale)?)?;
    if limit <= 0.0 {
        return Ok(guided);
    }
    let bound = (total(&cond.sqr()?)?.sqrt()? * limit)?;
    let factor = bound.div(&total(&guided.sqr()?)?.sqrt()?)?.minimum(1f32)?;
    Ok(guided.broadcast_mul(&factor)?)
}

/// Guidance with a strength for each latent, by its place in the batch from 0 to 1.
fn over_batch(cond: &Tensor, uncond: &Tensor, strength: impl Fn(f64) -> f64) -> Result<Tensor> {
    let batch = cond.dim(0)?;
    let place = |i: usize| if batch > 1 { i as f64 / (batch - 1) as f64 } else { 0.0 };
    let strengths: Vec<f32> = (0..batch).map(|i| strength(place(i)) as f32).collect();
    let strengths = Tensor::from_vec(strengths, (batch, 1, 1, 1), cond.device())?;
    Ok((uncond + (cond - uncond)?.broadcast_mul(&strengths)?)?)
}

/// The standard deviation of each latent, (B, 1, 1, 1), with Bessel's correction.
fn deviation(tensor: &Tensor) -> Result<Tensor> {
    let (_, c, h, w) = tensor.dims4()?;
    let count = (c * h * w) as f64;
    let mean = (total(tensor)? / count)?;
    Ok((total(&tensor.broadcast_sub(&mean)?.sqr()?)? / (count - 1.0))?.sqrt()?)
}

fn mahiro(denoised: &Tensor, cond: &Tensor, uncond: &Tensor, scale: f64) -> Result<Tensor> {
    let leap = (cond * scale)?;
    let signed_root = |t: &Tensor| -> Result<Tensor> { Ok((t.abs()?.sqrt()? * t.sign()?)?) };
    let merged = ((&leap + denoised)? / 2.0)?;
    let (a, b) = (signed_root(&(uncond * scale)?)?, signed_root(&merged)?);
    // The cosine is taken over channels, then averaged.
    let norm = |t: &Tensor| -> Result<Tensor> { Ok(t.sqr()?.sum(1)?.sqrt()?.maximum(1e-8f64)?) };
    let cosine = ((&a * &b)?.sum(1)? / (norm(&a)? * norm(&b)?)?)?;
    let similarity = 2.0 * (f64::from(cosine.mean_all()?.to_scalar::<f32>()?) + 1.0);
    Ok((((denoised * similarity)? + (leap * (4.0 - similarity))?)? / 4.0)?)
}

/// The factor that brings the second score closest to the first, (B, 1, 1, 1).
fn optimal_scale(positive: &Tensor, negative: &Tensor) -> Result<Tensor> {
    Ok((total(&(positive * negative)?)? / (total(&negative.sqr()?)? + 1e-8)?)?)
}

/// DifferentialDiffusion: of a soft mask, the part that is to be renewed at this noise level.
pub(crate) fn differential_mask(mask: &Tensor, sigma: f32, sigmas: &[f32], schedule: &dyn Schedule, strength: f64) -> Result<Tensor> {
    let (first, last) = (sigmas.first().copied().unwrap_or(sigma), sigmas.last().copied().unwrap_or(0.0));
    let to = schedule.timestep(schedule.sigma_min().max(last));
    let threshold = (schedule.timestep(sigma) - to) / (schedule.timestep(first) - to);
    let binary = mask.ge(threshold)?.to_dtype(mask.dtype())?;
    if strength != 0.0 && strength < 1.0 {
        return Ok(((binary * strength)? + (mask * (1.0 - strength))?)?);
    }
    Ok(binary)
}
