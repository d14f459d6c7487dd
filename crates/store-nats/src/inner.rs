//! The changes that a store makes: each reads the lists in memory, writes a document that follows the one they know, and begins anew where
//! another process was first.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use comfyd_jobs::line::{Bounds, Place, Running, number};
use comfyd_jobs::{
    Claim, Error as JobError, HistoryEntry, Job, Needs, NewJob, OnRestart, Outcome, Recovered, Result, Secrets, Ticket, Token, WorkerId,
    now_ms,
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use parking_lot::{Mutex, RwLock};
use serde_json::value::RawValue;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::task::JoinHandle;

use crate::affinity::Affinity;
use crate::bucket::{Bucket, Document, Found, Purpose, Refused};
use crate::connect::Link;
use crate::document::{EndTexts, Head, JobTexts, SCHEMA, State as At, Texts, ended, key, nonce, raw};
use crate::error::Error;
use crate::members::{Abilities, About, Command, Leases, Member};
use crate::mirror::{Live, Mirror, NUMBER, Numbered, READERS, vanished};
use crate::options::Options;
use crate::said::Ears;

/// How long it is remembered that a job is gone, for processes that are away meanwhile.
const GONE_KEPT: Duration = Duration::from_hours(24);
/// How often a document is written anew that others changed meanwhile.
const MAX_ROUNDS: usize = 64;
/// How long a worker waits at most before it tries to claim what others want too.
const MAX_BACKOFF_MS: u64 = 16;

/// Among how many jobs workers choose that want one at the same time.
const MAX_SPREAD: usize = 16;

/// How many checks of inputs others may ask for at once.
const MAX_CHECKS: usize = 16;

/// What a worker takes.
pub(crate) type Wants = Arc<dyn Fn(&WorkerId, &Needs) -> bool + Send + Sync>;

pub(crate) struct Inner {
    pub mirror: Mirror,
    pub options: Options,
    pub leases: Leases,
    pub link: Link,
    pub wants: RwLock<Option<Wants>>,
    /// What this process says of itself, and the bell to say it at once.
    pub about: Mutex<About>,
    pub abilities: RwLock<Arc<Abilities>>,
    /// Who hears what other processes say.
    pub ears: OnceLock<Ears>,
    /// The texts that those tell, by their digests.
    pub texts: RwLock<HashMap<String, Bytes>>,
    /// How many questions are answered at once that may take long.
    pub checks: Arc<Semaphore>,
    pub beat: Notify,
    /// Who is heard of, by session, and how often that changed.
    pub members: Mutex<HashMap<String, Member>>,
    pub fleet: watch::Sender<u64>,
    bucket: Bucket,
    /// Jobs that this process holds, with their texts.
    held: Mutex<HashMap<String, Arc<Job>>>,
    /// Claims whose end was written without an answer.
    unsure: Mutex<HashSet<i64>>,
    /// New jobs come one after the other, so that each finds the number that the one before left.
    enqueuing: tokio::sync::Mutex<()>,
    /// Those who wait for a job for the same worker are served in the order in which they came. Workers do not wait for each other: what
    /// one does not take another may.
    waiting: Mutex<HashMap<WorkerId, Arc<tokio::sync::Mutex<()>>>>,
    affinity: Mutex<Affinity>,
    /// How long, at most, it waits before it claims: longer where others were first the last time.
    backoff_ms: Mutex<u64>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("options", &self.options).finish_non_exhaustive()
    }
}

/// A claim on its way to whom it is for. The job goes back if it does not arrive.
pub(crate) struct Held(Option<(Claim, Arc<Inner>, Handle)>);

impl Held {
    pub fn keep(mut self) -> Claim {
        // It is there until this or the drop takes it.
        #[allow(clippy::unwrap_used)]
        let (claim, ..) = self.0.take().unwrap();
        claim
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((claim, inner, runtime)) = self.0.take() {
            runtime.spawn(async move {
                if let Err(error) = inner.requeue(&claim.token).await {
                    tracing::warn!(%error, prompt_id = claim.token.prompt_id, "a prompt that nobody took could not be put back");
                }
            });
        }
    }
}

