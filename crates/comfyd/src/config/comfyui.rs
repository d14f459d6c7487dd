//! ComfyUI's own options that only its process understands. The command line takes them as ComfyUI's does and hands them on, so that whoever
//! started ComfyUI with some starts comfyd with the same. Knows what each takes, and not what it means.

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

/// The options, as of ComfyUI 0.3.52 to 0.33: those are left out that this program has itself, and those that open a browser or end the
/// process.
const OPTIONS: &[(&str, Takes)] = &[
    ("async-offload", Perhaps),
    ("bf16-text-enc", Nothing),
    ("bf16-unet", Nothing),
    ("bf16-vae", Nothing),
    ("cache-ram", Any),
    ("comfy-api-base", One),
    ("cpu-vae", Nothing),
    ("cuda-malloc", Nothing),
    ("database-url", One),
    ("debug-hang", Nothing),
    ("default-device", One),
    ("default-hashing-function", One),
    ("deterministic", Nothing),
    ("directml", Perhaps),
    ("disable-all-custom-nodes", Nothing),
    ("disable-api-nodes", Nothing),
    ("disable-async-offload", Nothing),
    ("disable-auto-launch", Nothing),
    ("disable-cuda-graphs", Nothing),
    ("disable-cuda-malloc", Nothing),
    ("disable-dynamic-vram", Nothing),
    ("disable-ipex-optimize", Nothing),
    ("disable-manager-ui", Nothing),
    ("disable-mmap", Nothing),
    ("disable-nvml-pressure", Nothing),
    ("disable-pinned-memory", Nothing),
    ("disable-smart-memory", Nothing),
    ("disable-triton-backend", Nothing),
    ("disable-xformers", Nothing),
    ("dont-print-server", Nothing),
    ("dont-upcast-attention", Nothing),
    ("enable-asset-hashing", Nothing),
    ("enable-assets", Nothing),
    ("enable-compress-response-body", Nothing),
    ("enable-dynamic-vram", Nothing),
    ("enable-manager", Nothing),
    ("enable-manager-legacy-ui", Nothing),
    ("enable-triton-backend", Nothing),
    ("fast", Any),
    ("fast-disk", Nothing),
    ("feature-flag", Several),
    ("force-channels-last", Nothing),
    ("force-fp16", Nothing),
    ("force-fp32", Nothing),
    ("force-non-blocking", Nothing),
    ("force-upcast-attention", Nothing),
    ("fp16-intermediates", Nothing),
    ("fp16-text-enc", Nothing),
    ("fp16-unet", Nothing),
    ("fp16-vae", Nothing),
    ("fp32-text-enc", Nothing),
    ("fp32-unet", Nothing),
    ("fp32-vae", Nothing),
    ("fp64-unet", Nothing),
    ("fp8_e4m3fn-text-enc", Nothing),
    ("fp8_e4m3fn-unet", Nothing),
    ("fp8_e5m2-text-enc", Nothing),
    ("fp8_e5m2-unet", Nothing),
    ("fp8_e8m0fnu-unet", Nothing),
    ("gpu-only", Nothing),
    ("high-ram", Nothing),
    ("highvram", Nothing),
    ("log-stdout", Nothing),
    ("lowvram", Nothing),
    ("mmap-torch-files", Nothing),
    ("models-directory", One),
    ("normalvram", Nothing),
    ("novram", Nothing),
    ("oneapi-device-selector", One),
    ("reserve-vram", One),
    ("supports-fp8-compute", Nothing),
    ("use-ck-attention", Nothing),
    ("use-flash-attention", Nothing),
    ("use-pytorch-cross-attention", Nothing),
    ("use-quad-cross-attention", Nothing),
    ("use-sage-attention", Nothing),
    ("use-split-cross-attention", Nothing),
    ("vram-headroom", One),
    ("whitelist-custom-nodes", Several),
    ("windows-standalone-build", Nothing),
];

/// Options that were given, each with what it took, in the form in which ComfyUI reads them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handed(pub Vec<(&'static str, Vec<String>)>);

impl Handed {
    /// Whether an option was given.
    pub fn get(&self, name: &str) -> Option<&[String]> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, values)| values.as_slice())
    }

    /// As arguments.
    pub fn arguments(&self) -> Vec<String> {
        self.0.iter().flat_map(|(name, values)| std::iter::once(format!("--{name}")).chain(values.iter().cloned())).collect()
    }
}

impl Args for Handed {
    fn augment_args(command: Command) -> Command {
        command.args(OPTIONS.iter().map(|(name, takes)| option(name, *takes)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn option(name: &'static str, takes: Takes) -> Arg {
    let arg = Arg::new(name).long(name).help_heading("ComfyUI's own options").hide_short_help(true);
    let arg = arg.help("ComfyUI's option of that name; needs --comfyui");
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
        let given = |name: &&(&'static str, Takes)| matches.value_source(name.0).is_some_and(|source| source != ValueSource::DefaultValue);
        let values = |name: &str, takes: Takes| match takes {
            Nothing => Vec::new(),
            One | Perhaps | Any | Several => matches.get_many::<String>(name).into_iter().flatten().cloned().collect(),
        };
        Ok(Self(OPTIONS.iter().filter(given).map(|(name, takes)| (*name, values(name, *takes))).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
