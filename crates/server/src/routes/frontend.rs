//! The page at `/` and its files: the official front end's folder, or the small page that is built in. Also what the front end asks for
//! and this server has none of: translations, templates and blueprints of custom nodes.

use std::path::{Path, PathBuf};

use axum::Json;
use axum::body::Body;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use axum::response::IntoResponse;
use serde_json::{Value, json};

use crate::openapi::{Doc, Table};
use crate::routes::userdata::{percent_decode, user_folder};
use crate::routes::view::{Disposition, inside, send_file};
use crate::{ApiError, App, FrontEnd};

/// The page that comes with the server.
const BUILTIN: &str = include_str!("../builtin.html");

/// Python packages that are installed next to the front end's, by the URL under which their files are served:
/// (first part of the path, package, folder in it).
const PACKAGES: [(&str, &str, &str); 2] =
    [("templates", "comfyui_workflow_templates", "templates"), ("docs", "comfyui_embedded_docs", "docs")];

/// The routes of this module. Static files are served by [`fallback`].
pub(super) fn routes() -> Table {
    Table::default()
        .get("/", index, Doc::new("front end", "The page of the front end; its files are below it.").bytes("text/html"))
        .get("/i18n", nothing, Doc::new("front end", "Translations of custom nodes: none.").json("Object"))
        .get("/workflow_templates", nothing, Doc::new("front end", "Workflow templates of custom nodes: none.").json("Object"))
        .get("/global_subgraphs", nothing, Doc::new("front end", "Blueprints of custom nodes: none.").json("Object"))
        .get(
            "/global_subgraphs/{id}",
            no_subgraph,
            Doc::new("front end", "One of the blueprints.").status(404, "There is none of that id."),
        )
}

async fn nothing() -> Json<Value> {
    Json(json!({}))
}

async fn no_subgraph(UrlPath(id): UrlPath<String>) -> ApiError {
    ApiError::not_found("there is no such subgraph blueprint").details(id)
}

pub(crate) async fn index(State(app): State<App>, headers: HeaderMap) -> Result<Response<Body>, ApiError> {
    match &app.options.front_end {
        FrontEnd::Folder(root) => {
            let mut page = send_file(&root.join("index.html"), "index.html", &headers, Disposition::Page).await?;
            // The page names the scripts of one version: a kept one would ask for scripts that are gone.
            page.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, must-revalidate"));
            Ok(page)
        }
        FrontEnd::Builtin => {
            let headers = [
                (header::CONTENT_TYPE, "text/html; charset=utf-8"),
                (header::CACHE_CONTROL, "no-cache"),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ];
            Ok((headers, BUILTIN).into_response())
        }
        FrontEnd::None => Err(ApiError::not_found("this server has no page: its API is under /api")),
    }
}

/// What no route takes: the front end's files, else 404 as JSON.
pub async fn fallback(State(app): State<App>, method: Method, uri: Uri, headers: HeaderMap) -> Result<Response<Body>, ApiError> {
    let unknown = || ApiError::not_found("there is nothing at that address").details(uri.path());
    let FrontEnd::Folder(root) = &app.options.front_end else {
        // Browsers ask for it whatever the page says.
        let icon = uri.path() == "/favicon.ico" && app.options.front_end == FrontEnd::Builtin;
        return if icon { Ok(StatusCode::NO_CONTENT.into_response()) } else { Err(unknown()) };
    };
    if method != Method::GET && method != Method::HEAD {
        return Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", "no such call: see the API's documentation").details(uri.path()));
    }
    let path = percent_decode(uri.path().trim_start_matches('/'));
    if path.contains(['\0', '\\']) || path.split('/').any(|part| part.starts_with('.')) {
        return Err(unknown());
    }
    for file in candidates(root, &path) {
        if tokio::fs::metadata(&file).await.is_ok_and(|m| m.is_file()) {
            let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
            return send_file(&file, &name, &headers, Disposition::Page).await;
        }
    }
    if let Some(help) = path.strip_prefix("docs/").and_then(|rest| rest.strip_suffix(".md")) {
        return node_help(&app, root, help, &headers).await;
    }
    if let Some(answer) = optional(&app, &path, &headers) {
        return Ok(answer);
    }
    Err(unknown())
}

