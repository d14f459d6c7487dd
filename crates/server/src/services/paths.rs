//! What clients name, as folders and paths.

use std::path::{Path, PathBuf};

use comfyd_folders::{Kind, join_inside};

use crate::error::ApiError;

/// The folder that a client names, or 400.
pub(crate) fn parse_kind(name: &str) -> Result<Kind, ApiError> {
    Kind::parse(name).ok_or_else(|| ApiError::bad_request("the type must be 'input', 'output' or 'temp'").details(name))
}

/// Joins a client's relative path to a folder. 403 if it leads outside.
pub(crate) fn inside(root: &Path, relative: &str) -> Result<PathBuf, ApiError> {
    join_inside(root, Path::new(relative)).map_err(|error| match error {
        comfyd_folders::Error::Outside { .. } => ApiError::forbidden("the path leads outside: give a relative one").details(relative),
        error => error.into(),
    })
}
