//! Bodies, files and texts that ComfyUI's Python reads though they are no JSON, and numbers in texts, on every route that takes some.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use comfyd_folders::{Folders, Roots};
use comfyd_jobs::memory::MemoryStore;
use comfyd_jobs::{JobStore, Status, contract};
use comfyd_node::{Catalog, Context, Input, Inputs, Node, NodeOutput, Schema};
use comfyd_server::{App, Control, Hub, Log, Options, Parts, router};
use comfyd_wire::json::read;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tower::ServiceExt;

/// Remembers what it was last asked to interrupt.
#[derive(Default)]
struct Device(parking_lot::Mutex<Option<String>>);

impl Control for Device {
    fn interrupt(&self, id: Option<&str>) -> bool {
        *self.0.lock() = Some(id.unwrap_or("everything").to_owned());
        false
    }
    fn free(&self, _: bool, _: bool) {}
}

struct Show;

impl Node for Show {
    fn schema(&self) -> Schema {
        let seed = Input::int("seed").min(0).max(u64::MAX);
        Schema::new("Show").input(seed).input(Input::float("cfg").min(0.0).max(100.0).optional()).output_node()
    }

    fn run(&self, _: &mut Context<'_>, _: Inputs) -> comfyd_node::Result<NodeOutput> {
        Ok(NodeOutput::default())
    }
}

struct Server {
    dir: tempfile::TempDir,
    store: Arc<MemoryStore>,
    device: Arc<Device>,
    router: Router,
}

impl Server {
    fn new(multi_user: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(MemoryStore::default());
        let folders = Arc::new(Folders::new(Roots::under(dir.path())).unwrap());
        let mut catalog = Catalog::new();
        catalog.insert(Arc::new(Show));
        let device = Arc::new(Device::default());
        let options = Options { multi_user, ..Options::default() };
        let app = App::new(
            Parts {
                catalog: Arc::new(catalog),
                folders,
                store: store.clone(),
                control: device.clone(),
                hub: Hub::new(64, 512),
                log: Log::default(),
            },
            options,
        );
        Self { dir, store, device, router: router(app) }
    }

    async fn send(&self, method: &str, path: &str, body: impl Into<Body>) -> (StatusCode, Vec<u8>) {
        let request = Request::builder().method(method).uri(path).header("content-type", "multipart/form-data; boundary=b");
        let response = self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        (response.status(), to_bytes(response.into_body(), 1 << 24).await.unwrap().to_vec())
    }

    async fn post(&self, path: &str, body: &str) -> (StatusCode, Value) {
        let (status, answer) = self.send("POST", path, body.to_owned()).await;
        (status, read(&answer).unwrap_or_default())
    }

    /// An answer, which must be what browsers read: JSON by the standard.
    async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.send("GET", path, "").await;
        assert_eq!(status, StatusCode::OK, "{path}");
        let strict = serde_json::from_slice::<Box<serde_json::value::RawValue>>(&answer);
        assert!(strict.is_ok(), "{path}: {}", String::from_utf8_lossy(&answer));
        read(&answer).unwrap()
    }
}

