//! The device thread: what it claims, stores and announces, and how it is steered.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use comfyd_executor::{Executor, ExecutorOptions, Handle, Shutdown, Worker, WorkerOptions};
use comfyd_jobs::memory::{MemorySink, MemoryStore};
use comfyd_jobs::{
    Claim, Counts, Error, Event, EventKind, EventSink, HistoryEntry, HistoryQuery, JobStore, Message, NewJob, OnRestart, Outcome, Page,
    Position, Queue, Recovered, Result, Status, Ticket, Token, Versions, WorkerId, contract,
};
use parking_lot::Mutex;
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use common::{DEAF, catalog, lines, prompt};

/// Why a store does not take an outcome, if it does not.
type Refusal = fn(&Outcome) -> Option<Error>;

/// A store that fails when it is told to.
#[derive(Default)]
struct Failing {
    inner: MemoryStore,
    refusal: Mutex<Option<Refusal>>,
    /// How many were not.
    refused: AtomicUsize,
    /// Whether nothing can be claimed.
    no_claims: AtomicBool,
}

impl Failing {
    fn refuse(&self, refusal: Option<Refusal>) {
        *self.refusal.lock() = refusal;
    }

    fn check(&self, outcome: &Outcome) -> Result<()> {
        let error = self.refusal.lock().and_then(|refusal| refusal(outcome));
        self.refused.fetch_add(usize::from(error.is_some()), Ordering::Relaxed);
        error.map_or(Ok(()), Err)
    }
}

#[async_trait]
impl JobStore for Failing {
    async fn enqueue(&self, job: NewJob) -> Result<Ticket> {
        self.inner.enqueue(job).await
    }

    async fn claim(&self, worker: &WorkerId) -> Result<Option<Claim>> {
        if self.no_claims.load(Ordering::Relaxed) { Err(Error::NoSpace) } else { self.inner.claim(worker).await }
    }

    async fn finish(&self, token: &Token, outcome: &Outcome) -> Result<()> {
        self.check(outcome)?;
        self.inner.finish(token, outcome).await
    }

    async fn finish_and_claim(&self, token: &Token, outcome: &Outcome) -> Result<Option<Claim>> {
        self.check(outcome)?;
        self.inner.finish_and_claim(token, outcome).await
    }

    async fn requeue(&self, token: &Token) -> Result<()> {
        self.inner.requeue(token).await
    }

    async fn queue(&self) -> Result<Queue> {
        self.inner.queue().await
    }

    async fn counts(&self) -> Result<Counts> {
        self.inner.counts().await
    }

    async fn remove_pending(&self, ids: &[String]) -> Result<usize> {
        self.inner.remove_pending(ids).await
    }

    async fn clear_pending(&self) -> Result<usize> {
        self.inner.clear_pending().await
    }

    async fn history(&self, query: &HistoryQuery) -> Result<Page> {
        self.inner.history(query).await
    }

    async fn history_entry(&self, id: &str) -> Result<Option<Arc<HistoryEntry>>> {
        self.inner.history_entry(id).await
    }

    async fn delete_history(&self, ids: &[String]) -> Result<usize> {
        self.inner.delete_history(ids).await
    }

    async fn clear_history(&self) -> Result<usize> {
        self.inner.clear_history().await
    }

    async fn recover(&self, worker: &WorkerId, on_restart: OnRestart) -> Result<Recovered> {
        self.inner.recover(worker, on_restart).await
    }

    fn versions(&self) -> watch::Receiver<Versions> {
        self.inner.versions()
    }
}

