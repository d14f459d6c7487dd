//! `/history`: read from the store, rendered once per change and range.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use comfyd_jobs::{HistoryEntry, HistoryQuery, Status};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::answer::{blocking, json_text, written};
use crate::app::App;
use crate::error::ApiError;
use crate::json::{LenientJson, Plain, whole};
use crate::openapi::{Doc, Table};
use crate::options::ApiShape;
use crate::query::Query;
use crate::routes::item::{ListChange, QueueItem};

pub(super) fn routes() -> Table {
    Table::default()
        .get(
            "/history",
            list,
            Doc::new("history", "Prompts that ended.")
                .query("max_items", "integer", "At most so many: the newest ones, unless offset is given.")
                .query("offset", "integer", "Skips so many, counted from the oldest.")
                .shapes("History", "DocumentedHistory"),
        )
        .post("/history", change, Doc::new("history", "Removes entries.").body("ListChange").done())
        .get(
            "/history/{prompt_id}",
            one,
            Doc::new("history", "One prompt that ended; while it has not, an empty object, or 404 in the API document's shape.")
                .shapes("History", "DocumentedHistoryEntry"),
        )
}

/// Prompts that ended, by their ids.
struct History<'a>(&'a [Arc<HistoryEntry>]);

impl Serialize for History<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|entry| (&entry.job.id, WireEntry::of(entry))))
    }
}

/// A prompt that ended: the wire's fields, and those that the API document names. What is stored is written as it stands.
#[derive(Debug, Serialize)]
struct WireEntry<'a> {
    prompt: QueueItem<'a>,
    outputs: &'a RawValue,
    status: HistoryStatus<'a>,
    meta: &'a RawValue,
    prompt_id: &'a str,
    number: Plain,
    timestamp: i64,
}

/// The same where `prompt` is the graph alone, and what the wire has beside it in `prompt` stands beside it in the entry.
#[derive(Debug, Serialize)]
struct DocumentedHistoryEntry<'a> {
    prompt: &'a RawValue,
    extra_data: &'a RawValue,
    output_nodes: &'a [String],
    outputs: &'a RawValue,
    status: HistoryStatus<'a>,
    meta: &'a RawValue,
    prompt_id: &'a str,
    number: Plain,
    timestamp: i64,
}

/// How a prompt ended.
#[derive(Debug, Serialize)]
struct HistoryStatus<'a> {
    status_str: &'static str,
    completed: bool,
    messages: &'a RawValue,
}

impl<'a> HistoryStatus<'a> {
    fn of(entry: &'a HistoryEntry) -> Self {
        // On the wire an interrupted prompt is an error, as in the reference; the messages tell.
        let status_str = match entry.status {
            Status::Success => "success",
            Status::Error | Status::Interrupted => "error",
        };
        Self { status_str, completed: entry.status == Status::Success, messages: &entry.messages }
    }
}

impl<'a> WireEntry<'a> {
    fn of(entry: &'a HistoryEntry) -> Self {
        Self {
            prompt: QueueItem::of(&entry.job),
            outputs: &entry.outputs,
            status: HistoryStatus::of(entry),
            meta: &entry.meta,
            prompt_id: &entry.job.id,
            number: Plain(entry.job.number),
            timestamp: entry.ended_ms,
        }
    }
}

impl<'a> DocumentedHistoryEntry<'a> {
    fn of(entry: &'a HistoryEntry) -> Self {
        Self {
            prompt: &entry.job.prompt,
            extra_data: &entry.job.extra_data,
            output_nodes: &entry.job.outputs,
            outputs: &entry.outputs,
            status: HistoryStatus::of(entry),
            meta: &entry.meta,
            prompt_id: &entry.job.id,
            number: Plain(entry.job.number),
            timestamp: entry.ended_ms,
        }
    }
}

/// Negative numbers mean "not given", as in the reference.
fn bound(name: &str, text: Option<&str>) -> Result<Option<usize>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    whole(text).ok_or_else(|| ApiError::bad_request(format!("'{name}' must be a whole number, it is '{text}'")))
}

async fn list(State(app): State<App>, shape: ApiShape, query: Query) -> Result<Response, ApiError> {
    let bound = |name| bound(name, query.get(name));
    let range = HistoryQuery { max_items: bound("max_items")?, offset: bound("offset")? };
    let version = app.store.versions().borrow().history;
    let key = (range, shape);
    if let Some(body) = app.history.get(version, &key) {
        return Ok(json_text(body));
    }
    let entries = app.store.history(range).await?;
    let body = blocking(move || render(&entries, shape)).await?;
    app.history.put(version, key, &body);
    Ok(json_text(body))
}

fn render(entries: &[Arc<HistoryEntry>], shape: ApiShape) -> Result<Bytes, ApiError> {
    match shape {
        ApiShape::Wire => written(&History(entries)),
        ApiShape::Documented => written(&entries.iter().map(|entry| DocumentedHistoryEntry::of(entry)).collect::<Vec<_>>()),
    }
}

async fn one(State(app): State<App>, shape: ApiShape, Path(prompt_id): Path<String>) -> Result<Response, ApiError> {
    let entry = app.store.history_entry(&prompt_id).await?;
    let body = match (entry, shape) {
        (Some(entry), ApiShape::Documented) => written(&DocumentedHistoryEntry::of(&entry))?,
        (None, ApiShape::Documented) => {
            return Err(ApiError::not_found(format!("there is no history entry '{prompt_id}': the prompt may be waiting or running")));
        }
        (entry, ApiShape::Wire) => written(&History(entry.as_slice()))?,
    };
    Ok(json_text(body))
}

async fn change(State(app): State<App>, LenientJson(body): LenientJson) -> Result<StatusCode, ApiError> {
    let ListChange { clear, delete } = ListChange::read(&body)?;
    if clear {
        app.store.clear_history().await?;
    }
    if !delete.is_empty() {
        app.store.delete_history(&delete).await?;
    }
    Ok(StatusCode::OK)
}
