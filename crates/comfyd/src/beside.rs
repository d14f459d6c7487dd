//! The ComfyUIs beside the program: their workers' settings, and the catalog that has their classes and the native ones.

use std::any::Any;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use comfyd_engine::DeviceChoice;
use comfyd_folders::{AddedFolder, Folders};
use comfyd_memory::Account;
use comfyd_node::{CancellationToken, Catalog, Entry, Replacements, SharedCatalog};
use comfyd_python::{Outlet, Patience, Settings, State, Worker};
use comfyd_server::{Installation, Stage};
use indexmap::IndexMap;
use parking_lot::Mutex;
use serde_json::{Value as Json, json};

use crate::config::{Config, DEFAULT_ENVIRONMENT, Environment, Network, Placement, PreviewMethod, Python, Verbosity};

/// Which cards CUDA lets a process see, from the first one on.
const VISIBLE_CARDS: &str = "CUDA_VISIBLE_DEVICES";

/// How often it is looked whether a prompt that waits was cancelled.
const CANCEL_CHECK: Duration = Duration::from_millis(50);

/// What the workers of all devices have in common besides the settings.
pub(crate) struct Around<'a> {
    /// The folders.
    pub(crate) folders: &'a Arc<Folders>,
    /// The memory of this process.
    pub(crate) account: &'a Account,
    /// Where packs reach the server.
    pub(crate) address: &'a str,
    /// Whether each user has files of its own.
    pub(crate) apart: &'a Arc<AtomicBool>,
}

/// Which device the workers are for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// The device.
    pub(crate) choice: DeviceChoice,
    /// Which one of the program's it is, from 0.
    pub(crate) number: usize,
}

/// All workers of one device, and the catalog that changes with them.
pub(crate) struct Beside {
    workers: Vec<Worker>,
    catalog: SharedCatalog,
    /// The same with the classes that run on other hosts only.
    listed: SharedCatalog,
    /// Classes of other hosts, host by host.
    away: Mutex<Vec<Vec<Entry>>>,
    native: Catalog,
    placement: Placement,
    prefer: IndexMap<String, String>,
    /// The folders that are told which ones the workers' classes add; `None` where another device's do it.
    folders: Option<Arc<Folders>>,
    /// What the catalog was made of.
    made_of: Mutex<Option<Vec<Known>>>,
}

/// What a worker says of itself, as far as the catalog shows it.
#[derive(Clone, Default)]
struct Known {
    edition: Option<Arc<dyn Any + Send + Sync>>,
    manifest: Option<Arc<Json>>,
}

impl Known {
    fn of(worker: &Worker) -> Self {
        // The edition first: what comes between makes it an old one, and the catalog is made once more.
        Self { edition: worker.edition(), manifest: worker.manifest() }
    }

    fn is(&self, other: &Self) -> bool {
        match (&self.edition, &other.edition) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
}

impl Beside {
    /// The workers of the configuration for one device, if it names a ComfyUI. None is started.
    pub(crate) fn new(
        config: &Config,
        place: Place,
        native: Catalog,
        around: &Around<'_>,
        outlet: &Arc<dyn Outlet>,
    ) -> Result<Self, String> {
        let folders = around.folders;
        let mut workers = Vec::new();
        let python = config.python.as_ref();
        if python.is_some() {
            // ComfyUI does not start in a base folder without it.
            let packs = config.roots.base.join("custom_nodes");
            std::fs::create_dir_all(&packs).map_err(|error| format!("the folder {} cannot be made: {error}", packs.display()))?;
        }
        for (python, environment) in python.iter().flat_map(|python| environments(python, folders).into_iter().map(move |e| (python, e))) {
            let settings = settings(config, python, &environment, place, around);
            workers.push(Worker::new(settings, Arc::clone(outlet)).map_err(|error| error.to_string())?);
        }
        let beside = Self {
            workers,
            catalog: SharedCatalog::default(),
            listed: SharedCatalog::default(),
            away: Mutex::default(),
            native,
            placement: python.map_or(Placement::Auto, |python| python.placement),
            prefer: python.map(|python| python.prefer.clone()).unwrap_or_default(),
            // All tell the same folders, and those of one that was not asked yet must not take them away again.
            folders: (place.number == 0).then(|| Arc::clone(folders)),
            made_of: Mutex::default(),
        };
        beside.rebuild();
        Ok(beside)
    }

    pub(crate) fn catalog(&self) -> &SharedCatalog {
        &self.catalog
    }

