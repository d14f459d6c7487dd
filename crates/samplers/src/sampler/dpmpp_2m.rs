//! DPM-Solver++(2M): one evaluation a step and the memory of the last one.

use candle_core::Tensor;

use super::report;
use crate::math::{exp, expm1, log, sum};
use crate::{Denoiser, Observer, Result, Sampler};

/// DPM-Solver++(2M): Lu et al. (2022), arXiv 2211.01095, algorithm 2 (k-diffusion, `sample_dpmpp_2m`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Dpmpp2m;

impl Sampler for Dpmpp2m {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], _seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        let mut old: Option<(Tensor, f32)> = None;
        for (i, pair) in sigmas.windows(2).enumerate() {
            let denoised = model.denoise(&x, pair[0])?;
            report(observer, i, pair[0], &x, &denoised)?;
            let (t, t_next) = (-log(pair[0]), -log(pair[1]));
            let h = t_next - t;
            let target = match &old {
                Some((old_denoised, t_last)) if pair[1] != 0.0 => {
                    let r = (t - t_last) / h;
                    let w = 1.0 / (2.0 * r);
                    sum([(1.0 + w, &denoised), (-w, old_denoised)])?
                }
                _ => denoised.clone(),
            };
            x = sum([(exp(-t_next) / exp(-t), &x), (-expm1(-h), &target)])?;
            old = Some((denoised, t));
        }
        Ok(x)
    }
}

/// [`Dpmpp2m`] with CFG++ (the reference's `sample_dpmpp_2m_cfg_pp`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Dpmpp2mCfgPp;

impl Sampler for Dpmpp2mCfgPp {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], _seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        let mut old: Option<(Tensor, f32)> = None;
        for (i, pair) in sigmas.windows(2).enumerate() {
            let (denoised, uncond) = model.denoise_with_uncond(&x, pair[0])?;
            report(observer, i, pair[0], &x, &denoised)?;
            let (t, t_next) = (-log(pair[0]), -log(pair[1]));
            let h = t_next - t;
            let kept = exp(-h);
            let correction = match &old {
                Some((old_uncond, t_last)) if pair[1] != 0.0 => {
                    let r = (t - t_last) / h;
                    let difference = (&denoised - old_uncond)?;
                    sum([(-kept, &uncond), (-(expm1(-h) * (1.0 / (2.0 * r))), &difference)])?
                }
                _ => sum([(-kept, &uncond)])?,
            };
            x = sum([(1.0, &denoised), (1.0, &correction), (kept, &x)])?;
            old = Some((uncond, t));
        }
        Ok(x)
    }
}
