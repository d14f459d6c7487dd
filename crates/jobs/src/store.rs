//! The job model and the store's contract.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fmt, io};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json};
use tokio::sync::watch;

use crate::message::{Failure, Interruption, Message, NodeRef, StoredMessages, StoredPlaces};
use crate::secrets::Secrets;

/// A store's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The prompt id is in use, in the queue or in the history.
    #[error("prompt id '{0}' is already known: choose another, or leave prompt_id out and one is made")]
    Duplicate(String),
    /// The queue's bound is reached.
    #[error("the queue is full ({0} prompts): wait until some are done, or raise the limit")]
    Full(usize),
    /// The queue's bound in bytes is reached.
    #[error(
        "the prompts that wait would have more than {} MiB together: wait until some are done, send less in each, or raise the limit with \
         --queue-size",
        .0 >> 20
    )]
    FullBytes(usize),
    /// The bound of one owner's prompts is reached.
    #[error("{0} prompts of yours wait or run, which is all that a user may have: wait until some are done, or take some back")]
    OwnerFull(usize),
    /// No such running job (it was finished or removed meanwhile).
    #[error("prompt '{0}' is not running")]
    NotRunning(String),
    /// It runs, but whoever says so does not hold it any more: it went back into the queue and was claimed anew.
    #[error("prompt '{0}' was given to another worker: this one's result is not wanted any more")]
    NotHeld(String),
    /// It can never be stored, however often it is tried.
    #[error("it cannot be stored: {0}")]
    Unstorable(String),
    /// The disk is full.
    #[error("no space is left on the disk of the job store: make room and try again")]
    NoSpace,
    /// The storage cannot be used at present; the text says why and what to do.
    #[error("the job store cannot be used: {0}")]
    Unavailable(String),
    /// What is stored cannot be read.
    #[error("the stored prompt '{id}' is damaged ({detail}): delete it from the history")]
    Damaged {
        /// The prompt id.
        id: String,
        /// What is wrong.
        detail: String,
    },
    /// The storage failed.
    #[error("the job store failed: {0}")]
    Storage(String),
}

/// Where a new job goes: before and after which others of its owner. Owners take turns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Position {
    /// After all others: the next number.
    Back,
    /// Before all others: the next number, negated.
    Front,
    /// With the number that the client gave; lower numbers run first, and NaN counts as infinite. Does not use up a number.
    At(f64),
}

/// A prompt to enqueue: validated, with its JSON as text so that it is stored and answered without parsing it again.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// The prompt id, verbatim.
    pub id: String,
    /// Where it goes.
    pub position: Position,
    /// Whose it is; empty where nobody is told apart.
    pub owner: Arc<str>,
    /// The client that its events go to, if it gave an id.
    pub client_id: Option<Arc<str>>,
    /// The id that the front end gave the workflow, if it did.
    pub workflow_id: Option<Arc<str>>,
    /// The graph in API format.
    pub prompt: Arc<RawValue>,
    /// `extra_data`, with `client_id` and `create_time` in it and without the secrets.
    pub extra_data: Arc<RawValue>,
    /// What was secret in `extra_data`. A store keeps the names of these; the values end with the job or the process.
    pub secrets: Secrets,
    /// The output nodes to run, in order.
    pub outputs: Vec<String>,
    /// When it came, in milliseconds since 1970.
    pub created_ms: i64,
    /// What whoever runs it must have.
    pub needs: Arc<Needs>,
}

impl NewJob {
    /// The job that becomes of it with this number.
    pub fn numbered(&self, number: f64) -> Job {
        Job {
            id: self.id.clone(),
            number,
            owner: self.owner.clone(),
            client_id: self.client_id.clone(),
            workflow_id: self.workflow_id.clone(),
            prompt: self.prompt.clone(),
            extra_data: self.extra_data.clone(),
            secrets: self.secrets.clone(),
            outputs: self.outputs.clone(),
            created_ms: self.created_ms,
            needs: self.needs.clone(),
        }
    }
}

