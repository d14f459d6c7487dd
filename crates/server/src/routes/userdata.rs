//! `/users` and `/userdata`: who the users are, and files that the front end keeps for them, such as workflows.

use std::fs;
use std::path::Path;

use axum::extract::{Path as UrlPath, Request, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::{Json, body::Body};
use comfyd_folders::whole::Replace;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::answer::blocking;
use crate::answer::file::{Disposition, send_file};
use crate::answer::types::Text;
use crate::app::App;
use crate::body;
use crate::error::ApiError;
use crate::json::LenientJson;
use crate::openapi::{Doc, Table};
use crate::permission::Permission::{Admin, Read, Run};
use crate::principal::Principal;
use crate::query::Query;
use crate::services::userdata::{self, Entry, Facts, FileInfo, Found, user_file, user_path};

/// Folders and files that the front end asks for before it has made them, with the type and content of an empty one: an error would only
/// stand in the browser's console.
const EXPECTED_FOLDERS: [&str; 2] = ["workflows", "subgraphs"];
const EXPECTED_FILES: [(&str, &str, &str); 3] = [
    (USER_STYLE, "text/css; charset=utf-8", ""),
    ("comfy.templates.json", "application/json", "[]"),
    ("workflows/.index.json", "application/json", "{}"),
];
/// The user's own style, which is part of the front end's page.
const USER_STYLE: &str = "user.css";

/// The routes of this module.
pub(super) fn routes() -> Table {
    let listed = |summary| Doc::new("users", summary);
    Table::default()
        .get("/users", Read, users, listed("The users, or whether there is one only.").json::<Users>())
        .post("/users", Admin, add_user, listed("Makes a user and answers its id.").body("NewUser").json::<Text>())
        .get(
            "/userdata",
            Read,
            list,
            listed("Files of the user in a folder.")
                .query("dir", "string", "The folder.")
                .query("recurse", "boolean", "Folders in it too.")
                .query("full_info", "boolean", "Objects in place of paths.")
                .query("split", "boolean", "Paths and their parts.")
                .json::<UserFiles>(),
        )
        .get(
            "/v2/userdata",
            Read,
            list_v2,
            listed("Files and folders of the user.").query("path", "string", "The folder.").json::<UserEntries>(),
        )
        .get("/userdata/{file}", Read, read, listed("A file.").bytes("application/octet-stream"))
        .post(
            "/userdata/{file}",
            Run,
            write,
            listed("Stores a file.")
                .query("overwrite", "boolean", "false keeps a file of that name.")
                .query("full_info", "boolean", "Answers more than the path.")
                .bytes_body()
                .json::<UserFile>(),
        )
        .delete("/userdata/{file}", Run, delete, listed("Removes a file.").status(204, "It is gone."))
        .post(
            "/userdata/{file}/move/{dest}",
            Run,
            rename,
            listed("Moves a file.")
                .query("overwrite", "boolean", "false keeps a file of that name.")
                .query("full_info", "boolean", "Answers more than the path.")
                .json::<UserFile>(),
        )
}

/// The users, or whether there is one only.
#[derive(Debug, Serialize, ToSchema)]
struct Users {
    storage: &'static str,
    /// With one user: whether its folder is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    migrated: Option<bool>,
    /// With many users: id to name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = HashMap<String, String>, required = false)]
    users: Option<Map<String, Value>>,
}

/// The path; with full_info all about the file.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum UserFile {
    Path(String),
    Full(FileInfo),
}