/// Keeps events, and sees to it that the history tells of an end before it is announced.
struct Sink {
    kept: MemorySink,
    store: Arc<Failing>,
    runtime: tokio::runtime::Handle,
    /// Called when a prompt is over, before the next one begins.
    at_idle: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl EventSink for Sink {
    fn emit(&self, event: Event) {
        let told = match event.kind {
            EventKind::Message(Message::Success { .. }) => Some(Status::Success),
            EventKind::Message(Message::Failed(_)) => Some(Status::Error),
            EventKind::Message(Message::Interrupted(_)) => Some(Status::Interrupted),
            _ => None,
        };
        if told.is_some() {
            let stored = self.runtime.block_on(self.store.history_entry(&event.prompt_id)).unwrap();
            assert_eq!(event.client_id.as_deref(), Some("me"));
            assert_eq!(stored.map(|entry| entry.status), told, "the history when the end is announced");
        }
        let idle = matches!(event.kind, EventKind::Idle);
        self.kept.emit(event);
        if let Some(act) = self.at_idle.lock().as_ref().filter(|_| idle) {
            act();
        }
    }
}

struct Scene {
    runtime: Runtime,
    store: Arc<Failing>,
    sink: Arc<Sink>,
    unloaded: Arc<AtomicUsize>,
    handle: Handle,
}

impl Scene {
    fn new() -> Self {
        Self::with(WorkerOptions::default().max_unstored_bytes)
    }

    fn with(max_unstored_bytes: usize) -> Self {
        Self::with_options(WorkerOptions { max_unstored_bytes, ..WorkerOptions::default() })
    }

    fn with_options(options: WorkerOptions) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let store = Arc::new(Failing::default());
        let sink = Arc::new(Sink {
            at_idle: Mutex::default(),
            kept: MemorySink::default(),
            store: store.clone(),
            runtime: runtime.handle().clone(),
        });
        let unloaded = Arc::new(AtomicUsize::new(0));
        let counter = unloaded.clone();
        let options = WorkerOptions {
            id: WorkerId::new("test"),
            on_unload_models: Some(Box::new(move || {
                counter.fetch_add(1, Ordering::Relaxed);
            })),
            ..options
        };
        let executor = Executor::new(Arc::new(catalog()), ExecutorOptions::default());
        let handle = Worker::spawn(store.clone(), executor, sink.clone(), runtime.handle().clone(), options).unwrap();
        Self { runtime, store, sink, unloaded, handle }
    }

    fn enqueue(&self, id: &str, text: &str) {
        let job = NewJob {
            client_id: Some("me".into()),
            prompt: serde_json::value::to_raw_value(&prompt(text)).unwrap().into(),
            outputs: vec!["out".into()],
            ..contract::job(id, Position::Back)
        };
        self.runtime.block_on(self.store.enqueue(job)).unwrap();
    }

    fn status(&self, id: &str) -> Option<Status> {
        self.runtime.block_on(self.store.history_entry(id)).unwrap().map(|e| e.status)
    }

    fn until(&self, what: &str, done: impl Fn() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < Duration::from_secs(10), "waited in vain for {what}: {}", lines(&self.sink.kept));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn count(&self, is: impl Fn(&EventKind) -> bool) -> usize {
        self.sink.kept.look(|events| events.iter().filter(|event| is(&event.kind)).count())
    }

    fn until_idle(&self, prompts: usize) {
        self.until("the end of all prompts", || self.count(|kind| matches!(kind, EventKind::Idle)) == prompts);
    }

    /// Waits until so many prompts have run, whether their ends are stored or not.
    fn until_run(&self, prompts: usize) {
        self.until("the prompts to run", || self.count(|kind| matches!(kind, EventKind::Executed { .. })) == prompts);
        let before = self.store.refused.load(Ordering::Relaxed);
        self.until("another attempt to store", || self.store.refused.load(Ordering::Relaxed) > before + 2 * prompts);
    }

    fn ends(&self) -> usize {
        self.count(|kind| {
            matches!(kind, EventKind::Message(Message::Success { .. } | Message::Failed(_) | Message::Interrupted(_)) | EventKind::Idle)
        })
    }

    fn running(&self) -> Vec<String> {
        self.runtime.block_on(self.store.counts()).unwrap().running_ids
    }
}

