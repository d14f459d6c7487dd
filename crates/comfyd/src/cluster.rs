//! A process's part in a cluster: the store that several hosts share, what it tells of itself and does when it is asked, and the commands
//! `worker` and `cluster status`. Does not know how NATS is spoken to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use comfyd_folders::Folders;
use comfyd_jobs::{JobStore, OnRestart};
use comfyd_memory::Account;
use comfyd_node::SharedCatalog;
use comfyd_server::{Device, DeviceState, Log, Metrics};
use comfyd_store_nats::{Abilities, About, AboutDevice, Command, Does, Error, Link, Member, NatsStore, Options, Post};
use serde_json::json;

use crate::assemble::{self, Failure};
use crate::beside::Around;
use crate::config::{Cluster, Config};
use crate::devices::{Devices, Service, Working};
use crate::process;
use crate::python::Deaf;

/// How often it is looked whether the own models changed, and what the devices hold.
const LOOK: Duration = Duration::from_secs(5);

/// How long a process that starts waits for NATS: its servers may start at the same time, or have no majority for a moment.
pub(crate) const START_PATIENCE: Duration = Duration::from_secs(120);
/// Before it tries again.
const START_PAUSE: Duration = Duration::from_secs(1);

/// Joins the cluster that the settings name, and waits for so long where NATS does not answer.
pub(crate) async fn join(config: &Config, cluster: &Cluster, api: bool, patience: Duration) -> Result<Arc<NatsStore>, Failure> {
    let began = Instant::now();
    loop {
        match join_once(config, cluster, api).await {
            Ok(store) => return Ok(Arc::new(store)),
            Err(error @ (Error::Unreachable { .. } | Error::Refused(_))) if began.elapsed() < patience => {
                tracing::warn!(%error, "the cluster cannot be joined yet");
                tokio::time::sleep(START_PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn join_once(config: &Config, cluster: &Cluster, api: bool) -> Result<NatsStore, Error> {
    let instance = cluster.instance.clone().unwrap_or_else(|| format!("{}-{:08x}", host(), uuid::Uuid::new_v4().as_fields().0));
    let link = Link::connect(&cluster.connection, &format!("comfyd {instance}")).await?;
    let options = Options {
        cluster: cluster.name.clone(),
        instance,
        replicas: cluster.replicas,
        keeps_texts: api,
        lease: cluster.lease,
        expires: api,
        max_tries: cluster.max_tries,
        affinity_window: cluster.affinity_window,
        max_pending: config.queue_limit,
        max_pending_bytes: config.queue_bytes,
        max_of_owner: config.user_prompts.unwrap_or(usize::MAX),
        max_history: config.history_limit,
        ..Options::default()
    };
    NatsStore::open(&link, options).await
}

fn host() -> String {
    sysinfo::System::host_name().filter(|name| !name.is_empty()).unwrap_or_else(|| "host".to_owned())
}

/// What becomes of prompts that ran under this process's name before.
pub(crate) fn on_restart(cluster: &Cluster) -> OnRestart {
    OnRestart::Rerun { max_crashes: cluster.max_tries }
}

/// What a process of a cluster does besides running and answering.
pub(crate) struct Part {
    pub(crate) store: Arc<NatsStore>,
    pub(crate) working: Arc<Working>,
    pub(crate) catalog: SharedCatalog,
    pub(crate) folders: Arc<Folders>,
    pub(crate) api: bool,
}

impl Part {
    /// Tells of itself, and does what it is asked, for as long as the runtime runs.
    pub(crate) async fn play(self) -> Result<(), Failure> {
        let asked = Arc::clone(&self.working);
        let does: Does = Arc::new(move |command| {
            let working = Arc::clone(&asked);
            Box::pin(async move {
                let mut any = false;
                for device in working.served() {
                    match &command {
                        Command::Interrupt { prompt_id } => any |= device.interrupt(prompt_id.as_deref()).await,
                        Command::Free { unload_models, free_memory } => device.free(*unload_models, *free_memory),
                        Command::Abilities | Command::Secrets { .. } => {}
                    }
                }
                any
            })
        });
        self.store.obey(does).await?;
        let store = Arc::clone(&self.store);
        self.tell().await;
        store.claims_only({
            let (catalog, folders) = (self.catalog.clone(), Arc::clone(&self.folders));
            move |needs| {
                let known = catalog.current();
                needs.classes.iter().all(|class| known.get(class).is_some())
                    && needs
                        .models
                        .iter()
                        .all(|(folder, file)| folders.model_path(folder, file).is_some() || offered(&folders, folder, file))
            }
        });
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                self.tell().await;
            }
        });
        Ok(())
    }

    /// What it is, can run and holds. Listing folders waits for the disk.
    async fn tell(&self) {
        let (catalog, folders, working) = (self.catalog.clone(), Arc::clone(&self.folders), Arc::clone(&self.working));
        let looked = tokio::task::spawn_blocking(move || (abilities(&catalog, &folders), devices(&working))).await;
        let Ok((abilities, devices)) = looked else { return };
        let about = About { host: host(), version: env!("CARGO_PKG_VERSION").to_owned(), api: self.api, devices, ..About::default() };
        self.store.tell(about, abilities);
    }
}

/// Whether a folder offers a choice that is no file of it.
fn offered(folders: &Folders, folder: &str, file: &str) -> bool {
    folders.own_model_files(folder).is_some_and(|files| files.iter().any(|own| own == file))
}

fn abilities(catalog: &SharedCatalog, folders: &Folders) -> Abilities {
    let classes = catalog.current().iter().map(|entry| Arc::from(entry.schema.class.as_str())).collect();
    let files = |folder: String| {
        let files = folders.own_model_files(&folder).unwrap_or_default();
        (!files.is_empty()).then(|| (Arc::from(folder), files.into_iter().map(Arc::from).collect()))
    };
    Abilities { classes, models: folders.model_folders().into_iter().filter_map(files).collect() }
}

fn devices(working: &Working) -> Vec<AboutDevice> {
    let about = |device: Arc<dyn Device>| {
        let DeviceState { name, memory, free, models, stuck_threads } = device.state();
        AboutDevice { name, memory, free, models, stuck_threads }
    };
    working.served().map(about).collect()
}

/// The devices of the other processes.
pub(crate) struct Others {
    pub(crate) store: Arc<NatsStore>,
    pub(crate) runtime: tokio::runtime::Handle,
}

#[async_trait]
impl Device for Others {
    fn state(&self) -> DeviceState {
        self.states().into_iter().next().unwrap_or(DeviceState { name: "none".to_owned(), memory: 0, free: 0, models: 0, stuck_threads: 0 })
    }

    fn states(&self) -> Vec<DeviceState> {
        let others = self.store.members().into_iter().filter(|member| member.session != self.store.session());
        let state = |device: AboutDevice| {
            let AboutDevice { name, memory, free, models, stuck_threads } = device;
            DeviceState { name, memory, free, models, stuck_threads }
        };
        others.flat_map(|member| member.about.devices).map(state).collect()
    }

    async fn interrupt(&self, prompt_id: Option<&str>) -> bool {
        self.store.interrupt(prompt_id).await
    }

    fn free(&self, unload_models: bool, free_memory: bool) {
        let store = Arc::clone(&self.store);
        self.runtime.spawn(async move { store.free(unload_models, free_memory).await });
    }
}

/// Lists the models of all workers in what clients may choose from, as they come and go.
pub(crate) async fn list_models(store: Arc<NatsStore>, folders: Arc<Folders>) {
    let mut fleet = store.fleet();
    loop {
        folders.set_elsewhere(store.models());
        let _changed = tokio::time::timeout(LOOK, fleet.changed()).await;
    }
}

/// `comfyd worker`.
pub(crate) fn work(config: &Config) -> Result<(), Failure> {
    process::init_log(config.verbosity, Log::default());
    process::check_limits()?;
    let cluster = config.cluster.as_ref().ok_or("no cluster is named: set --cluster")?;
    let folders = assemble::folders(config)?;
    let account: Account = assemble::account(config);
    let apart = Arc::default();
    let around = Around { folders: &folders, account: &account, address: "127.0.0.1:0", apart: &apart };
    let devices = process::in_background(|| Devices::open(config, &around, &|_runs| Arc::new(Deaf)))?;
    let lead = Arc::clone(devices.lead());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    assemble::share(config, &folders, runtime.handle())?;
    let shared = Arc::clone(&folders);
    runtime.block_on(async {
        let signal = process::shutdown_signal()?;
        for worker in lead.workers() {
            worker.known()?;
        }
        lead.rebuild();
        let store = join(config, cluster, false, START_PATIENCE).await?;
        let devices = devices.of(store.instance());
        devices.recover(&*store, on_restart(cluster)).await?;
        let post = Post::new(&store, None);
        post.run();
        let service = Service {
            store: Arc::clone(&store) as Arc<dyn JobStore>,
            sink: Arc::new(post),
            metrics: Metrics::default(),
            runtime: tokio::runtime::Handle::current(),
            showing: assemble::showing(&folders, None),
        };
        let working = Arc::new(process::in_background(|| devices.start(config, &folders, &service))?);
        let part = Part { store: Arc::clone(&store), working: Arc::clone(&working), catalog: lead.catalog().clone(), folders, api: false };
        part.play().await?;
        tracing::info!(instance = store.instance(), cluster = cluster.name, "ready for prompts");
        signal.await;
        tracing::info!("stopping; a prompt that runs goes back into the queue");
        working.shutdown().await;
        store.leave().await;
        Ok::<_, Failure>(())
    })?;
    shared.end();
    // A node that ignores its interruption must not keep the process.
    runtime.shutdown_background();
    Ok(())
}

/// `comfyd cluster status`.
pub(crate) fn status(config: &Config, as_json: bool) -> Result<(), Failure> {
    let cluster = config.cluster.as_ref().ok_or("no cluster is named: set --cluster")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = join(config, cluster, true, Duration::ZERO).await?;
        // All tell of themselves several times in a lease.
        tokio::time::sleep((cluster.lease / 3).min(Duration::from_secs(10))).await;
        let members: Vec<Member> = store.members().into_iter().filter(|member| member.session != store.session()).collect();
        let (queue, waiting_for) = (store.queue().await?, store.waiting_for().await?);
        let total = store.history(&comfyd_jobs::HistoryQuery { limit: Some(0), ..comfyd_jobs::HistoryQuery::default() }).await?.total;
        let replication = store.replication().await?;
        let running = store.holders();
        if as_json {
            let members: Vec<_> = members
                .iter()
                .map(|member| {
                    let models =
                        member.abilities.as_ref().map(|abilities| abilities.models.values().map(|files| files.len()).sum::<usize>());
                    json!({
                        "instance": member.about.instance, "host": member.about.host, "version": member.about.version,
                        "api": member.about.api, "devices": member.about.devices, "models": models,
                        "running": running.iter().filter(|(_, session)| *session == member.session).map(|(id, _)| id).collect::<Vec<_>>(),
                    })
                })
                .collect();
            return assemble::print_line(format_args!(
                "{:#}",
                json!({"cluster": cluster.name, "members": members, "running": queue.running.len(), "pending": queue.pending.len(),
                    "waiting_for": waiting_for, "history": total, "replication": replication})
            ));
        }
        assemble::print_line(format_args!(
            "cluster {}: {} running, {} waiting, {total} in the history",
            cluster.name,
            queue.running.len(),
            queue.pending.len()
        ))?;
        assemble::print_line(format_args!("kept in NATS: {replication}"))?;
        for member in &members {
            let About { instance, host, version, api, devices, .. } = &member.about;
            let role = if *api { "API" } else { "worker" };
            assemble::print_line(format_args!("{role} {instance} on {host}, comfyd {version}"))?;
            for AboutDevice { name, memory, free, models, .. } in devices {
                assemble::print_line(format_args!(
                    "  {name}: {} of {} MiB free, {} MiB of models",
                    free >> 20,
                    memory >> 20,
                    models >> 20
                ))?;
            }
            for (id, _) in running.iter().filter(|(_, session)| *session == member.session) {
                assemble::print_line(format_args!("  runs {id}"))?;
            }
        }
        if members.is_empty() {
            assemble::print_line("nobody is there: start `comfyd serve` and `comfyd worker` with the same --cluster and --cluster-name")?;
        }
        for (id, lack) in &waiting_for {
            assemble::print_line(format_args!("{id} waits for {lack}"))?;
        }
        Ok(())
    })
}
