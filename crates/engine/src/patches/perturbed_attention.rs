//! Ahn et al. (2024), perturbed-attention guidance: away from a prediction without self-attention in the middle.

use candle_core::Tensor;
use comfyd_models::unet::hooks::PerturbedAttention;

use super::contract::{Call, ModelPatch, Side};
use crate::Result;

/// PerturbedAttentionGuidance.
#[derive(Debug, Clone, Copy)]
pub struct PerturbedAttentionGuidance {
    /// How strong the effect is.
    pub scale: f64,
}

impl ModelPatch for PerturbedAttentionGuidance {
    fn after(&mut self, call: &mut Call<'_>, denoised: Tensor, cond: &Tensor, _uncond: &Tensor) -> Result<Tensor> {
        if self.scale == 0.0 {
            return Ok(denoised);
        }
        let guess = call.predict_hooked(Side::Cond, PerturbedAttention)?;
        Ok((denoised + ((cond - guess)? * self.scale)?)?)
    }
}
