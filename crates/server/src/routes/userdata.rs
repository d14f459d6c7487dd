//! `/users` and `/userdata`: files that the front end keeps for a user, such as workflows. Also how such files are written: whole or not
//! at all.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{Path as UrlPath, Request, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::{Json, body::Body};
use comfyd_folders::whole::{self, Replace};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::error::is_disk_full;
use crate::json::LenientJson;
use crate::openapi::{Doc, Table};
use crate::query::Query;
use crate::routes::view::{Disposition, blocking, inside, send_file};
use crate::{ApiError, App, body};

/// Entries that one listing may have.
const MAX_ENTRIES: usize = 100_000;
/// Folders deeper than this are not entered.
const MAX_DEPTH: usize = 32;
/// Users that may be made.
const MAX_USERS: usize = 10_000;
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
/// The user where there is only one.
const DEFAULT_USER: &str = "default";

/// Held while `users.json` is read, changed and written.
static USERS: Mutex<()> = Mutex::new(());

/// The routes of this module.
pub(super) fn routes() -> Table {
    let listed = |summary| Doc::new("users", summary);
    Table::default()
        .get("/users", users, listed("The users, or whether there is one only.").json("Users"))
        .post("/users", add_user, listed("Makes a user and answers its id.").body("NewUser").json("Text"))
        .get(
            "/userdata",
            list,
            listed("Files of the user in a folder.")
                .query("dir", "string", "The folder.")
                .query("recurse", "boolean", "Folders in it too.")
                .query("full_info", "boolean", "Objects in place of paths.")
                .query("split", "boolean", "Paths and their parts.")
                .json("UserFiles"),
        )
        .get("/v2/userdata", list_v2, listed("Files and folders of the user.").query("path", "string", "The folder.").json("UserEntries"))
        .get("/userdata/{file}", read, listed("A file.").bytes("application/octet-stream"))
        .post(
            "/userdata/{file}",
            write,
            listed("Stores a file.")
                .query("overwrite", "boolean", "false keeps a file of that name.")
                .query("full_info", "boolean", "Answers more than the path.")
                .bytes_body()
                .json("UserFile"),
        )
        .delete("/userdata/{file}", delete, listed("Removes a file.").status(204, "It is gone."))
        .post(
            "/userdata/{file}/move/{dest}",
            rename,
            listed("Moves a file.")
                .query("overwrite", "boolean", "false keeps a file of that name.")
                .query("full_info", "boolean", "Answers more than the path.")
                .json("UserFile"),
        )
}

