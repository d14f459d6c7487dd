//! The command line as clap sees it: ComfyUI's flag names where it has them, and how each value is read. Knows neither the environment
//! nor the configuration file.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};
use clap_complete::Shell;
use comfyd_engine::{CpuLevel, ProductPrecision};
use comfyd_server::keys::Scope;
use comfyd_server::{HostRule, OriginRule};

use super::comfyui::Handed;
use super::devices::{Devices, devices};
use super::{
    ApiShape, CpuFeatures, DeviceMemory, Durability, Error, FILES_IN_NATS, FrontEnd, Network, OnRestart, Placement, PreviewMethod,
    PythonStart, SetInput, Templates, Verbosity,
};

const AFTER_HELP: &str = "Every option can also be set by a variable (--base-directory: COMFYD_BASE_DIRECTORY) and in the TOML file that \
--config or COMFYD_CONFIG names (base-directory = \"...\"). The command line goes before the environment, and that before the file.";

/// A prompt server that speaks ComfyUI's HTTP and WebSocket API.
#[derive(Debug, Parser)]
#[command(name = "comfyd", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: CliCommand,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum CliCommand {
    /// Start the server.
    #[command(after_help = AFTER_HELP)]
    Serve {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        runner: RunnerArgs,
        #[command(flatten)]
        python: Box<PythonArgs>,
        #[command(flatten)]
        server: Box<ServerArgs>,
        #[command(flatten)]
        cluster: Box<ClusterArgs>,
        /// Only answer clients, and leave running prompts to the cluster's workers.
        #[arg(long, requires = "cluster")]
        no_workers: bool,
    },
    /// Run prompts of a cluster on this host's devices, without an API.
    #[command(after_help = AFTER_HELP)]
    Worker {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        runner: RunnerArgs,
        #[command(flatten)]
        python: Box<PythonArgs>,
        #[command(flatten)]
        cluster: Box<ClusterArgs>,
        #[command(flatten)]
        files: FilesArgs,
        /// Seconds that a node may run before it is interrupted and its prompt fails; 0: as long as it takes.
        #[arg(long, value_name = "SECONDS", default_value = "0")]
        node_timeout: u32,
    },
    /// Look at a cluster.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Run one workflow without a server.
    #[command(after_help = AFTER_HELP)]
    Run {
        /// Workflow in API format.
        workflow: PathBuf,
        /// Replaces an input of a node: NODE.INPUT=VALUE, the value as JSON or as plain text. Repeatable.
        #[arg(long, value_name = "NODE.INPUT=VALUE", value_parser = set_input)]
        set: Vec<SetInput>,
        /// Folder that results are written into; same as --output-directory, and goes before it.
        #[arg(long, value_name = "DIR")]
        output: Option<PathBuf>,
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        runner: RunnerArgs,
        #[command(flatten)]
        python: Box<PythonArgs>,
    },
    /// List the node classes, or describe one.
    #[command(after_help = AFTER_HELP)]
    Nodes {
        /// Class to describe.
        class: Option<String>,
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        runner: RunnerArgs,
        #[command(flatten)]
        python: Box<PythonArgs>,
    },
    /// Manage the official web front end.
    #[command(subcommand)]
    Frontend(FrontendCommand),
    /// Look into the ComfyUI whose nodes run beside this program.
    #[command(subcommand)]
    Python(PythonCommand),
    /// Look after the database of the queue and the history.
    #[command(subcommand)]
    Db(DbCommand),
    /// Manage the keys that the server asks for where it is reached from other machines, and from when there is one.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Print what makes a shell complete the command line.
    #[command(after_help = AFTER_HELP)]
    Completions {
        /// The shell.
        shell: Shell,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Write the manual's pages, one of each command.
    #[command(after_help = AFTER_HELP)]
    Man {
        /// Folder to write them into, such as /usr/local/share/man/man1.
        folder: PathBuf,
        #[command(flatten)]
        common: CommonArgs,
    },
}

/// The subcommands of `cluster`.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Tell which hosts and devices there are, what they hold and run, what waits, and how NATS keeps it.
    #[command(after_help = AFTER_HELP)]
    Status {
        /// Tell it as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        cluster: Box<ClusterArgs>,
    },
}

