//! `/internal/models/download`: fetches a model file from an allowed host into a model folder.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use comfyd_folders::{Folders, extension, join_inside};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::answer::types::Ended;
use crate::app::App;
use crate::error::ApiError;
use crate::events::Told;
use crate::json::{LenientJson, number};
use crate::openapi::{Doc, Table};
use crate::permission::Permission::Admin;
use crate::services::download::{Downloads, Failure, Progress};

/// The routes of this module.
pub(super) fn routes() -> Table {
    Table::default().post(
        "/internal/models/download",
        Admin,
        download,
        Doc::new("models", "Fetches a model file from an allowed host into a model folder.").body("DownloadRequest").json::<Downloaded>(),
    )
}

/// How a download ended.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Downloaded {
    #[schema(inline)]
    status: Ended,
    message: String,
    #[schema(value_type = String)]
    download_path: PathBuf,
}

/// What a `download_progress` event holds.
#[derive(Debug, Serialize)]
struct DownloadProgress<'a> {
    filename: &'a str,
    progress_percentage: f64,
    speed: f64,
    downloaded: u64,
    total: Option<u64>,
    status: &'static str,
}

impl<'a> DownloadProgress<'a> {
    fn of(filename: &'a str, progress: Progress) -> Self {
        let Progress { done, total, bytes_per_second } = progress;
        Self {
            filename,
            progress_percentage: total.filter(|t| *t > 0).map_or(0.0, |t| done as f64 * 100.0 / t as f64),
            speed: bytes_per_second,
            downloaded: done,
            total,
            status: if total == Some(done) { "completed" } else { "in_progress" },
        }
    }
}

/// Ends when the client closes its connection: what came is gone on with by the next request, if the host says what it belongs to.
async fn download(State(app): State<App>, LenientJson(body): LenientJson) -> Result<Json<Downloaded>, ApiError> {
    if app.options.offline {
        return Err(ApiError::forbidden("the server downloads nothing (--offline): put the file into its model folder"));
    }
    answer(&app, &app.downloads, &body).await.map(Json)
}

pub(crate) async fn answer(app: &App, downloads: &Downloads, body: &Value) -> Result<Downloaded, ApiError> {
    let text = |key: &str| {
        let value = body.get(key).and_then(Value::as_str).filter(|v| !v.is_empty());
        value.ok_or_else(|| ApiError::bad_request(format!("'{key}' is missing: it must be a text")))
    };
    let (url, folder, name) = (text("url")?, text("model_directory")?, text("model_filename")?);
    let interval = body.get("progress_interval").and_then(number).unwrap_or(1.0).clamp(0.1, 3600.0);
    let report = |progress: Progress| app.hub.broadcast(Told::Download, &DownloadProgress::of(name, progress));
    let done = match target(&app.folders, folder, name) {
        Ok(target) => downloads.fetch(url, &target, Duration::from_secs_f64(interval), &report).await.map(|()| target),
        Err(failure) => Err(failure),
    };
    Ok(match done {
        Ok(path) => Downloaded { status: Ended::Success, message: format!("{name} was downloaded"), download_path: path },
        Err(failure) => {
            tracing::warn!(url, "a model was not downloaded: {failure}");
            Downloaded { status: Ended::Error, message: failure, download_path: PathBuf::new() }
        }
    })
}

/// Where a model is put: the first path of its folder.
fn target(folders: &Folders, folder: &str, name: &str) -> Result<PathBuf, Failure> {
    if !matches!(extension(name).as_str(), ".safetensors" | ".sft") {
        return Err("the file's name must end in .safetensors or .sft: other formats can run code when they are read".into());
    }
    if name.chars().any(|c| c.is_control() || c == '\\') || name.split('/').any(|part| part.starts_with('.')) {
        return Err("the file's name must not have control characters, backslashes or parts that start with a dot".into());
    }
    let root = folders.model_paths(folder).and_then(|paths| paths.into_iter().next());
    let root = root.filter(|_| folder != "custom_nodes").ok_or_else(|| format!("there is no model folder '{folder}': see /models"))?;
    join_inside(&root, Path::new(name)).map_err(|e| e.to_string())
}
