//! A device thread: claims jobs, runs them, stores their outcome and then announces their end. Reached through a [`Handle`].

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use comfyd_jobs::{Event, EventKind, EventSink, Job, JobStore, Outcome, Status};
use comfyd_node::CancelToken;
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use tokio::runtime;
use tokio::sync::Notify;

use crate::executor::{Executor, now_ms, terminal_event};

/// How long the thread waits before it asks a store that failed again.
const STORE_RETRY: Duration = Duration::from_millis(500);
/// How often an outcome is offered to a store that fails, before it is given up.
const FINISH_ATTEMPTS: usize = 20;

/// What a worker needs besides its parts.
#[derive(Default)]
pub struct WorkerOptions {
    /// The device's name; the thread is named after it.
    pub device: String,
    /// Called on the device thread when models shall be unloaded (`POST /free`).
    pub on_unload_models: Option<Box<dyn Fn() + Send>>,
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
        let name = if options.device.is_empty() { "device".to_owned() } else { format!("device-{}", options.device) };
        let device = Device { store, executor, sink, runtime, options, shared: shared.clone() };
        let thread = std::thread::Builder::new().name(name).spawn(move || device.work())?;
        Ok(Handle { shared, thread: Arc::new(Mutex::new(Some(thread))) })
    }
}

/// Steers a worker; clones steer the same one.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Handle {
    /// Interrupts the running prompt; with an id, only if that one runs. Whether one was interrupted.
    pub fn interrupt(&self, prompt_id: Option<&str>) -> bool {
        let state = self.shared.state.lock();
        let asked = match prompt_id {
            None => state.running.as_ref(),
            Some(id) => state.running.iter().chain(&state.claimed).find(|prompt| prompt.id == id),
        };
        if let Some(prompt) = asked {
            prompt.cancel.cancel();
        }
        asked.is_some()
    }

    /// Asks for memory back: once no prompt runs, models are unloaded and, with `free_memory`, cached results dropped too.
    pub fn free(&self, unload_models: bool, free_memory: bool) {
        let mut state = self.shared.state.lock();
        state.unload_models |= unload_models || free_memory;
        state.free_memory |= free_memory;
        drop(state);
        self.shared.wake.notify_one();
    }

    /// The id of the prompt that runs now.
    pub fn running(&self) -> Option<String> {
        self.shared.state.lock().running.as_ref().map(|r| r.id.clone())
    }

    /// Stops the thread and waits for its end. Blocks: call it from `spawn_blocking` in async code. Later calls return at once.
    pub fn shutdown(&self, how: Shutdown) {
        let mut state = self.shared.state.lock();
        state.stop = Some(how);
        if let (Shutdown::Requeue, Some(running)) = (how, &state.running) {
            running.cancel.cancel();
        }
        drop(state);
        self.shared.wake.notify_one();
        let thread = self.thread.lock().take();
        if thread.is_some_and(|t| t.join().is_err()) {
            tracing::error!("the device thread ended with a panic");
        }
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    running: Option<Running>,
    /// The prompt that was claimed along with the last one's end and has not begun: the queue says already that it runs.
    claimed: Option<Running>,
    unload_models: bool,
    free_memory: bool,
    stop: Option<Shutdown>,
}

struct Running {
    id: String,
    cancel: CancelToken,
}

/// Whom a prompt's events concern.
struct Addressee {
    prompt_id: Arc<str>,
    client_id: Option<Arc<str>>,
}

struct Device {
    store: Arc<dyn JobStore>,
    executor: Executor,
    sink: Arc<dyn EventSink>,
    runtime: runtime::Handle,
    options: WorkerOptions,
    shared: Arc<Shared>,
}

impl Device {
    fn work(mut self) {
        let mut next: Option<Arc<Job>> = None;
        loop {
            self.free_if_asked();
            if self.shared.state.lock().stop.is_some() {
                if let Some(job) = next {
                    self.put_back(&job);
                }
                return;
            }
            if let Some(job) = next.take().or_else(|| self.wait()) {
                next = self.run(&job);
            }
        }
    }

    /// Waits for a job; `None` if something else wants a look first.
    fn wait(&self) -> Option<Arc<Job>> {
        let (store, wake) = (&self.store, &self.shared.wake);
        let claimed = self.runtime.block_on(async {
            tokio::select! {
                claimed = store.next_job() => Some(claimed),
                () = wake.notified() => None,
            }
        })?;
        match claimed {
            Ok(job) => Some(job),
            Err(error) => {
                tracing::error!(%error, "no job could be claimed");
                self.pause();
                None
            }
        }
    }

    /// Runs one job and gives the next one, if it was claimed along with this one's end.
    fn run(&mut self, job: &Arc<Job>) -> Option<Arc<Job>> {
        let cancel;
        {
            let mut state = self.shared.state.lock();
            cancel = state.claimed.take().map(|claimed| claimed.cancel).unwrap_or_default();
            if state.stop == Some(Shutdown::Requeue) {
                cancel.cancel();
            }
            state.running = Some(Running { id: job.id.clone(), cancel: cancel.clone() });
        }
        tracing::debug!(prompt_id = %job.id, "a prompt begins");
        if !job.secrets.lost_names().is_empty() {
            let names = job.secrets.lost_names().join(", ");
            tracing::warn!(prompt_id = %job.id, names, "keys that came with this prompt were not kept over the restart: it runs without them");
        }
        let to = Addressee { prompt_id: job.id.as_str().into(), client_id: client_id(job) };
        self.announce(&to, self.figures(None));
        let run = catch_unwind(AssertUnwindSafe(|| self.executor.run(job, &cancel, &*self.sink)));
        let outcome = run.unwrap_or_else(|panic| {
            // The cache may be half written.
            let _ = catch_unwind(AssertUnwindSafe(|| self.executor.clear()));
            failed_by_panic(job, &*panic)
        });
        let stop = self.shared.state.lock().stop;
        if stop == Some(Shutdown::Requeue) && outcome.status == Status::Interrupted {
            self.put_back(job);
            self.shared.state.lock().running = None;
            return None;
        }
        self.finish(job, outcome, &to, stop.is_none())
    }

