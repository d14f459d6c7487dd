//! `/view` and `/view_metadata`: files of the input, output and temp folders, and what a model file says of itself.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, Response};
use serde_json::Value;

use crate::answer::blocking;
use crate::answer::file::{Disposition, send_file, send_made};
use crate::answer::types::Object;
use crate::app::App;
use crate::error::ApiError;
use crate::openapi::{Doc, Table};
use crate::permission::Permission::Read;
use crate::principal::Principal;
use crate::query::Query;
use crate::services::assets;
use crate::services::models::safetensors_header;
use crate::services::paths::shown_file;
use crate::services::pictures::{Shape, made};

/// Longest JSON header of a safetensors file that `/view_metadata` reads, in bytes.
const MAX_METADATA: u64 = 1024 * 1024;

/// The routes of this module.
pub(super) fn routes() -> Table {
    Table::default()
        .get(
            "/view",
            Read,
            view,
            Doc::new("files", "A file of the input, output or temp folder; ranges and validators are answered.")
                .query("filename", "string", "Its name; or, where assets are on, the hash of its content: blake3: and 64 digits.")
                .query("type", "string", "input, output or temp; output if it is missing.")
                .query("subfolder", "string", "Its folder.")
                .query("preview", "string", "webp or jpeg, with ;quality behind it.")
                .query("channel", "string", "rgb, a or rgba.")
                .bytes("application/octet-stream")
                .status(206, "A range.")
                .status(304, "It has not changed."),
        )
        .get(
            "/view_metadata/{folder_name}",
            Read,
            view_metadata,
            Doc::new("models", "What a safetensors file says of itself.").query("filename", "string", "The file's name.").json::<Object>(),
        )
}

async fn view(State(app): State<App>, principal: Principal, query: Query, headers: HeaderMap) -> Result<Response<Body>, ApiError> {
    let filename = query.get("filename").ok_or_else(|| ApiError::not_found("no file is named: add ?filename=..."))?;
    let (kind, subfolder) = (query.get("type").unwrap_or("output"), query.get("subfolder").unwrap_or_default());
    let (path, name) = match assets::by_hash(&app, &principal, filename).await? {
        Some(found) => found,
        None if app.folders.is_shared() => {
            let (app, filename, kind, subfolder) = (app.clone(), filename.to_owned(), kind.to_owned(), subfolder.to_owned());
            blocking(move || {
                let _acting = principal.act();
                let (path, name) = shown_file(&app.folders, &filename, &kind, &subfolder)?;
                if !app.folders.here(&path)? {
                    return Err(ApiError::not_found("there is no such file").details(name));
                }
                Ok((path, name.to_owned()))
            })
            .await?
        }
        None => {
            let _acting = principal.act();
            let (path, name) = shown_file(&app.folders, filename, kind, subfolder)?;
            (path, name.to_owned())
        }
    };
    let name = &name;
    match Shape::asked(query.get("preview"), query.get("channel").unwrap_or_default()) {
        Some(shape) => {
            let make = async |file| made(&app.room, file, move |picture| shape.encode(picture)).await;
            send_made(&path, name, &headers, (&shape.variant(), shape.mime()), &app.room, make).await
        }
        None => send_file(&path, name, &headers, Disposition::Inline).await,
    }
}

async fn view_metadata(State(app): State<App>, UrlPath(folder): UrlPath<String>, query: Query) -> Result<Json<Value>, ApiError> {
    let none = || ApiError::not_found("there is no such model with metadata: name a .safetensors file of the folder with ?filename=...");
    let name = query.get("filename").filter(|f| f.ends_with(".safetensors")).ok_or_else(none)?.to_owned();
    blocking(move || {
        let path = app.folders.model_path(&folder, &name).ok_or_else(none)?;
        let mut header = safetensors_header(&path, MAX_METADATA).ok_or_else(none)?;
        header.get_mut("__metadata__").map(Value::take).map(Json).ok_or_else(none)
    })
    .await
}
