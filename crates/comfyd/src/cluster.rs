//! A process's part in a cluster: the store that several hosts share, what it tells of itself and does when it is asked, and the commands
//! `worker` and `cluster status`. Does not know how NATS is spoken to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use comfyd_folders::Folders;
use comfyd_jobs::{JobStore, OnRestart};
use comfyd_memory::Account;
use comfyd_node::SharedCatalog;
use comfyd_server::{Device, DeviceState, Log};
use comfyd_store_nats::{
    Abilities, About, AboutDevice, Command, Does, Error, Link, MAX_TEXT_BYTES, Member, NatsStore, Options, Post, Told,
};
use parking_lot::Mutex;
use serde_json::json;

use crate::assemble::{self, Failure};
use crate::beside::{Around, Beside};
use crate::config::{Cluster, Config, Placement};
use crate::devices::{Devices, Service, Working};
use crate::heavy::{self, Heavy};
use crate::nats::{self, START_PATIENCE};
use crate::process;
use crate::said::Voice;

/// How often it is looked whether the own models changed, and what the devices hold.
pub(crate) const LOOK: Duration = Duration::from_secs(5);

/// Joins the cluster that the settings name, and waits for so long where NATS does not answer.
pub(crate) async fn join(config: &Config, cluster: &Cluster, api: bool, patience: Duration) -> Result<Arc<NatsStore>, Failure> {
    Ok(Arc::new(nats::patiently(patience, async || join_once(config, cluster, api).await).await?))
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

/// Whether comfyd itself loads what a prompt's nodes name.
pub(crate) fn loads(config: &Config) -> bool {
    config.python.as_ref().is_none_or(|python| python.placement != Placement::Python)
}

/// What becomes of prompts that ran under this process's name before.
pub(crate) fn on_restart(cluster: &Cluster) -> OnRestart {
    OnRestart::Rerun { max_crashes: cluster.max_tries }
}

/// What a process of a cluster does besides running and answering.
pub(crate) struct Part {
    pub(crate) store: Arc<NatsStore>,
    pub(crate) working: Arc<Working>,
    pub(crate) beside: Arc<Beside>,
    pub(crate) folders: Arc<Folders>,
    pub(crate) api: bool,
    /// Whether comfyd itself loads models: a ComfyUI beside it has ways of its own with what is larger than a device.
    pub(crate) loads: bool,
}

/// What was found when it was looked last.
#[derive(Default)]
struct Seen {
    classes: Mutex<Classes>,
    heavy: Mutex<Heavy>,
}

/// What is told of the classes that ComfyUIs beside a process have, as of a version of its catalog.
#[derive(Default)]
struct Classes {
    version: Option<u64>,
    told: BTreeMap<Arc<str>, Told>,
    texts: HashMap<String, Bytes>,
}

impl Classes {
    /// What is to be told now. To write it down takes a moment, and it rarely changes.
    fn look(&mut self, beside: &Beside) {
        let version = beside.catalog().version();
        if self.version == Some(version) {
            return;
        }
        *self = Self { version: Some(version), ..Self::default() };
        for worker in beside.workers() {
            let Some(text) = worker.told() else { continue };
            if text.len() > MAX_TEXT_BYTES {
                let (bytes, name) = (text.len(), worker.name());
                tracing::warn!(bytes, name, "too much is told of the classes of a ComfyUI: servers that lack them do not list them");
                continue;
            }
            let told = Told::of(&text);
            self.texts.insert(told.digest.clone(), text.into());
            self.told.insert(worker.name().into(), told);
        }
    }
}

impl Part {
    /// Tells of itself, and does what it is asked, for as long as the runtime runs.
    pub(crate) async fn play(self) -> Result<(), Failure> {
        let (asked, checks) = (Arc::clone(&self.working), Arc::clone(&self.beside));
        let does: Does = Arc::new(move |command| {
            let working = Arc::clone(&asked);
            let beside = Arc::clone(&checks);
            Box::pin(async move {
                let mut any = false;
                match command {
                    Command::Interrupt { prompt_id } => {
                        for device in working.served() {
                            any |= device.interrupt(prompt_id.as_deref()).await;
                        }
                    }
                    Command::Free { unload_models, free_memory } => {
                        working.served().for_each(|device| device.free(unload_models, free_memory));
                    }
                    Command::Check { host, question } => {
                        let worker = beside.workers().iter().find(|worker| worker.name() == host).cloned();
                        let checked = tokio::task::spawn_blocking(move || Some(worker?.check(&question))).await;
                        return checked.ok().flatten().unwrap_or_else(|| json!({"failed": format!("there is no '{host}' here any more")}));
                    }
                    Command::Abilities | Command::Secrets { .. } | Command::Text { .. } => {}
                }
                any.into()
            })
        });
        self.store.obey(does).await?;
        let store = Arc::clone(&self.store);
        let seen: Arc<Seen> = Arc::default();
        self.tell(&seen).await;
        store.claims_only({
            let (catalog, folders, seen) = (self.beside.catalog().clone(), Arc::clone(&self.folders), Arc::clone(&seen));
            let rooms = self.working.rooms();
            move |worker, needs| {
                let known = catalog.current();
                let has = |folder: &str, file: &str| {
                    let room = rooms.get(worker).copied().unwrap_or(u64::MAX);
                    (folders.model_path(folder, file).is_some() || offered(&folders, folder, file))
                        && seen.heavy.lock().bytes(folder, file) <= room
                };
                needs.classes.iter().all(|class| known.get(class).is_some()) && needs.models.iter().all(|(folder, file)| has(folder, file))
            }
        });
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                self.tell(&seen).await;
            }
        });
        Ok(())
    }

    /// What it is, can run and holds. Listing folders waits for the disk.
    async fn tell(&self, seen: &Arc<Seen>) {
        let (beside, folders, working) = (Arc::clone(&self.beside), Arc::clone(&self.folders), Arc::clone(&self.working));
        let (seen, loads, api) = (Arc::clone(seen), self.loads, self.api);
        let looked = tokio::task::spawn_blocking(move || {
            // Nobody asks a worker for its classes, which would have it look for new files that they list.
            if !api {
                beside.workers().iter().for_each(comfyd_python::Worker::refresh);
                beside.rebuild();
            }
            let (told, texts) = {
                let mut classes = seen.classes.lock();
                classes.look(&beside);
                (classes.told.clone(), classes.texts.clone())
            };
            let mut abilities = Abilities { told, ..abilities(beside.catalog(), &folders) };
            let rooms = working.rooms();
            if let (true, Some(least), Some(most)) = (loads, rooms.values().min(), rooms.values().max()) {
                let heavy = heavy::look(&folders, &abilities.models, *least, &seen.heavy);
                abilities.heavy = heavy.over(*most);
            }
            (abilities, texts, devices(&working))
        });
        let Ok((abilities, texts, devices)) = looked.await else { return };
        let about = About { host: host(), version: env!("CARGO_PKG_VERSION").to_owned(), api: self.api, devices, ..About::default() };
        self.store.tell(about, abilities, texts);
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
    let models = folders.model_folders().into_iter().filter_map(files).collect();
    Abilities { classes, models, ..Abilities::default() }
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

/// `comfyd worker`.
pub(crate) fn work(config: &Config) -> Result<(), Failure> {
    process::init_log(config.verbosity, Log::default());
    process::check_limits()?;
    let cluster = config.cluster.as_ref().ok_or("no cluster is named: set --cluster")?;
    let folders = assemble::folders(config)?;
    let account: Account = assemble::account(config);
    let apart = Arc::default();
    let around = Around { folders: &folders, account: &account, address: "127.0.0.1:0", apart: &apart };
    let voice = Voice::default();
    let devices = process::in_background(|| Devices::open(config, &around, &|runs| Arc::new(voice.of(runs))))?;
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
        store.take_name().await?;
        let devices = devices.of(store.instance());
        devices.recover(&*store, on_restart(cluster)).await?;
        let post = Post::new(&store, None);
        post.run();
        voice.speak_to(post.clone());
        let counted = post.clone();
        let service = Service {
            store: Arc::clone(&store) as Arc<dyn JobStore>,
            sink: Arc::new(post),
            counts: Arc::new(move |class, _, device, took| counted.ran(class, &device.to_string(), took)),
            runtime: tokio::runtime::Handle::current(),
            showing: assemble::showing(&folders, None),
        };
        let working = Arc::new(process::in_background(|| devices.start(config, &folders, &service))?);
        let part =
            Part { store: Arc::clone(&store), working: Arc::clone(&working), beside: lead, folders, api: false, loads: loads(config) };
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
