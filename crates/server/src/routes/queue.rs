//! `/queue`, `GET /prompt`, `/interrupt`, `/free`, and the `status` events.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use comfyd_jobs::Job;
use serde_json::{Value, json};

use crate::app::App;
use crate::error::ApiError;
use crate::frames;
use crate::json::{LenientJson, OptionalJson};
use crate::openapi::{Doc, Table};
use crate::options::ApiShape;

/// How long changes of the queue are gathered that nobody announced.
const BETWEEN_ANNOUNCEMENTS: Duration = Duration::from_millis(20);

pub(super) fn routes() -> Table {
    Table::default()
        .get("/queue", list, Doc::new("queue", "Prompts that run and that wait.").shapes("Queue", "DocumentedQueue"))
        .post("/queue", change, Doc::new("queue", "Removes prompts that wait.").body("ListChange").done())
        .post("/interrupt", interrupt, Doc::new("queue", "Interrupts what runs; the body may be missing.").body("Interrupt").done())
        .post("/free", free, Doc::new("queue", "Gives memory back once nothing runs.").body("Free").done())
}

/// The figures as clients get them.
pub(crate) async fn status(app: &App) -> Result<Value, ApiError> {
    Ok(frames::status(&app.store.counts().await?))
}

async fn list(State(app): State<App>, shape: ApiShape) -> Result<Response, ApiError> {
    if shape == ApiShape::Documented {
        let counts = app.store.counts().await?;
        return Ok(Json(json!({"queue_running": counts.running, "queue_pending": counts.pending})).into_response());
    }
    let queue = app.store.queue().await?;
    let mut body = String::from("{\"queue_running\": [");
    join_items(&mut body, &queue.running);
    body.push_str("], \"queue_pending\": [");
    join_items(&mut body, &queue.pending);
    body.push_str("]}");
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

fn join_items(body: &mut String, jobs: &[std::sync::Arc<Job>]) {
    for (i, job) in jobs.iter().enumerate() {
        if i > 0 {
            body.push_str(", ");
        }
        push_item(body, job);
    }
}

/// A queue item: `[number, id, graph, extra_data, outputs]`.
pub(crate) fn push_item(body: &mut String, job: &Job) {
    use std::fmt::Write;
    // Writing into a string cannot fail.
    let _ = write!(
        body,
        "[{}, {}, {}, {}, {}]",
        frames::number(job.number),
        json!(job.id),
        job.prompt.get(),
        job.extra_data.get(),
        json!(job.outputs)
    );
}

/// The texts of `{"delete": [...]}`.
pub(crate) fn ids(body: &Value) -> Result<Vec<String>, ApiError> {
    match body.get("delete") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => Ok(items.iter().map(|i| i.as_str().map_or_else(|| i.to_string(), str::to_owned)).collect()),
        Some(_) => Err(ApiError::bad_request("'delete' must be a list of prompt ids")),
    }
}

/// Whether `{"clear": …}` asks to clear.
pub(crate) fn wants(body: &Value, key: &str) -> bool {
    is_set(body.get(key))
}

/// Whether a switch is on.
pub(crate) fn is_set(switch: Option<&Value>) -> bool {
    match switch {
        Some(Value::Bool(b)) => *b,
        Some(Value::String(s)) => s == "true",
        Some(Value::Number(n)) => n.as_f64() != Some(0.0),
        Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => false,
    }
}

async fn change(State(app): State<App>, LenientJson(body): LenientJson) -> Result<StatusCode, ApiError> {
    let ids = ids(&body)?;
    if wants(&body, "clear") {
        app.store.clear_pending().await?;
    }
    if !ids.is_empty() {
        app.store.remove_pending(&ids).await?;
    }
    announce(&app).await;
    Ok(StatusCode::OK)
}

/// Interrupts what runs, or only the prompt that is named. Ids are texts, so that a prompt with another value for an id never runs; a value
/// that is false in Python names none.
async fn interrupt(State(app): State<App>, OptionalJson(body): OptionalJson) -> Result<StatusCode, ApiError> {
    let Value::Object(body) = body else { return Err(ApiError::bad_request("the body must be a JSON object, or missing")) };
    match body.get("prompt_id").filter(|id| is_true(id)) {
        None => drop(app.control.interrupt(None)),
        Some(Value::String(id)) => drop(app.control.interrupt(Some(id))),
        Some(_) => {}
    }
    Ok(StatusCode::OK)
}

/// What Python takes for true.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

async fn free(State(app): State<App>, OptionalJson(body): OptionalJson) -> StatusCode {
    let (unload, memory) = (wants(&body, "unload_models"), wants(&body, "free_memory"));
    if unload || memory {
        app.control.free(unload, memory);
    }
    StatusCode::OK
}

/// Tells all clients the queue's figures after a request changed them.
pub(super) async fn announce(app: &App) {
    let version = app.store.versions().borrow().queue;
    match app.store.counts().await {
        Ok(counts) => app.hub.status(version, &counts),
        Err(error) => tracing::warn!(%error, "the queue's figures could not be read"),
    }
}

/// Tells all clients the queue's figures whenever they change, until the store is gone. Requests and workers tell of their own changes at
/// once; what others did to the store is told with the least delay that does not cost much.
pub async fn announce_changes(app: App) {
    let mut versions = app.store.versions();
    while versions.changed().await.is_ok() {
        announce(&app).await;
        tokio::time::sleep(BETWEEN_ANNOUNCEMENTS).await;
    }
}
