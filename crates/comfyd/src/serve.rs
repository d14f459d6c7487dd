//! `comfyd serve`: the server, from its start to its shutdown.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use comfyd_engine::Engine;
use comfyd_executor::{Executor, Handle, Shutdown, Worker, WorkerOptions};
use comfyd_jobs::{JobStore, OnRestart};
use comfyd_server::{ApiShape, App, Control, FrontEnd, Hub, Options, announce_changes, keep_log_line, listen, router};
use comfyd_store_sqlite::{Durability, SqliteStore};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;

use crate::assemble::{self, Failure};
use crate::config::{self, Config, Verbosity};
use crate::frontend;

/// The job store's file in the user folder.
const STORE_FILE: &str = "comfyd.db";
/// A node that has not noticed its interruption by then is left behind.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long websocket clients have to take what waits for them and the close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

struct Device {
    worker: Handle,
    engine: Engine,
}

impl Control for Device {
    fn interrupt(&self, prompt_id: Option<&str>) -> bool {
        self.worker.interrupt(prompt_id)
    }

    fn free(&self, unload_models: bool, free_memory: bool) {
        self.worker.free(unload_models, free_memory);
    }

    fn models_bytes(&self) -> u64 {
        self.engine.memory().held
    }
}

pub(crate) fn serve(config: Config) -> Result<(), Failure> {
    init_log(config.verbosity);
    let folders = assemble::folders(&config)?;
    empty(folders.directory(comfyd_folders::Kind::Temp));
    let engine = assemble::engine(&config, &folders)?;
    tracing::info!(device = engine.device_name(), "the engine is ready");
    let catalog = assemble::catalog(&config, &folders, &engine);
    let store: Arc<dyn JobStore> = Arc::new(open_store(&config)?);
    let tls = tls(&config)?;
    let addresses: Vec<SocketAddr> = config.listen.iter().map(|ip| SocketAddr::new(*ip, config.port)).collect();
    let front_end = front_end(&config);
    let listeners = listen::bind(&addresses)?;
    let urls: Vec<String> = listeners
        .iter()
        .filter_map(|l| l.local_addr().ok())
        .map(|a| format!("{}://{a}", if tls.is_some() { "https" } else { "http" }))
        .collect();

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let on_restart = match config.on_restart {
        config::OnRestart::Rerun => OnRestart::Rerun,
        config::OnRestart::Fail => OnRestart::Fail,
    };
    let recovered = runtime.block_on(store.recover(on_restart))?;
    if recovered != comfyd_jobs::Recovered::default() {
        tracing::info!(
            pending = recovered.pending,
            rerun = recovered.rerun,
            failed = recovered.failed,
            "prompts of the last run were found"
        );
    }
    let options = Options {
        shape: match config.api_shape {
            config::ApiShape::Wire => ApiShape::Wire,
            config::ApiShape::Documented => ApiShape::Documented,
        },
        front_end,
        listen: config.listen.clone(),
        allow_hosts: config.allow_hosts.clone(),
        allow_origins: config.allow_origins.clone(),
        max_upload_bytes: config.max_upload_bytes,
        multi_user: config.multi_user,
        preview_size: config.preview_size,
        download_hosts: config.download_hosts.clone(),
        argv: std::env::args().collect(),
        ..Options::default()
    };
    let hub = Hub::new(options.ws_queue, options.preview_size);
    let executor = Executor::new(Arc::clone(&catalog), assemble::executor_options(&config));
    let unloaded = engine.clone();
    let worker_options =
        WorkerOptions { device: engine.device_name(), on_unload_models: Some(Box::new(move || unloaded.free(true, true))) };
    let worker = Worker::spawn(Arc::clone(&store), executor, Arc::new(hub.clone()), runtime.handle().clone(), worker_options)?;
    let app = App::new(catalog, Arc::clone(&folders), store, Arc::new(Device { worker: worker.clone(), engine }), hub.clone(), options);

    runtime.block_on(async {
        // Before the first answer: whoever got one may stop the server.
        let signal = shutdown_signal()?;
        tokio::spawn(announce_changes(app.clone()));
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(listen::serve(router(app), listeners, tls, stopped));
        for url in &urls {
            tracing::info!("ready at {url}");
        }
        let mut server = server;
        tokio::select! {
            ended = &mut server => return Ok::<_, Failure>(ended??),
            () = signal => {}
        }
        tracing::info!("stopping; a prompt that runs goes back into the queue");
        // The first receiver is the server's; it ends when it has drained.
        let _ = stop.send(true);
        let ended = tokio::task::spawn_blocking(move || worker.shutdown(Shutdown::Requeue));
        let waited = tokio::time::timeout(SHUTDOWN_TIMEOUT, ended).await;
        if waited.is_err() {
            tracing::warn!("the running node did not stop in time; its prompt runs again at the next start");
        }
        hub.shutdown();
        server.await??;
        // Their sockets are no longer the server's, but the clients have not been told yet why they are closed.
        if tokio::time::timeout(CLOSE_TIMEOUT, hub.emptied()).await.is_err() {
            tracing::debug!("some websocket clients did not take their close frame");
        }
        Ok(())
    })?;
    // A node that ignores its interruption must not keep the process.
    runtime.shutdown_background();
    empty(folders.directory(comfyd_folders::Kind::Temp));
    Ok(())
}

