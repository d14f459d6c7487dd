//! `/prompt`: validates a graph and enqueues it.

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
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
    let checking = app.clone();
    let check = move || {
        let (folders, secret_names) = (&*checking.folders, &checking.options.secret_names);
        PromptRequest::read(body)?.check(&checking.catalog, folders, secret_names, principal.owner())
    };
    let (job, node_errors) = blocking(check).await?;
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
