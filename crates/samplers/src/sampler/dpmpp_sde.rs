//! DPM-Solver++ as a stochastic differential equation.

use candle_core::Tensor;

use super::ancestral::ancestral_step;
use super::report;
use super::snr::LogSnr;
use crate::math::{exp, expm1, log, sum};
use crate::noise::NoiseSource;
use crate::{Denoiser, Observer, Result, Sampler};

/// DPM-Solver++ as a stochastic differential equation, two evaluations a step (k-diffusion, `sample_dpmpp_sde`). Its noise belongs to a path.
#[derive(Debug, Clone, Copy)]
pub struct DpmppSde {
    /// How much of the noise is exchanged.
    pub eta: f64,
    /// The standard deviation of the noise.
    pub s_noise: f64,
    /// How far on the way the second evaluation is.
    pub r: f64,
}

impl Default for DpmppSde {
    fn default() -> Self {
        Self { eta: 1.0, s_noise: 1.0, r: 0.5 }
    }
}

impl Sampler for DpmppSde {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        let Some(mut noise) = super::brownian(&x, sigmas, seed)? else { return Ok(x) };
        let snr = LogSnr::of(model);
        let (eta, s_noise, r) = (self.eta as f32, self.s_noise as f32, self.r as f32);
        let noisy = eta > 0.0 && s_noise > 0.0;
        let factor = 1.0 / (2.0 * self.r);
        let sigmas = snr.finite(sigmas, model.schedule());
        for (i, pair) in sigmas.windows(2).enumerate() {
            let (sigma, sigma_next) = (pair[0], pair[1]);
            let denoised = model.denoise(&x, sigma)?;
            report(observer, i, sigma, &x, &denoised)?;
            if sigma_next == 0.0 {
                x = denoised;
                continue;
            }
            let (lambda_s, lambda_t) = (snr.lambda(sigma), snr.lambda(sigma_next));
            let lambda_s_1 = lambda_s + r * (lambda_t - lambda_s);
            let sigma_s_1 = snr.sigma(lambda_s_1);
            let (alpha_s, alpha_s_1, alpha_t) = (sigma * exp(lambda_s), sigma_s_1 * exp(lambda_s_1), sigma_next * exp(lambda_t));

            // The first evaluation's point.
            let (down, up) = ancestral_step(exp(-lambda_s), exp(-lambda_s_1), eta);
            let h = -log(down) - lambda_s;
            let mut x_2 = sum([(alpha_s_1 / alpha_s * exp(-h), &x), (-(alpha_s_1 * expm1(-h)), &denoised)])?;
            if noisy {
                let fresh = noise.noise(sigma, sigma_s_1)?;
                x_2 = sum([(1.0, &x_2), (alpha_s_1 * s_noise * up, &fresh)])?;
            }
            let denoised_2 = model.denoise(&x_2, sigma_s_1)?;

            // The step.
            let (down, up) = ancestral_step(exp(-lambda_s), exp(-lambda_t), eta);
            let h = -log(down) - lambda_s;
            let mean = sum([((1.0 - factor) as f32, &denoised), (factor as f32, &denoised_2)])?;
            x = sum([(alpha_t / alpha_s * exp(-h), &x), (-(alpha_t * expm1(-h)), &mean)])?;
            if noisy {
                let fresh = noise.noise(sigma, sigma_next)?;
                x = sum([(1.0, &x), (alpha_t * s_noise * up, &fresh)])?;
            }
        }
        Ok(x)
    }
}
