//! The durable `JobStore` on SQLite: one file (and SQLite's `-wal` and `-shm` beside it, and a `.lock`), one writer.
//!
//! All writes go through one connection. A small change is made on the caller's thread while nothing else is written; otherwise a thread
//! commits everything that waits for it in one transaction and answers each caller after the commit. The queue and the index of the
//! history are mirrored in memory; the history's entries are read from disk through a cache bounded in bytes. A damaged row concerns its prompt only.
//! This crate knows neither HTTP nor what a graph is.

mod access;
mod command;
mod database;
mod error;
mod guard;
mod options;
mod reader;
mod state;
pub mod upkeep;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use comfyd_jobs::index::Found;
use comfyd_jobs::{
    Claim, Counts, HistoryEntry, HistoryQuery, JobStore, NewJob, OnRestart, Outcome, Page, Queue, Recovered, Result as JobResult, Ticket,
    Token, Versions, WorkerId,
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use crate::access::WriteAccess;
use crate::command::{Answer, Claimed, Command, Operation, Reply};
pub use crate::error::Error;
use crate::guard::Guard;
pub use crate::guard::Lock;
pub use crate::options::{Durability, Options};
use crate::reader::Reader;
use crate::state::Shared;
pub use crate::upkeep::{Report, backup, check, restore};
use crate::writer::Writer;

/// How many writes may wait for the writer; further callers wait for a place.
const MAX_WAITING: usize = 1024;

/// A queue and a history in an SQLite database.
///
/// Dropping it closes it, and leaves what runs as it is: that counts as a crash.
#[derive(Debug)]
pub struct SqliteStore {
    shared: Arc<Shared>,
    reader: Reader,
    commands: mpsc::Sender<Command>,
    thread: Mutex<Option<JoinHandle<()>>>,
    access: Arc<WriteAccess>,
    max_outcome_bytes: usize,
    /// Holds the lock, which is released last.
    guard: Arc<Guard>,
}

impl SqliteStore {
    /// Opens a database, or makes it (and its folder). Reads the queue and the history's index; blocks meanwhile.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        Self::open_locked(Lock::database(path.as_ref())?, options)
    }

    /// [`SqliteStore::open`] for who has locked the database already.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open_locked(lock: Lock, options: Options) -> Result<Self, Error> {
        let path = lock.target().to_owned();
        let (connection, loaded) = database::open(&path, &options)?;
        let shared = Arc::new(Shared::new(loaded.state.clone(), options.cache_bytes));
        let guard = Arc::new(Guard::new(lock, shared.clone())?);
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let writer = Writer::new(connection, loaded, options, shared.clone(), sender.downgrade());
        let access = Arc::new(WriteAccess::new(writer, options.durability == Durability::Normal));
        let (work, watch) = (access.clone(), guard.clone());
        let run = move || {
            if let Some(writer) = work.run(receiver) {
                writer.close(watch.check().is_ok());
            }
        };
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(run).map_err(|source| Error::Io { path, source })?;
        let reader = Reader::new(guard.clone(), shared.clone());
        let max_outcome_bytes = options.max_outcome_bytes;
        Ok(Self { shared, reader, commands: sender, thread: Mutex::new(Some(thread)), access, max_outcome_bytes, guard })
    }

    /// Whether the database's files are still those that were opened. Says so in the log when that changes.
    ///
    /// # Errors
    /// [`comfyd_jobs::Error::Unavailable`] when one was deleted or replaced: what is written from then on is lost when the process ends.
    pub fn check(&self) -> JobResult<()> {
        self.guard.check()
    }

    /// Finishes the writes under way, puts back what runs, brings everything into the database's one file and closes it. Later calls fail.
    /// Blocks.
    pub fn close(&self) {
        self.end(true);
    }

    fn end(&self, orderly: bool) {
        self.reader.close();
        self.access.close(&self.commands, orderly);
        if self.thread.lock().take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the store's writer ended with a panic");
        }
    }

    async fn write(&self, operation: Operation) -> JobResult<Answer> {
        self.ask(|reply| Command::Write { operation, reply }).await
    }

    async fn ask(&self, command: impl FnOnce(Reply) -> Command) -> JobResult<Answer> {
        let (reply, answer) = oneshot::channel();
        if let Err(command) = self.access.do_now(command(reply), &self.commands)
            && !self.access.queue(command, &self.commands).await
        {
            return Err(stopped());
        }
        answer.await.map_err(|_closed| stopped())?
    }

    /// The history's entry of a job that runs.
    fn entry(&self, token: &Token, outcome: &Outcome) -> JobResult<Arc<HistoryEntry>> {
        let job = self.shared.state.lock().line.held(token)?.job.as_ref().clone();
        Ok(Arc::new(HistoryEntry::new(job, outcome, self.max_outcome_bytes)?))
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.end(false);
    }
}