#[test]
fn the_end_is_announced_once_it_is_stored() {
    let scene = Scene::new();
    scene.enqueue("p", "1:Num value=1\nout:Show value=@1");
    scene.until_idle(1);
    let wanted = [
        "queue 1 running 0 waiting",
        "start",
        "cached []",
        "executing 1 shown at 1",
        "executing out shown at out",
        "executed out {\"values\":[1]}",
        "success",
        "queue 0 running 0 waiting",
        "idle",
    ];
    assert_eq!(lines(&scene.sink.kept), wanted.join("\n"));
    scene.enqueue("q", "1:Fail how=broken\nout:Show value=@1");
    scene.until_idle(1);
    let events = lines(&scene.sink.kept);
    assert!(events.ends_with("error \"1\" \"broken\\n\"\nqueue 0 running 0 waiting\nidle"), "{events}");
    scene.handle.shutdown(Shutdown::Finish);
}

#[test]
fn a_running_prompt_is_interrupted_by_its_id() {
    let scene = Scene::new();
    assert!(!scene.handle.interrupt(None), "nothing runs");
    scene.enqueue("p", "1:Wait value=1\nout:Show value=@1");
    scene.until("the start", || scene.handle.running().as_deref() == Some("p"));
    assert!(!scene.handle.interrupt(Some("q")));
    assert!(scene.handle.interrupt(Some("p")));
    scene.until_idle(1);
    assert_eq!(scene.status("p"), Some(Status::Interrupted));
    assert_eq!(scene.handle.running(), None);
    let events = lines(&scene.sink.kept);
    assert!(events.contains("interrupted \"1\"\n"), "{events}");
    // The next prompt is not touched.
    scene.enqueue("q", "1:Num value=1\nout:Show value=@1");
    scene.until_idle(1);
    assert_eq!(scene.status("q"), Some(Status::Success));
    scene.handle.shutdown(Shutdown::Requeue);
}

#[test]
fn shutdown_puts_the_running_prompt_back() {
    let scene = Scene::new();
    scene.enqueue("p", "1:Wait value=1\nout:Show value=@1");
    scene.enqueue("q", "1:Num value=1\nout:Show value=@1");
    scene.until("the start", || scene.handle.running().is_some());
    scene.handle.shutdown(Shutdown::Requeue);
    let queue = scene.runtime.block_on(scene.store.queue()).unwrap();
    let waiting: Vec<&str> = queue.pending.iter().map(|j| j.id.as_str()).collect();
    assert_eq!((waiting, queue.running.len()), (vec!["p", "q"], 0));
    assert_eq!(scene.status("p"), None);
    assert!(!lines(&scene.sink.kept).contains("interrupted"), "it is not over");
    scene.handle.shutdown(Shutdown::Finish);
}

#[test]
fn shutdown_may_wait_for_the_running_prompt() {
    let scene = Scene::new();
    scene.enqueue("p", "1:Wait value=1\nout:Show value=@1");
    scene.until("the start", || scene.handle.running().is_some());
    let handle = scene.handle.clone();
    let stopping = std::thread::spawn(move || handle.shutdown(Shutdown::Finish));
    std::thread::sleep(Duration::from_millis(20));
    assert!(!stopping.is_finished());
    scene.handle.interrupt(None);
    stopping.join().unwrap();
    assert_eq!(scene.status("p"), Some(Status::Interrupted));
}

#[test]
fn memory_is_freed_between_prompts() {
    let scene = Scene::new();
    let text = "1:Num value=1\nout:Show value=@1";
    scene.enqueue("p", text);
    scene.until_idle(1);
    scene.handle.free(true, false);
    scene.until("the models to be unloaded", || scene.unloaded.load(Ordering::Relaxed) == 1);
    lines(&scene.sink.kept);
    scene.enqueue("q", text);
    scene.until_idle(1);
    assert!(!lines(&scene.sink.kept).contains("executing"), "results stay");
    scene.handle.free(false, true);
    scene.until("the models to be unloaded", || scene.unloaded.load(Ordering::Relaxed) == 2);
    scene.enqueue("r", text);
    scene.until_idle(1);
    assert!(lines(&scene.sink.kept).contains("executing 1"), "results are gone");
    scene.handle.shutdown(Shutdown::Finish);
}

