//! `/settings`: the front end's settings of a user, in `comfy.settings.json` of the user's folder.

use std::path::PathBuf;

use axum::Json;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::json::LenientJson;
use crate::openapi::{Doc, Table};
use crate::routes::userdata::{Replace, user_folder, write_file};
use crate::routes::view::blocking;
use crate::{ApiError, App};

/// Held while settings are read, changed and written, so that two changes at once both survive.
static CHANGING: Mutex<()> = Mutex::new(());

/// The routes of this module.
pub(super) fn routes() -> Table {
    Table::default()
        .get("/settings", all, Doc::new("users", "All settings of the user.").json("Object"))
        .post("/settings", set_many, Doc::new("users", "Changes some settings.").body("Object").done())
        .get("/settings/{id}", one, Doc::new("users", "One setting; null if it is not set.").json("Any"))
        .post("/settings/{id}", set_one, Doc::new("users", "Changes one setting.").body("Any").done())
}

async fn all(State(app): State<App>, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    blocking(move || Ok(Json(Value::Object(load(&file(&app, &headers)?))))).await
}

async fn one(State(app): State<App>, UrlPath(id): UrlPath<String>, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    blocking(move || Ok(Json(load(&file(&app, &headers)?).remove(&id).unwrap_or_default()))).await
}

async fn set_many(State(app): State<App>, headers: HeaderMap, LenientJson(body): LenientJson) -> Result<StatusCode, ApiError> {
    let Value::Object(changes) = body else {
        return Err(ApiError::bad_request("the body must be an object of settings"));
    };
    change(app, headers, move |settings| settings.extend(changes)).await
}

async fn set_one(
    State(app): State<App>,
    UrlPath(id): UrlPath<String>,
    headers: HeaderMap,
    LenientJson(value): LenientJson,
) -> Result<StatusCode, ApiError> {
    change(app, headers, move |settings| drop(settings.insert(id, value))).await
}

async fn change(
    app: App,
    headers: HeaderMap,
    change: impl FnOnce(&mut Map<String, Value>) + Send + 'static,
) -> Result<StatusCode, ApiError> {
    blocking(move || {
        let file = file(&app, &headers)?;
        let _held = CHANGING.lock();
        let mut settings = load(&file);
        change(&mut settings);
        let text = serde_json::to_vec_pretty(&settings).map_err(|e| ApiError::internal(format!("the settings cannot be written: {e}")))?;
        write_file(&file, &text, Replace::Yes)?;
        Ok(StatusCode::OK)
    })
    .await
}

fn file(app: &App, headers: &HeaderMap) -> Result<PathBuf, ApiError> {
    Ok(user_folder(app, headers)?.join("comfy.settings.json"))
}

/// The settings of a file; none where it is missing. A damaged file counts as empty, as the front end could not start otherwise.
fn load(file: &std::path::Path) -> Map<String, Value> {
    let Ok(text) = std::fs::read(file) else { return Map::new() };
    let damage = match comfyd_wire::json::read(&text) {
        Ok(Value::Object(settings)) => return settings,
        Ok(_) => "they are no object".to_owned(),
        Err(error) => error.to_string(),
    };
    tracing::warn!(file = %file.display(), "the settings are damaged and are ignored: {damage}");
    Map::new()
}
