//! The state of all jobs in memory, as the bucket has it: every process follows the bucket and keeps the line and the history's index. It
//! decides nothing; what it shows is what was stored, in the order in which it was.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use comfyd_jobs::cache::Cache;
use comfyd_jobs::index::Index;
use comfyd_jobs::line::Line;
use comfyd_jobs::{Secrets, Versions, WorkerId};
use futures_util::{StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::sync::{Notify, watch};

use crate::bucket::{Bucket, HEAD, unavailable};
use crate::document::{Head, JobTexts, State as At, Texts};

/// The key of the number that the next job gets.
pub(crate) const NUMBER: &str = "number";
/// How many documents are read at once.
pub(crate) const READERS: usize = 32;
/// Before the bucket is followed anew after a failure.
const PAUSE: Duration = Duration::from_millis(200);
/// Beyond so many removals it is looked which of them need not be remembered.
const MANY_GONE: usize = 1024;
/// After how long without the bucket everything is read again: what left it since has left no trace.
const STALE: Duration = Duration::from_hours(12);

/// What all parts of a store share.
#[derive(Debug)]
pub(crate) struct Mirror {
    pub state: Mutex<State>,
    pub cache: Mutex<Cache>,
    pub versions: watch::Sender<Versions>,
    /// The last revision that was taken in.
    pub applied: watch::Sender<u64>,
    /// Somebody misses something.
    pub missing: Notify,
    /// Grows with every connection.
    pub connections: watch::Receiver<u64>,
    pub bucket: Bucket,
    /// This process: its name, and which of its lives.
    pub instance: String,
    pub session: String,
    keeps_texts: bool,
}

/// Everything that is known.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub line: Line,
    /// By the revisions of their documents.
    pub index: Index,
    /// Of what is in the line.
    pub live: HashMap<String, Live>,
    /// The next number and the revision that says so.
    pub number: (u64, u64),
    /// Of the jobs that came to this process.
    pub secrets: HashMap<String, Secrets>,
    /// Objects of what is in the history, by revision.
    pub objects: HashMap<i64, Vec<String>>,
    /// What this process removed and may still hear of as it was before, by the revisions of the removals.
    gone: HashMap<String, u64>,
}

/// A job in the line.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub revision: u64,
    pub head: Arc<Head>,
}

/// What the number's document says.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Numbered {
    pub v: u32,
    pub nonce: u64,
    pub next: u64,
}

/// Which lists a change touched.
#[derive(Debug, Default, Clone, Copy)]
struct Touched {
    queue: bool,
    history: bool,
}

impl Mirror {
    pub fn new(
        bucket: Bucket,
        connections: watch::Receiver<u64>,
        instance: &str,
        session: &str,
        keeps_texts: bool,
        cache_bytes: usize,
    ) -> Self {
        Self {
            state: Mutex::default(),
            cache: Mutex::new(Cache::new(cache_bytes)),
            versions: watch::Sender::default(),
            applied: watch::Sender::default(),
            missing: Notify::new(),
            connections,
            bucket,
            instance: instance.to_owned(),
            session: session.to_owned(),
            keeps_texts,
        }
    }

    /// Reads what there is.
    pub async fn load(&self) -> Result<(), String> {
        let (mut messages, mut waiting) = self.bucket.follow(1, true).await?;
        let mut heads = Vec::new();
        let mut last = 0;
        while waiting > 0 {
            let message = messages.next().await.ok_or("it ended")?.map_err(|error| error.to_string())?;
            let info = message.info().map_err(|error| error.to_string())?;
            (waiting, last) = (info.pending, info.stream_sequence);
            let Some(key) = self.bucket.key(&message.subject) else { continue };
            heads.extend(head_of(&message).map(|line| (last, key.to_owned(), line)));
        }
        let read = futures_util::stream::iter(heads).map(async |(revision, key, line)| {
            let head = Head::from_header(&line).filter(|_| key != NUMBER);
            let wanted = head.as_ref().is_some_and(|head| matches!(head.state, At::Waiting | At::Running { .. }));
            let texts = if wanted && self.keeps_texts { self.bucket.read(revision).await.map_err(|e| e.to_string())? } else { None };
            let texts = texts.map(|found| found.texts).unwrap_or_default();
            Ok::<_, String>((revision, key, line, texts))
        });
        let read: Vec<_> = read.buffered(READERS).try_collect().await?;
        for (revision, key, line, texts) in read {
            self.take(revision, &key, &line, &texts).await;
        }
        self.applied.send_replace(last);
        Ok(())
    }

