//! Hooks on conditions: changes of weights that count only for the conditions that carry them, with strengths that may change while
//! sampling. How a LoRA changes weights is not known here.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use comfyd_models::unet::UNet;
use comfyd_node::Opaque;
use comfyd_samplers::Schedule;

use crate::{Clip, Model, Result};

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Models with hooks that one sampling remembers without building them anew; past that they are forgotten.
const MAX_REMEMBERED: usize = 64;

/// Where the changed weights come from.
#[derive(Debug, Clone)]
enum Source {
    Lora(PathBuf),
    /// The difference to other models' weights.
    Models {
        model: Model,
        clip: Option<Clip>,
    },
}

/// One change of weights. Copies with other keyframes are the same hook: a group holds it once.
#[derive(Debug, Clone)]
pub struct Hook {
    id: u64,
    source: Arc<Source>,
    strength_model: f64,
    strength_clip: f64,
    keyframes: HookKeyframes,
}

/// A strength from a point of the sampling on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HookKeyframe {
    /// What the hook's strength is multiplied by.
    pub strength: f64,
    /// From which part of the sampling on (0..1).
    pub start_percent: f64,
    /// For so many steps at least, if it begins inside the sampling.
    pub guarantee_steps: usize,
}

/// `HOOK_KEYFRAMES`: keyframes in the order of their beginnings. Hooks that got the same value change together.
#[derive(Debug, Clone, Default)]
pub struct HookKeyframes(Arc<Vec<HookKeyframe>>);

impl HookKeyframes {
    /// A copy with one more, behind those that begin at the same point.
    pub fn with(&self, keyframe: HookKeyframe) -> Self {
        let mut all = self.0.as_ref().clone();
        let at = all.partition_point(|other| other.start_percent <= keyframe.start_percent);
        all.insert(at, keyframe);
        Self(Arc::new(all))
    }

    /// All of them.
    pub fn entries(&self) -> &[HookKeyframe] {
        &self.0
    }
}

/// `HOOKS`: hooks, each at most once. Conditions that carry the same value are computed together.
#[derive(Debug, Clone, Default)]
pub struct HookGroup(Arc<Vec<Hook>>);

impl HookGroup {
    /// A LoRA file as a hook (CreateHookLora).
    pub fn lora(path: PathBuf, strength_model: f64, strength_clip: f64) -> Self {
        Self::one(Source::Lora(path), strength_model, strength_clip)
    }

    /// The difference to these models as a hook (CreateHookModelAsLora).
    pub fn models(model: Model, clip: Option<Clip>, strength_model: f64, strength_clip: f64) -> Self {
        Self::one(Source::Models { model, clip }, strength_model, strength_clip)
    }

    fn one(source: Source, strength_model: f64, strength_clip: f64) -> Self {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let hook = Hook { id, source: Arc::new(source), strength_model, strength_clip, keyframes: HookKeyframes::default() };
        Self(Arc::new(vec![hook]))
    }

    /// These hooks and those of `other` that are not there.
    pub fn combine(&self, other: &Self) -> Self {
        let mut all = self.0.as_ref().clone();
        for hook in other.0.iter() {
            if !all.iter().any(|known| known.id == hook.id) {
                all.push(hook.clone());
            }
        }
        Self(Arc::new(all))
    }

