//! DifferentialDiffusion: a grey mask decides from which step on each part may change.

use candle_core::Tensor;

use super::contract::{ModelPatch, Sampling};
use crate::Result;

/// DifferentialDiffusion.
#[derive(Debug, Clone, Copy)]
pub struct DifferentialDiffusion {
    /// How far the mask is turned into steps; 0 and 1 turn it wholly.
    pub strength: f64,
}

impl ModelPatch for DifferentialDiffusion {
    /// Of a soft mask, the part that is to be renewed at this noise level.
    fn mask(&mut self, sampling: &Sampling<'_>, mask: &Tensor, sigma: f32) -> Result<Option<Tensor>> {
        let (schedule, sigmas) = (sampling.schedule, sampling.sigmas);
        let (first, last) = (sigmas.first().copied().unwrap_or(sigma), sigmas.last().copied().unwrap_or(0.0));
        let to = schedule.timestep(schedule.sigma_min().max(last));
        let threshold = (schedule.timestep(sigma) - to) / (schedule.timestep(first) - to);
        let binary = mask.ge(threshold)?.to_dtype(mask.dtype())?;
        if self.strength != 0.0 && self.strength < 1.0 {
            return Ok(Some(((binary * self.strength)? + (mask * (1.0 - self.strength))?)?));
        }
        Ok(Some(binary))
    }
}
