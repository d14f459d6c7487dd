//! `/settings`: the front end's settings of a user, in `comfy.settings.json` of the user's folder.

use std::path::PathBuf;

use axum::Json;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode};
use comfyd_folders::whole::Replace;
use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::json::LenientJson;
use crate::openapi::{Doc, Table};
use crate::routes::frontend::has_templates;
use crate::routes::userdata::{stored_object, user_folder, write_file};
use crate::routes::view::blocking;
use crate::{ApiError, App, FrontEnd};

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
    blocking(move || Ok(Json(Value::Object(shown(&app, &headers)?)))).await
}

async fn one(State(app): State<App>, UrlPath(id): UrlPath<String>, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    blocking(move || Ok(Json(shown(&app, &headers)?.remove(&id).unwrap_or_default()))).await
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
        let mut settings = stored_object(&app, &file)?.unwrap_or_else(|| initial(&app));
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

/// The user's settings. A damaged file shows none, as the front end could not start otherwise; it can be changed when it is mended.
fn shown(app: &App, headers: &HeaderMap) -> Result<Map<String, Value>, ApiError> {
    let stored = stored_object(app, &file(app, headers)?);
    Ok(stored.ok().flatten().unwrap_or_else(|| initial(app)))
}

/// The settings of a user who has none yet. At the first start the front end opens a gallery of templates; where none are installed it is
/// to begin with its default workflow. It then notes no version for a new user by itself, on which its defaults depend.
fn initial(app: &App) -> Map<String, Value> {
    let mut settings = Map::new();
    if let FrontEnd::Folder(root) = &app.options.front_end
        && !has_templates(root)
    {
        settings.insert("Comfy.TutorialCompleted".into(), Value::Bool(true));
        let folder = root.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if folder.starts_with(|c: char| c.is_ascii_digit()) {
            settings.insert("Comfy.InstalledVersion".into(), folder.into());
        }
    }
    settings
}
