//! The OpenAPI document: that it is the one in the snapshot, that it and the router name the same calls, and that answers have the shapes
//! that it promises.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use comfyd_folders::{Folders, Roots};
use comfyd_jobs::memory::MemoryStore;
use comfyd_jobs::{JobStore, contract};
use comfyd_node::{Catalog, Context, Input, Inputs, Node, NodeOutput, Schema};
use comfyd_server::{App, Control, Hub, Log, Options, Parts, router};
use serde_json::{Value, json};
use tower::ServiceExt;

struct Idle;

impl Control for Idle {
    fn interrupt(&self, _: Option<&str>) -> bool {
        false
    }
    fn free(&self, _: bool, _: bool) {}
}

/// A class with something in every part of its declaration.
struct Show;

/// A class without what a declaration may leave out, declared the reference's newer way.
struct Bare;

impl Node for Bare {
    fn schema(&self) -> Schema {
        Schema::new("Bare").no_display().schema_generation().input(Input::int("value").min(3)).output_node()
    }

    fn run(&self, _: &mut Context<'_>, _: Inputs) -> comfyd_node::Result<NodeOutput> {
        Ok(NodeOutput::default())
    }
}

impl Node for Show {
    fn schema(&self) -> Schema {
        Schema::new("Show").display("Show").category("test").description("Shows.").input(Input::int("value").default(1)).output_node()
    }

    fn run(&self, _: &mut Context<'_>, _: Inputs) -> comfyd_node::Result<NodeOutput> {
        Ok(NodeOutput::default())
    }
}

struct Classes;

impl comfyd_node::Provider for Classes {
    fn name(&self) -> &str {
        "test"
    }

    fn nodes(&self) -> Vec<Arc<dyn Node>> {
        vec![Arc::new(Show), Arc::new(Bare)]
    }
}

/// One job that ended, one that runs and one that waits.
async fn server() -> (tempfile::TempDir, Router) {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(MemoryStore::default());
    for id in ["ended", "running", "waiting"] {
        store.enqueue(contract::job(id, comfyd_jobs::Position::Back)).await.unwrap();
    }
    let ended = store.claim(&contract::worker()).await.unwrap().unwrap();
    store.finish_and_claim(&ended.token, &contract::outcome(comfyd_jobs::Status::Success)).await.unwrap();
    let folders = Folders::new(Roots::under(dir.path())).unwrap();
    let loras = dir.path().join("models/loras");
    std::fs::create_dir_all(&loras).unwrap();
    let header = br#"{"__metadata__": {"author": "me"}}"#;
    std::fs::write(loras.join("a.safetensors"), [&(header.len() as u64).to_le_bytes()[..], header].concat()).unwrap();
    let mut catalog = Catalog::new();
    catalog.add(&Classes);
    let app = App::new(
        Parts {
            catalog: Arc::new(catalog),
            folders: Arc::new(folders),
            store,
            control: Arc::new(Idle),
            hub: Hub::new(64, 512),
            log: Log::default(),
        },
        Options::default(),
    );
    (dir, router(app))
}

async fn ask(router: &Router, method: &str, path: &str, body: &str) -> (StatusCode, Vec<u8>) {
    let request = Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    (status, to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec())
}

async fn document(router: &Router) -> Value {
    let (status, body) = ask(router, "GET", "/openapi.json", "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(ask(router, "GET", "/api/openapi.json", "").await.1, body);
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn snapshot() {
    let (_dir, router) = server().await;
    insta::assert_snapshot!(serde_json::to_string_pretty(&document(&router).await).unwrap());
}

#[tokio::test]
async fn the_document_and_the_router_name_the_same_calls() {
    let (_dir, router) = server().await;
    let document = document(&router).await;
    for (template, methods) in document["paths"].as_object().unwrap() {
        let path: Vec<&str> = template.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect();
        let path = path.join("/");
        for prefix in ["", "/api"] {
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
                let path = format!("{prefix}{path}");
                let (status, body) = ask(&router, method, &path, "").await;
                let nowhere = String::from_utf8_lossy(&body).contains("there is nothing at");
                let routed = status != StatusCode::METHOD_NOT_ALLOWED && !nowhere;
                let documented = methods.get(method.to_lowercase()).is_some();
                assert_eq!(routed, documented, "{method} {path}: {status}");
            }
        }
    }
}

/// Of a schema of both shapes that of one.
fn of_shape<'a>(schema: &'a Value, shape: &str) -> &'a Value {
    match schema["anyOf"].as_array() {
        Some(shapes) => &shapes[usize::from(shape == "documented")],
        None => schema,
    }
}

