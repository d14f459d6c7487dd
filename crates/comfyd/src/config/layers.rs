//! Puts what the environment and the configuration file say below what the command line says, by writing it as further arguments. So
//! every value is read by the same parser, wherever it comes from. Knows no single option.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint};
use toml::{Table, Value};

use super::{Error, Result};

/// A table that a file may have besides options. An option is called so too: `path` in the table stands for it.
pub const SECTION: &str = "python";

/// Largest configuration file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Where a value comes from, and the arguments that say it.
type Found = (String, Vec<OsString>);

/// A table of the configuration file that no option is.
pub struct Section {
    /// The file.
    pub file: PathBuf,
    /// What is in it.
    pub table: Table,
}

/// `args` with the options added that they do not set but the environment or the configuration file does, and the file's table
/// [`SECTION`]. `root` is the whole command line; `full` is the subcommand that knows every option a file may set.
pub fn complete(
    root: &mut Command,
    full: &str,
    mut args: Vec<OsString>,
    env: &HashMap<OsString, OsString>,
    current_dir: &Path,
) -> Result<(Vec<OsString>, Option<Section>)> {
    let matches = root.try_get_matches_from_mut(&args)?;
    let (depth, path, matches) = deepest(&matches);
    let known: Vec<&Arg> = root.find_subcommand(full).map(options).unwrap_or_default();
    let mut command = &*root;
    for name in &path {
        command = command.find_subcommand(name).unwrap_or(command);
    }
    let file = match matches.get_one::<PathBuf>("config").cloned().or_else(|| env.get(OsStr::new("COMFYD_CONFIG")).map(PathBuf::from)) {
        Some(path) if !path.as_os_str().is_empty() => Some(File::read(&current_dir.join(path), &known)?),
        Some(_) | None => None,
    };

    let mut set: Vec<String> = Vec::new();
    for arg in options(command).into_iter().filter(|arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)) {
        set.extend(rivals(command, arg));
    }
    let mut added = Vec::new();
    let mut add = |layer: &mut dyn FnMut(&Arg) -> Result<Option<Found>>| -> Result<()> {
        let mut now_set = Vec::new();
        for arg in options(command).into_iter().filter(|arg| arg.get_id() != "config" && !set.contains(&arg.get_id().to_string())) {
            let Some((origin, tokens)) = layer(arg)? else { continue };
            check(command, &origin, &tokens)?;
            now_set.extend(rivals(command, arg));
            added.extend(tokens);
        }
        set.extend(now_set);
        Ok(())
    };
    add(&mut |arg| from_env(arg, env))?;
    if let Some(file) = &file {
        add(&mut |arg| file.tokens(arg))?;
    }
    args.splice(1 + depth..1 + depth, added);
    Ok((args, file.and_then(|file| file.section)))
}

/// The subcommand that was chosen: how many names lead to it, the names, and what it matched.
fn deepest(matches: &ArgMatches) -> (usize, Vec<String>, &ArgMatches) {
    let mut path = Vec::new();
    let mut matches = matches;
    while let Some((name, inner)) = matches.subcommand() {
        path.push(name.to_owned());
        matches = inner;
    }
    (path.len(), path, matches)
}

/// The options that the environment and the file may set.
fn options(command: &Command) -> Vec<&Arg> {
    command
        .get_arguments()
        .filter(|arg| arg.get_long().is_some_and(|long| !["help", "version", "set", "output", "force", "scope", "expires"].contains(&long)))
        .collect()
}

/// The option itself and those that exclude it: setting one overrides a lower layer's other.
fn rivals(command: &Command, arg: &Arg) -> Vec<String> {
    let mut ids = vec![arg.get_id().to_string()];
    for group in command.get_groups() {
        let members: Vec<String> = group.get_args().map(ToString::to_string).collect();
        // Each flattened struct is a group as well, which excludes nothing.
        if (group.get_id() == "cache" || group.get_id() == "runs_on") && members.contains(&ids[0]) {
            ids.extend(members);
        }
    }
    ids
}

/// Reads the tokens by themselves, so that an error can say where they come from.
fn check(command: &Command, origin: &str, tokens: &[OsString]) -> Result<()> {
    let mut lone = Command::new("comfyd");
    for arg in options(command) {
        lone = lone.arg(arg.clone());
    }
    match lone.try_get_matches_from(std::iter::once(OsString::from("comfyd")).chain(tokens.iter().cloned())) {
        Ok(_) => Ok(()),
        Err(error) => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            let message = first.strip_prefix("error: ").unwrap_or(first).to_owned();
            Err(Error::Value { origin: origin.into(), message })
        }
    }
}

