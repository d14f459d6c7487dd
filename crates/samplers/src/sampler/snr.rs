//! The time in which exponential integrators step. Knows no sampler.

use super::is_flow;
use crate::math::{exp, log, sigmoid};
use crate::{Denoiser, Schedule};

/// Half the logarithm of the signal-to-noise ratio, `log(alpha / sigma)`, and back.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogSnr {
    flow: bool,
}

impl LogSnr {
    /// Of the model's latents.
    pub(super) fn of(model: &dyn Denoiser) -> Self {
        Self { flow: is_flow(model) }
    }

    /// At a noise level.
    pub(super) fn lambda(self, sigma: f32) -> f32 {
        if self.flow { -log(sigma / (1.0 - sigma)) } else { -log(sigma) }
    }

    /// The noise level there.
    pub(super) fn sigma(self, lambda: f32) -> f32 {
        if self.flow { sigmoid(-lambda) } else { exp(-lambda) }
    }

    /// The noise levels, the first moved a little below 1, where a flow's ratio is not finite.
    pub(super) fn finite(self, sigmas: &[f32], schedule: &dyn Schedule) -> Vec<f32> {
        let mut sigmas = sigmas.to_vec();
        if self.flow && sigmas.len() > 1 && sigmas[0] >= 1.0 {
            sigmas[0] = schedule.percent_to_sigma(1e-4) as f32;
        }
        sigmas
    }
}