/// The subcommands of `key`. A running server heeds them at once.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key for a user and print it, once: only its hash is kept. A user may have several.
    #[command(after_help = AFTER_HELP)]
    Add {
        /// The user: a-z, 0-9, - and _. Queue, history and files are each user's own.
        name: String,
        /// What it allows. read: looking; run: prompts and files; admin: everything, and everybody's.
        #[arg(long, value_name = "SCOPE", default_value = "run", value_parser = scope)]
        scope: Scope,
        /// When it ends: 30d, 12h, 45m or 90s from now [default: never].
        #[arg(long, value_name = "TIME", value_parser = lasts)]
        expires: Option<Duration>,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// List the keys.
    #[command(after_help = AFTER_HELP)]
    List {
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Revoke a key by its id, or all of a user. What is connected with it is disconnected.
    #[command(after_help = AFTER_HELP)]
    Revoke {
        /// The user, or the key's id.
        name: String,
        #[command(flatten)]
        common: CommonArgs,
    },
}

/// The subcommands of `db`.
#[derive(Debug, Subcommand)]
pub enum DbCommand {
    /// Check the databases of the queue and of assets, or a backup: their structure and everything in them. Also while the server runs.
    #[command(after_help = AFTER_HELP)]
    Check {
        /// Backup to check [default: the databases].
        file: Option<PathBuf>,
        #[command(flatten)]
        place: DbArgs,
    },
    /// Write the database of the queue, as it stands now, into a file, and that of assets, where there is one, into FILE.assets. Also while the
    /// server runs.
    #[command(after_help = AFTER_HELP)]
    Backup {
        /// File to write.
        file: PathBuf,
        /// Replace the files if they are there.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        place: DbArgs,
    },
    /// Put a backup, and the FILE.assets beside it, in the place of the databases, which are kept beside. Only while no server runs.
    #[command(after_help = AFTER_HELP)]
    Restore {
        /// Backup to restore, of the queue or of assets alone.
        file: PathBuf,
        /// Restore it although some prompts or assets in it are damaged.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        place: DbArgs,
    },
}

/// Where the databases are.
#[derive(Debug, Args)]
pub struct DbArgs {
    /// The database of assets, as sqlite:///PATH [default: assets.db in the user folder].
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    #[command(flatten)]
    pub common: CommonArgs,
}

/// The subcommands of `python`.
#[derive(Debug, Subcommand)]
pub enum PythonCommand {
    /// Start ComfyUI's process, and tell which custom node packs it loads, how long each takes, what fails and why, and which classes run
    /// natively.
    #[command(after_help = AFTER_HELP)]
    Check {
        /// Tell it as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        runner: RunnerArgs,
        #[command(flatten)]
        python: Box<PythonArgs>,
    },
}

/// The subcommands of `frontend`.
#[derive(Debug, Subcommand)]
pub enum FrontendCommand {
    /// Download a version of the official web front end and unpack it under the base directory.
    #[command(after_help = AFTER_HELP)]
    Install {
        /// Version: 1.58.1, latest, or Comfy-Org/ComfyUI_frontend@VERSION. Without it, the version this program was tested with.
        #[arg(value_parser = front_end_version)]
        version: Option<String>,
        /// Download the help of nodes too (24 MB).
        #[arg(long)]
        with_docs: bool,
        /// Download the workflow templates too: all, with their pictures (530 MB), or workflows, without them (4 MB).
        #[arg(long, value_name = "WHAT", num_args = 0..=1, default_value = "none", default_missing_value = "all")]
        with_templates: Templates,
        /// Download the subgraph blueprints too (600 kB).
        #[arg(long)]
        with_blueprints: bool,
        #[command(flatten)]
        common: CommonArgs,
    },
}

/// Options of every subcommand.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// TOML file with any of these options.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder that holds models, input, output, temp and user [default: that of --comfyui, or else $XDG_DATA_HOME/comfyd or
    /// ~/.local/share/comfyd].
    #[arg(long, value_name = "DIR")]
    pub base_directory: Option<PathBuf>,
    /// Folder of uploads and other inputs [default: input in the base directory].
    #[arg(long, value_name = "DIR")]
    pub input_directory: Option<PathBuf>,
    /// Folder of results [default: output in the base directory].
    #[arg(long, value_name = "DIR")]
    pub output_directory: Option<PathBuf>,
    /// Folder that gets a folder `temp` for previews and other short-lived files [default: the base directory].
    #[arg(long, value_name = "DIR")]
    pub temp_directory: Option<PathBuf>,
    /// Folder of settings, workflows and the job store [default: user in the base directory].
    #[arg(long, value_name = "DIR")]
    pub user_directory: Option<PathBuf>,
    /// Folder of models [default: models in the base directory].
    #[arg(long, value_name = "DIR")]
    pub models_directory: Option<PathBuf>,
    /// Download nothing: neither a front end nor models, nor what ComfyUI's libraries look for on the Hugging Face Hub.
    #[arg(long)]
    pub offline: bool,
    /// ComfyUI's extra_model_paths.yaml; several files and repeatable.
    #[arg(long, value_name = "PATH", num_args = 1.., action = ArgAction::Append)]
    pub extra_model_paths_config: Vec<PathBuf>,
    /// Least severe messages shown: DEBUG, DETAIL, INFO, WARNING, ERROR or CRITICAL.
    #[arg(long, value_name = "LEVEL", num_args = 0..=1, default_value = "INFO", default_missing_value = "DEBUG", ignore_case = true)]
    pub verbose: Verbosity,
}

