//! Guidance whose norm over channels stays that of the prediction with the prompt.

use candle_core::Tensor;

use super::contract::{Call, ModelPatch};
use crate::Result;

/// CFGNorm.
#[derive(Debug, Clone, Copy)]
pub struct CfgNorm {
    /// What the result is multiplied by.
    pub strength: f64,
}

impl ModelPatch for CfgNorm {
    fn after(&mut self, _call: &mut Call<'_>, denoised: Tensor, cond: &Tensor, _uncond: &Tensor) -> Result<Tensor> {
        let norm = |t: &Tensor| -> Result<Tensor> { Ok(t.sqr()?.sum_keepdim(1)?.sqrt()?) };
        let scale = (norm(cond)? / (norm(&denoised)? + 1e-8)?)?.clamp(0f32, 1f32)?;
        Ok((denoised.broadcast_mul(&scale)? * self.strength)?)
    }
}
