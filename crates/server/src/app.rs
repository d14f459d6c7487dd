//! What every handler shares: the domain services and the server's options.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use comfyd_folders::Folders;
use comfyd_jobs::JobStore;
use comfyd_node::Catalog;

use crate::doors::{HostRule, OriginRule};
use crate::hub::Hub;
use crate::routes::object_info::ObjectInfoCache;

/// In which of two shapes answers come where the API document and ComfyUI's wire differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ApiShape {
    /// What ComfyUI's clients parse, enriched with the document's fields.
    #[default]
    Wire,
    /// The document's literal shape.
    Documented,
}

/// Which page `/` serves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum FrontEnd {
    /// The official front end's folder (the one that holds `index.html`).
    Folder(PathBuf),
    /// The small page that comes with the server.
    #[default]
    Builtin,
    /// No page: the API alone.
    None,
}

/// The server's settings. Every bound of the HTTP side is here.
#[derive(Debug, Clone)]
pub struct Options {
    /// Default shape of answers.
    pub shape: ApiShape,
    /// Page to serve.
    pub front_end: FrontEnd,
    /// Addresses that the server listens on; their hosts are its own.
    pub listen: Vec<IpAddr>,
    /// Further hosts that it answers to.
    pub allow_hosts: Vec<HostRule>,
    /// Origins whose pages may ask, besides its own.
    pub allow_origins: Vec<OriginRule>,
    /// Largest request body, in bytes.
    pub max_upload_bytes: usize,
    /// Several users, told apart by the `comfy-user` header.
    pub multi_user: bool,
    /// Longer side of previews, in pixels, unless the node says otherwise.
    pub preview_size: u32,
    /// Messages that may wait for one websocket client before previews are dropped and then the client.
    pub ws_queue: usize,
    /// Hosts that models may be downloaded from.
    pub download_hosts: Vec<String>,
    /// Names in `extra_data` whose values stay in memory.
    pub secret_names: Vec<String>,
    /// The command line, for `/system_stats`.
    pub argv: Vec<String>,
    /// The version of ComfyUI whose API is spoken.
    pub api_version: String,
    /// The versions of the front end and of the workflow templates that go with it.
    pub required_versions: (String, String),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            shape: ApiShape::Wire,
            front_end: FrontEnd::Builtin,
            listen: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            allow_hosts: Vec::new(),
            allow_origins: Vec::new(),
            max_upload_bytes: 100 * 1024 * 1024,
            multi_user: false,
            preview_size: 512,
            ws_queue: 512,
            download_hosts: vec!["huggingface.co".into(), "civitai.com".into()],
            secret_names: comfyd_jobs::secrets::NAMES.map(str::to_owned).into(),
            argv: Vec::new(),
            api_version: "0.3.64".into(),
            required_versions: ("1.27.10".into(), "0.1.95".into()),
        }
    }
}

/// What the server asks of whoever runs prompts.
pub trait Control: Send + Sync {
    /// Interrupts the running prompt, or only that prompt. Whether there was one.
    fn interrupt(&self, prompt_id: Option<&str>) -> bool;
    /// Frees caches, and models, when the running prompt is done.
    fn free(&self, unload_models: bool, free_memory: bool);
    /// Bytes that loaded models take on the device.
    fn models_bytes(&self) -> u64 {
        0
    }
}

/// Shared by all handlers; clones are cheap.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

/// The services inside an [`App`].
pub struct Inner {
    /// Node classes.
    pub catalog: Arc<Catalog>,
    /// Folders.
    pub folders: Arc<Folders>,
    /// Queue and history.
    pub store: Arc<dyn JobStore>,
    /// Whoever runs prompts.
    pub control: Arc<dyn Control>,
    /// Websocket clients.
    pub hub: Hub,
    /// Settings.
    pub options: Options,
    pub(crate) object_info: ObjectInfoCache,
    pub(crate) history: crate::routes::history::HistoryCache,
}

impl App {
    /// Puts the services together. `hub` is the one that the executor reports to.
    pub fn new(
        catalog: Arc<Catalog>,
        folders: Arc<Folders>,
        store: Arc<dyn JobStore>,
        control: Arc<dyn Control>,
        hub: Hub,
        options: Options,
    ) -> Self {
        let inner = Inner { catalog, folders, store, control, hub, options, object_info: Default::default(), history: Default::default() };
        Self { inner: Arc::new(inner) }
    }
}

impl std::ops::Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}
