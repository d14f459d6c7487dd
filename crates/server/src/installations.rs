//! The ComfyUIs beside the server, as it sees them: what each offers, and what can be asked of it. Does not know how they run.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::answer::blocking;
use crate::error::ApiError;
use crate::services::manifest::Manifest;

/// How many threads may wait for Python at once; whoever comes then waits without one.
const MAX_WAITING: usize = 16;
/// For how long a start that failed answers those who want one.
const FAILURE_LASTS: Duration = Duration::from_secs(2);

/// Where the process of a ComfyUI stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// There is none, and it starts when it is needed.
    Cold,
    /// It boots.
    Starting,
    /// It answers.
    Ready,
}

/// A ComfyUI beside the server. Methods wait unless they say otherwise; errors are sentences for people.
pub trait Installation: Send + Sync {
    /// Where its process stands. Does not wait.
    fn stage(&self) -> Stage;

    /// Waits until the process answers, for as long as a start may take at most.
    fn ready(&self) -> Result<(), String>;

    /// Waits until its classes are known and in the catalog: at once where they are.
    fn known(&self) -> Result<(), String>;

    /// What is known of it; `None` before its first start. Does not wait.
    fn manifest(&self) -> Option<Arc<Value>>;

    /// Looks for changes in folders that classes list themselves.
    fn refresh(&self);

    /// The Unix socket on which its routes are served.
    fn socket(&self) -> PathBuf;

    /// A prompt's request as the handlers of its packs change it.
    fn on_prompt(&self, request: Value) -> Result<Value, String>;

    /// Versions and devices, as its PyTorch tells them; `None` where no process answers.
    fn stats(&self) -> Option<Value>;
}

/// All ComfyUIs beside a server, the default one first.
pub struct Installations {
    sites: Vec<Arc<Site>>,
    threads: Semaphore,
}

/// One of them, with what its manifest says.
pub(crate) struct Site {
    pub(crate) installation: Arc<dyn Installation>,
    read: Mutex<Option<(Arc<Value>, Arc<Manifest>)>>,
    /// Held by whoever waits for its classes, so that one thread does so for all.
    first_start: tokio::sync::Mutex<Option<(Instant, String)>>,
}

impl Default for Installations {
    fn default() -> Self {
        Self::new([])
    }
}

impl Installations {
    /// These.
    pub fn new(installations: impl IntoIterator<Item = Arc<dyn Installation>>) -> Self {
        let site = |installation| Arc::new(Site { installation, read: Mutex::default(), first_start: tokio::sync::Mutex::default() });
        Self { sites: installations.into_iter().map(site).collect(), threads: Semaphore::new(MAX_WAITING) }
    }

    pub(crate) fn sites(&self) -> &[Arc<Site>] {
        &self.sites
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sites.is_empty()
    }

    /// What the manifests say that are known.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = Arc<Manifest>> {
        self.sites.iter().filter_map(|site| site.manifest())
    }

    /// Waits for Python on a thread that may, of which there are few.
    pub(crate) async fn wait<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T, ApiError> + Send + 'static) -> Result<T, ApiError> {
        let _turn = self.threads.acquire().await.map_err(|error| ApiError::internal(error.to_string()))?;
        blocking(work).await
    }

    /// Has those that answer look for changes. Where too many wait for Python already, what is known is good enough.
    pub(crate) async fn refresh(&self) {
        for site in self.sites.iter().filter(|site| site.installation.stage() == Stage::Ready) {
            let Ok(_turn) = self.threads.try_acquire() else { return };
            let installation = Arc::clone(&site.installation);
            let looked = blocking(move || {
                installation.refresh();
                Ok(())
            });
            if looked.await.is_err() {
                tracing::error!("the look for changes of ComfyUI's classes failed");
            }
        }
    }

    /// Waits until the classes of all are known. The errors of those that could not be started.
    pub(crate) async fn known(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for site in &self.sites {
            failures.extend(site.known().await.err());
        }
        failures
    }
}

impl Site {
    /// What its manifest says, if there is one.
    pub(crate) fn manifest(&self) -> Option<Arc<Manifest>> {
        let raw = self.installation.manifest()?;
        let mut read = self.read.lock();
        match &*read {
            Some((known, manifest)) if Arc::ptr_eq(known, &raw) => Some(Arc::clone(manifest)),
            Some(_) | None => {
                let manifest = Arc::new(Manifest::read(&raw));
                *read = Some((raw, Arc::clone(&manifest)));
                Some(manifest)
            }
        }
    }

    /// Waits until its classes are known.
    async fn known(&self) -> Result<(), String> {
        if self.installation.manifest().is_some() {
            return Ok(());
        }
        let mut last = self.first_start.lock().await;
        if let Some((at, failure)) = &*last
            && at.elapsed() < FAILURE_LASTS
        {
            return Err(failure.clone());
        }
        let installation = Arc::clone(&self.installation);
        let known = blocking(move || Ok(installation.known())).await.unwrap_or_else(|_| Err("waiting for ComfyUI's process failed".into()));
        *last = known.as_ref().err().map(|failure| (Instant::now(), failure.clone()));
        known
    }
}
