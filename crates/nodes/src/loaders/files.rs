//! Model files by the names that clients give them, and how a change of a file is noticed.

use std::path::PathBuf;

use comfyd_node::{CancellationToken, Error, Fingerprint, Inputs, Result};

use crate::services::State;

/// The path of a model file that a client names.
pub(crate) fn model_file(state: &State, folder: &str, name: &str) -> Result<PathBuf> {
    let path = state.services.folders.model_path(folder, name);
    path.ok_or_else(|| Error::msg(format!("there is no file '{name}' in the model folder {folder}; put it there or choose another one")))
}

/// The content of the files that the widgets name decides the result. `files` holds folders and inputs.
pub(crate) fn files_fingerprint(state: &State, inputs: &Inputs, cancel: &CancellationToken, files: &[(&str, &str)]) -> Result<Fingerprint> {
    let mut paths = Vec::new();
    for (folder, input) in files {
        // A linked name is not known yet; the node is run again then.
        if inputs.optional(input).is_none() {
            return Ok(Fingerprint::Always);
        }
        // A missing file is the node's error, not that of the comparison.
        let Some(path) = state.services.folders.model_path(folder, inputs.text(input)?) else { return Ok(Fingerprint::Always) };
        paths.push(path);
    }
    contents(state, cancel, &paths)
}

/// The content of these files decides the result.
pub(crate) fn contents(state: &State, cancel: &CancellationToken, paths: &[PathBuf]) -> Result<Fingerprint> {
    let hashes = paths.iter().map(|path| state.file_hash(path, cancel)).collect::<Result<Vec<_>>>()?;
    Ok(Fingerprint::Text(hashes.join(" ")))
}
