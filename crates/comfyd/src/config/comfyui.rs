//! ComfyUI's own options that this program does not have. The command line takes them as ComfyUI's does, hands them on to its process where
//! there is one, and says why they do nothing where there is none, so that whoever started ComfyUI with some starts comfyd with the same.
//! Knows what each takes, and not what it means.

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

/// What comes behind an option's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    One,
    Perhaps,
    Any,
    Several,
}

use Takes::{Any, Nothing, One, Perhaps, Several};

/// Why an option does nothing where there is no process of ComfyUI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alone {
    Browser,
    Cache,
    Kernels,
    Memory,
    Packs,
    Precision,
    Python,
}

impl Alone {
    fn why(self) -> &'static str {
        match self {
            Self::Browser => "no browser is opened: go to the address that the log tells",
            Self::Cache => "the results of the last prompt are kept: --cache-lru, --cache-none and --cache-memory say otherwise",
            Self::Kernels => "the native engine has its own kernels and chooses among them by the device",
            Self::Memory => "the native engine moves models by one account of memory: --memory-budget bounds it",
            Self::Packs => "there are no custom nodes without a ComfyUI: --comfyui names one",
            Self::Precision => "the native engine keeps weights as their files do and computes in what the device is best at",
            Self::Python => "it is about ComfyUI's process, and there is none: --comfyui names one",
        }
    }
}

use Alone::{Browser, Cache, Kernels, Memory, Packs, Precision, Python};

/// The options, as of ComfyUI 0.3.52 to 0.33: those are left out that this program has itself.
const OPTIONS: &[(&str, Takes, Alone)] = &[
    ("async-offload", Perhaps, Memory),
    ("auto-launch", Nothing, Browser),
    ("bf16-text-enc", Nothing, Precision),
    ("bf16-unet", Nothing, Precision),
    ("bf16-vae", Nothing, Precision),
    ("cache-ram", Any, Cache),
    ("comfy-api-base", One, Packs),
    ("cpu-vae", Nothing, Memory),
    ("cuda-malloc", Nothing, Memory),
    ("debug-hang", Nothing, Python),
    ("default-device", One, Kernels),
    ("default-hashing-function", One, Python),
    ("deterministic", Nothing, Precision),
    ("directml", Perhaps, Kernels),
    ("disable-all-custom-nodes", Nothing, Packs),
    ("disable-api-nodes", Nothing, Packs),
    ("disable-async-offload", Nothing, Memory),
    ("disable-auto-launch", Nothing, Browser),
    ("disable-cuda-graphs", Nothing, Kernels),
    ("disable-cuda-malloc", Nothing, Memory),
    ("disable-dynamic-vram", Nothing, Memory),
    ("disable-ipex-optimize", Nothing, Kernels),
    ("disable-manager-ui", Nothing, Packs),
    ("disable-mmap", Nothing, Memory),
    ("disable-nvml-pressure", Nothing, Memory),
    ("disable-pinned-memory", Nothing, Memory),
    ("disable-smart-memory", Nothing, Memory),
    ("disable-triton-backend", Nothing, Kernels),
    ("disable-xformers", Nothing, Kernels),
    ("dont-print-server", Nothing, Python),
    ("dont-upcast-attention", Nothing, Precision),
    ("enable-compress-response-body", Nothing, Python),
    ("enable-dynamic-vram", Nothing, Memory),
    ("enable-manager", Nothing, Packs),
    ("enable-manager-legacy-ui", Nothing, Packs),
    ("enable-triton-backend", Nothing, Kernels),
    ("fast", Any, Precision),
    ("fast-disk", Nothing, Memory),
    ("force-channels-last", Nothing, Kernels),
    ("force-fp16", Nothing, Precision),
    ("force-fp32", Nothing, Precision),
    ("force-non-blocking", Nothing, Memory),
    ("force-upcast-attention", Nothing, Precision),
    ("fp16-intermediates", Nothing, Precision),
    ("fp16-text-enc", Nothing, Precision),
    ("fp16-unet", Nothing, Precision),
    ("fp16-vae", Nothing, Precision),
    ("fp32-text-enc", Nothing, Precision),
    ("fp32-unet", Nothing, Precision),
    ("fp32-vae", Nothing, Precision),
    ("fp64-unet", Nothing, Precision),
    ("fp8_e4m3fn-text-enc", Nothing, Precision),
    ("fp8_e4m3fn-unet", Nothing, Precision),
    ("fp8_e5m2-text-enc", Nothing, Precision),
    ("fp8_e5m2-unet", Nothing, Precision),
    ("fp8_e8m0fnu-unet", Nothing, Precision),
    ("gpu-only", Nothing, Memory),
    ("high-ram", Nothing, Memory),
    ("highvram", Nothing, Memory),
    ("log-stdout", Nothing, Python),
    ("lowvram", Nothing, Memory),
    ("mmap-torch-files", Nothing, Memory),
    ("normalvram", Nothing, Memory),
    ("novram", Nothing, Memory),
    ("oneapi-device-selector", One, Kernels),
    ("reserve-vram", One, Memory),
    ("supports-fp8-compute", Nothing, Precision),
    ("use-ck-attention", Nothing, Kernels),
    ("use-flash-attention", Nothing, Kernels),
    ("use-pytorch-cross-attention", Nothing, Kernels),
    ("use-quad-cross-attention", Nothing, Kernels),
    ("use-sage-attention", Nothing, Kernels),
    ("use-split-cross-attention", Nothing, Kernels),
    ("vram-headroom", One, Memory),
    ("whitelist-custom-nodes", Several, Packs),
    ("windows-standalone-build", Nothing, Browser),
];

