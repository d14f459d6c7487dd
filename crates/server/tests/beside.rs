//! A server beside a ComfyUI, whose process is a double in Rust behind a Unix socket: its routes, scripts, handlers and classes.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(unix)]

mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{any, get, post};
use comfyd_node::{Catalog, Input, Replacement, Replacements, Schema};
use comfyd_server::{Hearer, Installation, Stage, listen};
use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use support::{Server, id, put};
use tokio::net::UnixListener;
use tokio::sync::watch;

/// A ComfyUI that is not there: what it says, and what it was asked.
struct Double {
    dir: tempfile::TempDir,
    manifest: Mutex<Option<Arc<Value>>>,
    /// What its first start brings.
    later: Mutex<Result<Value, String>>,
    ready: AtomicBool,
    /// Whether a start succeeds.
    starts: AtomicBool,
    asked: Mutex<Vec<String>>,
}

impl Double {
    fn new(manifest: Option<Value>) -> Arc<Self> {
        Arc::new(Self {
            dir: tempfile::tempdir().unwrap(),
            manifest: Mutex::new(manifest.map(Arc::new)),
            later: Mutex::new(Err("it never starts: no module named torch".into())),
            ready: AtomicBool::new(false),
            starts: AtomicBool::new(true),
            asked: Mutex::default(),
        })
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock())
    }
}

impl Installation for Double {
    fn stage(&self) -> Stage {
        if self.ready.load(Ordering::SeqCst) { Stage::Ready } else { Stage::Cold }
    }

    fn ready(&self) -> Result<(), String> {
        self.asked.lock().push("ready".into());
        let starts = self.starts.load(Ordering::SeqCst);
        self.ready.store(starts, Ordering::SeqCst);
        if starts { Ok(()) } else { Err("it does not start: no module named torch".into()) }
    }

    fn known(&self) -> Result<(), String> {
        self.asked.lock().push("known".into());
        let later = self.later.lock().clone()?;
        *self.manifest.lock() = Some(Arc::new(later));
        Ok(())
    }

    fn manifest(&self) -> Option<Arc<Value>> {
        self.manifest.lock().clone()
    }

    fn refresh(&self) {}

    fn socket(&self) -> PathBuf {
        self.dir.path().join("http")
    }

    fn on_prompt(&self, mut request: Value) -> Result<Value, String> {
        if request["fail"] == true {
            return Err("a handler failed".into());
        }
        request["prompt"]["1"]["inputs"]["value"] = json!("changed");
        Ok(request)
    }

    fn stats(&self) -> Option<Value> {
        let device = json!({"name": "cuda:0 Card", "type": "cuda", "index": 0, "vram_total": 8, "vram_free": 7, "torch_vram_total": 6, "torch_vram_free": 5});
        let system = json!({"comfyui_version": "0.33.0", "python_version": "3.12.1", "pytorch_version": "2.7", "argv": ["main.py"]});
        Some(json!({"objects": 3, "system": system, "devices": [device]}))
    }
}

/// What packs' routes answer.
fn app() -> axum::Router {
    let echo = |request: Request| async move {
        let (parts, body) = request.into_parts();
        let headers: Vec<String> = parts.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        let length = axum::body::to_bytes(body, usize::MAX).await.map_or(0, |bytes| bytes.len());
        axum::Json(json!({"method": parts.method.as_str(), "uri": parts.uri.to_string(), "headers": headers, "bytes": length}))
    };
    let refuse = || async { (StatusCode::IM_A_TEAPOT, [("connection", "x-own"), ("x-own", "1"), ("x-kept", "2")], "short and stout") };
    let slow = || async {
        let first = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"first"))]);
        Body::from_stream(first.chain(futures_util::stream::pending())).into_response()
    };
    let never = || std::future::pending::<()>();
    let socket = |upgrade: WebSocketUpgrade| async {
        upgrade.on_upgrade(|mut socket| async move {
            while let Some(Ok(message)) = socket.next().await {
                if let Message::Text(text) = message {
                    socket.send(Message::Text(format!("pack: {text}").into())).await.unwrap();
                }
            }
        })
    };
    let i18n = || async { axum::Json(json!({"en": {"a": "b"}})) };
    axum::Router::new()
        .route("/stub/{*rest}", any(echo))
        .route("/api/stub/{*rest}", any(echo))
        .route("/refuse", post(refuse))
        .route("/slow", get(slow))
        .route("/never", get(never))
        .route("/socket", get(socket))
        .route("/i18n", get(i18n))
}

