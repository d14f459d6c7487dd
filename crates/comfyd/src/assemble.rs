//! Builds the parts that `serve` and `run` share from the configuration.

use std::io::{ErrorKind, Write as _};
use std::sync::Arc;

use comfyd_assets::Assets;
use comfyd_engine::{DeviceChoice, Engine, EngineOptions, PreviewMethod};
use comfyd_executor::{BeforeNode, CachePolicy, Executor, ExecutorOptions, Showing};
use comfyd_files::ObjectFiles;
use comfyd_folders::Folders;
use comfyd_folders::shared::{Copies, FileStore};
use comfyd_graph::{PlacementMode, Placing};
use comfyd_media::{Media, Options as MediaOptions};
use comfyd_memory::Account;
use comfyd_node::{Catalog, Input, OptionSource, Schema};
use comfyd_nodes::{Builtin, Limits, Services};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::beside::{Beside, implied_paths};
use crate::config::{self, Cache, Config, Files, Python};
use crate::leash::words;
use crate::nats;

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

/// The devices that the settings name, of which there is at least one.
pub(crate) fn choices(config: &Config) -> Vec<DeviceChoice> {
    let choices: Vec<DeviceChoice> = match &config.devices {
        config::Devices::Auto => Vec::new(),
        config::Devices::All => (0..comfyd_engine::cards()).map(DeviceChoice::Cuda).collect(),
        config::Devices::These(devices) => {
            let choice = |device: &config::Device| match device {
                config::Device::Cpu => DeviceChoice::Cpu,
                config::Device::Cuda(number) => DeviceChoice::Cuda(*number),
            };
            devices.iter().map(choice).collect()
        }
    };
    if choices.is_empty() { vec![DeviceChoice::Auto] } else { choices }
}

