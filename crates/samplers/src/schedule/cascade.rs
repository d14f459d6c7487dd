//! Stable Cascade's schedule: a cosine with a shifted signal-to-noise ratio. Knows no model.

use std::f32::consts::PI;

use super::{ABOVE_ALL, Prediction, Schedule};
use crate::math::{log, sigmoid};
use crate::{Error, Result};

const COSINE_S: f32 = 0.008;

/// The cosine schedule of Stable Cascade (`StableCascadeSampling`).
#[derive(Debug, Clone)]
pub struct Cascade {
    shift: f32,
    sigmas: Vec<f32>,
}

impl Cascade {
    /// 10000 levels with this shift of the signal-to-noise ratio; 1 shifts nothing.
    pub fn new(shift: f64) -> Result<Self> {
        const TIMESTEPS: usize = 10_000;
        if !(shift.is_finite() && shift > 0.0) {
            return Err(Error::msg(format!("a Stable Cascade schedule needs a shift above 0, not {shift}")));
        }
        let mut cascade = Self { shift: shift as f32, sigmas: Vec::new() };
        cascade.sigmas = (1..=TIMESTEPS).map(|i| cascade.sigma((i as f64 / TIMESTEPS as f64) as f32)).collect();
        Ok(cascade)
    }
}

fn squared_cosine(angle: f32) -> f32 {
    let cosine = f64::from(angle).cos() as f32;
    cosine * cosine
}

fn first_alpha_bar() -> f32 {
    squared_cosine(COSINE_S / (1.0 + COSINE_S) * PI * 0.5)
}

impl Schedule for Cascade {
    fn prediction(&self) -> Prediction {
        Prediction::Eps
    }

    fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    fn timestep(&self, sigma: f32) -> f32 {
        let variance = (1.0 / (sigma * sigma + 1.0)).clamp(0.0, 1.0);
        let angle = f64::from((variance * first_alpha_bar()).sqrt()).acos() as f32;
        angle / (PI * 0.5) * (1.0 + COSINE_S) - COSINE_S
    }

    fn sigma(&self, timestep: f32) -> f32 {
        let mut alpha_bar = squared_cosine((timestep + COSINE_S) / (1.0 + COSINE_S) * PI * 0.5) / first_alpha_bar();
        if self.shift != 1.0 {
            let log_snr = log(alpha_bar / (1.0 - alpha_bar)) + 2.0 * log(1.0 / self.shift);
            alpha_bar = sigmoid(log_snr);
        }
        let alpha_bar = alpha_bar.clamp(0.0001, 0.9999);
        ((1.0 - alpha_bar) / alpha_bar).sqrt()
    }

    fn percent_to_sigma(&self, percent: f64) -> f64 {
        if percent <= 0.0 {
            return ABOVE_ALL;
        }
        if percent >= 1.0 {
            return 0.0;
        }
        f64::from(self.sigma((1.0 - percent) as f32))
    }
}