#[test]
fn prompts_run_in_the_order_of_the_queue() {
    let scene = Scene::new();
    scene.enqueue("hold", "1:Wait value=1\nout:Show value=@1");
    scene.until("the start", || scene.handle.running().is_some());
    for i in 0..50 {
        scene.enqueue(&format!("p{i}"), &format!("1:Num value={i}\nout:Show value=@1"));
    }
    scene.handle.interrupt(None);
    scene.until_idle(51);
    let events = lines(&scene.sink.kept);
    let shown: Vec<&str> = events.lines().filter(|l| l.starts_with("executed")).collect();
    let expected: Vec<String> = (0..50).map(|i| format!("executed out {{\"values\":[{i}]}}")).collect();
    assert_eq!(shown, expected);
    scene.handle.shutdown(Shutdown::Finish);
}

#[test]
fn the_figures_between_two_prompts_count_the_next_one_as_waiting() {
    let scene = Scene::new();
    scene.enqueue("hold", "1:Wait value=1\nout:Show value=@1");
    scene.until("the start", || scene.handle.running().is_some());
    scene.enqueue("p", "1:Num value=1\nout:Show value=@1");
    scene.handle.interrupt(None);
    scene.until_idle(2);
    let events = lines(&scene.sink.kept);
    let figures: Vec<&str> = events.lines().filter(|l| l.starts_with("queue") || *l == "idle").collect();
    let wanted = [
        "queue 1 running 0 waiting",
        "queue 0 running 1 waiting",
        "idle",
        "queue 1 running 0 waiting",
        "queue 0 running 0 waiting",
        "idle",
    ];
    assert_eq!(figures, wanted);
    scene.handle.shutdown(Shutdown::Finish);
}

#[test]
fn a_prompt_claimed_before_the_stop_goes_back() {
    let scene = Scene::new();
    scene.enqueue("hold", "1:Wait value=1\nout:Show value=@1");
    scene.until("the start", || scene.handle.running().is_some());
    scene.enqueue("p", "1:Num value=1\nout:Show value=@1");
    let handle = scene.handle.clone();
    let stopping = std::thread::spawn(move || handle.shutdown(Shutdown::Finish));
    std::thread::sleep(Duration::from_millis(20));
    scene.handle.interrupt(None);
    stopping.join().unwrap();
    let queue = scene.runtime.block_on(scene.store.queue()).unwrap();
    let waiting: Vec<&str> = queue.pending.iter().map(|j| j.id.as_str()).collect();
    assert_eq!((waiting, queue.running.len()), (vec!["p"], 0));
}

#[test]
fn a_prompt_that_the_queue_calls_running_can_be_interrupted_before_it_begins() {
    let scene = Scene::new();
    scene.enqueue("hold", "1:Wait value=1\nout:Show value=@1");
    scene.until("the start", || scene.handle.running().is_some());
    scene.enqueue("p", "1:Num value=1\nout:Show value=@1");
    scene.enqueue("q", "1:Num value=2\nout:Show value=@1");
    let handle = scene.handle.clone();
    *scene.sink.at_idle.lock() = Some(Box::new(move || {
        assert!(!handle.interrupt(None), "without an id, only what has begun is meant");
        handle.interrupt(Some("p"));
    }));
    scene.handle.interrupt(Some("hold"));
    scene.until_idle(3);
    assert_eq!(scene.status("p"), Some(Status::Interrupted));
    assert_eq!(scene.status("q"), Some(Status::Success), "the next one is not touched");
    scene.handle.shutdown(Shutdown::Finish);
}

const NUMBER: &str = "1:Num value=1\nout:Show value=@1";

#[test]
fn no_end_is_announced_while_it_cannot_be_stored_and_others_run() {
    let scene = Scene::new();
    scene.store.refuse(Some(|_| Some(Error::NoSpace)));
    for (n, id) in ["p", "q", "r"].iter().enumerate() {
        scene.enqueue(id, &format!("1:Num value={n}\nout:Show value=@1"));
    }
    scene.until_run(3);
    assert_eq!(scene.ends(), 0, "{}", lines(&scene.sink.kept));
    assert_eq!(scene.running(), ["p", "q", "r"], "as far as anybody is told, they run");
    assert_eq!(scene.handle.running(), None, "nothing takes the device");
    scene.store.refuse(None);
    scene.until_idle(3);
    let events = lines(&scene.sink.kept);
    let ends: Vec<&str> = events.lines().filter(|line| ["success", "idle"].contains(line)).collect();
    assert_eq!(ends, ["success", "idle", "success", "idle", "success", "idle"]);
    for id in ["p", "q", "r"] {
        assert_eq!(scene.status(id), Some(Status::Success));
    }
    scene.handle.shutdown(Shutdown::Finish);
}

