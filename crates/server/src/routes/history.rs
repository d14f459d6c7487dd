//! `/history`: read from the store, rendered once per change and range.

use std::fmt::Write;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use comfyd_jobs::{HistoryEntry, HistoryQuery, Status};
use serde_json::json;

use crate::app::App;
use crate::error::ApiError;
use crate::frames::number;
use crate::json::{LenientJson, whole};
use crate::openapi::{Doc, Table};
use crate::options::ApiShape;
use crate::query::Query;
use crate::routes::queue::{ids, push_item, wants};

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

/// Negative numbers mean "not given", as in the reference.
fn bound(name: &str, text: Option<&str>) -> Result<Option<usize>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    whole(text).ok_or_else(|| ApiError::bad_request(format!("'{name}' must be a whole number, it is '{text}'")))
}

async fn list(State(app): State<App>, shape: ApiShape, Query(params): Query) -> Result<Response, ApiError> {
    let bound = |name| bound(name, params.get(name).map(String::as_str));
    let (limit, offset) = (bound("max_items")?, bound("offset")?);
    // Without an offset the newest are meant; the oldest stands first all the same.
    let descending = limit.is_some() && offset.is_none();
    let query = HistoryQuery { limit, offset: offset.unwrap_or(0), descending, ..HistoryQuery::default() };
    let version = app.store.versions().borrow().history;
    let key = (query, shape);
    let body = match app.history.get(version, &key) {
        Some(body) => body,
        None => {
            let mut entries = app.store.history(&key.0).await?.entries;
            if descending {
                entries.reverse();
            }
            let body = Bytes::from(render(entries.iter().map(AsRef::as_ref), shape));
            app.history.put(version, key, &body);
            body
        }
    };
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

async fn one(State(app): State<App>, shape: ApiShape, Path(prompt_id): Path<String>) -> Result<Response, ApiError> {
    let entry = app.store.history_entry(&prompt_id).await?;
    let body = match (&entry, shape) {
        (Some(entry), ApiShape::Documented) => {
            let mut body = String::new();
            push_entry(&mut body, entry, shape);
            body
        }
        (None, ApiShape::Documented) => {
            return Err(ApiError::not_found(format!("there is no history entry '{prompt_id}': the prompt may be waiting or running")));
        }
        (entry, ApiShape::Wire) => render(entry.iter().map(AsRef::as_ref), shape),
    };
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

async fn change(State(app): State<App>, LenientJson(body): LenientJson) -> Result<StatusCode, ApiError> {
    let ids = ids(&body)?;
    if wants(&body, "clear") {
        app.store.clear_history().await?;
    }
    if !ids.is_empty() {
        app.store.delete_history(&ids).await?;
    }
    Ok(StatusCode::OK)
}

fn render<'a>(entries: impl Iterator<Item = &'a HistoryEntry>, shape: ApiShape) -> String {
    let (open, close) = match shape {
        ApiShape::Wire => ('{', '}'),
        ApiShape::Documented => ('[', ']'),
    };
    let mut body = String::from(open);
    for (i, entry) in entries.enumerate() {
        if i > 0 {
            body.push_str(", ");
        }
        if shape == ApiShape::Wire {
            // Writing into a string cannot fail.
            let _ = write!(body, "{}: ", json!(entry.job.id));
        }
        push_entry(&mut body, entry, shape);
    }
    body.push(close);
    body
}

/// One entry: the wire's fields, and those that the API document names. In the document's shape `prompt` is the graph alone, and what the
/// wire has beside it in `prompt` stands beside it in the entry.
fn push_entry(body: &mut String, entry: &HistoryEntry, shape: ApiShape) {
    // On the wire an interrupted prompt is an error, as in the reference; the messages tell.
    let status = match entry.status {
        Status::Success => "success",
        Status::Error | Status::Interrupted => "error",
    };
    body.push_str("{\"prompt\": ");
    // Writing into a string cannot fail.
    let _ = match shape {
        ApiShape::Wire => {
            push_item(body, &entry.job);
            Ok(())
        }
        ApiShape::Documented => {
            let (graph, extra_data) = (entry.job.prompt.get(), entry.job.extra_data.get());
            write!(body, "{graph}, \"extra_data\": {extra_data}, \"output_nodes\": {}", json!(entry.job.outputs))
        }
    };
    let _ = write!(
        body,
        ", \"outputs\": {}, \"status\": {{\"status_str\": \"{status}\", \"completed\": {}, \"messages\": {}}}, \"meta\": {}, \
         \"prompt_id\": {}, \"number\": {}, \"timestamp\": {}}}",
        entry.outputs.get(),
        entry.status == Status::Success,
        entry.messages.get(),
        entry.meta.get(),
        json!(entry.job.id),
        number(entry.job.number),
        entry.ended_ms,
    );
}
