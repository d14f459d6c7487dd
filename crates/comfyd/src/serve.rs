//! `comfyd serve`: the server, from its start to its shutdown.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use comfyd_assets::Assets;
use comfyd_folders::Folders;
use comfyd_jobs::{HistoryQuery, JobStore, OnRestart, Recovered, now_ms};
use comfyd_server::{
    ApiShape, App, Audit, FrontEnd, Hub, Installations, Log, Metered, Metrics, Options, Parts, RequiredVersions, listen, router,
};
use comfyd_store_sqlite::{Durability, Lock, SqliteStore};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;

use crate::assemble::{self, Failure};
use crate::beside::{self, Around, Served};
use crate::config::{self, Config, Verbosity};
use crate::devices::{Devices, Service};
use crate::{frontend, key, said, tls};

/// The job store's file in the user folder.
pub(crate) const STORE_FILE: &str = "comfyd.db";
/// How often it is looked whether the database's files are still there.
const STORE_CHECK: Duration = Duration::from_secs(1);

/// How many files must be free to open: what the server itself needs, and some clients.
#[cfg(unix)]
const LEAST_FILES: usize = 64;

/// Files that the server may have open beside its connections: the store's, those that are read and written, those of Python's processes.
#[cfg(unix)]
const OTHER_FILES: usize = 256;

/// How many threads the server needs beside those that answer requests and those that compute, of which there are as many as processors.
const LEAST_THREADS: usize = 16;

/// How many prompts that ended at the start their clients are told of.
const MAX_TOLD: usize = 1000;

/// How long websocket clients have to take what waits for them and the close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) fn serve(config: Config) -> Result<(), Failure> {
    let log = Log::default();
    init_log(config.verbosity, log.clone());
    for (option, why) in &config.unused {
        tracing::warn!("--{option} does nothing here: {why}");
    }
    check_limits()?;
    let tls = config.tls.as_ref().map(tls::server).transpose()?;
    // Whoever is refused the locks or a port must leave no trace in the folders of the server that has them: all else comes behind this.
    let database = Lock::database(&config.roots.user.join(STORE_FILE))?;
    let assets_database = config.assets.as_ref().map(|assets| Lock::database(&assets.database)).transpose()?;
    let _temp = Lock::folder(&config.roots.temp)?;
    let listeners = bind(&config)?;
    let (keys, first_key) = key::of_server(&config)?;
    let began_ms = now_ms();

    let folders = assemble::folders(&config)?;
    empty(folders.directory(comfyd_folders::Kind::Temp));
    let account = assemble::account(&config);
    let (mouth, ears) = said::channel();
    let (address, apart) = (address(&listeners), keys.requires());
    let around = Around { folders: &folders, account: &account, address: &address, apart: &apart };
    let devices = Devices::open(&config, &around, &|runs| Arc::new(mouth.of(runs)))?;
    let (beside, besides) = (Arc::clone(devices.lead()), devices.besides());
    let sqlite = Closing(Arc::new(open_store(&config, database)?));
    let store: Arc<dyn JobStore> = sqlite.0.clone();
    folders.remove_unfinished();
    let front_end = front_end(&config, beside.workers().first());
    let addresses: Vec<SocketAddr> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    let scheme = if tls.is_some() { "https" } else { "http" };

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(recover(&config, &*store, &devices))?;
    let audit = Arc::new(Audit::start(config.roots.user.clone())?);
    let options = Options { keys: Arc::clone(&keys), audit: Some(audit), ..server_options(&config, front_end) };
    let bounds = listen::Bounds::of(options.max_connections);
    let hub = Hub::new(options.ws_queue, options.preview_size, &account);
    runtime.block_on(tell_ended(&*store, &hub, began_ms));
    let assets = assets_database.map(|database| assets(&config, database, &folders, &hub)).transpose()?;
    let options = Options { assets: assets.clone(), ..options };
    mouth.speak_to(hub.clone());
    let metrics = Metrics::default();
    let service = Service {
        store: Arc::clone(&store),
        sink: Arc::new(Metered { metrics: metrics.clone(), sink: hub.clone() }),
        metrics: metrics.clone(),
        runtime: runtime.handle().clone(),
        showing: assets.as_ref().map(assemble::showing),
    };
    let working = devices.start(&config, &folders, &service)?;
    let parts = Parts {
        catalog: beside.catalog().clone(),
        folders: Arc::clone(&folders),
        store,
        devices: comfyd_server::Devices::new(working.served()),
        installations: Installations::new(Served::all(&beside)),
        hub: hub.clone(),
        log,
        metrics,
        memory: account,
    };
    let app = App::new(parts, options);

    let (watched, quick_test) = (sqlite.0.clone(), config.quick_test);
    let ended = runtime.block_on(async {
        // Before the first answer: whoever got one may stop the server.
        let signal = shutdown_signal()?;
        tokio::spawn(app.clone().announce_changes());
        tokio::spawn(watch_store(watched));
        tokio::spawn(keys.follow());
        tokio::spawn(ears.listen(app.clone(), besides));
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(listen::serve(router(app), listeners, tls, bounds, stopped));
        for address in &addresses {
            tracing::info!("ready at {scheme}://{address}");
        }
        if let Some(token) = &first_key {
            key::show(token, scheme, &addresses);
        }
        let mut server = server;
        if !quick_test {
            tokio::select! {
                ended = &mut server => return Ok::<_, Failure>(ended??),
                () = signal => {}
            }
        }
        tracing::info!("stopping; a prompt that runs goes back into the queue");
        // The first receiver is the server's; it ends when it has drained.
        let _ = stop.send(true);
        working.shutdown().await;
        hub.shutdown();
        server.await??;
        // Their sockets are no longer the server's, but the clients have not been told yet why they are closed.
        if tokio::time::timeout(CLOSE_TIMEOUT, hub.emptied()).await.is_err() {
            tracing::debug!("some websocket clients did not take their close frame");
        }
        Ok(())
    });
    if let Some(assets) = assets {
        assets.close();
    }
    // A node that ignores its interruption must not keep the process.
    runtime.shutdown_background();
    drop(sqlite);
    empty(folders.directory(comfyd_folders::Kind::Temp));
    ended
}