/// The double with its process, which answers behind its socket.
async fn double(manifest: Value) -> Arc<Double> {
    let double = Double::new(Some(manifest));
    let listener = UnixListener::bind(double.socket()).unwrap();
    tokio::spawn(axum::serve(listener, app()).into_future());
    double
}

fn routes() -> Value {
    json!({"routes": [["GET", "/stub/{name}"], ["POST", "/stub/{name}"], ["POST", "/api/stub/{name}"], ["POST", "/refuse"], ["GET", "/slow"], ["GET", "/never"], ["GET", "/socket"]]})
}

fn text_class(name: &str) -> Schema {
    Schema::new(name).input(Input::text("value")).output_node()
}

fn beside(double: &Arc<Double>) -> Server {
    Server::beside([Arc::clone(double) as Arc<dyn Installation>], [text_class("Show")])
}

/// Serves it on a port of its own.
fn serve(server: &Server) -> (SocketAddr, watch::Sender<bool>) {
    let listeners = listen::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
    let address = listeners[0].local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(listen::serve(server.router.clone(), listeners, None, listen::Bounds::default(), stopped));
    (address, stop)
}

fn prompt(class: &str) -> Value {
    json!({"prompt": {"1": {"class_type": class, "inputs": {"value": "sent"}}}})
}

#[tokio::test]
async fn routes_of_packs_are_answered_by_their_process_which_is_started_for_it() {
    let double = double(routes()).await;
    let server = beside(&double);
    let answer = server.get("/stub/echo?a=1&b=%20").await;
    assert_eq!((answer.status, answer.json()["uri"].as_str()), (StatusCode::OK, Some("/stub/echo?a=1&b=%20")));
    assert_eq!(double.asked(), ["ready"]);
    let headers =
        [("host", "localhost:9"), ("origin", "http://localhost:9"), ("connection", "x-mine, close"), ("x-mine", "1"), ("x-kept", "2")];
    let answer = server.send("POST", "/api/stub/echo", &headers, vec![7; 100_000]).await;
    let told = answer.json();
    assert_eq!((&told["method"], &told["uri"], &told["bytes"]), (&json!("POST"), &json!("/api/stub/echo"), &json!(100_000)));
    let passed: Vec<&str> = told["headers"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(passed.contains(&"host: localhost:9") && passed.contains(&"x-kept: 2"), "{passed:?}");
    assert!(!passed.iter().any(|header| ["origin", "x-mine", "connection"].iter().any(|name| header.starts_with(name))), "{passed:?}");
    assert_eq!(double.asked(), Vec::<String>::new(), "it is started once");
    for (method, path, status) in [("DELETE", "/stub/echo", 405), ("GET", "/stub/a/b", 404), ("GET", "/elsewhere", 404)] {
        assert_eq!(server.send(method, path, &[], "").await.status, status, "{method} {path}");
    }
}

#[tokio::test]
async fn what_a_pack_answers_is_sent_on_as_it_is() {
    let server = beside(&double(routes()).await);
    let answer = server.send("POST", "/refuse", &[], "").await;
    assert_eq!((answer.status, answer.body.as_slice()), (StatusCode::IM_A_TEAPOT, &b"short and stout"[..]));
    assert_eq!((answer.header("x-own"), answer.header("connection"), answer.header("x-kept")), ("", "", "2"));
    // The server's own routes go first.
    assert_eq!(server.get("/queue").await.json()["queue_running"], json!([]));
}

#[tokio::test]
async fn answers_are_passed_on_as_they_come() {
    let server = beside(&double(routes()).await);
    let (address, _stop) = serve(&server);
    drop(rustls::crypto::ring::default_provider().install_default());
    let request = reqwest::Client::new().get(format!("http://{address}/slow")).header("accept-encoding", "gzip");
    let mut answer = request.send().await.unwrap();
    let first = tokio::time::timeout(Duration::from_secs(10), answer.chunk()).await.unwrap().unwrap();
    assert_eq!(first.as_deref(), Some(&b"first"[..]));
}

#[tokio::test]
async fn websockets_of_packs_are_joined() {
    let server = beside(&double(routes()).await);
    let (address, _stop) = serve(&server);
    let (mut socket, answer) = tokio_tungstenite::connect_async(format!("ws://{address}/socket")).await.unwrap();
    assert_eq!(answer.status(), 101);
    socket.send(tokio_tungstenite::tungstenite::Message::text("hello")).await.unwrap();
    let said = tokio::time::timeout(Duration::from_secs(10), socket.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(said.into_text().unwrap().as_str(), "pack: hello");
}

#[tokio::test]
async fn errors_of_the_way_to_a_pack_say_what_to_do() {
    let gone = Double::new(Some(routes()));
    let answer = beside(&gone).get("/stub/echo").await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["type"]), (502, &json!("python_unreachable")));
    gone.starts.store(false, Ordering::SeqCst);
    gone.ready.store(false, Ordering::SeqCst);
    let answer = beside(&gone).get("/stub/echo").await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["type"]), (503, &json!("python_not_ready")));
    assert_eq!(answer.json()["error"]["details"], "it does not start: no module named torch");

    let double = double(routes()).await;
    let change = |options: &mut comfyd_server::Options| options.python_timeout = Duration::from_millis(50);
    let server = Server::beside_with([Arc::clone(&double) as Arc<dyn Installation>], [], change);
    let answer = server.get("/never").await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["type"]), (504, &json!("python_timeout")));
}

