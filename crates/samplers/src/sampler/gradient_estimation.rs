//! Euler steps along an estimate of the gradient from two derivatives.

use candle_core::Tensor;

use super::{report, to_d};
use crate::math::sum;
use crate::{Denoiser, Observer, Result, Sampler};

/// Gradient estimation: Permenter & Yuan (2024), "Interpreting and improving diffusion models from an optimization perspective" (the
/// reference's `sample_gradient_estimation`).
#[derive(Debug, Clone, Copy)]
pub struct GradientEstimation {
    /// How far the estimate goes beyond the newest derivative; 1 not at all.
    pub gamma: f64,
    /// Whether it steps along the unguided prediction (CFG++).
    pub cfg_pp: bool,
}

impl Default for GradientEstimation {
    fn default() -> Self {
        Self { gamma: 2.0, cfg_pp: false }
    }
}

impl Sampler for GradientEstimation {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], _seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        let mut old_d: Option<Tensor> = None;
        for (i, pair) in sigmas.windows(2).enumerate() {
            let (sigma, sigma_next) = (pair[0], pair[1]);
            let (denoised, along) = if self.cfg_pp {
                model.denoise_with_uncond(&x, sigma)?
            } else {
                let denoised = model.denoise(&x, sigma)?;
                (denoised.clone(), denoised)
            };
            let d = to_d(&x, sigma, &along)?;
            report(observer, i, sigma, &x, &denoised)?;
            if sigma_next == 0.0 {
                x = denoised;
            } else {
                let dt = sigma_next - sigma;
                x = if self.cfg_pp { sum([(1.0, &denoised), (sigma_next, &d)])? } else { sum([(1.0, &x), (dt, &d)])? };
                if let Some(old_d) = &old_d {
                    let difference = (&d - old_d)?;
                    x = sum([(1.0, &x), ((self.gamma - 1.0) as f32 * dt, &difference)])?;
                }
            }
            old_d = Some(d);
        }
        Ok(x)
    }
}