    /// What prompts may have: besides the classes that run here, those that other hosts have told of.
    pub(crate) fn listed(&self) -> &SharedCatalog {
        &self.listed
    }

    /// The classes of other hosts from now on, those of each host together.
    pub(crate) fn set_away(&self, away: Vec<Vec<Entry>>) {
        let _made = self.made_of.lock();
        *self.away.lock() = away;
        self.list();
    }

    /// Lists the own classes before those of other hosts. A host that has none that is missing here adds nothing; of one that has, all
    /// are there, since what cannot leave its process needs the others of that process.
    fn list(&self) {
        let own = self.catalog.current();
        let away = self.away.lock();
        let new = |entries: &&Vec<Entry>| entries.iter().any(|entry| own.get(&entry.schema.class).is_none());
        let away: Vec<&Vec<Entry>> = away.iter().filter(new).collect();
        if away.is_empty() {
            return self.listed.replace(own);
        }
        let mut listed = Catalog::clone(&own);
        away.into_iter().flatten().for_each(|entry| listed.push(entry.clone()));
        self.listed.replace(Arc::new(listed));
    }

    pub(crate) fn native(&self) -> &Catalog {
        &self.native
    }

    pub(crate) fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// What stands in for classes that there are not any more.
    pub(crate) fn replacements(&self) -> Replacements {
        let mut all = comfyd_nodes::replacements();
        for manifest in self.workers.iter().filter_map(Worker::manifest) {
            all.register_json(manifest.get("replacements").unwrap_or(&Json::Null));
        }
        all
    }

    /// Ends the workers' processes.
    pub(crate) fn shutdown(&self) {
        self.workers.iter().for_each(Worker::shutdown);
    }

    /// Unloads models of all, or drops all that they keep.
    pub(crate) fn free(&self, unload_models: bool, free_memory: bool) {
        for worker in &self.workers {
            worker.host().free(unload_models, free_memory);
        }
    }

    /// Waits until the classes of all workers are known, or until the prompt that wants them is cancelled.
    pub(crate) fn learn(&self, cancel: &CancellationToken) {
        for worker in self.workers.iter().filter(|worker| worker.manifest().is_none()) {
            let (done, known) = mpsc::channel();
            let waiting = worker.clone();
            let started = std::thread::Builder::new().name("classes".to_owned()).spawn(move || {
                // Nobody listens any more where the prompt was cancelled.
                let _ = done.send(waiting.known());
            });
            if let Err(error) = started {
                tracing::error!(%error, "no thread can wait for ComfyUI's process");
                continue;
            }
            while matches!(known.recv_timeout(CANCEL_CHECK), Err(RecvTimeoutError::Timeout)) {
                if cancel.is_cancelled() {
                    return;
                }
            }
        }
        self.rebuild();
    }

    /// A graph as packs' handlers of requests change it, and the `extra_data` that they give it: those of every worker that has one of its
    /// classes, or puts others in their place.
    pub(crate) fn handled(&self, mut graph: Json) -> Result<(Json, Json), String> {
        let mut extra_data = Json::Object(serde_json::Map::new());
        for worker in &self.workers {
            let Some(manifest) = worker.manifest() else { continue };
            let catalog = self.catalog.current();
            let replaced = manifest.get("replaced").and_then(Json::as_array);
            let concerns = |class: &str| {
                let hosted = |entry: &Entry| entry.host().is_some_and(|host| host.name() == worker.name());
                let handled = manifest.get("on_prompt").and_then(Json::as_u64) > Some(0) && catalog.all(class).iter().any(hosted);
                handled || replaced.into_iter().flatten().any(|name| name == class)
            };
            let mut classes = graph.as_object().into_iter().flatten().filter_map(|(_, node)| node.get("class_type")?.as_str());
            if !classes.any(concerns) {
                continue;
            }
            let request = json!({"prompt": graph, "extra_data": extra_data});
            let mut changed = worker.on_prompt(request).map_err(|error| format!("packs' handlers of prompts failed: {error}"))?;
            (graph, extra_data) = (changed["prompt"].take(), changed["extra_data"].take());
        }
        if !extra_data.is_object() {
            return Err("packs' handlers of prompts made something else of `extra_data` than an object".to_owned());
        }
        Ok((graph, extra_data))
    }

