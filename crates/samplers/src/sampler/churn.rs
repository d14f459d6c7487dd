//! Noise added before a step. Knows no sampler.

use candle_core::Tensor;

use crate::Result;
use crate::math::sum;
use crate::noise::{NoiseSource, Stream};

/// How much noise some samplers add before each step (Karras et al. 2022, algorithm 2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Churn {
    /// The amount of noise over the whole sampling; 0 for none.
    pub s_churn: f64,
    /// The lowest noise level at which noise is added.
    pub s_tmin: f64,
    /// The highest noise level at which noise is added.
    pub s_tmax: f64,
    /// The standard deviation of the noise.
    pub s_noise: f64,
}

impl Default for Churn {
    fn default() -> Self {
        Self { s_churn: 0.0, s_tmin: 0.0, s_tmax: f64::INFINITY, s_noise: 1.0 }
    }
}

impl Churn {
    /// Prepares the noise of one sampling.
    pub(super) fn start(self, x: &Tensor, sigmas: &[f32], seed: u64) -> Result<Churner> {
        let steps = sigmas.len().saturating_sub(1).max(1) as f64;
        let gamma = (self.s_churn / steps).min(std::f64::consts::SQRT_2 - 1.0) as f32;
        let noise = if gamma > 0.0 { Some(Stream::after_latent(x, seed)?) } else { None };
        Ok(Churner { options: self, gamma, noise })
    }
}

/// Adds noise before steps.
pub(super) struct Churner {
    options: Churn,
    gamma: f32,
    noise: Option<Stream>,
}

impl Churner {
    /// The raised noise level and the latent there.
    pub(super) fn churn(&mut self, x: Tensor, sigma: f32) -> Result<(f32, Tensor)> {
        let Some(noise) = self.noise.as_mut() else { return Ok((sigma, x)) };
        if !(self.options.s_tmin..=self.options.s_tmax).contains(&f64::from(sigma)) {
            return Ok((sigma, x));
        }
        let sigma_hat = sigma * (self.gamma + 1.0);
        let fresh = noise.noise(sigma, sigma_hat)?;
        let added = self.options.s_noise as f32 * (sigma_hat * sigma_hat - sigma * sigma).sqrt();
        Ok((sigma_hat, sum([(1.0, &x), (added, &fresh)])?))
    }
}
