//! `/prompt`: validates a graph and enqueues it.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use comfyd_graph::NodeErrors;
use comfyd_jobs::NewJob;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::answer::blocking;
use crate::app::App;
use crate::body;
use crate::error::{ApiError, listed};
use crate::frames::QueueStatus;
use crate::json::Plain;
use crate::openapi::named::{node_error_list, node_errors};
use crate::openapi::{Doc, Table};
use crate::options::ApiShape;
use crate::permission::Permission::{Read, Run};
use crate::principal::Principal;
use crate::prompt_request::PromptRequest;
use crate::sent::Sent;

/// A longer body is read on a thread that may wait.
const MAX_AT_ONCE_BYTES: usize = 64 << 10;

pub(super) fn routes() -> Table {
    Table::default().get("/prompt", Read, info, Doc::new("queue", "The queue's figures.").json::<QueueStatus>()).post(
        "/prompt",
        Run,
        submit,
        Doc::new("queue", "Validates a graph and puts it into the queue.")
            .body("PromptRequest")
            .shapes::<PromptAccepted, DocumentedPromptAccepted>(),
    )
}

/// A prompt that is in the queue.
#[derive(Debug, Serialize, ToSchema)]
struct PromptAccepted {
    prompt_id: String,
    #[schema(value_type = f64)]
    number: Plain,
    #[schema(schema_with = node_errors)]
    node_errors: Value,
}

/// The same with what is wrong with nodes as a list.
#[derive(Debug, Serialize, ToSchema)]
struct DocumentedPromptAccepted {
    prompt_id: String,
    #[schema(value_type = f64)]
    number: Plain,
    #[schema(schema_with = node_error_list)]
    node_errors: Value,
}

async fn info(State(app): State<App>) -> Result<Json<QueueStatus>, ApiError> {
    app.status().await.map(Json)
}

async fn submit(State(app): State<App>, shape: ApiShape, sent: Sent, principal: Principal, request: Request) -> Result<Response, ApiError> {
    let body = body::text(request, &()).await?;
    let (job, node_errors) = checked(&app, body, principal.owner()).await?;
    // Its events must not overtake the answer: clients could not tell whose they are.
    let held = app.hub.hold(&job.id);
    let ticket = app.store.enqueue(job).await?;
    app.announce().await;
    sent.keep(held);
    let (prompt_id, number, node_errors) = (ticket.id, Plain(ticket.number), node_errors.to_json());
    Ok(match shape {
        ApiShape::Wire => Json(PromptAccepted { prompt_id, number, node_errors }).into_response(),
        ApiShape::Documented => Json(DocumentedPromptAccepted { prompt_id, number, node_errors: listed(&node_errors) }).into_response(),
    })
}

/// The job of a body, and what is wrong with outputs that are left out. To hand work to another thread costs as much as to read and check a
/// small graph: where no folder is listed and no class checks its inputs itself, that is done here.
async fn checked(app: &App, body: Bytes, owner: Arc<str>) -> Result<(NewJob, NodeErrors), ApiError> {
    let checking = app.clone();
    let check = move |request: PromptRequest| request.check(&checking.catalog, &*checking.folders, &checking.options.secret_names, owner);
    if body.len() > MAX_AT_ONCE_BYTES {
        return blocking(move || check(PromptRequest::read(body)?)).await;
    }
    let request = PromptRequest::read(body)?;
    if request.may_wait(&app.catalog) { blocking(move || check(request)).await } else { check(request) }
}