impl Inner {
    pub async fn open(link: &Link, options: Options) -> std::result::Result<Self, Error> {
        let purpose = Purpose {
            cluster: &options.cluster,
            name: "jobs",
            objects: "large",
            holds: "jobs",
            replicas: options.replicas,
            patience: options.patience,
        };
        let bucket = Bucket::open(link.client.clone(), &purpose).await?;
        let session = uuid::Uuid::new_v4().simple().to_string();
        let mirror =
            Mirror::new(bucket.clone(), link.connections.clone(), &options.instance, &session, options.keeps_texts, options.cache_bytes);
        mirror.load().await.map_err(Error::Refused)?;
        Ok(Self {
            mirror,
            leases: Leases::default(),
            link: link.clone(),
            wants: RwLock::default(),
            about: Mutex::new(About { instance: options.instance.clone(), ..About::default() }),
            abilities: RwLock::default(),
            ears: OnceLock::new(),
            texts: RwLock::default(),
            checks: Arc::new(Semaphore::new(MAX_CHECKS)),
            beat: Notify::new(),
            members: Mutex::default(),
            fleet: watch::Sender::default(),
            bucket,
            held: Mutex::default(),
            unsure: Mutex::default(),
            enqueuing: tokio::sync::Mutex::default(),
            waiting: Mutex::default(),
            affinity: Mutex::default(),
            backoff_ms: Mutex::new(0),
            options,
        })
    }

    pub fn session(&self) -> &str {
        &self.mirror.session
    }

    /// Follows the bucket in the background.
    pub fn follow(self: Arc<Self>) -> JoinHandle<()> {
        tokio::spawn(async move { self.mirror.follow().await })
    }

    /// Has whoever waits for a job look again.
    pub fn wake(&self) {
        self.mirror.versions.send_modify(|_unchanged| {});
    }

    async fn write(&self, head: &Head, texts: Bytes, after: u64) -> std::result::Result<u64, Refused> {
        let kept = matches!(head.state, At::Gone).then_some(GONE_KEPT);
        let document = Document { key: &key(&head.id), head: head.to_header(), nonce: head.nonce, texts, after: Some(after), kept };
        let revision = self.bucket.write(&document).await?;
        self.mirror.own(revision, head, None);
        Ok(revision)
    }

    /// Who holds what runs.
    pub fn holders(&self) -> Vec<(String, String)> {
        let state = self.mirror.state.lock();
        let held = state.line.running().iter().filter_map(|running| {
            let At::Running { session, .. } = &state.live.get(&running.job.id)?.head.state else { return None };
            Some((running.job.id.clone(), session.clone()))
        });
        held.collect()
    }

    /// How the bucket is kept.
    pub async fn replication(&self) -> Result<String> {
        self.bucket.replication().await
    }

    /// Whether NATS answers: what is in memory is there without it.
    pub async fn answers(&self) -> Result<()> {
        self.bucket.answers().await
    }

    /// Whether a sign of life could be written.
    pub async fn write_sign(&self, document: &Document<'_>) -> bool {
        self.bucket.write(document).await.is_ok()
    }

    // -- new jobs

    fn bounds(&self) -> Bounds {
        let Options { max_pending, max_pending_bytes, max_of_owner, .. } = self.options;
        Bounds { pending: max_pending, bytes: max_pending_bytes, of_owner: max_of_owner }
    }

    pub async fn enqueue(&self, new: NewJob) -> Result<Ticket> {
        let _turn = self.enqueuing.lock().await;
        self.admissible(&new)?;
        let mut texts = Texts {
            job: Some(raw(&JobTexts { prompt: new.prompt.clone(), extra_data: new.extra_data.clone(), outputs: new.outputs.clone() })?),
            end: None,
        };
        let number = self.number(&new).await?;
        let mut head = Head::new(&new, number, self.session());
        head.job_object = self.put_apart(&mut texts.job).await?;
        let payload = payload(&texts)?;
        if !new.secrets.names().is_empty() {
            self.mirror.state.lock().secrets.insert(new.id.clone(), new.secrets.clone());
        }
        let mut after = 0;
        for _ in 0..MAX_ROUNDS {
            let document = Document {
                key: &key(&head.id),
                head: head.to_header(),
                nonce: head.nonce,
                texts: payload.clone(),
                after: Some(after),
                kept: None,
            };
            match self.bucket.write(&document).await {
                Ok(revision) => {
                    let texts = JobTexts { prompt: new.prompt, extra_data: new.extra_data, outputs: new.outputs };
                    self.mirror.own(revision, &head, Some(texts));
                    return Ok(Ticket { id: new.id, number });
                }
                Err(Refused::Failed(error)) => return Err(self.not_enqueued(&head, error).await),
                // It was known before, and may be gone since.
                Err(Refused::Conflict) => match self.bucket.last(&key(&head.id)).await? {
                    None => after = 0,
                    Some(Found { revision, head: line, .. }) => {
                        if !Head::from_header(&line).is_some_and(|last| last.state == At::Gone) {
                            return Err(self.not_enqueued(&head, JobError::Duplicate(new.id)).await);
                        }
                        after = revision;
                    }
                },
            }
        }
        Err(self.not_enqueued(&head, vanished()).await)
    }

