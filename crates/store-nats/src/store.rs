//! The store: what the contract asks for, in terms of the changes that [`Inner`] makes.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use comfyd_jobs::index::Found;
use comfyd_jobs::{
    Claim, Counts, Error as JobError, HistoryEntry, HistoryQuery, JobStore, Needs, NewJob, OnRestart, Outcome, Page, Queue, Recovered,
    Result, Ticket, Token, Versions, WorkerId,
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::connect::Link;
use crate::error::Error;
use crate::inner::{Held, Inner};
use crate::mirror::READERS;
use crate::options::Options;

/// A queue and a history in NATS. Opened and used inside a tokio runtime, which also does its work in the background.
///
/// Dropping it leaves what runs as it is; the lease on it ends, or the next process of its name takes it over.
#[derive(Debug)]
pub struct NatsStore {
    pub(crate) inner: Arc<Inner>,
    runtime: Handle,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl NatsStore {
    /// Joins a cluster, or makes it, and reads what waits, what runs, and the history's index.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn open(link: &Link, options: Options) -> std::result::Result<Self, Error> {
        let inner = Arc::new(Inner::open(link, options).await?);
        let tasks = [inner.clone().follow(), inner.clone().keep_leases()];
        Ok(Self { inner, runtime: Handle::current(), tasks: Mutex::new(tasks.into()) })
    }

    /// Which life of its process this is: what it claims is held by it.
    pub fn session(&self) -> &str {
        self.inner.session()
    }

    /// The name of its process.
    pub fn instance(&self) -> &str {
        &self.inner.mirror.instance
    }

    /// Tells the others that this process ends: what it still holds is given back at once.
    pub async fn leave(&self) {
        self.inner.tell_end().await;
        self.close();
    }

    /// Who holds what runs: prompt ids and sessions, in the order in which they were claimed.
    pub fn holders(&self) -> Vec<(String, String)> {
        self.inner.holders()
    }

    /// How NATS keeps the jobs, for people.
    ///
    /// # Errors
    /// When NATS does not answer.
    pub async fn replication(&self) -> Result<String> {
        self.inner.replication().await
    }

    /// Claims for a worker only what this wants for it from now on.
    pub fn claims_only(&self, wants: impl Fn(&WorkerId, &Needs) -> bool + Send + Sync + 'static) {
        *self.inner.wants.write() = Some(Arc::new(wants));
        self.inner.wake();
    }

    /// Ends what it does in the background. Later changes are not seen.
    pub fn close(&self) {
        self.tasks.lock().drain(..).for_each(|task| task.abort());
    }

    /// Does this in the background until it is closed.
    pub(crate) fn keep(&self, task: JoinHandle<()>) {
        self.tasks.lock().push(task);
    }

    /// Gives a claim that is made in the background, and puts the job back if nobody waits for it any more.
    async fn claimed(&self, worker: &WorkerId, waits: bool) -> Result<Option<Held>> {
        let (reply, answer) = oneshot::channel();
        let (inner, worker) = (self.inner.clone(), worker.clone());
        self.runtime.spawn(async move { inner.claim_for(&worker, waits, reply).await });
        answer.await.map_err(|_closed| stopped())?
    }
}

impl Drop for NatsStore {
    fn drop(&mut self) {
        self.close();
    }
}

#[async_trait]
impl JobStore for NatsStore {
    async fn enqueue(&self, job: NewJob) -> Result<Ticket> {
        // Goes on though the caller may leave: whatever becomes of it, the next one finds the numbers in order.
        let inner = self.inner.clone();
        self.runtime.spawn(async move { inner.enqueue(job).await }).await.map_err(|_panic| stopped())?
    }

    async fn claim(&self, worker: &WorkerId) -> Result<Option<Claim>> {
        Ok(self.claimed(worker, false).await?.map(Held::keep))
    }

    async fn next_job(&self, worker: &WorkerId) -> Result<Claim> {
        self.claimed(worker, true).await?.map(Held::keep).ok_or_else(stopped)
    }

    async fn finish(&self, token: &Token, outcome: &Outcome) -> Result<()> {
        self.inner.finish(token, outcome).await
    }

    /// Both are written at the same time, so that the worker waits once. Where the end is refused, the job that was claimed goes back; that
    /// none could be claimed is no failure of the end.
    async fn finish_and_claim(&self, token: &Token, outcome: &Outcome) -> Result<Option<Claim>> {
        if !self.inner.is_held(token) {
            self.inner.finish(token, outcome).await?;
            return Ok(self.claimed(&token.worker, false).await?.map(Held::keep));
        }
        let (ended, claimed) = tokio::join!(self.inner.finish(token, outcome), self.claimed(&token.worker, false));
        let claimed = claimed.unwrap_or_else(|error| {
            tracing::debug!(%error, "no job could be claimed along with the end of one");
            None
        });
        match (ended, claimed.map(Held::keep)) {
            (Ok(()), claim) => Ok(claim),
            (Err(error), claim) => {
                if let Some(claim) = claim
                    && let Err(error) = self.inner.requeue(&claim.token).await
                {
                    tracing::warn!(%error, prompt_id = claim.token.prompt_id, "a prompt could not be put back: its lease ends");
                }
                Err(error)
            }
        }
    }

    async fn requeue(&self, token: &Token) -> Result<()> {
        self.inner.requeue(token).await
    }

    async fn queue(&self) -> Result<Queue> {
        Ok(self.inner.mirror.state.lock().line.queue())
    }

    async fn counts(&self) -> Result<Counts> {
        Ok(self.inner.mirror.state.lock().line.counts())
    }

    async fn answers(&self) -> Result<()> {
        self.inner.answers().await
    }

    async fn remove_pending(&self, ids: &[String]) -> Result<usize> {
        self.inner.remove_waiting(|id| ids.iter().any(|wanted| wanted == id)).await
    }

    async fn clear_pending(&self) -> Result<usize> {
        self.inner.remove_waiting(|_| true).await
    }

    async fn history(&self, query: &HistoryQuery) -> Result<Page> {
        let Found { keys, total, next } = self.inner.mirror.state.lock().index.find(query);
        let read = futures_util::stream::iter(keys).map(async |key| match self.inner.entry(key).await {
            // One damaged entry concerns its prompt only.
            Err(JobError::Damaged { id, detail }) => {
                tracing::warn!(id, detail, "a stored prompt is damaged: it is left out");
                Ok(None)
            }
            other => other,
        });
        let entries: Vec<_> = read.buffered(READERS).try_filter_map(async |entry| Ok(entry)).try_collect().await?;
        Ok(Page { entries, total, next })
    }

    async fn history_entry(&self, id: &str) -> Result<Option<Arc<HistoryEntry>>> {
        let Some(key) = self.inner.mirror.state.lock().index.key(id) else { return Ok(None) };
        self.inner.entry(key).await
    }

    async fn delete_history(&self, ids: &[String]) -> Result<usize> {
        let entries = {
            let state = self.inner.mirror.state.lock();
            let mut keys: Vec<i64> = ids.iter().filter_map(|id| state.index.key(id)).collect();
            keys.sort_unstable();
            keys.dedup();
            keys.into_iter().filter_map(|key| Some((key, state.index.id(key)?))).collect()
        };
        self.inner.forget(entries).await
    }

    async fn clear_history(&self) -> Result<usize> {
        let entries = self.inner.mirror.state.lock().index.oldest(usize::MAX);
        self.inner.forget(entries).await
    }

    async fn recover(&self, worker: &WorkerId, on_restart: OnRestart) -> Result<Recovered> {
        self.inner.recover(worker, on_restart).await
    }

    async fn waiting_for(&self) -> Result<HashMap<String, String>> {
        Ok(self.lacking())
    }

    fn versions(&self) -> watch::Receiver<Versions> {
        self.inner.mirror.versions.subscribe()
    }
}

fn stopped() -> JobError {
    JobError::Unavailable("it is closed: start the server again".to_owned())
}
