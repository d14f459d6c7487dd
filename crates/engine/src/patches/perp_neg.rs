//! Armandpour et al. (2023), Perp-Neg: only what is perpendicular in the negative prompt counts.

use candle_core::Tensor;

use super::contract::{Call, ModelPatch, Side};
use crate::{Conditioning, Result};

/// PerpNeg (deprecated; the guider replaces it).
#[derive(Debug, Clone)]
pub struct PerpNeg {
    /// The conditioning of an empty prompt.
    pub empty: Conditioning,
    /// The strength of the negative prompt.
    pub neg_scale: f64,
}

impl ModelPatch for PerpNeg {
    fn guide(&mut self, call: &mut Call<'_>, cond: &Tensor, uncond: &Tensor) -> Result<Option<Tensor>> {
        let empty = call.predict(Side::Other(&self.empty), call.x)?;
        Ok(Some(perpendicular(cond, uncond, &empty, self.neg_scale, call.scale)?))
    }
}

/// Guidance between the predictions for three prompts.
pub(crate) fn perpendicular(positive: &Tensor, negative: &Tensor, empty: &Tensor, neg_scale: f64, scale: f64) -> Result<Tensor> {
    let (pos, neg) = ((positive - empty)?, (negative - empty)?);
    let along = f64::from((&neg * &pos)?.sum_all()?.to_scalar::<f32>()?);
    let squared = f64::from(pos.sqr()?.sum_all()?.to_scalar::<f32>()?);
    let perpendicular = (neg - (&pos * (along / squared))?)?;
    Ok((empty + ((pos - (perpendicular * neg_scale)?)? * scale)?)?)
}