    async fn not_enqueued(&self, head: &Head, error: JobError) -> JobError {
        // One that has come meanwhile has its own.
        if !matches!(error, JobError::Duplicate(_)) {
            self.mirror.state.lock().secrets.remove(&head.id);
        }
        if let Some(object) = &head.job_object {
            self.bucket.drop_object(object).await;
        }
        error
    }

    fn admissible(&self, new: &NewJob) -> Result<()> {
        let state = self.mirror.state.lock();
        if state.index.key(&new.id).is_some() {
            return Err(JobError::Duplicate(new.id.clone()));
        }
        state.line.admissible(new, self.bounds())
    }

    /// The number of a new job; the next one gets another.
    async fn number(&self, new: &NewJob) -> Result<f64> {
        for _ in 0..MAX_ROUNDS {
            let (next, revision) = self.mirror.state.lock().number;
            let (number, after) = number(new.position, next);
            if after == next {
                return Ok(number);
            }
            let nonce = nonce();
            let line = raw(&Numbered { v: SCHEMA, nonce, next: after })?;
            let head = line.get().to_owned();
            let document = Document { key: NUMBER, head, nonce, texts: Bytes::new(), after: Some(revision), kept: None };
            match self.bucket.write(&document).await {
                Ok(revision) => {
                    self.mirror.state.lock().number = (after, revision);
                    return Ok(number);
                }
                Err(Refused::Failed(error)) => return Err(error),
                Err(Refused::Conflict) => {
                    let Some(last) = self.bucket.last(NUMBER).await? else { continue };
                    if let Ok(Numbered { next, .. }) = serde_json::from_str(&last.head) {
                        self.mirror.state.lock().number = (next, last.revision);
                    }
                }
            }
        }
        Err(vanished())
    }

    /// Puts a text that is too long for a message into an object, and gives its name.
    async fn put_apart(&self, text: &mut Option<Arc<RawValue>>) -> Result<Option<String>> {
        let Some(long) = text.take_if(|text| text.get().len() > self.bucket.max_inline()) else { return Ok(None) };
        let name = uuid::Uuid::new_v4().simple().to_string();
        self.bucket.put_object(&name, long.get()).await?;
        Ok(Some(name))
    }

    // -- claims

    /// Claims a job for whoever waits for the answer.
    pub async fn claim_for(self: Arc<Self>, worker: &WorkerId, waits: bool, mut reply: oneshot::Sender<Result<Option<Held>>>) {
        let claimed = if waits {
            tokio::select! {
                claimed = self.wait(worker) => claimed.map(Some),
                () = reply.closed() => return,
            }
        } else {
            self.claim(worker).await
        };
        let held = claimed.map(|claim| claim.map(|claim| Held(Some((claim, self.clone(), Handle::current())))));
        drop(reply.send(held));
    }