    /// Makes the catalog anew if a worker says something else of itself than when it was made.
    pub(crate) fn rebuild(&self) {
        let mut made_of = self.made_of.lock();
        let known: Vec<Known> = self.workers.iter().map(Known::of).collect();
        if made_of.as_ref().is_some_and(|old| old.iter().zip(&known).all(|(old, new)| old.is(new))) {
            return;
        }
        if let Some(folders) = &self.folders {
            let added: Vec<AddedFolder> =
                known.iter().flat_map(|known| known.manifest.iter().flat_map(|manifest| added(manifest))).collect();
            folders.set_added(&added);
        }
        self.catalog.replace(Arc::new(self.merged()));
        self.list();
        *made_of = Some(known);
    }

    /// All classes, each with all its implementations, the one before that clients are told of.
    fn merged(&self) -> Catalog {
        let native = || self.native.iter().map(|entry| ("native", entry.clone()));
        let hosted = || {
            let of = |worker: &Worker| {
                let name = worker.name().to_owned();
                worker.entries().into_iter().map(move |entry| (name.clone(), entry))
            };
            self.workers.iter().flat_map(of)
        };
        let mut classes: IndexMap<String, Vec<(String, Entry)>> = IndexMap::new();
        let mut add = |place: String, entry: Entry| classes.entry(entry.schema.class.clone()).or_default().push((place, entry));
        if self.placement == Placement::Native {
            native().for_each(|(place, entry)| add(place.into(), entry));
        }
        hosted().for_each(|(place, entry)| add(place, entry));
        if self.placement != Placement::Native {
            native().for_each(|(place, entry)| add(place.into(), entry));
        }
        let mut catalog = Catalog::new();
        for (class, mut all) in classes {
            if let Some(preferred) = self.prefer.get(&class) {
                let fits = |place: &str| place == preferred || (preferred == "python" && place != "native");
                // Stable: what is not preferred keeps its order.
                all.sort_by_key(|(place, _)| !fits(place));
            }
            all.into_iter().for_each(|(_, entry)| catalog.push(entry));
        }
        catalog
    }
}

/// The default environment, and those of the configuration.
fn environments(python: &Python, folders: &Folders) -> Vec<Environment> {
    let elsewhere: HashSet<&String> = python.environments.iter().flat_map(|environment| &environment.packs).collect();
    let mut args = Vec::new();
    let mut packs = python.whitelist.clone();
    let mut alone = python.disable_packs;
    if !elsewhere.is_empty() {
        if !alone {
            packs = installed(&folders.model_paths("custom_nodes").unwrap_or_default());
        }
        packs.retain(|pack| !elsewhere.contains(pack));
        alone = true;
    }
    if alone {
        args.push("--disable-all-custom-nodes".to_owned());
    }
    args.extend(whitelist(&packs));
    let default = Environment {
        name: DEFAULT_ENVIRONMENT.into(),
        comfyui: python.comfyui.clone(),
        python: python.python.clone(),
        packs: Vec::new(),
        args,
    };
    let named = python.environments.iter().map(|environment| {
        let alone = std::iter::once("--disable-all-custom-nodes".to_owned()).chain(whitelist(&environment.packs));
        Environment { args: alone.chain(environment.args.iter().cloned()).collect(), ..environment.clone() }
    });
    std::iter::once(default).chain(named).collect()
}

fn whitelist(packs: &[String]) -> Vec<String> {
    if packs.is_empty() {
        return Vec::new();
    }
    std::iter::once("--whitelist-custom-nodes".to_owned()).chain(packs.iter().cloned()).collect()
}

/// The packs in these folders, by the names that ComfyUI's option has for them.
fn installed(folders: &[PathBuf]) -> Vec<String> {
    let entries = folders.iter().filter_map(|folder| folder.read_dir().ok()).flatten().flatten();
    let mut packs: Vec<String> = entries
        .filter(|entry| entry.path().is_dir() || entry.path().extension().is_some_and(|ending| ending == "py"))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.ends_with(".disabled") && name != "__pycache__")
        .collect();
    packs.sort_unstable();
    packs.dedup();
    packs
}

