//! A ComfyUI beside comfyd, for those who serve and compose.

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use comfyd_node::{Entry, Host};
use parking_lot::Mutex;
use serde_json::Value as Json;

use crate::away;
use crate::error::Error;
use crate::frame::Message;
use crate::host::{Core, Shared, State, answer};
use crate::hosted;
use crate::interpreter;
use crate::key::key;
use crate::manifest::Manifest;
use crate::process::Folder;
use crate::report::Report;
use crate::settings::{Outlet, Settings};
use crate::supervisor;

/// How long a process that is to end has for it.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long handlers of packs may take for a request.
const HANDLERS: Duration = Duration::from_secs(60);
/// How long figures may take, and how long they are good.
const STATS: Duration = Duration::from_secs(2);
const FRESH: Duration = Duration::from_secs(1);

/// A ComfyUI beside comfyd: its manifest, and its process while there is one. Clones share it; the last one ends the process.
#[derive(Clone)]
pub struct Worker {
    owner: Arc<Owner>,
}

/// Ends the process when nobody has the worker any more. Classes in a catalog do not count.
struct Owner {
    shared: Arc<Shared>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
    stats: Mutex<Option<(Instant, Json)>>,
}

impl Worker {
    /// Checks the installation and reads the manifest that is kept of it. Starts nothing.
    pub fn new(settings: Settings, outlet: Arc<dyn Outlet>) -> Result<Self, Error> {
        interpreter::check(&settings.comfyui)?;
        let python = interpreter::find(&settings)?;
        let folder = Folder::new().map_err(|error| Error::Unusable(format!("the worker's files cannot be written: {error}")))?;
        let key = key(&settings, &python);
        let manifest = Manifest::read(&settings.file(), &key).map(Arc::new);
        let published = manifest.is_some();
        let shared = Shared::new(settings, outlet, python, folder, Core { manifest, published, key, ..Core::default() });
        let supervised = shared.clone();
        let supervisor = std::thread::Builder::new().name("python worker".into()).spawn(move || supervisor::supervise(&supervised));
        let supervisor = supervisor.map_err(|error| Error::Unusable(format!("no thread can look after the worker: {error}")))?;
        Ok(Self { owner: Arc::new(Owner { shared, supervisor: Mutex::new(Some(supervisor)), stats: Mutex::new(None) }) })
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.owner.shared
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared().settings.name
    }

    /// The interpreter that runs it.
    pub fn python(&self) -> PathBuf {
        self.shared().python.clone()
    }

    /// It, as the executor knows it.
    pub fn host(&self) -> Arc<dyn Host> {
        self.shared().clone()
    }

    /// Starts the process in the background, if there is none, and from now on whenever it has ended.
    pub fn start(&self) {
        self.shared().change(|core| {
            core.eager = true;
            core.wanted |= matches!(core.state, State::Cold | State::Failed(_));
        });
    }

    /// Waits until it is ready, starting it if need be, or until it failed. Blocks.
    pub fn ready(&self) -> Result<(), Error> {
        self.shared().ready(None).map(drop)
    }

    /// Waits until its classes are known: at once where a manifest is kept. Blocks, at most as long as a start may take.
    pub fn known(&self) -> Result<(), Error> {
        let known = {
            let core = self.shared().core();
            core.manifest.is_some() && core.published
        };
        if known { Ok(()) } else { self.ready() }
    }

    /// What is known of the installation but its classes, which are [`Worker::entries`]; `None` before its first start.
    pub fn manifest(&self) -> Option<Arc<Json>> {
        self.shared().core().manifest.as_ref().map(|manifest| manifest.rest.clone())
    }

    /// What is known of the installation, for people; `None` before its first start.
    pub fn report(&self) -> Option<Report> {
        let manifest = self.shared().core().manifest.clone()?;
        Some(Report::new(&manifest))
    }

    /// Another object whenever the manifest or the classes have become others; to be compared by its address.
    pub fn edition(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.shared().core().manifest.clone().map(|manifest| manifest as Arc<dyn Any + Send + Sync>)
    }

    /// Its classes, as far as they are known.
    pub fn entries(&self) -> Vec<Entry> {
        let manifest = self.shared().core().manifest.clone();
        manifest.iter().flat_map(|manifest| manifest.classes.values()).map(|class| hosted::entry(class, self.shared())).collect()
    }

    /// Its classes as a text that [`crate::away`] reads on another host; `None` before they are known.
    pub fn told(&self) -> Option<String> {
        let manifest = self.shared().core().manifest.clone()?;
        away::told(&manifest).inspect_err(|error| tracing::error!("the classes of '{}' cannot be told: {error}", self.name())).ok()
    }

    /// Answers what another host asks about inputs of one of its classes. Blocks, and starts the process if need be.
    pub fn check(&self, question: &str) -> Json {
        away::check(self.shared(), question)
    }

    /// Asks the process anew about classes that list files in folders that have changed. Blocks; does nothing where no process is ready.
    pub fn refresh(&self) {
        if let Err(error) = supervisor::refresh(self.shared()) {
            tracing::warn!("the Python worker '{}' cannot tell its classes anew: {error}", self.name());
        }
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.shared().core().state.clone()
    }

    /// What its process holds of the machine's memory, in bytes.
    pub fn memory(&self) -> u64 {
        let pid = self.shared().core().objects.as_ref().map(|objects| objects.link.pid());
        pid.and_then(comfyd_memory::machine::held_by).unwrap_or(0)
    }

    /// The Unix socket on which its HTTP routes are served once it is ready.
    pub fn http(&self) -> PathBuf {
        self.shared().folder.http()
    }

    /// A prompt's request as the packs' handlers change it. Blocks.
    pub fn on_prompt(&self, request: Json) -> Result<Json, Error> {
        let Some(objects) = self.shared().ready(None)? else { return Ok(request) };
        let mut json = answer(&objects, Message::new("on_prompt").field("json", &request), HANDLERS)?;
        Ok(json.get_mut("json").map_or(request, Json::take))
    }

    /// Versions and devices, as its PyTorch tells them; `None` while none is ready. Blocks.
    pub fn stats(&self) -> Option<Json> {
        let mut stats = self.owner.stats.lock();
        if let Some((at, json)) = &*stats
            && at.elapsed() < FRESH
        {
            return Some(json.clone());
        }
        let objects = {
            let core = self.shared().core();
            core.objects.clone().filter(|_| matches!(core.state, State::Ready { .. }))?
        };
        let mut json = answer(&objects, Message::new("stats"), STATS).ok()?;
        if let Some(map) = json.as_object_mut() {
            map.shift_remove("re");
        }
        *stats = Some((Instant::now(), json.clone()));
        Some(json)
    }

    /// Ends the process. Blocks until it has.
    pub fn shutdown(&self) {
        self.owner.shutdown();
    }
}

impl Owner {
    fn shutdown(&self) {
        let objects = self.shared.change(|core| {
            core.closing = true;
            core.objects.clone()
        });
        if let Some(objects) = objects {
            objects.link.quit(FAREWELL);
        }
        let Some(supervisor) = self.supervisor.lock().take() else { return };
        if supervisor.thread().id() != std::thread::current().id() && supervisor.join().is_err() {
            tracing::error!("the thread of the Python worker '{}' panicked", self.shared.settings.name);
        }
        self.shared.folder.remove();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shutdown();
    }
}