fn open_store(config: &Config) -> Result<SqliteStore, Failure> {
    let options = comfyd_store_sqlite::Options {
        max_pending: config.queue_limit,
        max_history: config.history_limit,
        durability: match config.durability {
            config::Durability::Normal => Durability::Normal,
            config::Durability::Full => Durability::Full,
        },
        ..comfyd_store_sqlite::Options::default()
    };
    Ok(SqliteStore::open(config.roots.user.join(STORE_FILE), options)?)
}

/// The page to serve; installs the official front end when it is wanted and missing, and goes on without it when that fails.
fn front_end(config: &Config) -> FrontEnd {
    if let Some(root) = &config.front_end_root {
        return FrontEnd::Folder(root.clone());
    }
    match config.front_end {
        config::FrontEnd::None => return FrontEnd::None,
        config::FrontEnd::Builtin => return FrontEnd::Builtin,
        config::FrontEnd::Auto => {}
    }
    let base = &config.roots.base;
    let installed = match &config.front_end_version {
        Some(version) => install_front_end(Some(version), base),
        None => frontend::find_installed(base).map_or_else(|| install_front_end(None, base), Ok),
    };
    match installed {
        Ok(root) => FrontEnd::Folder(root),
        Err(error) => {
            tracing::warn!(%error, "the official front end could not be installed; the built-in page is served");
            FrontEnd::Builtin
        }
    }
}

/// Installs a version of the official front end with a progress bar, and gives the folder that holds its pages.
pub(crate) fn install_front_end(version: Option<&str>, base: &Path) -> Result<PathBuf, Failure> {
    let bar = ProgressBar::new(0).with_message("front end");
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes}") {
        bar.set_style(style);
    }
    let installed = frontend::install(version, base, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    Ok(installed?)
}

fn tls(config: &Config) -> Result<Option<Arc<rustls::ServerConfig>>, Failure> {
    let Some(config::Tls { key: key_file, certificates: cert_file }) = &config.tls else { return Ok(None) };
    let read = |path: &Path| std::fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()));
    let certs = rustls_pemfile::certs(&mut read(cert_file)?.as_slice()).collect::<Result<Vec<_>, _>>()?;
    let key = rustls_pemfile::private_key(&mut read(key_file)?.as_slice())?
        .ok_or_else(|| format!("{} holds no private key", key_file.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut server = builder.with_no_client_auth().with_single_cert(certs, key)?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(Arc::new(server)))
}

/// Removes what is in the temp folder: previews of the last run. The folder itself may be a mount point and stays.
fn empty(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let removed =
            if entry.file_type().is_ok_and(|t| t.is_dir()) { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        if let Err(error) = removed {
            tracing::warn!(%error, path = %path.display(), "a temporary file could not be removed");
        }
    }
}

/// Waits until the process is asked to stop; from when this returns, asking does not end the process by itself.
fn shutdown_signal() -> std::io::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
    }
    #[cfg(not(unix))]
    {
        let mut interrupt = tokio::signal::windows::ctrl_c()?;
        Ok(async move { drop(interrupt.recv().await) })
    }
}

fn init_log(verbosity: Verbosity) {
    let level = match verbosity {
        Verbosity::Debug => "debug",
        Verbosity::Info => "info",
        Verbosity::Warning => "warn",
        Verbosity::Error | Verbosity::Critical => "error",
    };
    // Fails only if a logger is there already.
    drop(tracing_subscriber::fmt().with_env_filter(level).with_ansi(false).with_writer(|| Tee).try_init());
}

/// Log lines go to the terminal and to `/internal/logs`.
struct Tee;

impl std::io::Write for Tee {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        // A line begins with its time; the front end's terminal expects the line break.
        let text = String::from_utf8_lossy(line);
        let (time, message) = text.split_once(' ').unwrap_or(("", &text));
        keep_log_line(time, &format!("{}\n", message.trim()));
        std::io::stderr().write_all(line).map(|()| line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}
