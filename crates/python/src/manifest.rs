//! What is known of an installation: its classes, and what packs brought along. Kept as a file, and good as long as the installation's key
//! stays.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use serde_json::value::RawValue;

use crate::facts::Facts;
use crate::key::modified;
use crate::schema::Class;

/// So many threads read a kept manifest at most.
const MAX_THREADS: usize = 4;

/// What is known of an installation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manifest {
    /// All but the classes: versions, modules, routes, folders of scripts.
    pub rest: Arc<Json>,
    /// Its classes, by name.
    pub classes: IndexMap<String, Class>,
    /// The folders that classes read, when they were last asked.
    pub read: HashMap<PathBuf, String>,
}

/// The file, as it is read.
#[derive(Deserialize)]
struct Kept {
    key: String,
    rest: Json,
    classes: IndexMap<String, Box<RawValue>>,
    read: HashMap<PathBuf, String>,
}

/// The file, as it is written.
#[derive(Serialize)]
struct Keeping<'a> {
    key: &'a str,
    rest: &'a Json,
    classes: IndexMap<&'a str, (&'a RawValue, &'a Facts)>,
    read: &'a HashMap<PathBuf, String>,
}

impl Manifest {
    /// What a worker told of itself, or of some of its classes.
    pub fn new(mut json: Json) -> Self {
        let told = json.get_mut("classes").map(Json::take);
        let mut classes = IndexMap::new();
        if let Some(Json::Object(told)) = told {
            for (name, mut json) in told {
                let info = json.get_mut("info").map(Json::take);
                let read = serde_json::from_value(json)
                    .and_then(|facts| Class::new(&name, info.as_ref().and_then(Json::as_str).unwrap_or_default(), facts));
                match read {
                    Ok(class) => drop(classes.insert(name, class)),
                    Err(error) => tracing::warn!("what the Python worker tells of the class '{name}' is not understood: {error}"),
                }
            }
        }
        if let Some(map) = json.as_object_mut() {
            for name in ["classes", "re", "id"] {
                map.shift_remove(name);
            }
        }
        let mut manifest = Self { rest: Arc::new(json), classes, read: HashMap::new() };
        manifest.read = manifest.folders();
        manifest
    }

    /// The folders that classes read, as they are now.
    pub fn folders(&self) -> HashMap<PathBuf, String> {
        let mut read = HashMap::new();
        for folder in self.classes.values().flat_map(|class| &class.facts.dirs) {
            read.entry(folder.clone()).or_insert_with(|| modified(folder));
        }
        read
    }

    /// The classes that read folders that have changed since.
    pub fn outdated(&self) -> Vec<String> {
        let now = self.folders();
        let changed = |folder: &PathBuf| self.read.get(folder) != now.get(folder);
        let outdated = self.classes.iter().filter(|(_, class)| class.facts.dirs.iter().any(changed));
        outdated.map(|(name, _)| name.clone()).collect()
    }

    /// This, with what was told anew of some classes after the folders were as `read` says.
    pub fn with(&self, newer: Self, read: HashMap<PathBuf, String>) -> Self {
        let mut manifest = self.clone();
        manifest.classes.extend(newer.classes);
        manifest.read.extend(newer.read);
        manifest.read.extend(read);
        manifest
    }

    /// This, with what was learnt of the same classes when prompts ran.
    pub fn learnt(mut self, before: &Self) -> Self {
        for (name, _) in before.classes.iter().filter(|(_, class)| class.facts.stays) {
            if let Some(class) = self.classes.get_mut(name).filter(|class| !class.facts.stays) {
                *class = class.staying();
            }
        }
        self
    }

    /// Whether clients would see no difference.
    pub fn same(&self, other: &Self) -> bool {
        let equal = |name: &String, class: &Class| {
            let other = other.classes.get(name);
            other.is_some_and(|other| other.schema == class.schema && other.facts == class.facts)
        };
        self.rest == other.rest && self.classes.len() == other.classes.len() && self.classes.iter().all(|(name, class)| equal(name, class))
    }

