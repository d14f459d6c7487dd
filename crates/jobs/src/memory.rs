//! The in-memory store and the in-memory event sink: for tests, and where nothing needs to outlive the process. It knows no disk.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::event::{Event, EventKind, EventSink};
use crate::index::{Found, Index};
use crate::line::{Bounds, Line};
use crate::store::{
    Claim, Counts, HistoryEntry, HistoryQuery, JobStore, NewJob, OnRestart, Outcome, Page, Queue, Recovered, Result, Ticket, Token,
    Versions, WorkerId, now_ms,
};

/// The bounds of a [`MemoryStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How many jobs may wait.
    pub max_pending: usize,
    /// How many bytes their texts may have together.
    pub max_pending_bytes: usize,
    /// How many jobs of one owner may wait and run.
    pub max_of_owner: usize,
    /// How many finished jobs are kept; the oldest go first.
    pub max_history: usize,
    /// How many bytes of JSON one outcome may have.
    pub max_outcome_bytes: usize,
}

impl Default for Options {
    /// 10,000 of each, no bound of one owner, 512 MiB that wait, and 64 MiB an outcome.
    fn default() -> Self {
        let (max_pending_bytes, max_outcome_bytes) = (512 << 20, 64 << 20);
        Self { max_pending: 10_000, max_pending_bytes, max_of_owner: usize::MAX, max_history: 10_000, max_outcome_bytes }
    }
}

impl Options {
    fn bounds(&self) -> Bounds {
        Bounds { pending: self.max_pending, bytes: self.max_pending_bytes, of_owner: self.max_of_owner }
    }
}

/// A queue and a history that live as long as the process.
#[derive(Debug)]
pub struct MemoryStore {
    options: Options,
    state: Mutex<State>,
    versions: watch::Sender<Versions>,
}

#[derive(Debug, Default)]
struct State {
    line: Line,
    index: Index,
    /// By their keys in the index.
    history: HashMap<i64, Arc<HistoryEntry>>,
}

/// What a change touched.
#[derive(Debug, Clone, Copy)]
struct Touched {
    queue: bool,
    history: bool,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(options: Options) -> Self {
        Self { options, state: Mutex::default(), versions: watch::Sender::default() }
    }

    fn publish(&self, touched: Touched) {
        if touched.queue || touched.history {
            self.versions.send_modify(|versions| {
                versions.queue += u64::from(touched.queue);
                versions.history += u64::from(touched.history);
            });
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(Options::default())
    }
}

impl State {
    fn finish(&mut self, token: &Token, outcome: &Outcome, options: Options) -> Result<()> {
        let job = self.line.held(token)?.job.as_ref().clone();
        let entry = HistoryEntry::new(job, outcome, options.max_outcome_bytes)?;
        self.line.take_held(token)?;
        self.push_history(entry, options.max_history);
        Ok(())
    }

    fn push_history(&mut self, entry: HistoryEntry, max_history: usize) {
        let key = self.index.push((&entry).into());
        self.history.insert(key, Arc::new(entry));
        while self.index.len() > max_history
            && let Some(oldest) = self.index.pop_oldest()
        {
            self.history.remove(&oldest);
        }
    }
}

#[async_trait]
impl JobStore for MemoryStore {
    async fn enqueue(&self, job: NewJob) -> Result<Ticket> {
        let number = {
            let mut state = self.state.lock();
            if state.index.key(&job.id).is_some() {
                return Err(crate::Error::Duplicate(job.id));
            }
            state.line.admit(&job, self.options.bounds())?.0.number
        };
        self.publish(Touched { queue: true, history: false });
        Ok(Ticket { id: job.id, number })
    }

    async fn claim(&self, worker: &WorkerId) -> Result<Option<Claim>> {
        let claimed = self.state.lock().line.claim(worker, now_ms());
        self.publish(Touched { queue: claimed.is_some(), history: false });
        Ok(claimed.map(|(_place, claim)| claim))
    }

    async fn finish(&self, token: &Token, outcome: &Outcome) -> Result<()> {
        self.state.lock().finish(token, outcome, self.options)?;
        self.publish(Touched { queue: true, history: true });
        Ok(())
    }

    async fn finish_and_claim(&self, token: &Token, outcome: &Outcome) -> Result<Option<Claim>> {
        let claimed = {
            let mut state = self.state.lock();
            state.finish(token, outcome, self.options)?;
            state.line.claim(&token.worker, now_ms())
        };
        self.publish(Touched { queue: true, history: true });
        Ok(claimed.map(|(_place, claim)| claim))
    }

    async fn requeue(&self, token: &Token) -> Result<()> {
        self.state.lock().line.requeue(token)?;
        self.publish(Touched { queue: true, history: false });
        Ok(())
    }

    async fn queue(&self) -> Result<Queue> {
        Ok(self.state.lock().line.queue())
    }

    async fn counts(&self) -> Result<Counts> {
        Ok(self.state.lock().line.counts())
    }

    async fn remove_pending(&self, ids: &[String]) -> Result<usize> {
        let removed = {
            let mut state = self.state.lock();
            ids.iter().filter(|id| state.line.remove(id).is_some()).count()
        };
        self.publish(Touched { queue: removed > 0, history: false });
        Ok(removed)
    }

    async fn clear_pending(&self) -> Result<usize> {
        let removed = self.state.lock().line.clear();
        self.publish(Touched { queue: removed > 0, history: false });
        Ok(removed)
    }