/// Deals with the prompts that the last run left.
async fn recover(config: &Config, store: &dyn JobStore, devices: &Devices) -> Result<(), Failure> {
    let on_restart = match config.on_restart {
        config::OnRestart::Rerun => OnRestart::Rerun { max_crashes: config.max_crashes },
        config::OnRestart::Fail => OnRestart::Fail,
    };
    let Recovered { pending, rerun, failed } = devices.recover(store, on_restart).await?;
    if (pending, rerun, failed) != (0, 0, 0) {
        tracing::info!(pending, rerun, failed, "prompts of the last run were found");
    }
    Ok(())
}

/// Keeps for their clients the ends of prompts that failed since the start, which nobody could be told: those that the restart gave up, and
/// those that are damaged.
async fn tell_ended(store: &dyn JobStore, hub: &Hub, began_ms: i64) {
    let query = HistoryQuery { ended_ms: Some((began_ms, now_ms())), limit: Some(MAX_TOLD), ..HistoryQuery::default() };
    match store.history(&query).await {
        Ok(page) => page.entries.iter().for_each(|entry| hub.ended(entry)),
        Err(error) => tracing::warn!(%error, "clients are not told which of their prompts failed at this start"),
    }
}

/// As many connections as are wanted and as the limit on open files allows: some must be left for all else.
fn connections(wanted: usize) -> usize {
    #[cfg(unix)]
    {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
        let possible = files.saturating_sub(OTHER_FILES).max(files / 2);
        if possible < wanted {
            tracing::info!(
                "at most {possible} connections at once, since so few files may be open: raise the limit (`ulimit -n`) for more"
            );
        }
        wanted.min(possible)
    }
    #[cfg(not(unix))]
    wanted
}

