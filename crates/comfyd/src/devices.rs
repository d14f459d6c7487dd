//! The devices of this process: each an engine, the classes that run on it, and a worker that claims prompts for it from the one store. Does
//! not know where that store is, nor who hears what happens.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use comfyd_engine::Engine;
use comfyd_executor::{Handle, Showing, Shutdown, Worker, WorkerOptions};
use comfyd_folders::Folders;
use comfyd_jobs::{EventSink, JobStore, OnRestart, Recovered, WorkerId};
use comfyd_python::Outlet;
use comfyd_server::DeviceState;
use tokio::runtime;

use crate::assemble::{self, Failure, choices};
use crate::beside::{Around, Beside, Place};
use crate::config::{self, Config};

/// A node that has not noticed its interruption by then is left behind.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// What a device is at, for whoever speaks for its Python: nothing before its worker is there.
#[derive(Clone, Default)]
pub(crate) struct Runs(Arc<OnceLock<Handle>>);

impl Runs {
    /// Whose prompt runs; `None` where users are not told apart, or none runs.
    pub(crate) fn owner(&self) -> Option<Arc<str>> {
        self.0.get()?.running_owner()
    }
}

/// A device on which nothing runs yet.
pub(crate) struct Device {
    id: WorkerId,
    pub(crate) engine: Engine,
    pub(crate) beside: Arc<Beside>,
    runs: Runs,
}

impl Device {
    /// The first one of the settings, for what needs one alone.
    pub(crate) fn first(config: &Config, around: &Around<'_>, outlet: &Arc<dyn Outlet>) -> Result<Self, Failure> {
        let choice = choices(config).first().copied().unwrap_or_default();
        Self::open(config, Place { choice, number: 0 }, around, outlet, Runs::default())
    }

    fn open(config: &Config, place: Place, around: &Around<'_>, outlet: &Arc<dyn Outlet>, runs: Runs) -> Result<Self, Failure> {
        let engine = assemble::engine(config, place.choice, around.folders, around.account)?;
        let native = assemble::native(config, around.folders, &engine);
        let beside = Arc::new(Beside::new(config, place, native, around, outlet)?);
        assemble::count_beside(around.account, &beside);
        Ok(Self { id: WorkerId::new(&engine.device_name()), engine, beside, runs })
    }
}

/// All devices of this process, of which there is at least one; nothing runs on them yet.
pub(crate) struct Devices(Vec<Device>);

/// Counts a run of a node: its class, the device's place among those of the process and its name among all, and how long it took.
pub(crate) type Counts = Arc<dyn Fn(&str, usize, &WorkerId, Duration) + Send + Sync>;

/// What workers run for.
pub(crate) struct Service {
    /// Where prompts come from, and where their outcomes go.
    pub(crate) store: Arc<dyn JobStore>,
    /// Who is told what happens.
    pub(crate) sink: Arc<dyn EventSink>,
    /// What counts the nodes that run.
    pub(crate) counts: Counts,
    /// What the store's calls run on.
    pub(crate) runtime: runtime::Handle,
    /// What is done with what nodes show before anybody is told.
    pub(crate) showing: Option<Arc<Showing>>,
}

impl Devices {
    /// Those of the settings. `outlet` makes who hears what a device's Python says.
    pub(crate) fn open(config: &Config, around: &Around<'_>, outlet: &(dyn Fn(Runs) -> Arc<dyn Outlet> + Sync)) -> Result<Self, Failure> {
        let mut devices = Vec::new();
        for (number, choice) in choices(config).into_iter().enumerate() {
            let runs = Runs::default();
            devices.push(Device::open(config, Place { choice, number }, around, &outlet(runs.clone()), runs)?);
        }
        let mut named: HashMap<String, usize> = HashMap::new();
        for device in &mut devices {
            let name = device.engine.device_name();
            let count = named.entry(name.clone()).or_default();
            *count += 1;
            if *count > 1 {
                device.id = WorkerId::new(&format!("{name}-{count}"));
            }
            tracing::info!(device = %device.id, "the engine is ready");
        }
        Ok(Self(devices))
    }

    /// The same as those of one process among several, which all have devices of the same names.
    pub(crate) fn of(mut self, process: &str) -> Self {
        for device in &mut self.0 {
            device.id = WorkerId::new(&format!("{process}/{}", device.id));
        }
        self
    }

    /// The Python of the first one, which answers requests: all have the same classes.
    pub(crate) fn lead(&self) -> &Arc<Beside> {
        &self.0[0].beside
    }

    /// The Pythons of all.
    pub(crate) fn besides(&self) -> Vec<Arc<Beside>> {
        self.0.iter().map(|device| Arc::clone(&device.beside)).collect()
    }

    /// Deals with the prompts that these devices were running when they ended last. To be called before they are started.
    pub(crate) async fn recover(&self, store: &dyn JobStore, on_restart: OnRestart) -> Result<Recovered, Failure> {
        let mut all = Recovered::default();
        for device in &self.0 {
            let Recovered { pending, rerun, failed } = store.recover(&device.id, on_restart).await?;
            all = Recovered { pending, rerun: all.rerun + rerun, failed: all.failed + failed };
        }
        Ok(all)
    }