#[async_trait]
impl JobStore for SqliteStore {
    async fn enqueue(&self, job: NewJob) -> JobResult<Ticket> {
        self.guard.check()?;
        match self.write(Operation::Enqueue(Box::new(job))).await? {
            Answer::Ticket(ticket) => Ok(ticket),
            other => Err(other.misplaced()),
        }
    }

    async fn claim(&self, worker: &WorkerId) -> JobResult<Option<Claim>> {
        if self.shared.state.lock().line.waiting() == 0 {
            return Ok(None);
        }
        match self.write(Operation::Claim(worker.clone())).await? {
            Answer::Claimed(claimed) => Ok(claimed.map(Claimed::keep)),
            other => Err(other.misplaced()),
        }
    }

    async fn next_job(&self, worker: &WorkerId) -> JobResult<Claim> {
        match self.ask(|reply| Command::Next { worker: worker.clone(), reply }).await? {
            Answer::Claimed(Some(claimed)) => Ok(claimed.keep()),
            other => Err(other.misplaced()),
        }
    }

    async fn finish(&self, token: &Token, outcome: &Outcome) -> JobResult<()> {
        let entry = self.entry(token, outcome)?;
        self.write(Operation::Finish(token.clone(), entry)).await?.done()
    }

    async fn finish_and_claim(&self, token: &Token, outcome: &Outcome) -> JobResult<Option<Claim>> {
        let entry = self.entry(token, outcome)?;
        match self.write(Operation::HandOver(token.clone(), entry)).await? {
            Answer::Claimed(claimed) => Ok(claimed.map(Claimed::keep)),
            other => Err(other.misplaced()),
        }
    }

    async fn requeue(&self, token: &Token) -> JobResult<()> {
        self.write(Operation::Requeue(token.clone())).await?.done()
    }

    async fn queue(&self) -> JobResult<Queue> {
        Ok(self.shared.state.lock().line.queue())
    }

    async fn counts(&self) -> JobResult<Counts> {
        Ok(self.shared.state.lock().line.counts())
    }

    // What is not there can be removed without the database, which may be full or in use.

    async fn remove_pending(&self, ids: &[String]) -> JobResult<usize> {
        if !self.shared.state.lock().line.any_waits(ids) {
            return Ok(0);
        }
        self.write(Operation::RemovePending(ids.to_vec())).await?.count()
    }

    async fn clear_pending(&self) -> JobResult<usize> {
        if self.shared.state.lock().line.waiting() == 0 {
            return Ok(0);
        }
        self.write(Operation::ClearPending).await?.count()
    }

    async fn history(&self, query: &HistoryQuery) -> JobResult<Page> {
        let Found { keys, total, next } = self.shared.state.lock().history.find(query);
        Ok(Page { entries: self.reader.entries(keys).await?, total, next })
    }

    async fn history_entry(&self, id: &str) -> JobResult<Option<Arc<HistoryEntry>>> {
        let Some(key) = self.shared.state.lock().history.key(id) else { return Ok(None) };
        self.reader.entry(id, key).await
    }

    async fn delete_history(&self, ids: &[String]) -> JobResult<usize> {
        if !ids.iter().any(|id| self.shared.state.lock().history.key(id).is_some()) {
            return Ok(0);
        }
        self.write(Operation::DeleteHistory(ids.to_vec())).await?.count()
    }

    async fn clear_history(&self) -> JobResult<usize> {
        if self.shared.state.lock().history.is_empty() {
            return Ok(0);
        }
        self.write(Operation::ClearHistory).await?.count()
    }

    async fn recover(&self, worker: &WorkerId, on_restart: OnRestart) -> JobResult<Recovered> {
        match self.write(Operation::Recover(worker.clone(), on_restart)).await? {
            Answer::Recovered(recovered) => Ok(recovered),
            other => Err(other.misplaced()),
        }
    }

    fn versions(&self) -> watch::Receiver<Versions> {
        self.shared.versions.subscribe()
    }
}

fn stopped() -> comfyd_jobs::Error {
    comfyd_jobs::Error::Unavailable("it is closed: start the server again".to_owned())
}
