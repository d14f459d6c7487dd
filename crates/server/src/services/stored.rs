//! Files that the server keeps for its users: whole or not at all, and never replaced because they could not be read.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use axum::http::StatusCode;
use comfyd_folders::whole::{self, Replace};
use serde_json::{Map, Value};

use crate::error::{ApiError, is_disk_full};

/// Writes a file that appears whole or not at all, making its folders. Whether it was put there: `false` only where there is one already
/// that is not to be replaced.
pub(crate) fn write_file(path: &Path, bytes: &[u8], replace: Replace) -> Result<bool, ApiError> {
    let failed = |e: std::io::Error| match e.kind() {
        _ if is_disk_full(&e) => ApiError::disk_full(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => ApiError::internal(format!("the file cannot be written: {e}")),
        // What remains is about the name: too long, a folder, a file in place of a folder.
        _ => ApiError::bad_request(format!("no file can be written under that name: {e}")),
    };
    whole::write(path, bytes, replace).map_err(failed)
}

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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_file_is_replaced_only_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.json");
        assert!(write_file(&path, b"1", Replace::No).unwrap());
        assert!(!write_file(&path, b"2", Replace::No).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"1");
        assert!(write_file(&path, b"3", Replace::Yes).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"3");
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 1, "no temporary file stays");
    }
}
