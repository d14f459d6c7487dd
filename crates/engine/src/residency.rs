//! Which models are built and in memory: those used last, as many as the budget allows. What a model is made of is not known here.

use std::any::Any;
use std::sync::{Arc, Weak};

use comfyd_memory::{Account, Lease};
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
    /// The parts of the model that is being built: they lose no tensors.
    building: Vec<Arc<Part>>,
}

/// What becomes of a model for which there is too little memory, though all others that are not in use were unloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Short {
    /// It is an error: memory that runs out would end the process.
    Fails,
    /// It is built: the device says itself when its memory has run out.
    Goes,
}

/// The models in memory.
pub(crate) struct Residency {
    account: Account,
    short: Short,
    /// What the models hold.
    held: Mutex<Lease>,
    state: Mutex<State>,
    /// Held while a model is built, so that two threads do not build the same one.
    building: Mutex<()>,
}

impl Residency {
    /// Models in the memory of this account, for which others that are not in use give way.
    pub(crate) fn new(account: &Account, short: Short) -> Arc<Self> {
        let held = Mutex::new(account.count(0));
        let residency = Arc::new(Self { account: account.clone(), short, held, state: Mutex::default(), building: Mutex::default() });
        let giver = Arc::downgrade(&residency);
        // Results are sooner made again.
        account.gives_way(1, move |_| giver.upgrade().is_some_and(|residency| residency.give_way()));
        residency
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
        self.state.lock().building.clone_from(&parts);
        let built = self.room(missing + own_bytes).and_then(|room| {
            weights.iter().try_for_each(|weights| weights.read_ahead())?;
            Ok((room, Arc::new(build()?)))
        });
        weights.iter().for_each(|weights| weights.forget_patched());
        self.state.lock().building.clear();
        let (room, object) = match built {
            Ok(built) => built,
            Err(error) => {
                self.unload_unused(&parts);
                let file = parts.iter().map(|part| part.weights.origin()).find(|path| !path.as_os_str().is_empty());
                return Err(match file {
                    Some(file) => error.in_file(file),
                    None => error,
                });
            }
        };
        {
            let mut state = self.state.lock();
            state.clock += 1;
            let last_used = state.clock;
            state.slots.push(Slot { ids, parts, own_bytes, object: object.clone(), last_used });
        }
        drop(room);
        self.settle();
        Ok(object)
    }

    /// Room for a model of so many bytes beside the others.
    fn room(&self, bytes: u64) -> Result<Lease> {
        match (self.account.reserve(bytes), self.short) {
            (Ok(room), _) => Ok(room),
            (Err(_), Short::Goes) => Ok(self.account.count(bytes)),
            (Err(refused), Short::Fails) => Err(refused.into()),
        }
    }

    /// Unloads models that are not in use until work of so many bytes fits beside the others, or none is left.
    pub(crate) fn make_way(&self, bytes: u64) {
        drop(self.account.reserve(bytes));
    }

    /// Tells the account what the models hold now.
    fn settle(&self) {
        let bytes = self.bytes(&self.state.lock());
        self.held.lock().set(bytes);
    }

    fn find(&self, ids: &[Weak<()>]) -> Option<Arc<dyn Any + Send + Sync>> {
        let mut state = self.state.lock();
        state.clock += 1;
        let now = state.clock;
        let slot = state.slots.iter_mut().find(|slot| slot.is_of(ids))?;
        slot.last_used = now;
        Some(Arc::clone(&slot.object))
    }

    /// Memory is short: unloads the model that was not used for longest. Whether there was one that is not in use.
    fn give_way(&self) -> bool {
        let mut state = self.state.lock();
        let idle = state.slots.iter().enumerate().filter(|(_, slot)| Arc::strong_count(&slot.object) == 1);
        let Some((index, _)) = idle.min_by_key(|(_, slot)| slot.last_used) else { return false };
        let Slot { parts, object, .. } = state.slots.remove(index);
        drop(state);
        tracing::debug!("unloaded a model of {} parts to make room", parts.len());
        drop(object);
        self.unload_unused(&parts);
        self.settle();
        true
    }

