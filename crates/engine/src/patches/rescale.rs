//! Lin et al. (2023): guidance keeps the standard deviation of the prediction with the prompt.

use candle_core::Tensor;

use super::contract::{Call, ModelPatch};
use crate::Result;
use crate::array::total;

/// RescaleCFG.
#[derive(Debug, Clone, Copy)]
pub struct RescaleCfg {
    /// How much of the result is rescaled.
    pub multiplier: f64,
}

impl ModelPatch for RescaleCfg {
    /// Guidance on the velocity, its standard deviation brought back to that of the prediction with the prompt.
    fn guide(&mut self, call: &mut Call<'_>, cond: &Tensor, uncond: &Tensor) -> Result<Option<Tensor>> {
        let sigma = f64::from(call.sigma);
        let x = (call.x / (sigma * sigma + 1.0))?;
        let factor = (sigma * sigma + 1.0).sqrt() / sigma;
        let velocity = |denoised: &Tensor| -> Result<Tensor> { Ok(((&x - denoised)? * factor)?) };
        let (cond, uncond) = (velocity(cond)?, velocity(uncond)?);
        let guided = (&uncond + ((&cond - &uncond)? * call.scale)?)?;
        let ratio = (deviation(&cond)? / deviation(&guided)?)?;
        let rescaled = guided.broadcast_mul(&ratio)?;
        let mixed = ((rescaled * self.multiplier)? + (guided * (1.0 - self.multiplier))?)?;
        Ok(Some((x - (mixed * (sigma / (sigma * sigma + 1.0).sqrt()))?)?))
    }
}

/// The standard deviation of each latent, (B, 1, 1, 1), with Bessel's correction.
fn deviation(tensor: &Tensor) -> Result<Tensor> {
    let (_, c, h, w) = tensor.dims4()?;
    let count = (c * h * w) as f64;
    let mean = (total(tensor)? / count)?;
    Ok((total(&tensor.broadcast_sub(&mean)?.sqr()?)? / (count - 1.0))?.sqrt()?)
}