/// Writes a file that appears whole or not at all, making its folders. Whether it was put there: `false` only where there is one already
/// that is not to be replaced.
pub(crate) fn write_file(path: &Path, bytes: &[u8], replace: Replace) -> Result<bool, ApiError> {
    let failed = |e: std::io::Error| match e.kind() {
        _ if is_disk_full(&e) => ApiError::disk_full(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => ApiError::internal(format!("the file cannot be written: {e}")),
        // What remains is about the name: too long, a folder, a file in place of a folder.
        _ => ApiError::bad_request(format!("no file can be written under that name: {e}")),
    };
    whole::write(path, bytes, replace).map_err(failed)
}

/// The folder of the request's user. 401 if there is no such user.
pub(crate) fn user_folder(app: &App, headers: &HeaderMap) -> Result<PathBuf, ApiError> {
    if !app.options.multi_user {
        return Ok(app.folders.roots().user.join(DEFAULT_USER));
    }
    let user = headers.get("comfy-user").and_then(|v| v.to_str().ok()).unwrap_or(DEFAULT_USER);
    if !known_users(app)?.contains_key(user) {
        let error =
            ApiError::new(StatusCode::UNAUTHORIZED, "unknown_user", "there is no such user: send the header comfy-user with one of /users");
        return Err(error.details(user));
    }
    inside(&app.folders.roots().user, user)
}

fn known_users(app: &App) -> Result<Map<String, Value>, ApiError> {
    Ok(stored_object(app, &app.folders.roots().user.join("users.json"))?.unwrap_or_default())
}

/// The object in a JSON file of the user folder; `None` where there is no such file. A file that cannot be read is an error that names it:
/// if it counted as empty, the next change would replace it.
pub(crate) fn stored_object(app: &App, path: &Path) -> Result<Option<Map<String, Value>>, ApiError> {
    let damaged = |reason: &dyn std::fmt::Display| {
        let name = path.strip_prefix(&app.folders.roots().user).unwrap_or(path).display().to_string();
        tracing::error!(file = %path.display(), "a stored file cannot be read and stays as it is: {reason}");
        let message = format!("'{name}' in the user folder cannot be read ({reason}): mend the file, or move it away to begin anew");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged_file", message)
    };
    match fs::read(path) {
        Ok(text) => match comfyd_wire::json::read(&text).map_err(|e| damaged(&e))? {
            Value::Object(object) => Ok(Some(object)),
            _ => Err(damaged(&"it is no object")),
        },
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(damaged(&e)),
    }
}

async fn users(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    blocking(move || {
        if app.options.multi_user {
            return Ok(Json(json!({"storage": "server", "users": known_users(&app)?})));
        }
        let migrated = app.folders.roots().user.join(DEFAULT_USER).exists();
        Ok(Json(json!({"storage": "server", "migrated": migrated})))
    })
    .await
}

async fn add_user(State(app): State<App>, LenientJson(body): LenientJson) -> Result<Json<Value>, ApiError> {
    blocking(move || {
        let name = body.get("username").and_then(Value::as_str).map(str::trim).filter(|n| !n.is_empty() && n.len() <= 128);
        let name = name.ok_or_else(|| ApiError::bad_request("'username' must be a text of 1 to 128 bytes"))?;
        let _held = USERS.lock();
        let mut users = known_users(&app)?;
        // Where there is one user only, a further one is kept for when there are several, as in the reference.
        if users.values().any(|known| known == name) || !app.options.multi_user && name == DEFAULT_USER {
            return Err(ApiError::bad_request("there is a user of that name: choose another").details(name));
        }
        if users.len() >= MAX_USERS {
            return Err(ApiError::bad_request(format!("there are {MAX_USERS} users already: remove some from users.json")));
        }
        let id = format!("{}_{}", safe_name(name), uuid::Uuid::new_v4());
        users.insert(id.clone(), json!(name));
        write_file(&app.folders.roots().user.join("users.json"), Value::Object(users).to_string().as_bytes(), Replace::Yes)?;
        Ok(Json(json!(id)))
    })
    .await
}

/// Runs of what is not a letter, digit, `-` or `_` become one `-`.
fn safe_name(name: &str) -> String {
    let mut out = String::new();
    let mut replaced = false;
    for c in name.chars() {
        let keep = c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if keep {
            out.push(c);
        } else if !replaced {
            out.push('-');
        }
        replaced = !keep;
    }
    out
}

fn flag(query: &HashMap<String, String>, name: &str) -> bool {
    query.get(name).is_some_and(|v| v.eq_ignore_ascii_case("true"))
}

async fn list(State(app): State<App>, Query(query): Query, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    blocking(move || {
        let dir = query.get("dir").filter(|d| !d.is_empty()).ok_or_else(|| ApiError::bad_request("no folder is named: add ?dir=..."))?;
        let root = user_path(&user_folder(&app, &headers)?, dir)?;
        if !root.exists() {
            if EXPECTED_FOLDERS.contains(&dir.trim_end_matches('/')) {
                return Ok(Json(json!([])));
            }
            return Err(ApiError::not_found("there is no such folder").details(dir));
        }
        let mut entries = Vec::new();
        walk(&root, &root, if flag(&query, "recurse") { MAX_DEPTH } else { 0 }, Hidden::Skip, &mut entries);
        let files = entries.into_iter().filter(|e| e.meta.is_file()).map(|entry| {
            if flag(&query, "full_info") {
                file_info(&entry.path, &entry.meta)
            } else if flag(&query, "split") {
                let parts = std::iter::once(entry.path.as_str()).chain(entry.path.split('/'));
                parts.map(Value::from).collect()
            } else {
                Value::from(entry.path)
            }
        });
        Ok(Json(files.collect()))
    })
    .await
}

async fn list_v2(State(app): State<App>, Query(query): Query, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    blocking(move || {
        let base = user_folder(&app, &headers).map_err(|e| match e.status() {
            StatusCode::UNAUTHORIZED => ApiError::forbidden("there is no such user"),
            _ => e,
        })?;
        let wanted = query.get("path").map_or("", String::as_str);
        let root =
            user_path(&base, wanted).map_err(|_| ApiError::bad_request("the path leads outside: give a relative one").details(wanted))?;
        if !root.exists() {
            return if root == base { Ok(Json(json!([]))) } else { Err(ApiError::not_found("there is no such folder").details(wanted)) };
        }
        if !root.is_dir() {
            return Err(ApiError::bad_request("the path is not a folder").details(wanted));
        }
        let mut entries = Vec::new();
        walk(&base, &root, MAX_DEPTH, Hidden::Show, &mut entries);
        entries.sort_by_cached_key(|e| (!e.meta.is_dir(), file_part(&e.path).to_lowercase(), e.path.clone()));
        let describe = |e: &Entry| {
            let name = file_part(&e.path);
            if e.meta.is_dir() {
                json!({"name": name, "path": e.path, "type": "directory"})
            } else {
                json!({"name": name, "path": e.path, "type": "file", "size": e.meta.len(), "modified": seconds(e.meta.modified())})
            }
        };
        Ok(Json(entries.iter().map(describe).collect()))
    })
    .await
}

fn file_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A file or folder below a listed one.
struct Entry {
    /// Relative, with forward slashes.
    path: String,
    meta: Metadata,
}

/// What is done with names that start with a dot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hidden {
    Show,
    Skip,
}

