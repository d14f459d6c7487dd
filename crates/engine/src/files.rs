//! Files that were opened, so that the same file is opened and held once.

use std::any::Any;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use comfyd_folders::FileVersion;
use parking_lot::Mutex;

use crate::{Error, Result};

/// A file and its state: in another state it is another file.
type Version = (PathBuf, FileVersion);

/// The most entries that are remembered; past that all are forgotten and opened again.
const MAX_FILES: usize = 256;

/// The kind of what was made, and the files that it was made of.
type Key = (&'static str, Vec<Version>);

/// What was made of files.
#[derive(Default)]
pub(crate) struct Files {
    opened: Mutex<HashMap<Key, Arc<dyn Any + Send + Sync>>>,
}

impl Files {
    /// What `open` makes of these files, or what it made before of the same state of them. `kind` tells different things apart that are
    /// made of the same file. Errors name the first file.
    pub(crate) fn get<T: Any + Send + Sync + Clone>(
        &self,
        kind: &'static str,
        paths: &[&Path],
        open: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let first = paths.first().copied().unwrap_or(Path::new(""));
        let versions = paths.iter().map(|path| version(path)).collect::<Result<Vec<_>>>()?;
        let key = (kind, versions);
        if let Some(found) = self.opened.lock().get(&key).and_then(|object| object.downcast_ref::<T>()) {
            return Ok(found.clone());
        }
        let made = open().map_err(|error| error.in_file(first))?;
        let mut opened = self.opened.lock();
        if opened.len() >= MAX_FILES {
            opened.clear();
        }
        opened.insert(key, Arc::new(made.clone()));
        Ok(made)
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.opened.lock().clear();
    }
}

fn version(path: &Path) -> Result<Version> {
    let fail = |error: std::io::Error| Error::msg(format!("cannot read {}: {error}; choose another file", path.display()));
    let version = std::fs::metadata(path).and_then(|metadata| FileVersion::of(&metadata)).map_err(fail)?;
    Ok((path.to_owned(), version))
}
