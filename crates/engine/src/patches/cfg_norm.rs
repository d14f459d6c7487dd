//! Guidance whose norm over channels stays that of the prediction with the prompt.

use candle_core::Tensor;

use super::contract::{Call, ModelPatch};
use crate::Result;

/// CFGNorm.
#[derive(Debug, Clone, Copy)]
pub struct CfgNorm {
    /// What the result is multiplied by; before guidance, how much of it is scaled.
    pub strength: f64,
    /// Whether it scales the noise that guidance takes away, which may grow too, in place of the guided prediction, which may not.
    pub pre_cfg: bool,
}

impl ModelPatch for CfgNorm {
    fn after(&mut self, _call: &mut Call<'_>, denoised: Tensor, cond: &Tensor, _uncond: &Tensor) -> Result<Tensor> {
        if self.pre_cfg {
            return Ok(denoised);
        }
        let scale = (norm(cond)? / (norm(&denoised)? + 1e-8)?)?.clamp(0f32, 1f32)?;
        Ok((denoised.broadcast_mul(&scale)? * self.strength)?)
    }

    fn guide(&mut self, call: &mut Call<'_>, cond: &Tensor, uncond: &Tensor) -> Result<Option<Tensor>> {
        if !self.pre_cfg {
            return Ok(None);
        }
        let (cond, uncond) = ((call.x - cond)?, (call.x - uncond)?);
        let guided = (&uncond + ((&cond - &uncond)? * call.scale)?)?;
        let own = norm(&guided)?;
        let scale = (norm(&cond)? / own.maximum(1e-12)?)?;
        let scale = own.gt(0.0)?.where_cond(&scale, &scale.ones_like()?)?;
        let mut scaled = guided.broadcast_mul(&scale)?;
        if self.strength != 1.0 {
            scaled = ((scaled * self.strength)? + (guided * (1.0 - self.strength))?)?;
        }
        Ok(Some((call.x - scaled)?))
    }
}

/// The length over the channels, (B, 1, H, W).
fn norm(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.sqr()?.sum_keepdim(1)?.sqrt()?)
}