/// Options of what runs prompts.
#[derive(Debug, Args)]
pub struct RunnerArgs {
    /// What runs prompts: cpu, cuda:N, auto (the first graphics card, where the program was built with CUDA and there is one, else the
    /// processor), all (every card), or several, such as cuda:0,cuda:1. Each runs one prompt at a time, beside the others; `run` takes the
    /// first [default: auto].
    #[arg(long, value_name = "DEVICES", group = "runs_on", value_parser = devices)]
    pub device: Option<Devices>,
    /// The same as --device cpu.
    #[arg(long, group = "runs_on")]
    pub cpu: bool,
    /// The same as --device cuda:N.
    #[arg(long, value_name = "N", group = "runs_on")]
    pub cuda_device: Option<usize>,
    /// The best instruction set that models on the processor use: auto, or one of those that are printed without a value.
    #[arg(long, value_name = "SET", num_args = 0..=1, default_value = "auto", default_missing_value = "list", value_parser = cpu_features)]
    pub cpu_features: CpuFeatures,
    /// What models round the factors of their products to: f32 (nothing), bf16 (sixteen bits, faster on cards and on processors with
    /// amx, avx512-fp16 or avx512-bf16) or auto (f32 on the processor, on cards what the weights are held in).
    #[arg(long, value_name = "PRECISION", default_value = "auto", value_parser = precision)]
    pub precision: ProductPrecision,
    /// How samplers make previews.
    #[arg(long, value_name = "METHOD", default_value = "none")]
    pub preview_method: PreviewMethod,
    /// Longer side of previews, in pixels.
    #[arg(long, value_name = "PIXELS", default_value = "512", value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub preview_size: u32,
    /// Keep the results of the last prompt (the default).
    #[arg(long, group = "cache")]
    pub cache_classic: bool,
    /// Keep the N results used last; 0 is the same as --cache-classic.
    #[arg(long, value_name = "N", group = "cache")]
    pub cache_lru: Option<usize>,
    /// Keep no results between prompts.
    #[arg(long, group = "cache")]
    pub cache_none: bool,
    /// Most memory for kept results, in bytes or with K, M, G or T [default: no bound of its own].
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub cache_memory: Option<u64>,
    /// Most memory for models, results, what nodes compute with and what clients send, in bytes or with K, M, G or T [default: four fifths of
    /// what the machine and the limits of the process give].
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub memory_budget: Option<u64>,
    /// Do not write the workflow into saved files.
    #[arg(long)]
    pub disable_metadata: bool,
    /// FFmpeg's program, for files of sound and video; ffprobe lies beside it [default: those that PATH leads to].
    #[arg(long, value_name = "FILE")]
    pub ffmpeg: Option<PathBuf>,
}

