//! Refined exponential solver, multistep.

use candle_core::Tensor;

use super::ancestral::ancestral_step;
use super::{report, to_d};
use crate::math::{exp, expm1, log, scale, sum};
use crate::noise::{NoiseSource, Stream};
use crate::{Denoiser, Observer, Result, Sampler};

/// Second-order refined exponential multistep solver: Zhang et al. (2023), arXiv 2308.02157 (the reference's `res_multistep` family).
#[derive(Debug, Clone, Copy)]
pub struct ResMultistep {
    /// How much of the noise is exchanged; 0 unless ancestral.
    pub eta: f64,
    /// The standard deviation of the noise.
    pub s_noise: f64,
    /// Whether it steps along the unguided prediction (CFG++).
    pub cfg_pp: bool,
}

impl Default for ResMultistep {
    fn default() -> Self {
        Self { eta: 0.0, s_noise: 1.0, cfg_pp: false }
    }
}

impl Sampler for ResMultistep {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        let (eta, s_noise) = (self.eta as f32, self.s_noise as f32);
        let mut noise = Stream::new(&x, seed);
        // The last prediction stepped along, the level stepped down to, and the level before that.
        let mut old: Option<(Tensor, f32, f32)> = None;
        for (i, pair) in sigmas.windows(2).enumerate() {
            let (sigma, sigma_next) = (pair[0], pair[1]);
            let (denoised, along) = if self.cfg_pp {
                model.denoise_with_uncond(&x, sigma)?
            } else {
                let denoised = model.denoise(&x, sigma)?;
                (denoised.clone(), denoised)
            };
            let (down, up) = ancestral_step(sigma, sigma_next, eta);
            report(observer, i, sigma, &x, &denoised)?;
            match &old {
                Some((old_along, old_down, sigma_before)) if down != 0.0 => {
                    let (t, t_old, t_next, t_before) = (-log(sigma), -log(*old_down), -log(down), -log(*sigma_before));
                    let h = t_next - t;
                    let c2 = (t_before - t_old) / h;
                    let (phi1, phi2) = phi(-h);
                    let b1 = number_or_zero(phi1 - phi2 / c2);
                    let b2 = number_or_zero(phi2 / c2);
                    if self.cfg_pp {
                        x = (&x + (&denoised - &along)?)?;
                    }
                    let step = sum([(b1, &along), (b2, old_along)])?;
                    x = sum([(exp(-h), &x), (h, &step)])?;
                }
                _ => {
                    let d = to_d(&x, sigma, &along)?;
                    x = if self.cfg_pp { sum([(1.0, &denoised), (down, &d)])? } else { sum([(1.0, &x), (down - sigma, &d)])? };
                }
            }
            if sigma_next > 0.0 {
                let fresh = noise.noise(sigma, sigma_next)?;
                x = (x + scale(&fresh, s_noise * up)?)?;
            }
            old = Some((along, down, sigma));
        }
        Ok(x)
    }
}

/// The first two phi functions of exponential integrators.
fn phi(t: f32) -> (f32, f32) {
    let phi1 = expm1(t) / t;
    (phi1, (phi1 - 1.0) / t)
}

fn number_or_zero(value: f32) -> f32 {
    if value.is_nan() { 0.0 } else { value.clamp(f32::MIN, f32::MAX) }
}
