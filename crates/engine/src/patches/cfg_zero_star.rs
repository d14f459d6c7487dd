//! Fan et al. (2025), CFG-Zero*: the prediction without the prompt is scaled to fit the one with it.

use candle_core::Tensor;

use super::contract::{Call, ModelPatch};
use crate::Result;
use crate::array::total;

/// CFGZeroStar.
#[derive(Debug, Clone, Copy)]
pub struct CfgZeroStar;

impl ModelPatch for CfgZeroStar {
    fn after(&mut self, call: &mut Call<'_>, denoised: Tensor, cond: &Tensor, uncond: &Tensor) -> Result<Tensor> {
        let alpha = optimal_scale(&(call.x - cond)?, &(call.x - uncond)?)?;
        let rest = uncond.broadcast_mul(&(alpha * -1.0)?.affine(1.0, 1.0)?)?;
        // out + uncond * (alpha - 1) + scale * uncond * (1 - alpha)
        Ok(((denoised - &rest)? + (rest * call.scale)?)?)
    }
}

/// The factor that brings the second score closest to the first, (B, 1, 1, 1).
fn optimal_scale(positive: &Tensor, negative: &Tensor) -> Result<Tensor> {
    Ok((total(&(positive * negative)?)? / (total(&negative.sqr()?)? + 1e-8)?)?)
}