/// What a worker must have to run a job. A store whose workers are all alike keeps nothing of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// Node classes.
    #[serde(default)]
    pub classes: Vec<Arc<str>>,
    /// Model files: their folder's name and theirs.
    #[serde(default)]
    pub models: Vec<(Arc<str>, Arc<str>)>,
    /// What a later version needs besides: it stays.
    #[serde(flatten)]
    pub more: Map<String, Json>,
}

/// A queued or running prompt.
#[derive(Debug, Clone)]
pub struct Job {
    /// The prompt id.
    pub id: String,
    /// Its place in the queue; ties run in the order of arrival.
    pub number: f64,
    /// Whose it is; empty where nobody is told apart.
    pub owner: Arc<str>,
    /// The client that its events go to, if it gave an id.
    pub client_id: Option<Arc<str>>,
    /// The id that the front end gave the workflow, if it did.
    pub workflow_id: Option<Arc<str>>,
    /// The graph in API format.
    pub prompt: Arc<RawValue>,
    /// `extra_data`.
    pub extra_data: Arc<RawValue>,
    /// What was secret in it.
    pub secrets: Secrets,
    /// The output nodes to run.
    pub outputs: Vec<String>,
    /// When it was enqueued, in milliseconds since 1970.
    pub created_ms: i64,
    /// What whoever runs it must have.
    pub needs: Arc<Needs>,
}

/// Who claims jobs: a device of a host. No two that use a store at the same time have the same name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkerId(Arc<str>);

impl WorkerId {
    /// The worker with this name.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a worker shows to end a job that it has claimed. It is worth nothing once the job is put back, recovered or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The prompt id.
    pub prompt_id: String,
    /// Who claimed it.
    pub worker: WorkerId,
    /// Which claim it was; each gets another number while the store is open.
    pub claim: i64,
}

/// A job that a worker has claimed.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The job.
    pub job: Arc<Job>,
    /// With it the job is ended or put back.
    pub token: Token,
}

/// What [`JobStore::enqueue`] gives back.
#[derive(Debug, Clone, PartialEq)]
pub struct Ticket {
    /// The prompt id.
    pub id: String,
    /// The number it got.
    pub number: f64,
}

/// How a prompt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All outputs ran.
    Success,
    /// A node failed, or the server stopped and was told not to run it again.
    Error,
    /// The user interrupted it. On the wire this is `error`, as in the reference; the messages tell.
    Interrupted,
}

/// A finished prompt's result.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// What the history tells of it, in order; the last one is its end.
    pub messages: Vec<Message>,
    /// What each output node shows: node id → `ui` object.
    pub outputs: Json,
    /// Those nodes.
    pub meta: Vec<NodeRef>,
    /// When it began to run, in milliseconds since 1970.
    pub started_ms: i64,
    /// When it ended.
    pub ended_ms: i64,
}

/// A finished prompt.
#[derive(Debug, Clone)]
pub struct HistoryEntry {
    /// The prompt as it was queued.
    pub job: Job,
    /// How it ended.
    pub status: Status,
    /// JSON array of `[name, data]`, as [`Message`] is stored.
    pub messages: Arc<RawValue>,
    /// JSON object: node id → what it shows.
    pub outputs: Arc<RawValue>,
    /// JSON object: node id → where it belongs.
    pub meta: Arc<RawValue>,
    /// When it began to run, in milliseconds since 1970.
    pub started_ms: i64,
    /// When it ended.
    pub ended_ms: i64,
}

