//! DPM-Solver++(2M) and (3M) as stochastic differential equations. Their noise belongs to a path.

use candle_core::Tensor;

use super::report;
use super::snr::LogSnr;
use crate::math::{divide, exp, expm1, sum};
use crate::noise::NoiseSource;
use crate::{Denoiser, Observer, Result, Sampler};

/// How [`Dpmpp2mSde`] uses the last evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SolverType {
    /// As the midpoint method would.
    #[default]
    Midpoint,
    /// As Heun's method would.
    Heun,
}

impl SolverType {
    /// The type of this name in node inputs.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "midpoint" => Some(Self::Midpoint),
            "heun" => Some(Self::Heun),
            _ => None,
        }
    }
}

/// DPM-Solver++(2M) SDE (k-diffusion, `sample_dpmpp_2m_sde`).
#[derive(Debug, Clone, Copy)]
pub struct Dpmpp2mSde {
    /// How much of the noise is exchanged.
    pub eta: f64,
    /// The standard deviation of the noise.
    pub s_noise: f64,
    /// How the last evaluation is used.
    pub solver_type: SolverType,
}

impl Default for Dpmpp2mSde {
    fn default() -> Self {
        Self { eta: 1.0, s_noise: 1.0, solver_type: SolverType::Midpoint }
    }
}

impl Sampler for Dpmpp2mSde {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        let Some(mut noise) = super::brownian(&x, sigmas, seed)? else { return Ok(x) };
        let snr = LogSnr::of(model);
        let step = SdeStep { eta: self.eta as f32, s_noise: self.s_noise as f32 };
        let sigmas = snr.finite(sigmas, model.schedule());
        let mut old: Option<(Tensor, f32)> = None;
        for (i, pair) in sigmas.windows(2).enumerate() {
            let (sigma, sigma_next) = (pair[0], pair[1]);
            let denoised = model.denoise(&x, sigma)?;
            report(observer, i, sigma, &x, &denoised)?;
            if sigma_next == 0.0 {
                x = denoised;
                continue;
            }
            let Lengths { h, h_eta, alpha_t } = step.lengths(snr, sigma, sigma_next, self.eta);
            let kept = sigma_next / sigma * exp(-h * step.eta);
            x = sum([(kept, &x), (alpha_t * -expm1(-h_eta), &denoised)])?;
            if let Some((old_denoised, h_last)) = &old {
                let inverse_r = 1.0 / (h_last / h);
                let difference = (&denoised - old_denoised)?;
                let weight = match self.solver_type {
                    SolverType::Heun => alpha_t * (-expm1(-h_eta) / -h_eta + 1.0) * inverse_r,
                    SolverType::Midpoint => 0.5 * alpha_t * -expm1(-h_eta) * inverse_r,
                };
                x = sum([(1.0, &x), (weight, &difference)])?;
            }
            x = step.add_noise(x, &mut noise, sigma, sigma_next, h)?;
            old = Some((denoised, h));
        }
        Ok(x)
    }
}

/// DPM-Solver++(3M) SDE (k-diffusion, `sample_dpmpp_3m_sde`).
#[derive(Debug, Clone, Copy)]
pub struct Dpmpp3mSde {
    /// How much of the noise is exchanged.
    pub eta: f64,
    /// The standard deviation of the noise.
    pub s_noise: f64,
}

impl Default for Dpmpp3mSde {
    fn default() -> Self {
        Self { eta: 1.0, s_noise: 1.0 }
    }
}

impl Sampler for Dpmpp3mSde {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        let Some(mut noise) = super::brownian(&x, sigmas, seed)? else { return Ok(x) };
        let snr = LogSnr::of(model);
        let step = SdeStep { eta: self.eta as f32, s_noise: self.s_noise as f32 };
        let sigmas = snr.finite(sigmas, model.schedule());
        // The last evaluation and the length of the step from there, and the same of the one before.
        let mut last: Option<(Tensor, f32)> = None;
        let mut before: Option<(Tensor, f32)> = None;
        for (i, pair) in sigmas.windows(2).enumerate() {
            let (sigma, sigma_next) = (pair[0], pair[1]);
            let denoised = model.denoise(&x, sigma)?;
            report(observer, i, sigma, &x, &denoised)?;
            if sigma_next == 0.0 {
                x = denoised;
                continue;
            }
            let Lengths { h, h_eta, alpha_t } = step.lengths(snr, sigma, sigma_next, self.eta);
            let kept = sigma_next / sigma * exp(-h * step.eta);
            x = sum([(kept, &x), (alpha_t * -expm1(-h_eta), &denoised)])?;
            let phi_2 = expm1(-h_eta) / h_eta + 1.0;
            if let (Some((denoised_1, h_1)), Some((denoised_2, h_2))) = (&last, &before) {
                let (r0, r1) = (h_1 / h, h_2 / h);
                let d1_0 = divide(&(&denoised - denoised_1)?, r0)?;
                let d1_1 = divide(&(denoised_1 - denoised_2)?, r1)?;
                let difference = (&d1_0 - &d1_1)?;
                let d1 = (&d1_0 + divide(&crate::math::scale(&difference, r0)?, r0 + r1)?)?;
                let d2 = divide(&difference, r0 + r1)?;
                let phi_3 = phi_2 / h_eta - 0.5;
                x = sum([(1.0, &x), (alpha_t * phi_2, &d1), (-(alpha_t * phi_3), &d2)])?;
            } else if let Some((denoised_1, h_1)) = &last {
                let d = divide(&(&denoised - denoised_1)?, h_1 / h)?;
                x = sum([(1.0, &x), (alpha_t * phi_2, &d)])?;
            }
            x = step.add_noise(x, &mut noise, sigma, sigma_next, h)?;
            before = last.replace((denoised, h));
        }
        Ok(x)
    }
}

/// What the steps of both orders share.
#[derive(Debug, Clone, Copy)]
struct SdeStep {
    eta: f32,
    s_noise: f32,
}

/// A step's length in half the logarithm of the signal-to-noise ratio, the same with noise, and the data's scale after it.
struct Lengths {
    h: f32,
    h_eta: f32,
    alpha_t: f32,
}

impl SdeStep {
    fn lengths(self, snr: LogSnr, sigma: f32, sigma_next: f32, eta: f64) -> Lengths {
        let (lambda_s, lambda_t) = (snr.lambda(sigma), snr.lambda(sigma_next));
        let h = lambda_t - lambda_s;
        Lengths { h, h_eta: h * (eta + 1.0) as f32, alpha_t: sigma_next * exp(lambda_t) }
    }

    fn add_noise(self, x: Tensor, noise: &mut dyn NoiseSource, sigma: f32, sigma_next: f32, h: f32) -> Result<Tensor> {
        if self.eta <= 0.0 || self.s_noise <= 0.0 {
            return Ok(x);
        }
        let fresh = noise.noise(sigma, sigma_next)?;
        sum([(1.0, &x), (sigma_next * (-expm1(-2.0 * h * self.eta)).sqrt() * self.s_noise, &fresh)])
    }
}
