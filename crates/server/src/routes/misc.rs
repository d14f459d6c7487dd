//! What the front end asks of the server beside prompts: its log, its folders.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use comfyd_folders::whole::is_unfinished;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::json::LenientJson;
use crate::openapi::{Doc, Table};
use crate::routes::view::{blocking, parse_kind};
use crate::{ApiError, App};

/// Log lines that are kept.
const MAX_LINES: usize = 300;
/// Longest log line that is kept, in bytes.
const MAX_LINE: usize = 16 * 1024;
/// Files that a listing names.
const MAX_FILES: usize = 100_000;

/// Clients that may follow the log.
const MAX_FOLLOWERS: usize = 1000;
/// How often new lines are sent to those who follow.
const FEED_INTERVAL: Duration = Duration::from_millis(250);

/// The last lines of the log, which the front end's terminal shows.
static LOG: Mutex<Log> = Mutex::new(Log { lines: VecDeque::new(), written: 0, followers: BTreeSet::new(), feeding: false });

struct Log {
    lines: VecDeque<Line>,
    /// Lines ever written; the last of `lines` has this number.
    written: u64,
    followers: BTreeSet<String>,
    /// Whether a task sends new lines.
    feeding: bool,
}

struct Line {
    time: String,
    text: String,
}

impl Line {
    fn to_json(&self) -> Value {
        json!({"t": self.time, "m": self.text})
    }
}

/// The routes of this module.
pub(super) fn routes() -> Table {
    Table::default()
        .get("/internal/logs", logs, Doc::new("internal", "The last lines of the log as one text.").json("Text"))
        .get("/internal/logs/raw", raw_logs, Doc::new("internal", "The last lines of the log.").json("LogLines"))
        .patch(
            "/internal/logs/subscribe",
            subscribe,
            Doc::new("internal", "Sends new lines of the log as logs events.").body("LogSubscription").done(),
        )
        .get("/internal/folder_paths", folder_paths, Doc::new("internal", "Where models are looked for.").json("FolderPaths"))
        .get(
            "/internal/files/{type}",
            files,
            Doc::new("internal", "Files of the input, output or temp folder, newest first.").json("Names"),
        )
}

/// Keeps a line of the log for `/internal/logs`; the oldest one goes. `time` is shown as it is (ISO 8601).
pub fn keep_log_line(time: impl Into<String>, text: &str) {
    let mut end = text.len().min(MAX_LINE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut log = LOG.lock();
    if log.lines.len() >= MAX_LINES {
        log.lines.pop_front();
    }
    log.lines.push_back(Line { time: time.into(), text: text[..end].to_owned() });
    log.written += 1;
}

async fn logs() -> Json<String> {
    Json(LOG.lock().lines.iter().map(|line| format!("{} - {}", line.time, line.text)).collect())
}

async fn raw_logs() -> Json<Value> {
    let entries: Value = LOG.lock().lines.iter().map(Line::to_json).collect();
    // The log is not a terminal: 80 columns by 24 rows is what terminals assume where nobody says.
    Json(json!({"entries": entries, "size": {"cols": 80, "rows": 24}}))
}

/// New lines go to all clients as `logs` events while anybody follows; who does not follow has no listener for them.
async fn subscribe(State(app): State<App>, LenientJson(body): LenientJson) -> Result<StatusCode, ApiError> {
    let client = body.get("clientId").and_then(Value::as_str).filter(|id| id.len() <= 256);
    let (Some(client), Some(enabled)) = (client, body.get("enabled").and_then(Value::as_bool)) else {
        return Err(ApiError::bad_request("send {\"clientId\": text, \"enabled\": true or false}"));
    };
    let mut log = LOG.lock();
    if !enabled {
        log.followers.remove(client);
        return Ok(StatusCode::OK);
    }
    if log.followers.len() >= MAX_FOLLOWERS {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many", "too many clients follow the log: try again later"));
    }
    log.followers.insert(client.to_owned());
    if !log.feeding {
        log.feeding = true;
        tokio::spawn(feed(app.clone(), log.written));
    }
    Ok(StatusCode::OK)
}

/// Sends the lines after number `sent` until nobody follows or nobody is connected.
async fn feed(app: App, mut sent: u64) {
    loop {
        tokio::time::sleep(FEED_INTERVAL).await;
        let fresh: Vec<Value> = {
            let mut log = LOG.lock();
            if log.followers.is_empty() || app.hub.is_empty() {
                log.followers.clear();
                log.feeding = false;
                return;
            }
            let count = usize::try_from(log.written - sent).unwrap_or(usize::MAX).min(log.lines.len());
            sent = log.written;
            log.lines.range(log.lines.len() - count..).map(Line::to_json).collect()
        };
        if !fresh.is_empty() {
            app.hub.broadcast("logs", &json!({"entries": fresh, "size": null}));
        }
    }
}

async fn folder_paths(State(app): State<App>) -> Json<Value> {
    let folders: Map<_, _> =
        app.folders.model_folders().map(|name| (name.to_owned(), json!(app.folders.model_paths(name).unwrap_or_default()))).collect();
    Json(Value::Object(folders))
}

async fn files(State(app): State<App>, UrlPath(kind): UrlPath<String>) -> Result<Json<Vec<String>>, ApiError> {
    let kind = parse_kind(&kind)?;
    blocking(move || Ok(Json(newest_first(app.folders.directory(kind))))).await
}

/// The names of the files directly in a folder.
fn newest_first(folder: &std::path::Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<(SystemTime, String)> = entries
        .flatten()
        .take(MAX_FILES)
        .filter_map(|entry| {
            let meta = entry.path().metadata().ok().filter(std::fs::Metadata::is_file)?;
            let name = entry.file_name().into_string().ok().filter(|name| !is_unfinished(name))?;
            Some((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), name))
        })
        .collect();
    files.sort_by(|(a, a_name), (b, b_name)| b.cmp(a).then_with(|| a_name.cmp(b_name)));
    files.into_iter().map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn the_log_keeps_the_newest_lines_and_cuts_at_a_character() {
        for number in 0..MAX_LINES + 10 {
            keep_log_line("t", &format!("line {number}"));
        }
        keep_log_line("t", &"é".repeat(MAX_LINE));
        let log = LOG.lock();
        assert_eq!(log.lines.len(), MAX_LINES);
        assert_eq!(log.lines.back().unwrap().text.len(), MAX_LINE);
        assert_eq!(log.lines.front().unwrap().text, "line 11");
    }

    #[test]
    fn the_newest_file_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        for (name, seconds) in [("a", 10), ("b", 30), ("c", 20), ("d", 20)] {
            let file = std::fs::File::create(dir.path().join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        }
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        assert_eq!(newest_first(dir.path()), ["b", "c", "d", "a"]);
    }
}
