//! The files that the front end keeps for a user, such as workflows: where they are, what there is, moving and removing them.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use comfyd_folders::Folders;
use comfyd_folders::shared::{SharedFile, is_unusable};
use comfyd_folders::whole::{self, Replace};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::{ApiError, is_disk_full};
use crate::services::paths::inside;

/// Entries that one listing may have.
const MAX_ENTRIES: usize = 100_000;
/// Folders deeper than this are not entered.
const MAX_DEPTH: usize = 32;

/// A file or folder below a listed one.
pub(crate) struct Entry {
    /// Relative, with forward slashes.
    pub path: String,
    pub facts: Facts,
}

/// What is known of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub is_folder: bool,
    pub bytes: u64,
    /// Seconds since 1970.
    pub modified: f64,
    created: f64,
}

impl From<&Metadata> for Facts {
    fn from(meta: &Metadata) -> Self {
        let (modified, created) = times(meta);
        Self { is_folder: meta.is_dir(), bytes: meta.len(), modified, created }
    }
}

impl From<&SharedFile> for Facts {
    fn from(file: &SharedFile) -> Self {
        // A copy here has this time.
        let modified = file.time().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        Self { is_folder: false, bytes: file.bytes, modified, created: modified }
    }
}

impl Entry {
    /// The last part of the path.
    pub(crate) fn name(&self) -> &str {
        last_part(&self.path)
    }
}

/// What is told of a file.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FileInfo {
    /// From the user's folder, or from the folder that was listed.
    path: String,
    /// Bytes.
    size: u64,
    /// Milliseconds since 1970.
    modified: i64,
    /// Milliseconds since 1970.
    created: i64,
}

impl FileInfo {
    pub(crate) fn of(path: String, facts: &Facts) -> Self {
        let milliseconds = |seconds: f64| (seconds * 1000.0) as i64;
        Self { path, size: facts.bytes, modified: milliseconds(facts.modified), created: milliseconds(facts.created) }
    }
}

/// When a file was changed and made, in seconds since 1970. Where the system does not know the latter, it is the former.
pub(crate) fn times(meta: &Metadata) -> (f64, f64) {
    let seconds =
        |time: std::io::Result<SystemTime>| time.ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default().as_secs_f64();
    (seconds(meta.modified()), seconds(meta.created().or_else(|_| meta.modified())))
}

/// The path of a user's file or folder. Clients may have encoded the name twice.
pub(crate) fn user_path(base: &Path, name: &str) -> Result<PathBuf, ApiError> {
    inside(base, &percent_decode_str(name).decode_utf8_lossy())
}

/// A user's file, which cannot be the user's folder itself.
pub(crate) fn user_file(base: &Path, name: &str) -> Result<PathBuf, ApiError> {
    let path = user_path(base, name)?;
    if path == base { Err(ApiError::forbidden("that is the user's folder: name a file in it")) } else { Ok(path) }
}

/// What a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    File,
    Folder,
}

/// What there is of this name.
pub(crate) fn found(folders: &Folders, path: &Path) -> Result<Found, ApiError> {
    Ok(match folders.listed_shared(path)? {
        None if path.is_dir() => Found::Folder,
        None if path.exists() => Found::File,
        None => Found::Nothing,
        Some(files) if !files.is_empty() => Found::Folder,
        Some(_) if folders.exists(path) => Found::File,
        Some(_) => Found::Nothing,
    })
}

/// The files in a folder, with `recurse` in its folders too; those whose names begin with a dot are left out.
pub(crate) fn files(folders: &Folders, folder: &Path, recurse: bool) -> Result<Vec<Entry>, ApiError> {
    if let Some(shared) = folders.listed_shared(folder)? {
        let shown = |path: &String| path.split('/').all(|part| !part.starts_with('.')) && (recurse || !path.contains('/'));
        let shared = shared.into_iter().filter(|(path, _)| shown(path));
        return Ok(shared.map(|(path, file)| Entry { path, facts: Facts::from(&file) }).collect());
    }
    let mut entries = Vec::new();
    walk(folder, folder, if recurse { MAX_DEPTH } else { 0 }, Hidden::Skip, &mut entries);
    entries.retain(|entry| !entry.facts.is_folder);
    Ok(entries)
}

