//! What clients name, as folders and paths.

use std::path::{Path, PathBuf};

use comfyd_folders::{Folders, Kind, join_inside, split_annotation};

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

/// A file of the input, output or temp folder that a client wants to see, and its name. The file name may end in ` [input]` and the like, which
/// goes before `kind`. It may not be there.
pub(crate) fn shown_file<'a>(folders: &Folders, filename: &'a str, kind: &str, subfolder: &str) -> Result<(PathBuf, &'a str), ApiError> {
    let (filename, annotated) = split_annotation(filename);
    if filename.is_empty() || filename.starts_with('/') || filename.contains("..") || filename.contains('\0') {
        return Err(ApiError::bad_request("the file name must be a plain name: put its folder in 'subfolder'").details(filename));
    }
    let kind = annotated.map_or_else(|| parse_kind(kind), Ok)?;
    let outside = |_| ApiError::forbidden("the subfolder leads outside: give a relative one").details(subfolder);
    folders.found(kind, Path::new(subfolder)).map_err(outside)?;
    let name = filename.rsplit('/').next().unwrap_or(filename);
    Ok((folders.found(kind, &Path::new(subfolder).join(name))?, name))
}
