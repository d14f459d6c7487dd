//! `comfyd serve`: the server, from its start to its shutdown.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use comfyd_assets::Assets;
use comfyd_folders::Folders;
use comfyd_jobs::{EventSink, HistoryQuery, JobStore, OnRestart, Recovered, now_ms};
use comfyd_server::{
    ApiShape, App, Audit, Device, FrontEnd, Hub, Installations, Log, Metered, Metrics, Options, Parts, RequiredVersions, listen, router,
};
use comfyd_store_nats::{NatsStore, Post};
use comfyd_store_sqlite::{Durability, Lock, SqliteStore};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;

use crate::assemble::{self, Failure};
use crate::beside::{self, Around, Beside, Served};
use crate::cluster::{self, Others, Part};
use crate::config::{self, Config};
use crate::devices::{Counts, Devices, Service, Working};
use crate::{elsewhere, frontend, key, nats, process, said, tls};

/// The job store's file in the user folder.
pub(crate) const STORE_FILE: &str = "comfyd.db";
/// How often it is looked whether the database's files are still there.
const STORE_CHECK: Duration = Duration::from_secs(1);

/// Files that the server may have open beside its connections: the store's, those that are read and written, those of Python's processes.
#[cfg(unix)]
const OTHER_FILES: usize = 256;

/// How many prompts that ended at the start their clients are told of.
const MAX_TOLD: usize = 1000;

/// How long a file stays in the temp folder of a cluster, and how often it is looked.
const TEMP_KEPT: Duration = Duration::from_hours(24);
const TEMP_LOOK: Duration = Duration::from_hours(1);

/// How long websocket clients have to take what waits for them and the close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) fn serve(config: Config) -> Result<(), Failure> {
    let log = Log::default();
    process::init_log(config.verbosity, log.clone());
    for (option, why) in &config.unused {
        tracing::warn!("--{option} does nothing here: {why}");
    }
    process::check_limits()?;
    let tls = config.tls.as_ref().map(tls::server).transpose()?;
    // Whoever is refused the locks or a port must leave no trace in the folders of the server that has them: all else comes behind this.
    // Hosts of a cluster share their folders, and have the queue elsewhere.
    let own = config.cluster.is_none();
    let database = own.then(|| Lock::database(&config.roots.user.join(STORE_FILE))).transpose()?;
    let assets_database = config.assets.as_ref().filter(|_| own).map(|assets| Lock::database(&assets.database)).transpose()?;
    let _temp = own.then(|| Lock::folder(&config.roots.temp)).transpose()?;
    let listeners = bind(&config)?;
    let (keys, first_key) = key::of_server(&config)?;
    let began_ms = now_ms();

    let folders = assemble::folders(&config)?;
    if own {
        empty(folders.directory(comfyd_folders::Kind::Temp));
    }
    let account = assemble::account(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    assemble::share(&config, &folders, runtime.handle())?;
    let (mouth, ears) = said::channel();
    let (address, apart) = (address(&listeners), keys.requires());
    let around = Around { folders: &folders, account: &account, address: &address, apart: &apart };
    let devices = process::in_background(|| Devices::open(&config, &around, &|runs| Arc::new(mouth.of(runs))))?;
    let (beside, besides) = (Arc::clone(devices.lead()), devices.besides());
    let queue = match (&config.cluster, database) {
        (Some(cluster), _) => Queue::Shared(runtime.block_on(async {
            let store = cluster::join(&config, cluster, true, nats::START_PATIENCE).await?;
            store.take_name().await?;
            Ok::<_, Failure>(store)
        })?),
        (None, Some(database)) => Queue::Own(Closing(Arc::new(open_store(&config, database)?))),
        (None, None) => return Err("the database is not locked".into()),
    };
    let store = queue.store();
    let devices = if let Queue::Shared(shared) = &queue { devices.of(shared.instance()) } else { devices };
    if own {
        folders.remove_unfinished();
    }
    let front_end = front_end(&config, beside.workers().first());
    let addresses: Vec<SocketAddr> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    let scheme = if tls.is_some() { "https" } else { "http" };

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
    let here: Arc<dyn EventSink> = Arc::new(Metered { metrics: metrics.clone(), sink: Arc::new(hub.clone()) });
    let post = queue.post(&runtime, &here);
    if let Some(post) = &post {
        mouth.speak_beyond(post.clone());
    }
    let sink: Arc<dyn EventSink> = match &post {
        Some(post) => Arc::new(post.clone()),
        None => Arc::clone(&here),
    };
    let service = Service {
        store: Arc::clone(&store),
        sink,
        counts: counts(metrics.clone(), post),
        runtime: runtime.handle().clone(),
        showing: assemble::showing(&folders, assets.as_ref()),
    };
    let works = config.cluster.as_ref().is_none_or(|cluster| cluster.works);
    let working = Arc::new(if works { process::in_background(|| devices.start(&config, &folders, &service))? } else { Working::default() });
    let others = queue.shared().map(|store| Arc::new(Others { store, runtime: runtime.handle().clone() }) as Arc<dyn Device>);
    let parts = Parts {
        catalog: beside.listed().clone(),
        folders: Arc::clone(&folders),
        store,
        devices: comfyd_server::Devices::new(working.served().chain(others)),
        installations: Installations::new(Served::all(&beside)),
        hub: hub.clone(),
        log,
        metrics,
        memory: account,
    };
    let app = App::new(parts, options);

    let counted = app.metrics.clone();
    let (quick_test, loads) = (config.quick_test, cluster::loads(&config));
    let ended = runtime.block_on(async {
        // Before the first answer: whoever got one may stop the server.
        let signal = process::shutdown_signal()?;
        tokio::spawn(app.clone().announce_changes());
        queue.watch(&beside, &folders, &working, (here, hub.clone(), counted), loads).await?;
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
        if let Queue::Shared(shared) = &queue {
            shared.leave().await;
        }
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
    folders.end();
    // A node that ignores its interruption must not keep the process.
    runtime.shutdown_background();
    drop(queue);
    if own {
        empty(folders.directory(comfyd_folders::Kind::Temp));
    }
    ended
}

/// Where prompts wait: in a database of this host, or with those of others.
enum Queue {
    Own(Closing),
    Shared(Arc<NatsStore>),
}

impl Queue {
    fn store(&self) -> Arc<dyn JobStore> {
        match self {
            Self::Own(own) => own.0.clone(),
            Self::Shared(shared) => shared.clone(),
        }
    }

    fn shared(&self) -> Option<Arc<NatsStore>> {
        match self {
            Self::Own(_) => None,
            Self::Shared(shared) => Some(Arc::clone(shared)),
        }
    }

    /// What tells other hosts what happens on this one's devices.
    fn post(&self, runtime: &tokio::runtime::Runtime, here: &Arc<dyn EventSink>) -> Option<Post> {
        let post = Post::new(&*self.shared()?, Some(Arc::clone(here)));
        let _inside = runtime.enter();
        post.run();
        Some(post)
    }

    /// Looks after it while the server runs.
    async fn watch(
        &self,
        beside: &Arc<Beside>,
        folders: &Arc<Folders>,
        working: &Arc<Working>,
        (here, hub, metrics): (Arc<dyn EventSink>, Hub, Metrics),
        loads: bool,
    ) -> Result<(), Failure> {
        match self {
            Self::Own(own) => drop(tokio::spawn(watch_store(own.0.clone()))),
            Self::Shared(shared) => {
                shared.hear_said(elsewhere::ears(hub, metrics.clone()));
                shared.hear_events(here).await?;
                let (beside, folders) = (Arc::clone(beside), Arc::clone(folders));
                tokio::spawn(elsewhere::list(Arc::clone(shared), Arc::clone(&folders), Arc::clone(&beside), metrics));
                tokio::spawn(empty_old(folders.directory(comfyd_folders::Kind::Temp).to_owned()));
                Part { store: Arc::clone(shared), working: Arc::clone(working), beside, folders, api: true, loads }.play().await?;
            }
        }
        Ok(())
    }
}

/// Counts the nodes of this process's devices here, and has the other servers of a cluster do so.
fn counts(metrics: Metrics, post: Option<Post>) -> Counts {
    Arc::new(move |class, number, device, took| {
        metrics.node(class, &number.to_string(), took);
        if let Some(post) = &post {
            post.ran(class, &device.to_string(), took);
        }
    })
}

/// Removes what has been in a cluster's temp folder for long, again and again: no host knows whether another still shows it.
async fn empty_old(folder: PathBuf) {
    loop {
        let folder = folder.clone();
        let removed = tokio::task::spawn_blocking(move || {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let age = entry.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|changed| changed.elapsed().ok());
                if age.is_some_and(|age| age > TEMP_KEPT) && entry.file_type().is_ok_and(|kind| kind.is_file()) {
                    drop(std::fs::remove_file(entry.path()));
                }
            }
        });
        drop(removed.await);
        tokio::time::sleep(TEMP_LOOK).await;
    }
}

