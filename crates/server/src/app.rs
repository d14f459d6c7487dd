//! What every handler shares: the domain's services, the server's own, and its options.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use comfyd_folders::Folders;
use comfyd_jobs::{Counts, HistoryQuery, JobStore};
use comfyd_memory::Account;
use comfyd_node::{Replacements, SharedCatalog};
use tokio::sync::Semaphore;

use crate::caches::Rendered;
use crate::devices::Devices;
use crate::error::ApiError;
use crate::frames::QueueStatus;
use crate::gate::Gate;
use crate::hub::Hub;
use crate::installations::Installations;
use crate::metrics::Metrics;
use crate::options::{ApiShape, Options};
use crate::room::Room;
use crate::services::download::{Downloads, Policy};
use crate::services::log::Log;
use crate::services::machine::Machine;
use crate::services::quotas::Usage;
use crate::services::users::Users;

/// Renderings of `/object_info` that are kept.
const MAX_OBJECT_INFOS: usize = 8;
/// Lists of the history that are kept, and the largest one that is.
const MAX_HISTORIES: usize = 4;
pub(crate) const MAX_HISTORY_BYTES: usize = 16 << 20;

/// Memory that long answers take together, in bytes.
const MAX_ANSWERS_BYTES: u64 = 512 << 20;
/// Those who may read parts of the history at once.
const MAX_READERS: usize = 2;

/// How long changes of the queue are gathered that nobody announced.
const BETWEEN_ANNOUNCEMENTS: Duration = Duration::from_millis(20);

/// Shared by all handlers; clones are cheap.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

/// What a server is put together from.
pub struct Parts {
    /// Node classes.
    pub catalog: SharedCatalog,
    /// Folders.
    pub folders: Arc<Folders>,
    /// Queue and history.
    pub store: Arc<dyn JobStore>,
    /// What runs prompts.
    pub devices: Devices,
    /// The ComfyUIs beside the server.
    pub installations: Installations,
    /// Websocket clients; the one that the executor reports to.
    pub hub: Hub,
    /// The log that clients see.
    pub log: Log,
    /// What was counted while prompts ran.
    pub metrics: Metrics,
    /// The account of memory that requests ask.
    pub memory: Account,
}

/// The services inside an [`App`].
pub struct Inner {
    /// Settings.
    pub options: Options,
    parts: Parts,
    pub(crate) gate: Gate,
    pub(crate) usage: Usage,
    pub(crate) users: Users,
    pub(crate) downloads: Downloads,
    pub(crate) machine: Machine,
    /// Memory that requests take together.
    pub(crate) room: Room,
    /// Memory that long answers take together, apart, so that who does not read his holds up no request.
    pub(crate) answers: Room,
    /// Those who may read parts of the history at once.
    pub(crate) readers: Semaphore,
    /// `/object_info` of a generation of the folders and a version of the catalog, as each user gets it.
    pub(crate) object_info: Rendered<(ApiShape, Arc<str>)>,
    /// `/history` of a version of the history; nothing where it is too long to be kept.
    pub(crate) history: Rendered<(HistoryQuery, ApiShape)>,
    /// The OpenAPI document. The router makes it: its routes cannot change while the server runs.
    pub(crate) document: OnceLock<Bytes>,
}

impl App {
    /// Puts a server together.
    pub fn new(parts: Parts, options: Options) -> Self {
        parts.folders.keep_apart(options.keys.requires());
        let inner = Inner {
            gate: Gate::new(&options),
            users: Users::new(parts.folders.roots().user.clone(), options.multi_user, Arc::clone(&options.keys)),
            downloads: Downloads::new(Policy::public(options.download_hosts.clone())),
            machine: Machine::default(),
            // Bodies of the allowed size must fit, and what is read of them.
            room: Room::new(parts.memory.part(options.request_memory_bytes.max(options.max_upload_bytes.saturating_mul(8)) as u64)),
            answers: Room::new(parts.memory.part(MAX_ANSWERS_BYTES)),
            readers: Semaphore::new(MAX_READERS),
            object_info: Rendered::new(MAX_OBJECT_INFOS, usize::MAX),
            usage: Usage::new(options.quotas),
            history: Rendered::new(MAX_HISTORIES, MAX_HISTORY_BYTES),
            document: OnceLock::new(),
            parts,
            options,
        };
        Self { inner: Arc::new(inner) }
    }

    /// What stands in for classes that there are not any more: the program's own, and what the ComfyUIs beside it have registered.
    pub(crate) fn replacements(&self) -> Replacements {
        let mut all = self.options.replacements.clone();
        self.installations.manifests().for_each(|manifest| all.extend(&manifest.replacements));
        all
    }

    /// The queue's figures as clients get them, of all prompts or of one owner's.
    pub(crate) async fn status(&self, only: Option<&str>) -> Result<QueueStatus, ApiError> {
        let counts = self.store.counts().await?;
        Ok(only.map_or_else(|| QueueStatus::from(&counts), |owner| QueueStatus::from(&counts.of(owner))))
    }

    /// Tells all clients the queue's figures after a request changed them, and returns them.
    pub(crate) async fn announce(&self) -> Option<Counts> {
        let version = self.store.versions().borrow().queue;
        let read = self.store.counts().await;
        let counts = read.inspect_err(|error| tracing::warn!(%error, "the queue's figures could not be read")).ok()?;
        self.hub.status(version, &counts);
        Some(counts)
    }

    /// Tells all clients the queue's figures whenever they change, until the store is gone. Requests and workers tell of their own changes
    /// at once; what others did to the store is told with the least delay that does not cost much.
    pub async fn announce_changes(self) {
        let mut versions = self.store.versions();
        while versions.changed().await.is_ok() {
            let counts = self.announce().await;
            // Scans wait while prompts run.
            if let (Some(assets), Some(counts)) = (&self.options.assets, counts) {
                assets.pause(counts.running > 0);
            }
            tokio::time::sleep(BETWEEN_ANNOUNCEMENTS).await;
        }
    }
}

impl std::ops::Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl std::ops::Deref for Inner {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}
