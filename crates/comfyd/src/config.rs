//! What the program is asked to do and with which settings: from the command line, else the environment, else a TOML file, else the
//! default. The result is plain data with absolute paths. Knows nothing of what the settings do.

mod args;
mod comfyui;
mod devices;
pub mod flags;
mod layers;
mod python;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{CommandFactory, Parser, ValueEnum};
use clap_complete::Shell;
use comfyd_engine::{CpuLevel, ProductPrecision};
use comfyd_folders::Roots;
use comfyd_server::keys::Scope;
use comfyd_server::{HostRule, OriginRule, Quotas};
use comfyd_store_nats::Connection;
use serde_json::{Map, Value};

use self::args::{
    Cli, CliCommand, ClusterArgs, ClusterCommand, CommonArgs, DbCommand, FrontendCommand, KeyCommand, Listen, PythonArgs, PythonCommand,
    RunnerArgs, ServerArgs,
};
pub use self::devices::{Device, Devices};
use self::layers::Section;
pub use self::python::{DEFAULT_ENVIRONMENT, DeviceMemory, Environment, Network, Placement, Python, PythonStart};

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line is wrong, or asks for help or the version: [`clap::Error::exit`] shows it.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// A variable or a key of the configuration file has a wrong value.
    #[error("{origin}: {message}")]
    Value {
        /// The variable, or the file and the key.
        origin: String,
        /// What is wrong.
        message: String,
    },
    /// The configuration file has a key that no option is called by.
    #[error("{}: there is no option `{key}`; did you mean `{nearest}`?", .path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The option with the most similar name.
        nearest: String,
    },
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration file is larger than any configuration.
    #[error("the configuration file {} is larger than {limit} bytes; is it the right file?", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most bytes.
        limit: u64,
    },
    /// The configuration file is not TOML.
    #[error("{}: {source}", .path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A key without a certificate or the other way round.
    #[error("HTTPS needs both tls-keyfile and tls-certfile; set {0} too")]
    HalfTls(&'static str),
    /// Clients' certificates without HTTPS, in which alone they are shown.
    #[error("tls-client-ca needs HTTPS: set tls-keyfile and tls-certfile too")]
    NoTls,
    /// An option or a table of the file that says nothing without a ComfyUI.
    #[error("{0} is about ComfyUI's process: set --comfyui to its folder too")]
    NoComfyUi(String),
    /// There is no NATS that could have the files.
    #[error("--files nats keeps files in the NATS of a cluster: name its servers with --cluster")]
    FilesWithoutCluster,
    /// What is known of files is one server's, and the files are not.
    #[error("--enable-assets knows the files of this server alone: leave it out where --files has servers share them")]
    AssetsOfSharedFiles,
    /// A command of a cluster that names none.
    #[error("no cluster is named: set --cluster to the address of its NATS servers, such as nats://host:4222")]
    NoCluster,
    /// There is no home folder to put the base directory into.
    #[error("neither XDG_DATA_HOME nor HOME is set; set --base-directory")]
    NoHome,
}

/// This module's result.
pub type Result<T> = std::result::Result<T, Error>;

/// What the program is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Start the server.
    Serve,
    /// Run one workflow and stop.
    Run {
        /// Workflow in API format.
        workflow: PathBuf,
        /// Inputs to replace, in order.
        set: Vec<SetInput>,
    },
    /// List the node classes, or describe one.
    Nodes {
        /// Class to describe.
        class: Option<String>,
    },
    /// Start ComfyUI's process and tell what it loads.
    CheckPython {
        /// Whether as JSON.
        json: bool,
    },
    /// Install a version of the official front end: a version, `latest`, or `None` for the one this program was tested with.
    InstallFrontEnd {
        /// The version.
        version: Option<String>,
        /// Whether the help of nodes is wanted too.
        docs: bool,
        /// Which workflow templates are wanted too.
        templates: Templates,
        /// Whether the subgraph blueprints are wanted too.
        blueprints: bool,
    },
    /// Print the feature flags that the front end knows.
    ListFeatureFlags,
    /// Print the instruction sets of the processor that models use.
    ListCpuFeatures,
    /// Run a cluster's prompts.
    Work,
    /// Tell how a cluster is.
    ClusterStatus {
        /// Whether as JSON.
        json: bool,
    },
    /// Look after the database.
    Db(DbAction),
    /// Manage the keys.
    Key(KeyAction),
    /// Print what makes a shell complete the command line.
    Completions(Shell),
    /// Write the manual's pages into a folder.
    Man(PathBuf),
}

