//! Ning et al. (2023), epsilon scaling: less predicted noise, against exposure bias.

use candle_core::Tensor;

use super::contract::{Call, ModelPatch};
use crate::Result;

/// Epsilon Scaling.
#[derive(Debug, Clone, Copy)]
pub struct EpsilonScaling {
    /// What the predicted noise is divided by.
    pub factor: f64,
}

impl ModelPatch for EpsilonScaling {
    fn after(&mut self, call: &mut Call<'_>, denoised: Tensor, _cond: &Tensor, _uncond: &Tensor) -> Result<Tensor> {
        let factor = if self.factor == 0.0 { 1e-9 } else { self.factor };
        Ok((call.x - ((call.x - denoised)? / factor)?)?)
    }
}
