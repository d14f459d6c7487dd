//! DPM-Solver-2 steps through the geometric mean of two noise levels.

use candle_core::Tensor;

use super::ancestral::{FlowStep, ancestral_step};
use super::churn::Churn;
use super::{is_flow, report, to_d};
use crate::math::{exp, lerp, log, sum};
use crate::noise::{NoiseSource, Stream};
use crate::{Denoiser, Observer, Result, Sampler};

/// Second-order steps after DPM-Solver-2 (Lu et al. 2022) and Karras et al. (2022), algorithm 2 (k-diffusion, `sample_dpm_2`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Dpm2 {
    /// Noise added before each step; none as default.
    pub churn: Churn,
}

impl Sampler for Dpm2 {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        let mut churner = self.churn.start(&x, sigmas, seed)?;
        for (i, pair) in sigmas.windows(2).enumerate() {
            let (sigma_hat, churned) = churner.churn(x, pair[0])?;
            x = churned;
            let denoised = model.denoise(&x, sigma_hat)?;
            report(observer, i, pair[0], &x, &denoised)?;
            x = midpoint_step(model, &x, &denoised, sigma_hat, pair[1])?;
        }
        Ok(x)
    }
}

/// [`Dpm2`] going further down and adding noise back (k-diffusion, `sample_dpm_2_ancestral`).
#[derive(Debug, Clone, Copy)]
pub struct Dpm2Ancestral {
    /// How much of the noise is exchanged.
    pub eta: f64,
    /// The standard deviation of the noise.
    pub s_noise: f64,
}

impl Default for Dpm2Ancestral {
    fn default() -> Self {
        Self { eta: 1.0, s_noise: 1.0 }
    }
}

impl Sampler for Dpm2Ancestral {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        let flow = is_flow(model);
        let (eta, s_noise) = (self.eta as f32, self.s_noise as f32);
        let mut noise = Stream::new(&x, seed);
        for (i, pair) in sigmas.windows(2).enumerate() {
            let (sigma, sigma_next) = (pair[0], pair[1]);
            let denoised = model.denoise(&x, sigma)?;
            report(observer, i, sigma, &x, &denoised)?;
            let (down, rescale, up) = if flow {
                let step = FlowStep::new(sigma, sigma_next, eta);
                (step.down, step.rescale, step.renoise)
            } else {
                let (down, up) = ancestral_step(sigma, sigma_next, eta);
                (down, 1.0, up)
            };
            x = midpoint_step(model, &x, &denoised, sigma, down)?;
            if down != 0.0 {
                let fresh = noise.noise(sigma, sigma_next)?;
                x = sum([(rescale, &x), (s_noise * up, &fresh)])?;
            }
        }
        Ok(x)
    }
}

/// From `sigma` to `sigma_next` along the derivative halfway in logarithms; an Euler step where there is no such level.
fn midpoint_step(model: &mut dyn Denoiser, x: &Tensor, denoised: &Tensor, sigma: f32, sigma_next: f32) -> Result<Tensor> {
    let d = to_d(x, sigma, denoised)?;
    if sigma_next == 0.0 {
        return sum([(1.0, x), (sigma_next - sigma, &d)]);
    }
    let sigma_mid = exp(lerp(log(sigma), log(sigma_next), 0.5));
    let x_2 = sum([(1.0, x), (sigma_mid - sigma, &d)])?;
    let denoised_2 = model.denoise(&x_2, sigma_mid)?;
    let d_2 = to_d(&x_2, sigma_mid, &denoised_2)?;
    sum([(1.0, x), (sigma_next - sigma, &d_2)])
}