/// What is to be done with the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyAction {
    /// Make one for a user.
    Add { user: String, scope: Scope, lasts: Option<Duration> },
    /// List all.
    List,
    /// Revoke one by its id, or all of a user.
    Revoke(String),
}

/// What is to be done with the databases. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DbAction {
    /// Check it, or a backup.
    Check(Option<PathBuf>),
    /// Write a backup; replace the file if forced.
    Backup { file: PathBuf, force: bool },
    /// Put a backup in its place; a damaged one if forced.
    Restore { file: PathBuf, force: bool },
}

/// One input of a workflow's node to replace.
#[derive(Debug, Clone, PartialEq)]
pub struct SetInput {
    /// The node's id.
    pub node: String,
    /// The input's name.
    pub input: String,
    /// Its new value.
    pub value: serde_json::Value,
}

/// All settings. Those of the server keep their defaults where no server is started.
#[derive(Debug, Clone)]
pub struct Config {
    /// What to do.
    pub action: Action,
    /// The folders, as absolute paths; none is made yet.
    pub roots: Roots,
    /// ComfyUI's extra model path files, as absolute paths.
    pub extra_model_paths: Vec<PathBuf>,
    /// Whether nothing is to be downloaded.
    pub offline: bool,
    /// Options that do nothing here, and why.
    pub unused: Vec<(&'static str, &'static str)>,
    /// Least severe messages shown.
    pub verbosity: Verbosity,
    /// What runs prompts.
    pub devices: Devices,
    /// The best instruction set that models on the processor use; the best there is without it.
    pub cpu_level: Option<CpuLevel>,
    /// What products of models round their factors to.
    pub precision: ProductPrecision,
    /// How samplers make previews.
    pub preview_method: PreviewMethod,
    /// Longer side of previews, in pixels.
    pub preview_size: u32,
    /// Which results are kept between prompts.
    pub cache: Cache,
    /// Most bytes of kept results.
    pub cache_memory_bytes: Option<u64>,
    /// Most bytes of models, results and all else that is large together.
    pub memory_budget_bytes: Option<u64>,
    /// How long a node may run.
    pub node_timeout: Option<Duration>,
    /// Whether saved files leave out the workflow.
    pub disable_metadata: bool,
    /// FFmpeg's program, if it is not looked for where the system looks for programs.
    pub ffmpeg: Option<PathBuf>,
    /// The ComfyUI whose nodes run beside the program.
    pub python: Option<Python>,
    /// Where the front end is installed.
    pub front_end_base: PathBuf,
    /// Addresses to listen on; at least one.
    pub listen: Vec<IpAddr>,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// Origins whose pages may send requests, besides the server's own.
    pub allow_origins: Vec<OriginRule>,
    /// Hosts that the server answers to besides its own.
    pub allow_hosts: Vec<HostRule>,
    /// Whether no key is asked for, wherever it listens.
    pub insecure: bool,
    /// Proxies whose word is taken for who asks.
    pub trusted_proxies: Vec<IpAddr>,
    /// Most prompts of one user that may wait and run.
    pub user_prompts: Option<usize>,
    /// What else each user may have.
    pub quotas: Quotas,
    /// Largest request body, in bytes.
    pub max_upload_bytes: usize,
    /// Most connections at once.
    pub max_connections: usize,
    /// Key and certificate for HTTPS.
    pub tls: Option<Tls>,
    /// Which page to serve.
    pub front_end: FrontEnd,
    /// Folder of the front end, which goes before the version.
    pub front_end_root: Option<PathBuf>,
    /// Version of the official front end: a version or `latest`.
    pub front_end_version: Option<String>,
    /// What `/features` says besides.
    pub feature_flags: Map<String, Value>,
    /// Whether to stop as soon as the server is ready.
    pub quick_test: bool,
    /// Whether every user has a folder and settings.
    pub multi_user: bool,
    /// Where and how it is kept what is known of files, where that is wanted.
    pub assets: Option<Assets>,
    /// Where files are, if several servers share them.
    pub files: Option<Files>,
    /// Shape of answers where the API document and the wire differ.
    pub api_shape: ApiShape,
    /// Most prompts kept in the history.
    pub history_limit: usize,
    /// Most prompts that may wait.
    pub queue_limit: usize,
    /// Most bytes that waiting prompts may have together.
    pub queue_bytes: usize,
    /// What becomes of a prompt that was running when the server stopped.
    pub on_restart: OnRestart,
    /// How often a prompt may be running when the server ends without warning; 0 is no limit.
    pub max_crashes: u32,
    /// What accepted prompts survive.
    pub durability: Durability,
    /// Hosts that models may be downloaded from.
    pub download_hosts: Vec<String>,
    /// Further names in `extra_data` whose values are secrets.
    pub secret_names: Vec<String>,
    /// The cluster that queue and history are shared in.
    pub cluster: Option<Cluster>,
}

