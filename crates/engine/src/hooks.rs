//! Hooks on conditions: changes of weights that count only for the conditions that carry them, with strengths that may change while
//! sampling. How a LoRA changes weights, and where a sampling stands, is not known here.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use comfyd_node::Opaque;
use comfyd_weights::EncoderKind;

use crate::array::is_close;
use crate::families::ModelKind;
use crate::part::Weights;
use crate::{Engine, Result, lora};

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Where the changed weights come from.
#[derive(Debug, Clone)]
enum Source {
    Lora(PathBuf),
    /// The difference to other models' weights.
    Weights {
        denoiser: Weights,
        encoders: Vec<(EncoderKind, Weights)>,
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

    /// Whether it is the same value.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
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

    /// The difference to a denoiser and to text encoders as a hook.
    pub(crate) fn weights(denoiser: Weights, encoders: Vec<(EncoderKind, Weights)>, strength_model: f64, strength_clip: f64) -> Self {
        Self::one(Source::Weights { denoiser, encoders }, strength_model, strength_clip)
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

    /// The keyframes of each hook.
    pub(crate) fn keyframes(&self) -> impl ExactSizeIterator<Item = &HookKeyframes> {
        self.0.iter().map(|hook| &hook.keyframes)
    }

    /// Which value it is.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// Whether it is the same value.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A denoiser's weights with the hooks' changes, each multiplied by its factor.
    pub(crate) fn on_denoiser(&self, engine: &Engine, kind: &dyn ModelKind, weights: &Weights, factors: &[f64]) -> Result<Weights> {
        let mut weights = weights.clone();
        for (hook, factor) in self.0.iter().zip(factors) {
            let strength = hook.strength_model * factor;
            weights = match hook.source.as_ref() {
                Source::Lora(path) => lora::on_denoiser(engine, path, kind, &weights, strength)?,
                Source::Weights { denoiser, .. } => weights.with_difference(denoiser, strength),
            };
        }
        Ok(weights)
    }

    /// Text encoders with the hooks' changes, each multiplied by its factor.
    pub(crate) fn on_encoders(
        &self,
        engine: &Engine,
        parts: &[(EncoderKind, Weights)],
        factors: &[f64],
    ) -> Result<Vec<(EncoderKind, Weights)>> {
        let mut parts = parts.to_vec();
        for (hook, factor) in self.0.iter().zip(factors) {
            let strength = hook.strength_clip * factor;
            match hook.source.as_ref() {
                Source::Lora(path) => parts = lora::on_encoders(engine, path, &parts, strength)?,
                Source::Weights { encoders, .. } => {
                    for (kind, weights) in &mut parts {
                        if let Some((_, other)) = encoders.iter().find(|(other, _)| other == kind) {
                            *weights = weights.with_difference(other, strength);
                        }
                    }
                }
            }
        }
        Ok(parts)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn keyframes(entries: &[(f64, f64, usize)]) -> HookKeyframes {
        entries.iter().fold(HookKeyframes::default(), |all, &(strength, start_percent, guarantee_steps)| {
            all.with(HookKeyframe { strength, start_percent, guarantee_steps })
        })
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