fn server_options(config: &Config, front_end: FrontEnd) -> Options {
    let defaults = Options::default();
    Options {
        shape: match config.api_shape {
            config::ApiShape::Wire => ApiShape::Wire,
            config::ApiShape::Documented => ApiShape::Documented,
        },
        front_end,
        listen: config.listen.clone(),
        allow_hosts: config.allow_hosts.clone(),
        allow_origins: config.allow_origins.clone(),
        tls: config.tls.is_some(),
        trusted_proxies: config.trusted_proxies.clone(),
        quotas: config.quotas,
        max_upload_bytes: config.max_upload_bytes,
        max_connections: connections(config.max_connections),
        multi_user: config.multi_user,
        replacements: comfyd_nodes::replacements(),
        feature_flags: config.feature_flags.clone(),
        offline: config.offline,
        required_versions: RequiredVersions {
            front_end: frontend::PINNED_VERSION.into(),
            templates: frontend::TEMPLATES_VERSION.into(),
            docs: frontend::DOCS.version.into(),
        },
        preview_size: config.preview_size,
        placing: assemble::placing(config),
        download_hosts: config.download_hosts.clone(),
        secret_names: [&defaults.secret_names[..], &config.secret_names].concat(),
        argv: std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect(),
        ..defaults
    }
}

/// The store, closed when the server ends in whichever way: others still hold it then.
struct Closing(Arc<SqliteStore>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Says in the log when the database's files are deleted or replaced, also while nobody submits a prompt.
async fn watch_store(store: Arc<SqliteStore>) {
    loop {
        tokio::time::sleep(STORE_CHECK).await;
        // The log tells, and who submits a prompt is told.
        let _ = store.check();
    }
}

/// Libraries panic, or wait for ever, where the system refuses them a file or a thread: it is said before it comes to that.
fn check_limits() -> Result<(), Failure> {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd as _;
        let stdin = std::io::stdin();
        let opened: std::io::Result<Vec<_>> = (0..LEAST_FILES).map(|_| stdin.as_fd().try_clone_to_owned()).collect();
        opened
            .map_err(|error| format!("too few files may be open at once ({error}): raise the limit, for example with `ulimit -n 1024`"))?;
    }
    let threads = LEAST_THREADS + 2 * std::thread::available_parallelism().map_or(1, usize::from);
    // Closed until all are there.
    let gate = parking_lot::Mutex::new(());
    std::thread::scope(|scope| {
        let _closed = gate.lock();
        for started in 0..threads {
            std::thread::Builder::new().spawn_scoped(scope, || drop(gate.lock())).map_err(|error| {
                format!("only {started} of {threads} threads can be started ({error}): raise the limit on processes (`ulimit -u`)")
            })?;
        }
        Ok(())
    })
}

/// Where programs of this machine reach the server.
fn address(listeners: &[TcpListener]) -> String {
    let address = listeners.iter().find_map(|listener| listener.local_addr().ok()).unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
    let host = if address.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { address.ip() };
    SocketAddr::new(host, address.port()).to_string()
}

fn bind(config: &Config) -> Result<Vec<TcpListener>, Failure> {
    let addresses: Vec<SocketAddr> = config.listen.iter().map(|ip| SocketAddr::new(*ip, config.port)).collect();
    listen::bind(&addresses).map_err(|error| {
        let advice = match error.kind() {
            ErrorKind::AddrInUse => ": stop the program that has the port, or choose another with --port",
            ErrorKind::AddrNotAvailable => ": --listen takes addresses of this machine",
            ErrorKind::PermissionDenied => ": choose a port from 1024 on with --port",
            _ => "",
        };
        format!("{error}{advice}").into()
    })
}

