//! Model files by the names that clients give them, and how a change of a file is noticed.

use std::path::{Path, PathBuf};

use comfyd_engine::Engine;
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

/// Why the engine cannot load the files that the widgets name: `load` reads no more of them than what tells their kind. `files` holds folders
/// and inputs. A missing file is the node's error wherever it runs.
pub(crate) fn declined<T>(
    state: &State,
    inputs: &Inputs,
    files: &[(&str, &str)],
    load: impl FnOnce(&Engine, &[&Path]) -> comfyd_engine::Result<T>,
) -> Option<Error> {
    let mut paths = Vec::new();
    for (folder, input) in files {
        let Ok(name) = inputs.text(input) else {
            return Some(Error::msg(format!("the file of its input '{input}' is not known before the prompt runs")));
        };
        paths.push(state.services.folders.model_path(folder, name)?);
    }
    let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    load(&state.services.engine, &paths).err().map(Error::from)
}
