//! Schedules over a continuous range of noise levels (Karras et al. 2022). Knows no model.

use std::f32::consts::PI;

use super::{ABOVE_ALL, Prediction, Schedule};
use crate::math::{exp, linspace, log};
use crate::{Error, Result};

/// What a [`Continuous`] schedule is made of. The default is the reference's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ContinuousSettings {
    /// What the model predicts.
    pub prediction: Prediction,
    /// The lowest noise level, above 0.
    pub sigma_min: f64,
    /// The highest noise level.
    pub sigma_max: f64,
    /// The standard deviation of the training data; 0.5 for EDM models (and SDXL Playground 2.5).
    pub sigma_data: f32,
}

impl Default for ContinuousSettings {
    fn default() -> Self {
        Self { prediction: Prediction::V, sigma_min: 0.002, sigma_max: 120.0, sigma_data: 1.0 }
    }
}

/// What the model is told of a noise level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    QuarterLog,
    Angle,
    Cosmos,
}

/// A continuous range of noise levels (`ModelSamplingContinuousEDM`, `ModelSamplingContinuousV`, `ModelSamplingCosmosRFlow`).
#[derive(Debug, Clone)]
pub struct Continuous {
    prediction: Prediction,
    sigma_data: f32,
    rule: Rule,
    sigmas: Vec<f32>,
}

impl Continuous {
    /// The model is told a quarter of the noise level's logarithm.
    pub fn edm(settings: &ContinuousSettings) -> Result<Self> {
        Self::with_rule(settings, Rule::QuarterLog)
    }

    /// The model is told the angle between data and noise, 0 to 1.
    pub fn v(settings: &ContinuousSettings) -> Result<Self> {
        Self::with_rule(settings, Rule::Angle)
    }

    /// Cosmos: the model is told `sigma / (sigma + 1)`.
    pub fn cosmos_flow(settings: &ContinuousSettings) -> Result<Self> {
        Self::with_rule(&ContinuousSettings { prediction: Prediction::CosmosFlow, ..*settings }, Rule::Cosmos)
    }

    fn with_rule(settings: &ContinuousSettings, rule: Rule) -> Result<Self> {
        let ContinuousSettings { prediction, sigma_min, sigma_max, sigma_data } = *settings;
        if !(sigma_min > 0.0 && sigma_max > 0.0 && sigma_min.is_finite() && sigma_max.is_finite()) {
            return Err(Error::msg(format!("a continuous noise schedule needs limits above 0, not {sigma_min} and {sigma_max}")));
        }
        let sigmas = linspace(sigma_min.ln() as f32, sigma_max.ln() as f32, 1000).into_iter().map(exp).collect();
        Ok(Self { prediction, sigma_data, rule, sigmas })
    }
}

impl Schedule for Continuous {
    fn prediction(&self) -> Prediction {
        self.prediction
    }

    fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    fn sigma_data(&self) -> f32 {
        self.sigma_data
    }

    fn is_continuous_edm(&self) -> bool {
        // The reference's other continuous schedules descend from EDM's.
        true
    }

    fn timestep(&self, sigma: f32) -> f32 {
        match self.rule {
            Rule::QuarterLog => 0.25 * log(sigma),
            Rule::Angle => f64::from(sigma).atan() as f32 / PI * 2.0,
            Rule::Cosmos => sigma / (sigma + 1.0),
        }
    }

    fn sigma(&self, timestep: f32) -> f32 {
        match self.rule {
            Rule::QuarterLog => exp(timestep / 0.25),
            Rule::Angle => f64::from(timestep * PI / 2.0).tan() as f32,
            Rule::Cosmos => {
                let max = self.sigma_max();
                if timestep >= max / (max + 1.0) { max } else { timestep / (1.0 - timestep) }
            }
        }
    }

    fn percent_to_sigma(&self, percent: f64) -> f64 {
        if percent <= 0.0 {
            return ABOVE_ALL;
        }
        if percent >= 1.0 {
            return 0.0;
        }
        let (low, high) = (f64::from(self.sigma_min()).ln(), f64::from(self.sigma_max()).ln());
        ((high - low) * (1.0 - percent) + low).exp()
    }
}
