//! Mahiro's guidance: by how alike the predictions with and without guidance are.

use candle_core::Tensor;

use super::contract::{Call, ModelPatch};
use crate::Result;

/// Mahiro.
#[derive(Debug, Clone, Copy)]
pub struct Mahiro;

impl ModelPatch for Mahiro {
    fn after(&mut self, call: &mut Call<'_>, denoised: Tensor, cond: &Tensor, uncond: &Tensor) -> Result<Tensor> {
        let leap = (cond * call.scale)?;
        let signed_root = |t: &Tensor| -> Result<Tensor> { Ok((t.abs()?.sqrt()? * t.sign()?)?) };
        let merged = ((&leap + &denoised)? / 2.0)?;
        let (a, b) = (signed_root(&(uncond * call.scale)?)?, signed_root(&merged)?);
        // The cosine is taken over channels, then averaged.
        let norm = |t: &Tensor| -> Result<Tensor> { Ok(t.sqr()?.sum(1)?.sqrt()?.maximum(1e-8f64)?) };
        let cosine = ((&a * &b)?.sum(1)? / (norm(&a)? * norm(&b)?)?)?;
        let similarity = 2.0 * (f64::from(cosine.mean_all()?.to_scalar::<f32>()?) + 1.0);
        Ok((((denoised * similarity)? + (leap * (4.0 - similarity))?)? / 4.0)?)
    }
}
