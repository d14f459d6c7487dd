//! `/object_info`: the catalog as clients get it, rendered again only when a folder that combos list has changed.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use comfyd_node::Schema;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::openapi::{Doc, Table};
use crate::{ApiShape, App};

pub(super) fn routes() -> Table {
    Table::default().get("/object_info", all, Doc::new("nodes", "All node classes.").shapes("ObjectInfo", "DocumentedObjectInfo")).get(
        "/object_info/{node_class}",
        one,
        Doc::new("nodes", "One node class; an empty object if it is unknown.").shapes("ObjectInfo", "DocumentedObjectInfo"),
    )
}

/// The catalog as it was rendered last in each shape, and the folders' generation that it shows.
#[derive(Default)]
pub(crate) struct ObjectInfoCache {
    wire: Mutex<Option<(u64, Bytes)>>,
    documented: Mutex<Option<(u64, Bytes)>>,
}

async fn all(State(app): State<App>, shape: ApiShape) -> Response {
    // Listing folders and rendering hundreds of classes takes milliseconds.
    let body = tokio::task::spawn_blocking(move || render(&app, shape)).await.unwrap_or_else(|_| Bytes::from_static(b"{}"));
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

fn render(app: &App, shape: ApiShape) -> Bytes {
    let cached = match shape {
        ApiShape::Wire => &app.object_info.wire,
        ApiShape::Documented => &app.object_info.documented,
    };
    let generation = app.folders.generation();
    if let Some((known, body)) = &*cached.lock()
        && *known == generation
    {
        return body.clone();
    }
    let classes: Map<String, Value> = app.catalog.iter().map(|e| (e.schema.class.clone(), told(app, &e.schema, shape))).collect();
    let body = Bytes::from(Value::Object(classes).to_string());
    // Listing may have noticed a change: what was rendered shows at least the generation read before.
    *cached.lock() = Some((generation, body.clone()));
    body
}

/// One class. In the API document's shape every field is always there: a class without a name that is shown has its own.
fn told(app: &App, schema: &Schema, shape: ApiShape) -> Value {
    let mut info = schema.object_info(&*app.folders);
    if shape == ApiShape::Documented {
        info["display_name"] = json!(schema.display_name.as_ref().unwrap_or(&schema.class));
        for (key, value) in [("deprecated", schema.deprecated), ("experimental", schema.experimental)] {
            info[key] = json!(value.unwrap_or(false));
        }
    }
    info
}

async fn one(State(app): State<App>, shape: ApiShape, Path(node_class): Path<String>) -> Json<Value> {
    match app.catalog.get(&node_class) {
        Some(entry) => Json(json!({ node_class: told(&app, &entry.schema, shape) })),
        None => Json(json!({})),
    }
}