/// Options of the ComfyUI beside the program.
#[derive(Debug, Args)]
pub struct PythonArgs {
    /// Folder of a ComfyUI (the one that holds main.py) whose nodes, those of its custom node packs included, run in a Python process beside
    /// this program. It stays as it is.
    #[arg(long, value_name = "DIR")]
    pub comfyui: Option<PathBuf>,
    /// Python that ComfyUI runs with [default: that of venv, .venv or python_embeded in or beside its folder, or else of the active
    /// environment].
    #[arg(long, value_name = "FILE")]
    pub python: Option<PathBuf>,
    /// Further argument for ComfyUI's process; repeatable: --python-arg=--fast --python-arg=fp16_accumulation.
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true, action = ArgAction::Append)]
    pub python_arg: Vec<String>,
    /// When ComfyUI's process starts: eager, with the program; lazy, with the first prompt or page that needs it.
    #[arg(long, value_name = "WHEN", default_value = "eager")]
    pub python_start: PythonStart,
    /// Where a class runs that both have. auto: natively where no object would have to cross between the two; python: always in Python;
    /// native: as auto, and clients are told of the native class.
    #[arg(long, value_name = "WHERE", default_value = "auto")]
    pub placement: Placement,
    /// Whether ComfyUI's process reaches the network. deny: it gets no network interfaces, and does not start where that cannot be had.
    #[arg(long, value_name = "WHETHER", default_value = "allow")]
    pub python_network: Network,
    /// Whether one side unloads its models before the other uses the same card (exclusive), or both go by the memory that is free (share)
    /// [default: exclusive on a card that both use].
    #[arg(long, value_name = "HOW")]
    pub python_memory: Option<DeviceMemory>,
    /// Seconds until ComfyUI's process must be ready.
    #[arg(long, value_name = "SECONDS", default_value = "180", value_parser = clap::value_parser!(u32).range(1..))]
    pub python_start_timeout: u32,
    /// Seconds from an interruption until an exception is thrown into a Python node that does not notice it.
    #[arg(long, value_name = "SECONDS", default_value = "10")]
    pub python_interrupt_timeout: u32,
    /// Seconds from an interruption until the process of such a node is ended and started anew.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = clap::value_parser!(u32).range(1..))]
    pub python_kill_timeout: u32,
    #[command(flatten)]
    pub handed: Handed,
}

