//! Reads ComfyUI's `extra_model_paths.yaml`: groups with an optional `base_path` and `is_default`, then folder names with one path a line.
//! What is text, what is true and which of two equal keys counts follows PyYAML's `safe_load`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use indexmap::IndexMap;
use saphyr_parser::{Event, Parser, ScalarStyle, StrInput, Tag};

use crate::{Error, Result};

/// Looks up an environment variable. Only the binary reads the environment itself.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The largest file that is read, in bytes.
const MAX_BYTES: usize = 1 << 20;
/// How deeply lists and mappings may be nested; the format itself needs three levels.
const MAX_DEPTH: usize = 32;
/// Paths that a file may name, and their length in bytes. An alias makes much of a few letters: what it stands for counts each time.
const MAX_PATHS: usize = 10_000;
const MAX_PATH_BYTES: usize = 4096;
/// Entries of mappings that `<<` may bring.
const MAX_MERGED: usize = 100_000;
/// Bytes of all texts in which paths are looked for.
const MAX_LOOKED_AT: usize = 4 * MAX_BYTES;

/// A search path to add.
pub(crate) struct ExtraPath {
    pub folder: String,
    pub path: PathBuf,
    pub first: bool,
}

pub(crate) fn read(file: &Path, env: Env<'_>) -> Result<Vec<ExtraPath>> {
    let fail = |reason: String| Error::ExtraPaths { path: file.to_owned(), reason };
    let too_large = || fail(format!("it has more than {MAX_BYTES} bytes; leave only the paths in it"));
    if file.metadata().is_ok_and(|meta| meta.len() > MAX_BYTES as u64) {
        return Err(too_large());
    }
    let text = std::fs::read_to_string(file).map_err(|e| fail(e.to_string()))?;
    if text.len() > MAX_BYTES {
        return Err(too_large());
    }
    paths(&text, file, env).map_err(fail)
}

/// What the text of a file names; the error is a sentence.
pub(crate) fn paths(text: &str, file: &Path, env: Env<'_>) -> Result<Vec<ExtraPath>, String> {
    let groups = match &*parse(text)? {
        Yaml::Map(groups) => groups.clone(),
        yaml if yaml.is_null() => return Ok(Vec::new()),
        _ => return Err("its top level must be a mapping of groups, as in ComfyUI's extra_model_paths.yaml.example".into()),
    };
    let file_dir = std::path::absolute(file).ok().and_then(|p| p.parent().map(Path::to_owned)).unwrap_or_default();
    let mut paths = Vec::new();
    let mut looked_at = 0;
    for (group, content) in groups {
        let Yaml::Map(content) = &*content else {
            if content.is_null() {
                continue;
            }
            return Err(format!("the group '{group}' must be a mapping of folder names to paths"));
        };
        let first = content.get("is_default").is_some_and(|value| value.is_true());
        let too_long =
            |what: &str| format!("'{what}' in the group '{group}' has a path of more than {MAX_PATH_BYTES} bytes; take a shorter one");
        let base = match content.get("base_path").and_then(|value| value.text()) {
            Some(base) if base.len() > MAX_PATH_BYTES => return Err(too_long("base_path")),
            Some(base) => file_dir.join(expand(base, env)),
            None => file_dir.clone(),
        };
        for (folder, value) in content {
            if folder == "base_path" || folder == "is_default" {
                continue;
            }
            let texts = value.texts().ok_or_else(|| {
                format!("'{folder}' in the group '{group}' must be a path, several lines of one path each, or a list of paths")
            })?;
            looked_at += 1 + texts.iter().map(|text| 1 + text.len()).sum::<usize>();
            if looked_at > MAX_LOOKED_AT {
                return Err("its aliases stand for too much; write the paths out".into());
            }
            for line in texts.into_iter().flat_map(str::lines).map(str::trim).filter(|line| !line.is_empty()) {
                let path = (line.len() <= MAX_PATH_BYTES).then(|| normalize(&base.join(expand(line, env))));
                let path = path.filter(|path| path.as_os_str().len() <= MAX_PATH_BYTES).ok_or_else(|| too_long(folder))?;
                if paths.len() == MAX_PATHS {
                    return Err(format!("it names more than {MAX_PATHS} paths; leave only those that are needed"));
                }
                paths.push(ExtraPath { folder: folder.clone(), path, first });
            }
        }
    }
    Ok(paths)
}

