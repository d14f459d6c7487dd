//! Files that the server keeps for its users: never replaced because they could not be read.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use axum::http::StatusCode;
use serde_json::{Map, Value};

use crate::error::ApiError;

/// The object in a JSON file below `root`; `None` where there is no such file. A file that cannot be read is an error that names it: if it
/// counted as empty, the next change would replace it.
pub(crate) fn stored_object(root: &Path, path: &Path) -> Result<Option<Map<String, Value>>, ApiError> {
    let damaged = |reason: &dyn std::fmt::Display| {
        let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
        tracing::error!(file = %path.display(), "a stored file cannot be read and stays as it is: {reason}");
        let message = format!("'{name}' in the user folder cannot be read ({reason}): mend the file, or move it away to begin anew");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged_file", message)
    };
    match fs::read(path) {
        Ok(text) => match comfyd_wire::json::read(&text).map_err(|e| damaged(&e))? {
            Value::Object(object) => Ok(Some(object)),
            _ => Err(damaged(&"it is no object")),
        },
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(damaged(&e)),
    }
}