impl Config {
    /// The same in this cluster, if there is one.
    fn of(mut self, cluster: Option<Cluster>) -> Result<Self> {
        if cluster.is_none() && self.files.as_ref().is_some_and(|files| files.place == FILES_IN_NATS) {
            return Err(Error::FilesWithoutCluster);
        }
        if cluster.is_some() && self.assets.take().is_some() {
            self.unused.push(("enable-assets", "what is known of files is in a database of one host, and several share the files"));
        }
        if self.assets.is_some() && self.files.is_some() {
            return Err(Error::AssetsOfSharedFiles);
        }
        self.cluster = cluster;
        Ok(self)
    }
}

/// A cluster, and this process's part in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// How NATS is reached; files as absolute paths.
    pub connection: Connection,
    /// Its name.
    pub name: String,
    /// That of this process, unless it is to be made up.
    pub instance: Option<String>,
    /// On how many servers everything is kept.
    pub replicas: Option<usize>,
    /// After how long a process that is not heard of has lost what it ran.
    pub lease: Duration,
    /// How often a prompt is tried.
    pub max_tries: u32,
    /// Among how many prompts a worker chooses.
    pub affinity_window: usize,
    /// Whether this process runs prompts.
    pub works: bool,
}

/// How it is kept what is known of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assets {
    /// The database, as an absolute path.
    pub database: PathBuf,
    /// Whether scans read all bytes of files.
    pub hashing: bool,
}

/// The assets' file in the user folder.
pub(crate) const ASSETS_FILE: &str = "assets.db";

/// Where files are that several servers share.
#[derive(Clone, PartialEq, Eq)]
pub struct Files {
    /// A folder, as an absolute path, an address, or [`FILES_IN_NATS`].
    pub place: String,
    /// What the environment says of keys and addresses, by the names that the store's own tools know.
    pub settings: Vec<(String, String)>,
    /// Most bytes of copies.
    pub copies_bytes: u64,
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The settings hold keys.
        f.debug_struct("Files").field("place", &self.place).field("copies_bytes", &self.copies_bytes).finish_non_exhaustive()
    }
}

/// The place of files in the cluster's NATS, where they are in a cluster if nothing is said.
pub const FILES_IN_NATS: &str = "nats";
/// The place of files in the folders, without copies.
pub const FILES_IN_FOLDERS: &str = "folders";

/// How the variables begin that say how a store of files is reached.
const FILES_SETTINGS: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];

/// Files for HTTPS, as absolute paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Private key, PEM.
    pub key: PathBuf,
    /// Certificate chain, PEM.
    pub certificates: PathBuf,
    /// Certificates of those who sign clients' certificates, PEM; `None`: clients need none.
    pub client_ca: Option<PathBuf>,
}

/// Which results are kept between prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// Those of the last prompt.
    Classic,
    /// The results used last, so many.
    Lru(usize),
    /// None.
    Off,
}

/// Which workflow templates are installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Templates {
    /// None.
    None,
    /// Without the pictures that show them.
    Workflows,
    /// All of them.
    All,
}

/// Least severe messages shown, by ComfyUI's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum Verbosity {
    /// Everything that helps to find a fault.
    Debug,
    /// What helps to understand a run.
    Detail,
    /// What the server does.
    Info,
    /// What may be wrong.
    Warning,
    /// What failed.
    Error,
    /// What ends the program.
    Critical,
}

/// Which instruction sets kernels use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuFeatures {
    /// All that the processor has.
    Auto,
    /// None that is preferred to this one.
    Most(CpuLevel),
    /// Print which there are, and stop.
    List,
}

/// How samplers make previews.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PreviewMethod {
    /// Not at all.
    None,
    /// The best that is there.
    Auto,
    /// By a linear map from latent channels to colours.
    #[value(name = "latent2rgb")]
    Latent2Rgb,
    /// By a small decoder.
    Taesd,
}

