//! Where hooks stand in one sampling, and the models that they make.

use std::collections::HashMap;
use std::sync::Arc;

use comfyd_models::backbone::Backbone;
use comfyd_samplers::Schedule;

use crate::{HookGroup, HookKeyframes, Model, Result};

/// Models with hooks that one sampling remembers without building them anew; past that they are forgotten.
const MAX_REMEMBERED: usize = 64;

/// Where one value of keyframes stands in a sampling.
struct Position {
    keyframes: HookKeyframes,
    start_sigmas: Vec<f64>,
    index: usize,
    used_steps: usize,
    sigma: Option<f32>,
}

impl Position {
    fn new(keyframes: &HookKeyframes, schedule: &dyn Schedule) -> Self {
        let start_sigmas = keyframes.entries().iter().map(|keyframe| schedule.percent_to_sigma(keyframe.start_percent)).collect();
        Self { keyframes: keyframes.clone(), start_sigmas, index: 0, used_steps: 0, sigma: None }
    }

    /// A keyframe that began before the sampling guarantees nothing.
    fn guaranteed(&self, index: usize, max_sigma: f32) -> usize {
        if self.start_sigmas[index] > f64::from(max_sigma) { 0 } else { self.keyframes.entries()[index].guarantee_steps }
    }

    /// Moves on to this noise level.
    fn advance(&mut self, sigma: f32, max_sigma: f32) {
        let count = self.start_sigmas.len();
        if count == 0 || self.sigma == Some(sigma) {
            return;
        }
        if self.used_steps >= self.guaranteed(self.index, max_sigma) {
            for next in self.index + 1..count {
                if self.start_sigmas[next] < f64::from(sigma) {
                    break;
                }
                self.index = next;
                self.used_steps = 0;
                if self.guaranteed(next, max_sigma) > 0 {
                    break;
                }
            }
        }
        self.used_steps += 1;
        self.sigma = Some(sigma);
    }

    fn strength(&self) -> f64 {
        self.keyframes.entries().get(self.index).map_or(1.0, |keyframe| keyframe.strength)
    }
}

/// The hooks of one sampling.
pub(crate) struct HookRun {
    model: Model,
    max_sigma: f32,
    positions: Vec<Position>,
    /// Models by their group and the strengths' bits.
    made: HashMap<(usize, Vec<u64>), Model>,
}

impl HookRun {
    pub(crate) fn new(model: &Model, sigmas: &[f32]) -> Self {
        let max_sigma = sigmas.iter().copied().fold(0.0, f32::max);
        Self { model: model.clone(), max_sigma, positions: Vec::new(), made: HashMap::new() }
    }

    /// Moves the keyframes of a condition's hooks on to this noise level.
    pub(crate) fn advance(&mut self, group: &HookGroup, sigma: f32) {
        for keyframes in group.keyframes() {
            let index = self.positions.iter().position(|position| position.keyframes.is_same(keyframes)).unwrap_or_else(|| {
                self.positions.push(Position::new(keyframes, self.model.options.schedule.as_ref()));
                self.positions.len() - 1
            });
            self.positions[index].advance(sigma, self.max_sigma);
        }
    }

    /// The denoiser for conditions with these hooks.
    pub(crate) fn backbone(&mut self, group: &HookGroup) -> Result<Arc<Box<dyn Backbone>>> {
        let factor = |keyframes: &HookKeyframes| {
            self.positions.iter().find(|position| position.keyframes.is_same(keyframes)).map_or(1.0, Position::strength)
        };
        let factors: Vec<f64> = group.keyframes().map(factor).collect();
        let key = (group.address(), factors.iter().map(|factor| factor.to_bits()).collect());
        if let Some(model) = self.made.get(&key) {
            return model.backbone();
        }
        let Model { engine, kind, weights, .. } = &self.model;
        let model = self.model.with_weights(group.on_denoiser(engine, kind.as_ref(), weights, &factors)?);
        if self.made.len() >= MAX_REMEMBERED {
            self.made.clear();
        }
        let backbone = model.backbone()?;
        self.made.insert(key, model);
        Ok(backbone)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use comfyd_samplers::schedule::{Discrete, DiscreteSettings};

    use super::*;
    use crate::HookKeyframe;

    fn keyframes(entries: &[(f64, f64, usize)]) -> HookKeyframes {
        entries.iter().fold(HookKeyframes::default(), |all, &(strength, start_percent, guarantee_steps)| {
            all.with(HookKeyframe { strength, start_percent, guarantee_steps })
        })
    }

    fn strengths(entries: &[(f64, f64, usize)], percents: &[f64]) -> Vec<f64> {
        let schedule = Discrete::new(&DiscreteSettings::default()).unwrap();
        let mut position = Position::new(&keyframes(entries), &schedule);
        let sigma = |percent: f64| schedule.percent_to_sigma(percent).min(f64::from(schedule.sigma_max())) as f32;
        percents
            .iter()
            .map(|percent| {
                position.advance(sigma(*percent), schedule.sigma_max());
                position.strength()
            })
            .collect()
    }

    #[test]
    fn keyframes_take_over_where_they_begin() {
        let percents = [0.0, 0.25, 0.5, 0.75];
        assert_eq!(strengths(&[], &percents), [1.0; 4]);
        assert_eq!(strengths(&[(0.1, 0.0, 0), (0.2, 0.5, 0)], &percents), [0.1, 0.1, 0.2, 0.2]);
        // Kept in order, and each step guaranteed even where the next has begun.
        assert_eq!(strengths(&[(0.3, 0.2, 1), (0.2, 0.1, 1), (0.1, 0.0, 0)], &[0.0, 0.25, 0.5, 0.75]), [0.1, 0.2, 0.3, 0.3]);
        assert_eq!(strengths(&[(0.3, 0.2, 0), (0.2, 0.1, 0), (0.1, 0.0, 0)], &[0.0, 0.25]), [0.1, 0.3]);
    }
}
