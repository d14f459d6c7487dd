//! `/queue`, `/interrupt` and `/free`.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::iter;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use comfyd_jobs::Job;
use futures_util::stream;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::answer::{blocking, json_text, written};
use crate::app::App;
use crate::audit::Concerns;
use crate::error::ApiError;
use crate::json::{LenientJson, OptionalJson, Plain, is_set};
use crate::openapi::{Doc, Table};
use crate::options::ApiShape;
use crate::permission::Permission::{Admin, Read, Run};
use crate::principal::Principal;
use crate::routes::item::{ListChange, QueueItem};

/// A queue with more bytes is sent in pieces.
const MAX_WHOLE_BYTES: usize = 4 << 20;
/// One with fewer is written at once: another thread takes longer to come.
const MAX_AT_ONCE_BYTES: usize = 256 << 10;

pub(super) fn routes() -> Table {
    Table::default()
        .get("/queue", Read, list, Doc::new("queue", "Prompts that run and that wait.").shapes::<Queue<'_>, DocumentedQueue>())
        .post("/queue", Run, change, Doc::new("queue", "Removes prompts that wait.").body_of::<ListChange>().done())
        .post("/interrupt", Run, interrupt, Doc::new("queue", "Interrupts what runs; the body may be missing.").body("Interrupt").done())
        .post("/free", Admin, free, Doc::new("queue", "Gives memory back once nothing runs.").body("Free").done())
}

/// Prompts that run and that wait.
#[derive(Debug, Serialize, ToSchema)]
struct Queue<'a> {
    queue_running: Vec<QueueItem<'a>>,
    queue_pending: Vec<QueueItem<'a>>,
    /// Of those that wait although no worker that is there can run them, by their ids, what is missing.
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    #[schema(required = false)]
    waiting_for: HashMap<String, String>,
}

/// How many prompts run, and how many wait.
#[derive(Debug, Serialize, ToSchema)]
struct DocumentedQueue {
    /// How many run.
    queue_running: usize,
    /// How many wait.
    queue_pending: usize,
}

async fn list(State(app): State<App>, shape: ApiShape, principal: Principal) -> Result<Response, ApiError> {
    if shape == ApiShape::Documented {
        let counts = app.store.counts().await?;
        let counts = principal.only().map_or_else(|| counts.clone(), |owner| counts.of(&owner));
        return Ok(Json(DocumentedQueue { queue_running: counts.running, queue_pending: counts.pending }).into_response());
    }
    let queue = principal.queue(&app).await?;
    let mut waiting_for = app.store.waiting_for().await?;
    if !waiting_for.is_empty() {
        let own: HashSet<&str> = queue.pending.iter().map(|job| job.id.as_str()).collect();
        waiting_for.retain(|id, _| own.contains(id.as_str()));
    }
    let bytes: usize = queue.running.iter().chain(&queue.pending).map(|job| texts(job)).sum();
    if bytes > MAX_WHOLE_BYTES {
        return Ok(json_text(Body::from_stream(stream::iter(pieces(queue, waiting_for).map(Ok::<_, Infallible>)))));
    }
    let write = move || {
        let (queue_running, queue_pending) = (items(&queue.running), items(&queue.pending));
        written(&Queue { queue_running, queue_pending, waiting_for }).map(json_text)
    };
    if bytes <= MAX_AT_ONCE_BYTES { write() } else { blocking(write).await }
}

/// What a job's texts have.
fn texts(job: &Job) -> usize {
    job.prompt.get().len() + job.extra_data.get().len()
}

/// A long queue as it is sent: what is stored is not copied for each who asks.
fn pieces(queue: comfyd_jobs::Queue, waiting_for: HashMap<String, String>) -> impl Iterator<Item = Bytes> {
    let list = |jobs: Vec<Arc<Job>>| jobs.into_iter().enumerate().flat_map(|(at, job)| item(at > 0, &job));
    let running = iter::once(Bytes::from_static(b"{\"queue_running\":[")).chain(list(queue.running));
    let pending = iter::once(Bytes::from_static(b"],\"queue_pending\":[")).chain(list(queue.pending));
    let end = if waiting_for.is_empty() { "]}".to_owned() } else { format!("],\"waiting_for\":{}}}", json!(waiting_for)) };
    running.chain(pending).chain(iter::once(end.into()))
}

/// [`QueueItem`] in pieces.
fn item(behind_another: bool, job: &Job) -> [Bytes; 5] {
    struct Text(Arc<RawValue>);

    impl AsRef<[u8]> for Text {
        fn as_ref(&self) -> &[u8] {
            self.0.get().as_bytes()
        }
    }

    let comma = if behind_another { "," } else { "" };
    [
        format!("{comma}[{},{},", json!(Plain(job.number)), json!(job.id)).into(),
        Bytes::from_owner(Text(Arc::clone(&job.prompt))),
        Bytes::from_static(b","),
        Bytes::from_owner(Text(Arc::clone(&job.extra_data))),
        format!(",{}]", json!(job.outputs)).into(),
    ]
}

fn items(jobs: &[Arc<Job>]) -> Vec<QueueItem<'_>> {
    jobs.iter().map(|job| QueueItem::of(job)).collect()
}

async fn change(
    State(app): State<App>,
    principal: Principal,
    LenientJson(body): LenientJson,
) -> Result<(Extension<Concerns>, StatusCode), ApiError> {
    let ListChange { clear, mut delete } = ListChange::read(&body)?;
    if principal.only().is_some() {
        let own = principal.queue(&app).await?.pending;
        delete = own.iter().filter(|job| clear || delete.contains(&job.id)).map(|job| job.id.clone()).collect();
    } else if clear {
        app.store.clear_pending().await?;
    }
    if !delete.is_empty() {
        app.store.remove_pending(&delete).await?;
    }
    app.announce().await;
    let what = if clear && delete.is_empty() { vec!["all".to_owned()] } else { delete };
    Ok((Extension(Concerns(what)), StatusCode::OK))
}

/// Interrupts what runs and is the caller's, or only the prompt that is named. Ids are texts, so that a prompt with another value for an id never runs; a value
/// that is false in Python names none.
async fn interrupt(State(app): State<App>, principal: Principal, OptionalJson(body): OptionalJson) -> Result<StatusCode, ApiError> {
    let Value::Object(body) = body else { return Err(ApiError::bad_request("the body must be a JSON object, or missing")) };
    match body.get("prompt_id").filter(|id| is_true(id)) {
        Some(Value::String(id)) if principal.runs(&app, id).await? => drop(app.devices.interrupt(Some(id)).await),
        None if principal.only().is_none() => drop(app.devices.interrupt(None).await),
        None => {
            for job in principal.queue(&app).await?.running {
                app.devices.interrupt(Some(&job.id)).await;
            }
        }
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
    let (unload_models, free_memory) = (is_set(body.get("unload_models")), is_set(body.get("free_memory")));
    if unload_models || free_memory {
        app.devices.free(unload_models, free_memory);
    }
    StatusCode::OK
}
