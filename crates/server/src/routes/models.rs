//! Lists of model files and of the front end's extensions, and pictures that show what a model does.

use std::path::PathBuf;

use axum::Json;
use axum::extract::{Path as UrlPath, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use comfyd_folders::{MODEL_EXTENSIONS, extension};
use serde::Serialize;
use utoipa::ToSchema;

use crate::answer::blocking;
use crate::answer::types::Names;
use crate::app::App;
use crate::error::ApiError;
use crate::json::whole;
use crate::openapi::{Doc, Table};
use crate::permission::Permission::Read;
use crate::services::manifest::Manifest;
use crate::services::models::picture;
use crate::services::pages::{scripts, scripts_below};
use crate::services::paths::inside;
use crate::services::pictures::{encode_webp, made};
use crate::services::userdata::times;

/// WebP quality of previews.
const PREVIEW_QUALITY: u8 = 80;

/// The routes of this module.
pub(super) fn routes() -> Table {
    Table::default()
        .get("/embeddings", Read, embeddings, Doc::new("models", "Names of embeddings.").json::<Names>())
        .get("/models", Read, folders, Doc::new("models", "Names of model folders.").json::<Names>())
        .get("/models/{folder}", Read, files, Doc::new("models", "Files of a model folder.").json::<Names>())
        .get("/extensions", Read, extensions, Doc::new("front end", "Scripts of extensions.").json::<Names>())
        .get("/experiment/models", Read, folders_with_paths, Doc::new("models", "Model folders with their paths.").json::<ModelFolders>())
        .get(
            "/experiment/models/{folder}",
            Read,
            files_with_paths,
            Doc::new("models", "Files of a model folder in detail.").json::<ModelFiles>(),
        )
        .get(
            "/experiment/models/preview/{folder}/{path_index}/{*filename}",
            Read,
            preview,
            Doc::new("models", "A picture that shows what a model does.").bytes("image/webp"),
        )
}

/// Model folders.
#[derive(Debug, Serialize, ToSchema)]
struct ModelFolders(#[schema(inline)] Vec<ModelFolder>);

/// A model folder.
#[derive(Debug, Serialize, ToSchema)]
struct ModelFolder {
    name: String,
    #[schema(value_type = Vec<String>)]
    folders: Vec<PathBuf>,
    /// Endings of files that are listed; none: all are.
    extensions: Vec<String>,
}

/// Files of a model folder.
#[derive(Debug, Serialize, ToSchema)]
struct ModelFiles(#[schema(inline)] Vec<ModelFile>);

/// A file of a model folder.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ModelFile {
    name: String,
    path_index: usize,
    /// Seconds since 1970.
    modified: f64,
    created: f64,
    /// Bytes.
    size: u64,
}

fn no_folder(name: &str) -> ApiError {
    ApiError::not_found("there is no such model folder: see /models").details(name)
}

async fn embeddings(State(app): State<App>) -> Result<Json<Names>, ApiError> {
    blocking(move || {
        let files = app.folders.model_files("embeddings").unwrap_or_default();
        Ok(Json(Names(files.iter().map(|f| f[..f.len() - extension(f).len()].to_owned()).collect())))
    })
    .await
}

async fn folders(State(app): State<App>) -> Json<Names> {
    Json(Names(app.folders.model_folders()))
}

async fn files(State(app): State<App>, UrlPath(folder): UrlPath<String>) -> Result<Json<Names>, ApiError> {
    blocking(move || app.folders.model_files(&folder).map(Names).map(Json).ok_or_else(|| no_folder(&folder))).await
}

async fn folders_with_paths(State(app): State<App>) -> Json<ModelFolders> {
    let listed = app.folders.model_folders().into_iter().filter(|name| !matches!(name.as_str(), "configs" | "custom_nodes"));
    let told = |name: String| ModelFolder {
        folders: app.folders.model_paths(&name).unwrap_or_default(),
        extensions: app.folders.model_extensions(&name).unwrap_or_default(),
        name,
    };
    Json(ModelFolders(listed.map(told).collect()))
}

async fn files_with_paths(State(app): State<App>, UrlPath(folder): UrlPath<String>) -> Result<Json<ModelFiles>, ApiError> {
    blocking(move || {
        let paths = app.folders.model_paths(&folder).ok_or_else(|| no_folder(&folder))?;
        let files = app.folders.model_files_by_path(&folder).unwrap_or_default();
        let shown = files
            .into_iter()
            .filter(|(_, name)| MODEL_EXTENSIONS.contains(&extension(name).as_str()) && !name.split('/').any(|part| part.starts_with('.')));
        let described = shown.filter_map(|(path_index, name)| {
            // A file may go between listing and asking.
            let meta = paths.get(path_index)?.join(&name).metadata().ok()?;
            let (modified, created) = times(&meta);
            Some(ModelFile { name, path_index, modified, created, size: meta.len() })
        });
        Ok(Json(ModelFiles(described.collect())))
    })
    .await
}

async fn extensions(State(app): State<App>) -> Result<Json<Names>, ApiError> {
    // A page that is told too few has no packs until it is loaded again.
    app.installations.known().await;
    blocking(move || {
        let mut names = scripts(&app.options.front_end);
        for manifest in app.installations.manifests() {
            names.extend(manifest.web.iter().flat_map(|(name, folder)| scripts_below(folder, &Manifest::web_address(name))));
        }
        Ok(Json(Names(names)))
    })
    .await
}

async fn preview(State(app): State<App>, UrlPath((folder, index, name)): UrlPath<(String, String, String)>) -> Result<Response, ApiError> {
    let none = |name: &str| ApiError::not_found("there is no preview of that model").details(name);
    let room = app.room.clone();
    let (file, name) = blocking(move || {
        let paths = app.folders.model_paths(&folder).ok_or_else(|| no_folder(&folder))?;
        let index =
            whole(&index).flatten().ok_or_else(|| ApiError::bad_request("the path index must be a whole number").details(&index))?;
        let model = inside(paths.get(index).ok_or_else(|| none(&name))?, &name)?;
        Ok((picture(&model).ok_or_else(|| none(&name))?, name))
    })
    .await?;
    let webp = made(&room, file, |picture| encode_webp(&picture, PREVIEW_QUALITY, false)).await;
    let webp = webp.map_err(|error| if error.status() == StatusCode::BAD_REQUEST { none(&name) } else { error })?;
    Ok(([(header::CONTENT_TYPE, "image/webp"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], webp).into_response())
}