/// The help of a node in a language (`CLASS/LANGUAGE`) of which there is no page: the English page, else the description of the class. The
/// front end asks for every node that is looked at.
async fn node_help(app: &App, root: &Path, help: &str, headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    let class = help.split('/').next().unwrap_or_default();
    for file in candidates(root, &format!("docs/{class}/en.md")) {
        if tokio::fs::metadata(&file).await.is_ok_and(|m| m.is_file()) {
            return send_file(&file, "en.md", headers, Disposition::Page).await;
        }
    }
    let text = app.catalog.get(class).map(|entry| entry.schema.description.clone()).unwrap_or_default();
    Ok(([(header::CONTENT_TYPE, "text/markdown; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")], text).into_response())
}

/// Whether templates are installed for the front end.
pub(crate) fn has_templates(root: &Path) -> bool {
    candidates(root, "templates/index.json").iter().any(|file| file.is_file())
}

/// Files that the front end asks for in any case and does without: an empty answer in place of an error in the browser's console.
fn optional(app: &App, path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
    let typed =
        |mime: &'static str, body: Vec<u8>| ([(header::CONTENT_TYPE, mime), (header::CACHE_CONTROL, "no-cache")], body).into_response();
    match path {
        "favicon.ico" => Some(StatusCode::NO_CONTENT.into_response()),
        "user.css" => {
            let own = user_folder(app, headers).ok().and_then(|folder| std::fs::read(folder.join("user.css")).ok());
            Some(typed("text/css; charset=utf-8", own.unwrap_or_default()))
        }
        "templates/index_logo.json" => Some(typed("application/json", b"{}".to_vec())),
        _ if path.starts_with("templates/index") && path.ends_with(".json") => Some(typed("application/json", b"[]".to_vec())),
        _ => None,
    }
}

/// Where a static file may be: in the front end's folder, or in a package beside it.
fn candidates(root: &Path, path: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = inside(root, path).into_iter().collect();
    // site-packages/comfyui_frontend_package/static → site-packages
    let packages = root.parent().and_then(Path::parent);
    if let (Some((first, rest)), Some(packages)) = (path.split_once('/'), packages)
        && let Some((_, package, folder)) = PACKAGES.iter().find(|(name, ..)| *name == first)
    {
        files.extend(inside(&packages.join(package).join(folder), rest));
    }
    files
}

/// The version of the workflow templates that are served, if there are some and it is known.
pub(crate) fn templates_version(app: &App) -> Option<String> {
    let FrontEnd::Folder(root) = &app.options.front_end else { return None };
    if root.join("templates/index.json").is_file() {
        // Beside the front end's own pages are those that go with it.
        return Some(app.options.required_versions.1.clone());
    }
    let packages = root.parent().and_then(Path::parent)?;
    let mut names = std::fs::read_dir(packages).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.find_map(|name| Some(name.strip_prefix("comfyui_workflow_templates-")?.strip_suffix(".dist-info")?.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn files_are_looked_for_inside_only() {
        let root = Path::new("/site/comfyui_frontend_package/static");
        assert_eq!(candidates(root, "assets/a.js"), [root.join("assets/a.js")]);
        assert!(candidates(root, "../a.js").is_empty());
        let found = candidates(root, "templates/index.json");
        assert_eq!(found, [root.join("templates/index.json"), "/site/comfyui_workflow_templates/templates/index.json".into()]);
        assert!(candidates(root, "templates/../../x").is_empty());
    }

    #[test]
    fn the_builtin_page_asks_no_other_host() {
        assert!(BUILTIN.contains("<html"));
        assert!(!BUILTIN.contains("https://") && !BUILTIN.contains("http://"));
    }
}