    /// Waits for a job. Dropped while it waits, it may have claimed one: see [`Inner::claim`].
    async fn wait(self: &Arc<Self>, worker: &WorkerId) -> Result<Claim> {
        let turns = Arc::clone(self.waiting.lock().entry(worker.clone()).or_default());
        let _turn = turns.lock().await;
        let mut versions = self.mirror.versions.subscribe();
        loop {
            versions.borrow_and_update();
            // Apart, so that a claim under way is not left alone when nobody waits any more.
            let (inner, worker) = (self.clone(), worker.clone());
            let claim = tokio::spawn(async move {
                let claim = inner.claim(&worker).await?;
                Ok(claim.map(|claim| Held(Some((claim, inner.clone(), Handle::current())))))
            });
            if let Some(held) = claim.await.map_err(|_panic| vanished())?? {
                return Ok(held.keep());
            }
            if versions.changed().await.is_err() {
                return Err(vanished());
            }
            let most = *self.backoff_ms.lock();
            if most > 0 {
                tokio::time::sleep(Duration::from_micros(nonce() % (most * 1000))).await;
            }
        }
    }

    /// Claims the first job that this process may run. Where others claimed the first ones at the same time, the one behind them.
    pub async fn claim(&self, worker: &WorkerId) -> Result<Option<Claim>> {
        let wants = self.wants.read().clone();
        // Jobs that another process was faster with, as this one does not know yet.
        let mut gone: Vec<Live> = Vec::new();
        loop {
            let next = {
                let state = self.mirror.state.lock();
                let wanted = |job: &Job| {
                    gone.iter().all(|gone| gone.head.id != job.id) && wants.as_ref().is_none_or(|wants| wants(worker, &job.needs))
                };
                let upcoming = state.line.upcoming(self.options.affinity_window.max(MAX_SPREAD), wanted);
                let job = self.preferred(worker, &upcoming);
                job.and_then(|job| Some((state.live.get(&job.id)?.clone(), state.line.place(&job.id)?, job)))
            };
            let Some((live, place, job)) = next else {
                self.back_off(!gone.is_empty());
                let Some(last) = gone.pop() else { return Ok(None) };
                self.past(&last).await;
                gone.clear();
                continue;
            };
            let job = if !self.options.keeps_texts {
                self.read(&live).await?
            } else if job.secrets.lost_names().is_empty() {
                Some(job)
            } else {
                Some(Arc::new(Job { secrets: self.secrets(&live.head).await, ..job.as_ref().clone() }))
            };
            let Some(job) = job else {
                gone.push(live);
                continue;
            };
            let claimed_ms = now_ms();
            let (instance, session) = (self.mirror.instance.clone(), self.mirror.session.clone());
            let state = At::Running { worker: worker.to_string(), instance, session, claimed_ms };
            let head = live.head.next(live.revision, place, state);
            match self.write(&head, payload(&job_texts(&live.head, &job)?)?, live.revision).await {
                Ok(revision) => {
                    self.back_off(!gone.is_empty());
                    self.held.lock().insert(job.id.clone(), job.clone());
                    self.affinity.lock().took(worker, &job);
                    let claim = i64::try_from(revision).unwrap_or(i64::MAX);
                    let token = Token { prompt_id: job.id.clone(), worker: worker.clone(), claim };
                    return Ok(Some(Claim { job, token }));
                }
                Err(Refused::Conflict) => gone.push(live),
                Err(Refused::Failed(error)) => return Err(error),
            }
        }
    }

    /// The one of these that a worker takes: the first whose models it has used last, unless that passes another over too often.
    fn preferred(&self, worker: &WorkerId, upcoming: &[Arc<Job>]) -> Option<Arc<Job>> {
        let window = upcoming.len().min(self.options.affinity_window.max(1));
        let at = self.affinity.lock().choose(worker, &upcoming[..window], self.options.affinity_window);
        // Where others were faster the last times, not all try the first: each takes one of the first few, and the others take the rest.
        let spread = (*self.backoff_ms.lock()).min(upcoming.len().min(MAX_SPREAD).saturating_sub(1) as u64);
        let at = if at == 0 && spread > 0 { usize::try_from(nonce() % (spread + 1)).unwrap_or(0) } else { at };
        upcoming.get(at).cloned()
    }

    /// Waits until more is known of a job than this.
    async fn past(&self, live: &Live) {
        let mut revision = *self.mirror.applied.borrow();
        let known = || self.mirror.state.lock().live.get(&live.head.id).is_some_and(|now| now.revision == live.revision);
        while known() {
            self.mirror.beyond(revision).await;
            revision = *self.mirror.applied.borrow();
        }
    }

