//! `/prompt`: validates a graph and enqueues it.

use axum::Json;
use axum::extract::{Request, State};
use serde::Serialize;
use serde_json::Value;

use crate::answer::blocking;
use crate::app::App;
use crate::body;
use crate::error::{ApiError, node_error_list};
use crate::json::Plain;
use crate::openapi::{Doc, Table};
use crate::options::ApiShape;
use crate::principal::Principal;
use crate::prompt_request::PromptRequest;
use crate::sent::Sent;

pub(super) fn routes() -> Table {
    Table::default().get("/prompt", info, Doc::new("queue", "The queue's figures.").json("QueueStatus")).post(
        "/prompt",
        submit,
        Doc::new("queue", "Validates a graph and puts it into the queue.")
            .body("PromptRequest")
            .shapes("PromptAccepted", "DocumentedPromptAccepted"),
    )
}

/// A prompt that is in the queue.
#[derive(Debug, Serialize)]
struct PromptAccepted {
    prompt_id: String,
    number: Plain,
    node_errors: Value,
}

async fn info(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    app.status().await.map(Json)
}

async fn submit(
    State(app): State<App>,
    shape: ApiShape,
    sent: Sent,
    principal: Principal,
    request: Request,
) -> Result<Json<PromptAccepted>, ApiError> {
    let body = body::text(request, &()).await?;
    let checking = app.clone();
    let (job, node_errors) = blocking(move || {
        let request = PromptRequest::read(&body)?;
        request.check(&checking.catalog, &*checking.folders, &checking.options.secret_names, principal.owner())
    })
    .await?;
    // Its events must not overtake the answer: clients could not tell whose they are.
    let held = app.hub.hold(&job.id);
    let ticket = app.store.enqueue(job).await?;
    app.announce().await;
    sent.keep(held);
    let node_errors = match shape {
        ApiShape::Wire => node_errors.to_json(),
        ApiShape::Documented => node_error_list(&node_errors.to_json()),
    };
    Ok(Json(PromptAccepted { prompt_id: ticket.id, number: Plain(ticket.number), node_errors }))
}
