//! Lists of model files and of the front end's extensions, and pictures that show what a model does.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Path as UrlPath, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use comfyd_folders::{MODEL_EXTENSIONS, extension};
use serde_json::{Value, json};

use crate::json::whole;
use crate::openapi::{Doc, Table};
use crate::routes::view::{blocking, decode, encode_webp, inside, safetensors_header};
use crate::{ApiError, App, FrontEnd};

/// Longest safetensors header that is searched for a cover picture, in bytes.
const MAX_HEADER: u64 = 8 * 1024 * 1024;
/// Largest picture file that is used as a preview, in bytes.
const MAX_PREVIEW: u64 = 64 * 1024 * 1024;
/// WebP quality of previews.
const PREVIEW_QUALITY: u8 = 80;
/// Scripts of extensions that are listed.
const MAX_SCRIPTS: usize = 10_000;
/// Folders of extensions deeper than this are not entered.
const MAX_DEPTH: usize = 16;

/// The routes of this module.
pub(super) fn routes() -> Table {
    Table::default()
        .get("/embeddings", embeddings, Doc::new("models", "Names of embeddings.").json("Names"))
        .get("/models", folders, Doc::new("models", "Names of model folders.").json("Names"))
        .get("/models/{folder}", files, Doc::new("models", "Files of a model folder.").json("Names"))
        .get("/extensions", extensions, Doc::new("front end", "Scripts of extensions.").json("Names"))
        .get("/experiment/models", folders_with_paths, Doc::new("models", "Model folders with their paths.").json("ModelFolders"))
        .get("/experiment/models/{folder}", files_with_paths, Doc::new("models", "Files of a model folder in detail.").json("ModelFiles"))
        .get(
            "/experiment/models/preview/{folder}/{path_index}/{*filename}",
            preview,
            Doc::new("models", "A picture that shows what a model does.").bytes("image/webp"),
        )
}

fn no_folder(name: &str) -> ApiError {
    ApiError::not_found("there is no such model folder: see /models").details(name)
}

async fn embeddings(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    blocking(move || {
        let files = app.folders.model_files("embeddings").unwrap_or_default();
        Ok(Json(files.iter().map(|f| Value::from(&f[..f.len() - extension(f).len()])).collect()))
    })
    .await
}

async fn folders(State(app): State<App>) -> Json<Value> {
    Json(app.folders.model_folders().map(Value::from).collect())
}

async fn files(State(app): State<App>, UrlPath(folder): UrlPath<String>) -> Result<Json<Vec<String>>, ApiError> {
    blocking(move || app.folders.model_files(&folder).map(Json).ok_or_else(|| no_folder(&folder))).await
}

async fn folders_with_paths(State(app): State<App>) -> Json<Value> {
    let listed = app.folders.model_folders().filter(|name| !matches!(*name, "configs" | "custom_nodes"));
    Json(listed.map(|name| json!({"name": name, "folders": app.folders.model_paths(name).unwrap_or_default()})).collect())
}

async fn files_with_paths(State(app): State<App>, UrlPath(folder): UrlPath<String>) -> Result<Json<Value>, ApiError> {
    blocking(move || {
        let paths = app.folders.model_paths(&folder).ok_or_else(|| no_folder(&folder))?;
        let files = app.folders.model_files_by_path(&folder).unwrap_or_default();
        let shown = files
            .into_iter()
            .filter(|(_, name)| MODEL_EXTENSIONS.contains(&extension(name).as_str()) && !name.split('/').any(|part| part.starts_with('.')));
        let described = shown.filter_map(|(index, name)| {
            // A file may go between listing and asking.
            let meta = paths.get(index)?.join(&name).metadata().ok()?;
            let created = meta.created().or_else(|_| meta.modified());
            Some(json!({
                "name": name,
                "pathIndex": index,
                "modified": seconds(meta.modified().ok()),
                "created": seconds(created.ok()),
                "size": meta.len(),
            }))
        });
        Ok(Json(described.collect()))
    })
    .await
}

fn seconds(time: Option<SystemTime>) -> f64 {
    time.and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default().as_secs_f64()
}

async fn extensions(State(app): State<App>) -> Result<Json<Vec<String>>, ApiError> {
    blocking(move || {
        let mut scripts = Vec::new();
        if let FrontEnd::Folder(root) = &app.options.front_end {
            find_scripts(root, &root.join("extensions"), MAX_DEPTH, &mut scripts);
            scripts.sort_unstable();
        }
        Ok(Json(scripts))
    })
    .await
}

