//! Hong et al. (2022), self-attention guidance: away from the prediction for a latent that is blurred where the middle block looks.

use candle_core::Tensor;
use comfyd_imaging::resize::{Crop, Method};
use comfyd_models::backbone::Hooks;
use comfyd_models::unet::hooks::AttentionScores;

use super::contract::{Call, ModelPatch, Sampling, Side};
use crate::array::resize;
use crate::{Error, Result};

/// SelfAttentionGuidance.
#[derive(Debug, Clone, Default)]
pub struct SelfAttentionGuidance {
    /// How strong the effect is.
    pub scale: f64,
    /// How far the latent is blurred.
    pub blur_sigma: f64,
    scores: AttentionScores,
}

impl SelfAttentionGuidance {
    /// These settings.
    pub fn new(scale: f64, blur_sigma: f64) -> Self {
        Self { scale, blur_sigma, scores: AttentionScores::new() }
    }
}

impl ModelPatch for SelfAttentionGuidance {
    fn hooks(&mut self, _sampling: &Sampling<'_>) -> Option<Box<dyn Hooks>> {
        // Clones share what is kept; this sampling's are its own.
        self.scores = AttentionScores::new();
        Some(Box::new(self.scores.clone()))
    }

    fn needs_uncond(&self) -> bool {
        true
    }

    fn after(&mut self, call: &mut Call<'_>, denoised: Tensor, _cond: &Tensor, uncond: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = denoised.dims4()?;
        let (Some(scores), false) = (self.scores.scores(), h.min(w) <= 4) else { return Ok(denoised) };
        let degraded = degrade(uncond, &scores, self.blur_sigma)?;
        let noised = ((&degraded + call.x)? - uncond)?;
        let guess = call.predict(Side::Uncond, &noised)?;
        Ok((denoised + ((degraded - guess)? * self.scale)?)?)
    }
}

/// Places that get more attention than this in sum are blurred.
const THRESHOLD: f32 = 1.0;
/// Width of the blur's kernel.
const KERNEL: usize = 9;

/// `latent (B, C, H, W)` blurred where `scores (B * heads, N, N)` say.
fn degrade(latent: &Tensor, scores: &Tensor, sigma: f64) -> Result<Tensor> {
    let (b, _, h, w) = latent.dims4()?;
    let (slices, n, _) = scores.dims3()?;
    let heads = slices / b.max(1);
    let attention = scores.reshape((b, heads, n, n))?.mean(1)?.sum(1)?;
    let mask = attention.gt(THRESHOLD)?.to_dtype(latent.dtype())?;
    let rows = rows_of(h, w, n).ok_or_else(|| Error::msg("self-attention guidance cannot tell the shape of the attention"))?;
    let mask = resize(&mask.reshape((b, 1, rows, n / rows))?, w, h, Method::NearestExact, Crop::Disabled)?.to_device(latent.device())?;
    let blurred = blur(latent, sigma)?;
    let keep = latent.broadcast_mul(&mask.affine(-1.0, 1.0)?)?;
    Ok((blurred.broadcast_mul(&mask)? + keep)?)
}

/// The rows into which `n` places divide, nearest to the latent's aspect.
fn rows_of(h: usize, w: usize, n: usize) -> Option<usize> {
    let guess = ((h as f64 / w as f64) * n as f64).sqrt().round_ties_even() as usize;
    (0..(n as f64).sqrt() as usize / 2 + 1)
        .find_map(|i| [guess + i, guess.saturating_sub(i).max(1)].into_iter().find(|rows| *rows > 0 && n.is_multiple_of(*rows)))
}

/// A Gaussian blur of each channel; borders are mirrored.
fn blur(latent: &Tensor, sigma: f64) -> Result<Tensor> {
    let (shape, values) = crate::values(latent)?;
    let (h, w) = (shape[2], shape[3]);
    let half = KERNEL / 2;
    let weights: Vec<f32> = (0..KERNEL).map(|i| (-0.5 * ((i as f64 - half as f64) / sigma).powi(2)).exp() as f32).collect();
    let sum: f32 = weights.iter().sum();
    let weights: Vec<f32> = weights.iter().map(|weight| weight / sum).collect();
    let mirrored = |i: usize, offset: usize, length: usize| -> usize {
        let at = (i + offset) as i64 - half as i64;
        let at = if at < 0 { -at } else { at };
        let last = length as i64 - 1;
        (if at > last { 2 * last - at } else { at }).clamp(0, last) as usize
    };
    let mut out = Vec::with_capacity(values.len());
    for plane in values.chunks(h * w) {
        let mut across = vec![0f32; h * w];
        for y in 0..h {
            for x in 0..w {
                across[y * w + x] = weights.iter().enumerate().map(|(k, weight)| weight * plane[y * w + mirrored(x, k, w)]).sum();
            }
        }
        for y in 0..h {
            for x in 0..w {
                out.push(weights.iter().enumerate().map(|(k, weight)| weight * across[mirrored(y, k, h) * w + x]).sum());
            }
        }
    }
    Ok(crate::tensor(&shape, out)?.to_device(latent.device())?)
}
