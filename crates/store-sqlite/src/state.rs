//! What the store keeps in memory: the queue and the index of the history, as committed. The writer works on a copy and, after a commit,
//! repeats its changes here, so that readers see only what is on disk and never wait for it.

use std::sync::Arc;

use comfyd_jobs::index::Index;
use comfyd_jobs::line::{Line, Place};
use comfyd_jobs::{HistoryEntry, Job, OnRestart, Token, Versions, WorkerId};
use parking_lot::Mutex;
use tokio::sync::watch;

use comfyd_jobs::cache::Cache;

/// The committed state and what follows from it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) state: Mutex<State>,
    pub(crate) cache: Mutex<Cache>,
    pub(crate) versions: watch::Sender<Versions>,
    /// Jobs that were claimed for a caller who was gone when the answer came; the writer puts them back.
    pub(crate) abandoned: Mutex<Vec<Token>>,
}

/// The queue and the history's index.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) line: Line,
    pub(crate) history: Index,
}

/// A change of the state, repeatable on a copy.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Insert { place: Place, job: Arc<Job>, next_number: u64 },
    Claim { worker: WorkerId, claimed_ms: i64 },
    Take(Token),
    Requeue(Token),
    Remove { id: String },
    Clear,
    Restart(WorkerId, OnRestart),
    PushHistory { entry: Arc<HistoryEntry> },
    DropOldest,
    RemoveHistory { id: String },
    ClearHistory,
}

impl Shared {
    pub(crate) fn new(state: State, cache_bytes: usize) -> Self {
        Self {
            state: Mutex::new(state),
            cache: Mutex::new(Cache::new(cache_bytes)),
            versions: watch::Sender::default(),
            abandoned: Mutex::default(),
        }
    }

    /// Makes committed changes visible.
    pub(crate) fn publish(&self, changes: &mut Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let queue = changes.iter().any(Change::is_of_queue);
        let history = changes.iter().any(|change| !change.is_of_queue());
        let mut cache = self.cache.lock();
        let mut state = self.state.lock();
        for change in changes.drain(..) {
            state.apply(change, &mut cache);
        }
        drop((state, cache));
        self.versions.send_modify(|versions| {
            versions.queue += u64::from(queue);
            versions.history += u64::from(history);
        });
    }
}

impl Change {
    fn is_of_queue(&self) -> bool {
        match self {
            Self::Insert { .. }
            | Self::Claim { .. }
            | Self::Take(_)
            | Self::Requeue(_)
            | Self::Remove { .. }
            | Self::Clear
            | Self::Restart(..) => true,
            Self::PushHistory { .. } | Self::DropOldest | Self::RemoveHistory { .. } | Self::ClearHistory => false,
        }
    }
}

impl State {
    fn apply(&mut self, change: Change, cache: &mut Cache) {
        // The writer made each of these changes on an equal state, so none can miss.
        match change {
            Change::Insert { place, job, next_number } => self.line.insert(place, job, next_number),
            Change::Claim { worker, claimed_ms } => drop(self.line.claim(&worker, claimed_ms)),
            Change::Take(token) => drop(self.line.take_held(&token)),
            Change::Requeue(token) => drop(self.line.requeue(&token)),
            Change::Remove { id } => drop(self.line.remove(&id)),
            Change::Clear => drop(self.line.clear()),
            Change::Restart(worker, on_restart) => drop(self.line.restart(&worker, on_restart)),
            Change::PushHistory { entry } => {
                let key = self.history.push(entry.as_ref().into());
                cache.insert(key, entry);
            }
            Change::DropOldest => {
                if let Some(key) = self.history.pop_oldest() {
                    cache.remove(key);
                }
            }
            Change::RemoveHistory { id } => {
                if let Some(key) = self.history.remove(&id) {
                    cache.remove(key);
                }
            }
            Change::ClearHistory => {
                self.history.clear();
                cache.clear();
            }
        }
    }
}
