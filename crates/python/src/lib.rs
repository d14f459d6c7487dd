//! The classes of a user's own ComfyUI, run in Python processes beside comfyd. The installation stays as it is: a worker boots its
//! unchanged `main.py` without its port and calls single nodes on request. This crate knows frames, handles and processes, and neither
//! HTTP nor how a graph is ordered.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use comfyd_node::Entry;
use serde_json::Value as Json;

/// Why a worker cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The folder or the interpreter cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// It did not start: why, with the last lines that it wrote.
    #[error("{0}")]
    NotStarted(String),
    /// It ended while it was needed.
    #[error("{0}")]
    Ended(String),
    /// It raised an exception.
    #[error("{0}")]
    Raised(String),
}

/// Whether a worker's process reaches the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// As any program of the user.
    #[default]
    Allow,
    /// No interfaces at all; it does not start where that cannot be had.
    Deny,
}

/// How long a worker may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patience {
    /// Until it is ready.
    pub start: Duration,
    /// From an interrupt until an exception is thrown into its thread.
    pub raise: Duration,
    /// From an interrupt until it is killed.
    pub kill: Duration,
    /// Without a sign of life while nothing runs, until it is started anew.
    pub idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { start: seconds(180), raise: seconds(10), kill: seconds(60), idle: seconds(60) }
    }
}

/// One environment: a ComfyUI, its interpreter and options.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Its name: `default`, or the user's.
    pub name: String,
    /// The checkout, where `main.py` is.
    pub comfyui: PathBuf,
    /// The interpreter; else that of `venv`, `.venv` or `python_embeded` in or beside the checkout, else the active environment's.
    pub python: Option<PathBuf>,
    /// ComfyUI's own options.
    pub args: Vec<String>,
    /// More environment variables, such as `CUDA_VISIBLE_DEVICES`.
    pub variables: Vec<(String, String)>,
    /// Where the manifest is kept.
    pub data: PathBuf,
    /// Where comfyd listens, for packs that call back: `host:port`.
    pub address: String,
    /// Whether it reaches the network.
    pub network: Network,
    /// How long it may take.
    pub patience: Patience,
}

/// Who hears what workers say besides answers and reports of nodes. Called from a worker's own thread; must return soon.
pub trait Outlet: Send + Sync {
    /// An event of a pack, for one client or all.
    fn event(&self, name: &str, data: Json, client: Option<&str>);
    /// A binary websocket message of that type.
    fn binary(&self, kind: u32, bytes: Vec<u8>, client: Option<&str>);
    /// A pack puts a prompt into the queue: ComfyUI's tuple `[number, prompt_id, prompt, extra_data, outputs]`.
    fn enqueue(&self, item: Json);
    /// A pack takes prompts out of the queue; `None` for all.
    fn remove(&self, ids: Option<Vec<String>>);
    /// The worker is another than it was (new classes, ready, ended): [`Worker::entries`] and [`Worker::state`] tell.
    fn changed(&self);
}

/// Where a worker stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum State {
    /// Not started, or stopped.
    #[default]
    Cold,
    /// Its process boots.
    Starting,
    /// It answers.
    Ready {
        /// Its process.
        pid: u32,
    },
    /// It did not start, or ended by itself: why. It is tried again when it is needed, after a pause that grows.
    Failed(String),
}

/// A ComfyUI beside comfyd: its manifest, and its process while there is one. Clones share it.
#[derive(Clone)]
pub struct Worker {
    settings: Arc<Settings>,
}

impl Worker {
    /// Checks the installation and reads the manifest that is kept of it. Starts nothing.
    pub fn new(settings: Settings, outlet: Arc<dyn Outlet>) -> Result<Self, Error> {
        drop(outlet);
        Ok(Self { settings: Arc::new(settings) })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Starts the process in the background, if there is none.
    pub fn start(&self) {}

    /// Waits until it is ready, starting it if need be, or until it failed. Blocks.
    pub fn ready(&self) -> Result<(), Error> {
        Err(Error::NotStarted("nothing starts yet".into()))
    }

    /// Waits until its classes are known: at once where a manifest is kept. Blocks, at most as long as a start may take.
    pub fn known(&self) -> Result<(), Error> {
        self.ready()
    }

    /// What is known of the installation; `None` before its first start.
    pub fn manifest(&self) -> Option<Arc<Json>> {
        None
    }

    /// Its classes, as far as they are known.
    pub fn entries(&self) -> Vec<Entry> {
        Vec::new()
    }

    /// Asks the process anew about classes that list files in folders that have changed. Blocks; does nothing where no process is ready.
    pub fn refresh(&self) {}

    /// Where it stands.
    pub fn state(&self) -> State {
        State::Cold
    }

    /// The Unix socket on which its HTTP routes are served once it is ready.
    pub fn http(&self) -> PathBuf {
        PathBuf::new()
    }

    /// A prompt's request as the packs' handlers change it. Blocks.
    pub fn on_prompt(&self, request: Json) -> Result<Json, Error> {
        Ok(request)
    }

    /// Versions and devices, as its PyTorch tells them; `None` while none is ready. Blocks.
    pub fn stats(&self) -> Option<Json> {
        None
    }

    /// Ends the process.
    pub fn shutdown(&self) {}
}
