//! Several device threads that claim from one store.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use comfyd_executor::{Executor, ExecutorOptions, Handle, Shutdown, Worker, WorkerOptions};
use comfyd_jobs::memory::{MemorySink, MemoryStore};
use comfyd_jobs::{Counts, EventKind, JobStore, NewJob, Position, Status, WorkerId, contract};
use tokio::runtime::Runtime;

use common::{DEAF, catalog, line, prompt};

struct Scene {
    runtime: Runtime,
    store: Arc<MemoryStore>,
    sink: Arc<MemorySink>,
    devices: Vec<Handle>,
}

impl Scene {
    fn of(devices: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (store, sink) = (Arc::new(MemoryStore::default()), Arc::new(MemorySink::default()));
        let device = |number: usize| {
            let executor = || Executor::new(Arc::new(catalog()), ExecutorOptions::default());
            let options = WorkerOptions {
                id: WorkerId::new(&format!("device {number}")),
                spare: Some(Box::new(executor)),
                patience: Duration::from_millis(50),
                ..WorkerOptions::default()
            };
            Worker::spawn(store.clone(), executor(), sink.clone(), runtime.handle().clone(), options).unwrap()
        };
        let devices = (0..devices).map(device).collect();
        Self { runtime, store, sink, devices }
    }

    fn enqueue(&self, id: &str, owner: &str, text: &str) {
        let job = NewJob {
            owner: owner.into(),
            prompt: serde_json::value::to_raw_value(&prompt(text)).unwrap().into(),
            outputs: vec!["out".into()],
            ..contract::job(id, Position::Back)
        };
        self.runtime.block_on(self.store.enqueue(job)).unwrap();
    }

