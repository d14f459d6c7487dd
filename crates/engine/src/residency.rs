//! Which models are built and in memory: those used last, as many as the budget allows. What a model is made of is not known here.

use std::any::Any;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::part::{Part, Weights};
use crate::{Error, Result};

/// A built model.
struct Slot {
    ids: Vec<Weak<()>>,
    parts: Vec<Arc<Part>>,
    /// Bytes that this model shares with no other one.
    own_bytes: u64,
    object: Arc<dyn Any + Send + Sync>,
    last_used: u64,
}

impl Slot {
    fn is_of(&self, ids: &[Weak<()>]) -> bool {
        self.ids.len() == ids.len() && self.ids.iter().zip(ids).all(|(own, id)| own.ptr_eq(id))
    }

    /// Whether nobody can ask for this model again, since a value that it was built of is gone: a patched model of an earlier prompt.
    fn is_orphan(&self) -> bool {
        self.ids.iter().any(|id| id.strong_count() == 0) && Arc::strong_count(&self.object) == 1
    }
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    clock: u64,
}

/// Tells the device's free memory in bytes; others use it too.
type FreeBytes = Box<dyn Fn() -> u64 + Send + Sync>;

/// What stays free beside the models, for what they compute.
const RESERVE_BYTES: u64 = 1 << 30;

/// The models in memory.
pub(crate) struct Residency {
    budget_bytes: u64,
    free_bytes: FreeBytes,
    state: Mutex<State>,
    /// Held while a model is built, so that two threads do not build the same one.
    building: Mutex<()>,
}

impl Residency {
    pub(crate) fn new(budget_bytes: u64, free_bytes: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self { budget_bytes, free_bytes: Box::new(free_bytes), state: Mutex::default(), building: Mutex::default() }
    }

    /// The model of these weights, built if it is not there. Others are unloaded, those that were not used for longest first, until it
    /// fits; models in use stay.
    pub(crate) fn get<T: Any + Send + Sync>(&self, weights: &[&Weights], build: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let ids: Vec<Weak<()>> = weights.iter().map(|w| Arc::downgrade(&w.id)).collect();
        let _building = self.building.lock();
        self.unload_orphans();
        if let Some(object) = self.find(&ids) {
            return object.downcast().map_err(|_| Error::msg("a loaded model is of another kind than its weights"));
        }
        let own_bytes = weights.iter().map(|w| w.patched_bytes()).sum();
        let parts: Vec<Arc<Part>> = weights.iter().map(|w| Arc::clone(&w.part)).collect();
        let missing: u64 = parts.iter().map(|part| part.total_bytes().saturating_sub(part.loaded_bytes())).sum();
        self.make_room(missing + own_bytes, &parts);
        let object = match build() {
            Ok(object) => Arc::new(object),
            Err(error) => {
                self.unload_unused(&parts);
                let file = parts.iter().map(|part| part.weights.origin()).find(|path| !path.as_os_str().is_empty());
                return Err(match file {
                    Some(file) => error.in_file(file),
                    None => error,
                });
            }
        };
        let mut state = self.state.lock();
        state.clock += 1;
        let last_used = state.clock;
        state.slots.push(Slot { ids, parts, own_bytes, object: object.clone(), last_used });
        Ok(object)
    }

    fn find(&self, ids: &[Weak<()>]) -> Option<Arc<dyn Any + Send + Sync>> {
        let mut state = self.state.lock();
        state.clock += 1;
        let now = state.clock;
        let slot = state.slots.iter_mut().find(|slot| slot.is_of(ids))?;
        slot.last_used = now;
        Some(Arc::clone(&slot.object))
    }

    /// Unloads models until so many bytes fit beside the others, into the budget and into the memory that is free. Those of `keep` lose no shared tensors.
    fn make_room(&self, bytes: u64, keep: &[Arc<Part>]) {
        loop {
            let fits_budget = self.held_bytes().saturating_add(bytes) <= self.budget_bytes;
            if fits_budget && bytes.saturating_add(RESERVE_BYTES) <= (self.free_bytes)() {
                return;
            }
            let mut state = self.state.lock();
            let idle = state.slots.iter().enumerate().filter(|(_, slot)| Arc::strong_count(&slot.object) == 1);
            let Some((index, _)) = idle.min_by_key(|(_, slot)| slot.last_used) else { return };
            let slot = state.slots.remove(index);
            drop(state);
            let parts: Vec<Arc<Part>> = slot.parts.iter().filter(|p| !keep.iter().any(|k| Arc::ptr_eq(k, p))).cloned().collect();
            tracing::debug!("unloaded a model of {} parts to make room for {bytes} bytes", slot.parts.len());
            drop(slot);
            self.unload_unused(&parts);
        }
    }