    /// A copy whose hooks all follow these keyframes.
    pub fn with_keyframes(&self, keyframes: &HookKeyframes) -> Self {
        // A value of its own: what is set together changes together, and with nothing else.
        let keyframes = HookKeyframes(Arc::new(keyframes.0.as_ref().clone()));
        let hooks = self.0.iter().map(|hook| Hook { keyframes: keyframes.clone(), ..hook.clone() });
        Self(Arc::new(hooks.collect()))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is the same value.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The model with the hooks' changes, each multiplied by its factor.
    fn on_model(&self, model: &Model, factors: &[f64]) -> Result<Model> {
        let mut model = model.clone();
        for (hook, factor) in self.0.iter().zip(factors) {
            let strength = hook.strength_model * factor;
            model = match hook.source.as_ref() {
                Source::Lora(path) => model.with_lora(path, strength)?,
                Source::Models { model: other, .. } => model.with_difference(other, strength),
            };
        }
        Ok(model)
    }

    /// The text encoders with the hooks' changes, each multiplied by its factor.
    pub(crate) fn on_clip(&self, clip: &Clip, factors: &[f64]) -> Result<Clip> {
        let mut clip = clip.clone();
        for (hook, factor) in self.0.iter().zip(factors) {
            let strength = hook.strength_clip * factor;
            clip = match hook.source.as_ref() {
                Source::Lora(path) => clip.with_lora(path, strength)?,
                Source::Models { clip: Some(other), .. } => clip.with_difference(other, strength)?,
                Source::Models { clip: None, .. } => clip,
            };
        }
        Ok(clip)
    }

    /// The parts of the sampling in which the hooks' keyframes give the same strengths, and those strengths (the reference's
    /// `get_hooks_for_clip_schedule`).
    pub(crate) fn parts_of_sampling(&self) -> Vec<((f64, f64), Vec<f64>)> {
        let schedules: Vec<Vec<((f64, f64), f64)>> = self.0.iter().map(|hook| ranges(hook.keyframes.entries())).collect();
        let mut borders: Vec<f64> = schedules.iter().flatten().flat_map(|((start, end), _)| [*start, *end]).collect();
        borders.push(0.0);
        borders.sort_by(f64::total_cmp);
        borders.dedup();
        let strengths = |start: f64, end: f64| -> Vec<f64> {
            let of_hook = |schedule: &Vec<((f64, f64), f64)>| {
                let found = schedule.iter().find(|(range, _)| range.0 < end && range.1 > start);
                found.map_or(1.0, |(_, strength)| *strength)
            };
            schedules.iter().map(of_hook).collect()
        };
        borders.windows(2).map(|pair| ((pair[0], pair[1]), strengths(pair[0], pair[1]))).collect()
    }
}

fn is_close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

/// The ranges of one hook's strengths; neighbours of the same strength are one.
fn ranges(keyframes: &[HookKeyframe]) -> Vec<((f64, f64), f64)> {
    let Some(first) = keyframes.first() else { return vec![((0.0, 1.0), 1.0)] };
    let mut ranges = Vec::new();
    let mut previous = first;
    for keyframe in keyframes {
        if keyframe.start_percent > previous.start_percent && !is_close(keyframe.strength, previous.strength) {
            ranges.push(((previous.start_percent, keyframe.start_percent), previous.strength));
            previous = keyframe;
        } else if keyframe.start_percent == previous.start_percent {
            previous = keyframe;
        }
    }
    if !is_close(previous.start_percent, 1.0) {
        ranges.push(((previous.start_percent, 1.0), previous.strength));
    }
    ranges
}

impl Opaque for HookGroup {
    fn type_name(&self) -> &'static str {
        "HOOKS"
    }

    fn size_bytes(&self) -> usize {
        0
    }
}

impl Opaque for HookKeyframes {
    fn type_name(&self) -> &'static str {
        "HOOK_KEYFRAMES"
    }

    fn size_bytes(&self) -> usize {
        self.0.len() * std::mem::size_of::<HookKeyframe>()
    }
}

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
        for hook in group.0.iter() {
            let is_of_hook = |position: &Position| Arc::ptr_eq(&position.keyframes.0, &hook.keyframes.0);
            if !self.positions.iter().any(is_of_hook) {
                self.positions.push(Position::new(&hook.keyframes, self.model.options.schedule.as_ref()));
            }
            for position in self.positions.iter_mut().filter(|position| is_of_hook(position)) {
                position.advance(sigma, self.max_sigma);
            }
        }
    }

    /// The denoiser for conditions with these hooks.
    pub(crate) fn unet(&mut self, group: &HookGroup) -> Result<Arc<UNet>> {
        let factor = |hook: &Hook| {
            let position = self.positions.iter().find(|position| Arc::ptr_eq(&position.keyframes.0, &hook.keyframes.0));
            position.map_or(1.0, Position::strength)
        };
        let factors: Vec<f64> = group.0.iter().map(factor).collect();
        let key = (Arc::as_ptr(&group.0).addr(), factors.iter().map(|factor| factor.to_bits()).collect());
        if let Some(model) = self.made.get(&key) {
            return model.unet();
        }
        let model = group.on_model(&self.model, &factors)?;
        if self.made.len() >= MAX_REMEMBERED {
            self.made.clear();
        }
        let unet = model.unet()?;
        self.made.insert(key, model);
        Ok(unet)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use comfyd_samplers::schedule::{Discrete, DiscreteSettings};

    use super::*;

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

    #[test]
    fn groups_hold_a_hook_once() {
        let (a, b) = (HookGroup::lora("a".into(), 1.0, 1.0), HookGroup::lora("a".into(), 1.0, 1.0));
        let both = a.combine(&b);
        assert_eq!(both.0.len(), 2);
        assert_eq!(both.combine(&a.with_keyframes(&keyframes(&[(1.0, 0.0, 0)]))).0.len(), 2);
    }

    #[test]
    fn the_sampling_is_parted_where_strengths_change() {
        let a = HookGroup::lora("a".into(), 1.0, 1.0).with_keyframes(&keyframes(&[(0.5, 0.0, 0), (0.5, 0.2, 0), (1.0, 0.4, 0)]));
        let b = HookGroup::lora("b".into(), 1.0, 1.0).with_keyframes(&keyframes(&[(2.0, 0.0, 0), (3.0, 0.7, 0)]));
        let parts = a.combine(&b).parts_of_sampling();
        let wanted = [((0.0, 0.4), vec![0.5, 2.0]), ((0.4, 0.7), vec![1.0, 2.0]), ((0.7, 1.0), vec![1.0, 3.0])];
        assert_eq!(parts, wanted);
        assert_eq!(HookGroup::lora("c".into(), 1.0, 1.0).parts_of_sampling(), [((0.0, 1.0), vec![1.0])]);
    }
}