/// Options of the server.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Addresses to listen on, separated by commas; without a value: all.
    #[arg(long, value_name = "IP,IP", num_args = 0..=1, default_value = "127.0.0.1", default_missing_value = "0.0.0.0,::")]
    #[arg(value_parser = listen)]
    pub listen: Listen,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value = "8188")]
    pub port: u16,
    /// Allow requests from pages of this origin, as --allow-origin does; without a value: of every origin.
    #[arg(long, value_name = "ORIGIN", num_args = 0..=1, default_missing_value = "*")]
    pub enable_cors_header: Option<OriginRule>,
    /// Origin whose pages may send requests: http://localhost:5173, file://, null, or * for all; several and repeatable.
    #[arg(long, value_name = "ORIGIN", num_args = 1.., action = ArgAction::Append, value_delimiter = ',')]
    pub allow_origin: Vec<OriginRule>,
    /// Host that the server answers to besides localhost and its addresses, such as a proxy's name: a name, *.name, or * for all; several
    /// and repeatable.
    #[arg(long, value_name = "HOST", num_args = 1.., action = ArgAction::Append, value_delimiter = ',')]
    pub allow_host: Vec<HostRule>,
    /// Ask for no key although other machines reach the server: everybody who does has everything.
    #[arg(long)]
    pub insecure: bool,
    /// Address of a proxy whose X-Forwarded-For and X-Forwarded-Proto are believed; repeatable. Keys are asked for then, as beyond loopback.
    #[arg(long, value_name = "IP", action = ArgAction::Append, value_delimiter = ',')]
    pub trusted_proxy: Vec<IpAddr>,
    /// Most prompts of one user that may wait and run [default: no bound of its own].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub user_prompts: Option<u32>,
    /// Most prompts that one user may send in a minute [default: no bound].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub user_prompts_per_minute: Option<u32>,
    /// Most disk space for the files of one user with a key, in bytes or with K, M, G or T [default: no bound].
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub user_disk: Option<u64>,
    /// Most pixels that the empty pictures and latents of one prompt of a user may have, as far as its graph says so in plain numbers
    /// [default: no bound].
    #[arg(long, value_name = "N")]
    pub user_pixels: Option<u64>,
    /// Largest request body, in megabytes.
    #[arg(long, value_name = "MB", default_value = "100", value_parser = megabytes)]
    pub max_upload_size: f64,
    /// Most connections at once, as far as the limit on open files allows; three quarters of them may be websockets.
    #[arg(long, value_name = "N", default_value = "4096", value_parser = clap::value_parser!(u32).range(8..))]
    pub max_connections: u32,
    /// Private key (PEM) for HTTPS; goes with --tls-certfile.
    #[arg(long, value_name = "FILE")]
    pub tls_keyfile: Option<PathBuf>,
    /// Certificate chain (PEM) for HTTPS; goes with --tls-keyfile.
    #[arg(long, value_name = "FILE")]
    pub tls_certfile: Option<PathBuf>,
    /// Certificates (PEM) of those who sign clients' certificates: only who shows one that they signed is let in, and asked for a key then.
    /// The file may hold their revocation lists too.
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Which page to serve: the official front end, installed if need be, or else the built-in page; the built-in page; or none.
    #[arg(long, value_name = "PAGE", default_value = "auto")]
    pub front_end: FrontEnd,
    /// Folder of a front end, the one that holds index.html; goes before --front-end-version.
    #[arg(long, value_name = "DIR")]
    pub front_end_root: Option<PathBuf>,
    /// Version of the official front end: 1.58.1, latest, or Comfy-Org/ComfyUI_frontend@VERSION.
    #[arg(long, value_name = "VERSION", value_parser = front_end_version)]
    pub front_end_version: Option<String>,
    /// What /features tells the front end besides: KEY=VALUE, or KEY for true; repeatable. --list-feature-flags tells which it knows.
    #[arg(long, value_name = "KEY[=VALUE]", action = ArgAction::Append)]
    pub feature_flag: Vec<String>,
    /// Print the feature flags that the front end knows, as JSON, and stop.
    #[arg(long)]
    pub list_feature_flags: bool,
    /// Stop as soon as the server is ready.
    #[arg(long)]
    pub quick_test_for_ci: bool,
    /// Keep a folder and settings for each user.
    #[arg(long)]
    pub multi_user: bool,
    /// Keep what is known of files: hashes, tags, metadata (/api/assets, /api/tags). The folders are scanned in the background.
    #[arg(long)]
    pub enable_assets: bool,
    /// Read all bytes of files in these scans, for their hashes; uploads and results have theirs anyway.
    #[arg(long)]
    pub enable_asset_hashing: bool,
    /// Where that is kept, as sqlite:///PATH: a file of its own [default: assets.db in the user folder].
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    #[command(flatten)]
    pub files: FilesArgs,
    /// Shape of answers where the API document and ComfyUI's wire differ.
    #[arg(long, value_name = "SHAPE", default_value = "wire")]
    pub api_shape: ApiShape,
    /// Most prompts kept in the history.
    #[arg(long, value_name = "N", default_value = "10000", value_parser = clap::value_parser!(u32).range(1..))]
    pub history_limit: u32,
    /// Most prompts that may wait.
    #[arg(long, value_name = "N", default_value = "10000", value_parser = clap::value_parser!(u32).range(1..))]
    pub queue_limit: u32,
    /// Most megabytes that waiting prompts may have together.
    #[arg(long, value_name = "MB", default_value = "512", value_parser = megabytes)]
    pub queue_size: f64,
    /// What becomes of a prompt that was running when the server stopped.
    #[arg(long, value_name = "WHAT", default_value = "rerun")]
    pub on_restart: OnRestart,
    /// How often a prompt may be running when the server ends without warning before it counts as failed and is not run again; 0: always
    /// run it again.
    #[arg(long, value_name = "N", default_value = "2")]
    pub max_crashes: u32,
    /// Seconds that a node may run before it is interrupted and its prompt fails; 0: as long as it takes.
    #[arg(long, value_name = "SECONDS", default_value = "0")]
    pub node_timeout: u32,
    /// What accepted prompts survive: normal, a crash of the program; full, a crash of the machine too.
    #[arg(long, value_name = "LEVEL", default_value = "normal")]
    pub durability: Durability,
    /// Host that models may be downloaded from; repeatable.
    #[arg(long, value_name = "HOST", value_delimiter = ',', default_values = ["huggingface.co", "civitai.com"])]
    pub download_host: Vec<String>,
    /// Further name in a prompt's extra_data whose value is a secret, kept in memory only; repeatable.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub secret_name: Vec<String>,
}

