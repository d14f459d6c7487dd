//! Builds the parts that `serve` and `run` share from the configuration.

use std::io::{ErrorKind, Write as _};
use std::sync::Arc;

use comfyd_engine::{DeviceChoice, Engine, EngineOptions, PreviewMethod};
use comfyd_executor::{CachePolicy, ExecutorOptions};
use comfyd_folders::Folders;
use comfyd_node::Catalog;
use comfyd_nodes::{Builtin, Limits, Services};

use crate::beside::implied_paths;
use crate::config::{self, Cache, Config};

/// What `main` prints when a command fails.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The folders, with the extra model paths and those of saved models.
pub(crate) fn folders(config: &Config) -> Result<Arc<Folders>, Failure> {
    let mut folders = Folders::new(config.roots.clone())?;
    let beside = config.python.as_ref().map_or_else(|| config.roots.base.join("extra_model_paths.yaml"), implied_paths);
    let implied = beside.is_file().then_some(&beside);
    for file in implied.into_iter().chain(&config.extra_model_paths) {
        folders.load_extra_paths(file, &|name| std::env::var(name).ok())?;
    }
    folders.add_saved_models();
    Ok(Arc::new(folders))
}

/// What loads models and runs them.
pub(crate) fn engine(config: &Config, folders: &Arc<Folders>) -> Result<Engine, Failure> {
    let (for_embeddings, for_decoders) = (Arc::clone(folders), Arc::clone(folders));
    Ok(Engine::new(EngineOptions {
        device: match config.device {
            config::Device::Auto => DeviceChoice::Auto,
            config::Device::Cpu => DeviceChoice::Cpu,
            config::Device::Cuda(number) => DeviceChoice::Cuda(number),
        },
        memory_budget_bytes: config.memory_budget_bytes,
        preview: match config.preview_method {
            config::PreviewMethod::None => PreviewMethod::None,
            config::PreviewMethod::Auto => PreviewMethod::Auto,
            config::PreviewMethod::Latent2Rgb => PreviewMethod::Latent2Rgb,
            config::PreviewMethod::Taesd => PreviewMethod::Taesd,
        },
        preview_size: config.preview_size,
        embeddings: Arc::new(move |name| for_embeddings.embedding(name)),
        approximate_vae: Arc::new(move |start| for_decoders.approximate_vae(start)),
    })?)
}

/// The native node classes.
pub(crate) fn native(config: &Config, folders: &Arc<Folders>, engine: &Engine) -> Catalog {
    let mut catalog = Catalog::new();
    let services = Services {
        folders: Arc::clone(folders),
        disable_metadata: config.disable_metadata,
        limits: Limits::default(),
        engine: engine.clone(),
    };
    for class in catalog.add(&Builtin::new(services)) {
        tracing::warn!(class, "a node class was declared twice; the later one is used");
    }
    catalog
}

/// The executor's settings.
pub(crate) fn executor_options(config: &Config) -> ExecutorOptions {
    let cache = match config.cache {
        Cache::Classic => CachePolicy::Classic,
        Cache::Lru(entries) => CachePolicy::Lru(entries),
        Cache::Off => CachePolicy::None,
    };
    ExecutorOptions {
        cache,
        cache_budget_bytes: config.cache_memory_bytes.and_then(|bytes| usize::try_from(bytes).ok()),
        ..ExecutorOptions::default()
    }
}

/// Prints a line. It is no failure that nobody reads it any more: `comfyd nodes | head`.
pub(crate) fn print_line(line: impl std::fmt::Display) -> Result<(), Failure> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| format!("cannot write to the standard output: {error}").into()),
    }
}

/// Prints a line for people; where it cannot be printed, there is nobody to tell.
pub(crate) fn print_notice(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A file that grows over the limit that was set for the process shall be an error of whoever writes it, not the end of the process. Needs
/// a runtime.
#[cfg(unix)]
pub(crate) fn survive_file_limit() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    // Handled from now on, whether anybody listens or not.
    signal(SignalKind::from_raw(libc::SIGXFSZ)).map(drop)
}
