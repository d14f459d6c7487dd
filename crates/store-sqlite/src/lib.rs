//! The durable `JobStore` on SQLite: one file (and SQLite's `-wal` and `-shm` beside it, and a `.lock`), one writer.
//!
//! All writes go through one connection. A small change is made on the caller's thread while nothing else is written; otherwise a thread
//! commits everything that waits for it in one transaction and answers each caller after the commit. The queue and the index of the
//! history are mirrored in memory; the history's entries are read from disk through a cache bounded in bytes. A damaged row concerns its prompt only.
//! This crate knows neither HTTP nor what a graph is.

mod cache;
mod command;
mod database;
mod desk;
mod guard;
mod reader;
mod state;
mod writer;

use std::path::{Path, PathBuf};
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

use crate::command::{Answer, Claimed, Command, Operation, Reply};
use crate::desk::Desk;
use crate::guard::Guard;
pub use crate::guard::Lock;
use crate::reader::Reader;
use crate::state::Shared;
use crate::writer::Writer;

/// How many writes may wait for the writer; further callers wait for a place.
const MAX_WAITING: usize = 1024;

/// How much a commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The end of the process, `kill -9` included. After a loss of power the last commits may be gone; the database stays whole.
    #[default]
    Normal,
    /// A loss of power too: each commit waits for the disk.
    Full,
}

/// A store's bounds and how durable it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How many jobs may wait. They are kept in memory too.
    pub max_pending: usize,
    /// How many finished jobs are kept; the oldest go first. Each costs about 400 bytes of memory, besides the cache.
    pub max_history: usize,
    /// How much of the history is kept in memory, in bytes.
    pub cache_bytes: usize,
    /// How many bytes of JSON the outcome of one job may have.
    pub max_outcome_bytes: usize,
    /// How much a commit survives.
    pub durability: Durability,
}

impl Default for Options {
    /// 10,000 of each, 32 MiB of cache, 64 MiB an outcome, [`Durability::Normal`].
    fn default() -> Self {
        Self {
            max_pending: 10_000,
            max_history: 10_000,
            cache_bytes: 32 << 20,
            max_outcome_bytes: 64 << 20,
            durability: Durability::Normal,
        }
    }
}

/// Why a database could not be opened. Nothing is ever deleted or overwritten because of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process, or another store of this one, has the database or the folder.
    #[error("'{}' is in use by {holder}: stop that server, or give this one a place of its own", path.display())]
    InUse {
        /// The database or folder.
        path: PathBuf,
        /// Who has it, as far as known.
        holder: String,
    },
    /// It was written by a later version.
    #[error(
        "the database '{}' has format {found}, and this version knows formats up to {known}: upgrade comfyd, or give it another database",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The last one that is known.
        known: i64,
    },
    /// It is a database, but not comfyd's.
    #[error("'{}' is the database of another program: give comfyd a file of its own", path.display())]
    Foreign {
        /// The database.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error(
        "the database '{}' is damaged ({detail}): restore it from a backup, or move it away to start with an empty queue and history",
        path.display()
    )]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// SQLite failed otherwise.
    #[error("cannot open the database '{}': {source}: check the folder's permissions and the free space", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What it said.
        source: rusqlite::Error,
    },
    /// A file or a thread could not be made.
    #[error("cannot use '{}': {source}: check the path, the permissions, and that it is on a local disk", path.display())]
    Io {
        /// The database, or the file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A queue and a history in an SQLite database.
///
/// Dropping it closes it.
#[derive(Debug)]
pub struct SqliteStore {
    shared: Arc<Shared>,
    reader: Reader,
    commands: mpsc::Sender<Command>,
    thread: Mutex<Option<JoinHandle<()>>>,
    desk: Arc<Desk>,
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
        let desk = Arc::new(Desk::new(writer, options.durability == Durability::Normal));
        let (work, watch) = (desk.clone(), guard.clone());
        let run = move || {
            if let Some(writer) = work.run(receiver) {
                writer.close(watch.check().is_ok());
            }
        };
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(run).map_err(|source| Error::Io { path, source })?;
        let reader = Reader::new(guard.clone(), shared.clone());
        let max_outcome_bytes = options.max_outcome_bytes;
        Ok(Self { shared, reader, commands: sender, thread: Mutex::new(Some(thread)), desk, max_outcome_bytes, guard })
    }

    /// Whether the database's files are still those that were opened. Says so in the log when that changes.
    ///
    /// # Errors
    /// [`comfyd_jobs::Error::Unavailable`] when one was deleted or replaced: what is written from then on is lost when the process ends.
    pub fn check(&self) -> JobResult<()> {
        self.guard.check()
    }

    /// Finishes the writes under way, brings everything into the database's one file and closes it. Later calls fail. Blocks.
    pub fn close(&self) {
        self.reader.close();
        self.desk.close(&self.commands);
        if self.thread.lock().take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the store's writer ended with a panic");
        }
    }

    async fn write(&self, operation: Operation) -> JobResult<Answer> {
        self.ask(|reply| Command::Write { operation, reply }).await
    }

    async fn ask(&self, command: impl FnOnce(Reply) -> Command) -> JobResult<Answer> {
        let (reply, answer) = oneshot::channel();
        if let Err(command) = self.desk.do_now(command(reply), &self.commands)
            && !self.desk.queue(command, &self.commands).await
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
        self.close();
    }
}

#[async_trait]
impl JobStore for SqliteStore {
    async fn enqueue(&self, job: NewJob) -> JobResult<Ticket> {
        self.guard.check()?;
        match self.write(Operation::Enqueue(job)).await? {
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