    fn until(&self, what: &str, so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !so() {
            assert!(begun.elapsed() < Duration::from_secs(30), "it never came to be: {what}: {:?}", self.counts());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn counts(&self) -> Counts {
        self.runtime.block_on(self.store.counts()).unwrap()
    }

    fn status(&self, id: &str) -> Option<Status> {
        self.runtime.block_on(self.store.history_entry(id)).unwrap().map(|entry| entry.status)
    }

    fn until_idle(&self, id: &str) {
        self.until(id, || self.sink.look(|events| events.iter().any(|e| *e.prompt_id == *id && matches!(e.kind, EventKind::Idle))));
    }

    /// The device that runs this prompt.
    fn at(&self, id: &str) -> &Handle {
        self.until(id, || self.devices.iter().any(|device| device.running().as_deref() == Some(id)));
        self.devices.iter().find(|device| device.running().as_deref() == Some(id)).unwrap()
    }

    /// What was told of a prompt but the queue's figures, which depend on what the others do.
    fn told(&self, id: &str) -> Vec<String> {
        self.sink.look(|events| {
            let own = events.iter().filter(|e| *e.prompt_id == *id && !matches!(e.kind, EventKind::Queue { .. }));
            own.filter_map(line).collect()
        })
    }

    fn stop(&self) {
        self.devices.iter().for_each(|device| device.stop(Shutdown::Requeue));
        self.devices.iter().for_each(|device| device.shutdown(Shutdown::Requeue));
    }
}

#[test]
fn prompts_run_at_once_and_each_is_told_of_by_itself() {
    let scene = Scene::of(2);
    // Neither ends unless the other one runs too.
    for id in ["p", "q"] {
        scene.enqueue(id, "", "1:Meet room=hall parties=2\nout:Show value=@1");
    }
    for id in ["p", "q"] {
        scene.until_idle(id);
        assert_eq!(scene.status(id), Some(Status::Success));
        let wanted = ["start", "cached []", "executing 1 shown at 1", "executing out shown at out", "executed out {\"values\":[2]}"];
        assert_eq!(scene.told(id), [&wanted[..], &["success", "idle"]].concat());
    }
    scene.stop();
}

#[test]
fn a_free_device_takes_what_waits_while_another_is_busy() {
    let scene = Scene::of(2);
    scene.enqueue("long", "ann", "1:Wait value=1\nout:Show value=@1");
    let busy = scene.at("long");
    assert_eq!(busy.running_owner().as_deref(), Some("ann"));
    for n in 0..30 {
        scene.enqueue(&format!("p{n}"), "", &format!("1:Num value={n}\nout:Show value=@1"));
    }
    (0..30).for_each(|n| scene.until_idle(&format!("p{n}")));
    let free = scene.devices.iter().find(|device| device.running().is_none()).unwrap();
    assert_eq!((busy.running().as_deref(), free.running_owner()), (Some("long"), None));
    // In the order of the queue, since one device ran all of them.
    let shown: Vec<String> = scene.sink.look(|events| events.iter().filter_map(line).filter(|line| line.starts_with("executed")).collect());
    assert_eq!(shown, (0..30).map(|n| format!("executed out {{\"values\":[{n}]}}")).collect::<Vec<_>>());
    scene.stop();
}

#[test]
fn an_interrupt_ends_the_prompt_that_it_names_wherever_it_runs() {
    let scene = Scene::of(3);
    for id in ["a", "b", "c"] {
        scene.enqueue(id, "", "1:Wait value=1\nout:Show value=@1");
    }
    for id in ["a", "b", "c"] {
        scene.at(id);
    }
    let hit: Vec<bool> = scene.devices.iter().map(|device| device.interrupt(Some("b"))).collect();
    assert_eq!(hit.iter().filter(|hit| **hit).count(), 1, "one device runs it");
    scene.until_idle("b");
    assert_eq!(scene.status("b"), Some(Status::Interrupted));
    let mut running = scene.counts().running_ids;
    running.sort();
    assert_eq!(running, ["a", "c"]);
    // What names none ends all that run.
    assert_eq!(scene.devices.iter().filter(|device| device.interrupt(None)).count(), 2);
    for id in ["a", "c"] {
        scene.until_idle(id);
        assert_eq!(scene.status(id), Some(Status::Interrupted));
    }
    scene.stop();
}

#[test]
fn a_node_that_does_not_end_holds_up_its_own_device_alone() {
    let scene = Scene::of(2);
    scene.enqueue("deaf", "", "1:Deaf value=1\nout:Show value=@1");
    let device = scene.at("deaf");
    scene.until("the node", || scene.told("deaf").iter().any(|line| line.starts_with("executing")));
    for n in 0..10 {
        scene.enqueue(&format!("p{n}"), "", "1:Num value=1\nout:Show value=@1");
    }
    (0..10).for_each(|n| scene.until_idle(&format!("p{n}")));
    assert!(device.interrupt(Some("deaf")));
    scene.until_idle("deaf");
    let stuck: Vec<usize> = scene.devices.iter().map(Handle::stuck).collect();
    assert_eq!((stuck.iter().sum::<usize>(), device.stuck()), (1, 1));
    // Another thread sits there now: both take part again.
    for id in ["q", "r"] {
        scene.enqueue(id, "", "1:Meet room=yard parties=2\nout:Show value=@1");
    }
    ["q", "r"].iter().for_each(|id| scene.until_idle(id));
    DEAF.store(false, Ordering::Relaxed);
    scene.until("the thread to end", || device.stuck() == 0);
    scene.stop();
}

#[test]
fn all_that_run_go_back_in_their_order_when_the_devices_stop() {
    let scene = Scene::of(2);
    for id in ["a", "b"] {
        scene.enqueue(id, "", "1:Wait value=1\nout:Show value=@1");
        scene.at(id);
    }
    scene.enqueue("c", "", "1:Num value=1\nout:Show value=@1");
    scene.stop();
    let queue = scene.runtime.block_on(scene.store.queue()).unwrap();
    let waiting: Vec<&str> = queue.pending.iter().map(|job| job.id.as_str()).collect();
    assert_eq!((waiting, queue.running.len()), (vec!["a", "b", "c"], 0));
    for id in ["a", "b", "c"] {
        assert_eq!((scene.status(id), scene.told(id).iter().any(|line| line == "idle")), (None, false), "{id} is not over");
    }
}