fn settings(config: &Config, python: &Python, environment: &Environment, place: Place, around: &Around<'_>) -> Settings {
    let mut variables = Vec::new();
    if let DeviceChoice::Cuda(number) = place.choice {
        let visible = std::env::var(VISIBLE_CARDS).ok();
        variables.push((VISIBLE_CARDS.to_owned(), card(number, visible.as_deref())));
    }
    if config.offline {
        // Of the libraries that ComfyUI and its packs load models with.
        variables.extend(["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].map(|name| (name.to_owned(), "1".to_owned())));
    }
    let active = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().find_map(std::env::var_os).filter(|folder| !folder.is_empty());
    Settings {
        name: environment.name.clone(),
        comfyui: environment.comfyui.clone(),
        python: environment.python.clone(),
        active: active.map(PathBuf::from),
        path: std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default(),
        args: [arguments(config, python, environment, place.choice, around.address), python.args.clone(), environment.args.clone()]
            .concat(),
        variables,
        data: config.roots.user.clone(),
        // Each device's process keeps what is known of it apart: classes may list the cards that they see.
        copy: (place.number > 0).then(|| (place.number + 1).to_string()),
        address: around.address.to_owned(),
        network: match python.network {
            Network::Allow => comfyd_python::Network::Allow,
            Network::Deny => comfyd_python::Network::Deny,
        },
        patience: Patience {
            start: python.start_timeout,
            raise: python.interrupt_timeout,
            kill: python.kill_timeout,
            ..Patience::default()
        },
        apart: Arc::clone(around.apart),
        max_blob: config.memory_budget_bytes.unwrap_or(Settings::default().max_blob),
        account: around.account.clone(),
    }
}

/// What a process that is to see this card alone is told, where the cards that this program sees may be some of the machine's themselves.
fn card(number: usize, visible: Option<&str>) -> String {
    let named = visible.and_then(|visible| visible.split(',').map(str::trim).nth(number)).filter(|name| !name.is_empty());
    named.map_or_else(|| number.to_string(), str::to_owned)
}

/// The program's own options as ComfyUI's: both must mean the same folders and look at the same device.
fn arguments(config: &Config, python: &Python, environment: &Environment, device: DeviceChoice, address: &str) -> Vec<String> {
    let roots = &config.roots;
    let shown = |path: &Path| path.to_string_lossy().into_owned();
    let mut args = Vec::new();
    let mut add = |name: &str, values: Vec<String>| args.extend(std::iter::once(format!("--{name}")).chain(values));
    if roots.base != environment.comfyui {
        add("base-directory", vec![shown(&roots.base)]);
    }
    for (name, path, usual) in [
        ("input", &roots.input, "input"),
        ("output", &roots.output, "output"),
        ("user", &roots.user, "user"),
        ("models", &roots.models, "models"),
    ] {
        if *path != roots.base.join(usual) {
            add(&format!("{name}-directory"), vec![shown(path)]);
        }
    }
    if let Some(parent) = roots.temp.parent().filter(|parent| *parent != roots.base) {
        // ComfyUI puts a folder `temp` into it, as this program does.
        add("temp-directory", vec![shown(parent)]);
    }
    // That of its own folder each reads by itself.
    let own = Some(implied_paths(python)).filter(|path| environment.comfyui != python.comfyui && path.is_file());
    let paths: Vec<String> = own.iter().chain(&config.extra_model_paths).map(|path| shown(path)).collect();
    if !paths.is_empty() {
        add("extra-model-paths-config", paths);
    }
    if let Some((_, port)) = address.rsplit_once(':') {
        let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
        add(&format!("listen={}", listen.join(",")), Vec::new());
        add(&format!("port={port}"), Vec::new());
    }
    let preview = match config.preview_method {
        PreviewMethod::None => "none",
        PreviewMethod::Auto => "auto",
        PreviewMethod::Latent2Rgb => "latent2rgb",
        PreviewMethod::Taesd => "taesd",
    };
    let megabytes = config.max_upload_bytes as f64 / (1024.0 * 1024.0);
    add("max-upload-size", vec![megabytes.to_string()]);
    add("preview-method", vec![preview.to_owned()]);
    add("preview-size", vec![config.preview_size.to_string()]);
    for (name, given) in
        [("cpu", device == DeviceChoice::Cpu), ("multi-user", config.multi_user), ("disable-metadata", config.disable_metadata)]
    {
        if given {
            add(name, Vec::new());
        }
    }
    for (name, value) in &config.feature_flags {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        add("feature-flag", vec![format!("{name}={value}")]);
    }
    if config.verbosity == Verbosity::Debug {
        add("verbose", vec!["DEBUG".to_owned()]);
    }
    args
}

/// The file of extra model paths that ComfyUI reads without being told to.
pub(crate) fn implied_paths(python: &Python) -> PathBuf {
    python.comfyui.join("extra_model_paths.yaml")
}

/// The front end that is installed beside a ComfyUI's Python: the folder of its pages.
pub(crate) fn front_end(worker: &Worker) -> Option<PathBuf> {
    let python = worker.python();
    let root = python.parent()?.parent()?;
    let libraries = root.join("lib").read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let python_folders = libraries.filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"python3")));
    let embedded = [root.join("Lib"), python.parent()?.join("Lib")];
    let mut folders = python_folders.chain(embedded).map(|folder| folder.join("site-packages/comfyui_frontend_package/static"));
    folders.find(|folder| folder.join("index.html").is_file())
}

