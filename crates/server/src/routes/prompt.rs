//! `/prompt`: validates a graph and enqueues it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use comfyd_graph::{Limits, Prompt, Rejected};
use comfyd_jobs::{NewJob, Position, Secrets};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::error::{ApiError, node_error_list};
use crate::frames;
use crate::json::{LenientJson, number};
use crate::openapi::{Doc, Table};
use crate::options::ApiShape;
use crate::routes::queue;
use crate::sent::Sent;

/// Longest prompt id that is taken.
const MAX_ID_BYTES: usize = 256;

pub(super) fn routes() -> Table {
    Table::default().get("/prompt", info, Doc::new("queue", "The queue's figures.").json("QueueStatus")).post(
        "/prompt",
        submit,
        Doc::new("queue", "Validates a graph and puts it into the queue.")
            .body("PromptRequest")
            .shapes("PromptAccepted", "DocumentedPromptAccepted"),
    )
}

async fn info(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    queue::status(&app).await.map(Json)
}

async fn submit(State(app): State<App>, shape: ApiShape, sent: Sent, LenientJson(body): LenientJson) -> Result<Json<Value>, ApiError> {
    let Value::Object(mut body) = body else {
        return Err(ApiError::bad_request("the body must be a JSON object with the graph under 'prompt'"));
    };
    let Some(prompt) = body.shift_remove("prompt") else {
        let error = ApiError::new(StatusCode::BAD_REQUEST, "no_prompt", "No prompt provided");
        return Err(error.details("No prompt provided"));
    };
    let (id, position, targets) = (prompt_id(&body)?, position(&body)?, partial_targets(&body)?);
    let mut extra_data = extra_data(body)?;
    let secrets = Secrets::take(&mut extra_data, &app.options.secret_names);
    let text = |at: &str| extra_data.pointer(at).and_then(Value::as_str).map(Arc::from);
    let (owner, client_id, workflow_id) = (Arc::default(), text("/client_id"), text("/extra_pnginfo/workflow/id"));
    let prompt = Prompt::parse(prompt, &Limits::default()).map_err(Rejected::from)?;
    let validated = comfyd_graph::validate(&app.catalog, &*app.folders, prompt, targets.as_deref())?;
    let mut node_errors = validated.node_errors.to_json();
    if shape == ApiShape::Documented {
        node_errors = node_error_list(&node_errors);
    }
    let (prompt, extra_data, outputs) = (raw(&validated.prompt.into_json())?, raw(&extra_data)?, validated.outputs);
    // Its events must not overtake the answer: clients could not tell whose they are.
    let held = app.hub.hold(&id);
    let job = NewJob { id, position, owner, client_id, workflow_id, prompt, extra_data, secrets, outputs };
    let ticket = app.store.enqueue(job).await?;
    queue::announce(&app).await;
    sent.keep(held);
    Ok(Json(json!({"prompt_id": ticket.id, "number": frames::number(ticket.number), "node_errors": node_errors})))
}

fn raw(value: &Value) -> Result<Arc<RawValue>, ApiError> {
    to_raw_value(value).map(Arc::from).map_err(|e| ApiError::internal(e.to_string()))
}

/// The client's id, verbatim, or a new one.
fn prompt_id(body: &Map<String, Value>) -> Result<String, ApiError> {
    let id = match body.get("prompt_id") {
        None | Some(Value::Null) => return Ok(uuid::Uuid::new_v4().to_string()),
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(n)) => n.to_string(),
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
            return Err(ApiError::bad_request("'prompt_id' must be a text: leave it out and one is made"));
        }
    };
    if id.is_empty() || id.len() > MAX_ID_BYTES {
        return Err(ApiError::bad_request(format!("'prompt_id' must have 1 to {MAX_ID_BYTES} bytes")));
    }
    Ok(id)
}

fn position(body: &Map<String, Value>) -> Result<Position, ApiError> {
    match body.get("number") {
        None | Some(Value::Null) => Ok(if queue::is_set(body.get("front")) { Position::Front } else { Position::Back }),
        Some(value) => {
            number(value).map(Position::At).ok_or_else(|| ApiError::bad_request("'number' must be a number: lower numbers run first"))
        }
    }
}

fn partial_targets(body: &Map<String, Value>) -> Result<Option<Vec<String>>, ApiError> {
    let bad = || ApiError::bad_request("'partial_execution_targets' must be a list of node ids");
    match body.get("partial_execution_targets") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => {
            items.iter().map(|i| i.as_str().map(str::to_owned).ok_or_else(bad)).collect::<Result<_, _>>().map(Some)
        }
        Some(_) => Err(bad()),
    }
}

/// `extra_data` with `client_id` in it, and the secrets still.
fn extra_data(mut body: Map<String, Value>) -> Result<Value, ApiError> {
    let mut extra = match body.shift_remove("extra_data") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(extra)) => extra,
        Some(_) => return Err(ApiError::bad_request("'extra_data' must be an object")),
    };
    if let Some(client_id) = body.shift_remove("client_id") {
        extra.insert("client_id".into(), client_id);
    }
    Ok(Value::Object(extra))
}
