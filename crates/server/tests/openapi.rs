//! The OpenAPI document: that it is the one in the snapshot, that it and the router name the same calls, and that answers have the shapes
//! that it promises.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use axum::http::StatusCode;
use comfyd_node::{Input, Schema};
use serde_json::{Value, json};
use support::{Server, assets, picture, safetensors};

/// One job that ended, one that runs and one that waits; a class with something in every part of its declaration, and one without what a
/// declaration may leave out, declared the reference's newer way.
async fn server() -> Server {
    let value = Input::int("value");
    let show = Schema::new("Show").display("Show").category("test").description("Shows.").input(value.clone().default(1)).output_node();
    let bare = Schema::new("Bare").no_display().schema_generation().input(value.min(3)).output_node();
    let server = Server::new([show, bare], |options, dir| options.assets = Some(assets(dir)));
    server.add_jobs().await;
    server.put("models/loras/a.safetensors", safetensors(r#"{"__metadata__": {"author": "me"}}"#));
    server
}

async fn document(server: &Server) -> Value {
    let answer = server.get("/openapi.json").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(server.get("/api/openapi.json").await.body, answer.body);
    answer.json()
}

#[tokio::test]
async fn snapshot() {
    let server = server().await;
    insta::assert_snapshot!(serde_json::to_string_pretty(&document(&server).await).unwrap());
}

#[tokio::test]
async fn the_document_and_the_router_name_the_same_calls() {
    let server = server().await;
    let document = document(&server).await;
    for (template, methods) in document["paths"].as_object().unwrap() {
        let path: Vec<&str> = template.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect();
        let path = path.join("/");
        let prefixes: &[&str] = if path.starts_with("/api/") { &[""] } else { &["", "/api"] };
        for prefix in prefixes {
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
                let path = format!("{prefix}{path}");
                let answer = server.send(method, &path, &[], "").await;
                let (status, nowhere) = (answer.status, String::from_utf8_lossy(&answer.body).contains("there is nothing at"));
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
    // Of several shapes one must fit; what comes closest is told.
    if let Some(shapes) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
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
    let server = server().await;
    let document = document(&server).await;
    let ask = async |method: &str, path: &str, body: &str| {
        let separator = if path.contains('?') { '&' } else { '?' };
        let answer = server.send(method, &format!("{path}{separator}shape={shape}"), &[], body.to_owned()).await;
        (answer.status, answer.json())
    };
    let prompt = json!({"prompt": {"1": {"class_type": "Show", "inputs": {"value": 3}}}, "client_id": "c"}).to_string();
    server.upload("/upload/image", "a.png", &picture(1), &[]).await;
    let asset = server.get("/api/assets?limit=1").await.json()["assets"][0]["id"].as_str().unwrap().to_owned();
    let (asset, tags) = (format!("/api/assets/{asset}"), format!("/api/assets/{asset}/tags"));
    let calls: &[(&str, &str, &str, &str)] = &[
        ("get", "/api/assets", "/api/assets", ""),
        ("get", "/api/assets/{id}", &asset, ""),
        ("put", "/api/assets/{id}", &asset, r#"{"name": "b"}"#),
        ("post", "/api/assets/{id}/tags", &tags, r#"{"tags": ["a"]}"#),
        ("delete", "/api/assets/{id}/tags", &tags, r#"{"tags": ["a"]}"#),
        ("get", "/api/assets/tags/refine", "/api/assets/tags/refine", ""),
        ("get", "/api/assets/seed/status", "/api/assets/seed/status", ""),
        ("post", "/api/assets/seed/cancel", "/api/assets/seed/cancel", ""),
        ("get", "/api/tags", "/api/tags", ""),
        ("get", "/prompt", "/prompt", ""),
        ("post", "/prompt", "/prompt", &prompt),
        ("get", "/queue", "/queue", ""),
        ("get", "/history", "/history", ""),
        ("get", "/history/{prompt_id}", "/history/ended", ""),
        ("get", "/jobs", "/jobs", ""),
        ("get", "/jobs/{job_id}", "/jobs/ended", ""),
        ("get", "/jobs/{job_id}", "/jobs/running", ""),
        ("post", "/jobs/{job_id}/cancel", "/jobs/waiting/cancel", ""),
        ("post", "/jobs/cancel", "/jobs/cancel", r#"{"job_ids": ["00000000-0000-4000-8000-000000000000"]}"#),
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
        ("get", "/node_replacements", "/node_replacements", ""),
        ("get", "/global_subgraphs", "/global_subgraphs", ""),
        ("get", "/global_subgraphs/{id}", "/global_subgraphs/none", ""),
        (
            "post",
            "/internal/models/download",
            "/internal/models/download",
            r#"{"url": "http://x", "model_directory": "loras", "model_filename": "a.pt"}"#,
        ),
    ];
    for (method, template, path, body) in calls {
        let (status, answer) = ask(&method.to_uppercase(), path, body).await;
        assert_eq!(status, StatusCode::OK, "{method} {path}: {answer}");
        let schema = &document["paths"][template][method]["responses"]["200"]["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{method} {template} has no schema");
        let schema = of_shape(schema, shape);
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
        assert_eq!(misfits(&document, error, &answer, "error:"), Vec::<String>::new(), "{answer}");
    }
}
