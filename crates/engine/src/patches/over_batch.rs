//! Guidance with a strength for each latent of the batch.

use candle_core::Tensor;

use super::contract::{Call, ModelPatch};
use crate::Result;

/// VideoLinearCFGGuidance and VideoTriangleCFGGuidance: the strength grows from the first latent of the batch on.
#[derive(Debug, Clone, Copy)]
pub struct CfgOverBatch {
    /// The weakest guidance.
    pub min: f64,
    /// Whether it grows to the middle only and falls again.
    pub triangle: bool,
}

impl CfgOverBatch {
    /// The strength at a place in the batch from 0 to 1.
    fn strength(&self, scale: f64, place: f64) -> f64 {
        if self.triangle {
            let wave = 2.0 * (place - (place + 0.5).floor()).abs();
            return wave * (scale - self.min) + self.min;
        }
        self.min + (scale - self.min) * place
    }
}

impl ModelPatch for CfgOverBatch {
    fn guide(&mut self, call: &mut Call<'_>, cond: &Tensor, uncond: &Tensor) -> Result<Option<Tensor>> {
        let batch = cond.dim(0)?;
        let place = |i: usize| if batch > 1 { i as f64 / (batch - 1) as f64 } else { 0.0 };
        let strengths: Vec<f32> = (0..batch).map(|i| self.strength(call.scale, place(i)) as f32).collect();
        let strengths = Tensor::from_vec(strengths, (batch, 1, 1, 1), cond.device())?;
        Ok(Some((uncond + (cond - uncond)?.broadcast_mul(&strengths)?)?))
    }
}