/// What a file holds. Keys are their text, whatever type it would make.
#[derive(Clone)]
enum Yaml {
    /// Without quotes: what type it has is seen from it.
    Plain(String),
    Text(String),
    List(Vec<Rc<Yaml>>),
    Map(IndexMap<String, Rc<Yaml>>),
}

impl Yaml {
    fn is_null(&self) -> bool {
        matches!(self, Self::Plain(text) if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// A scalar that is not null.
    fn text(&self) -> Option<&str> {
        match self {
            Self::Plain(text) | Self::Text(text) if !self.is_null() => Some(text),
            Self::Plain(_) | Self::Text(_) | Self::List(_) | Self::Map(_) => None,
        }
    }

    /// What Python takes it for where a condition stands.
    fn is_true(&self) -> bool {
        match self {
            Self::Plain(text) => {
                let no = ["no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"].contains(&text.as_str());
                !no && !self.is_null() && !is_zero(text)
            }
            Self::Text(text) => !text.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Map(entries) => !entries.is_empty(),
        }
    }

    /// A text, or all texts of a list; `None` if there is something else in it.
    fn texts(&self) -> Option<Vec<&str>> {
        let items = match self {
            Self::List(items) => items.iter().map(Rc::as_ref).collect(),
            Self::Plain(_) | Self::Text(_) => vec![self],
            Self::Map(_) => return None,
        };
        items.into_iter().filter(|item| !item.is_null()).map(Self::text).collect()
    }
}

/// Whether a plain scalar is a number that is zero.
fn is_zero(text: &str) -> bool {
    let digits = text.trim_start_matches(['+', '-']);
    let digits = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0b")).unwrap_or(digits);
    digits.contains('0') && digits.bytes().all(|byte| b"0_.:".contains(&byte))
}

/// A list or a mapping that has not ended.
enum Open {
    List(Vec<Rc<Yaml>>),
    Map {
        entries: IndexMap<String, Rc<Yaml>>,
        /// What `<<` names: gives way to the mapping's own keys.
        merged: IndexMap<String, Rc<Yaml>>,
        key: Option<Key>,
    },
}

enum Key {
    Merge,
    Name(String),
}

/// Makes the document of a parser's events. An anchor may be used behind its end only, so nothing contains itself, and what it names is
/// shared, not copied.
#[derive(Default)]
struct Builder {
    /// With their anchors.
    open: Vec<(usize, Open)>,
    anchors: HashMap<usize, Rc<Yaml>>,
    documents: usize,
    document: Option<Rc<Yaml>>,
    /// Entries that `<<` has brought.
    merged: usize,
}

/// The one document of a text.
fn parse(text: &str) -> Result<Rc<Yaml>, String> {
    let mut parser: Parser<'_, StrInput<'_>> = Parser::new_from_str(text.trim_start_matches('\u{feff}'));
    let mut builder = Builder::default();
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|e| format!("it is not valid YAML: {e}"))?;
        builder.event(event).map_err(|reason| format!("line {}: {reason}", span.start.line()))?;
    }
    Ok(builder.document.unwrap_or_else(|| Rc::new(Yaml::Plain(String::new()))))
}