#[tokio::test]
async fn a_body_to_a_pack_has_the_bound_of_all_bodies() {
    let double = double(routes()).await;
    let change = |options: &mut comfyd_server::Options| options.max_upload_bytes = 1000;
    let server = Server::beside_with([Arc::clone(&double) as Arc<dyn Installation>], [], change);
    assert_eq!(server.send("POST", "/stub/a", &[], vec![0; 1000]).await.json()["bytes"], 1000);
    let answer = server.send("POST", "/stub/a", &[], vec![0; 1001]).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["type"]), (413, &json!("too_large")));
}

#[tokio::test]
async fn scripts_of_packs_come_from_disk_behind_those_of_the_front_end() {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in
        [("a/js/x.js", "1"), ("a/js/sub/y.js", "2"), ("a/js/z.css", "3"), ("a/js/.env", "4"), ("a/secret.js", "5"), ("b/web/q.js", "6")]
    {
        put(dir.path(), path, text);
    }
    let double = Double::new(Some(json!({"web": {"pack a": dir.path().join("a/js"), "b": dir.path().join("b/web")}})));
    double.starts.store(false, Ordering::SeqCst);
    let server = beside(&double);
    let listed = json!(["/extensions/pack%20a/sub/y.js", "/extensions/pack%20a/x.js", "/extensions/b/q.js"]);
    assert_eq!(server.get("/extensions").await.json(), listed);
    for path in listed.as_array().unwrap() {
        let answer = server.get(path.as_str().unwrap()).await;
        assert_eq!((answer.status, answer.header("x-content-type-options")), (StatusCode::OK, "nosniff"), "{path}");
        assert!(answer.header("content-type").starts_with("text/javascript"), "{}", answer.header("content-type"));
    }
    assert_eq!(server.get("/extensions/pack%20a/z.css").await.body, b"3");
    for path in [
        "/extensions/pack%20a/.env",
        "/extensions/pack%20a/../secret.js",
        "/extensions/pack%20a/%2e%2e/secret.js",
        "/extensions/pack%20a/..%2fsecret.js",
        "/extensions/pack%20a/sub",
        "/extensions/c/x.js",
    ] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
    assert_eq!(double.asked(), Vec::<String>::new(), "no process was needed");
}

#[tokio::test]
async fn classes_that_come_later_are_in_the_next_answer() {
    let server = beside(&Double::new(Some(json!({}))));
    assert_eq!(server.get("/object_info").await.json().as_object().unwrap().len(), 1);
    let mut catalog = Catalog::new();
    for class in ["Show", "Late"] {
        catalog.insert(support::class(text_class(class)));
    }
    server.app.catalog.replace(Arc::new(catalog));
    assert_eq!(server.get("/object_info").await.json().as_object().unwrap().len(), 2);
    assert_eq!(server.get("/object_info/Late").await.json()["Late"]["name"], "Late");
}

