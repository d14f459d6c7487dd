//! The page at `/` and its files: the official front end's folder, or the small page that is built in. Also what the front end asks for
//! and this server has none of: translations, templates and blueprints of custom nodes.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use axum::Json;
use axum::body::Body;
use axum::extract::{Path as UrlPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};
use axum::response::IntoResponse;
use indexmap::IndexMap;
use serde::Serialize;
use utoipa::ToSchema;

use crate::answer::blocking;
use crate::answer::file::{Disposition, send_file};
use crate::answer::types::Object;
use crate::app::App;
use crate::error::ApiError;
use crate::installations::Stage;
use crate::login;
use crate::openapi::{Doc, Table};
use crate::options::FrontEnd;
use crate::permission::Permission::Read;
use crate::principal::Principal;
use crate::routes::packs::{file_path, forwarded};
use crate::services::pages::{Blueprint, blueprints, find};

/// Largest blueprint, in bytes. Those of the package have up to 200 kB.
const MAX_BLUEPRINT_BYTES: u64 = 64 << 20;

/// The page that comes with the server.
const BUILTIN: &str = include_str!("../builtin.html");

/// The routes of this module. Static files are served by [`file`].
pub(super) fn routes() -> Table {
    Table::default()
        .get("/", Read, index, Doc::new("front end", "The page of the front end; its files are below it.").bytes("text/html"))
        .get("/i18n", Read, of_packs, Doc::new("front end", "Translations of custom nodes: none.").json::<Object>())
        .get("/workflow_templates", Read, of_packs, Doc::new("front end", "Workflow templates of custom nodes: none.").json::<Object>())
        .get(
            "/global_subgraphs",
            Read,
            subgraphs,
            Doc::new("front end", "Subgraph blueprints of custom nodes and of the package of blueprints, by their ids.")
                .json::<Subgraphs>(),
        )
        .get(
            "/global_subgraphs/{id}",
            Read,
            subgraph,
            Doc::new("front end", "One of the blueprints; null where there is none of that id.").json::<Option<Subgraph>>(),
        )
}

/// What custom nodes have of it: while no process answers, what was told at its last start. To ask for it starts and waits for none, but for the
/// first start of all: every page does.
async fn of_packs(State(app): State<App>, request: Request) -> Response<Body> {
    let Some(site) = app.installations.sites().first() else { return Json(Object::default()).into_response() };
    app.installations.known().await;
    let path = request.uri().path();
    let kept = site.manifest().and_then(|manifest| manifest.answers.get(path.strip_prefix("/api").unwrap_or(path)).cloned());
    if site.installation.stage() == Stage::Ready
        && let Ok(answer) = forwarded(&app, site, request).await
        && answer.status().is_success()
    {
        return answer;
    }
    Json(Object(kept.unwrap_or_default())).into_response()
}

/// Blueprints by their ids.
#[derive(Debug, Serialize, ToSchema)]
#[schema(value_type = HashMap<String, Subgraph>)]
struct Subgraphs(IndexMap<String, Subgraph>);

/// A subgraph that is offered as a node.
#[derive(Debug, Serialize, ToSchema)]
struct Subgraph {
    /// Where it comes from: templates or custom_node.
    source: &'static str,
    name: String,
    #[schema(inline)]
    info: SubgraphInfo,
    /// The workflow as a text, of one blueprint.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    data: Option<String>,
}

/// What is told of a blueprint besides.
#[derive(Debug, Serialize, ToSchema)]
struct SubgraphInfo {
    node_pack: &'static str,
}

impl Subgraph {
    fn of(blueprint: &Blueprint, data: Option<String>) -> Self {
        Self { source: "templates", name: blueprint.name.clone(), info: SubgraphInfo { node_pack: "comfyui" }, data }
    }
}

/// Those of a ComfyUI beside the server are its own: it has the same ones as the package.
async fn subgraphs(State(app): State<App>, request: Request) -> Result<Response<Body>, ApiError> {
    if !app.installations.is_empty() {
        return Ok(of_packs(State(app), request).await);
    }
    blocking(move || {
        let found = blueprints(&app.options.front_end);
        let told = found.iter().map(|blueprint| (blueprint.id.clone(), Subgraph::of(blueprint, None)));
        Ok(Json(Subgraphs(told.collect())).into_response())
    })
    .await
}

async fn subgraph(State(app): State<App>, UrlPath(id): UrlPath<String>, request: Request) -> Result<Response<Body>, ApiError> {
    if let Some(site) = app.installations.sites().first() {
        return forwarded(&app, site, request).await;
    }
    blocking(move || {
        let Some(found) = blueprints(&app.options.front_end).into_iter().find(|blueprint| blueprint.id == id) else {
            return Ok(Json(None::<Subgraph>).into_response());
        };
        let read = read_bounded(&found.file, MAX_BLUEPRINT_BYTES);
        let data = read.map_err(|error| ApiError::internal(format!("the blueprint {} cannot be read: {error}", found.name)))?;
        Ok(Json(Some(Subgraph::of(&found, Some(data)))).into_response())
    })
    .await
}