    /// Forgets the tensors of parts that no model uses.
    fn unload_unused(&self, parts: &[Arc<Part>]) {
        let state = self.state.lock();
        for part in parts {
            if !state.slots.iter().flat_map(|slot| &slot.parts).any(|used| Arc::ptr_eq(used, part)) {
                part.unload();
            }
        }
    }

    /// Unloads every model that is not in use.
    pub(crate) fn clear(&self) {
        self.unload(|slot| Arc::strong_count(&slot.object) == 1);
    }

    /// Unloads the models that nobody can ask for again.
    fn unload_orphans(&self) {
        self.unload(Slot::is_orphan);
    }

    fn unload(&self, which: impl Fn(&Slot) -> bool) {
        let mut state = self.state.lock();
        let (unloaded, kept): (Vec<Slot>, Vec<Slot>) = std::mem::take(&mut state.slots).into_iter().partition(which);
        state.slots = kept;
        drop(state);
        let parts: Vec<Arc<Part>> = unloaded.iter().flat_map(|slot| slot.parts.clone()).collect();
        drop(unloaded);
        self.unload_unused(&parts);
    }

    /// Bytes of all models that can still be asked for.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.unload_orphans();
        let state = self.state.lock();
        let mut parts: Vec<&Arc<Part>> = Vec::new();
        for part in state.slots.iter().flat_map(|slot| &slot.parts) {
            if !parts.iter().any(|seen| Arc::ptr_eq(seen, part)) {
                parts.push(part);
            }
        }
        parts.iter().map(|part| part.loaded_bytes()).sum::<u64>() + state.slots.iter().map(|slot| slot.own_bytes).sum::<u64>()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use candle_core::{DType, Device};
    use comfyd_models::Provider;
    use comfyd_weights::synthetic;

    use super::*;
    use crate::part::{Patch, PatchKind};
    use crate::precision::Precision;

    fn weights() -> Weights {
        let dict = synthetic::from_shapes([("a".to_owned(), vec![4, 8]), ("b".to_owned(), vec![8])], DType::F32);
        Weights::new(Part::new(dict, Device::Cpu, Precision::Stored))
    }

    fn load(residency: &Residency, weights: &Weights) -> Arc<Vec<comfyd_weights::Weight>> {
        residency.get(&[weights], || Ok(["a", "b"].map(|name| weights.weight(name).unwrap().unwrap()).to_vec())).unwrap()
    }

    fn patched(weights: &Weights) -> Weights {
        let patch = Patch { kind: PatchKind::Nothing, strength: 0.0, model_strength: 2.0, slice: None };
        weights.with_patches([("a".to_owned(), patch)])
    }

    #[test]
    fn patched_models_go_with_the_last_value_that_names_them() {
        let residency = Residency::new(1 << 20, || u64::MAX);
        let base = weights();
        load(&residency, &base);
        assert_eq!(residency.held_bytes(), (32 + 8) * 4);
        let first = patched(&base);
        let clone = first.clone();
        load(&residency, &first);
        drop(first);
        // Its clone can still ask for it.
        assert_eq!(residency.held_bytes(), (32 + 8 + 32) * 4);
        let again = load(&residency, &clone);
        drop(clone);
        assert_eq!(residency.held_bytes(), (32 + 8 + 32) * 4, "it is in use");
        drop(again);
        assert_eq!(residency.held_bytes(), (32 + 8) * 4, "the base stays");
        drop(base);
        assert_eq!(residency.held_bytes(), 0);
    }

    #[test]
    fn the_model_used_longest_ago_makes_room() {
        let residency = Residency::new(2 * 40 * 4, || u64::MAX);
        let [first, second, third] = [weights(), weights(), weights()];
        load(&residency, &first);
        load(&residency, &second);
        load(&residency, &first);
        load(&residency, &third);
        assert_eq!(residency.held_bytes(), 2 * 40 * 4);
        assert!(second.part.loaded_bytes() == 0 && first.part.loaded_bytes() > 0 && third.part.loaded_bytes() > 0);
    }

    #[test]
    fn models_make_room_when_the_memory_is_short_though_the_budget_is_not() {
        let residency = Residency::new(u64::MAX, || 0);
        let [first, second] = [weights(), weights()];
        load(&residency, &first);
        load(&residency, &second);
        assert!(first.part.loaded_bytes() == 0 && second.part.loaded_bytes() > 0);
    }
}