/// Deals with the prompts that the last run left.
async fn recover(config: &Config, store: &dyn JobStore, devices: &Devices) -> Result<(), Failure> {
    let on_restart = match (&config.cluster, config.on_restart) {
        (Some(cluster), _) => cluster::on_restart(cluster),
        (None, config::OnRestart::Rerun) => OnRestart::Rerun { max_crashes: config.max_crashes },
        (None, config::OnRestart::Fail) => OnRestart::Fail,
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

/// The command line as clients may see it: without what lets into a cluster.
fn shown(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut secret = false;
    let show = |argument: String| {
        if std::mem::replace(&mut secret, argument == "--cluster-token") {
            return "...".to_owned();
        }
        if argument.starts_with("--cluster-token=") {
            return "--cluster-token=...".to_owned();
        }
        // Users and passwords in addresses of NATS.
        let hidden = |address: &str| match (address.split_once("://"), address.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) if scheme.ends_with("nats") || scheme.ends_with("tls") => format!("{scheme}://...@{host}"),
            _ => address.to_owned(),
        };
        argument.split(',').map(hidden).collect::<Vec<_>>().join(",")
    };
    arguments.map(show).collect()
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
        tells_needs: config.cluster.is_some(),
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
        argv: shown(std::env::args_os().map(|argument| argument.to_string_lossy().into_owned())),
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
    let tell = Box::new(move |event: &comfyd_assets::ScanEvent| hub.event(event.name(), event, None, None));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_do_not_see_what_lets_into_a_cluster() {
        let given = [
            "comfyd",
            "serve",
            "--cluster",
            "nats://me:pw@a:1,tls://me:pw@b",
            "--cluster-token",
            "t0ken",
            "--cluster-token=t0ken",
            "--cpu",
        ];
        let wanted =
            ["comfyd", "serve", "--cluster", "nats://...@a:1,tls://...@b", "--cluster-token", "...", "--cluster-token=...", "--cpu"];
        assert_eq!(shown(given.map(str::to_owned).into_iter()), wanted);
        let other = ["--cluster=nats://me:pw@a", "--listen", "0.0.0.0,::", "a@b,c"];
        assert_eq!(shown(other.map(str::to_owned).into_iter()), ["--cluster=nats://...@a", "--listen", "0.0.0.0,::", "a@b,c"]);
    }
}
