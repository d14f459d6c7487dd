//! A device thread: claims jobs, runs them, stores their outcome and then announces their end. Reached through a [`Handle`].

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use comfyd_jobs::{Claim, Error, Event, EventKind, EventSink, Job, JobStore, Message, Outcome, Status, Token, WorkerId, now_ms};
use comfyd_node::CancellationToken;
use parking_lot::{Condvar, Mutex};
use tokio::runtime;
use tokio::sync::Notify;

use crate::executor::Executor;
use crate::guard::panic_text;
use crate::watch::{OnNode, Voice, Watch};

/// How long the thread waits before it asks a store that failed again.
const STORE_RETRY: Duration = Duration::from_millis(500);
/// How long an outcome that could not be stored waits before it is offered again: first, and at most.
const OUTCOME_RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

/// What a worker needs besides its parts.
pub struct WorkerOptions {
    /// Under which name it claims jobs; the thread is named after it.
    pub id: WorkerId,
    /// Called on the device thread when models shall be unloaded (`POST /free`).
    pub on_unload_models: Option<Box<dyn Fn() + Send + Sync>>,
    /// Bytes of outcomes that wait in memory while the store fails. Once there are more, no further prompt begins.
    pub max_unstored_bytes: usize,
    /// How long a node may run: then it is interrupted, and its prompt fails. `None`: as long as it takes.
    pub node_timeout: Option<Duration>,
    /// Makes another executor where a node goes on though it was interrupted: the thread is left behind, and another one goes on. `None`: it
    /// is waited for.
    pub spare: Option<Box<dyn Fn() -> Executor + Send + Sync>>,
    /// How long after its interruption a node may go on until then.
    pub patience: Duration,
    /// How many threads may be left behind at a time. Each keeps what its node holds.
    pub max_stuck: usize,
    /// Told of each call of a node when it is over: of its class, and of how long it took.
    pub on_node: Option<Arc<OnNode>>,
}

impl Default for WorkerOptions {
    /// The name `0`, nothing to unload, 64 MiB, no bound on time; 10 s and 4 threads where there are spare executors.
    fn default() -> Self {
        Self {
            id: WorkerId::new("0"),
            on_unload_models: None,
            max_unstored_bytes: 64 << 20,
            node_timeout: None,
            spare: None,
            patience: Duration::from_secs(10),
            max_stuck: 4,
            on_node: None,
        }
    }
}

/// What becomes of the running prompt when the worker stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// It is interrupted and goes back into the queue with its old number.
    Requeue,
    /// It runs to its end first.
    Finish,
}

/// A device thread that runs prompts from a store.
pub struct Worker;

impl Worker {
    /// Starts the thread. `runtime` drives the store's calls only; the thread itself blocks.
    ///
    /// Fails if the thread cannot be started.
    pub fn spawn(
        store: Arc<dyn JobStore>,
        executor: Executor,
        sink: Arc<dyn EventSink>,
        runtime: runtime::Handle,
        options: WorkerOptions,
    ) -> io::Result<Handle> {
        let shared = Arc::new(Shared::default());
        let registry = Registry { store, sink, runtime, shared: shared.clone() };
        Seat { registry, options: Arc::new(options) }.occupy(executor)?;
        Ok(Handle { shared })
    }
}

