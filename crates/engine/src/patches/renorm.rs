//! Lumina's guidance: below a noise level no longer than the prediction with the prompt allows, above it none.

use candle_core::Tensor;

use super::contract::{Call, ModelPatch};
use crate::Result;
use crate::array::total;

/// RenormCFG.
#[derive(Debug, Clone, Copy)]
pub struct RenormCfg {
    /// Guides below this noise level.
    pub truncation: f64,
    /// The longest result as a multiple of the prediction with the prompt; 0 bounds nothing.
    pub limit: f64,
}

impl ModelPatch for RenormCfg {
    fn guide(&mut self, call: &mut Call<'_>, cond: &Tensor, uncond: &Tensor) -> Result<Option<Tensor>> {
        if f64::from(call.sigma) >= self.truncation {
            return Ok(Some(cond.clone()));
        }
        let guided = (uncond + ((cond - uncond)? * call.scale)?)?;
        if self.limit <= 0.0 {
            return Ok(Some(guided));
        }
        let bound = (total(&cond.sqr()?)?.sqrt()? * self.limit)?;
        let factor = bound.div(&total(&guided.sqr()?)?.sqrt()?)?.minimum(1f32)?;
        Ok(Some(guided.broadcast_mul(&factor)?))
    }
}