/// A prompt with such text for `seed`.
fn seeded(seed: &str) -> String {
    format!(r#"{{"prompt": {{"1": {{"class_type": "Show", "inputs": {{"seed": {seed}}}}}}}}}"#)
}

fn nested(depth: usize) -> String {
    format!("{}0{}", "[".repeat(depth), "]".repeat(depth))
}

#[tokio::test]
async fn what_nobody_reads_refuses_no_prompt() {
    let server = Server::new(false);
    let body = r#"{"prompt": {"1": {"class_type": "Show", "inputs": {"seed": 1, "cfg": NaN}, "is_changed": [NaN], "_meta": {"title": "x\ud83d"}}},
        "extra_data": {"extra_pnginfo": {"workflow": {"id": "w", "x": [NaN, -Infinity, 1e999], "y": "\ude00\ud83d"}}}}"#;
    let (status, answer) = server.post("/prompt", body).await;
    assert_eq!((status, &answer["node_errors"]), (StatusCode::OK, &json!({})), "{answer}");
    let queue = server.get("/queue").await;
    let (graph, extra) = (&queue["queue_pending"][0][2], &queue["queue_pending"][0][3]);
    assert_eq!(graph["1"]["inputs"], json!({"seed": 1, "cfg": "nan"}));
    assert_eq!((&graph["1"]["is_changed"], &graph["1"]["_meta"]["title"]), (&json!([null]), &json!("x\u{fffd}")));
    assert_eq!(extra["extra_pnginfo"]["workflow"], json!({"id": "w", "x": [null, null, null], "y": "\u{fffd}\u{fffd}"}));
    let id = answer["prompt_id"].as_str().unwrap();
    assert_eq!(server.get(&format!("/jobs/{id}")).await["workflow"]["extra_data"], *extra);
    assert_eq!(server.get("/jobs?workflow_id=w").await["jobs"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_thousand_levels_are_taken_and_given_back() {
    let server = Server::new(false);
    let deep = nested(1_000);
    for status in [Status::Success, Status::Error] {
        let body = format!(
            r#"{{"prompt": {{"1": {{"class_type": "Show", "inputs": {{"seed": 1, "other": {deep}}}, "_meta": {deep}}}}},
                "extra_data": {{"client_id": "c", "extra_pnginfo": {{"workflow": {deep}}}}}}}"#
        );
        let (answered, answer) = server.post("/prompt", &body).await;
        assert_eq!(answered, StatusCode::OK, "{answer}");
        let id = answer["prompt_id"].as_str().unwrap();
        server.get("/queue").await;
        server.get(&format!("/jobs/{id}")).await;
        let claim = server.store.claim(&contract::worker()).await.unwrap().unwrap();
        server.store.finish(&claim.token, &contract::outcome(status)).await.unwrap();
        let entry = server.get(&format!("/history/{id}")).await[id].take();
        assert_eq!(entry["prompt"][3]["extra_pnginfo"]["workflow"].to_string(), deep);
        let job = server.get(&format!("/jobs/{id}")).await;
        assert_eq!(job["workflow"]["prompt"]["1"]["_meta"].to_string(), deep);
    }
    server.get("/history").await;
    server.get("/jobs").await;
    assert_eq!(server.post("/settings/Deep", &deep).await.0, StatusCode::OK);
    assert_eq!(server.get("/settings/Deep").await.to_string(), deep);
    let (status, answer) = server.post("/prompt", &nested(100_000)).await;
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(status == StatusCode::BAD_REQUEST && message.contains("flatten"), "{message}");
}

#[tokio::test]
async fn the_deepest_refusals_fit_a_threads_stack() {
    let server = Server::new(false);
    let deep = nested(1_000);
    for body in [
        format!(r#"{{"prompt": {{"1": {{"class_type": {deep}}}}}}}"#),
        format!(r#"{{"prompt": {{"1": {deep}}}}}"#),
        format!(r#"{{"prompt": {{"1": {{"class_type": "Show", "inputs": {deep}}}}}}}"#),
        format!(r#"{{"prompt": {deep}}}"#),
        format!(r#"{{"prompt": {{}}, "number": {deep}}}"#),
        format!(r#"{{"prompt": {{}}, "prompt_id": {deep}}}"#),
        format!(r#"{{"prompt": {{}}, "partial_execution_targets": {deep}}}"#),
        format!(r#"{{"prompt": {{}}, "extra_data": {deep}}}"#),
        seeded(&format!(r#"{{"__value__": {deep}}}"#)),
        seeded(&format!("[{deep}, {deep}]")),
        seeded(&deep),
    ] {
        let (status, answer) = server.post("/prompt", &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{}", &body[..60]);
        assert!(answer["error"]["message"].is_string(), "{}", &body[..60]);
    }
}

#[tokio::test]
async fn seeds_are_exact_to_the_last_bit() {
    let server = Server::new(false);
    for (seed, held) in
        [("18446744073709551615", json!(u64::MAX)), (r#"" 1_000 ""#, json!(1000)), ("9007199254740993", json!(9_007_199_254_740_993_u64))]
    {
        assert_eq!(server.post("/prompt", &seeded(seed)).await.0, StatusCode::OK, "{seed}");
        let queue = server.get("/queue").await;
        assert_eq!(queue["queue_pending"].as_array().unwrap().last().unwrap()[2]["1"]["inputs"]["seed"], held, "{seed}");
    }
    for (seed, kind) in [
        ("18446744073709551616", "value_bigger_than_max"),
        ("1e30", "value_bigger_than_max"),
        (r#""18446744073709551616""#, "value_bigger_than_max"),
        ("-1", "value_smaller_than_min"),
        ("NaN", "invalid_input_type"),
        ("Infinity", "invalid_input_type"),
        (r#""1e3""#, "invalid_input_type"),
    ] {
        let (status, answer) = server.post("/prompt", &seeded(seed)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{seed}");
        assert_eq!(answer["node_errors"]["1"]["errors"][0]["type"], kind, "{seed}");
    }
}

#[tokio::test]
async fn numbers_may_be_texts() {
    let server = Server::new(false);
    for (number, wanted) in [("\" 1_0.5 \"", json!(10.5)), ("\"-٣\"", json!(-3)), ("true", json!(1)), ("1e2", json!(100))] {
        let body = seeded("1").replacen('{', &format!("{{\"number\": {number}, "), 1);
        let (status, answer) = server.post("/prompt", &body).await;
        assert_eq!((status, &answer["number"]), (StatusCode::OK, &wanted), "{number}");
    }
    for number in ["\"x\"", "\"nan\"", "\"inf\"", "\"0x1\"", "[1]"] {
        let body = seeded("1").replacen('{', &format!("{{\"number\": {number}, "), 1);
        assert_eq!(server.post("/prompt", &body).await.0, StatusCode::BAD_REQUEST, "{number}");
    }
    for query in ["max_items=%201_0%20", "max_items=%D9%A3&offset=%2B1", "max_items=-1", "max_items=99999999999999999999999&offset=007"] {
        server.get(&format!("/history?{query}")).await;
    }
    server.get("/jobs?limit=1_0&offset=-5").await;
    for query in ["history?max_items=", "history?max_items=1.0", "history?offset=0x1", "jobs?limit=1e3", "jobs?offset=x"] {
        assert_eq!(server.send("GET", &format!("/{query}"), "").await.0, StatusCode::BAD_REQUEST, "{query}");
    }
}

/// What Python reads and JSON does not have, as a member of the body, is no reason to refuse it.
#[tokio::test]
async fn every_body_is_read_leniently() {
    let server = Server::new(true);
    let odd = r#""odd": [NaN, -Infinity, 1e999, 18446744073709551616, "\ud83d"]"#;
    assert_eq!(server.post("/users", &format!(r#"{{"username": "a", {odd}}}"#)).await.0, StatusCode::OK);
    let server = Server::new(false);
    for (path, member) in [
        ("/queue", r#""delete": ["x"]"#),
        ("/history", r#""delete": ["x"]"#),
        ("/jobs/cancel", r#""job_ids": ["x"]"#),
        ("/free", r#""unload_models": true"#),
        ("/interrupt", r#""prompt_id": "x""#),
        ("/settings", r#""a": NaN"#),
        ("/settings/b", r#""a": NaN"#),
    ] {
        let (status, answer) = server.post(path, &format!("{{{member}, {odd}}}")).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
    }
    assert_eq!(server.device.0.lock().as_deref(), Some("x"), "not everything");
    let held = json!([null, null, null, 18446744073709551616.0, "\u{fffd}"]);
    assert_eq!(server.get("/settings").await, json!({"a": null, "odd": held, "b": {"a": null, "odd": held}}));
    let download = format!(r#"{{"url": "http://127.0.0.1/a", "model_directory": "loras", "model_filename": "a.bin", {odd}}}"#);
    assert_ne!(server.post("/internal/models/download", &download).await.1["error"]["type"], "invalid_json");
    for broken in ["{'a': 1}", "{\"a\": 1,}", "{\"a\": 01}", "{\"a\": nan}", "{\"a\": \"\t\"}", ""] {
        assert_eq!(server.post("/settings", broken).await.0, StatusCode::BAD_REQUEST, "{broken:?}");
    }
}

#[tokio::test]
async fn files_that_python_wrote_are_read() {
    let server = Server::new(true);
    let user = server.dir.path().join("user");
    std::fs::create_dir_all(user.join("a")).unwrap();
    std::fs::write(user.join("users.json"), r#"{"a": "A\ud83d", "default": "d"}"#).unwrap();
    assert_eq!(server.get("/users").await["users"]["a"], "A\u{fffd}");
    std::fs::create_dir_all(user.join("default")).unwrap();
    std::fs::write(user.join("default/comfy.settings.json"), r#"{"x": NaN, "y": "\ude00", "z": 1}"#).unwrap();
    assert_eq!(server.get("/settings").await, json!({"x": null, "y": "\u{fffd}", "z": 1}));

    let loras = server.dir.path().join("models/loras");
    std::fs::create_dir_all(&loras).unwrap();
    let header = br#"{"__metadata__": {"loss": NaN, "title": "\ud83d"}}"#;
    std::fs::write(loras.join("a.safetensors"), [&(header.len() as u64).to_le_bytes()[..], header].concat()).unwrap();
    assert_eq!(server.get("/view_metadata/loras?filename=a.safetensors").await, json!({"loss": null, "title": "\u{fffd}"}));
}

#[tokio::test]
async fn a_form_field_may_hold_what_python_reads() {
    let server = Server::new(false);
    let mut picture = std::io::Cursor::new(Vec::new());
    image::RgbaImage::new(2, 2).write_to(&mut picture, image::ImageFormat::Png).unwrap();
    let form = |reference: &str| {
        let mut body = format!("--b\r\nContent-Disposition: form-data; name=\"original_ref\"\r\n\r\n{reference}\r\n").into_bytes();
        body.extend(b"--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.png\"\r\n\r\n");
        body.extend(picture.get_ref());
        body.extend(b"\r\n--b--\r\n");
        body
    };
    assert_eq!(server.send("POST", "/upload/image", form("")).await.0, StatusCode::OK);
    let reference = r#"{"filename": "a.png", "type": "input", "x": NaN, "y": "\ud83d"}"#;
    assert_eq!(server.send("POST", "/upload/mask", form(reference)).await.0, StatusCode::OK);
    assert_eq!(server.send("POST", "/upload/mask", form("{")).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_socket_may_send_what_python_reads() {
    let server = Server::new(false);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = server.router.clone();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://{address}/ws?clientId=c")).await.unwrap();
    let flags = r#"{"type": "feature_flags", "data": {"x": NaN, "y": "\ud83d"}}"#;
    socket.send(Message::text(flags)).await.unwrap();
    loop {
        let message = socket.next().await.unwrap().unwrap().into_text().unwrap();
        if serde_json::from_str::<Value>(message.as_str()).unwrap()["type"] == "feature_flags" {
            break;
        }
    }
}