    /// Where many wait for the same job, they do not all try at once.
    fn back_off(&self, lost: bool) {
        let mut backoff_ms = self.backoff_ms.lock();
        *backoff_ms = if lost { (*backoff_ms * 2).clamp(1, MAX_BACKOFF_MS) } else { backoff_ms.saturating_sub(1) };
    }

    /// A job with its texts; `None` if it has changed.
    async fn read(&self, live: &Live) -> Result<Option<Arc<Job>>> {
        let Some(found) = self.bucket.read(live.revision).await? else { return Ok(None) };
        let texts = self.mirror.job_texts(&live.head, &found.texts).await?;
        let texts = texts.ok_or_else(|| JobError::Damaged { id: live.head.id.clone(), detail: "its texts are missing".to_owned() })?;
        Ok(Some(Arc::new(live.head.job(&texts, self.secrets(&live.head).await))))
    }

    /// The secrets that a job came with: this process has them, or the one that it came to, if that is still there.
    async fn secrets(&self, head: &Head) -> Secrets {
        if head.secrets.is_empty() {
            return Secrets::default();
        }
        if let Some(own) = self.mirror.state.lock().secrets.get(&head.id) {
            return own.clone();
        }
        let asked = if head.origin == self.session() {
            None
        } else {
            self.ask(&head.origin, &Command::Secrets { prompt_id: head.id.clone() }).await.ok()
        };
        let values: Option<serde_json::Value> = asked.and_then(|answer| serde_json::from_slice(&answer).ok());
        let found = values.filter(serde_json::Value::is_object).and_then(|mut values| Secrets::take(&mut values, &head.secrets));
        found.unwrap_or_else(|| Secrets::lost(head.secrets.clone()))
    }

    // -- ends

    /// A job that a token holds: its document and its place.
    fn holds(&self, token: &Token) -> Result<(Live, Place, Arc<Job>)> {
        let state = self.mirror.state.lock();
        let Running { place, job, .. } = state.line.held(token)?;
        let live = state.live.get(&token.prompt_id).cloned().ok_or_else(|| JobError::NotRunning(token.prompt_id.clone()))?;
        let held = self.held.lock().get(&token.prompt_id).cloned();
        Ok((live, *place, held.unwrap_or_else(|| job.clone())))
    }

    /// Whether a token is worth anything, as far as is known here.
    pub fn is_held(&self, token: &Token) -> bool {
        self.mirror.state.lock().line.held(token).is_ok()
    }

    /// Moves a job into the history.
    pub async fn finish(&self, token: &Token, outcome: &Outcome) -> Result<()> {
        let held = self.holds(token);
        if held.is_err() && self.was_stored(token).await? {
            return Ok(());
        }
        let (live, place, job) = held?;
        let job = job.as_ref().clone();
        let entry = HistoryEntry::new(job, outcome, self.options.max_outcome_bytes)?;
        match self.end(&live, place, &entry, outcome).await {
            Ok(_revision) => {
                self.held.lock().remove(&token.prompt_id);
                self.trim().await;
                Ok(())
            }
            Err(Refused::Conflict) => {
                self.past(&live).await;
                Err(self.holds(token).err().unwrap_or_else(|| JobError::NotHeld(token.prompt_id.clone())))
            }
            Err(Refused::Failed(error)) => {
                if !matches!(error, JobError::Unstorable(_)) {
                    self.unsure.lock().insert(token.claim);
                }
                Err(error)
            }
        }
    }

    /// Whether an end that was written without an answer was stored all the same.
    async fn was_stored(&self, token: &Token) -> Result<bool> {
        if !self.unsure.lock().contains(&token.claim) {
            return Ok(false);
        }
        let last = self.bucket.last(&key(&token.prompt_id)).await?;
        let claim = u64::try_from(token.claim).unwrap_or_default();
        let own = last.and_then(|found| Head::from_header(&found.head));
        let stored = own.is_some_and(|head| matches!(head.state, At::Ended { claim: ended, .. } if ended == claim));
        self.unsure.lock().remove(&token.claim);
        self.held.lock().remove(&token.prompt_id);
        Ok(stored)
    }