#[test]
fn outcomes_that_wait_are_bounded() {
    let scene = Scene::with(0);
    scene.store.refuse(Some(|_| Some(Error::Storage("the disk is gone".into()))));
    scene.enqueue("p", NUMBER);
    scene.enqueue("q", NUMBER);
    scene.until_run(1);
    assert_eq!(scene.running(), ["p"], "the next one waits until there is room for what it leads to");
    scene.store.refuse(None);
    scene.until_idle(2);
    assert_eq!((scene.status("p"), scene.status("q")), (Some(Status::Success), Some(Status::Success)));
    scene.handle.shutdown(Shutdown::Finish);
}

#[test]
fn the_queue_goes_on_when_prompts_can_be_claimed_again() {
    let scene = Scene::new();
    scene.store.no_claims.store(true, Ordering::Relaxed);
    scene.enqueue("p", NUMBER);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(scene.count(|_| true), 0, "{}", lines(&scene.sink.kept));
    scene.store.no_claims.store(false, Ordering::Relaxed);
    scene.until_idle(1);
    assert_eq!(scene.status("p"), Some(Status::Success));
    scene.handle.shutdown(Shutdown::Finish);
}

#[test]
fn an_outcome_that_can_never_be_stored_is_cut_down_and_says_why() {
    let scene = Scene::new();
    scene.store.refuse(Some(|outcome| (outcome.outputs != json!({})).then(|| Error::Unstorable("it is too large".into()))));
    scene.enqueue("p", NUMBER);
    scene.until_idle(1);
    let events = lines(&scene.sink.kept);
    assert!(events.ends_with("error \"\" \"it cannot be stored: it is too large\"\nqueue 0 running 0 waiting\nidle"), "{events}");
    let entry = scene.runtime.block_on(scene.store.history_entry("p")).unwrap().unwrap();
    assert_eq!((entry.status, entry.outputs.get(), entry.meta.get()), (Status::Error, "{}", "{}"));
    let messages: Vec<(String, serde_json::Value)> = serde_json::from_str(entry.messages.get()).unwrap();
    let names: Vec<&str> = messages.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["execution_start", "execution_error"]);
    assert_eq!(messages[1].1["prompt_id"], "p");
    // The next one is not held up.
    scene.store.refuse(None);
    scene.enqueue("q", NUMBER);
    scene.until_idle(1);
    assert_eq!(scene.status("q"), Some(Status::Success));
    scene.handle.shutdown(Shutdown::Finish);
}

#[test]
fn a_prompt_whose_outcome_waits_can_be_interrupted() {
    for id in [Some("p"), None] {
        let scene = Scene::new();
        scene.store.refuse(Some(|outcome| (outcome.outputs != json!({})).then_some(Error::NoSpace)));
        scene.enqueue("p", NUMBER);
        scene.until_run(1);
        assert!(!scene.handle.interrupt(Some("q")));
        assert!(scene.handle.interrupt(id), "the queue says that it runs");
        scene.until_idle(1);
        assert_eq!(scene.status("p"), Some(Status::Interrupted), "what it ends with is small and found its place");
        assert!(lines(&scene.sink.kept).contains("interrupted \"\"\n"));
        assert!(!scene.handle.interrupt(id), "it is over");
        scene.handle.shutdown(Shutdown::Finish);
    }
}