fn is_flag(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// Whether the value is a path, which the file states relative to its own folder.
fn is_path(arg: &Arg) -> bool {
    arg.get_value_parser().type_id() == std::any::TypeId::of::<PathBuf>() || matches!(arg.get_value_hint(), ValueHint::FilePath)
}

fn token(long: &str, value: &OsStr) -> OsString {
    let mut token = OsString::from(format!("--{long}="));
    token.push(value);
    token
}

/// What the variable of this option says. An empty variable counts as unset.
fn from_env(arg: &Arg, env: &HashMap<OsString, OsString>) -> Result<Option<Found>> {
    let Some(long) = arg.get_long() else { return Ok(None) };
    let name = format!("COMFYD_{}", long.replace('-', "_").to_ascii_uppercase());
    let Some(value) = env.get(OsStr::new(&name)).filter(|value| !value.is_empty()) else { return Ok(None) };
    let tokens = if is_flag(arg) {
        match value.to_string_lossy().to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => vec![format!("--{long}").into()],
            "0" | "false" | "no" | "off" => return Ok(None),
            other => return Err(Error::Value { origin: name, message: format!("`{other}` is neither true nor false") }),
        }
    } else if is_list(arg) && is_path(arg) {
        std::env::split_paths(value).map(|path| token(long, path.as_os_str())).collect()
    } else {
        vec![token(long, value)]
    };
    Ok(Some((name, tokens)))
}

/// A configuration file whose keys are all known.
struct File {
    path: PathBuf,
    table: Table,
    section: Option<Section>,
}

impl File {
    fn read(path: &Path, known: &[&Arg]) -> Result<Self> {
        let unreadable = |source| Error::Read { path: path.into(), source };
        let length = std::fs::metadata(path).map_err(unreadable)?.len();
        if length > MAX_FILE_BYTES {
            return Err(Error::TooLarge { path: path.into(), limit: MAX_FILE_BYTES });
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let mut table: Table = text.parse().map_err(|source| Error::Toml { path: path.into(), source: Box::new(source) })?;
        let keys: Vec<&str> = known.iter().filter_map(|arg| arg.get_long()).filter(|key| *key != "config").collect();
        if let Some(key) = table.keys().find(|key| !keys.contains(&key.as_str())) {
            let nearest =
                keys.iter().min_by_key(|known| strsim::levenshtein(known, &key.replace('_', "-"))).copied().unwrap_or_default().to_owned();
            return Err(Error::UnknownKey { path: path.into(), key: key.clone(), nearest });
        }
        let section = match table.remove(SECTION) {
            Some(Value::Table(mut section)) => {
                table.extend(section.remove("path").map(|value| (SECTION.to_owned(), value)));
                Some(Section { file: path.into(), table: section })
            }
            other => {
                table.extend(other.map(|value| (SECTION.to_owned(), value)));
                None
            }
        };
        Ok(Self { path: path.into(), table, section })
    }

    fn tokens(&self, arg: &Arg) -> Result<Option<Found>> {
        let Some(long) = arg.get_long() else { return Ok(None) };
        let Some(value) = self.table.get(long) else { return Ok(None) };
        let origin = format!("{}, key {long}", self.path.display());
        let wrong = |message: &str| Error::Value { origin: origin.clone(), message: message.into() };
        if is_flag(arg) {
            return match value.as_bool() {
                Some(true) => Ok(Some((origin, vec![format!("--{long}").into()]))),
                Some(false) => Ok(None),
                None => Err(wrong("must be true or false")),
            };
        }
        let texts: Vec<String> = match value {
            Value::Array(items) => items.iter().map(scalar).collect::<Option<_>>(),
            single => scalar(single).map(|text| vec![text]),
        }
        .ok_or_else(|| wrong("must be a text, a number or a list of these"))?;
        if texts.is_empty() {
            return Err(wrong("an empty list says nothing; leave the key out"));
        }
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let texts: Vec<OsString> =
            texts.into_iter().map(|text| if is_path(arg) { folder.join(text).into_os_string() } else { text.into() }).collect();
        let values = if is_list(arg) || texts.len() == 1 { texts } else { vec![texts.join(OsStr::new(","))] };
        Ok(Some((origin, values.iter().map(|value| token(long, value)).collect())))
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}