    /// Forgets the tensors of parts that no model uses.
    fn unload_unused(&self, parts: &[Arc<Part>]) {
        let state = self.state.lock();
        for part in parts {
            let mut used = state.slots.iter().flat_map(|slot| &slot.parts).chain(&state.building);
            if !used.any(|used| Arc::ptr_eq(used, part)) {
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
        if !unloaded.is_empty() {
            drop(unloaded);
            self.unload_unused(&parts);
            self.settle();
        }
    }

    /// Bytes of all models that can still be asked for.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.unload_orphans();
        self.bytes(&self.state.lock())
    }

    fn bytes(&self, state: &State) -> u64 {
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
    use comfyd_node::{Actor, CancellationToken, acting_for};
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
        let residency = Residency::new(&Account::of_device(1 << 20, 0, || u64::MAX), Short::Goes);
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
    fn what_no_patch_changes_is_read_ahead() {
        let base = weights();
        patched(&base).read_ahead().unwrap();
        assert_eq!(base.part.loaded_bytes(), 8 * 4);
        base.read_ahead().unwrap();
        assert_eq!(base.part.loaded_bytes(), (32 + 8) * 4);
    }

    #[test]
    fn patched_tensors_are_the_same_read_ahead_or_not() {
        let weights = patched(&weights());
        let [alone, none] = [(); 2].map(|()| weights.weight("a").unwrap().unwrap().dense().unwrap().to_vec2::<f32>().unwrap());
        weights.read_ahead().unwrap();
        let ahead = weights.weight("a").unwrap().unwrap().dense().unwrap().to_vec2::<f32>().unwrap();
        assert!(alone == none && ahead == alone);
    }

    #[test]
    fn to_load_a_model_ends_with_its_prompt() {
        let residency = Residency::new(&Account::of_device(1 << 20, 0, || u64::MAX), Short::Goes);
        let (base, interrupt) = (weights(), CancellationToken::new());
        let _running = acting_for(Actor { patient: Some(interrupt.clone()), ..Actor::default() });
        assert_eq!(load(&residency, &base).len(), 2);
        let other = weights();
        interrupt.cancel();
        assert!(matches!(residency.get(&[&other], || Ok(())), Err(Error::Interrupted)));
        assert!(matches!(other.weight("a"), Err(comfyd_models::Error::Interrupted)));
        assert_eq!((other.part.loaded_bytes(), residency.held_bytes()), (0, (32 + 8) * 4));
    }

    #[test]
    fn the_model_used_longest_ago_makes_room() {
        let residency = Residency::new(&Account::of_device(2 * 40 * 4, 0, || u64::MAX), Short::Goes);
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
        let residency = Residency::new(&Account::of_device(u64::MAX, 0, || 0), Short::Goes);
        let [first, second] = [weights(), weights()];
        load(&residency, &first);
        load(&residency, &second);
        assert!(first.part.loaded_bytes() == 0 && second.part.loaded_bytes() > 0);
    }

    #[test]
    fn models_that_are_not_in_use_make_way_for_work() {
        let residency = Residency::new(&Account::of_device(2 * 40 * 4, 0, || u64::MAX), Short::Goes);
        let [first, second] = [weights(), weights()];
        load(&residency, &first);
        let used = load(&residency, &second);
        residency.make_way(40 * 4);
        assert!(first.part.loaded_bytes() == 0 && second.part.loaded_bytes() > 0);
        residency.make_way(u64::MAX);
        assert_eq!(residency.held_bytes(), 40 * 4, "it is in use");
        drop(used);
    }

    #[test]
    fn a_model_that_does_not_fit_fails_where_nothing_else_would_say_so() {
        let account = Account::new(2 * 40 * 4);
        let residency = Residency::new(&account, Short::Fails);
        let [first, second] = [weights(), weights()];
        load(&residency, &first);
        let results = account.reserve(40 * 4).unwrap();
        load(&residency, &second);
        assert_eq!((first.part.loaded_bytes(), account.held()), (0, 2 * 40 * 4), "the first one gave way");
        let _more = account.reserve(40 * 4).unwrap();
        assert_eq!(second.part.loaded_bytes(), 0, "models give way for others too");
        let refused = residency.get(&[&first], || Ok(())).unwrap_err();
        assert!(matches!(refused, Error::OutOfMemory(_)));
        drop(results);
        load(&residency, &first);
    }
}