    /// Reads the file that is kept, if it fits the installation.
    pub fn read(path: &Path, key: &str) -> Option<Self> {
        if !Self::fits(path, key) {
            return None;
        }
        let damaged = |error: &dyn std::fmt::Display| tracing::warn!("{} is damaged and not used: {error}", path.display());
        let bytes = std::fs::read(path).inspect_err(|error| damaged(error)).ok()?;
        let kept: Kept = serde_json::from_slice(&bytes).inspect_err(|error| damaged(error)).ok()?;
        let classes = classes(&kept.classes).inspect_err(|error| damaged(error)).ok()?;
        Some(Self { rest: Arc::new(kept.rest), classes, read: kept.read }).filter(|_| kept.key == key)
    }

    /// Whether the file that is kept fits the installation. Its key stands at its beginning.
    pub fn fits(path: &Path, key: &str) -> bool {
        let expected = format!("{{\"key\":\"{key}\"");
        let mut start = vec![0; expected.len()];
        let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut start));
        read.is_ok() && start == expected.as_bytes()
    }

    /// Keeps it as a file, whole or not at all.
    pub fn write(&self, path: &Path, key: &str) -> std::io::Result<()> {
        let classes = self.classes.iter().map(|(name, class)| {
            let info = class.schema.hosted.as_ref().map_or("null", |hosted| &*hosted.info);
            Ok((name.as_str(), (serde_json::from_str(info)?, class.facts.as_ref())))
        });
        let classes = classes.collect::<serde_json::Result<_>>()?;
        let keeping = Keeping { key, rest: &self.rest, classes, read: &self.read };
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new().prefix(".python-").tempfile_in(folder)?;
        let mut writer = std::io::BufWriter::new(file.as_file_mut());
        serde_json::to_writer(&mut writer, &keeping)?;
        std::io::Write::flush(&mut writer)?;
        drop(writer);
        file.persist(path)?;
        Ok(())
    }
}

/// Reads the classes, which are most of the file, on several threads: the catalog is wanted soon after the start.
fn classes(texts: &IndexMap<String, Box<RawValue>>) -> serde_json::Result<IndexMap<String, Class>> {
    let read = |name: &String, text: &RawValue| {
        let (info, facts) = serde_json::from_str::<(&RawValue, Facts)>(text.get())?;
        Ok((name.clone(), Class::new(name, info.get(), facts)?))
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    let share = texts.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..texts.len().div_ceil(share))
            .map(|part| {
                scope.spawn(move || {
                    texts.iter().skip(part * share).take(share).map(|(name, text)| read(name, text)).collect::<serde_json::Result<Vec<_>>>()
                })
            })
            .collect();
        let mut classes = IndexMap::with_capacity(texts.len());
        for part in parts {
            let part = part.join().map_err(|_| serde::de::Error::custom("a thread that read it panicked"))?;
            classes.extend(part?);
        }
        Ok(classes)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_kept_is_what_was_told() {
        let folder = tempfile::tempdir().unwrap();
        let class = |index: usize| {
            let info = json!({"input": {"required": {"n": ["INT", {"default": index}]}}}).to_string();
            json!({"info": info, "once": true, "dirs": [folder.path()]})
        };
        let told: serde_json::Map<_, _> = (0..101).map(|index| (format!("Class{index}"), class(index))).collect();
        let manifest = Manifest::new(json!({"re": 3, "format": 1, "classes": told, "on_prompt": 2}));
        assert_eq!(*manifest.rest, json!({"format": 1, "on_prompt": 2}));
        let path = folder.path().join("data/python-x.json");
        manifest.write(&path, "k").unwrap();
        assert!(Manifest::read(&path, "other").is_none());
        let kept = Manifest::read(&path, "k").unwrap();
        assert!(kept.same(&manifest) && kept.classes.keys().eq(manifest.classes.keys()), "in the same order");
        assert!(kept.classes["Class100"].facts.once && kept.read == manifest.read);
        std::fs::write(folder.path().join("new"), "").unwrap();
        assert_eq!(kept.outdated().len(), 101);
        let newer = Manifest::new(json!({"classes": {"Class7": class(1_000)}}));
        assert!(!kept.with(newer, kept.folders()).same(&kept));
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace("\"once\":true", "\"once\":tru")).unwrap();
        assert!(Manifest::read(&path, "k").is_none(), "a damaged one");
    }
}