    /// Follows the bucket for as long as the store is open.
    pub async fn follow(&self) {
        let mut connections = self.connections.clone();
        let mut made = self.bucket.extent().await.map(|(_, made)| made).ok();
        let mut heard = tokio::time::Instant::now();
        loop {
            connections.borrow_and_update();
            let begun = async {
                let (last, now) = self.bucket.extent().await?;
                let made_anew = made.replace(now.clone()).is_some_and(|before| before != now);
                if made_anew || last < *self.applied.borrow() || heard.elapsed() > STALE {
                    tracing::warn!("the cluster's jobs are read anew");
                    *self.state.lock() = State::default();
                    self.load().await?;
                }
                let from = *self.applied.borrow() + 1;
                self.bucket.follow(from, !self.keeps_texts).await
            };
            let (mut messages, _waiting) = match begun.await {
                Ok(begun) => begun,
                Err(error) => {
                    tracing::debug!(error, "the cluster's jobs cannot be followed");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let mut expected = 1;
            loop {
                let message = tokio::select! {
                    message = messages.next() => message,
                    _ = connections.changed() => None,
                    () = self.missing.notified() => None,
                };
                let Some(Ok(message)) = message else { break };
                let Ok(info) = message.info() else { break };
                // One was lost: this one comes again.
                if info.consumer_sequence != expected {
                    break;
                }
                expected += 1;
                heard = tokio::time::Instant::now();
                let revision = info.stream_sequence;
                if let (Some(key), Some(line)) = (self.bucket.key(&message.subject), head_of(&message)) {
                    let payload = if self.keeps_texts { message.payload.clone() } else { Bytes::new() };
                    self.take(revision, key, &line, &payload).await;
                }
                self.applied.send_replace(revision);
            }
        }
    }

    /// Takes in what this process wrote, which it knows before it hears of it.
    pub fn own(&self, revision: u64, head: &Head, texts: Option<JobTexts>) {
        self.apply(revision, head.clone(), texts);
        let heard = *self.applied.borrow();
        let mut state = self.state.lock();
        if state.gone.len() > MANY_GONE || revision <= heard {
            state.gone.retain(|_, removed| *removed > heard);
        }
    }

    /// Changes the lists and says so in one step: who finds a change that another thread has made finds it announced.
    fn apply(&self, revision: u64, head: Head, texts: Option<JobTexts>) {
        let mut cache = self.cache.lock();
        let mut state = self.state.lock();
        let touched = state.apply(revision, head, texts, &mut cache, (&self.instance, &self.session));
        self.announce(revision, touched);
    }

    fn announce(&self, revision: u64, touched: Touched) {
        if touched.queue || touched.history {
            self.versions.send_modify(|versions| {
                // All processes call a state by the same number, so that figures of one can be told after those of another.
                if touched.queue {
                    versions.queue = versions.queue.max(revision);
                }
                if touched.history {
                    versions.history = versions.history.max(revision);
                }
            });
        }
    }

    /// Waits until more is known than at this revision, for a while.
    pub async fn beyond(&self, revision: u64) {
        let mut applied = self.applied.subscribe();
        if tokio::time::timeout(Duration::from_millis(500), applied.wait_for(|applied| *applied > revision)).await.is_err() {
            self.missing.notify_one();
        }
    }

    /// Takes a document in.
    async fn take(&self, revision: u64, key: &str, line: &str, payload: &[u8]) {
        if key == NUMBER {
            if let Ok(Numbered { next, .. }) = serde_json::from_str(line) {
                let mut state = self.state.lock();
                if state.number.1 < revision {
                    state.number = (next, revision);
                }
            }
            return;
        }
        let Some(head) = Head::from_header(line) else { return };
        let in_line = matches!(head.state, At::Waiting | At::Running { .. });
        let known = self.state.lock().live.contains_key(&head.id);
        let texts = if in_line && self.keeps_texts && !known { self.job_texts(&head, payload).await } else { Ok(None) };
        let texts = texts.unwrap_or_else(|error| {
            tracing::warn!(%error, prompt_id = head.id, "the texts of a prompt could not be read: lists show it without");
            None
        });
        let gone = matches!(head.state, At::Gone).then(|| head.id.clone());
        self.apply(revision, head, texts);
        // What is told comes in its order: nothing from before comes any more.
        if let Some(id) = gone {
            self.state.lock().gone.remove(&id);
        }
    }

    /// The texts of a job, from its message or where its head says.
    pub async fn job_texts(&self, head: &Head, payload: &[u8]) -> comfyd_jobs::Result<Option<JobTexts>> {
        let unreadable = |error: serde_json::Error| comfyd_jobs::Error::Damaged { id: head.id.clone(), detail: error.to_string() };
        if let Some(object) = &head.job_object {
            return serde_json::from_str(&self.bucket.get_object(object).await?).map(Some).map_err(unreadable);
        }
        if payload.is_empty() {
            return Ok(None);
        }
        let Texts { job, .. } = serde_json::from_slice(payload).map_err(unreadable)?;
        job.map(|job| serde_json::from_str(job.get())).transpose().map_err(unreadable)
    }
}

fn head_of(message: &async_nats::jetstream::Message) -> Option<String> {
    Some(message.headers.as_ref()?.get(HEAD)?.as_str().to_owned())
}

impl State {
    fn apply(&mut self, revision: u64, head: Head, texts: Option<JobTexts>, cache: &mut Cache, process: (&str, &str)) -> Touched {
        let id = head.id.clone();
        let mut touched = Touched::default();
        // A process knows what it wrote already, and maybe more.
        let known = self.live.get(&id).map(|live| live.revision).max(self.index.key(&id).and_then(|key| u64::try_from(key).ok()));
        let known = known.max(self.gone.get(&id).copied());
        if known >= Some(revision) {
            return touched;
        }
        if let Some(key) = self.index.remove(&id) {
            cache.remove(key);
            self.objects.remove(&key);
            touched.history = true;
        }
        let known = self.live.remove(&id).is_some();
        touched.queue = known;
        let before = known.then(|| self.line.remove_anywhere(&id)).flatten();
        match &head.state {
            At::Waiting | At::Running { .. } => {
                touched.queue = true;
                let job = match before {
                    Some(job) => job,
                    None => {
                        let secrets = self.secrets.get(&id).cloned().unwrap_or_else(|| Secrets::lost(head.secrets.clone()));
                        Arc::new(head.job(&texts.unwrap_or_else(no_texts), secrets))
                    }
                };
                self.line.insert(head.place(revision), job, self.number.0);
                if let At::Running { worker, instance, session, claimed_ms } = &head.state {
                    // What ran under this process's name in an earlier life nobody holds.
                    let holder = (instance != process.0 || session == process.1).then(|| WorkerId::new(worker));
                    self.line.start(&id, *claimed_ms, i64::try_from(revision).unwrap_or(i64::MAX), holder);
                }
                self.live.insert(id, Live { revision, head: Arc::new(head) });
            }
            At::Ended { .. } => {
                touched.history = true;
                self.secrets.remove(&id);
                let key = i64::try_from(revision).unwrap_or(i64::MAX);
                if let Some(facts) = head.facts() {
                    self.index.insert(key, facts);
                }
                let objects: Vec<String> = head.job_object.into_iter().chain(head.end_object).collect();
                if !objects.is_empty() {
                    self.objects.insert(key, objects);
                }
            }
            At::Gone => {
                self.secrets.remove(&id);
                self.gone.insert(id, revision);
            }
        }
        touched
    }
}

/// In the place of texts that are not kept here, or cannot be read.
fn no_texts() -> JobTexts {
    let empty: Arc<RawValue> = RawValue::from_string("{}".to_owned()).unwrap_or_default().into();
    JobTexts { prompt: empty.clone(), extra_data: empty, outputs: Vec::new() }
}

/// What is wanted is in no message of the bucket any more.
pub(crate) fn vanished() -> comfyd_jobs::Error {
    unavailable("what it holds changes faster than it can be read")
}