    /// A job that did not end goes back into the queue.
    fn put_back(&self, job: &Job) {
        if let Err(error) = self.runtime.block_on(self.store.requeue(&job.id)) {
            tracing::error!(%error, prompt_id = %job.id, "the prompt could not be put back; it is found again at the next start");
        }
    }

    /// Stores the outcome, then announces the end: what clients are told can be read from the history. Gives the next job if `go_on`.
    fn finish(&self, job: &Arc<Job>, outcome: Outcome, to: &Addressee, go_on: bool) -> Option<Arc<Job>> {
        let took_ms = outcome.ended_ms - outcome.started_ms;
        tracing::debug!(prompt_id = %job.id, status = ?outcome.status, took_ms, "a prompt ended");
        let end = terminal_event(&outcome);
        let next = self.store_end(job, &outcome, go_on);
        {
            let mut state = self.shared.state.lock();
            state.running = None;
            state.claimed = next.as_ref().map(|job| Running { id: job.id.clone(), cancel: CancelToken::default() });
        }
        // In the reference's order: the end, the queue's new figures, and then that nothing runs any more.
        let kinds = end.into_iter().chain(self.figures(next.as_deref())).chain([EventKind::Idle]);
        self.announce(to, kinds);
        next
    }

    /// Stores the outcome, for as long as the store fails within the bound, and claims the next job along with it if `go_on`.
    fn store_end(&self, job: &Job, outcome: &Outcome, go_on: bool) -> Option<Arc<Job>> {
        for attempt in 1..=FINISH_ATTEMPTS {
            let (store, outcome) = (&self.store, outcome.clone());
            let stored = self.runtime.block_on(async {
                if go_on { store.finish_and_claim(&job.id, outcome).await } else { store.finish(&job.id, outcome).await.map(|()| None) }
            });
            match stored {
                Ok(next) => return next,
                Err(error @ comfyd_jobs::Error::NotRunning(_)) => {
                    tracing::warn!(%error, "the prompt was removed while it ran");
                    return None;
                }
                Err(error) => {
                    tracing::error!(%error, prompt_id = %job.id, attempt, "the outcome could not be stored");
                    if attempt < FINISH_ATTEMPTS {
                        self.pause();
                    }
                }
            }
        }
        None
    }

    fn announce(&self, to: &Addressee, kinds: impl IntoIterator<Item = EventKind>) {
        for kind in kinds {
            self.sink.emit(Event { prompt_id: to.prompt_id.clone(), client_id: to.client_id.clone(), kind });
        }
    }

    /// The queue's figures now. A job that was claimed already, but of whose start nobody was told yet, counts as waiting.
    fn figures(&self, claimed: Option<&Job>) -> Option<EventKind> {
        let version = self.store.versions().borrow().queue;
        match self.runtime.block_on(self.store.counts()) {
            Ok(mut counts) => {
                if let Some(at) = claimed.and_then(|job| counts.running_ids.iter().position(|id| *id == job.id)) {
                    counts.running_ids.remove(at);
                    counts.running -= 1;
                    counts.pending += 1;
                }
                Some(EventKind::Queue { version, counts })
            }
            Err(error) => {
                tracing::warn!(%error, "the queue's figures could not be read");
                None
            }
        }
    }

    fn free_if_asked(&mut self) {
        let (unload_models, free_memory) = {
            let mut state = self.shared.state.lock();
            (std::mem::take(&mut state.unload_models), std::mem::take(&mut state.free_memory))
        };
        // Results first: they may hold models.
        if free_memory {
            self.executor.clear();
        }
        if let (true, Some(unload)) = (unload_models, &self.options.on_unload_models)
            && catch_unwind(AssertUnwindSafe(unload)).is_err()
        {
            tracing::error!("unloading the models panicked");
        }
    }

    fn pause(&self) {
        let wake = &self.shared.wake;
        self.runtime.block_on(async {
            let _ = tokio::time::timeout(STORE_RETRY, wake.notified()).await;
        });
    }
}

/// The client that a job's events go to: `client_id` of its `extra_data`.
fn client_id(job: &Job) -> Option<Arc<str>> {
    #[derive(serde::Deserialize)]
    struct Sender {
        client_id: Option<Json>,
    }
    let sender: Sender = serde_json::from_str(job.extra_data.get()).ok()?;
    sender.client_id?.as_str().map(Arc::from)
}

/// Any panic of the executor itself, which has caught those of nodes.
fn failed_by_panic(job: &Job, panic: &(dyn Any + Send)) -> Outcome {
    let now = now_ms();
    let text = crate::run::panic_text(panic);
    tracing::error!(prompt_id = %job.id, text, "the executor panicked");
    let data = json!({
        "prompt_id": job.id,
        "node_id": "",
        "node_type": "",
        "executed": [],
        "exception_message": format!("the executor failed: {text}\n"),
        "exception_type": "RuntimeError",
        "traceback": [],
        "current_inputs": {},
        "current_outputs": [],
        "timestamp": now,
    });
    let messages =
        vec![("execution_start".to_owned(), json!({"prompt_id": job.id, "timestamp": now})), ("execution_error".to_owned(), data)];
    Outcome { status: Status::Error, messages, outputs: json!({}), meta: json!({}), started_ms: now, ended_ms: now }
}
