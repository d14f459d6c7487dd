//! What the front end asks of the server beside prompts: its log, its folders.

use std::path::PathBuf;
use std::time::SystemTime;

use axum::Json;
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use comfyd_folders::Folders;
use comfyd_folders::whole::is_unfinished;
use indexmap::IndexMap;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::answer::blocking;
use crate::answer::types::{Names, Text};
use crate::app::App;
use crate::error::ApiError;
use crate::json::LenientJson;
use crate::openapi::{Doc, Table};
use crate::permission::Permission::{Admin, Read};
use crate::principal::Principal;
use crate::services::log::Line;
use crate::services::paths::parse_kind;

/// Files that a listing names.
const MAX_FILES: usize = 100_000;

/// The routes of this module.
pub(super) fn routes() -> Table {
    Table::default()
        .get("/internal/logs", Admin, logs, Doc::new("internal", "The last lines of the log as one text.").json::<Text>())
        .get("/internal/logs/raw", Admin, raw_logs, Doc::new("internal", "The last lines of the log.").json::<LogLines>())
        .patch(
            "/internal/logs/subscribe",
            Admin,
            subscribe,
            Doc::new("internal", "Sends new lines of the log as logs events.").body("LogSubscription").done(),
        )
        .get(
            "/internal/folder_paths",
            Read,
            folder_paths,
            Doc::new("internal", "Where models are looked for.")
                .describe("Only administrators are told where on this machine that is; others get names such as models/vae.")
                .json::<FolderPaths>(),
        )
        .get(
            "/internal/files/{type}",
            Read,
            files,
            Doc::new("internal", "Files of the input, output or temp folder, newest first, each with its folder: NAME [output].")
                .json::<Names>(),
        )
}

/// The last lines of the log.
#[derive(Debug, Serialize, ToSchema)]
struct LogLines {
    #[schema(inline)]
    entries: Vec<Line>,
    #[schema(inline)]
    size: TerminalSize,
}

/// The log is not a terminal: this is what terminals assume where nobody says.
#[derive(Debug, Serialize, ToSchema)]
struct TerminalSize {
    cols: u32,
    rows: u32,
}

async fn logs(State(app): State<App>) -> Json<Text> {
    Json(Text(app.log.lines().iter().map(|line| format!("{} - {}", line.time, line.text)).collect()))
}

async fn raw_logs(State(app): State<App>) -> Json<LogLines> {
    Json(LogLines { entries: app.log.lines(), size: TerminalSize { cols: 80, rows: 24 } })
}

async fn subscribe(State(app): State<App>, LenientJson(body): LenientJson) -> Result<StatusCode, ApiError> {
    let client = body.get("clientId").and_then(Value::as_str).filter(|id| id.len() <= 256);
    let (Some(client), Some(enabled)) = (client, body.get("enabled").and_then(Value::as_bool)) else {
        return Err(ApiError::bad_request("send {\"clientId\": text, \"enabled\": true or false}"));
    };
    if enabled {
        app.log.follow(client, &app.hub)?;
    } else {
        app.log.unfollow(client);
    }
    Ok(StatusCode::OK)
}

/// Model folder to its paths.
#[derive(Debug, Serialize, ToSchema)]
#[schema(value_type = HashMap<String, Vec<String>>)]
struct FolderPaths(IndexMap<String, Vec<PathBuf>>);

async fn folder_paths(State(app): State<App>, principal: Principal) -> Json<FolderPaths> {
    let shown =
        |path: PathBuf| if principal.only().is_none() { path } else { app.folders.without_roots(&path.display().to_string()).into() };
    let paths = |name: String| {
        let paths = app.folders.model_paths(&name).unwrap_or_default().into_iter().map(shown).collect();
        (name, paths)
    };
    Json(FolderPaths(app.folders.model_folders().into_iter().map(paths).collect()))
}

async fn files(State(app): State<App>, principal: Principal, UrlPath(kind): UrlPath<String>) -> Result<Json<Names>, ApiError> {
    let kind = parse_kind(&kind)?;
    blocking(move || {
        let _acting = principal.act();
        let names = newest_first(&app.folders, &app.folders.seen(kind))?.into_iter();
        Ok(Json(Names(names.map(|name| format!("{name} [{}]", kind.as_str())).collect())))
    })
    .await
}

/// The names of the files directly in some folders, but for hidden ones.
fn newest_first(files: &Folders, folders: &[PathBuf]) -> Result<Vec<String>, ApiError> {
    let mut shared = Vec::new();
    for folder in folders.iter().filter(|_| files.is_shared()) {
        let listed = files.listed_shared(folder)?.into_iter().flatten();
        shared.extend(listed.filter(|(name, _)| !name.contains('/') && !name.starts_with('.')).map(|(name, file)| (file.time(), name)));
    }
    let here = if files.is_shared() { &[][..] } else { folders };
    let entries = here.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
    let mut files: Vec<(SystemTime, String)> = entries
        .flatten()
        .take(MAX_FILES)
        .filter_map(|entry| {
            let meta = entry.path().metadata().ok().filter(std::fs::Metadata::is_file)?;
            let name = entry.file_name().into_string().ok().filter(|name| !name.starts_with('.') && !is_unfinished(name))?;
            Some((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), name))
        })
        .chain(shared)
        .collect();
    files.sort_by(|(a, a_name), (b, b_name)| b.cmp(a).then_with(|| a_name.cmp(b_name)));
    Ok(files.into_iter().map(|(_, name)| name).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_newest_file_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        for (name, seconds) in [("a", 10), ("b", 30), ("c", 20), ("d", 20), (".hidden", 40)] {
            let file = std::fs::File::create(dir.path().join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        }
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        let folders = Folders::new(comfyd_folders::Roots::under(dir.path().join("base"))).unwrap();
        assert_eq!(newest_first(&folders, &[dir.path().to_owned()]).unwrap(), ["b", "c", "d", "a"]);
    }
}