fn open_store(config: &Config, database: Lock) -> Result<SqliteStore, Failure> {
    let options = comfyd_store_sqlite::Options {
        max_pending: config.queue_limit,
        max_pending_bytes: config.queue_bytes,
        max_of_owner: config.user_prompts.unwrap_or(usize::MAX),
        max_history: config.history_limit,
        durability: match config.durability {
            config::Durability::Normal => Durability::Normal,
            config::Durability::Full => Durability::Full,
        },
        ..comfyd_store_sqlite::Options::default()
    };
    Ok(SqliteStore::open_locked(database, options)?)
}

/// What is known of files; what is found of them is told all clients.
fn assets(config: &Config, database: Lock, folders: &Arc<Folders>, hub: &Hub) -> Result<Arc<Assets>, Failure> {
    let hashes = config.assets.as_ref().is_some_and(|assets| assets.hashing);
    let hub = hub.clone();
    let tell = Box::new(move |event: &str, data: &serde_json::Value| hub.event(event, data, None, None));
    Ok(Arc::new(Assets::start(comfyd_assets::Options { database, hashes }, Arc::clone(folders), tell)?))
}

/// The page to serve; installs the official front end when it is wanted and missing, and goes on without it when that fails.
fn front_end(config: &Config, worker: Option<&comfyd_python::Worker>) -> FrontEnd {
    if let Some(root) = &config.front_end_root {
        return FrontEnd::Folder(root.clone());
    }
    match config.front_end {
        config::FrontEnd::None => return FrontEnd::None,
        config::FrontEnd::Builtin => return FrontEnd::Builtin,
        config::FrontEnd::Auto => {}
    }
    // The one that goes with the user's ComfyUI.
    if config.front_end_version.is_none()
        && let Some(root) = worker.and_then(beside::front_end)
    {
        return FrontEnd::Folder(root);
    }
    let base = &config.front_end_base;
    let found = config.front_end_version.as_ref().map_or_else(|| frontend::find_installed(base), |v| frontend::find_version(base, v));
    let missing = || {
        let version = config.front_end_version.as_deref();
        if config.offline {
            return Err(frontend::Error::Offline(version.unwrap_or(frontend::PINNED_VERSION).to_owned()).into());
        }
        install_front_end(version, &[], base)
    };
    let installed = found.map_or_else(missing, Ok);
    match installed {
        Ok(root) => FrontEnd::Folder(root),
        Err(error) => {
            tracing::warn!(%error, "the official front end could not be installed; the built-in page is served");
            FrontEnd::Builtin
        }
    }
}

/// Installs a version of the official front end, and what is wanted beside it, with a progress bar; gives the folder that holds its pages.
pub(crate) fn install_front_end(version: Option<&str>, extras: &[&'static frontend::Package], base: &Path) -> Result<PathBuf, Failure> {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes}") {
        bar.set_style(style);
    }
    let installed = frontend::install(version, extras, base, &|package, done, total| {
        bar.set_message(package.to_owned());
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    Ok(installed?)
}

/// Removes what is in the temp folder: previews of the last run. The folder itself may be a mount point and stays, and so does its lock.
fn empty(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.file_name() != Lock::FILE) {
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
        assemble::survive_file_limit()?;
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

fn init_log(verbosity: Verbosity, log: Log) {
    let level = match verbosity {
        Verbosity::Debug | Verbosity::Detail => "debug",
        Verbosity::Info => "info",
        Verbosity::Warning => "warn",
        Verbosity::Error | Verbosity::Critical => "error",
    };
    // Fails only if a logger is there already.
    drop(tracing_subscriber::fmt().with_env_filter(level).with_ansi(false).with_writer(move || Tee(log.clone())).try_init());
}

/// Log lines go to the terminal and to `/internal/logs`.
struct Tee(Log);

impl std::io::Write for Tee {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        // A line begins with its time; the front end's terminal expects the line break.
        let text = String::from_utf8_lossy(line);
        let (time, message) = text.split_once(' ').unwrap_or(("", &text));
        self.0.keep(time, &format!("{}\n", message.trim()));
        // Whoever read the lines may be gone. An error here would be reported on the same way, which panics.
        let _ = std::io::stderr().write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let _ = std::io::stderr().flush();
        Ok(())
    }
}