    async fn history(&self, query: &HistoryQuery) -> Result<Page> {
        let state = self.state.lock();
        let Found { keys, total, next } = state.index.find(query);
        Ok(Page { entries: keys.iter().filter_map(|key| state.history.get(key)).cloned().collect(), total, next })
    }

    async fn history_entry(&self, id: &str) -> Result<Option<Arc<HistoryEntry>>> {
        let state = self.state.lock();
        Ok(state.index.key(id).and_then(|key| state.history.get(&key)).cloned())
    }

    async fn delete_history(&self, ids: &[String]) -> Result<usize> {
        let mut removed = 0;
        {
            let mut state = self.state.lock();
            for id in ids {
                if let Some(key) = state.index.remove(id) {
                    state.history.remove(&key);
                    removed += 1;
                }
            }
        }
        self.publish(Touched { queue: false, history: removed > 0 });
        Ok(removed)
    }

    async fn clear_history(&self) -> Result<usize> {
        let removed = {
            let mut state = self.state.lock();
            state.history.clear();
            state.index.clear()
        };
        self.publish(Touched { queue: false, history: removed > 0 });
        Ok(removed)
    }

    async fn recover(&self, worker: &WorkerId, on_restart: OnRestart) -> Result<Recovered> {
        let figures = {
            let mut state = self.state.lock();
            let restarted = state.line.restart(worker, on_restart);
            for running in restarted.failed {
                let outcome = running.failed(on_restart, now_ms());
                let entry = HistoryEntry::new(running.job.as_ref().clone(), &outcome, usize::MAX)?;
                state.push_history(entry, self.options.max_history);
            }
            restarted.figures
        };
        self.publish(Touched { queue: figures.rerun + figures.failed > 0, history: figures.failed > 0 });
        Ok(figures)
    }

    fn versions(&self) -> watch::Receiver<Versions> {
        self.versions.subscribe()
    }
}

/// Keeps every event, without bound: for tests.
#[derive(Debug, Default)]
pub struct MemorySink {
    events: Mutex<Vec<Event>>,
    /// The version of the queue's newest figures.
    figures: Mutex<u64>,
}

impl MemorySink {
    /// Takes the events since the last call.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock())
    }

    /// Looks at the events since the last [`MemorySink::take`].
    pub fn look<T>(&self, at: impl FnOnce(&[Event]) -> T) -> T {
        at(&self.events.lock())
    }
}

impl EventSink for MemorySink {
    fn emit(&self, event: Event) {
        let mut figures = self.figures.lock();
        if let EventKind::Queue { version, .. } = event.kind {
            if version < *figures {
                return;
            }
            *figures = version;
        }
        self.events.lock().push(event);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;
    use crate::contract::{self, Harness, cluster, sink};
    use crate::event::NullSink;

    struct Memory;

    #[async_trait]
    impl Harness for Memory {
        async fn fresh(&self, limits: Options) -> Arc<dyn JobStore> {
            Arc::new(MemoryStore::new(limits))
        }

        async fn reopen(&self, store: Arc<dyn JobStore>, _limits: Options) -> Arc<dyn JobStore> {
            store
        }

        fn durable(&self) -> bool {
            false
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn contract() {
        contract::run(&Memory).await;
    }

    struct Shared(Mutex<Arc<MemoryStore>>);

    #[async_trait]
    impl cluster::Cluster for Shared {
        async fn fresh(&self) {
            *self.0.lock() = Arc::default();
        }

        async fn join(&self, _name: &str, _limits: Options) -> Arc<dyn JobStore> {
            self.0.lock().clone()
        }

        async fn kill(&self, _store: Arc<dyn JobStore>) {}

        fn apart(&self) -> bool {
            false
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn several_workers() {
        cluster::run(&Shared(Mutex::default())).await;
    }

    /// Clients of a sink that keeps everything in one list: each has its own place in it.
    #[derive(Default)]
    struct Kept {
        sink: Mutex<Arc<MemorySink>>,
        events: Mutex<Vec<Event>>,
        read: Mutex<HashMap<String, usize>>,
    }

    #[async_trait]
    impl sink::Harness for Kept {
        async fn fresh(&self, clients: &[&str]) -> Arc<dyn EventSink> {
            *self.read.lock() = clients.iter().map(|client| ((*client).to_owned(), 0)).collect();
            self.events.lock().clear();
            *self.sink.lock() = Arc::default();
            self.sink.lock().clone()
        }

        async fn told(&self, client: &str) -> Vec<String> {
            self.events.lock().extend(self.sink.lock().take());
            let events = self.events.lock();
            let from = self.read.lock().insert(client.to_owned(), events.len()).unwrap_or(events.len());
            let to_client = |event: &&Event| event.broadcast() || event.client_id.as_deref() == Some(client);
            events[from..].iter().filter(to_client).map(sink::label).collect()
        }
    }

    struct Null;

    #[async_trait]
    impl sink::Harness for Null {
        async fn fresh(&self, _clients: &[&str]) -> Arc<dyn EventSink> {
            Arc::new(NullSink)
        }

        async fn told(&self, _client: &str) -> Vec<String> {
            Vec::new()
        }

        fn observable(&self) -> bool {
            false
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn sinks() {
        sink::run(&Kept::default()).await;
        sink::run(&Null).await;
    }
}
