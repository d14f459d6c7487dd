//! Files that were opened, so that the same file is opened and held once.

use std::any::Any;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use comfyd_folders::FileVersion;
use parking_lot::Mutex;

use crate::{Error, Result};

/// The most entries that are remembered; past that all are forgotten and opened again.
const MAX_FILES: usize = 256;

/// The kind of what was made, and the files that it was made of.
type Key = (&'static str, Vec<PathBuf>);

/// What was made, and the states that the files were in.
type Made = (Vec<FileVersion>, Arc<dyn Any + Send + Sync>);

/// What was made of files.
#[derive(Default)]
pub(crate) struct Files {
    opened: Mutex<HashMap<Key, Made>>,
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
        let key = (kind, paths.iter().map(|path| path.to_path_buf()).collect());
        let found = self.opened.lock().get(&key).filter(|(known, _)| *known == versions).map(|(_, object)| Arc::clone(object));
        if let Some(found) = found.as_ref().and_then(|object| object.downcast_ref::<T>()) {
            return Ok(found.clone());
        }
        let made = open().map_err(|error| error.in_file(first))?;
        let mut opened = self.opened.lock();
        if opened.len() >= MAX_FILES {
            opened.clear();
        }
        opened.insert(key, (versions, Arc::new(made.clone())));
        Ok(made)
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.opened.lock().clear();
    }
}

fn version(path: &Path) -> Result<FileVersion> {
    let version = std::fs::metadata(path).and_then(|metadata| FileVersion::of(&metadata));
    version.map_err(|error| Error::msg(format!("cannot read {}: {error}; choose another file", path.display())))
}