    async fn end(&self, live: &Live, place: Place, entry: &HistoryEntry, outcome: &Outcome) -> std::result::Result<u64, Refused> {
        let mut texts = job_texts(&live.head, &entry.job)?;
        texts.end = Some(raw(&EndTexts::of(entry))?);
        let mut head = live.head.next(live.revision, place, ended(outcome, live.revision));
        head.end_object = self.put_apart(&mut texts.end).await?;
        let written = self.write(&head, payload(&texts)?, live.revision).await;
        if let (Err(Refused::Conflict), Some(object)) = (&written, &head.end_object) {
            self.bucket.drop_object(object).await;
        }
        written
    }

    /// Puts a job back where it stood.
    pub async fn requeue(&self, token: &Token) -> Result<()> {
        let (live, place, job) = self.holds(token)?;
        let head = live.head.next(live.revision, place, At::Waiting);
        match self.write(&head, payload(&job_texts(&live.head, &job)?)?, live.revision).await {
            Ok(_revision) => {
                self.held.lock().remove(&token.prompt_id);
                Ok(())
            }
            Err(Refused::Conflict) => {
                self.past(&live).await;
                Err(self.holds(token).err().unwrap_or_else(|| JobError::NotHeld(token.prompt_id.clone())))
            }
            Err(Refused::Failed(error)) => Err(error),
        }
    }

    /// Deals with what runs though its worker has ended: `running` at this place and with this end if it has failed. Whether it did; another
    /// process may have been first.
    pub async fn give_back(&self, running: &Running, place: Place, failed: Option<Outcome>) -> Result<bool> {
        let live = self.mirror.state.lock().live.get(&running.job.id).cloned();
        let claim = u64::try_from(running.claim).unwrap_or_default();
        let Some(live) = live.filter(|live| live.revision == claim) else { return Ok(false) };
        let job = if self.options.keeps_texts { Some(running.job.clone()) } else { self.read(&live).await? };
        let Some(job) = job else { return Ok(false) };
        let written = match failed {
            Some(outcome) => {
                let entry = HistoryEntry::new(job.as_ref().clone(), &outcome, usize::MAX)?;
                self.end(&live, place, &entry, &outcome).await
            }
            None => {
                let head = live.head.next(live.revision, place, At::Waiting);
                self.write(&head, payload(&job_texts(&live.head, &job)?)?, live.revision).await
            }
        };
        match written {
            Ok(_revision) => Ok(true),
            Err(Refused::Conflict) => Ok(false),
            Err(Refused::Failed(error)) => Err(error),
        }
    }

    pub async fn recover(&self, worker: &WorkerId, on_restart: OnRestart) -> Result<Recovered> {
        let (before, mut restarted) = {
            let line = &self.mirror.state.lock().line;
            (line.running().to_vec(), line.clone().restart(worker, on_restart))
        };
        for running in &restarted.failed {
            let outcome = running.failed(on_restart, now_ms());
            let original = before.iter().find(|other| other.job.id == running.job.id).unwrap_or(running);
            self.give_back(original, running.place, Some(outcome)).await?;
        }
        for (place, job) in restarted.reranked.drain(..) {
            match before.iter().find(|running| running.job.id == job.id) {
                Some(running) => drop(self.give_back(running, place, None).await?),
                None => self.rerank(place, &job).await?,
            }
        }
        self.trim().await;
        Ok(restarted.figures)
    }

    /// Gives a waiting job another place.
    async fn rerank(&self, place: Place, job: &Job) -> Result<()> {
        let Some(live) = self.mirror.state.lock().live.get(&job.id).cloned() else { return Ok(()) };
        let job = if self.options.keeps_texts { Some(Arc::new(job.clone())) } else { self.read(&live).await? };
        let Some(job) = job else { return Ok(()) };
        let head = live.head.next(live.revision, place, At::Waiting);
        match self.write(&head, payload(&job_texts(&live.head, &job)?)?, live.revision).await {
            Ok(_) | Err(Refused::Conflict) => Ok(()),
            Err(Refused::Failed(error)) => Err(error),
        }
    }

    // -- what leaves