#[test]
fn a_stop_tries_once_more_and_leaves_the_prompt_to_the_next_start() {
    let scene = Scene::new();
    scene.store.refuse(Some(|_| Some(Error::NoSpace)));
    scene.enqueue("p", NUMBER);
    scene.until_run(1);
    scene.handle.shutdown(Shutdown::Requeue);
    assert_eq!(scene.ends(), 0, "{}", lines(&scene.sink.kept));
    assert_eq!(scene.running(), ["p"]);
    assert_eq!(
        scene.runtime.block_on(scene.store.recover(&WorkerId::new("test"), OnRestart::Rerun { max_crashes: 0 })).unwrap().rerun,
        1,
        "it runs again"
    );

    let scene = Scene::new();
    scene.store.refuse(Some(|_| Some(Error::NoSpace)));
    scene.enqueue("p", NUMBER);
    scene.until_run(1);
    scene.store.refuse(None);
    scene.handle.shutdown(Shutdown::Requeue);
    assert_eq!(scene.status("p"), Some(Status::Success));
    assert_eq!(scene.ends(), 2, "the end, and that nothing runs any more");
}

#[test]
fn a_node_that_takes_too_long_fails_its_prompt() {
    let scene = Scene::with_options(WorkerOptions { node_timeout: Some(Duration::from_millis(300)), ..WorkerOptions::default() });
    scene.enqueue("p", "1:Wait value=1\nout:Show value=@1");
    scene.until_idle(1);
    assert_eq!(scene.status("p"), Some(Status::Error));
    let events = lines(&scene.sink.kept);
    assert!(events.contains("error \"1\" \"the node ran for longer than 0.3 s"), "{events}");
    // One that is interrupted has not failed, and the next prompt is not touched.
    scene.enqueue("q", "1:Wait value=1\nout:Show value=@1");
    scene.until("the start", || scene.handle.running().as_deref() == Some("q"));
    scene.handle.interrupt(None);
    scene.until_idle(1);
    assert_eq!(scene.status("q"), Some(Status::Interrupted));
    scene.enqueue("r", "1:Num value=1\nout:Show value=@1");
    scene.until_idle(2);
    assert_eq!(scene.status("r"), Some(Status::Success));
    scene.handle.shutdown(Shutdown::Requeue);
}

#[test]
fn a_thread_whose_node_does_not_end_is_left_behind_and_another_goes_on() {
    let spare = || Executor::new(Arc::new(catalog()), ExecutorOptions::default());
    let scene = Scene::with_options(WorkerOptions {
        node_timeout: Some(Duration::from_secs(2)),
        spare: Some(Box::new(spare)),
        patience: Duration::from_millis(50),
        max_stuck: 2,
        ..WorkerOptions::default()
    });
    let run = |id: &str, class: &str| scene.enqueue(id, &format!("1:{class} value=1\nout:Show value=@1"));
    let interrupted = |id: &str, begun: usize| {
        scene.until("the start", || scene.handle.running().as_deref() == Some(id));
        scene.until("the node", || scene.count(|kind| matches!(kind, EventKind::Executing(_))) == begun);
        assert!(scene.handle.interrupt(Some(id)));
    };
    run("p", "Deaf");
    interrupted("p", 1);
    scene.until_idle(1);
    assert_eq!((scene.status("p"), scene.handle.stuck()), (Some(Status::Interrupted), 1));
    run("q", "Num");
    scene.until_idle(2);
    assert_eq!(scene.status("q"), Some(Status::Success));
    // The second one runs into its time limit.
    run("r", "Deaf");
    scene.until_idle(3);
    assert_eq!((scene.status("r"), scene.handle.stuck()), (Some(Status::Error), 2));
    // There are no more than so many: this one is waited for.
    run("s", "Deaf");
    interrupted("s", 5);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!((scene.status("s"), scene.handle.stuck()), (None, 2));
    DEAF.store(false, Ordering::Relaxed);
    scene.until("the others to end", || scene.handle.stuck() == 0);
    scene.until_idle(4);
    assert_eq!(scene.status("s"), Some(Status::Interrupted));
    assert_eq!(scene.running(), Vec::<String>::new());
    let events = lines(&scene.sink.kept);
    assert_eq!(events.matches("executed").count(), 1, "nothing is told of a thread that was left behind: {events}");
    scene.handle.shutdown(Shutdown::Requeue);
}
