//! Model files by the names that clients give them, and how a change of a file is noticed.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use comfyd_node::{Error, Fingerprint, Inputs, Result};

use crate::services::State;

/// The path of a model file that a client names.
pub(crate) fn model_file(state: &State, folder: &str, name: &str) -> Result<PathBuf> {
    let path = state.services.folders.model_path(folder, name);
    path.ok_or_else(|| Error::msg(format!("there is no file '{name}' in the model folder {folder}; put it there or choose another one")))
}

/// The files that the widgets name decide the result: their paths, times and sizes. `files` holds folders and inputs.
pub(crate) fn files_fingerprint(state: &State, inputs: &Inputs, files: &[(&str, &str)]) -> Result<Fingerprint> {
    let mut versions = Vec::new();
    for (folder, input) in files {
        // A linked name is not known yet; the node is run again then.
        if inputs.optional(input).is_none() {
            return Ok(Fingerprint::Always);
        }
        // A missing file is the node's error, not that of the comparison.
        let path = state.services.folders.model_path(folder, inputs.text(input)?);
        versions.push(path.map_or_else(String::new, |path| version(&path)));
    }
    Ok(Fingerprint::Text(versions.join(" ")))
}

/// A file's path, time and size.
pub(crate) fn version(path: &Path) -> String {
    let info = path.metadata().ok();
    let size = info.as_ref().map_or(0, std::fs::Metadata::len);
    let time = info.and_then(|info| info.modified().ok()).and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    format!("{} {} {size}", path.display(), time.as_nanos())
}
