//! Extended reverse-time stochastic differential equations.

use candle_core::Tensor;

use super::report;
use super::snr::LogSnr;
use crate::math::{divide, exp, pow, sum};
use crate::noise::{NoiseSource, Stream};
use crate::{Denoiser, Error, Observer, Result, Sampler};

/// How the noise of [`ErSde`] grows with the noise level.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NoiseScaler {
    /// The published choice at an eta of 1: `x * (exp(x^0.3) + 10)^eta`. At an eta of 0 it is an ordinary equation, and `s_noise` should be 0.
    ErSde {
        /// How much of the noise is exchanged.
        eta: f64,
    },
    /// The usual reverse-time equation: `x^(eta + 1)`. At an eta of 0 it is an ordinary equation, and `s_noise` should be 0.
    ReverseTime {
        /// How much of the noise is exchanged.
        eta: f64,
    },
}

impl NoiseScaler {
    fn at(self, x: f32) -> f32 {
        match self {
            Self::ErSde { eta: 1.0 } => x * (exp(pow(x, 0.3)) + 10.0),
            Self::ErSde { eta } => x * pow(exp(pow(x, 0.3)) + 10.0, eta as f32),
            Self::ReverseTime { eta } => pow(x, (eta + 1.0) as f32),
        }
    }
}

/// ER-SDE-Solver of up to third order: Cui et al. (2023), arXiv 2309.06169 (the reference's `sample_er_sde`).
#[derive(Debug, Clone, Copy)]
pub struct ErSde {
    /// The standard deviation of the noise; 0 for none.
    pub s_noise: f64,
    /// How the noise grows.
    pub scaler: NoiseScaler,
    /// The highest order, from 1 to 3.
    pub max_stage: usize,
}

impl Default for ErSde {
    fn default() -> Self {
        Self { s_noise: 1.0, scaler: NoiseScaler::ErSde { eta: 1.0 }, max_stage: 3 }
    }
}

impl Sampler for ErSde {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        if !(1..=3).contains(&self.max_stage) {
            return Err(Error::msg(format!("the stages of er_sde must lie between 1 and 3, not {}", self.max_stage)));
        }
        let snr = LogSnr::of(model);
        let s_noise = self.s_noise as f32;
        let sigmas = snr.finite(sigmas, model.schedule());
        // sigma / alpha at each level.
        let lambdas: Vec<f32> = sigmas.iter().map(|sigma| exp(-snr.lambda(*sigma))).collect();
        let mut noise = Stream::new(&x, seed);
        let (mut old, mut old_slope): (Option<Tensor>, Option<Tensor>) = (None, None);
        for (i, pair) in sigmas.windows(2).enumerate() {
            let (sigma, sigma_next) = (pair[0], pair[1]);
            let denoised = model.denoise(&x, sigma)?;
            report(observer, i, sigma, &x, &denoised)?;
            if sigma_next == 0.0 {
                x = denoised.clone();
                old = Some(denoised);
                continue;
            }
            let (from, to) = (lambdas[i], lambdas[i + 1]);
            let (alpha_s, alpha_t) = (sigma / from, sigma_next / to);
            let scale_to = self.scaler.at(to);
            let r = scale_to / self.scaler.at(from);
            x = sum([(alpha_t / alpha_s * r, &x), (alpha_t * (1.0 - r), &denoised)])?;

            if let Some(old) = old.as_ref().filter(|_| self.max_stage >= 2) {
                let dt = to - from;
                let Integrals { plain, weighted } = self.integrals(from, to);
                let slope = divide(&(&denoised - old)?, from - lambdas[i - 1])?;
                x = sum([(1.0, &x), (alpha_t * (dt + plain * scale_to), &slope)])?;
                if let Some(old_slope) = old_slope.as_ref().filter(|_| self.max_stage >= 3) {
                    let bend = divide(&(&slope - old_slope)?, (from - lambdas[i - 2]) / 2.0)?;
                    x = sum([(1.0, &x), (alpha_t * (dt * dt / 2.0 + weighted * scale_to), &bend)])?;
                }
                old_slope = Some(slope);
            }
            if s_noise > 0.0 {
                let fresh = noise.noise(sigma, sigma_next)?;
                let deviation = (to * to - from * from * (r * r)).sqrt();
                let deviation = if deviation.is_nan() { 0.0 } else { deviation };
                x = sum([(1.0, &x), (alpha_t * s_noise * deviation, &fresh)])?;
            }
            old = Some(denoised);
        }
        Ok(x)
    }
}

/// The integrals of the step's second and third stage.
struct Integrals {
    plain: f32,
    weighted: f32,
}

impl ErSde {
    /// Rectangles over the step.
    fn integrals(&self, from: f32, to: f32) -> Integrals {
        const POINTS: usize = 200;
        let width = -(to - from) / POINTS as f32;
        let (mut plain, mut weighted) = (0.0_f64, 0.0_f64);
        for k in 0..POINTS {
            let position = to + k as f32 * width;
            let scaled = self.scaler.at(position);
            plain += f64::from(1.0 / scaled);
            weighted += f64::from((position - from) / scaled);
        }
        Integrals { plain: plain as f32 * width, weighted: weighted as f32 * width }
    }
}