#[tokio::test]
async fn the_first_start_is_waited_for_by_those_who_need_its_classes_alone() {
    let double = Double::new(None);
    *double.later.lock() = Ok(json!({}));
    let server = beside(&double);
    assert_eq!(server.post("/prompt", prompt("Show")).await.status, 200);
    assert_eq!(server.get("/object_info/Show").await.json()["Show"]["name"], "Show");
    assert_eq!(double.asked(), Vec::<String>::new());
    assert_eq!(server.get("/object_info").await.status, 200);
    assert_eq!(double.asked(), ["known"]);
    assert_eq!(server.post("/prompt", prompt("Missing")).await.status, 400);
    assert_eq!(double.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn who_asks_for_a_class_that_there_is_not_is_told_what_failed() {
    let double = Double::new(None);
    let server = beside(&double);
    let refused = |answer: support::Answer| answer.json()["error"]["details"].as_str().unwrap().to_owned();
    assert_eq!(refused(server.post("/prompt", prompt("Missing")).await), "Node ID '#1'; it never starts: no module named torch");
    // One that is there needs nobody.
    assert_eq!(server.post("/prompt", prompt("Show")).await.status, 200);
    let modules = json!([{"name": "packs/good", "error": null}, {"name": "packs/bad", "error": "Traceback:\nImportError: no cv2\n"}]);
    *double.manifest.lock() = Some(Arc::new(json!({"modules": modules})));
    assert_eq!(
        refused(server.post("/prompt", prompt("Missing")).await),
        "Node ID '#1'; these custom node packs failed to load, so their classes are missing: packs/bad: ImportError: no cv2"
    );
}

#[tokio::test]
async fn handlers_of_packs_change_requests_where_their_process_answers_or_the_prompt_needs_it() {
    let double = Double::new(Some(json!({"on_prompt": 1})));
    let server = beside(&double);
    let stored = async |name: &str| {
        let queue = server.app.store.queue().await.unwrap();
        let job = queue.pending.iter().find(|job| job.id == id(name)).unwrap();
        serde_json::from_str::<Value>(job.prompt.get()).unwrap()["1"]["inputs"]["value"].clone()
    };
    let send = async |name: &str, change: Value| {
        let mut body = prompt("Show");
        body["prompt_id"] = json!(id(name));
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        assert_eq!(server.post("/prompt", body).await.status, 200);
    };
    send("cold", json!({})).await;
    assert_eq!((stored("cold").await, double.asked()), (json!("sent"), Vec::new()), "no process is started for a native class");
    double.ready.store(true, Ordering::SeqCst);
    send("warm", json!({})).await;
    assert_eq!(stored("warm").await, "changed");
    send("failing", json!({"fail": true})).await;
    assert_eq!(stored("failing").await, "sent", "a handler that fails changes nothing");
}

#[tokio::test]
async fn what_packs_register_stands_in_for_classes_that_there_are_not() {
    let entry =
        |old: &str, new: &str| json!({"new_node_id": new, "old_node_id": old, "input_mapping": [{"new_id": "value", "set_value": "put"}]});
    let told = json!({"Old": [entry("Old", "Show")], "Lost": [entry("Lost", "Nowhere")]});
    let double = Double::new(Some(json!({"replacements": told})));
    let server = Server::beside_with([Arc::clone(&double) as Arc<dyn Installation>], [text_class("Show")], |options| {
        options.replacements = Replacements::new([Replacement::renamed("Older", "Old"), Replacement::renamed("Eldest", "Show")]);
    });
    let listed = server.get("/node_replacements").await.json();
    assert_eq!(listed.as_object().unwrap().keys().collect::<Vec<_>>(), ["Older", "Eldest", "Old", "Lost"]);
    assert_eq!(listed["Old"][0]["input_mapping"], told["Old"][0]["input_mapping"]);
    for (class, value) in [("Old", "put"), ("Eldest", "sent")] {
        let answer = server.post("/prompt", prompt(class)).await;
        assert_eq!(answer.status, 200, "{class}");
        let queue = server.app.store.queue().await.unwrap();
        let node: Value = serde_json::from_str(queue.pending.last().unwrap().prompt.get()).unwrap();
        assert_eq!((&node["1"]["class_type"], &node["1"]["inputs"]["value"]), (&json!("Show"), &json!(value)), "{class}");
    }
    for class in ["Lost", "Older"] {
        assert_eq!(server.post("/prompt", prompt(class)).await.json()["error"]["type"], "missing_node_type", "{class}");
    }
    assert_eq!(double.asked(), Vec::<String>::new(), "no process is needed");
}

#[tokio::test]
async fn the_machine_is_told_as_pytorch_sees_it() {
    let double = Double::new(Some(json!({"versions": {"comfyui": "0.33.0", "python": "3.12", "pytorch": "2.7"}})));
    let server = beside(&double);
    let cold = server.get("/system_stats").await.json();
    assert_eq!((&cold["system"]["comfyui_version"], &cold["system"]["python_version"]), (&json!("0.33.0"), &json!("3.12")));
    assert_eq!(cold["devices"].as_array().unwrap().len(), 1);
    double.ready.store(true, Ordering::SeqCst);
    let warm = server.get("/system_stats").await.json();
    let system = &warm["system"];
    assert_eq!(
        [&system["python_version"], &system["pytorch_version"], &system["argv"]],
        [&json!("3.12.1"), &json!("2.7"), &json!(["main.py"])]
    );
    let devices: Vec<_> = warm["devices"].as_array().unwrap().iter().map(|device| (&device["name"], &device["vram_total"])).collect();
    assert_eq!(devices, [(&json!("cuda:0 Card"), &json!(8)), (&json!("cpu"), &json!(1 << 30))]);
}

#[tokio::test]
async fn translations_of_packs_are_theirs_once_their_process_runs() {
    let double = double(json!({"answers": {"/i18n": {"kept": 1}}})).await;
    let server = beside(&double);
    assert_eq!((server.get("/api/i18n").await.json(), double.asked()), (json!({"kept": 1}), Vec::new()));
    double.ready.store(true, Ordering::SeqCst);
    assert_eq!(server.get("/i18n").await.json(), json!({"en": {"a": "b"}}));
    assert_eq!(server.get("/workflow_templates").await.json(), json!({}), "one that the process lacks");
}

#[tokio::test]
async fn what_packs_say_goes_to_a_client_or_to_all_in_order() {
    let server = beside(&Double::new(Some(json!({}))));
    let (one, other) = (
        server.app.hub.connect("one", Hearer::default(), None).unwrap(),
        server.app.hub.connect("other", Hearer::default(), None).unwrap(),
    );
    server.app.hub.event("pack.event", &json!({"a": 1}), Some("one"), None);
    server.app.hub.binary(77, b"bytes", None, None);
    server.app.hub.event("pack.all", &json!([]), None, None);
    server.app.hub.event("pack.event", &json!({}), Some("nobody"), None);
    let text = |data: &str| Message::Text(data.into());
    assert_eq!(one.next().await.unwrap(), text(r#"{"type":"pack.event","data":{"a":1}}"#));
    for mailbox in [&one, &other] {
        assert_eq!(mailbox.next().await.unwrap(), Message::Binary(Bytes::from_static(b"\0\0\0\x4dbytes")));
        assert_eq!(mailbox.next().await.unwrap(), text(r#"{"type":"pack.all","data":[]}"#));
    }
}

#[tokio::test]
async fn packs_put_prompts_into_the_queue_and_take_them_out() {
    let server = beside(&Double::new(Some(json!({}))));
    let graph = prompt("Show")["prompt"].clone();
    for (number, id) in [(2, "later"), (-1, "first")] {
        server.app.enqueue(json!([number, id, graph, {"client_id": "c"}, ["1"]]), None).await.unwrap();
    }
    let waiting = async || server.app.store.queue().await.unwrap().pending.iter().map(|job| job.id.clone()).collect::<Vec<_>>();
    assert_eq!(waiting().await, ["first", "later"]);
    assert!(server.app.enqueue(json!([0, "first", graph, {}, ["1"]]), None).await.unwrap_err().contains("first"));
    server.app.take_out(Some(&["later".to_owned()])).await.unwrap();
    assert_eq!(waiting().await, ["first"]);
    server.app.take_out(None).await.unwrap();
    assert_eq!(waiting().await, Vec::<String>::new());
}