/// A text that is not longer than it can rightly be.
fn read_bounded(path: &Path, max: u64) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(max + 1).read_to_string(&mut text)?;
    if text.len() as u64 > max { Err(std::io::Error::other(format!("it has more than {max} bytes"))) } else { Ok(text) }
}

async fn index(State(app): State<App>, headers: HeaderMap) -> Result<Response<Body>, ApiError> {
    match &app.options.front_end {
        FrontEnd::Folder(root) => {
            let mut page = send_file(&root.join("index.html"), "index.html", &headers, Disposition::Page).await?;
            // The page names the scripts of one version: a kept one would ask for scripts that are gone.
            page.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, must-revalidate"));
            Ok(page)
        }
        FrontEnd::Builtin => {
            let media = "img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self' ws: wss:; form-action 'none'";
            let policy = format!("{}; {media}", login::policy(BUILTIN));
            let headers = [
                (header::CONTENT_TYPE, "text/html; charset=utf-8"),
                (header::CACHE_CONTROL, "no-cache"),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ];
            Ok((headers, [(header::CONTENT_SECURITY_POLICY, policy)], BUILTIN).into_response())
        }
        FrontEnd::None => Err(ApiError::not_found("this server has no page: its API is under /api")),
    }
}

/// The front end's file at an address that no route takes; `None` if there is none.
pub(crate) async fn file(app: &App, principal: Principal, uri: &Uri, headers: &HeaderMap) -> Result<Option<Response<Body>>, ApiError> {
    let FrontEnd::Folder(root) = app.options.front_end.clone() else {
        // Browsers ask for it whatever the page says.
        let icon = uri.path() == "/favicon.ico" && app.options.front_end == FrontEnd::Builtin;
        return Ok(icon.then(|| StatusCode::NO_CONTENT.into_response()));
    };
    let Some(path) = file_path(uri) else { return Ok(None) };
    let app = app.clone();
    let found = blocking(move || {
        Ok(match find(&root, &path) {
            Some(file) => Found::File(file),
            None => missing(&app, &principal, &root, &path),
        })
    });
    Ok(Some(match found.await? {
        Found::File(file) => {
            let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            send_file(&file, name, headers, Disposition::Page).await?
        }
        Found::Text(mime, text) => ([(header::CONTENT_TYPE, mime), (header::CACHE_CONTROL, "no-cache")], text).into_response(),
        Found::Empty => StatusCode::NO_CONTENT.into_response(),
        Found::Nothing => return Ok(None),
    }))
}

/// What there is at an address of the front end.
enum Found {
    File(PathBuf),
    /// A text of a media type.
    Text(&'static str, Vec<u8>),
    Empty,
    Nothing,
}

/// What is answered in place of a file that is not there. The front end asks for some in any case and does without: an empty answer in place
/// of an error in the browser's console.
fn missing(app: &App, principal: &Principal, root: &Path, path: &str) -> Found {
    if let Some(help) = path.strip_prefix("docs/").and_then(|rest| rest.strip_suffix(".md")) {
        return node_help(app, root, help);
    }
    match path {
        "favicon.ico" => Found::Empty,
        "user.css" => {
            let own = app.users.folder(principal.user()).ok().map(|folder| folder.join("user.css"));
            let own = own.filter(|path| app.folders.here(path).unwrap_or(false)).and_then(|path| std::fs::read(path).ok());
            Found::Text("text/css; charset=utf-8", own.unwrap_or_default())
        }
        "templates/index_logo.json" => Found::Text("application/json", b"{}".to_vec()),
        _ if path.starts_with("templates/index") && path.ends_with(".json") => Found::Text("application/json", b"[]".to_vec()),
        _ => Found::Nothing,
    }
}

/// The help of a node in a language (`CLASS/LANGUAGE`) of which there is no page: the English page, else the description of the class. The
/// front end asks for every node that is looked at.
fn node_help(app: &App, root: &Path, help: &str) -> Found {
    let class = help.split('/').next().unwrap_or_default();
    if let Some(page) = find(root, &format!("docs/{class}/en.md")) {
        return Found::File(page);
    }
    let text = app.catalog.current().get(class).map(|entry| entry.schema.description.clone()).unwrap_or_default();
    Found::Text("text/markdown; charset=utf-8", text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_page_asks_no_other_host() {
        assert!(BUILTIN.contains("<html"));
        assert!(!BUILTIN.contains("https://") && !BUILTIN.contains("http://"));
    }
}
