//! `/prompt`: validates a graph and enqueues it.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use comfyd_graph::{NodeErrors, PlacementMode};
use comfyd_jobs::NewJob;
use comfyd_node::{Actor, acting_for};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::answer::{blocking, laborious};
use crate::app::App;
use crate::audit::Concerns;
use crate::body;
use crate::error::{ApiError, listed};
use crate::frames::QueueStatus;
use crate::installations::Stage;
use crate::json::{Plain, invalid};
use crate::openapi::named::{node_error_list, node_errors};
use crate::openapi::{Doc, Table};
use crate::options::ApiShape;
use crate::permission::Permission::{Read, Run};
use crate::principal::Principal;
use crate::prompt_request::PromptRequest;
use crate::routes::packs::not_ready;
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

async fn info(State(app): State<App>, principal: Principal) -> Result<Json<QueueStatus>, ApiError> {
    app.status(principal.only().as_deref()).await.map(Json)
}

async fn submit(State(app): State<App>, shape: ApiShape, sent: Sent, principal: Principal, request: Request) -> Result<Response, ApiError> {
    let usage_source = request.headers().get("comfy-usage-source").and_then(|source| source.to_str().ok()).map(str::to_owned);
    let body = body::text(request, &()).await?;
    let (job, node_errors) = checked(&app, body, usage_source, &principal).await?;
    app.usage.prompt(&job.owner)?;
    if app.usage.bounds_disk(&job.owner) {
        let app = app.clone();
        blocking(move || {
            let (owner, folders) = principal.files(&app);
            app.usage.room(&owner, &app.folders, &folders, 0)
        })
        .await?;
    }
    // Its events must not overtake the answer: clients could not tell whose they are.
    let held = app.hub.hold(&job.id);
    let ticket = app.store.enqueue(job).await?;
    app.announce().await;
    sent.keep(held);
    let concerns = Extension(Concerns(vec![ticket.id.clone()]));
    let (prompt_id, number, node_errors) = (ticket.id, Plain(ticket.number), node_errors.to_json());
    Ok(match shape {
        ApiShape::Wire => (concerns, Json(PromptAccepted { prompt_id, number, node_errors })).into_response(),
        ApiShape::Documented => {
            (concerns, Json(DocumentedPromptAccepted { prompt_id, number, node_errors: listed(&node_errors) })).into_response()
        }
    })
}

/// The job of a body, and what is wrong with outputs that are left out. To hand work to another thread costs as much as to read and check a
/// small graph: where no folder is listed and no class checks its inputs itself, that is done here.
async fn checked(app: &App, body: Bytes, usage_source: Option<String>, principal: &Principal) -> Result<(NewJob, NodeErrors), ApiError> {
    let (checking, principal) = (app.clone(), principal.clone());
    let check = move |request: PromptRequest| {
        // Files that it names are its owner's.
        let _acting = acting_for(Actor { owner: principal.owner(), all: false, ..Actor::default() });
        if !checking.installations.is_empty() {
            request.files_here(&checking.folders)?;
        }
        request.check(&checking.catalog.current(), &*checking.folders, &checking.options, (principal.owner(), usage_source.as_deref()))
    };
    if !app.installations.is_empty() {
        return checked_beside(app, body, check).await;
    }
    if body.len() > MAX_AT_ONCE_BYTES {
        let app = app.clone();
        return laborious(body.len() as u64, move || check(read(&app, body)?)).await;
    }
    let request = read(app, body)?;
    if request.may_wait(&app.catalog.current()) || app.folders.is_shared() {
        blocking(move || check(request)).await
    } else {
        check(request)
    }
}

/// A request, with classes that there are in the place of those that there are not any more.
fn read(app: &App, body: Bytes) -> Result<PromptRequest, ApiError> {
    let mut request = PromptRequest::read(body)?;
    let catalog = app.catalog.current();
    if request.names_unknown(&catalog) {
        request.replace(&catalog, &app.replacements());
    }
    Ok(request)
}

/// The same where there are ComfyUIs beside the server: waits until the classes are known, lets packs' handlers change the request, and has
/// Python check what is Python's.
async fn checked_beside(
    app: &App,
    body: Bytes,
    check: impl FnOnce(PromptRequest) -> Result<(NewJob, NodeErrors), ApiError> + Send + 'static,
) -> Result<(NewJob, NodeErrors), ApiError> {
    let again = {
        let app = app.clone();
        move |body| blocking(move || read(&app, body))
    };
    let mut request = again.clone()(body).await?;
    let mut failures = Vec::new();
    if request.names_unknown(&app.catalog.current()) {
        failures = app.installations.known().await;
        request.replace(&app.catalog.current(), &app.replacements());
    }
    if let Some(changed) = handled(app, &request).await? {
        request = again(changed).await?;
    }
    let catalog = app.catalog.current();
    let unknown = request.names_unknown(&catalog);
    let checked = if request.asks_python(&catalog) {
        app.installations.wait(move || check(request)).await
    } else {
        blocking(move || check(request)).await
    };
    checked.map_err(|error| match why_unknown(app, &failures) {
        Some(why) if unknown => error.add_details(&why),
        Some(_) | None => error,
    })
}

/// The request as the packs' handlers change it, if there are any: those of a process that answers; another's if the prompt needs it.
async fn handled(app: &App, request: &PromptRequest) -> Result<Option<Bytes>, ApiError> {
    let mut changed: Option<Bytes> = None;
    let needed = request.needs_python(&app.catalog.current(), app.options.placing.mode == PlacementMode::Python);
    for site in app.installations.sites() {
        let Some(manifest) = site.manifest() else { continue };
        let ready = site.installation.stage() == Stage::Ready;
        if manifest.on_prompt == 0 || !(ready || needed) {
            continue;
        }
        let (installation, text) = (Arc::clone(&site.installation), changed.clone().unwrap_or_else(|| request.text()));
        let count = manifest.on_prompt;
        changed = app
            .installations
            .wait(move || {
                installation.ready().map_err(not_ready)?;
                let body = comfyd_wire::json::read(&text).map_err(|error| invalid(&error))?;
                match installation.on_prompt(body) {
                    Ok(body) => Ok(Some(body.to_string().into())),
                    Err(error) => {
                        // As in ComfyUI: a handler that fails leaves the request as it is.
                        tracing::warn!(error, handlers = count, "custom nodes' handlers of prompts failed");
                        Ok(Some(text))
                    }
                }
            })
            .await?;
    }
    Ok(changed)
}

/// What may be the cause of a class that there is not.
fn why_unknown(app: &App, failures: &[String]) -> Option<String> {
    let manifests: Vec<_> = app.installations.manifests().collect();
    let packs = manifests.iter().flat_map(|manifest| &manifest.failures).map(|(pack, why)| format!("{pack}: {why}"));
    let packs: Vec<String> = packs.collect();
    let mut causes = failures.to_vec();
    if !packs.is_empty() {
        causes.push(format!("these custom node packs failed to load, so their classes are missing: {}", packs.join("; ")));
    }
    (!causes.is_empty()).then(|| causes.join("; "))
}