/// What of a value does not fit a schema, with the place where it stands. Knows the parts of JSON Schema that the document uses.
fn misfits(document: &Value, schema: &Value, value: &Value, place: &str) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        return misfits(document, document.pointer(reference.trim_start_matches('#')).unwrap(), value, place);
    }
    // Of two shapes one must fit; what comes closest is told.
    if let Some(shapes) = schema["anyOf"].as_array() {
        let each = shapes.iter().map(|shape| misfits(document, shape, value, place));
        return each.min_by_key(Vec::len).unwrap();
    }
    if let Some(parts) = schema["allOf"].as_array() {
        return parts.iter().flat_map(|part| misfits(document, part, value, place)).collect();
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits = |wanted: &Value| wanted == kind || wanted == "number" && kind == "integer";
    let typed = match &schema["type"] {
        Value::Null => true,
        Value::Array(kinds) => kinds.iter().any(fits),
        wanted => fits(wanted),
    };
    if !typed {
        return vec![format!("{place} is {kind}, not {}", schema["type"])];
    }
    let mut wrong = Vec::new();
    if let Some(values) = schema["enum"].as_array().filter(|values| !values.contains(value)) {
        wrong.push(format!("{place} is {value}, not one of {values:?}"));
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if value.get(name).is_none() {
            wrong.push(format!("{place}.{name} is missing"));
        }
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        let known = schema["properties"].get(name).or(schema.get("additionalProperties"));
        let place = format!("{place}.{name}");
        match known {
            Some(schema) => wrong.extend(misfits(document, schema, field, &place)),
            // Objects without declared fields are open.
            None if schema.get("properties").is_some() => wrong.push(format!("{place} is not in the document")),
            None => {}
        }
    }
    for (at, item) in value.as_array().into_iter().flatten().enumerate() {
        let place = format!("{place}[{at}]");
        let schema = schema["prefixItems"].get(at).unwrap_or(&schema["items"]);
        wrong.extend(misfits(document, schema, item, &place));
    }
    wrong
}

#[tokio::test]
async fn answers_have_the_shapes_of_the_document() {
    for shape in ["wire", "documented"] {
        answers_have_the_shape(shape).await;
    }
}

async fn answers_have_the_shape(shape: &str) {
    let (_dir, router) = server().await;
    let document = document(&router).await;
    let ask = async |method: &str, path: &str, body: &str| {
        let separator = if path.contains('?') { '&' } else { '?' };
        ask(&router, method, &format!("{path}{separator}shape={shape}"), body).await
    };
    let prompt = json!({"prompt": {"1": {"class_type": "Show", "inputs": {"value": 3}}}, "client_id": "c"}).to_string();
    let calls: &[(&str, &str, &str, &str)] = &[
        ("get", "/prompt", "/prompt", ""),
        ("post", "/prompt", "/prompt", &prompt),
        ("get", "/queue", "/queue", ""),
        ("get", "/history", "/history", ""),
        ("get", "/history/{prompt_id}", "/history/ended", ""),
        ("get", "/jobs", "/jobs", ""),
        ("get", "/jobs/{job_id}", "/jobs/ended", ""),
        ("get", "/jobs/{job_id}", "/jobs/running", ""),
        ("post", "/jobs/{job_id}/cancel", "/jobs/waiting/cancel", ""),
        ("post", "/jobs/cancel", "/jobs/cancel", r#"{"job_ids": ["running"]}"#),
        ("get", "/system_stats", "/system_stats", ""),
        ("get", "/features", "/features", ""),
        ("get", "/object_info", "/object_info", ""),
        ("get", "/object_info/{node_class}", "/object_info/Show", ""),
        ("get", "/object_info/{node_class}", "/object_info/Bare", ""),
        ("get", "/embeddings", "/embeddings", ""),
        ("get", "/models", "/models", ""),
        ("get", "/models/{folder}", "/models/loras", ""),
        ("get", "/experiment/models", "/experiment/models", ""),
        ("get", "/experiment/models/{folder}", "/experiment/models/loras", ""),
        ("get", "/view_metadata/{folder_name}", "/view_metadata/loras?filename=a.safetensors", ""),
        ("get", "/extensions", "/extensions", ""),
        ("get", "/internal/logs", "/internal/logs", ""),
        ("get", "/internal/logs/raw", "/internal/logs/raw", ""),
        ("get", "/internal/folder_paths", "/internal/folder_paths", ""),
        ("get", "/internal/files/{type}", "/internal/files/output", ""),
        ("get", "/users", "/users", ""),
        ("get", "/settings", "/settings", ""),
        ("post", "/userdata/{file}", "/userdata/a.json", "{}"),
        ("get", "/userdata", "/userdata?dir=workflows", ""),
        ("get", "/v2/userdata", "/v2/userdata", ""),
        ("post", "/userdata/{file}/move/{dest}", "/userdata/a.json/move/b.json?full_info=true", ""),
        ("get", "/i18n", "/i18n", ""),
        (
            "post",
            "/internal/models/download",
            "/internal/models/download",
            r#"{"url": "http://x", "model_directory": "loras", "model_filename": "a.pt"}"#,
        ),
    ];
    for (method, template, path, body) in calls {
        let (status, answer) = ask(&method.to_uppercase(), path, body).await;
        assert_eq!(status, StatusCode::OK, "{method} {path}: {}", String::from_utf8_lossy(&answer));
        let schema = &document["paths"][template][method]["responses"]["200"]["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{method} {template} has no schema");
        let schema = of_shape(schema, shape);
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(misfits(&document, schema, &answer, &format!("{method} {path}:")), Vec::<String>::new(), "{answer}");
    }
    let error = of_shape(document.pointer("/components/schemas/Error").unwrap(), shape);
    let wrong =
        json!({"prompt": {"1": {"class_type": "Bare", "inputs": {"value": 1}}, "2": {"class_type": "Bare", "inputs": {}}}}).to_string();
    for (method, path, body) in [
        ("POST", "/prompt", "{}"),
        ("POST", "/prompt", &wrong),
        ("GET", "/models/none", ""),
        ("POST", "/prompt", "no JSON"),
        ("PUT", "/queue", ""),
        ("GET", "/nothing", ""),
        ("GET", "/ws", ""),
        ("GET", "/object_info/%ff", ""),
    ] {
        let (status, answer) = ask(method, path, body).await;
        assert!(status.is_client_error());
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(misfits(&document, error, &answer, "error:"), Vec::<String>::new(), "{answer}");
    }
}