impl HistoryEntry {
    /// The entry for a job that ended, its parts as JSON text of at most `max_bytes` together.
    ///
    /// # Errors
    /// [`Error::Unstorable`] when the parts are larger, or cannot be written as JSON.
    pub fn new(job: Job, outcome: &Outcome, max_bytes: usize) -> Result<Self> {
        outcome.bytes(max_bytes)?;
        Ok(Self {
            // A history knows no secrets.
            job: Job { secrets: Secrets::default(), ..job },
            status: outcome.status,
            messages: raw(&StoredMessages(&outcome.messages))?,
            outputs: raw(&outcome.outputs)?,
            meta: raw(&StoredPlaces(&outcome.meta))?,
            started_ms: outcome.started_ms,
            // The clock may have been set back meanwhile.
            ended_ms: outcome.ended_ms.max(outcome.started_ms),
        })
    }
}

impl Outcome {
    /// The outcome of a job that failed for a reason that lies in no node.
    pub fn failed(prompt_id: &str, kind: &'static str, message: &str, started_ms: i64, ended_ms: i64) -> Self {
        let failure = Failure {
            prompt_id: prompt_id.into(),
            node_id: Arc::default(),
            node_type: Arc::default(),
            executed: Vec::new(),
            exception_message: message.to_owned(),
            exception_type: kind.into(),
            traceback: Vec::new(),
            current_inputs: Json::Object(serde_json::Map::new()),
            current_outputs: Vec::new(),
            timestamp_ms: Some(ended_ms),
        };
        Self::bare(Status::Error, Message::Failed(Box::new(failure)), started_ms, ended_ms)
    }

    /// The outcome of a job that was running when the server stopped and is not to run again.
    pub fn stopped(job: &Job, started_ms: i64, ended_ms: i64) -> Self {
        let message = "the server stopped while this prompt was running: submit it again";
        Self::failed(&job.id, "ServerStopped", message, started_ms, ended_ms)
    }

    /// The outcome of a job that was running whenever the server ended without warning, so many times that it may be the cause.
    pub fn crashed(job: &Job, crashes: u32, started_ms: i64, ended_ms: i64) -> Self {
        let times = if crashes == 1 { "once".to_owned() } else { format!("{crashes} times") };
        let message = format!(
            "the server ended {times} while this prompt was running, so it is not run again: if it needs more memory than there is, make \
             it smaller (pictures, batches, models); if something else ended the server, submit it again, or raise --max-crashes"
        );
        Self::failed(&job.id, "ServerCrashed", &message, started_ms, ended_ms)
    }

    /// The outcome of a job that was interrupted in no node.
    pub fn interrupted(prompt_id: &str, started_ms: i64, ended_ms: i64) -> Self {
        let end = Interruption {
            prompt_id: prompt_id.into(),
            node_id: Arc::default(),
            node_type: Arc::default(),
            executed: Vec::new(),
            timestamp_ms: ended_ms,
        };
        Self::bare(Status::Interrupted, Message::Interrupted(end), started_ms, ended_ms)
    }

    fn bare(status: Status, end: Message, started_ms: i64, ended_ms: i64) -> Self {
        let outputs = Json::Object(serde_json::Map::new());
        Self { status, messages: vec![end], outputs, meta: Vec::new(), started_ms, ended_ms }
    }

    /// How many bytes its JSON has.
    ///
    /// # Errors
    /// [`Error::Unstorable`] when there are more than `max_bytes`, or when it cannot be written as JSON.
    pub fn bytes(&self, max_bytes: usize) -> Result<usize> {
        let mut count = Count { room: max_bytes };
        match serde_json::to_writer(&mut count, &(StoredMessages(&self.messages), &self.outputs, StoredPlaces(&self.meta))) {
            Ok(()) => Ok(max_bytes - count.room),
            Err(error) if error.is_io() => Err(Error::Unstorable(format!(
                "the outcome of the prompt has more than {max_bytes} bytes: show less text, or save it into files"
            ))),
            Err(error) => Err(unwritable(&error)),
        }
    }
}

