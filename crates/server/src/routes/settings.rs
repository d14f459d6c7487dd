//! `/settings`: the front end's settings of a user.

use axum::Json;
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use serde_json::{Map, Value};

use crate::answer::blocking;
use crate::answer::types::{Any, Object};
use crate::app::App;
use crate::error::ApiError;
use crate::json::LenientJson;
use crate::openapi::{Doc, Table};
use crate::permission::Permission::{Read, Run};
use crate::principal::Principal;
use crate::services::pages::initial_settings;

/// The routes of this module.
pub(super) fn routes() -> Table {
    Table::default()
        .get("/settings", Read, all, Doc::new("users", "All settings of the user.").json::<Object>())
        .post("/settings", Run, set_many, Doc::new("users", "Changes some settings.").body_of::<Object>().done())
        .get("/settings/{id}", Read, one, Doc::new("users", "One setting; null if it is not set.").json::<Any>())
        .post("/settings/{id}", Run, set_one, Doc::new("users", "Changes one setting.").body_of::<Any>().done())
}

async fn all(State(app): State<App>, principal: Principal) -> Result<Json<Object>, ApiError> {
    blocking(move || shown(&app, &principal).map(Object).map(Json)).await
}

async fn one(State(app): State<App>, UrlPath(id): UrlPath<String>, principal: Principal) -> Result<Json<Any>, ApiError> {
    blocking(move || Ok(Json(Any(shown(&app, &principal)?.remove(&id).unwrap_or_default())))).await
}

/// The user's settings. A damaged file shows none, as the front end could not start otherwise; it can be changed when it is mended.
fn shown(app: &App, principal: &Principal) -> Result<Map<String, Value>, ApiError> {
    let folder = app.users.folder(principal.user())?;
    let stored = match app.users.settings_in(&folder) {
        // It can be read when the store is back.
        Err(away) if away.status() == StatusCode::SERVICE_UNAVAILABLE => return Err(away),
        stored => stored.ok().flatten(),
    };
    Ok(stored.unwrap_or_else(|| initial_settings(&app.options.front_end)))
}

async fn set_many(State(app): State<App>, principal: Principal, LenientJson(body): LenientJson) -> Result<StatusCode, ApiError> {
    let Value::Object(changes) = body else {
        return Err(ApiError::bad_request("the body must be an object of settings"));
    };
    change(app, principal, changes).await
}

async fn set_one(
    State(app): State<App>,
    UrlPath(id): UrlPath<String>,
    principal: Principal,
    LenientJson(value): LenientJson,
) -> Result<StatusCode, ApiError> {
    change(app, principal, Map::from_iter([(id, value)])).await
}

async fn change(app: App, principal: Principal, changes: Map<String, Value>) -> Result<StatusCode, ApiError> {
    blocking(move || {
        let (owner, folders) = principal.files(&app);
        let bytes = serde_json::to_vec(&changes).map_or(0, |text| text.len() as u64);
        app.usage.room(&owner, &app.folders, &folders, bytes)?;
        let change = |settings: &mut Map<String, Value>| settings.extend(changes.clone());
        app.users.change_settings(principal.user(), || initial_settings(&app.options.front_end), change)?;
        Ok(StatusCode::OK)
    })
    .await
}