/// Which page to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FrontEnd {
    /// The official front end, installed if need be; the built-in page if that fails.
    Auto,
    /// The built-in page.
    Builtin,
    /// None: the API alone.
    None,
}

/// Shape of answers where the API document and ComfyUI's wire differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ApiShape {
    /// What ComfyUI's clients parse.
    Wire,
    /// The document's literal shape.
    Documented,
}

/// What becomes of a prompt that was running when the server stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnRestart {
    /// It runs again.
    Rerun,
    /// It failed.
    Fail,
}

/// What accepted prompts survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// A crash of the program.
    Normal,
    /// A crash of the machine, too.
    Full,
}

/// The command line's description.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Reads the settings. `args` begins with the program's name; relative paths of the command line and the environment start at
/// `current_dir`, those of the configuration file at its folder.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    current_dir: &Path,
) -> Result<Config> {
    let env: HashMap<OsString, OsString> = env.into_iter().collect();
    let (args, section) = layers::complete(&mut Cli::command(), "serve", args.into_iter().collect(), &env, current_dir)?;
    let places = Places { env: &env, current_dir, section };
    match Cli::try_parse_from(args)?.command {
        CliCommand::Serve { common, runner, python, mut server, cluster, no_workers } => {
            let action = match runner.cpu_features {
                CpuFeatures::List => Action::ListCpuFeatures,
                _ if server.list_feature_flags => Action::ListFeatureFlags,
                CpuFeatures::Auto | CpuFeatures::Most(_) => Action::Serve,
            };
            let cluster = places.cluster(*cluster, !no_workers);
            if cluster.is_some() {
                server.files.share();
            }
            places.config(action, common, runner, Some(*python), *server)?.of(cluster)
        }
        CliCommand::Worker { common, runner, python, cluster, mut files, node_timeout } => {
            let cluster = Some(places.cluster(*cluster, true).ok_or(Error::NoCluster)?);
            files.share();
            let server = ServerArgs { node_timeout, files, ..defaults::<ServerArgs>()? };
            Ok(Config { cluster, ..places.config(Action::Work, common, runner, Some(*python), server)? })
        }
        CliCommand::Cluster(ClusterCommand::Status { json, common, cluster }) => {
            let cluster = Some(places.cluster(*cluster, false).ok_or(Error::NoCluster)?);
            let action = Action::ClusterStatus { json };
            Ok(Config { cluster, ..places.config(action, common, defaults::<RunnerArgs>()?, None, defaults::<ServerArgs>()?)? })
        }
        CliCommand::Run { workflow, set, output, mut common, runner, python } => {
            common.output_directory = output.or(common.output_directory);
            let action = match runner.cpu_features {
                CpuFeatures::List => Action::ListCpuFeatures,
                CpuFeatures::Auto | CpuFeatures::Most(_) => Action::Run { workflow: current_dir.join(workflow), set },
            };
            places.config(action, common, runner, Some(*python), defaults::<ServerArgs>()?)
        }
        CliCommand::Python(PythonCommand::Check { json, common, runner, python }) => {
            places.config(Action::CheckPython { json }, common, runner, Some(*python), defaults::<ServerArgs>()?)
        }
        CliCommand::Nodes { class, common, runner, python } => {
            places.config(Action::Nodes { class }, common, runner, Some(*python), defaults::<ServerArgs>()?)
        }
        CliCommand::Frontend(FrontendCommand::Install { version, with_docs, with_templates, with_blueprints, common }) => {
            let action = Action::InstallFrontEnd { version, docs: with_docs, templates: with_templates, blueprints: with_blueprints };
            places.config(action, common, defaults::<RunnerArgs>()?, None, defaults::<ServerArgs>()?)
        }
        CliCommand::Completions { shell, common } => {
            places.config(Action::Completions(shell), common, defaults::<RunnerArgs>()?, None, defaults::<ServerArgs>()?)
        }
        CliCommand::Man { folder, common } => {
            let action = Action::Man(current_dir.join(folder));
            places.config(action, common, defaults::<RunnerArgs>()?, None, defaults::<ServerArgs>()?)
        }
        CliCommand::Key(command) => {
            let (action, common) = match command {
                KeyCommand::Add { name, scope, expires, common } => (KeyAction::Add { user: name, scope, lasts: expires }, common),
                KeyCommand::List { common } => (KeyAction::List, common),
                KeyCommand::Revoke { name, common } => (KeyAction::Revoke(name), common),
            };
            places.config(Action::Key(action), common, defaults::<RunnerArgs>()?, None, defaults::<ServerArgs>()?)
        }
        CliCommand::Db(command) => {
            let absolute = |file: PathBuf| current_dir.join(file);
            let (action, place) = match command {
                DbCommand::Check { file, place } => (DbAction::Check(file.map(absolute)), place),
                DbCommand::Backup { file, force, place } => (DbAction::Backup { file: absolute(file), force }, place),
                DbCommand::Restore { file, force, place } => (DbAction::Restore { file: absolute(file), force }, place),
            };
            let server = ServerArgs { enable_assets: true, database_url: place.database_url, ..defaults::<ServerArgs>()? };
            places.config(Action::Db(action), place.common, defaults::<RunnerArgs>()?, None, server)
        }
    }
}