fn find_scripts(root: &Path, folder: &Path, depth: usize, scripts: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") || scripts.len() >= MAX_SCRIPTS {
            continue;
        }
        if path.is_dir() {
            if depth > 0 {
                find_scripts(root, &path, depth - 1, scripts);
            }
        } else if path.extension().is_some_and(|e| e == "js")
            && let Some(relative) = path.strip_prefix(root).ok().and_then(Path::to_str)
        {
            scripts.push(format!("/{}", relative.replace('\\', "/")));
        }
    }
}

async fn preview(State(app): State<App>, UrlPath((folder, index, name)): UrlPath<(String, String, String)>) -> Result<Response, ApiError> {
    blocking(move || {
        let none = || ApiError::not_found("there is no preview of that model").details(&name);
        let paths = app.folders.model_paths(&folder).ok_or_else(|| no_folder(&folder))?;
        let index =
            whole(&index).flatten().ok_or_else(|| ApiError::bad_request("the path index must be a whole number").details(&index))?;
        let model = inside(paths.get(index).ok_or_else(none)?, &name)?;
        let picture = picture_beside(&model).or_else(|| cover(&model)).ok_or_else(none)?;
        let webp = encode_webp(&decode(&picture).map_err(|_| none())?, PREVIEW_QUALITY, false)?;
        Ok(([(header::CONTENT_TYPE, "image/webp"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], webp).into_response())
    })
    .await
}

/// The picture `name.png`, or `name.preview.png`, next to `name.safetensors`; with any ending of pictures that can be read.
fn picture_beside(model: &Path) -> Option<Vec<u8>> {
    let stem = model.file_stem()?.to_str()?;
    let mut found: Vec<PathBuf> = std::fs::read_dir(model.parent()?).ok()?.flatten().map(|e| e.path()).filter(|p| shows(p, stem)).collect();
    found.sort_unstable();
    let path = found.first()?;
    (path.metadata().ok()?.len() <= MAX_PREVIEW).then(|| std::fs::read(path).ok()).flatten()
}

fn shows(path: &Path, stem: &str) -> bool {
    let Some(name) = path.file_stem().and_then(|s| s.to_str()) else { return false };
    let wanted = name == stem || name.strip_suffix(".preview") == Some(stem);
    let ending = path.file_name().and_then(|s| s.to_str()).map(extension).unwrap_or_default();
    wanted && path.is_file() && comfyd_imaging::decode::endings().contains(&ending.as_str())
}

/// The first of the pictures that trainers put into `ssmd_cover_images`: a JSON list, as text, of Base64.
fn cover(model: &Path) -> Option<Vec<u8>> {
    let header = safetensors_header(&model.with_extension("safetensors"), MAX_HEADER)?;
    let covers = comfyd_wire::json::read(header.get("__metadata__")?.get("ssmd_cover_images")?.as_str()?.as_bytes()).ok()?;
    base64(covers.get(0)?.as_str()?)
}

/// Decodes Base64 (RFC 4648, the standard alphabet); line breaks are skipped.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0u32);
    for byte in text.trim_end().trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'\r' | b'\n' => continue,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn base64_follows_the_rfc_examples() {
        for (text, plain) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg==", "foob"), ("Zm9v\nYmFy", "foobar")] {
            assert_eq!(base64(text).unwrap(), plain.as_bytes());
        }
        assert_eq!(base64("Zm9*"), None);
    }

    #[test]
    fn previews_are_pictures_named_like_the_model() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["m.safetensors", "m.txt", "m.preview.png", "mm.png"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        assert_eq!(picture_beside(&dir.path().join("m.safetensors")).unwrap(), b"m.preview.png");
        assert_eq!(picture_beside(&dir.path().join("other.safetensors")), None);
    }

    #[test]
    fn scripts_are_named_from_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("extensions/core")).unwrap();
        std::fs::write(dir.path().join("extensions/core/a.js"), "").unwrap();
        std::fs::write(dir.path().join("extensions/core/a.css"), "").unwrap();
        let mut scripts = Vec::new();
        find_scripts(dir.path(), &dir.path().join("extensions"), 4, &mut scripts);
        assert_eq!(scripts, ["/extensions/core/a.js"]);
    }
}
