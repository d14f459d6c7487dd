//! Schedules of flow matching: noise levels from 0 to 1, shifted towards noise for large pictures. Knows no model.

use super::{Prediction, Schedule};
use crate::{Error, Result};

/// What a [`DiscreteFlow`] schedule is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DiscreteFlowSettings {
    /// How far the levels are shifted towards noise; 1 not at all (Esser et al. 2024).
    pub shift: f64,
    /// What the model is told for a noise level of 1.
    pub multiplier: f64,
}

impl Default for DiscreteFlowSettings {
    fn default() -> Self {
        Self { shift: 1.0, multiplier: 1000.0 }
    }
}

/// Flow matching with a shift (`ModelSamplingDiscreteFlow` with `CONST`).
#[derive(Debug, Clone)]
pub struct DiscreteFlow {
    settings: DiscreteFlowSettings,
    sigmas: Vec<f32>,
}

impl DiscreteFlow {
    /// 1000 levels with these settings.
    pub fn new(settings: &DiscreteFlowSettings) -> Result<Self> {
        const TIMESTEPS: usize = 1000;
        if !(settings.shift.is_finite() && settings.multiplier.is_finite() && settings.multiplier > 0.0) {
            return Err(Error::msg("a flow schedule needs a finite shift and a multiplier above 0"));
        }
        let mut flow = Self { settings: *settings, sigmas: Vec::new() };
        let multiplier = settings.multiplier as f32;
        flow.sigmas = (1..=TIMESTEPS).map(|i| flow.sigma(i as f32 / TIMESTEPS as f32 * multiplier)).collect();
        Ok(flow)
    }
}

impl Schedule for DiscreteFlow {
    fn prediction(&self) -> Prediction {
        Prediction::Flow
    }

    fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    fn timestep(&self, sigma: f32) -> f32 {
        sigma * self.settings.multiplier as f32
    }

    fn sigma(&self, timestep: f32) -> f32 {
        let t = timestep / self.settings.multiplier as f32;
        if self.settings.shift == 1.0 {
            return t;
        }
        let (shift, shift_less_one) = (self.settings.shift as f32, (self.settings.shift - 1.0) as f32);
        shift * t / (1.0 + shift_less_one * t)
    }

    fn percent_to_sigma(&self, percent: f64) -> f64 {
        if percent <= 0.0 {
            return 1.0;
        }
        if percent >= 1.0 {
            return 0.0;
        }
        let (shift, t) = (self.settings.shift, 1.0 - percent);
        if shift == 1.0 { t } else { shift * t / (1.0 + (shift - 1.0) * t) }
    }
}

/// Flow matching with an exponential shift (`ModelSamplingFlux` with `CONST`).
#[derive(Debug, Clone)]
pub struct ShiftedFlow {
    shift: f64,
    sigmas: Vec<f32>,
}

impl ShiftedFlow {
    /// 10000 levels with this shift (mu).
    pub fn new(shift: f64) -> Result<Self> {
        const TIMESTEPS: usize = 10_000;
        if !shift.is_finite() {
            return Err(Error::msg("a flow schedule needs a finite shift"));
        }
        let mut flow = Self { shift, sigmas: Vec::new() };
        flow.sigmas = (1..=TIMESTEPS).map(|i| flow.sigma(i as f32 / TIMESTEPS as f32)).collect();
        Ok(flow)
    }
}

impl Schedule for ShiftedFlow {
    fn prediction(&self) -> Prediction {
        Prediction::Flow
    }

    fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    fn timestep(&self, sigma: f32) -> f32 {
        sigma
    }

    fn sigma(&self, timestep: f32) -> f32 {
        let factor = self.shift.exp() as f32;
        factor / (factor + (1.0 / timestep - 1.0))
    }

    fn percent_to_sigma(&self, percent: f64) -> f64 {
        if percent <= 0.0 {
            return 1.0;
        }
        if percent >= 1.0 {
            return 0.0;
        }
        let factor = self.shift.exp();
        factor / (factor + (1.0 / (1.0 - percent) - 1.0))
    }
}