/// Counts what is written to it, up to a bound.
struct Count {
    room: usize,
}

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.room = self.room.checked_sub(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Which part of the history to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Only prompts that ended in one of these ways; in any, if there is none.
    pub statuses: Vec<Status>,
    /// Only prompts of this owner.
    pub owner: Option<Arc<str>>,
    /// Only prompts of this workflow.
    pub workflow_id: Option<Arc<str>>,
    /// Only prompts that ended in this time: from the first to the last, in milliseconds since 1970.
    pub ended_ms: Option<(i64, i64)>,
    /// What they are sorted by.
    pub order: Order,
    /// From the highest to the lowest, and the last first among equal ones.
    pub descending: bool,
    /// Only what comes behind this place. New entries do not move it, as they do an offset.
    pub after: Option<Cursor>,
    /// Skip so many.
    pub offset: usize,
    /// At most so many; all when `None`.
    pub limit: Option<usize>,
}

/// What entries of the history are sorted by; equal ones stand in the order in which they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// The order in which they ended.
    #[default]
    Ended,
    /// When they were enqueued.
    Created,
    /// How long they ran.
    Duration,
}

/// A place in a sorted history, for whoever goes on reading there with the same order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// What the entry is sorted by.
    pub(crate) value: i64,
    /// Its key in the index.
    pub(crate) key: i64,
}

/// What a query found.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The entries. Some may be missing: those that were deleted meanwhile, and those that are damaged.
    pub entries: Vec<Arc<HistoryEntry>>,
    /// How many there are with these filters, on this page and on others.
    pub total: usize,
    /// Where the next page begins, if there is one.
    pub next: Option<Cursor>,
}

/// The queue as it stands.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    /// Running prompts, in the order in which they were claimed.
    pub running: Vec<Arc<Job>>,
    /// Waiting prompts, next one first.
    pub pending: Vec<Arc<Job>>,
}

/// The queue's figures, for `status` events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// How many run.
    pub running: usize,
    /// How many wait.
    pub pending: usize,
    /// The ids of those that run.
    pub running_ids: Vec<String>,
    /// The same of each owner that has any; not of nobody in particular.
    pub owners: HashMap<Arc<str>, Counts>,
}

impl Counts {
    /// Those of one owner.
    pub fn of(&self, owner: &str) -> Self {
        self.owners.get(owner).cloned().unwrap_or_default()
    }

    /// Counts a job that was claimed, but of whose start nobody was told yet, as waiting.
    pub fn as_waiting(&mut self, job: &Job) {
        self.of_running(&job.owner, |counts| {
            if let Some(at) = counts.running_ids.iter().position(|id| *id == job.id) {
                counts.running_ids.remove(at);
                counts.running -= 1;
                counts.pending += 1;
            }
        });
    }

    /// Changes all figures that a running job of this owner is in.
    pub(crate) fn of_running(&mut self, owner: &Arc<str>, change: impl Fn(&mut Self)) {
        change(self);
        if !owner.is_empty() {
            change(self.owners.entry(Arc::clone(owner)).or_default());
        }
    }
}

/// What becomes of prompts that were running when the server stopped without warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRestart {
    /// Run them again, before the others.
    Rerun {
        /// One that was running so often when the server ended has failed: it may be what ends it. 0 is no limit.
        max_crashes: u32,
    },
    /// Put them into the history as failed.
    Fail,
}

/// What [`JobStore::recover`] found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Prompts waiting, those to run again included.
    pub pending: usize,
    /// Prompts that were running and will run again.
    pub rerun: usize,
    /// Prompts that were running and were marked failed.
    pub failed: usize,
}

/// Counters that grow with every change: what is derived from the store (rendered lists, workers that wait) watches them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Versions {
    /// Grows when a job is enqueued, claimed, finished or removed.
    pub queue: u64,
    /// Grows when the history changes.
    pub history: u64,
}

