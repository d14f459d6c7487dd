//! Heun's method and a second-order form with more evaluations.

use candle_core::Tensor;

use super::churn::Churn;
use super::{report, to_d};
use crate::math::sum;
use crate::{Denoiser, Observer, Result, Sampler};

/// Heun steps: Karras et al. (2022), algorithm 2 (k-diffusion, `sample_heun`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Heun {
    /// Noise added before each step; none as default.
    pub churn: Churn,
}

impl Sampler for Heun {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        let mut churner = self.churn.start(&x, sigmas, seed)?;
        for (i, pair) in sigmas.windows(2).enumerate() {
            let sigma_next = pair[1];
            let (sigma_hat, churned) = churner.churn(x, pair[0])?;
            x = churned;
            let denoised = model.denoise(&x, sigma_hat)?;
            let d = to_d(&x, sigma_hat, &denoised)?;
            report(observer, i, pair[0], &x, &denoised)?;
            let dt = sigma_next - sigma_hat;
            let euler = sum([(1.0, &x), (dt, &d)])?;
            if sigma_next == 0.0 {
                x = euler;
                continue;
            }
            let denoised_2 = model.denoise(&euler, sigma_next)?;
            let d_2 = to_d(&euler, sigma_next, &denoised_2)?;
            let d_mean = ((d + d_2)? / 2.0)?;
            x = sum([(1.0, &x), (dt, &d_mean)])?;
        }
        Ok(x)
    }
}

/// Heun++: derivatives at up to three noise levels, weighted by the level (Carzit's sampler; the reference's `sample_heunpp2`).
#[derive(Debug, Clone, Copy, Default)]
pub struct HeunPp2 {
    /// Noise added before each step; none as default.
    pub churn: Churn,
}

impl Sampler for HeunPp2 {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        let mut churner = self.churn.start(&x, sigmas, seed)?;
        let (Some(first), Some(end)) = (sigmas.first().copied(), sigmas.last().copied()) else { return Ok(x) };
        for (i, pair) in sigmas.windows(2).enumerate() {
            let sigma_next = pair[1];
            let (sigma_hat, churned) = churner.churn(x, pair[0])?;
            x = churned;
            let denoised = model.denoise(&x, sigma_hat)?;
            let d = to_d(&x, sigma_hat, &denoised)?;
            report(observer, i, pair[0], &x, &denoised)?;
            let dt = sigma_next - sigma_hat;
            let x_2 = sum([(1.0, &x), (dt, &d)])?;
            let sigma_after = match sigmas.get(i + 2) {
                Some(after) if sigma_next != end => *after,
                _ => {
                    x = x_2;
                    continue;
                }
            };
            let denoised_2 = model.denoise(&x_2, sigma_next)?;
            let d_2 = to_d(&x_2, sigma_next, &denoised_2)?;
            let d_mean = if sigma_after == end {
                let w_2 = sigma_next / (2.0 * first);
                sum([(1.0 - w_2, &d), (w_2, &d_2)])?
            } else {
                let x_3 = sum([(1.0, &x_2), (sigma_after - sigma_next, &d_2)])?;
                let denoised_3 = model.denoise(&x_3, sigma_after)?;
                let d_3 = to_d(&x_3, sigma_after, &denoised_3)?;
                let (w_2, w_3) = (sigma_next / (3.0 * first), sigma_after / (3.0 * first));
                sum([(1.0 - w_2 - w_3, &d), (w_2, &d_2), (w_3, &d_3)])?
            };
            x = sum([(1.0, &x), (dt, &d_mean)])?;
        }
        Ok(x)
    }
}