    pub async fn remove_waiting(&self, wanted: impl Fn(&str) -> bool) -> Result<usize> {
        let waiting: Vec<Live> = {
            let state = self.mirror.state.lock();
            state.live.values().filter(|live| live.head.state == At::Waiting && wanted(&live.head.id)).cloned().collect()
        };
        let removed = futures_util::stream::iter(waiting).map(async |live| {
            match self.write(&Head::gone(&live.head.id), Bytes::new(), live.revision).await {
                Ok(_revision) => {
                    if let Some(object) = &live.head.job_object {
                        self.bucket.drop_object(object).await;
                    }
                    Ok(true)
                }
                // It runs already, or another process took it back.
                Err(Refused::Conflict) => Ok(false),
                Err(Refused::Failed(error)) => Err(error),
            }
        });
        let removed: Vec<bool> = removed.buffer_unordered(READERS).try_collect().await?;
        Ok(removed.into_iter().filter(|removed| *removed).count())
    }

    /// Takes entries out of the history.
    pub async fn forget(&self, entries: Vec<(i64, Arc<str>)>) -> Result<usize> {
        let removed = futures_util::stream::iter(entries).map(async |(revision, id)| {
            let after = u64::try_from(revision).unwrap_or_default();
            let objects = self.mirror.state.lock().objects.get(&revision).cloned();
            match self.write(&Head::gone(&id), Bytes::new(), after).await {
                Ok(_revision) => {
                    for object in objects.iter().flatten() {
                        self.bucket.drop_object(object).await;
                    }
                    Ok(true)
                }
                Err(Refused::Conflict) => Ok(false),
                Err(Refused::Failed(error)) => Err(error),
            }
        });
        let removed: Vec<bool> = removed.buffer_unordered(READERS).try_collect().await?;
        Ok(removed.into_iter().filter(|removed| *removed).count())
    }

    /// Drops what the history has over its bound. That it cannot now is no failure of whoever ended a job.
    pub async fn trim(&self) {
        if !self.options.expires {
            return;
        }
        let over = {
            let index = &self.mirror.state.lock().index;
            index.oldest(index.len().saturating_sub(self.options.max_history))
        };
        if !over.is_empty()
            && let Err(error) = self.forget(over).await
        {
            tracing::debug!(%error, "the oldest entries of the history stay for now");
        }
    }

    // -- the history

    /// The entry with this key, unless it has left.
    pub async fn entry(&self, key: i64) -> Result<Option<Arc<HistoryEntry>>> {
        if let Some(entry) = self.mirror.cache.lock().get(key) {
            return Ok(Some(entry));
        }
        let Some(found) = self.bucket.read(u64::try_from(key).unwrap_or_default()).await? else { return Ok(None) };
        let Some(head) = Head::from_header(&found.head) else { return Ok(None) };
        let At::Ended { status, started_ms, ended_ms, .. } = head.state else { return Ok(None) };
        let damaged = |detail: String| JobError::Damaged { id: head.id.clone(), detail };
        let job = self.mirror.job_texts(&head, &found.texts).await?.ok_or_else(|| damaged("its texts are missing".to_owned()))?;
        let end: EndTexts = match &head.end_object {
            Some(object) => serde_json::from_str(&self.bucket.get_object(object).await?),
            None => serde_json::from_slice::<Texts>(&found.texts).and_then(|texts| {
                let end = texts.end.ok_or_else(|| serde::de::Error::custom("its end is missing"))?;
                serde_json::from_str(end.get())
            }),
        }
        .map_err(|error: serde_json::Error| damaged(error.to_string()))?;
        let EndTexts { messages, outputs, meta } = end;
        let job = head.job(&job, Secrets::default());
        let entry = Arc::new(HistoryEntry { job, status, messages, outputs, meta, started_ms, ended_ms });
        // It may have left meanwhile.
        let mut cache = self.mirror.cache.lock();
        if self.mirror.state.lock().index.contains(key) {
            cache.insert(key, entry.clone());
        }
        Ok(Some(entry))
    }
}

/// The payload's part for the job itself; nothing if its texts are in an object.
fn job_texts(head: &Head, job: &Job) -> Result<Texts> {
    let inline = head.job_object.is_none();
    Ok(Texts { job: inline.then(|| raw(&JobTexts::of(job))).transpose()?, end: None })
}

fn payload(texts: &Texts) -> Result<Bytes> {
    Ok(serde_json::to_vec(texts).map_err(|error| JobError::Storage(format!("a prompt cannot be written: {error}")))?.into())
}