/// The durable queue and history. When a method that writes returns, what it wrote survives the process.
///
/// Implementations run `contract::run` in their tests.
#[async_trait]
pub trait JobStore: Send + Sync + 'static {
    /// Stores a job. Refuses a known id and a full queue.
    async fn enqueue(&self, job: NewJob) -> Result<Ticket>;

    /// Gives a worker the next waiting job and marks it as running; `None` if none waits. Does not wait: see [`JobStore::next_job`]. A job
    /// that was claimed for a caller who has gone meanwhile goes back.
    async fn claim(&self, worker: &WorkerId) -> Result<Option<Claim>>;

    /// Takes the next waiting job as [`JobStore::claim`] does, and waits for one if none waits; callers are served in the order in which
    /// they came. A store may mark a job as running in the same step that stores it.
    async fn next_job(&self, worker: &WorkerId) -> Result<Claim> {
        let mut versions = self.versions();
        loop {
            // Before the claim, so that a job enqueued after it is noticed.
            versions.borrow_and_update();
            if let Some(claim) = self.claim(worker).await? {
                return Ok(claim);
            }
            versions.changed().await.map_err(|_gone| Error::Storage("it has stopped: restart the server".to_owned()))?;
        }
    }

    /// Moves a running job into the history, and drops the oldest entries over the history's bound. Refuses who does not hold the job any
    /// more ([`Error::NotRunning`], [`Error::NotHeld`]) and an outcome that can never be stored ([`Error::Unstorable`]); after any other
    /// failure it may be tried again.
    async fn finish(&self, token: &Token, outcome: &Outcome) -> Result<()>;

    /// [`JobStore::finish`] and [`JobStore::claim`] for the same worker in one step: both are done and survive the process, or neither.
    /// What a worker calls between two jobs, since each step of its own would wait for the storage.
    async fn finish_and_claim(&self, token: &Token, outcome: &Outcome) -> Result<Option<Claim>>;

    /// Puts a running job back with its old number (shutdown). Refuses who does not hold it any more.
    async fn requeue(&self, token: &Token) -> Result<()>;

    /// Running and waiting jobs.
    async fn queue(&self) -> Result<Queue>;

    /// The queue's figures.
    async fn counts(&self) -> Result<Counts>;

    /// Whether a prompt could be stored now. A store whose lists are in memory while what it stores is elsewhere asks there.
    async fn answers(&self) -> Result<()> {
        self.counts().await.map(drop)
    }

    /// Removes waiting jobs by id; unknown and running ones are passed over. Returns how many were removed.
    async fn remove_pending(&self, ids: &[String]) -> Result<usize>;

    /// Removes all waiting jobs. Returns how many.
    async fn clear_pending(&self) -> Result<usize>;

    /// Reads the history.
    async fn history(&self, query: &HistoryQuery) -> Result<Page>;

    /// One finished prompt.
    async fn history_entry(&self, id: &str) -> Result<Option<Arc<HistoryEntry>>>;

    /// Removes entries by id; returns how many.
    async fn delete_history(&self, ids: &[String]) -> Result<usize>;

    /// Removes all entries; returns how many.
    async fn clear_history(&self) -> Result<usize>;

    /// Deals with jobs that this worker held when it ended, and with those that nobody can hold any more: each counts one crash more, which
    /// is stored. Called once at the worker's start, before its first claim.
    async fn recover(&self, worker: &WorkerId, on_restart: OnRestart) -> Result<Recovered>;

    /// Why jobs wait that nobody can run at present: prompt id → what is missing. Where all workers are alike, nothing.
    async fn waiting_for(&self) -> Result<HashMap<String, String>> {
        Ok(HashMap::new())
    }

    /// Watches for changes.
    fn versions(&self) -> watch::Receiver<Versions>;
}

/// Now, in milliseconds since 1970; 0 if the clock stands before that.
pub fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

fn raw<T: Serialize>(value: &T) -> Result<Arc<RawValue>> {
    Ok(serde_json::value::to_raw_value(value).map_err(|error| unwritable(&error))?.into())
}

fn unwritable(error: &serde_json::Error) -> Error {
    Error::Unstorable(format!("the outcome of the prompt cannot be written as JSON: {error}"))
}