/// Options that a subcommand does not have, at their defaults.
fn defaults<A: clap::Args>() -> Result<A> {
    let command = A::augment_args(clap::Command::new("comfyd"));
    Ok(A::from_arg_matches(&command.try_get_matches_from(["comfyd"])?)?)
}

struct Places<'a> {
    env: &'a HashMap<OsString, OsString>,
    current_dir: &'a Path,
    section: Option<Section>,
}

impl Places<'_> {
    fn config(
        &self,
        action: Action,
        common: CommonArgs,
        runner: RunnerArgs,
        python: Option<PythonArgs>,
        server: ServerArgs,
    ) -> Result<Config> {
        let handed = python.as_ref().filter(|args| args.comfyui.is_none()).map(|args| args.handed.alone());
        let python = python.map(|args| self.python(args)).transpose()?.flatten();
        let client_ca = server.tls_client_ca.map(|path| self.absolute(path));
        let tls = match (server.tls_keyfile, server.tls_certfile) {
            (Some(key), Some(certificates)) => Some(Tls { key: self.absolute(key), certificates: self.absolute(certificates), client_ca }),
            (None, None) if client_ca.is_some() => return Err(Error::NoTls),
            (None, None) => None,
            (Some(_), None) => return Err(Error::HalfTls("tls-certfile")),
            (None, Some(_)) => return Err(Error::HalfTls("tls-keyfile")),
        };
        let cache = match (runner.cache_none, runner.cache_lru) {
            (true, _) => Cache::Off,
            (false, Some(count)) if count > 0 => Cache::Lru(count),
            (false, Some(_) | None) => Cache::Classic,
        };
        // At most one of these is given.
        let devices = match (runner.device, runner.cpu, runner.cuda_device) {
            (Some(devices), _, _) => devices,
            (None, true, _) => Devices::These(vec![Device::Cpu]),
            (None, false, Some(number)) => Devices::These(vec![Device::Cuda(number)]),
            (None, false, None) => Devices::Auto,
        };
        let Listen(listen) = server.listen;
        let front_end_base = self.front_end_base(&common, python.as_ref())?;
        let (extra_model_paths, verbosity, offline) = (&common.extra_model_paths_config, common.verbose, common.offline);
        let extra_model_paths = extra_model_paths.iter().map(|path| self.absolute(path)).collect();
        let roots = self.roots(common, python.as_ref())?;
        // ComfyUI's database is of use for nothing else here.
        let assets = match &server.database_url {
            _ if !server.enable_assets => None,
            Some(url) => Some(self.absolute(args::database_url(url)?)),
            None => Some(roots.user.join(ASSETS_FILE)),
        };
        let assets = assets.map(|database| Assets { database, hashing: server.enable_asset_hashing });
        let files = server.files.files.filter(|place| place != FILES_IN_FOLDERS).map(|place| Files {
            place: if place.contains("://") || place == FILES_IN_NATS {
                place
            } else {
                self.absolute(place).to_string_lossy().into_owned()
            },
            settings: self
                .env
                .iter()
                .filter_map(|(name, value)| Some((name.to_str()?.to_owned(), value.to_str()?.to_owned())))
                .filter(|(name, _)| FILES_SETTINGS.iter().any(|start| name.starts_with(start)))
                .collect(),
            copies_bytes: server.files.files_cache,
        });
        Ok(Config {
            action,
            extra_model_paths,
            verbosity,
            offline,
            unused: handed.unwrap_or_default(),
            front_end_base,
            roots,
            python,
            devices,
            cpu_level: match runner.cpu_features {
                CpuFeatures::Most(level) => Some(level),
                CpuFeatures::Auto | CpuFeatures::List => None,
            },
            precision: runner.precision,
            preview_method: runner.preview_method,
            preview_size: runner.preview_size,
            cache,
            cache_memory_bytes: runner.cache_memory,
            memory_budget_bytes: runner.memory_budget,
            node_timeout: (server.node_timeout > 0).then(|| Duration::from_secs(server.node_timeout.into())),
            disable_metadata: runner.disable_metadata,
            ffmpeg: runner.ffmpeg.map(|path| self.absolute(path)),
            listen,
            port: server.port,
            allow_origins: server.allow_origin.into_iter().chain(server.enable_cors_header).collect(),
            allow_hosts: server.allow_host,
            insecure: server.insecure,
            trusted_proxies: server.trusted_proxy,
            user_prompts: server.user_prompts.map(|most| most as usize),
            quotas: Quotas {
                prompts_per_minute: server.user_prompts_per_minute,
                disk_bytes: server.user_disk,
                prompt_pixels: server.user_pixels,
            },
            max_upload_bytes: (server.max_upload_size * 1024.0 * 1024.0) as usize,
            max_connections: server.max_connections as usize,
            tls,
            front_end: server.front_end,
            front_end_root: server.front_end_root.map(|path| self.absolute(path)),
            front_end_version: server.front_end_version,
            feature_flags: flags::read(&server.feature_flag)?,
            quick_test: server.quick_test_for_ci,
            multi_user: server.multi_user,
            assets,
            files,
            api_shape: server.api_shape,
            history_limit: server.history_limit as usize,
            queue_limit: server.queue_limit as usize,
            queue_bytes: (server.queue_size * 1024.0 * 1024.0) as usize,
            on_restart: server.on_restart,
            max_crashes: server.max_crashes,
            durability: server.durability,
            download_hosts: server.download_host,
            secret_names: server.secret_name,
            cluster: None,
        })
    }

    fn cluster(&self, args: ClusterArgs, works: bool) -> Option<Cluster> {
        if args.cluster.is_empty() {
            return None;
        }
        let absolute = |file: Option<PathBuf>| file.map(|file| self.absolute(file));
        Some(Cluster {
            connection: Connection {
                servers: args.cluster,
                credentials: absolute(args.cluster_credentials),
                token: args.cluster_token,
                ca: absolute(args.cluster_ca),
                certificate: absolute(args.cluster_certificate).zip(absolute(args.cluster_key)),
            },
            name: args.cluster_name,
            instance: args.instance,
            replicas: args.cluster_replicas.map(|replicas| replicas as usize),
            lease: Duration::from_secs(args.lease.into()),
            max_tries: args.max_tries,
            affinity_window: args.affinity_window as usize,
            works,
        })
    }

    /// ComfyUI puts a folder `temp` into the temp directory that is asked for, since it empties that folder.
    fn roots(&self, common: CommonArgs, python: Option<&Python>) -> Result<Roots> {
        let base = match (common.base_directory, python) {
            (Some(path), _) => self.absolute(path),
            (None, Some(python)) => python.comfyui.clone(),
            (None, None) => self.default_base()?,
        };
        let mut roots = Roots::under(base);
        for (place, asked) in [
            (&mut roots.input, common.input_directory),
            (&mut roots.output, common.output_directory),
            (&mut roots.temp, common.temp_directory.map(|path| path.join("temp"))),
            (&mut roots.user, common.user_directory),
            (&mut roots.models, common.models_directory),
        ] {
            if let Some(path) = asked {
                *place = self.absolute(path);
            }
        }
        Ok(roots)
    }

    /// A ComfyUI's folder stays as it is: what is downloaded goes to where it goes without one.
    fn front_end_base(&self, common: &CommonArgs, python: Option<&Python>) -> Result<PathBuf> {
        match (&common.base_directory, python) {
            (Some(path), _) => Ok(self.absolute(path)),
            (None, Some(python)) => Ok(self.default_base().unwrap_or_else(|_| python.comfyui.clone())),
            (None, None) => self.default_base(),
        }
    }

    /// The XDG rules ask for absolute paths and for others to be ignored.
    fn default_base(&self) -> Result<PathBuf> {
        let folder = |name: &str| self.env.get(OsStr::new(name)).map(PathBuf::from).filter(|path| path.is_absolute());
        let data = folder("XDG_DATA_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/share")));
        Ok(data.ok_or(Error::NoHome)?.join("comfyd"))
    }

    fn absolute(&self, path: impl AsRef<Path>) -> PathBuf {
        self.current_dir.join(path)
    }
}
