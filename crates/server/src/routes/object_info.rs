//! `/object_info`: the catalog as clients get it, rendered again only when a folder that combos list has changed; and what stands in for classes
//! that there are not any more.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use bytes::Bytes;
use comfyd_assets::Root;
use comfyd_node::Schema;
use serde_json::json;

use crate::answer::types::Object;
use crate::answer::{blocking, json_text};
use crate::app::App;
use crate::error::ApiError;
use crate::openapi::{Doc, Table};
use crate::options::ApiShape;
use crate::permission::Permission::Read;
use crate::principal::Principal;

pub(super) fn routes() -> Table {
    Table::default()
        .get("/object_info", Read, all, Doc::new("nodes", "All node classes.").named_shapes("ObjectInfo", "DocumentedObjectInfo"))
        .get(
            "/object_info/{node_class}",
            Read,
            one,
            Doc::new("nodes", "One node class; an empty object if it is unknown.").named_shapes("ObjectInfo", "DocumentedObjectInfo"),
        )
        .get(
            "/node_replacements",
            Read,
            replacements,
            Doc::new("nodes", "Classes that stand in for others which there are not any more, by the names of these.").json::<Object>(),
        )
}

async fn replacements(State(app): State<App>) -> Json<Object> {
    app.installations.known().await;
    Json(Object(app.replacements().to_json()))
}

async fn all(State(app): State<App>, shape: ApiShape, principal: Principal) -> Result<Response, ApiError> {
    // Listing folders and rendering hundreds of classes takes milliseconds; to find out whether a folder has changed, the disk is asked.
    await_classes(&app).await;
    // Whoever opens the page gets to see the files that came meanwhile.
    if let Some(assets) = &app.options.assets {
        assets.seed(&Root::ALL);
    }
    app.installations.refresh().await;
    blocking(move || Ok(json_text(render(&app, shape, &principal)))).await
}

/// Waits for the classes of a ComfyUI that never started before. Where it does not start, the others are told.
async fn await_classes(app: &App) {
    for failure in app.installations.known().await {
        tracing::warn!(failure, "the classes of ComfyUI are not known");
    }
}

fn render(app: &App, shape: ApiShape, principal: &Principal) -> Bytes {
    // Combos list the user's own files too.
    let _acting = principal.act();
    let key = (shape, principal.caller().map(|caller| Arc::clone(&caller.user)).unwrap_or_default());
    let generation = app.folders.generation() + app.catalog.version();
    if let Some(body) = app.object_info.get(generation, &key) {
        return body;
    }
    let body = Bytes::from(told(app, app.catalog.current().iter().map(|entry| &*entry.schema), shape));
    // Listing may have noticed a change: what was rendered shows at least the generation read before.
    app.object_info.put(generation, key, &body);
    body
}

/// An object of classes by their names.
fn told<'a>(app: &App, classes: impl Iterator<Item = &'a Schema>, shape: ApiShape) -> String {
    let mut text = String::from("{");
    for schema in classes.filter(|schema| schema.is_listed()) {
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(&json!(schema.class).to_string());
        text.push(':');
        text.push_str(&info(app, schema, shape));
    }
    text.push('}');
    text
}

/// One class. In the API document's shape every field is always there: a class without a name that is shown has its own.
fn info(app: &App, schema: &Schema, shape: ApiShape) -> String {
    if shape == ApiShape::Wire {
        return schema.object_info_text(&*app.folders);
    }
    let mut info = schema.object_info(&*app.folders);
    info["display_name"] = json!(schema.display_name.as_ref().unwrap_or(&schema.class));
    for (key, value) in [("deprecated", schema.deprecated), ("experimental", schema.experimental)] {
        info[key] = json!(value.unwrap_or(false));
    }
    info.to_string()
}

async fn one(State(app): State<App>, shape: ApiShape, principal: Principal, Path(node_class): Path<String>) -> Result<Response, ApiError> {
    if app.catalog.current().get(&node_class).is_none() {
        await_classes(&app).await;
    }
    blocking(move || {
        let _acting = principal.act();
        let catalog = app.catalog.current();
        Ok(json_text(told(&app, catalog.get(&node_class).into_iter().map(|entry| &*entry.schema), shape)))
    })
    .await
}