/// Options of where files are.
#[derive(Debug, Args)]
pub struct FilesArgs {
    /// Where files are that several servers share: nats for the NATS of --cluster, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX,
    /// or a folder that all mount. The input, output and temp folder, and those of users, hold copies then. Keys and addresses come from the
    /// environment, by the names that the store's own tools know: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL. Or folders: these have the files, which
    /// in a cluster all hosts mount [default: nats with --cluster, else folders].
    #[arg(long, value_name = "PLACE")]
    pub files: Option<String>,
    /// Most bytes of copies, in bytes or with K, M, G or T; those used last stay.
    #[arg(long, value_name = "BYTES", value_parser = bytes, default_value = "20G")]
    pub files_cache: u64,
}

impl FilesArgs {
    /// Where nothing is said, the cluster has them.
    pub fn share(&mut self) {
        self.files.get_or_insert_with(|| FILES_IN_NATS.to_owned());
    }
}

/// Options of a cluster.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    /// Share queue and history with other hosts through these NATS servers with JetStream: nats://host:4222, or tls://host:4222, several
    /// with commas between them.
    #[arg(long, value_name = "URL,URL", value_delimiter = ',', action = ArgAction::Append)]
    pub cluster: Vec<String>,
    /// Which cluster, where several are on the same NATS.
    #[arg(long, value_name = "NAME", default_value = "comfyd")]
    pub cluster_name: String,
    /// File with the user's JWT and seed that the NATS servers ask for (nsc makes it).
    #[arg(long, value_name = "FILE")]
    pub cluster_credentials: Option<PathBuf>,
    /// Token that the NATS servers ask for.
    #[arg(long, value_name = "TOKEN")]
    pub cluster_token: Option<String>,
    /// Certificates (PEM) to trust besides the system's, of NATS servers that use TLS.
    #[arg(long, value_name = "FILE")]
    pub cluster_ca: Option<PathBuf>,
    /// Certificate (PEM) that the NATS servers ask for; goes with --cluster-key.
    #[arg(long, value_name = "FILE", requires = "cluster_key")]
    pub cluster_certificate: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long, value_name = "FILE", requires = "cluster_certificate")]
    pub cluster_key: Option<PathBuf>,
    /// Name of this process in the cluster, which no other has at the time: whoever starts with it takes over what was left running under
    /// it [default: the host's name and a number by chance].
    #[arg(long, value_name = "NAME")]
    pub instance: Option<String>,
    /// On how many NATS servers everything is kept; counts when the cluster is made [default: 3 where NATS is a cluster, else 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=5))]
    pub cluster_replicas: Option<u32>,
    /// Seconds after which a process that is not heard of has lost what it ran.
    #[arg(long, value_name = "SECONDS", default_value = "15", value_parser = clap::value_parser!(u32).range(2..=3600))]
    pub lease: u32,
    /// How often a prompt is tried whose workers end before it does, until it has failed; 0: always again.
    #[arg(long, value_name = "N", default_value = "3")]
    pub max_tries: u32,
    /// Among so many prompts that are next a worker takes one first whose models it holds; 1: always the first.
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub affinity_window: u32,
}

/// Addresses to listen on, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen(pub Vec<IpAddr>);

