//! Euler's method and its ancestral and CFG++ forms.

use candle_core::Tensor;

use super::ancestral::{FlowStep, ancestral_step};
use super::churn::Churn;
use super::snr::LogSnr;
use super::{is_flow, report, to_d};
use crate::math::{exp, sum};
use crate::noise::{NoiseSource, Stream};
use crate::{Denoiser, Observer, Result, Sampler};

/// Euler steps along the probability-flow equation: Karras et al. (2022), algorithm 2 (k-diffusion, `sample_euler`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Euler {
    /// Noise added before each step; none as default.
    pub churn: Churn,
    /// The reference's `ddim`: the same steps, but masked areas get noise of their own.
    pub fresh_inpaint_noise: bool,
}

impl Sampler for Euler {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        let mut churner = self.churn.start(&x, sigmas, seed)?;
        for (i, pair) in sigmas.windows(2).enumerate() {
            let (sigma_hat, churned) = churner.churn(x, pair[0])?;
            x = churned;
            let denoised = model.denoise(&x, sigma_hat)?;
            report(observer, i, pair[0], &x, &denoised)?;
            let d = to_d(&x, sigma_hat, &denoised)?;
            x = sum([(1.0, &x), (pair[1] - sigma_hat, &d)])?;
        }
        Ok(x)
    }

    fn fresh_inpaint_noise(&self) -> bool {
        self.fresh_inpaint_noise
    }
}

/// Euler steps that go further down and add noise back (k-diffusion, `sample_euler_ancestral`).
#[derive(Debug, Clone, Copy)]
pub struct EulerAncestral {
    /// How much of the noise is exchanged; 0 gives plain Euler steps.
    pub eta: f64,
    /// The standard deviation of the noise.
    pub s_noise: f64,
}

impl Default for EulerAncestral {
    fn default() -> Self {
        Self { eta: 1.0, s_noise: 1.0 }
    }
}

impl Sampler for EulerAncestral {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        let flow = is_flow(model);
        let (eta, s_noise) = (self.eta as f32, self.s_noise as f32);
        let mut noise = Stream::new(&x, seed);
        for (i, pair) in sigmas.windows(2).enumerate() {
            let (sigma, sigma_next) = (pair[0], pair[1]);
            let denoised = model.denoise(&x, sigma)?;
            report(observer, i, sigma, &x, &denoised)?;
            if sigma_next == 0.0 {
                x = denoised;
            } else if flow {
                let step = FlowStep::new(sigma, sigma_next, eta);
                let ratio = step.down / sigma;
                x = sum([(ratio, &x), (1.0 - ratio, &denoised)])?;
                if eta > 0.0 {
                    let fresh = noise.noise(sigma, sigma_next)?;
                    x = sum([(step.rescale, &x), (s_noise * step.renoise, &fresh)])?;
                }
            } else {
                let (down, up) = ancestral_step(sigma, sigma_next, eta);
                if down == 0.0 {
                    x = denoised;
                    continue;
                }
                let d = to_d(&x, sigma, &denoised)?;
                let fresh = noise.noise(sigma, sigma_next)?;
                x = sum([(1.0, &x), (down - sigma, &d), (s_noise * up, &fresh)])?;
            }
        }
        Ok(x)
    }
}

/// Euler steps with CFG++ (Chung et al. 2024): the clean latent is guided, the noise is the unguided prediction's. With an `eta` above 0,
/// steps are ancestral. The reference's `euler_cfg_pp` has 0 for both options.
#[derive(Debug, Clone, Copy)]
pub struct EulerAncestralCfgPp {
    /// How much of the noise is exchanged.
    pub eta: f64,
    /// The standard deviation of the noise.
    pub s_noise: f64,
}

impl Default for EulerAncestralCfgPp {
    fn default() -> Self {
        Self { eta: 1.0, s_noise: 1.0 }
    }
}

impl Sampler for EulerAncestralCfgPp {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        let snr = LogSnr::of(model);
        let (eta, s_noise) = (self.eta as f32, self.s_noise as f32);
        let mut noise = Stream::new(&x, seed);
        for (i, pair) in sigmas.windows(2).enumerate() {
            let (sigma, sigma_next) = (pair[0], pair[1]);
            let (denoised, uncond) = model.denoise_with_uncond(&x, sigma)?;
            report(observer, i, sigma, &x, &denoised)?;
            if sigma_next == 0.0 {
                x = denoised;
                continue;
            }
            let alpha_s = sigma * exp(snr.lambda(sigma));
            let alpha_t = sigma_next * exp(snr.lambda(sigma_next));
            let d = to_d(&x, sigma, &sum([(alpha_s, &uncond)])?)?;
            let (down, up) = ancestral_step(sigma / alpha_s, sigma_next / alpha_t, eta);
            x = sum([(alpha_t, &denoised), (alpha_t * down, &d)])?;
            if eta > 0.0 && s_noise > 0.0 {
                let fresh = noise.noise(sigma, sigma_next)?;
                x = sum([(1.0, &x), (alpha_t * s_noise * up, &fresh)])?;
            }
        }
        Ok(x)
    }
}

/// The alternative CFG++ of the node SamplerEulerCFG++: Euler steps whose derivative is taken from `x` moved by the guidance.
#[derive(Debug, Clone, Copy, Default)]
pub struct EulerCfgPpAlternative;

impl Sampler for EulerCfgPpAlternative {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], _seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        for (i, pair) in sigmas.windows(2).enumerate() {
            let (denoised, uncond) = model.denoise_with_uncond(&x, pair[0])?;
            report(observer, i, pair[0], &x, &denoised)?;
            let d = to_d(&((&x - &denoised)? + &uncond)?, pair[0], &denoised)?;
            x = sum([(1.0, &x), (pair[1] - pair[0], &d)])?;
        }
        Ok(x)
    }
}