/// Adds what is in `folder`, named relative to `base`, and in its folders down to `depth`, sorted by name. Links to folders are not entered.
fn walk(base: &Path, folder: &Path, depth: usize, hidden: Hidden, entries: &mut Vec<Entry>) {
    let Ok(read) = fs::read_dir(folder) else { return };
    let mut children: Vec<_> = read.flatten().take(MAX_ENTRIES).collect();
    children.sort_by_key(fs::DirEntry::file_name);
    for child in children {
        if entries.len() >= MAX_ENTRIES {
            return;
        }
        let path = child.path();
        let (Ok(meta), Some(relative)) = (fs::metadata(&path), path.strip_prefix(base).ok().and_then(Path::to_str)) else { continue };
        if hidden == Hidden::Skip && file_part(relative).starts_with('.') || whole::is_unfinished(file_part(relative)) {
            continue;
        }
        entries.push(Entry { path: relative.replace('\\', "/"), meta });
        if depth > 0 && child.file_type().is_ok_and(|t| t.is_dir()) {
            walk(base, &path, depth - 1, hidden, entries);
        }
    }
}

fn seconds(time: std::io::Result<SystemTime>) -> f64 {
    time.ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default().as_secs_f64()
}

/// `{"path", "size", "modified", "created"}`, times in seconds since 1970.
fn file_info(path: &str, meta: &Metadata) -> Value {
    let created = meta.created().or_else(|_| meta.modified());
    json!({"path": path, "size": meta.len(), "modified": seconds(meta.modified()), "created": seconds(created)})
}

/// The path of a user's file. Clients may have encoded the name twice.
fn user_path(base: &Path, name: &str) -> Result<PathBuf, ApiError> {
    if name.contains('%') { inside(base, &percent_decode(name)) } else { inside(base, name) }
}

/// Decodes `%41` to `A`; what is no code stays.
pub(crate) fn percent_decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// A user's file, which cannot be the user's folder itself.
fn user_file(base: &Path, name: &str) -> Result<PathBuf, ApiError> {
    let path = user_path(base, name)?;
    if path == base { Err(ApiError::forbidden("that is the user's folder: name a file in it")) } else { Ok(path) }
}

/// What an upload or a move answers: the file's path in the user's folder, or all about it.
fn told(base: &Path, path: &Path, query: &HashMap<String, String>) -> Result<Json<Value>, ApiError> {
    let relative = path.strip_prefix(base).unwrap_or(path).to_string_lossy().replace('\\', "/");
    if !flag(query, "full_info") {
        return Ok(Json(json!(relative)));
    }
    let meta = fs::metadata(path).map_err(|e| ApiError::internal(format!("the file was written but cannot be read: {e}")))?;
    Ok(Json(file_info(&relative, &meta)))
}

fn replacing(query: &HashMap<String, String>) -> Replace {
    if query.get("overwrite").is_some_and(|v| v == "false") { Replace::No } else { Replace::Yes }
}

