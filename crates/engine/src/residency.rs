//! Which models are built and in memory: those used last, as many as the budget allows. What a model is made of is not known here.

use std::any::Any;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::part::{Part, Weights};
use crate::{Error, Result};

/// A built model.
struct Slot {
    ids: Vec<u64>,
    parts: Vec<Arc<Part>>,
    /// Bytes that this model shares with no other one.
    own_bytes: u64,
    object: Arc<dyn Any + Send + Sync>,
    last_used: u64,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    clock: u64,
}

/// The models in memory.
pub(crate) struct Residency {
    budget_bytes: u64,
    state: Mutex<State>,
    /// Held while a model is built, so that two threads do not build the same one.
    building: Mutex<()>,
}

impl Residency {
    pub(crate) fn new(budget_bytes: u64) -> Self {
        Self { budget_bytes, state: Mutex::default(), building: Mutex::default() }
    }

    /// The model of these weights, built if it is not there. Others are unloaded, those that were not used for longest first, until it
    /// fits; models in use stay.
    pub(crate) fn get<T: Any + Send + Sync>(&self, weights: &[&Weights], build: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let ids: Vec<u64> = weights.iter().map(|w| w.id).collect();
        let _building = self.building.lock();
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
                return Err(error);
            }
        };
        let mut state = self.state.lock();
        state.clock += 1;
        let last_used = state.clock;
        state.slots.push(Slot { ids, parts, own_bytes, object: object.clone(), last_used });
        Ok(object)
    }

    fn find(&self, ids: &[u64]) -> Option<Arc<dyn Any + Send + Sync>> {
        let mut state = self.state.lock();
        state.clock += 1;
        let now = state.clock;
        let slot = state.slots.iter_mut().find(|slot| slot.ids == ids)?;
        slot.last_used = now;
        Some(Arc::clone(&slot.object))
    }

    /// Unloads models until so many bytes fit beside the others. Those of `keep` lose no shared tensors.
    fn make_room(&self, bytes: u64, keep: &[Arc<Part>]) {
        loop {
            if self.held_bytes().saturating_add(bytes) <= self.budget_bytes {
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
        let mut state = self.state.lock();
        let (idle, used) = std::mem::take(&mut state.slots).into_iter().partition(|slot| Arc::strong_count(&slot.object) == 1);
        state.slots = used;
        drop(state);
        let idle: Vec<Slot> = idle;
        let parts: Vec<Arc<Part>> = idle.iter().flat_map(|slot| slot.parts.clone()).collect();
        drop(idle);
        self.unload_unused(&parts);
    }

    /// Bytes of all models.
    pub(crate) fn held_bytes(&self) -> u64 {
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
