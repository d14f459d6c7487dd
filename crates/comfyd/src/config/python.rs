//! The ComfyUI beside the program, as the settings name it. Knows nothing of processes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use indexmap::IndexMap;
use serde::Deserialize;

use super::args::PythonArgs;
use super::layers::{SECTION, Section};
use super::{Error, Places, Result};

/// When a worker starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PythonStart {
    /// With the program.
    Eager,
    /// With the first prompt or page that needs it.
    Lazy,
}

/// Where a class runs that several have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Placement {
    /// Natively where no object crosses.
    Auto,
    /// In Python.
    Python,
    /// As `Auto`, and clients are told of the native class.
    Native,
}

/// Whether workers reach the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Network {
    /// As any program of the user.
    Allow,
    /// They have none.
    Deny,
}

/// How two sides use one card's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeviceMemory {
    /// One at a time holds models.
    Exclusive,
    /// Both go by what is free.
    Share,
}

/// One environment: a ComfyUI, its interpreter, and the custom node packs that it loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// Its name.
    pub name: String,
    /// The checkout.
    pub comfyui: PathBuf,
    /// The interpreter, if one is named.
    pub python: Option<PathBuf>,
    /// The packs that it loads alone, by their folders' names.
    pub packs: Vec<String>,
    /// ComfyUI's own options, after those for all environments.
    pub args: Vec<String>,
}

/// The ComfyUI whose nodes run beside the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Python {
    /// The checkout.
    pub comfyui: PathBuf,
    /// The interpreter, if one is named.
    pub python: Option<PathBuf>,
    /// Whether all custom node packs are left out but those of `whitelist`.
    pub disable_packs: bool,
    /// Packs that are loaded all the same.
    pub whitelist: Vec<String>,
    /// ComfyUI's own options other than these.
    pub args: Vec<String>,
    /// When it starts.
    pub start: PythonStart,
    /// Where classes run.
    pub placement: Placement,
    /// Whether it reaches the network.
    pub network: Network,
    /// How a card's memory is used; `None` where the device decides.
    pub memory: Option<DeviceMemory>,
    /// How long a start may take.
    pub start_timeout: Duration,
    /// From an interruption until an exception is thrown.
    pub interrupt_timeout: Duration,
    /// From an interruption until the process is ended.
    pub kill_timeout: Duration,
    /// Environments beside the default one.
    pub environments: Vec<Environment>,
    /// Where single classes run: `native`, `python`, or an environment's name.
    pub prefer: IndexMap<String, String>,
}

/// The file's table.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    env: Vec<EnvironmentTable>,
    #[serde(default)]
    prefer: IndexMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvironmentTable {
    name: String,
    comfyui: Option<PathBuf>,
    python: Option<PathBuf>,
    #[serde(default)]
    packs: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
}

/// The name of the environment that has all packs that no other has.
pub const DEFAULT_ENVIRONMENT: &str = "default";

impl Places<'_> {
    /// `None` where no ComfyUI is named.
    pub(super) fn python(&self, args: PythonArgs) -> Result<Option<Python>> {
        let table = self.section.as_ref().map(read).transpose()?;
        let Some(comfyui) = args.comfyui else {
            let option = args.python.map(|_| "--python".to_owned());
            let said = option.or_else(|| table.map(|_| format!("the table `{SECTION}` of the configuration file")));
            return said.map_or(Ok(None), |said| Err(Error::NoComfyUi(said)));
        };
        let comfyui = self.absolute(comfyui);
        let python = args.python.map(|path| self.absolute(path));
        let folder = self.section.as_ref().and_then(|section| section.file.parent()).unwrap_or(Path::new(""));
        let Table { env, prefer } = table.unwrap_or_default();
        let environments = env.into_iter().map(|env| Environment {
            name: env.name,
            comfyui: env.comfyui.map_or_else(|| comfyui.clone(), |path| folder.join(path)),
            python: env.python.map(|path| folder.join(path)).or_else(|| python.clone()),
            packs: env.packs,
            args: env.args,
        });
        let environments: Vec<Environment> = environments.collect();
        self.check(&environments, &prefer)?;
        let mut handed = args.handed;
        let disable_packs = handed.get("disable-all-custom-nodes").is_some();
        let whitelist = handed.get("whitelist-custom-nodes").unwrap_or_default().to_vec();
        handed.0.retain(|(name, _)| !matches!(*name, "disable-all-custom-nodes" | "whitelist-custom-nodes"));
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        Ok(Some(Python {
            comfyui,
            python,
            disable_packs,
            whitelist,
            args: [handed.arguments(), args.python_arg].concat(),
            start: args.python_start,
            placement: args.placement,
            network: args.python_network,
            memory: args.python_memory,
            start_timeout: seconds(args.python_start_timeout),
            interrupt_timeout: seconds(args.python_interrupt_timeout),
            kill_timeout: seconds(args.python_kill_timeout),
            environments,
            prefer,
        }))
    }

    /// Names must tell environments apart, and what is preferred must be there.
    fn check(&self, environments: &[Environment], prefer: &IndexMap<String, String>) -> Result<()> {
        let origin = || self.section.as_ref().map_or_else(|| SECTION.to_owned(), |section| section.file.display().to_string());
        let wrong = |message: String| Err(Error::Value { origin: origin(), message });
        for (at, environment) in environments.iter().enumerate() {
            let name = &environment.name;
            if name.is_empty() || name.len() > 64 || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)) {
                return wrong(format!("the environment's name `{name}` must be of letters, digits, - and _"));
            }
            let taken = ["native", "python", DEFAULT_ENVIRONMENT].contains(&name.as_str());
            if taken || environments[..at].iter().any(|other| other.name == *name) {
                return wrong(format!("the environment's name `{name}` is taken; choose another"));
            }
        }
        let known =
            |place: &str| ["native", "python", DEFAULT_ENVIRONMENT].contains(&place) || environments.iter().any(|e| e.name == place);
        match prefer.iter().find(|(_, place)| !known(place)) {
            Some((class, place)) => {
                wrong(format!("{SECTION}.prefer.{class}: `{place}` is neither native, python nor an environment of the file"))
            }
            None => Ok(()),
        }
    }
}

fn read(section: &Section) -> Result<Table> {
    let origin = format!("{}, table {SECTION}", section.file.display());
    section.table.clone().try_into().map_err(|error: toml::de::Error| Error::Value { origin, message: error.message().to_owned() })
}