/// What loads models onto a device and runs them.
pub(crate) fn engine(config: &Config, device: DeviceChoice, folders: &Arc<Folders>, account: &Account) -> Result<Engine, Failure> {
    let (for_embeddings, for_decoders) = (Arc::clone(folders), Arc::clone(folders));
    Ok(Engine::new(EngineOptions {
        device,
        cpu_level: config.cpu_level,
        precision: config.precision,
        memory_budget_bytes: config.memory_budget_bytes,
        account: account.clone(),
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
        media: Media::new(media(config, folders)),
    };
    for class in catalog.add(&Builtin::new(services)) {
        tracing::warn!(class, "a node class was declared twice; the later one is used");
    }
    catalog
}

/// How FFmpeg is used.
fn media(config: &Config, folders: &Folders) -> MediaOptions {
    let mut options = MediaOptions::new(&folders.roots().temp);
    options.launcher = words();
    if let Some(ffmpeg) = &config.ffmpeg {
        let ending = ffmpeg.extension().map(|ending| format!(".{}", ending.to_string_lossy())).unwrap_or_default();
        options.ffprobe = ffmpeg.with_file_name(format!("ffprobe{ending}"));
        options.ffmpeg.clone_from(ffmpeg);
    }
    options
}

/// The memory that models, results and all other large things have together.
pub(crate) fn account(config: &Config) -> Account {
    let account = Account::of_machine(config.memory_budget_bytes);
    tracing::info!(mebibytes = account.budget() >> 20, "the budget for memory");
    account
}

/// The processes beside this one count in its account too.
pub(crate) fn count_beside(account: &Account, beside: &Arc<Beside>) {
    let beside = Arc::downgrade(beside);
    account.beside_is(move || beside.upgrade().map_or(0, |beside| beside.workers().iter().map(comfyd_python::Worker::memory).sum()));
}

/// Makes what runs prompts on one of so many devices, as often as one is needed.
pub(crate) fn executors(
    config: &Config,
    devices: usize,
    beside: &Arc<Beside>,
    engine: &Engine,
    folders: &Arc<Folders>,
    showing: Option<&Arc<Showing>>,
) -> impl Fn() -> Executor + Send + Sync + 'static {
    let options = executor_options(config, devices);
    // On the processor both use the machine's memory, of which there is enough or not whoever holds it.
    let on_card = engine.device_name().starts_with("cuda");
    let exclusive = |python: &Python| python.memory.map_or(on_card, |memory| memory == config::DeviceMemory::Exclusive);
    let turns = config.python.as_ref().is_some_and(exclusive).then(|| turns(beside, engine));
    let learns = config.python.is_some();
    let showing = showing.cloned();
    let (beside, folders, account) = (Arc::clone(beside), Arc::clone(folders), engine.account().clone());
    move || {
        let executor = Executor::new(beside.catalog().clone(), options.clone())
            .with_files(Arc::clone(&folders) as Arc<dyn OptionSource>)
            .with_account(&account);
        let learning = Arc::clone(&beside);
        let executor = if learns { executor.with_learning(Arc::new(move |cancel| learning.learn(cancel))) } else { executor };
        let executor = match &showing {
            Some(showing) => executor.with_showing(Arc::clone(showing)),
            None => executor,
        };
        let executor = if learns && folders.is_shared() {
            // Python's nodes look into the folders themselves.
            let files = Arc::clone(&folders);
            executor.with_arriving(Arc::new(move |prompt| Ok(files.inputs_here(prompt)?)))
        } else {
            executor
        };
        match &turns {
            Some(turns) => executor.with_before(Arc::clone(turns)),
            None => executor,
        }
    }
}

/// What is done with what nodes show: where assets are kept, its files become some; where files are shared, they are by then.
pub(crate) fn showing(folders: &Arc<Folders>, assets: Option<&Arc<Assets>>) -> Option<Arc<Showing>> {
    if folders.is_shared() {
        let folders = Arc::clone(folders);
        return Some(Arc::new(move |_, shown| Ok(folders.announce(shown)?)));
    }
    let assets = Arc::clone(assets?);
    Some(Arc::new(move |prompt, shown| {
        match assets.store() {
            Ok(store) => store.take_shown(prompt, shown),
            Err(error) => tracing::warn!(prompt_id = prompt, %error, "results are not among the assets"),
        }
        Ok(())
    }))
}

/// Has the folders' files be those of the store that servers share, where the settings name one.
pub(crate) fn share(config: &Config, folders: &Folders, runtime: &Handle) -> Result<(), Failure> {
    let Some(Files { place, settings, copies_bytes }) = &config.files else { return Ok(()) };
    let store: Arc<dyn FileStore> = match &config.cluster {
        Some(cluster) if place == config::FILES_IN_NATS => runtime.block_on(nats::files(cluster, config.action != config::Action::Work))?,
        Some(_) | None => {
            let store = ObjectFiles::open(place, settings, runtime.clone())?;
            store.check().map_err(|error| {
                format!("the files at '{place}' cannot be had: {error}: look whether it runs, and at its name and keys")
            })?;
            Arc::new(store)
        }
    };
    folders.share(Copies::new(store, folders.roots(), *copies_bytes));
    tracing::info!(place, "files are shared");
    Ok(())
}

/// Has one side at a time hold models: the others unload theirs before one of a side runs.
fn turns(beside: &Arc<Beside>, engine: &Engine) -> Arc<BeforeNode> {
    let (beside, engine) = (Arc::clone(beside), engine.clone());
    let holder: Mutex<Option<String>> = Mutex::new(None);
    Arc::new(move |entry| {
        if !may_hold_models(&entry.schema) {
            return;
        }
        let side = entry.host().map_or_else(String::new, |host| host.name().to_owned());
        let mut holder = holder.lock();
        if holder.as_ref() == Some(&side) {
            return;
        }
        if !side.is_empty() {
            engine.free(true, false);
        }
        for worker in beside.workers().iter().filter(|worker| worker.name() != side) {
            worker.host().free(true, false);
        }
        *holder = Some(side);
    })
}

/// Types that are data. All else may be a model, or bring one along.
const DATA: [&str; 15] = [
    "*",
    "AUDIO",
    "BOOLEAN",
    "COMBO",
    "CONDITIONING",
    "FLOAT",
    "IMAGE",
    "INT",
    "LATENT",
    "MASK",
    "NOISE",
    "SAMPLER",
    "SIGMAS",
    "STRING",
    "VIDEO",
];

/// Whether a node of this class may load a model onto a device.
fn may_hold_models(schema: &Schema) -> bool {
    let inputs = schema.inputs.iter().map(Input::type_name);
    let mut types = inputs.chain(schema.outputs.iter().map(|output| output.ty.as_str())).flat_map(|ty| ty.split(','));
    types.any(|ty| !DATA.contains(&ty.trim()))
}

/// How nodes are placed.
pub(crate) fn placing(config: &Config) -> Placing {
    let Some(python) = &config.python else { return Placing::default() };
    Placing {
        mode: match python.placement {
            config::Placement::Auto => PlacementMode::Auto,
            config::Placement::Python => PlacementMode::Python,
            config::Placement::Native => PlacementMode::Native,
        },
        prefer: python.prefer.iter().map(|(class, place)| (class.clone(), place.clone())).collect(),
    }
}

/// The settings of the executor of one of so many devices, which share the memory for results.
fn executor_options(config: &Config, devices: usize) -> ExecutorOptions {
    let cache = match config.cache {
        Cache::Classic => CachePolicy::Classic,
        Cache::Lru(entries) => CachePolicy::Lru(entries),
        Cache::Off => CachePolicy::None,
    };
    ExecutorOptions {
        cache,
        placing: placing(config),
        cache_budget_bytes: config.cache_memory_bytes.and_then(|bytes| usize::try_from(bytes).ok()).map(|bytes| bytes / devices.max(1)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nodes_that_may_hold_models_take_turns() {
        let class = |inputs: &[&str], outputs: &[&str]| {
            let schema = inputs.iter().fold(Schema::new("Class"), |schema, ty| schema.input(Input::link(ty, ty)));
            outputs.iter().fold(schema, |schema, ty| schema.output(ty))
        };
        for (inputs, outputs, holds) in [
            (&["IMAGE", "MASK"][..], &["IMAGE"][..], false),
            (&["CONDITIONING", "CONDITIONING"], &["CONDITIONING"], false),
            (&[], &["MODEL", "CLIP", "VAE"], true),
            (&["VAE", "LATENT"], &["IMAGE"], true),
            (&["NOISE", "GUIDER", "SAMPLER", "SIGMAS", "LATENT"], &["LATENT"], true),
            (&["IMAGE,SAM_MODEL"], &[], true),
        ] {
            assert_eq!(may_hold_models(&class(inputs, outputs)), holds, "{inputs:?}");
        }
    }
}
