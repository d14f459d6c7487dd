//! Samplers that renoise the clean latent or follow the training's own steps: DDPM and LCM.

use std::sync::Arc;

use candle_core::Tensor;

use super::{report, to_d};
use crate::math::{divide, scale, sum};
use crate::noise::{NoiseSource, Stream};
use crate::{Denoiser, Error, Observer, Result, Sampler};

/// The steps of denoising diffusion models as trained: Ho et al. (2020), algorithm 2 (the reference's `sample_ddpm`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Ddpm;

impl Sampler for Ddpm {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        let mut noise = Stream::new(&x, seed);
        for (i, pair) in sigmas.windows(2).enumerate() {
            let (sigma, sigma_next) = (pair[0], pair[1]);
            let denoised = model.denoise(&x, sigma)?;
            report(observer, i, sigma, &x, &denoised)?;
            let eps = to_d(&x, sigma, &denoised)?;
            let preserved = divide(&x, (1.0 + sigma * sigma).sqrt())?;
            let (alpha_bar, alpha_bar_next) = (1.0 / (sigma * sigma + 1.0), 1.0 / (sigma_next * sigma_next + 1.0));
            let alpha = alpha_bar / alpha_bar_next;
            let removed = divide(&scale(&eps, 1.0 - alpha)?, (1.0 - alpha_bar).sqrt())?;
            x = scale(&(preserved - removed)?, (1.0 / alpha).sqrt())?;
            if sigma_next > 0.0 {
                let fresh = noise.noise(sigma, sigma_next)?;
                let deviation = ((1.0 - alpha) * (1.0 - alpha_bar_next) / (1.0 - alpha_bar)).sqrt();
                x = sum([(1.0, &x), (deviation, &fresh)])?;
            }
            if sigma_next != 0.0 {
                x = scale(&x, (1.0 + sigma_next * sigma_next).sqrt())?;
            }
        }
        Ok(x)
    }
}

/// Multistep consistency sampling, for latent consistency models: Luo et al. (2023), arXiv 2310.04378 (the reference's `sample_lcm`).
#[derive(Debug, Clone, Copy)]
pub struct Lcm {
    /// The factor of the fresh noise in the first step.
    pub s_noise: f64,
    /// The same in the last one; those between lie between.
    pub s_noise_end: f64,
    /// Cuts fresh noise off at so many of its standard deviations; 0 does not.
    pub noise_clip_std: f64,
}

impl Default for Lcm {
    fn default() -> Self {
        Self { s_noise: 1.0, s_noise_end: 1.0, noise_clip_std: 0.0 }
    }
}

impl Lcm {
    /// Fresh noise as a step uses it, the steps counted from 0.
    fn tamed(&self, mut noise: Tensor, step: usize, steps: usize) -> Result<Tensor> {
        if self.noise_clip_std > 0.0 {
            let bound = self.noise_clip_std * f64::from(deviation(&noise)?);
            noise = noise.clamp(-bound, bound)?;
        }
        let part = if steps > 1 { step as f64 / (steps - 1) as f64 } else { 0.0 };
        let factor = self.s_noise + (self.s_noise_end - self.s_noise) * part;
        Ok(if factor == 1.0 { noise } else { noise.affine(factor, 0.0)? })
    }
}

/// The standard deviation of all values, with Bessel's correction.
fn deviation(tensor: &Tensor) -> Result<f32> {
    let values = tensor.flatten_all()?.to_vec1::<f32>()?;
    let count = values.len() as f64;
    let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum();
    Ok((squares / (count - 1.0).max(1.0)).sqrt() as f32)
}

impl Sampler for Lcm {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        let mut noise = Stream::new(&x, seed);
        for (i, pair) in sigmas.windows(2).enumerate() {
            let denoised = model.denoise(&x, pair[0])?;
            report(observer, i, pair[0], &x, &denoised)?;
            x = denoised;
            if pair[1] > 0.0 {
                let fresh = self.tamed(noise.noise(pair[0], pair[1])?, i, sigmas.len() - 1)?;
                x = model.schedule().add_noise(pair[1], &fresh, &x, false)?;
            }
        }
        Ok(x)
    }
}

/// Resizes a latent `(B, C, H, W)` to a width and a height.
pub type Resize = dyn Fn(&Tensor, usize, usize) -> Result<Tensor> + Send + Sync;

/// [`Lcm`] for models that predict noise, growing the latent on the way (the node SamplerLCMUpscale). Resizing is passed in.
#[derive(Clone)]
pub struct LcmUpscale {
    /// How many times larger the latent becomes.
    pub scale_ratio: f64,
    /// Over how many steps it grows; half of them and one more if not given.
    pub steps: Option<usize>,
    /// How it is resized.
    pub resize: Arc<Resize>,
}

impl std::fmt::Debug for LcmUpscale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LcmUpscale").field("scale_ratio", &self.scale_ratio).field("steps", &self.steps).finish_non_exhaustive()
    }
}

impl Sampler for LcmUpscale {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        if !(self.scale_ratio > 0.0 && self.scale_ratio <= 100.0) {
            return Err(Error::msg(format!("a latent can grow up to a hundred times, not {} times", self.scale_ratio)));
        }
        let (height, width) = (x.dim(candle_core::D::Minus2)?, x.dim(candle_core::D::Minus1)?);
        let points = match self.steps {
            Some(steps) => (steps + 1).min(sigmas.len() + 1),
            None => (sigmas.len() / 2 + 1).max(2),
        };
        let ratios = crate::math::linspace_f64(1.0, self.scale_ratio, points);
        let mut noise = Stream::after_latent(&x, seed)?;
        for (i, pair) in sigmas.windows(2).enumerate() {
            let denoised = model.denoise(&x, pair[0])?;
            report(observer, i, pair[0], &x, &denoised)?;
            x = denoised;
            if let Some(ratio) = ratios.get(i + 1) {
                let grown = |size: usize| ((size as f64 * ratio).round_ties_even() as usize).max(1);
                x = (self.resize)(&x, grown(width), grown(height))?;
            }
            if pair[1] > 0.0 {
                let fresh = noise.next_of_shape(x.shape())?;
                x = sum([(1.0, &x), (pair[1], &fresh)])?;
            }
        }
        Ok(x)
    }
}
