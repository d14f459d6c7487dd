//! What a worker is made of, and who hears what it says. Nothing here is read from the surroundings: whoever makes the settings does that.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use comfyd_memory::Account;
use serde_json::Value as Json;
use serde_json::value::RawValue;

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
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its name: `default`, or the user's.
    pub name: String,
    /// The checkout, where `main.py` is.
    pub comfyui: PathBuf,
    /// The interpreter; else that of `venv`, `.venv` or `python_embeded` in or beside the checkout, else the active environment's.
    pub python: Option<PathBuf>,
    /// The folder of the active Python environment (`VIRTUAL_ENV`, `CONDA_PREFIX`), if there is one.
    pub active: Option<PathBuf>,
    /// Where programs are looked for, the folders of `PATH`. If it is empty, the system looks for `python3`.
    pub path: Vec<PathBuf>,
    /// ComfyUI's own options.
    pub args: Vec<String>,
    /// More environment variables, such as `CUDA_VISIBLE_DEVICES`.
    pub variables: Vec<(String, String)>,
    /// Where the manifest is kept.
    pub data: PathBuf,
    /// Which one of several of the same environment it is, such as those of several devices: each keeps a manifest of its own. `None`: the
    /// first.
    pub copy: Option<String>,
    /// Where comfyd listens, for packs that call back: `host:port`.
    pub address: String,
    /// Whether it reaches the network.
    pub network: Network,
    /// How long it may take.
    pub patience: Patience,
    /// Whether users are told apart, and each has files of its own.
    pub apart: Arc<AtomicBool>,
    /// The largest value that may come from it, in bytes.
    pub max_blob: u64,
    /// The memory of this process, which values that come from it take.
    pub account: Account,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: "default".into(),
            comfyui: PathBuf::new(),
            python: None,
            active: None,
            path: Vec::new(),
            args: Vec::new(),
            variables: Vec::new(),
            data: PathBuf::new(),
            copy: None,
            address: "127.0.0.1:8188".into(),
            network: Network::Allow,
            patience: Patience::default(),
            apart: Arc::default(),
            max_blob: 4 << 30,
            account: Account::unbounded(),
        }
    }
}

impl Settings {
    /// The file of the manifest.
    pub(crate) fn file(&self) -> PathBuf {
        let name: String = self.name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '_' }).collect();
        // No environment's name becomes one with a dot.
        let copy = self.copy.as_ref().map_or_else(String::new, |copy| format!(".{copy}"));
        self.data.join(format!("python-{name}{copy}.json"))
    }
}

/// What a pack wants to see of the history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryWanted {
    /// One prompt's entry.
    pub prompt_id: Option<String>,
    /// At most so many: the newest ones, unless there is an offset.
    pub max_items: Option<usize>,
    /// Without so many, counted from the oldest.
    pub offset: Option<usize>,
    /// Whose prompt runs, where users are told apart.
    pub owner: String,
}

/// Takes what a pack asked for, a JSON text, or a sentence that says why it cannot be had; on any thread that may wait.
pub type Tell = Box<dyn FnOnce(Result<Box<RawValue>, String>) + Send>;

/// Who hears what workers say besides answers and reports of nodes. Called from a worker's own thread: it must return soon, and must not
/// wait for the worker.
pub trait Outlet: Send + Sync {
    /// An event of a pack, for one client or all.
    fn event(&self, name: &str, data: Json, client: Option<&str>);
    /// A binary websocket message of that type.
    fn binary(&self, kind: u32, bytes: Vec<u8>, client: Option<&str>);
    /// A pack puts a prompt into the queue: ComfyUI's tuple `[number, prompt_id, prompt, extra_data, outputs]`.
    fn enqueue(&self, item: Json);
    /// A pack takes prompts out of the queue; `None` for all.
    fn remove(&self, ids: Option<Vec<String>>);
    /// A pack wants to see the history: entries by the ids of their prompts, as `GET /history` has them.
    fn history(&self, wanted: HistoryWanted, tell: Tell);
    /// A pack removes entries of the history; `None` for all. `owner` as for [`Outlet::history`].
    fn forget(&self, ids: Option<Vec<String>>, owner: String);
    /// The worker is another than it was (new classes, ready, ended): [`crate::Worker::entries`] and [`crate::Worker::state`] tell.
    fn changed(&self);
}