/// Model folders as a manifest tells them.
fn added(manifest: &Json) -> Vec<AddedFolder> {
    let texts = |list: Option<&Json>| {
        let items = list.and_then(Json::as_array).into_iter().flatten();
        items.filter_map(Json::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let folders = manifest.get("folders").and_then(Json::as_object).into_iter().flatten();
    let folder = |(name, told): (&String, &Json)| AddedFolder {
        name: name.clone(),
        paths: texts(told.get(0)).into_iter().map(PathBuf::from).filter(|path| path.is_absolute()).collect(),
        extensions: texts(told.get(1)).into_iter().map(|ending| ending.to_lowercase()).collect(),
    };
    folders.filter(|(_, told)| told.is_array()).map(folder).collect()
}

/// One worker as the server sees it.
pub(crate) struct Served {
    pub(crate) beside: Arc<Beside>,
    pub(crate) index: usize,
}

impl Served {
    /// All of them.
    pub(crate) fn all(beside: &Arc<Beside>) -> impl Iterator<Item = Arc<dyn Installation>> {
        (0..beside.workers.len()).map(|index| Arc::new(Self { beside: Arc::clone(beside), index }) as Arc<dyn Installation>)
    }

    fn worker(&self) -> &Worker {
        &self.beside.workers[self.index]
    }
}

impl Installation for Served {
    fn stage(&self) -> Stage {
        match self.worker().state() {
            State::Cold | State::Failed(_) => Stage::Cold,
            State::Starting => Stage::Starting,
            State::Ready { .. } => Stage::Ready,
        }
    }

    fn ready(&self) -> Result<(), String> {
        self.worker().ready().map_err(|error| error.to_string())
    }

    fn known(&self) -> Result<(), String> {
        let known = self.worker().known().map_err(|error| error.to_string());
        self.beside.rebuild();
        known
    }

    /// As the catalog shows it: whoever finds one finds its classes too.
    fn manifest(&self) -> Option<Arc<Json>> {
        self.beside.made_of.lock().as_ref()?.get(self.index)?.manifest.clone()
    }

    fn refresh(&self) {
        self.worker().refresh();
        self.beside.rebuild();
    }

    fn socket(&self) -> PathBuf {
        self.worker().http()
    }

    fn on_prompt(&self, request: Json) -> Result<Json, String> {
        self.worker().on_prompt(request).map_err(|error| error.to_string())
    }

    fn stats(&self) -> Option<Json> {
        self.worker().stats()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::ffi::OsString;

    use super::*;
    use crate::config;
    use comfyd_folders::Roots;

    fn config(args: &[&str]) -> Config {
        let args = ["comfyd", "serve", "--comfyui", "/c"].iter().chain(args).map(OsString::from);
        config::parse(args, [("HOME".into(), "/home/a".into())], Path::new("/here")).unwrap()
    }

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn arguments_of(args: &[&str]) -> String {
        let config = config(args);
        let python = config.python.as_ref().unwrap();
        let environment = Environment { name: "e".into(), comfyui: "/c".into(), python: None, packs: Vec::new(), args: Vec::new() };
        let device = if args.contains(&"--cpu") { DeviceChoice::Cpu } else { DeviceChoice::Auto };
        arguments(&config, python, &environment, device, "127.0.0.1:9").join(" ")
    }

    #[test]
    fn both_mean_the_same_folders_and_devices() {
        let usual = "--listen=127.0.0.1 --port=9 --max-upload-size 100 --preview-method none --preview-size 512";
        assert_eq!(arguments_of(&[]), usual);
        assert_eq!(
            arguments_of(&["--base-directory", "/b", "--cpu", "--multi-user"]),
            format!("--base-directory /b {usual} --cpu --multi-user")
        );
        let apart = [
            "--output-directory",
            "o",
            "--temp-directory",
            "/t",
            "--user-directory",
            "/u",
            "--extra-model-paths-config",
            "a.yaml",
            "/b.yaml",
        ];
        let told = "--output-directory /here/o --user-directory /u --temp-directory /t --extra-model-paths-config /here/a.yaml /b.yaml";
        assert_eq!(arguments_of(&apart), format!("{told} {usual}"));
        let previews = ["--preview-method", "taesd", "--preview-size", "64", "--listen", "0.0.0.0,::", "--verbose", "--disable-metadata"];
        let told = "--listen=0.0.0.0,:: --port=9 --max-upload-size 100 --preview-method taesd --preview-size 64 --disable-metadata --verbose DEBUG";
        assert_eq!(arguments_of(&previews), told);
    }

    #[test]
    fn the_process_of_each_device_sees_that_device_alone() {
        let config = config(&[]);
        let python = config.python.as_ref().unwrap();
        let folders = Arc::new(Folders::new(Roots::under(tempfile::tempdir().unwrap().path())).unwrap());
        let (account, apart) = (Account::unbounded(), Arc::default());
        let around = Around { folders: &folders, account: &account, address: "127.0.0.1:9", apart: &apart };
        let environment = &environments(python, &folders)[0];
        let of = |number, choice| settings(&config, python, environment, Place { choice, number }, &around);
        let [first, second] = [of(0, DeviceChoice::Cpu), of(1, DeviceChoice::Cuda(1))];
        assert_eq!((first.args.contains(&"--cpu".to_owned()), first.copy, first.variables.len()), (true, None, 0));
        assert_eq!((second.args.contains(&"--cpu".to_owned()), second.copy.as_deref()), (false, Some("2")));
        assert_eq!(second.variables[0].0, "CUDA_VISIBLE_DEVICES");
        for (visible, name) in [(None, "1"), (Some("4, 7"), "7"), (Some("GPU-a,GPU-b"), "GPU-b"), (Some("3"), "1"), (Some(""), "1")] {
            assert_eq!(card(1, visible), name, "{visible:?}");
        }
    }

    #[test]
    fn an_environment_has_its_packs_alone_and_the_default_one_all_others() {
        let dir = tempfile::tempdir().unwrap();
        for pack in ["a", "b", "c", "gone.disabled", "__pycache__"] {
            std::fs::create_dir_all(dir.path().join("custom_nodes").join(pack)).unwrap();
        }
        for file in ["one.py", "readme.md"] {
            std::fs::write(dir.path().join("custom_nodes").join(file), "").unwrap();
        }
        let folders = Folders::new(Roots::under(dir.path())).unwrap();
        let of = |args: &[&str], named: &[&str]| {
            let mut python = config(args).python.unwrap();
            if !named.is_empty() {
                let packs = named.iter().map(|pack| (*pack).to_owned()).collect();
                python.environments =
                    vec![Environment { name: "old".into(), comfyui: "/c".into(), python: None, packs, args: words("--cpu") }];
            }
            environments(&python, &folders).into_iter().map(|environment| environment.args.join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(of(&[], &[]), [""]);
        let alone = "--disable-all-custom-nodes --whitelist-custom-nodes";
        assert_eq!(of(&[], &["b"]), [format!("{alone} a c one.py"), format!("{alone} b --cpu")]);
        let asked = ["--disable-all-custom-nodes", "--whitelist-custom-nodes", "a", "b"];
        assert_eq!(of(&asked, &[]), [format!("{alone} a b")]);
        assert_eq!(of(&asked, &["b"]), [format!("{alone} a"), format!("{alone} b --cpu")]);
        assert_eq!(of(&["--disable-all-custom-nodes"], &[]), ["--disable-all-custom-nodes"]);
    }

    #[test]
    fn folders_of_a_manifest_are_read_as_far_as_they_make_sense() {
        let told = json!({"folders": {"sams": [["/m/sams", "relative"], [".PTH"]], "any": [["/x"], []], "odd": 5}});
        let folder = |name: &str, paths: &[&str], endings: &[&str]| AddedFolder {
            name: name.into(),
            paths: paths.iter().map(PathBuf::from).collect(),
            extensions: endings.iter().map(|ending| (*ending).to_owned()).collect(),
        };
        assert_eq!(added(&told), [folder("sams", &["/m/sams"], &[".pth"]), folder("any", &["/x"], &[])]);
    }
}