/// All files and folders below a folder, named from `base`: folders first, then by name.
pub(crate) fn entries(folders: &Folders, base: &Path, folder: &Path) -> Result<Vec<Entry>, ApiError> {
    let mut entries = Vec::new();
    match folders.listed_shared(folder)? {
        Some(shared) => {
            let below = folder.strip_prefix(base).ok().and_then(Path::to_str).unwrap_or_default().replace('\\', "/");
            let named = |path: &str| if below.is_empty() { path.to_owned() } else { format!("{below}/{path}") };
            let parents = shared.iter().flat_map(|(path, _)| path.match_indices('/').map(|(end, _)| &path[..end]));
            let parents: BTreeSet<&str> = parents.collect();
            entries
                .extend(parents.into_iter().map(|path| Entry { path: named(path), facts: Facts { is_folder: true, ..Facts::default() } }));
            entries.extend(shared.iter().map(|(path, file)| Entry { path: named(path), facts: Facts::from(file) }));
        }
        None => walk(base, folder, MAX_DEPTH, Hidden::Show, &mut entries),
    }
    entries.sort_by_cached_key(|e| (!e.facts.is_folder, e.name().to_lowercase(), e.path.clone()));
    Ok(entries)
}

/// What is done with names that start with a dot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hidden {
    Show,
    Skip,
}

/// Adds what is in `folder`, named relative to `base`, and in its folders down to `depth`, sorted by name. Links to folders are not entered.
fn walk(base: &Path, folder: &Path, depth: usize, hidden: Hidden, entries: &mut Vec<Entry>) {
    let Ok(read) = fs::read_dir(folder) else { return };
    let mut children: Vec<_> = read.flatten().take(MAX_ENTRIES).collect();
    children.sort_by_key(fs::DirEntry::file_name);
    for child in children {
        if entries.len() >= MAX_ENTRIES {
            return;
        }
        let path = child.path();
        let (Ok(meta), Some(relative)) = (fs::metadata(&path), path.strip_prefix(base).ok().and_then(Path::to_str)) else { continue };
        if hidden == Hidden::Skip && last_part(relative).starts_with('.') || whole::is_unfinished(last_part(relative)) {
            continue;
        }
        entries.push(Entry { path: relative.replace('\\', "/"), facts: Facts::from(&meta) });
        if depth > 0 && child.file_type().is_ok_and(|t| t.is_dir()) {
            walk(base, &path, depth - 1, hidden, entries);
        }
    }
}

fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Stores a file of the user whose folder is `base`; where it is.
pub(crate) fn store(folders: &Folders, base: &Path, name: &str, bytes: &[u8], replace: Replace) -> Result<PathBuf, ApiError> {
    let path = user_file(base, name)?;
    if folders.write(&path, bytes, replace)? { Ok(path) } else { Err(exists_already(name)) }
}

/// Removes a file.
pub(crate) fn remove(folders: &Folders, base: &Path, name: &str) -> Result<(), ApiError> {
    let path = user_file(base, name)?;
    match folders.remove(&path) {
        Ok(()) => Ok(()),
        Err(away) if is_unusable(&away) => Err(away.into()),
        Err(_) if !folders.exists(&path) => Err(ApiError::not_found("there is no such file").details(name)),
        Err(_) if path.is_dir() => Err(ApiError::bad_request("that is a folder: name a file").details(name)),
        Err(e) => Err(ApiError::internal(format!("the file cannot be removed: {e}"))),
    }
}

/// Moves a file; where it is then.
pub(crate) fn rename(folders: &Folders, base: &Path, name: &str, target_name: &str, replace: Replace) -> Result<PathBuf, ApiError> {
    let source = user_file(base, name)?;
    if found(folders, &source)? == Found::Nothing {
        return Err(ApiError::not_found("there is no such file").details(name));
    }
    let target = user_file(base, target_name)?;
    match found(folders, &target)? {
        Found::Nothing => {}
        Found::File if replace == Replace::Yes => {}
        Found::File | Found::Folder => return Err(exists_already(target_name)),
    }
    let failed = |e: std::io::Error| match is_disk_full(&e) || is_unusable(&e) {
        true => e.into(),
        false => ApiError::bad_request(format!("the file cannot be moved there: {e}")),
    };
    if folders.rename(&source, &target, replace).map_err(failed)? { Ok(target) } else { Err(exists_already(target_name)) }
}

fn exists_already(name: &str) -> ApiError {
    ApiError::conflict("the file is there already: choose another name or leave out overwrite=false").details(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn doubly_encoded_names_cannot_lead_outside() {
        let base = Path::new("/u/default");
        assert_eq!(user_file(base, "t1%2Fa.json").unwrap(), Path::new("/u/default/t1/a.json"));
        assert_eq!(user_file(base, "100%").unwrap(), Path::new("/u/default/100%"));
        assert_eq!(user_file(base, "%zz%41").unwrap(), Path::new("/u/default/%zzA"));
        assert!(user_file(base, "%2e%2e%2fx").is_err());
        assert!(user_file(base, "../x").is_err());
        assert!(user_file(base, "/etc/passwd").is_err());
        assert!(user_file(base, ".").is_err());
    }
}