/// Steers a worker; clones steer the same one.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    /// Interrupts the running prompt; with an id, only if that one runs. Whether one was interrupted. A prompt that ended and whose outcome
    /// could not be stored yet still runs as far as the queue can tell: it ends as interrupted.
    pub fn interrupt(&self, prompt_id: Option<&str>) -> bool {
        let mut state = self.shared.state.lock();
        let asked = match prompt_id {
            None => state.running.as_ref(),
            Some(id) => state.running.iter().chain(&state.claimed).find(|prompt| prompt.id == id),
        };
        if let Some(prompt) = asked {
            prompt.cancel.cancel();
            state.watch.ring();
            return true;
        }
        let Some(ended) = state.unstored.iter_mut().find(|ended| prompt_id.is_none_or(|id| ended.claim.job.id == id)) else { return false };
        ended.interrupt();
        drop(state);
        self.shared.retry.notify_all();
        true
    }

    /// Asks for memory back: once no prompt runs, models are unloaded and, with `free_memory`, cached results dropped too.
    pub fn free(&self, unload_models: bool, free_memory: bool) {
        let mut state = self.shared.state.lock();
        state.unload_models |= unload_models || free_memory;
        state.free_memory |= free_memory;
        drop(state);
        self.shared.wake.notify_one();
    }

    /// Threads that were left behind, since a node did not end when it was interrupted, and that still run.
    pub fn stuck(&self) -> usize {
        self.shared.state.lock().stuck
    }

    /// The id of the prompt that runs now.
    pub fn running(&self) -> Option<String> {
        self.shared.state.lock().running.as_ref().map(|r| r.id.clone())
    }

    /// Whose prompt runs now; nobody's where users are not told apart.
    pub fn running_owner(&self) -> Option<Arc<str>> {
        self.shared.state.lock().running.as_ref().map(|r| r.owner.clone()).filter(|owner| !owner.is_empty())
    }

    /// Tells the thread to stop; [`Handle::shutdown`] waits for it. Where several claim from one store, all are told first, so that none
    /// takes what another one puts back.
    pub fn stop(&self, how: Shutdown) {
        let mut state = self.shared.state.lock();
        state.stop = Some(how);
        state.watch.close();
        if let (Shutdown::Requeue, Some(running)) = (how, &state.running) {
            running.cancel.cancel();
        }
        drop(state);
        self.shared.wake.notify_one();
        self.shared.retry.notify_all();
    }

    /// Stops the thread and waits for its end. Blocks: call it from `spawn_blocking` in async code. Later calls return at once.
    pub fn shutdown(&self, how: Shutdown) {
        self.stop(how);
        let thread = self.shared.thread.lock().take();
        if thread.is_some_and(|t| t.join().is_err()) {
            tracing::error!("the device thread ended with a panic");
        }
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Notify,
    /// Outcomes that wait are to be offered to the store again.
    retry: Condvar,
    /// Held while they are, so that two threads do not offer the same.
    settling: Mutex<()>,
    /// The device thread.
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct State {
    running: Option<Running>,
    /// The prompt that was claimed along with the last one's end and has not begun: the queue says already that it runs.
    claimed: Option<Running>,
    /// Prompts that ended and whose outcomes could not be stored yet, oldest first.
    unstored: Vec<Ended>,
    /// Whether a thread sees to those.
    settled_by_thread: bool,
    unload_models: bool,
    free_memory: bool,
    stop: Option<Shutdown>,
    /// What the device thread is at.
    watch: Arc<Watch>,
    /// Threads that were left behind.
    stuck: usize,
}

struct Running {
    id: String,
    owner: Arc<str>,
    cancel: CancellationToken,
}

impl Running {
    fn new(job: &Job, cancel: CancellationToken) -> Self {
        Self { id: job.id.clone(), owner: job.owner.clone(), cancel }
    }
}

/// A prompt that runs, for whoever has to end it in place of its thread.
struct Begun {
    claim: Claim,
    to: Addressee,
    started_ms: i64,
}

/// Whom a prompt's events concern.
#[derive(Clone)]
struct Addressee {
    prompt_id: Arc<str>,
    owner: Arc<str>,
    client_id: Option<Arc<str>>,
}

/// A prompt that ended.
#[derive(Clone)]
struct Ended {
    claim: Claim,
    to: Addressee,
    outcome: Arc<Outcome>,
    /// What the outcome takes, about.
    bytes: usize,
}

impl Ended {
    fn new(claim: Claim, to: Addressee, outcome: Outcome) -> Self {
        Self { claim, to, outcome: Arc::new(outcome), bytes: 0 }
    }

    /// Whoever interrupts it does not wait for its results.
    fn interrupt(&mut self) {
        let Outcome { started_ms, ended_ms, .. } = *self.outcome;
        self.replace(Outcome::interrupted(&self.claim.job.id, started_ms, ended_ms));
    }

    /// Fails with this reason, since what it led to cannot be stored.
    fn cut_down(&mut self, reason: &str) {
        let Outcome { started_ms, ended_ms, .. } = *self.outcome;
        self.replace(Outcome::failed(&self.claim.job.id, "OutcomeNotStored", reason, started_ms, ended_ms));
    }

    /// Puts a small outcome in place of one that may be large; how the prompt began stays.
    fn replace(&mut self, mut outcome: Outcome) {
        let start = self.outcome.messages.first().filter(|message| matches!(message, Message::Start { .. }));
        outcome.messages.splice(0..0, start.cloned());
        self.outcome = Arc::new(outcome);
        self.bytes = 0;
    }
}

/// Where a device thread sits: another one can take its place.
#[derive(Clone)]
struct Seat {
    registry: Registry,
    options: Arc<WorkerOptions>,
}

struct Device {
    executor: Executor,
    seat: Seat,
    watch: Arc<Watch>,
    /// All that is said while prompts run.
    voice: Arc<Voice>,
    begun: Arc<Mutex<Option<Begun>>>,
}

/// Stores how prompts ended and announces it.
#[derive(Clone)]
struct Registry {
    store: Arc<dyn JobStore>,
    sink: Arc<dyn EventSink>,
    runtime: runtime::Handle,
    shared: Arc<Shared>,
}

impl Seat {
    /// Starts a device thread, and one that watches it if there is anything to be done then.
    fn occupy(self, executor: Executor) -> io::Result<()> {
        let watch = Watch::new(self.options.node_timeout, self.options.on_node.clone());
        let shared = self.registry.shared.clone();
        let voice = Arc::new(Voice { sink: self.registry.sink.clone(), watch: watch.clone() });
        let begun = Arc::new(Mutex::new(None));
        let device = Device { executor, seat: self.clone(), watch: watch.clone(), voice, begun: begun.clone() };
        let name = format!("device-{}", self.options.id);
        // Both are there or none.
        let (go, may_go) = std::sync::mpsc::sync_channel::<()>(1);
        let work = move || {
            if may_go.recv().is_ok() {
                device.work();
            }
        };
        let thread = std::thread::Builder::new().name(name.clone()).spawn(work)?;
        {
            let mut state = shared.state.lock();
            if state.stop.is_some() {
                watch.close();
            }
            state.watch = watch.clone();
        }
        if self.options.spare.is_some() || self.options.node_timeout.is_some() {
            std::thread::Builder::new().name(format!("{name}-watch")).spawn(move || self.watch(&watch, &begun))?;
        }
        *shared.thread.lock() = Some(thread);
        // It waits for this.
        let _ = go.send(());
        Ok(())
    }

    /// Watches a device thread, and puts another one into its place if it is stuck.
    fn watch(self, watch: &Watch, begun: &Mutex<Option<Begun>>) {
        let Some(left) = watch.watch(self.options.patience, || self.may_leave()) else { return };
        let (node, class) = left.node.unzip();
        let (node, class) = (node.unwrap_or_default(), class.unwrap_or_default());
        tracing::error!(%node, %class, "a node goes on though it was interrupted: its thread is left behind, and another one goes on");
        let shared = &self.registry.shared;
        shared.state.lock().stuck += 1;
        drop(shared.thread.lock().take());
        let (Some(begun), Some(spare)) = (begun.lock().take(), &self.options.spare) else { return };
        let Begun { claim, to, started_ms } = begun;
        let outcome = given_up(&claim.job, left.timed_out.as_deref(), started_ms);
        self.registry.finish(Ended::new(claim, to, outcome), false);
        while let Err(error) = self.clone().occupy(spare()) {
            tracing::error!(%error, "no thread could be started in place of the one that was left behind");
            std::thread::sleep(STORE_RETRY);
        }
    }

    fn may_leave(&self) -> bool {
        let state = self.registry.shared.state.lock();
        self.options.spare.is_some() && state.stop.is_none() && state.stuck < self.options.max_stuck
    }
}

impl Device {
    fn work(mut self) {
        let mut next: Option<Claim> = None;
        let mut attempts = Attempts::new("a prompt could not be claimed: it is tried until it succeeds");
        loop {
            if self.watch.is_left() {
                return;
            }
            self.free_if_asked();
            if self.seat.registry.shared.state.lock().stop.is_some() {
                if let Some(claim) = next {
                    self.put_back(&claim.token);
                }
                self.seat.registry.settle_at_last();
                return;
            }
            if let Some(claim) = next.take().or_else(|| self.wait(&mut attempts)) {
                next = self.run(claim);
            }
        }
    }

    /// Waits for a job; `None` if something else wants a look first.
    fn wait(&self, attempts: &mut Attempts) -> Option<Claim> {
        let Registry { store, runtime, shared, .. } = &self.seat.registry;
        self.seat.registry.settle_by_thread();
        let unstored: Vec<usize> = shared.state.lock().unstored.iter().map(|ended| ended.bytes).collect();
        if unstored.iter().sum::<usize>() > self.seat.options.max_unstored_bytes {
            self.pause();
            return None;
        }
        let claimed = runtime.block_on(async {
            tokio::select! {
                claimed = store.next_job(&self.seat.options.id) => Some(claimed),
                () = shared.wake.notified() => None,
                // The thread that stores them may not have been startable.
                () = tokio::time::sleep(STORE_RETRY), if !unstored.is_empty() => None,
            }
        })?;
        match claimed {
            Ok(claim) => {
                attempts.succeeded();
                Some(claim)
            }
            Err(error) => {
                attempts.failed(&error, None);
                self.pause();
                None
            }
        }
    }

    /// Runs one job and gives the next one, if it was claimed along with this one's end.
    fn run(&mut self, claim: Claim) -> Option<Claim> {
        let job = &claim.job;
        let shared = self.seat.registry.shared.clone();
        let cancel;
        {
            let mut state = shared.state.lock();
            cancel = state.claimed.take().map(|claimed| claimed.cancel).unwrap_or_default();
            if state.stop == Some(Shutdown::Requeue) {
                cancel.cancel();
            }
            state.running = Some(Running::new(job, cancel.clone()));
        }
        tracing::debug!(prompt_id = %job.id, "a prompt begins");
        if !job.secrets.lost_names().is_empty() {
            let names = job.secrets.lost_names().join(", ");
            tracing::warn!(prompt_id = %job.id, names, "keys that came with this prompt were not kept over the restart: it runs without them");
        }
        let to = Addressee { prompt_id: job.id.as_str().into(), owner: job.owner.clone(), client_id: job.client_id.clone() };
        self.seat.registry.announce(&to, self.seat.registry.figures(None));
        *self.begun.lock() = Some(Begun { claim: claim.clone(), to: to.clone(), started_ms: now_ms() });
        self.watch.begin(&cancel);
        let run = catch_unwind(AssertUnwindSafe(|| self.executor.run_watched(job, &cancel, self.voice.clone(), &self.watch)));
        if !self.watch.end() {
            tracing::info!(prompt_id = %job.id, "a node ended at last whose thread was left behind");
            shared.state.lock().stuck -= 1;
            return None;
        }
        self.begun.lock().take();
        let outcome = run.unwrap_or_else(|panic| {
            // The cache may be half written.
            let _ = catch_unwind(AssertUnwindSafe(|| self.executor.clear()));
            failed_by_panic(job, &*panic)
        });
        let stop = shared.state.lock().stop;
        if stop == Some(Shutdown::Requeue) && outcome.status == Status::Interrupted {
            self.put_back(&claim.token);
            shared.state.lock().running = None;
            return None;
        }
        let took_ms = outcome.ended_ms - outcome.started_ms;
        tracing::debug!(prompt_id = %job.id, status = ?outcome.status, took_ms, "a prompt ended");
        self.seat.registry.finish(Ended::new(claim, to, outcome), stop.is_none())
    }

    /// A job that did not end goes back into the queue.
    fn put_back(&self, token: &Token) {
        if let Err(error) = self.seat.registry.runtime.block_on(self.seat.registry.store.requeue(token)) {
            tracing::error!(%error, prompt_id = token.prompt_id, "the prompt could not be put back; it is found again at the next start");
        }
    }

    fn free_if_asked(&mut self) {
        let (unload_models, free_memory) = {
            let mut state = self.seat.registry.shared.state.lock();
            (std::mem::take(&mut state.unload_models), std::mem::take(&mut state.free_memory))
        };
        // Results first: they may hold models.
        if free_memory {
            self.executor.clear();
        }
        if let (true, Some(unload)) = (unload_models, &self.seat.options.on_unload_models)
            && catch_unwind(AssertUnwindSafe(unload)).is_err()
        {
            tracing::error!("unloading the models panicked");
        }
    }

    fn pause(&self) {
        let wake = &self.seat.registry.shared.wake;
        self.seat.registry.runtime.block_on(async {
            let _ = tokio::time::timeout(STORE_RETRY, wake.notified()).await;
        });
    }
}

impl Registry {
    /// Stores the outcome, then announces the end: what clients are told can be read from the history. Gives the next job if `go_on`.
    /// While the store fails, the prompt still runs as far as anybody is told; its outcome is offered again in the background.
    fn finish(&self, mut ended: Ended, go_on: bool) -> Option<Claim> {
        match self.store_end(&mut ended, go_on) {
            Ok(next) => {
                {
                    let mut state = self.shared.state.lock();
                    state.running = None;
                    state.claimed = next.as_ref().map(|claim| Running::new(&claim.job, CancellationToken::default()));
                }
                self.announce_end(&ended, next.as_ref().map(|claim| &*claim.job));
                next
            }
            Err(error) => {
                tracing::error!(%error, prompt_id = %ended.claim.job.id, "the outcome of a prompt could not be stored: it is tried until it succeeds");
                ended.bytes = ended.outcome.bytes(usize::MAX).unwrap_or(0);
                let mut state = self.shared.state.lock();
                state.running = None;
                state.unstored.push(ended);
                drop(state);
                self.settle_by_thread();
                None
            }
        }
    }

    /// Stores the outcome, and claims the next job along with it if `go_on`. An outcome that can never be stored becomes a failure that says
    /// why.
    fn store_end(&self, ended: &mut Ended, go_on: bool) -> Result<Option<Claim>, Error> {
        let store = |ended: &Ended| {
            let (token, outcome) = (&ended.claim.token, &*ended.outcome);
            self.runtime.block_on(async {
                if go_on {
                    self.store.finish_and_claim(token, outcome).await
                } else {
                    self.store.finish(token, outcome).await.map(|()| None)
                }
            })
        };
        let mut stored = store(ended);
        if let Err(error @ Error::Unstorable(_)) = &stored {
            tracing::error!(%error, prompt_id = %ended.claim.job.id, "a prompt counts as failed, since its outcome can never be stored");
            ended.cut_down(&error.to_string());
            stored = store(ended);
        }
        if let Err(error @ (Error::NotRunning(_) | Error::NotHeld(_))) = &stored {
            tracing::warn!(%error, "the prompt was taken away while it ran");
            return Ok(None);
        }
        stored
    }

    /// Sees to it that a thread offers what is unstored to the store again.
    fn settle_by_thread(&self) {
        let mut state = self.shared.state.lock();
        if state.unstored.is_empty() || state.settled_by_thread {
            return;
        }
        let registry = self.clone();
        match std::thread::Builder::new().name("outcomes".to_owned()).spawn(move || registry.settle()) {
            Ok(_detached) => state.settled_by_thread = true,
            // The device thread comes by here again.
            Err(error) => tracing::error!(%error, "no thread could be started to store outcomes"),
        }
    }

    /// The work of that thread, until everything is stored or the worker stops.
    fn settle(&self) {
        let [mut pause, most] = OUTCOME_RETRY;
        let mut attempts = Attempts::new("outcomes of prompts still cannot be stored");
        loop {
            {
                let mut state = self.shared.state.lock();
                if state.unstored.is_empty() || state.stop.is_some() {
                    state.settled_by_thread = false;
                    return;
                }
                self.shared.retry.wait_for(&mut state, pause);
            }
            pause = most.min(pause * 2);
            self.offer_unstored(&mut attempts);
        }
    }

    /// The last attempt, when the worker stops.
    fn settle_at_last(&self) {
        let mut attempts = Attempts::new("outcomes of prompts cannot be stored: these prompts run again at the next start");
        self.offer_unstored(&mut attempts);
    }

    /// Offers every outcome that waits to the store, since a small one may find a place where a large one does not.
    fn offer_unstored(&self, attempts: &mut Attempts) {
        let _turn = self.shared.settling.lock();
        let waiting = self.shared.state.lock().unstored.clone();
        for mut ended in waiting {
            // It may have been interrupted since.
            let current =
                self.shared.state.lock().unstored.iter().find(|other| other.claim.job.id == ended.claim.job.id).map(|e| e.outcome.clone());
            ended.outcome = current.unwrap_or(ended.outcome);
            match self.store_end(&mut ended, false) {
                Ok(_none) => {
                    attempts.succeeded();
                    tracing::info!(prompt_id = %ended.claim.job.id, "the outcome of a prompt is stored now");
                    self.shared.state.lock().unstored.retain(|other| other.claim.job.id != ended.claim.job.id);
                    self.announce_end(&ended, None);
                    // There may be room for another.
                    self.shared.wake.notify_one();
                }
                Err(error) => attempts.failed(&error, Some(&ended.claim.job.id)),
            }
        }
    }

    /// Announces an end that is stored, in the reference's order: the end, the queue's new figures, and then that nothing runs any more.
    fn announce_end(&self, ended: &Ended, next: Option<&Job>) {
        let end = ended.outcome.messages.last().cloned().map(EventKind::Message);
        let kinds = end.into_iter().chain(self.figures(next)).chain([EventKind::Idle]);
        self.announce(&ended.to, kinds);
    }

    fn announce(&self, to: &Addressee, kinds: impl IntoIterator<Item = EventKind>) {
        for kind in kinds {
            let Addressee { prompt_id, owner, client_id } = to.clone();
            self.sink.emit(Event { prompt_id, owner, client_id, kind });
        }
    }

    /// The queue's figures now. A job that was claimed already, but of whose start nobody was told yet, counts as waiting.
    fn figures(&self, claimed: Option<&Job>) -> Option<EventKind> {
        let version = self.store.versions().borrow().queue;
        match self.runtime.block_on(self.store.counts()) {
            Ok(mut counts) => {
                if let Some(job) = claimed {
                    counts.as_waiting(job);
                }
                Some(EventKind::Queue { version, counts })
            }
            Err(error) => {
                tracing::warn!(%error, "the queue's figures could not be read");
                None
            }
        }
    }
}

/// Tells of a failure that repeats once, until it has changed or passed.
struct Attempts {
    what: &'static str,
    told: Option<String>,
}

impl Attempts {
    fn new(what: &'static str) -> Self {
        Self { what, told: None }
    }

    fn failed(&mut self, error: &Error, prompt_id: Option<&str>) {
        let text = error.to_string();
        if self.told.as_ref() != Some(&text) {
            tracing::error!(error = text, prompt_id, "{}", self.what);
            self.told = Some(text);
        }
    }

    fn succeeded(&mut self) {
        self.told = None;
    }
}

/// How a prompt ends whose node does not.
fn given_up(job: &Job, timed_out: Option<&str>, started_ms: i64) -> Outcome {
    let now = now_ms();
    let mut outcome = match timed_out {
        Some(reason) => Outcome::failed(&job.id, "TimeoutError", &format!("{reason}\n"), started_ms, now),
        None => Outcome::interrupted(&job.id, started_ms, now),
    };
    outcome.messages.insert(0, Message::Start { prompt_id: job.id.as_str().into(), timestamp_ms: started_ms });
    outcome
}

/// Any panic of the executor itself, which has caught those of nodes.
fn failed_by_panic(job: &Job, panic: &(dyn Any + Send)) -> Outcome {
    let now = now_ms();
    let text = panic_text(panic);
    tracing::error!(prompt_id = %job.id, text, "the executor panicked");
    let mut outcome = Outcome::failed(&job.id, "RuntimeError", &format!("the executor failed: {text}\n"), now, now);
    outcome.messages.insert(0, Message::Start { prompt_id: job.id.as_str().into(), timestamp_ms: now });
    outcome
}