/// Paths; with full_info objects, with split arrays of the path and its parts.
#[derive(Debug, Default, Serialize, ToSchema)]
struct UserFiles(#[schema(inline)] Vec<ListedFile>);

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum ListedFile {
    Path(String),
    Parts(Vec<String>),
    Full(FileInfo),
}

/// Files and folders of the user.
#[derive(Debug, Default, Serialize, ToSchema)]
struct UserEntries(#[schema(inline)] Vec<UserEntry>);

/// A file or folder of the user.
#[derive(Debug, Serialize, ToSchema)]
struct UserEntry {
    name: String,
    path: String,
    #[serde(rename = "type")]
    #[schema(inline)]
    kind: EntryKind,
    /// Bytes, of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    size: Option<u64>,
    /// Seconds since 1970, of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    modified: Option<f64>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum EntryKind {
    File,
    Directory,
}

impl UserEntry {
    fn of(entry: Entry) -> Self {
        let (name, is_file) = (entry.name().to_owned(), !entry.facts.is_folder);
        let (size, modified) = (is_file.then_some(entry.facts.bytes), is_file.then_some(entry.facts.modified));
        Self { name, path: entry.path, kind: if is_file { EntryKind::File } else { EntryKind::Directory }, size, modified }
    }
}

async fn users(State(app): State<App>) -> Result<Json<Users>, ApiError> {
    blocking(move || {
        let users = app.users.names()?;
        let migrated = users.is_none().then(|| app.users.has_default()).transpose()?;
        Ok(Json(Users { storage: "server", migrated, users }))
    })
    .await
}

async fn add_user(State(app): State<App>, LenientJson(body): LenientJson) -> Result<Json<Text>, ApiError> {
    blocking(move || {
        let name = body.get("username").and_then(Value::as_str).map(str::trim).filter(|n| !n.is_empty() && n.len() <= 128);
        let name = name.ok_or_else(|| ApiError::bad_request("'username' must be a text of 1 to 128 bytes"))?;
        app.users.add(name).map(Text).map(Json)
    })
    .await
}

async fn list(State(app): State<App>, query: Query, principal: Principal) -> Result<Json<UserFiles>, ApiError> {
    blocking(move || {
        let dir = query.get("dir").filter(|d| !d.is_empty()).ok_or_else(|| ApiError::bad_request("no folder is named: add ?dir=..."))?;
        let root = user_path(&app.users.folder(principal.user())?, dir)?;
        if userdata::found(&app.folders, &root)? == Found::Nothing {
            if EXPECTED_FOLDERS.contains(&dir.trim_end_matches('/')) {
                return Ok(Json(UserFiles::default()));
            }
            return Err(ApiError::not_found("there is no such folder").details(dir));
        }
        let (full, split) = (query.is_true("full_info"), query.is_true("split"));
        let told = |Entry { path, facts }| match (full, split) {
            (true, _) => ListedFile::Full(FileInfo::of(path, &facts)),
            (false, true) => ListedFile::Parts(std::iter::once(path.as_str()).chain(path.split('/')).map(str::to_owned).collect()),
            (false, false) => ListedFile::Path(path),
        };
        Ok(Json(UserFiles(userdata::files(&app.folders, &root, query.is_true("recurse"))?.into_iter().map(told).collect())))
    })
    .await
}

async fn list_v2(State(app): State<App>, query: Query, principal: Principal) -> Result<Json<UserEntries>, ApiError> {
    blocking(move || {
        let base = app.users.folder(principal.user()).map_err(|e| match e.status() {
            StatusCode::UNAUTHORIZED => ApiError::forbidden("there is no such user"),
            _ => e,
        })?;
        let wanted = query.get("path").unwrap_or_default();
        let root =
            user_path(&base, wanted).map_err(|_| ApiError::bad_request("the path leads outside: give a relative one").details(wanted))?;
        match userdata::found(&app.folders, &root)? {
            Found::Nothing if root == base => Ok(Json(UserEntries::default())),
            Found::Nothing => Err(ApiError::not_found("there is no such folder").details(wanted)),
            Found::File => Err(ApiError::bad_request("the path is not a folder").details(wanted)),
            Found::Folder => Ok(Json(UserEntries(userdata::entries(&app.folders, &base, &root)?.into_iter().map(UserEntry::of).collect()))),
        }
    })
    .await
}

/// What an upload or a move answers: the file's path in the user's folder, or all about it.
fn told(base: &Path, path: &Path, query: &Query) -> Result<Json<UserFile>, ApiError> {
    let relative = path.strip_prefix(base).unwrap_or(path).to_string_lossy().replace('\\', "/");
    if !query.is_true("full_info") {
        return Ok(Json(UserFile::Path(relative)));
    }
    let meta = fs::metadata(path).map_err(|e| ApiError::internal(format!("the file was written but cannot be read: {e}")))?;
    Ok(Json(UserFile::Full(FileInfo::of(relative, &Facts::from(&meta)))))
}

fn replacing(query: &Query) -> Replace {
    if query.get("overwrite") == Some("false") { Replace::No } else { Replace::Yes }
}

async fn read(
    State(app): State<App>,
    UrlPath(name): UrlPath<String>,
    principal: Principal,
    headers: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let expected = EXPECTED_FILES.iter().find(|(expected, ..)| name == *expected);
    let found = blocking(move || {
        let path = user_file(&app.users.folder(principal.user())?, &name)?;
        Ok((app.folders.here(&path)? || !app.folders.is_shared() && path.exists(), path))
    });
    let (exists, path) = match (found.await, expected) {
        (Ok(found), _) => found,
        // The front end asks for them before a user is chosen.
        (Err(_), Some((_, mime, empty))) => return Ok(([(header::CONTENT_TYPE, *mime)], *empty).into_response()),
        (Err(error), None) => return Err(error),
    };
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    match expected {
        Some((_, mime, empty)) if !exists => Ok(([(header::CONTENT_TYPE, *mime)], *empty).into_response()),
        None if !exists => Err(ApiError::not_found("there is no such file").details(name)),
        Some((USER_STYLE, ..)) => send_file(&path, &name, &headers, Disposition::Page).await,
        Some(_) | None => send_file(&path, &name, &headers, Disposition::Inline).await,
    }
}

async fn write(
    State(app): State<App>,
    UrlPath(name): UrlPath<String>,
    query: Query,
    principal: Principal,
    request: Request,
) -> Result<Json<UserFile>, ApiError> {
    let body = body::bytes(request, &()).await?;
    blocking(move || {
        let (owner, folders) = principal.files(&app);
        app.usage.room(&owner, &app.folders, &folders, body.len() as u64)?;
        let base = app.users.folder(principal.user())?;
        let path = userdata::store(&app.folders, &base, &name, &body, replacing(&query))?;
        told(&base, &path, &query)
    })
    .await
}

async fn delete(State(app): State<App>, UrlPath(name): UrlPath<String>, principal: Principal) -> Result<StatusCode, ApiError> {
    blocking(move || userdata::remove(&app.folders, &app.users.folder(principal.user())?, &name).map(|()| StatusCode::NO_CONTENT)).await
}

async fn rename(
    State(app): State<App>,
    UrlPath((name, dest)): UrlPath<(String, String)>,
    query: Query,
    principal: Principal,
) -> Result<Json<UserFile>, ApiError> {
    blocking(move || {
        let base = app.users.folder(principal.user())?;
        let path = userdata::rename(&app.folders, &base, &name, &dest, replacing(&query))?;
        told(&base, &path, &query)
    })
    .await
}