impl Builder {
    fn event(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 { Err("a second document begins; keep one".into()) } else { Ok(()) }
            }
            Event::SequenceStart(anchor, tag) => self.open(anchor, tag.as_deref(), "seq", Open::List(Vec::new())),
            Event::MappingStart(anchor, tag) => {
                let map = Open::Map { entries: IndexMap::new(), merged: IndexMap::new(), key: None };
                self.open(anchor, tag.as_deref(), "map", map)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some((anchor, Open::List(items))) => self.value(anchor, Rc::new(Yaml::List(items))),
                Some((anchor, Open::Map { entries, mut merged, .. })) => {
                    merged.extend(entries);
                    self.value(anchor, Rc::new(Yaml::Map(merged)))
                }
                None => Ok(()),
            },
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = scalar(text.into_owned(), style, tag.as_deref())?;
                self.value(anchor, Rc::new(scalar))
            }
            Event::Alias(anchor) => {
                let value = self.anchors.get(&anchor).ok_or("an alias stands inside what it names")?;
                self.value(0, Rc::clone(value))
            }
        }
    }

    fn open(&mut self, anchor: usize, tag: Option<&Tag>, plain: &str, open: Open) -> Result<(), String> {
        check_tag(tag, plain)?;
        self.open.push((anchor, open));
        if self.open.len() > MAX_DEPTH { Err(format!("it is nested more than {MAX_DEPTH} deep")) } else { Ok(()) }
    }

    /// Puts a value where it belongs. No anchor is 0.
    fn value(&mut self, anchor: usize, value: Rc<Yaml>) -> Result<(), String> {
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(&value));
        }
        match self.open.last_mut().map(|(_, open)| open) {
            None => self.document = Some(value),
            Some(Open::List(items)) => items.push(value),
            Some(Open::Map { entries, merged, key }) => match key.take() {
                None => {
                    *key = Some(match &*value {
                        Yaml::Plain(text) if text == "<<" => Key::Merge,
                        Yaml::Plain(text) | Yaml::Text(text) => Key::Name(text.clone()),
                        Yaml::List(_) | Yaml::Map(_) => return Err("a list or a mapping cannot be a key".into()),
                    });
                }
                // Of equal keys the last one counts, at the first one's place.
                Some(Key::Name(name)) => drop(entries.insert(name, value)),
                Some(Key::Merge) => merge(merged, &value, &mut self.merged)?,
            },
        }
        Ok(())
    }
}

/// Adds the entries of a mapping, or those of a list of mappings, of which earlier ones count more.
fn merge(merged: &mut IndexMap<String, Rc<Yaml>>, value: &Yaml, count: &mut usize) -> Result<(), String> {
    let maps: Vec<&Yaml> = match value {
        Yaml::List(items) => items.iter().map(Rc::as_ref).collect(),
        Yaml::Plain(_) | Yaml::Text(_) | Yaml::Map(_) => vec![value],
    };
    for map in maps {
        let Yaml::Map(entries) = map else { return Err("'<<' takes a mapping or a list of mappings".into()) };
        *count += entries.len() + 1;
        if *count > MAX_MERGED {
            return Err(format!("'<<' brings more than {MAX_MERGED} entries; write them out where they are needed"));
        }
        for (key, value) in entries {
            merged.entry(key.clone()).or_insert_with(|| Rc::clone(value));
        }
    }
    Ok(())
}

fn scalar(text: String, style: ScalarStyle, tag: Option<&Tag>) -> Result<Yaml, String> {
    match tag {
        Some(tag) if tag.is_yaml_core_schema() && ["null", "bool", "int", "float"].contains(&tag.suffix.as_str()) => Ok(Yaml::Plain(text)),
        Some(_) => check_tag(tag, "str").map(|()| Yaml::Text(text)),
        None if style == ScalarStyle::Plain => Ok(Yaml::Plain(text)),
        None => Ok(Yaml::Text(text)),
    }
}

/// Fails unless the tag is the one that says what is seen anyway, or `!`.
fn check_tag(tag: Option<&Tag>, plain: &str) -> Result<(), String> {
    match tag {
        Some(tag) if !(tag.is_yaml_core_schema() && tag.suffix == plain) && tag.to_string() != "!" => {
            Err(format!("the tag '{tag}' is not known; remove it"))
        }
        Some(_) | None => Ok(()),
    }
}

/// Replaces a leading `~` and `$NAME` / `${NAME}` by the environment's values; an unknown name stays as it is.
fn expand(text: &str, env: Env<'_>) -> PathBuf {
    let mut text = text.to_owned();
    if let (Some(rest), Some(home)) = (text.strip_prefix('~'), env("HOME"))
        && (rest.is_empty() || rest.starts_with('/'))
    {
        text = format!("{home}{rest}");
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, used) = match after.strip_prefix('{').and_then(|a| a.split_once('}')) {
            Some((name, _)) => (name, name.len() + 2),
            None => {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                (&after[..end], end)
            }
        };
        match env(name) {
            Some(value) if !name.is_empty() => out.push_str(&value),
            _ => out.push_str(&rest[at..=at + used]),
        }
        rest = &after[used..];
    }
    out.push_str(rest);
    PathBuf::from(out)
}

fn normalize(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}
