//! Files that clients store in the input, output and temp folders: under which name, and what a mask belongs to.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use comfyd_folders::whole::{Replace, is_unfinished};
use comfyd_folders::{Folders, Kind, split_annotation};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::app::App;
use crate::error::ApiError;
use crate::principal::Principal;
use crate::services::assets::{self, UploadedAsset};
use crate::services::paths::parse_kind;

/// Numbers that are tried for a free name.
const MAX_NUMBER: u32 = 10_000;

/// What a form says.
#[derive(Default)]
pub(crate) struct Upload {
    pub file: Option<(String, Bytes)>,
    pub overwrite: bool,
    pub kind: Option<String>,
    pub subfolder: String,
    pub original_ref: Option<String>,
}

/// Where a file was stored.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Uploaded {
    name: String,
    subfolder: String,
    #[serde(rename = "type")]
    #[schema(inline)]
    kind: FileKind,
    /// What is known of it, where assets are on.
    #[serde(skip_serializing_if = "Option::is_none")]
    asset: Option<UploadedAsset>,
}

impl Uploaded {
    /// The same, taken among the assets.
    pub(crate) fn with_asset(self, app: &App, principal: &Principal) -> Self {
        let kind = match self.kind {
            FileKind::Input => Kind::Input,
            FileKind::Output => Kind::Output,
            FileKind::Temp => Kind::Temp,
        };
        let asset = assets::stored(app, principal, kind, &self.subfolder, &self.name);
        Self { asset, ..self }
    }
}

/// The folder that a file is in.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum FileKind {
    Input,
    Output,
    Temp,
}

impl From<Kind> for FileKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Input => Self::Input,
            Kind::Output => Self::Output,
            Kind::Temp => Self::Temp,
        }
    }
}

/// Stores the form's file, changed by `change`, and tells where. The same bytes under the same name are not stored twice.
pub(crate) fn store(folders: &Folders, form: Upload, change: impl FnOnce(Bytes) -> Result<Bytes, ApiError>) -> Result<Uploaded, ApiError> {
    let (name, bytes) = form.file.ok_or_else(|| ApiError::bad_request("no file came: send it as the part 'image' with a file name"))?;
    let name = file_name(&name)?;
    let kind = form.kind.as_deref().map_or(Ok(Kind::Input), parse_kind)?;
    let folder = folders.inside(kind, Path::new(&form.subfolder))?;
    let subfolder = folders.told(kind, &folder, &form.subfolder);
    let stored = |name: String| Ok(Uploaded { name, subfolder: subfolder.clone(), kind: kind.into(), asset: None });
    let is_same = |path: &Path| Ok::<_, ApiError>(folders.here(path)? && std::fs::read(path).is_ok_and(|old| old == bytes));
    if !form.overwrite && is_same(&folder.join(&name))? {
        return stored(name);
    }
    let changed = change(bytes.clone())?;
    if form.overwrite {
        folders.write(&folder.join(&name), &changed, Replace::Yes)?;
        return stored(name);
    }
    for number in 0..MAX_NUMBER {
        let candidate = if number == 0 { name.clone() } else { numbered(&name, number) };
        let path = folder.join(&candidate);
        if folders.exists(&path) {
            if is_same(&path)? {
                return stored(candidate);
            }
            continue;
        }
        // Somebody else may take the name between the question and the answer: then the next one is tried.
        if folders.write(&path, &changed, Replace::No)? {
            return stored(candidate);
        }
    }
    Err(ApiError::conflict("there are too many files of that name: choose another one").details(name))
}

/// The name under which a file is stored: one path component, slashes percent-encoded.
fn file_name(name: &str) -> Result<String, ApiError> {
    let name = name.replace('/', "%2F");
    if name.is_empty() || name == "." || name == ".." || name.len() > 240 || name.chars().any(char::is_control) || is_unfinished(&name) {
        let rule = "the file name cannot be used: send 1 to 240 bytes without control characters, not the name of an unfinished file";
        return Err(ApiError::bad_request(rule).details(name));
    }
    Ok(name)
}

/// `a.png` and 2 → `a (2).png`.
fn numbered(name: &str, number: u32) -> String {
    match name.rfind('.') {
        Some(dot) if name[..dot].bytes().any(|b| b != b'.') => format!("{} ({number}){}", &name[..dot], &name[dot..]),
        _ => format!("{name} ({number})"),
    }
}

/// The picture that a mask belongs to, named as `{"filename", "type", "subfolder"}`.
pub(crate) fn original_path(folders: &Folders, reference: Option<&str>) -> Result<PathBuf, ApiError> {
    let shape =
        || ApiError::bad_request("'original_ref' must be JSON such as {\"filename\": \"a.png\", \"type\": \"input\", \"subfolder\": \"\"}");
    let reference = comfyd_wire::json::read(reference.ok_or_else(shape)?.as_bytes()).map_err(|e| shape().details(e.to_string()))?;
    let (name, kind) = split_annotation(reference.get("filename").and_then(Value::as_str).ok_or_else(shape)?);
    if name.is_empty() || name.starts_with('/') || name.contains("..") || name.contains('\0') {
        return Err(ApiError::bad_request("the original's file name must be relative and without '..'").details(name));
    }
    let kind = match kind {
        Some(kind) => kind,
        None => parse_kind(reference.get("type").and_then(Value::as_str).unwrap_or("output"))?,
    };
    let subfolder = reference.get("subfolder").and_then(Value::as_str).unwrap_or_default();
    folders.found(kind, Path::new(subfolder)).map_err(|e| ApiError::forbidden(e.to_string()))?;
    let path = folders.found(kind, &Path::new(subfolder).join(name))?;
    if !folders.here(&path)? {
        return Err(ApiError::not_found("the original picture of the mask is not there: upload it first").details(name));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn form(bytes: &[u8], overwrite: bool) -> Upload {
        Upload { file: Some(("a.png".into(), Bytes::copy_from_slice(bytes))), overwrite, ..Upload::default() }
    }

    fn folders(dir: &Path) -> Folders {
        Folders::new(comfyd_folders::Roots::under(dir)).unwrap()
    }

    #[test]
    fn the_same_bytes_keep_the_name_and_others_are_numbered() {
        let dir = tempfile::tempdir().unwrap();
        let folders = folders(dir.path());
        let put = |bytes: &[u8], overwrite| store(&folders, form(bytes, overwrite), Ok).unwrap().name;
        assert_eq!(put(b"1", false), "a.png");
        assert_eq!(put(b"1", false), "a.png");
        assert_eq!(put(b"2", false), "a (1).png");
        assert_eq!(put(b"2", false), "a (1).png");
        assert_eq!(put(b"3", false), "a (2).png");
        assert_eq!(put(b"4", true), "a.png");
        assert_eq!(std::fs::read(dir.path().join("input/a.png")).unwrap(), b"4");
        assert_eq!(std::fs::read_dir(dir.path().join("input")).unwrap().count(), 3);
    }

    #[test]
    fn names_stay_one_component() {
        assert_eq!(file_name("../../evil.png").unwrap(), "..%2F..%2Fevil.png");
        assert!(file_name("..").is_err());
        assert!(file_name("a\0.png").is_err());
        assert_eq!(numbered(".hidden", 1), ".hidden (1)");
        assert_eq!(numbered("a.tar.gz", 1), "a.tar (1).gz");
    }
}