fn listen(text: &str) -> Result<Listen, String> {
    let mut addresses = Vec::new();
    for part in text.split(',').map(str::trim) {
        let bare = part.strip_prefix('[').and_then(|p| p.strip_suffix(']')).unwrap_or(part);
        let address = match bare {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            bare => bare.parse().map_err(|_| format!("`{part}` is not an IP address; write for example 127.0.0.1 or 0.0.0.0,::"))?,
        };
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(Listen(addresses))
}

/// The file that ComfyUI's way of naming a database means.
pub fn database_url(url: &str) -> Result<&Path, Error> {
    let path = url.strip_prefix("sqlite:///").filter(|path| !path.is_empty() && *path != ":memory:" && !path.contains('?'));
    path.map(Path::new).ok_or_else(|| Error::Value {
        origin: "--database-url".into(),
        message: format!("{url} is no file: write sqlite:///PATH, for an absolute path with four slashes"),
    })
}

/// Megabytes; at most what a body may ever be, a terabyte.
fn megabytes(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number of megabytes".to_owned())?;
    if number > 0.0 && number <= 1024.0 * 1024.0 { Ok(number) } else { Err("must be above 0 and at most 1048576 megabytes".into()) }
}

/// How exact products are.
fn precision(text: &str) -> Result<ProductPrecision, String> {
    let known = ProductPrecision::ALL.into_iter().find(|known| text.eq_ignore_ascii_case(known.name()));
    known.ok_or_else(|| format!("`{text}` is no precision; take auto, f32 or bf16"))
}

/// The instruction sets that kernels may use.
fn cpu_features(text: &str) -> Result<CpuFeatures, String> {
    match text.to_ascii_lowercase().as_str() {
        "auto" => Ok(CpuFeatures::Auto),
        "list" => Ok(CpuFeatures::List),
        name => CpuLevel::available().find(|level| level.name() == name).map(CpuFeatures::Most).ok_or_else(|| {
            let names: Vec<_> = CpuLevel::available().map(CpuLevel::name).collect();
            format!("this processor does not have `{text}`; take auto or one of {}", names.join(", "))
        }),
    }
}

/// A number of bytes, with an optional suffix that stands for a power of 1024: `1.5G`, `512 MiB`, `4096`.
pub fn bytes(text: &str) -> Result<u64, String> {
    let help = || format!("`{text}` is not an amount of memory; write for example 8G, 512M or 1073741824");
    let upper = text.trim().to_ascii_uppercase();
    let number_end = upper.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(upper.len());
    let (number, suffix) = upper.split_at(number_end);
    let factor: u64 = match suffix.trim() {
        "" | "B" => 1,
        "K" | "KB" | "KIB" => 1 << 10,
        "M" | "MB" | "MIB" => 1 << 20,
        "G" | "GB" | "GIB" => 1 << 30,
        "T" | "TB" | "TIB" => 1 << 40,
        _ => return Err(help()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(help);
    }
    let amount = number.parse::<f64>().map_err(|_| help())? * factor as f64;
    if amount.is_finite() && amount < u64::MAX as f64 { Ok(amount as u64) } else { Err(help()) }
}

/// A version of the front end, without the repository's name and the `v` before it; `latest` stays.
fn front_end_version(text: &str) -> Result<String, String> {
    let version = match text.rsplit_once('@') {
        None => text,
        Some((repository, version)) if repository.eq_ignore_ascii_case("Comfy-Org/ComfyUI_frontend") => version,
        // ComfyUI's word for the one that goes with it.
        Some((repository, "latest")) if repository.eq_ignore_ascii_case("comfyanonymous/ComfyUI") => crate::frontend::PINNED_VERSION,
        Some((repository, _)) => {
            return Err(format!(
                "only Comfy-Org/ComfyUI_frontend can be installed, not `{repository}`; set --front-end-root to its folder"
            ));
        }
    };
    let version = version.strip_prefix('v').unwrap_or(version);
    let is_version = version.starts_with(|c: char| c.is_ascii_digit())
        && version.len() <= 40
        && version.chars().all(|c| c.is_ascii_alphanumeric() || ".+-".contains(c));
    if is_version || version == "latest" {
        Ok(version.to_owned())
    } else {
        Err("write a version such as 1.58.1, `latest`, or Comfy-Org/ComfyUI_frontend@1.58.1".into())
    }
}

fn scope(text: &str) -> Result<Scope, String> {
    let scopes = [Scope::Read, Scope::Run, Scope::Admin];
    scopes.into_iter().find(|scope| scope.to_string() == text).ok_or_else(|| "write read, run or admin".to_owned())
}

/// A number of days, hours, minutes or seconds.
fn lasts(text: &str) -> Result<Duration, String> {
    let help = || format!("`{text}` is not a time from now; write 30d, 12h, 45m or 90s");
    let units = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];
    let (number, seconds) = units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(*unit)?, seconds))).ok_or_else(help)?;
    let number: u32 = number.parse().ok().filter(|number| *number > 0).ok_or_else(help)?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

/// `NODE.INPUT=VALUE`. The node's id ends at the first dot, since names of inputs may hold dots.
fn set_input(text: &str) -> Result<SetInput, String> {
    let help = || format!("`{text}` is not of the form NODE.INPUT=VALUE; write for example 3.seed=7");
    let (target, value) = text.split_once('=').ok_or_else(help)?;
    let (node, input) = target.split_once('.').ok_or_else(help)?;
    if node.is_empty() || input.is_empty() {
        return Err(help());
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok(SetInput { node: node.into(), input: input.into(), value })
}
