//! The device thread: what it claims, stores and announces, and how it is steered.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use comfyd_executor::{Executor, ExecutorOptions, Handle, Shutdown, Worker, WorkerOptions};
use comfyd_jobs::memory::{MemorySink, MemoryStore};
use comfyd_jobs::{Event, EventKind, EventSink, JobStore, NewJob, Position, Secrets, Status};
use parking_lot::Mutex;
use serde_json::json;
use tokio::runtime::Runtime;

use common::{catalog, lines, prompt};

/// Keeps events, and sees to it that the history tells of an end before it is announced.
struct Sink {
    kept: MemorySink,
    store: Arc<MemoryStore>,
    runtime: tokio::runtime::Handle,
    /// Called when a prompt is over, before the next one begins.
    at_idle: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl EventSink for Sink {
    fn emit(&self, event: Event) {
        let told = match event.kind {
            EventKind::Success { .. } => Some(Status::Success),
            EventKind::Error { .. } => Some(Status::Error),
            EventKind::Interrupted { .. } => Some(Status::Interrupted),
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
    store: Arc<MemoryStore>,
    sink: Arc<Sink>,
    unloaded: Arc<AtomicUsize>,
    handle: Handle,
}

impl Scene {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let store = Arc::new(MemoryStore::default());
        let sink = Arc::new(Sink {
            at_idle: Mutex::default(),
            kept: MemorySink::default(),
            store: store.clone(),
            runtime: runtime.handle().clone(),
        });
        let unloaded = Arc::new(AtomicUsize::new(0));
        let counter = unloaded.clone();
        let options = WorkerOptions {
            device: "test".into(),
            on_unload_models: Some(Box::new(move || {
                counter.fetch_add(1, Ordering::Relaxed);
            })),
        };
        let executor = Executor::new(Arc::new(catalog()), ExecutorOptions::default());
        let handle = Worker::spawn(store.clone(), executor, sink.clone(), runtime.handle().clone(), options).unwrap();
        Self { runtime, store, sink, unloaded, handle }
    }

    fn enqueue(&self, id: &str, text: &str) {
        let job = NewJob {
            id: id.into(),
            position: Position::Back,
            prompt: serde_json::value::to_raw_value(&prompt(text)).unwrap().into(),
            extra_data: serde_json::value::to_raw_value(&json!({"client_id": "me"})).unwrap().into(),
            secrets: Secrets::default(),
            outputs: vec!["out".into()],
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

    fn until_idle(&self, prompts: usize) {
        let idle = || self.sink.kept.look(|e| e.iter().filter(|e| matches!(e.kind, EventKind::Idle)).count()) == prompts;
        self.until("the end of all prompts", idle);
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
