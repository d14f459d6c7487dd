//! `/object_info`: the catalog as clients get it, rendered again only when a folder that combos list has changed.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::App;
use crate::app::FolderOptions;
use crate::openapi::{Doc, Table};

pub(super) fn routes() -> Table {
    Table::default().get("/object_info", all, Doc::new("nodes", "All node classes.").json("ObjectInfo")).get(
        "/object_info/{node_class}",
        one,
        Doc::new("nodes", "One node class; an empty object if it is unknown.").json("ObjectInfo"),
    )
}

/// The rendered catalog and the folders' generation that it shows.
#[derive(Default)]
pub(crate) struct ObjectInfoCache {
    body: Mutex<Option<(u64, Bytes)>>,
}

async fn all(State(app): State<App>) -> Response {
    // Listing folders and rendering hundreds of classes takes milliseconds.
    let body = tokio::task::spawn_blocking(move || render(&app)).await.unwrap_or_else(|_| Bytes::from_static(b"{}"));
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

fn render(app: &App) -> Bytes {
    let generation = app.folders.generation();
    if let Some((known, body)) = &*app.object_info.body.lock()
        && *known == generation
    {
        return body.clone();
    }
    let options = FolderOptions(&app.folders);
    let classes: Map<String, Value> = app.catalog.iter().map(|e| (e.schema.class.clone(), e.schema.object_info(&options))).collect();
    let body = Bytes::from(Value::Object(classes).to_string());
    // Listing may have noticed a change: what was rendered shows at least the generation read before.
    *app.object_info.body.lock() = Some((generation, body.clone()));
    body
}

async fn one(State(app): State<App>, Path(node_class): Path<String>) -> Json<Value> {
    match app.catalog.get(&node_class) {
        Some(entry) => Json(json!({ node_class: entry.schema.object_info(&FolderOptions(&app.folders)) })),
        None => Json(json!({})),
    }
}
