//! DPM-Solver++(2S): two evaluations a step, ancestral.

use candle_core::Tensor;

use super::ancestral::{FlowStep, ancestral_step};
use super::{is_flow, report, to_d};
use crate::math::{exp, expm1, log, sum};
use crate::noise::{NoiseSource, Stream};
use crate::{Denoiser, Observer, Result, Sampler};

/// DPM-Solver++(2S) with ancestral noise: Lu et al. (2022), arXiv 2211.01095 (k-diffusion, `sample_dpmpp_2s_ancestral`).
#[derive(Debug, Clone, Copy)]
pub struct Dpmpp2sAncestral {
    /// How much of the noise is exchanged.
    pub eta: f64,
    /// The standard deviation of the noise.
    pub s_noise: f64,
}

impl Default for Dpmpp2sAncestral {
    fn default() -> Self {
        Self { eta: 1.0, s_noise: 1.0 }
    }
}

impl Sampler for Dpmpp2sAncestral {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        let flow = is_flow(model);
        let (eta, s_noise) = (self.eta as f32, self.s_noise as f32);
        let mut noise = Stream::new(&x, seed);
        for (i, pair) in sigmas.windows(2).enumerate() {
            let (sigma, sigma_next) = (pair[0], pair[1]);
            let denoised = model.denoise(&x, sigma)?;
            report(observer, i, sigma, &x, &denoised)?;
            if sigma_next == 0.0 {
                let d = to_d(&x, sigma, &denoised)?;
                x = sum([(1.0, &x), (-sigma, &d)])?;
            } else if flow {
                let step = FlowStep::new(sigma, sigma_next, eta);
                x = flow_step(model, &x, &denoised, sigma, step.down)?;
                if eta > 0.0 {
                    let fresh = noise.noise(sigma, sigma_next)?;
                    x = sum([(step.rescale, &x), (s_noise * step.renoise, &fresh)])?;
                }
            } else {
                let (down, up) = ancestral_step(sigma, sigma_next, eta);
                x = if down == 0.0 {
                    let d = to_d(&x, sigma, &denoised)?;
                    sum([(1.0, &x), (down - sigma, &d)])?
                } else {
                    let half = Half::new(sigma, down);
                    let x_2 = sum([(half.ratio, &x), (-half.growth, &denoised)])?;
                    let denoised_2 = model.denoise(&x_2, half.sigma)?;
                    let whole = Whole::new(sigma, down);
                    sum([(whole.ratio, &x), (-whole.growth, &denoised_2)])?
                };
                let fresh = noise.noise(sigma, sigma_next)?;
                x = sum([(1.0, &x), (s_noise * up, &fresh)])?;
            }
        }
        Ok(x)
    }
}

/// The step of a rectified flow, through the level halfway in the signal-to-noise ratio's logarithm.
fn flow_step(model: &mut dyn Denoiser, x: &Tensor, denoised: &Tensor, sigma: f32, down: f32) -> Result<Tensor> {
    let lambda = |sigma: f32| log((1.0 - sigma) / sigma);
    let sigma_s = if sigma == 1.0 {
        0.9999
    } else {
        let (from, to) = (lambda(sigma), lambda(down));
        1.0 / (exp(from + 0.5 * (to - from)) + 1.0)
    };
    let ratio = sigma_s / sigma;
    let u = sum([(ratio, x), (1.0 - ratio, denoised)])?;
    let denoised_2 = model.denoise(&u, sigma_s)?;
    let ratio = down / sigma;
    sum([(ratio, x), (1.0 - ratio, &denoised_2)])
}

/// [`Dpmpp2sAncestral`] with CFG++ (the reference's `sample_dpmpp_2s_ancestral_cfg_pp`).
#[derive(Debug, Clone, Copy)]
pub struct Dpmpp2sAncestralCfgPp {
    /// How much of the noise is exchanged.
    pub eta: f64,
    /// The standard deviation of the noise.
    pub s_noise: f64,
}

impl Default for Dpmpp2sAncestralCfgPp {
    fn default() -> Self {
        Self { eta: 1.0, s_noise: 1.0 }
    }
}

impl Sampler for Dpmpp2sAncestralCfgPp {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        let (eta, s_noise) = (self.eta as f32, self.s_noise as f32);
        let mut noise = Stream::new(&x, seed);
        for (i, pair) in sigmas.windows(2).enumerate() {
            let (sigma, sigma_next) = (pair[0], pair[1]);
            let (denoised, uncond) = model.denoise_with_uncond(&x, sigma)?;
            let (down, up) = ancestral_step(sigma, sigma_next, eta);
            report(observer, i, sigma, &x, &denoised)?;
            x = if down == 0.0 {
                let d = to_d(&x, sigma, &uncond)?;
                sum([(1.0, &denoised), (down, &d)])?
            } else {
                let half = Half::new(sigma, down);
                let guided = (&x + (&denoised - &uncond)?)?;
                let x_2 = sum([(half.ratio, &guided), (-half.growth, &denoised)])?;
                let (denoised_2, uncond_2) = model.denoise_with_uncond(&x_2, half.sigma)?;
                let whole = Whole::new(sigma, down);
                // The reference takes the first clean latent and the second unguided one here.
                let guided = (&x + (&denoised - &uncond_2)?)?;
                sum([(whole.ratio, &guided), (-whole.growth, &denoised_2)])?
            };
            if sigma_next > 0.0 {
                let fresh = noise.noise(sigma, sigma_next)?;
                x = sum([(1.0, &x), (s_noise * up, &fresh)])?;
            }
        }
        Ok(x)
    }
}

/// The way to the level halfway in logarithms.
struct Half {
    sigma: f32,
    ratio: f32,
    growth: f32,
}

impl Half {
    fn new(sigma: f32, down: f32) -> Self {
        let (t, t_next) = (-log(sigma), -log(down));
        let h = t_next - t;
        let middle = exp(-(t + 0.5 * h));
        Self { sigma: middle, ratio: middle / exp(-t), growth: expm1(-h * 0.5) }
    }
}

/// The way down.
struct Whole {
    ratio: f32,
    growth: f32,
}

impl Whole {
    fn new(sigma: f32, down: f32) -> Self {
        let (t, t_next) = (-log(sigma), -log(down));
        Self { ratio: exp(-t_next) / exp(-t), growth: expm1(-(t_next - t)) }
    }
}