/// Options that were given, each with what it took, in the form in which ComfyUI reads them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handed(pub Vec<(&'static str, Vec<String>)>);

impl Handed {
    /// Whether an option was given.
    pub fn get(&self, name: &str) -> Option<&[String]> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, values)| values.as_slice())
    }

    /// As arguments for ComfyUI's process, which opens no browser.
    pub fn arguments(&self) -> Vec<String> {
        let handed = self.0.iter().filter(|(name, _)| !matches!(*name, "auto-launch" | "windows-standalone-build"));
        handed.flat_map(|(name, values)| std::iter::once(format!("--{name}")).chain(values.iter().cloned())).collect()
    }
}

impl Handed {
    /// Why each does nothing where there is no process of ComfyUI.
    pub fn alone(&self) -> Vec<(&'static str, &'static str)> {
        let given = OPTIONS.iter().filter(|(name, ..)| self.get(name).is_some());
        given.map(|(name, _, alone)| (*name, alone.why())).collect()
    }
}

impl Args for Handed {
    fn augment_args(command: Command) -> Command {
        command.args(OPTIONS.iter().map(|(name, takes, alone)| option(name, *takes, *alone)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn option(name: &'static str, takes: Takes, alone: Alone) -> Arg {
    let arg = Arg::new(name).long(name).help_heading("ComfyUI's own options").hide_short_help(true);
    let arg = arg.help(format!("ComfyUI's option of that name, for its process. Without one: {}", alone.why()));
    match takes {
        Nothing => arg.action(ArgAction::SetTrue),
        One => arg.num_args(1).value_name("VALUE"),
        Perhaps => arg.num_args(0..=1).value_name("VALUE"),
        Any => arg.num_args(0..).action(ArgAction::Append).value_name("VALUE"),
        Several => arg.num_args(1..).action(ArgAction::Append).value_name("VALUE"),
    }
}

impl FromArgMatches for Handed {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let given = |option: &&(&'static str, Takes, Alone)| {
            matches.value_source(option.0).is_some_and(|source| source != ValueSource::DefaultValue)
        };
        let values = |name: &str, takes: Takes| match takes {
            Nothing => Vec::new(),
            One | Perhaps | Any | Several => matches.get_many::<String>(name).into_iter().flatten().cloned().collect(),
        };
        Ok(Self(OPTIONS.iter().filter(given).map(|(name, takes, _)| (*name, values(name, *takes))).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