fn exists_already(name: &str) -> ApiError {
    ApiError::conflict("the file is there already: choose another name or leave out overwrite=false").details(name)
}

async fn read(State(app): State<App>, UrlPath(name): UrlPath<String>, headers: HeaderMap) -> Result<Response<Body>, ApiError> {
    let (wanted, asked) = (headers.clone(), name.clone());
    let expected = EXPECTED_FILES.iter().find(|(expected, ..)| asked == *expected);
    let path = match (blocking(move || user_file(&user_folder(&app, &headers)?, &name)).await, expected) {
        (Ok(path), _) => path,
        // The front end asks for them before a user is chosen.
        (Err(_), Some((_, mime, empty))) => return Ok(([(header::CONTENT_TYPE, *mime)], *empty).into_response()),
        (Err(error), None) => return Err(error),
    };
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    match expected {
        Some((_, mime, empty)) if !path.exists() => Ok(([(header::CONTENT_TYPE, *mime)], *empty).into_response()),
        Some((USER_STYLE, ..)) => send_file(&path, &name, &wanted, Disposition::Page).await,
        Some(_) | None => send_file(&path, &name, &wanted, Disposition::Inline).await,
    }
}

async fn write(
    State(app): State<App>,
    UrlPath(name): UrlPath<String>,
    Query(query): Query,
    headers: HeaderMap,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let body = body::bytes(request, &()).await?;
    blocking(move || {
        let base = user_folder(&app, &headers)?;
        let path = user_file(&base, &name)?;
        if !write_file(&path, &body, replacing(&query))? {
            return Err(exists_already(&name));
        }
        told(&base, &path, &query)
    })
    .await
}

async fn delete(State(app): State<App>, UrlPath(name): UrlPath<String>, headers: HeaderMap) -> Result<StatusCode, ApiError> {
    blocking(move || {
        let path = user_file(&user_folder(&app, &headers)?, &name)?;
        match fs::remove_file(&path) {
            Ok(()) => Ok(StatusCode::NO_CONTENT),
            Err(_) if !path.exists() => Err(ApiError::not_found("there is no such file").details(name)),
            Err(_) if path.is_dir() => Err(ApiError::bad_request("that is a folder: name a file").details(name)),
            Err(e) => Err(ApiError::internal(format!("the file cannot be removed: {e}"))),
        }
    })
    .await
}

async fn rename(
    State(app): State<App>,
    UrlPath((name, dest)): UrlPath<(String, String)>,
    Query(query): Query,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    blocking(move || {
        let base = user_folder(&app, &headers)?;
        let source = user_file(&base, &name)?;
        if !source.exists() {
            return Err(ApiError::not_found("there is no such file").details(name));
        }
        let target = user_file(&base, &dest)?;
        if target.exists() && (replacing(&query) == Replace::No || target.is_dir()) {
            return Err(exists_already(&dest));
        }
        let failed = |e: std::io::Error| match is_disk_full(&e) {
            true => ApiError::disk_full(),
            false => ApiError::bad_request(format!("the file cannot be moved there: {e}")),
        };
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let moved = match replacing(&query) {
            Replace::Yes => fs::rename(&source, &target).map(|()| true),
            Replace::No => whole::rename_new(&source, &target),
        };
        if !moved.map_err(failed)? {
            return Err(exists_already(&dest));
        }
        told(&base, &target, &query)
    })
    .await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_file_is_replaced_only_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.json");
        assert!(write_file(&path, b"1", Replace::No).unwrap());
        assert!(!write_file(&path, b"2", Replace::No).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"1");
        assert!(write_file(&path, b"3", Replace::Yes).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"3");
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn doubly_encoded_names_cannot_lead_outside() {
        let base = Path::new("/u/default");
        assert_eq!(user_file(base, "t1%2Fa.json").unwrap(), Path::new("/u/default/t1/a.json"));
        assert!(user_file(base, "%2e%2e%2fx").is_err());
        assert!(user_file(base, "../x").is_err());
        assert!(user_file(base, "/etc/passwd").is_err());
        assert!(user_file(base, ".").is_err());
        assert_eq!(percent_decode("100%"), "100%");
        assert_eq!(percent_decode("%zz%41"), "%zzA");
    }

    #[test]
    fn user_names_become_folder_names() {
        assert_eq!(safe_name("a b//ü_c-"), "a-b-_c-");
    }
}
