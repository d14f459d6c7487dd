//! What is known of an installation: its classes, and what packs brought along. Kept as a file, and good as long as the installation's key
//! stays.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::facts::Facts;
use crate::key::modified;
use crate::schema::Class;

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
    classes: IndexMap<String, (Json, Facts)>,
    read: HashMap<PathBuf, String>,
}

/// The file, as it is written.
#[derive(Serialize)]
struct Keeping<'a> {
    key: &'a str,
    rest: &'a Json,
    classes: IndexMap<&'a str, (&'a Json, &'a Facts)>,
    read: &'a HashMap<PathBuf, String>,
}

impl Manifest {
    /// What a worker told of itself, or of some of its classes.
    pub fn new(mut json: Json) -> Self {
        let told = json.get_mut("classes").map(Json::take);
        let mut classes = IndexMap::new();
        if let Some(Json::Object(told)) = told {
            for (name, mut json) in told {
                let info = json.get_mut("info").map(Json::take).unwrap_or_default();
                let facts = serde_json::from_value(json).unwrap_or_else(|error| {
                    tracing::warn!("what the Python worker tells of the class '{name}' is not understood: {error}");
                    Facts::default()
                });
                classes.insert(name.clone(), Class::new(&name, info, facts));
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
        let bytes = std::fs::read(path).ok()?;
        let kept: Kept = serde_json::from_slice(&bytes)
            .inspect_err(|error| tracing::warn!("{} is damaged and not used: {error}", path.display()))
            .ok()?;
        if kept.key != key {
            return None;
        }
        let classes = kept.classes.into_iter().map(|(name, (info, facts))| {
            let class = Class::new(&name, info, facts);
            (name, class)
        });
        Some(Self { rest: Arc::new(kept.rest), classes: classes.collect(), read: kept.read })
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
        let info = |class: &'_ Class| class.schema.hosted.clone();
        let infos: Vec<_> = self.classes.values().map(info).collect();
        let empty = Json::Null;
        let classes = self.classes.iter().zip(&infos).map(|((name, class), hosted)| {
            let info = hosted.as_ref().map_or(&empty, |hosted| &hosted.info);
            (name.as_str(), (info, class.facts.as_ref()))
        });
        let keeping = Keeping { key, rest: &self.rest, classes: classes.collect(), read: &self.read };
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