    /// Starts a worker on each.
    pub(crate) fn start(self, config: &Config, folders: &Arc<Folders>, service: &Service) -> Result<Working, Failure> {
        let many = self.0.len();
        let mut working = Working(Vec::new());
        for (number, Device { id, engine, beside, runs }) in self.0.into_iter().enumerate() {
            let spare = assemble::executors(config, many, &beside, &engine, folders, service.showing.as_ref());
            let executor = spare();
            let drop_all = Arc::new(AtomicBool::new(false));
            let (unloaded, unloaded_beside, drops_all) = (engine.clone(), Arc::clone(&beside), Arc::clone(&drop_all));
            let unload = move || {
                unloaded.free(true, true);
                unloaded_beside.free(true, drops_all.swap(false, Ordering::AcqRel));
            };
            let defaults = WorkerOptions::default();
            // Python's nodes have a patience of their own.
            let python = config.python.as_ref().map_or(Duration::ZERO, |python| python.kill_timeout);
            let (counts, counted) = (Arc::clone(&service.counts), id.clone());
            let options = WorkerOptions {
                id: id.clone(),
                on_unload_models: Some(Box::new(unload)),
                node_timeout: config.node_timeout,
                spare: Some(Box::new(spare)),
                patience: defaults.patience + python,
                on_node: Some(Arc::new(move |class, took| counts(class, number, &counted, took))),
                ..defaults
            };
            let Service { store, sink, runtime, .. } = service;
            let worker = Worker::spawn(Arc::clone(store), executor, Arc::clone(sink), runtime.clone(), options)?;
            // It is set nowhere else.
            let _ = runs.0.set(worker.clone());
            working.0.push(Arc::new(Seat { id, worker, engine, beside, drop_all }));
        }
        if config.python.as_ref().is_some_and(|python| python.start == config::PythonStart::Eager) {
            working.0.iter().flat_map(|seat| seat.beside.workers()).for_each(comfyd_python::Worker::start);
        }
        Ok(working)
    }
}

/// Devices whose workers run.
#[derive(Default)]
pub(crate) struct Working(Vec<Arc<Seat>>);

/// One of them.
struct Seat {
    id: WorkerId,
    worker: Handle,
    engine: Engine,
    beside: Arc<Beside>,
    /// Whether Python is to drop all that it keeps when it unloads models next.
    drop_all: Arc<AtomicBool>,
}

impl Working {
    /// As the server sees them.
    pub(crate) fn served(&self) -> impl Iterator<Item = Arc<dyn comfyd_server::Device>> {
        self.0.iter().map(|seat| Arc::clone(seat) as Arc<dyn comfyd_server::Device>)
    }

    /// How many bytes a model may have at most on each: the processor refuses what is over its budget, a card what is over its memory.
    pub(crate) fn rooms(&self) -> HashMap<WorkerId, u64> {
        let room = |seat: &Arc<Seat>| {
            let whole = seat.engine.memory().total;
            let on_card = seat.engine.device_name().starts_with("cuda");
            (seat.id.clone(), if on_card { whole } else { seat.engine.account().budget().min(whole) })
        };
        self.0.iter().map(room).collect()
    }

    /// Has all stop: prompts that run go back into the queue. Then ends the Pythons. What does not stop in time is left behind.
    pub(crate) async fn shutdown(&self) {
        // All are told before one is waited for: otherwise others would take what one puts back.
        self.0.iter().for_each(|seat| seat.worker.stop(Shutdown::Requeue));
        let stop = |seat: &Arc<Seat>| {
            let worker = seat.worker.clone();
            tokio::task::spawn_blocking(move || worker.shutdown(Shutdown::Requeue))
        };
        let stopping: Vec<_> = self.0.iter().map(stop).collect();
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, all(stopping)).await.is_err() {
            tracing::warn!("a running node did not stop in time; its prompt runs again at the next start");
        }
        let end = |seat: &Arc<Seat>| {
            let beside = Arc::clone(&seat.beside);
            tokio::task::spawn_blocking(move || beside.shutdown())
        };
        let ending: Vec<_> = self.0.iter().map(end).collect();
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, all(ending)).await.is_err() {
            tracing::warn!("a Python process did not end in time");
        }
    }
}

/// Waits for all; a panic of one was told of already.
async fn all(tasks: Vec<tokio::task::JoinHandle<()>>) {
    for task in tasks {
        drop(task.await);
    }
}

#[async_trait]
impl comfyd_server::Device for Seat {
    fn state(&self) -> DeviceState {
        let memory = self.engine.memory();
        DeviceState {
            name: self.engine.device_name(),
            memory: memory.total,
            free: memory.free,
            models: memory.held,
            stuck_threads: self.worker.stuck(),
        }
    }

    async fn interrupt(&self, prompt_id: Option<&str>) -> bool {
        self.worker.interrupt(prompt_id)
    }

    fn free(&self, unload_models: bool, free_memory: bool) {
        self.drop_all.fetch_or(free_memory, Ordering::AcqRel);
        self.worker.free(unload_models, free_memory);
    }
}
