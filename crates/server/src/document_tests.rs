//! The API document, read as data, against the server: every endpoint, parameter, default, field and event that it names. In the document's
//! shape all of it holds; in ComfyUI's, all but what is listed here. What the document names and no test has looked at fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod document;
#[path = "../tests/support/mod.rs"]
pub(crate) mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use comfyd_jobs::{Event, EventKind, EventSink, NodeRef, contract};
use comfyd_node::{Input, PreviewImage, Schema};
use futures_util::{SinkExt, StreamExt};
use image::DynamicImage;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use self::document::{DOCUMENT, Document, Item, contained, misfits};
use self::support::{Answer, Server, picture, put, safetensors};
use crate::options::{ApiShape, FrontEnd};
use crate::routes::download;
use crate::services::download::{Downloads, Policy};

/// A node of a prompt.
pub(crate) fn node() -> NodeRef {
    NodeRef { id: "3".into(), display_id: "3".into(), real_id: "3".into(), parent_id: None, class_type: "KSampler".into(), title: None }
}

/// What ComfyUI's shape has otherwise, as docs/QUIRKS.md lists it.
fn wire_differs(method: &str, path: &str) -> &'static [&'static str] {
    match (method, path) {
        ("GET", "/history" | "/history/{prompt_id}") => &["/prompt"],
        ("GET", "/queue") => &["/queue_running", "/queue_pending"],
        ("POST", "/prompt") => &["/node_errors"],
        ("GET", "/object_info") => &["/deprecated", "/display_name", "/experimental"],
        ("GET", "/object_info/{node_class}") => &["/deprecated", "/experimental"],
        ("error", _) => &["/error", "/node_errors"],
        _ => &[],
    }
}

const MODEL: &str = r#"{"__metadata__": {"author": "me", "description": "a model", "license": "MIT"}}"#;

/// A server in one of the two shapes, with a prompt that ended, one that runs and one that waits.
async fn server(shape: ApiShape) -> Server {
    let class = |name: &str| Schema::new(name).category("test").input(Input::int("value").min(0)).output("INT").output_node();
    let server = Server::new([class("Show"), class("Bare").no_display()], |options, dir| {
        put(dir, "models/loras/a.safetensors", safetensors(MODEL));
        put(dir, "models/embeddings/e.safetensors", safetensors(MODEL));
        put(dir, "web/index.html", "<html>ComfyUI");
        put(dir, "web/extensions/core/a.js", "1");
        for (folder, alpha) in [("input", 10), ("output", 20), ("temp", 30), ("output/sub", 40)] {
            put(dir, &format!("{folder}/v.png"), picture(alpha));
        }
        (options.shape, options.front_end, options.argv) = (shape, FrontEnd::Folder(dir.join("web")), vec!["serve".into()]);
    });
    server.add_jobs().await;
    server
}

/// The ids of the prompts that wait and of those that ended.
async fn ids(server: &Server) -> (Vec<String>, Vec<String>) {
    let queue = server.app.store.queue().await.unwrap();
    let entries = server.app.store.history(&Default::default()).await.unwrap().entries;
    (queue.pending.iter().map(|job| job.id.clone()).collect(), entries.iter().map(|entry| entry.job.id.clone()).collect())
}

fn decoded(answer: &Answer) -> DynamicImage {
    image::load_from_memory(&answer.body).unwrap()
}

async fn upload(server: &Server, path: &str, alpha: u8, fields: &[(&str, &str)]) -> Answer {
    server.upload(path, "u.png", &picture(alpha), fields).await
}

/// The id of a prompt.
const MINE: &str = "6f1c1d0a-8f0e-4e0b-9d0e-0123456789ab";

/// A check of one shape of the document.
struct Check {
    document: Document,
    shape: ApiShape,
    server: Server,
}

impl Check {
    /// Compares an answer with the document's example; what ComfyUI's shape has otherwise must be otherwise in it.
    fn answer(&self, method: &str, path: &str, answer: &Answer) -> Value {
        assert_eq!(answer.status, StatusCode::OK, "{method} {path}: {}", String::from_utf8_lossy(&answer.body));
        self.fits(method, path, self.document.endpoint(method, path).answer.as_ref().unwrap(), answer.json())
    }

    fn fits(&self, method: &str, path: &str, example: &Value, answer: Value) -> Value {
        let (expected, example, compared) = match self.shape {
            // ComfyUI's history is an object of entries.
            ApiShape::Wire if path.starts_with("/history") => {
                (wire_differs(method, path), example.get(0).unwrap_or(example), answer.as_object().unwrap().values().next().unwrap())
            }
            ApiShape::Wire => (wire_differs(method, path), example, &answer),
            ApiShape::Documented => (&[][..], example, &answer),
        };
        let found = misfits(example, compared, "");
        assert_eq!(found, expected, "{method} {path}: {answer}");
        answer
    }

    /// Whether an answer has what the text of an endpoint says.
    fn has(&self, method: &str, path: &str, answer: &Value) {
        let (name, text) = (path.to_owned(), self.document.endpoint(method, path).text.clone());
        has_all(&Item { name, text }, answer);
    }

    async fn lists(&self) {
        let (server, get) = (&self.server, "GET");
        self.document.endpoint(get, "/");
        assert_eq!(server.get("/").await.body, b"<html>ComfyUI");
        assert_eq!(self.answer(get, "/embeddings", &server.get("/embeddings").await), json!(["e"]));
        self.document.item(get, "/models/{folder}", "{folder}");
        assert_eq!(self.answer(get, "/models/{folder}", &server.get("/models/loras").await), json!(["a.safetensors"]));
        assert_eq!(self.answer(get, "/extensions", &server.get("/extensions").await), json!(["/extensions/core/a.js"]));
        self.document.item(get, "/view_metadata/{folder_name}", "{folder_name}");
        self.document.item(get, "/view_metadata/{folder_name}", "filename");
        let metadata = server.get("/view_metadata/loras?filename=a.safetensors").await;
        self.has(get, "/view_metadata/{folder_name}", &self.answer(get, "/view_metadata/{folder_name}", &metadata));
        self.has(get, "/system_stats", &self.answer(get, "/system_stats", &server.get("/system_stats").await));
        let classes = self.answer(get, "/object_info", &server.get("/object_info").await);
        self.document.item(get, "/object_info/{node_class}", "{node_class}");
        let one = self.answer(get, "/object_info/{node_class}", &server.get("/object_info/Show").await);
        assert_eq!(one["Show"], classes["Show"]);
        if self.shape == ApiShape::Documented {
            let bare = &classes["Bare"];
            assert_eq!((&bare["display_name"], &bare["deprecated"], &bare["experimental"]), (&json!("Bare"), &json!(false), &json!(false)));
        }
    }

    async fn uploads(&self) {
        let server = &self.server;
        let original = json!({"filename": "v.png", "subfolder": "", "type": "input"}).to_string();
        for (path, reference) in [("/upload/image", None), ("/upload/mask", Some(("original_ref", original.as_str())))] {
            let item = |name: &str| self.document.item("POST", path, name);
            let send = async |alpha: u8, fields: &[(&str, &str)]| {
                let fields: Vec<_> = fields.iter().copied().chain(reference).collect();
                self.answer("POST", path, &upload(server, path, alpha, &fields).await)
            };
            item("image");
            let first = send(1, &[]).await;
            // The document's default of a mask is its own.
            let wire = self.shape == ApiShape::Wire;
            let (kind, default) = (item("type"), if wire { "input" } else { item("type").default() });
            assert_eq!(first, json!({"name": "u.png", "subfolder": "", "type": default}), "{path}");
            assert!(server.dir.path().join(default).join("u.png").is_file(), "{path}");
            assert_eq!(kind.choices(), ["input", "temp", "output"]);
            for (alpha, choice) in (50..).zip(kind.choices()) {
                let answer = send(alpha, &[("type", choice), ("subfolder", "s"), ("overwrite", "true")]).await;
                assert_eq!(answer, json!({"name": "u.png", "subfolder": "s", "type": choice}));
                let stored = image::open(server.dir.path().join(choice).join("s/u.png")).unwrap().into_rgba8();
                assert_eq!(stored.get_pixel(0, 0).0[3], alpha, "{path}: {choice}");
            }
            let overwrite = item("overwrite");
            assert_eq!((overwrite.choices(), overwrite.default()), (vec!["true", "false"], "false"));
            assert_eq!(send(2, &[]).await["name"], "u (1).png");
            assert_eq!(send(3, &[("overwrite", overwrite.default())]).await["name"], "u (2).png");
            assert_eq!(send(4, &[("overwrite", "true")]).await["name"], "u.png");
            assert!(item("subfolder").text.contains("ルートフォルダ"));
            for name in ["u.png", "u (1).png", "u (2).png"] {
                std::fs::remove_file(server.dir.path().join(default).join(name)).unwrap();
            }
        }
        let reference = self.document.item("POST", "/upload/mask", "original_ref");
        assert_eq!(reference.text.split('`').skip(1).step_by(2).collect::<Vec<_>>(), ["filename", "subfolder", "type"]);
    }

    async fn view(&self) {
        let item = |name: &str| self.document.item("GET", "/view", name);
        let get = async |query: &str| {
            let answer = self.server.get(&format!("/view?{query}")).await;
            assert_eq!(answer.status, StatusCode::OK, "{query}");
            answer
        };
        item("filename");
        let plain = get("filename=v.png").await;
        assert_eq!(plain.body, get(&format!("filename=v.png&type={}", item("type").default())).await.body);
        for choice in item("type").choices() {
            let alpha = decoded(&get(&format!("filename=v.png&type={choice}")).await).into_rgba8().get_pixel(0, 0).0[3];
            assert_eq!(
                alpha,
                match choice {
                    "input" => 10,
                    "output" => 20,
                    "temp" => 30,
                    other => panic!("{other}"),
                }
            );
        }
        assert!(item("subfolder").text.contains("ルートフォルダ"));
        assert_eq!(decoded(&get("filename=v.png&subfolder=sub").await).into_rgba8().get_pixel(0, 0).0[3], 40);
        assert!(item("preview").text.contains("元の画像"));
        assert_eq!(plain.header("content-type"), "image/png");
        for choice in item("preview").choices() {
            assert_eq!(get(&format!("filename=v.png&preview={choice}")).await.header("content-type"), format!("image/{choice}"));
        }
        assert_eq!(plain.body, get(&format!("filename=v.png&channel={}", item("channel").default())).await.body);
        for choice in item("channel").choices() {
            let pixel = decoded(&get(&format!("filename=v.png&channel={choice}")).await).into_rgba8().get_pixel(0, 0).0;
            let expected = match choice {
                "rgb" => [9, 8, 7, 255],
                "a" => [0, 0, 0, 20],
                "rgba" => [9, 8, 7, 20],
                other => panic!("{other}"),
            };
            assert_eq!(pixel, expected, "{choice}");
        }
    }

    async fn queue(&self) {
        let (server, document) = (&self.server, &self.document);
        let status = self.answer("GET", "/prompt", &server.get("/prompt").await);
        self.has("GET", "/prompt", &status);
        assert_eq!(status["exec_info"]["running_prompt_id"], "running");
        let queue = self.answer("GET", "/queue", &server.get("/queue").await);
        self.has("GET", "/queue", &queue);
        if self.shape == ApiShape::Documented {
            assert_eq!(queue, json!({"queue_running": 1, "queue_pending": 1}));
        }
        for name in ["number", "prompt", "extra_data", "client_id"] {
            document.item("POST", "/prompt", name);
        }
        let graph = json!({"1": {"class_type": "Show", "inputs": {"value": 3}}});
        let body = json!({"number": -5, "prompt": graph, "extra_data": {"a": 1}, "client_id": "c", "prompt_id": MINE});
        let accepted = self.answer("POST", "/prompt", &server.post("/prompt", &body).await);
        assert_eq!((&accepted["prompt_id"], &accepted["number"]), (&json!(MINE), &json!(-5)));
        assert_eq!(ids(server).await.0, [MINE, "waiting"], "lower numbers run first");
        let job = server.app.store.queue().await.unwrap().pending[0].clone();
        let stored = json!({"a": 1, "client_id": "c", "create_time": job.created_ms});
        assert_eq!(serde_json::from_str::<Value>(job.extra_data.get()).unwrap(), stored);

        document.item("POST", "/queue", "delete");
        assert_eq!(server.post("/queue", json!({"delete": ["waiting"]})).await.status, StatusCode::OK);
        assert_eq!(ids(server).await.0, [MINE]);
        let clear = document.item("POST", "/queue", "clear").choices();
        assert_eq!(clear, ["true", "false"]);
        for (choice, left) in [("false", 1), ("true", 0)] {
            server.post("/queue", json!({"clear": choice == "true"})).await;
            assert_eq!(ids(server).await.0.len(), left);
        }
        document.endpoint("POST", "/interrupt");
        assert_eq!(server.send("POST", "/interrupt", &[], "").await.status, StatusCode::OK);
        assert!(server.device.interrupted.lock().len() == 1);
        for name in ["unload_models", "free_memory"] {
            assert_eq!(document.item("POST", "/free", name).choices(), ["true", "false"]);
        }
        for (unload_models, free_memory) in [(true, false), (false, true), (true, true)] {
            server.post("/free", json!({"unload_models": unload_models, "free_memory": free_memory})).await;
            assert_eq!(server.device.freed.lock().last(), Some(&(unload_models, free_memory)));
        }
    }

    async fn history(&self) {
        let (server, document) = (&self.server, &self.document);
        let list = self.answer("GET", "/history", &server.get("/history").await);
        document.item("GET", "/history/{prompt_id}", "{prompt_id}");
        let one = self.answer("GET", "/history/{prompt_id}", &server.get("/history/ended").await);
        match self.shape {
            ApiShape::Wire => assert_eq!(list, one),
            ApiShape::Documented => {
                assert_eq!(list[0], one);
                let graph = json!({"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ended"}}});
                assert_eq!(one["prompt"], graph);
                assert_eq!((&one["extra_data"], &one["output_nodes"]), (&json!({"client_id": "contract"}), &json!(["1"])));
                self.error(&server.get("/history/none").await);
            }
        }
        server.app.store.claim(&contract::worker()).await.unwrap();
        let running = comfyd_jobs::Token { prompt_id: "running".to_owned(), worker: contract::worker(), claim: 1 };
        server.app.store.finish_and_claim(&running, &contract::outcome(comfyd_jobs::Status::Success)).await.unwrap();
        let length = |answer: &Value| answer.as_array().map_or_else(|| answer.as_object().unwrap().len(), Vec::len);
        assert!(document.item("GET", "/history", "max_items").text.contains("全ての履歴"));
        assert_eq!(length(&server.get("/history").await.json()), 2);
        assert_eq!(length(&server.get("/history?max_items=1").await.json()), 1);
        document.item("POST", "/history", "delete");
        server.post("/history", json!({"delete": ["ended"]})).await;
        assert_eq!(ids(server).await.1, ["running"]);
        assert_eq!(document.item("POST", "/history", "clear").choices(), ["true", "false"]);
        for (choice, left) in [(false, 1), (true, 0)] {
            server.post("/history", json!({ "clear": choice })).await;
            assert_eq!(ids(server).await.1.len(), left);
        }
    }

    /// Compares an error with the document's.
    fn error(&self, answer: &Answer) -> Value {
        assert!(answer.status.is_client_error(), "{}", answer.status);
        assert_eq!(answer.header("content-type"), "application/json");
        let told = self.fits("error", "", &json!({"error": "", "node_errors": ""}), answer.json());
        let fields: Vec<&String> = told.as_object().unwrap().keys().collect();
        assert_eq!(fields, self.document.error.answer.as_ref().unwrap().as_object().unwrap().keys().collect::<Vec<_>>());
        told
    }

    async fn errors(&self) {
        let server = &self.server;
        self.document.error("error");
        self.document.error("node_errors");
        for (method, path, body) in [
            ("GET", "/nothing", ""),
            ("GET", "/api/nothing", ""),
            ("GET", "/models/none", ""),
            ("GET", "/view", ""),
            ("GET", "/view?filename=none.png", ""),
            ("GET", "/view_metadata/loras", ""),
            ("GET", "/object_info/%ff", ""),
            ("GET", "/history?max_items=x", ""),
            ("GET", "/ws", ""),
            ("GET", "/jobs/none", ""),
            ("PUT", "/queue", ""),
            ("POST", "/nothing", ""),
            ("POST", "/prompt", "no JSON"),
            ("POST", "/prompt", "{}"),
            ("POST", "/prompt", r#"{"prompt": {}}"#),
            ("POST", "/queue", r#"{"delete": 1}"#),
            ("POST", "/history", "no JSON"),
            ("POST", "/upload/image", "no form"),
            ("POST", "/upload/mask", "no form"),
            ("POST", "/internal/models/download", "{}"),
            ("POST", "/userdata/..%2F..%2Fx", "x"),
        ] {
            let told = self.error(&server.send(method, path, &[], body).await);
            if self.shape == ApiShape::Documented {
                assert!(told["error"].as_str().unwrap().len() > 10, "{method} {path}: {told}");
                assert_eq!(told["node_errors"], json!([]), "{method} {path}");
            }
        }
        let graph = json!({
            "7": {"class_type": "Show", "inputs": {}},
            "8": {"class_type": "Bare", "inputs": {"value": -1}},
            "9": {"class_type": "Bare", "inputs": {"value": "x"}},
        });
        let told = self.error(&server.post("/prompt", json!({ "prompt": graph })).await);
        let nodes: BTreeSet<&str> = match self.shape {
            ApiShape::Wire => told["node_errors"].as_object().unwrap().keys().map(String::as_str).collect(),
            ApiShape::Documented => {
                let errors = told["node_errors"].as_array().unwrap();
                assert!(errors.iter().all(|error| error["message"].is_string() && error["class_type"].is_string()));
                errors.iter().map(|error| error["node_id"].as_str().unwrap()).collect()
            }
        };
        assert_eq!(nodes, BTreeSet::from(["7", "8", "9"]));
        // A prompt of which only a part can run.
        let graph = json!({"7": {"class_type": "Show", "inputs": {}}, "8": {"class_type": "Show", "inputs": {"value": 1}}});
        let told = self.answer("POST", "/prompt", &server.post("/prompt", json!({ "prompt": graph })).await);
        match self.shape {
            ApiShape::Wire => assert_eq!(told["node_errors"]["7"]["class_type"], "Show"),
            ApiShape::Documented => assert_eq!(told["node_errors"][0]["node_id"], "7"),
        }
    }

    async fn events(&self) {
        let (server, document) = (&self.server, &self.document);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = server.router.clone().route("/host/m", axum::routing::get(|| async { safetensors(MODEL) }));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let connect = async |query: &str| Client(tokio_tungstenite::connect_async(format!("ws://{address}/ws{query}")).await.unwrap().0);
        document.item("GET", "/ws", "clientId");
        let mut client = connect("?clientId=me").await;
        let status = client.json("status").await;
        assert_eq!(status["sid"], "me", "the client's own id is kept");
        has_all(document.event("status"), &status);
        assert_eq!(connect("").await.json("status").await["sid"].as_str().map(str::len), Some(32), "one is made");
        // The worker that took the prompt that runs says so.
        let store = &server.app.store;
        let kind = EventKind::Queue { version: store.versions().borrow().queue, counts: store.counts().await.unwrap() };
        server.app.hub.emit(Event { prompt_id: "running".into(), owner: "".into(), client_id: None, kind });
        client.json("status").await;
        server.post("/prompt", json!({"prompt": {"1": {"class_type": "Show", "inputs": {"value": 1}}}})).await;
        assert_eq!(client.json("status").await["status"]["exec_info"]["queue_pending"], 2, "sent when it changes");

        let emit = |kind| server.app.hub.emit(Event { prompt_id: "p".into(), owner: "".into(), client_id: Some("me".into()), kind });
        emit(EventKind::Executing(node()));
        has_all(document.event("executing"), &client.json("executing").await);

        for name in ["url", "model_directory", "model_filename", "progress_interval"] {
            document.item("POST", "/internal/models/download", name);
        }
        let order = |name: &str| {
            let url = format!("http://{address}/host/m");
            json!({"url": url, "model_directory": "loras", "model_filename": name, "progress_interval": 1})
        };
        let example = document.endpoint("POST", "/internal/models/download").answer.as_ref().unwrap();
        let done = json!(download::answer(&server.app, &Downloads::new(Policy::local()), &order("new.safetensors")).await.unwrap());
        assert_eq!(misfits(example, &done, ""), Vec::<String>::new());
        assert_eq!(
            (&done["status"], std::fs::read(done["download_path"].as_str().unwrap()).unwrap()),
            (&json!("success"), safetensors(MODEL))
        );
        has_all(document.event("download_progress"), &client.json("download_progress").await);
        let refused = server.post("/internal/models/download", &order("other.safetensors")).await;
        assert_eq!(self.answer("POST", "/internal/models/download", &refused)["status"], "error");

        let pixels = Arc::new(vec![7; 8 * 4 * 3]);
        let image = |lossless| PreviewImage { width: 8, height: 4, channels: 3, pixels: Arc::clone(&pixels), lossless, max_size: Some(16) };
        let documented = self.shape == ApiShape::Documented;
        let facts = contained(&document.event("BinaryEventTypes.PREVIEW_IMAGE").text);
        assert_eq!(facts, ["画像のタイプ (JPEG/PNG)", "画像のバイナリデータ", "画像の最大サイズ"]);
        for (lossless, kind, format) in [(false, 1, image::ImageFormat::Jpeg), (true, 2, image::ImageFormat::Png)] {
            emit(EventKind::Image { node: node(), image: image(lossless) });
            let frame = client.binary().await;
            assert_eq!((frame.number(0), frame.number(4)), (1, kind));
            let encoded = &frame.0[8..frame.0.len() - if documented { 4 } else { 0 }];
            assert_eq!(image::load_from_memory_with_format(encoded, format).unwrap().width(), 16);
            assert_eq!(documented, frame.0.ends_with(&[0, 0, 0, 16]), "its largest size stands behind it");
        }
        let facts = contained(&document.event("BinaryEventTypes.UNENCODED_PREVIEW_IMAGE").text);
        assert_eq!(facts, ["画像のタイプ (JPEG/PNG)", "画像のバイナリデータ"]);
        let mut raw = connect("?clientId=me&preview=raw").await;
        raw.json("status").await;
        emit(EventKind::Image { node: node(), image: image(false) });
        let frame = raw.binary().await;
        assert_eq!([0, 4, 8, 12].map(|at| frame.number(at)), [2, 3, 16, 8]);
        assert!(frame.0[16..16 + 16 * 8 * 3].iter().all(|byte| *byte == 7));
        let type_of_it: &[u8] = if documented { &[0, 0, 0, 1] } else { &[] };
        assert_eq!(&frame.0[16 + 16 * 8 * 3..], type_of_it);
        let mut knowing = connect("?clientId=me").await;
        let flags = json!({"type": "feature_flags", "data": {"supports_preview_metadata": true}});
        knowing.0.send(Message::Text(flags.to_string().into())).await.unwrap();
        knowing.json("feature_flags").await;
        emit(EventKind::Image { node: node(), image: image(false) });
        let frame = knowing.binary().await;
        assert_eq!(frame.number(0), 4);
        let metadata: Value = serde_json::from_slice(&frame.0[8..8 + frame.number(4) as usize]).unwrap();
        assert_eq!(metadata.get("max_size"), documented.then_some(&json!(16)));
        // A client may ask for the other shape than the server's.
        let other = if documented { "wire" } else { "documented" };
        let mut turned = connect(&format!("?clientId=me&shape={other}")).await;
        turned.json("status").await;
        emit(EventKind::Image { node: node(), image: image(true) });
        assert_eq!(!documented, turned.binary().await.0.ends_with(&[0, 0, 0, 16]));
    }
}

/// Whether an answer or an event has what the document's text says.
fn has_all(Item { name, text }: &Item, data: &Value) {
    for fact in contained(text) {
        let places: &[&str] = match (name.as_str(), fact) {
            ("/prompt", "実行中のタスク数") => &["/exec_info/queue_running"],
            ("/prompt", "キュー内のタスク数") => &["/exec_info/queue_pending"],
            ("/prompt", "実行中のプロンプトのID") => &["/exec_info/running_prompt_id"],
            ("/queue", "実行中のタスク数") => &["/queue_running"],
            ("/queue", "キュー内のタスク数") => &["/queue_pending"],
            ("/system_stats", "システムの CPU 使用率") => &["/system/cpu_utilization"],
            ("/system_stats", "メモリ使用量") => &["/system/ram_total", "/system/ram_free"],
            ("/system_stats", "GPU 使用量") => &["/devices/0/vram_total", "/devices/0/vram_free", "/devices/0/utilization"],
            ("/view_metadata/{folder_name}", "モデルの作成者") => &["/author"],
            ("/view_metadata/{folder_name}", "モデルの説明") => &["/description"],
            ("/view_metadata/{folder_name}", "モデルのライセンス") => &["/license"],
            ("status", "実行中のタスク数") => &["/status/exec_info/queue_running"],
            ("status", "キュー内のタスク数") => &["/status/exec_info/queue_pending"],
            ("status", "実行中のプロンプトのID") => &["/status/exec_info/running_prompt_id"],
            ("executing", "実行中のノードのID") => &["/node"],
            ("executing", "ノードの名前") => &["/title"],
            ("download_progress", "ダウンロード中のファイル名") => &["/filename"],
            ("download_progress", "ダウンロードの進捗状況 (パーセンテージ)") => &["/progress_percentage"],
            ("download_progress", "ダウンロード速度") => &["/speed"],
            _ => panic!("{name} has something that this test does not know: {fact}"),
        };
        for place in places {
            assert!(data.pointer(place).is_some_and(|value| !value.is_null()), "{name}: {fact}: {data}");
        }
    }
}

struct Client(tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>);

struct Frame(Vec<u8>);

impl Frame {
    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.0[at..at + 4].try_into().unwrap())
    }
}

impl Client {
    async fn next(&mut self) -> Message {
        tokio::time::timeout(Duration::from_secs(60), self.0.next()).await.expect("an event comes").unwrap().unwrap()
    }

    /// The data of the next event of that name.
    async fn json(&mut self, name: &str) -> Value {
        loop {
            if let Message::Text(text) = self.next().await {
                let mut event: Value = serde_json::from_str(text.as_str()).unwrap();
                if event["type"] == name {
                    return event["data"].take();
                }
            }
        }
    }

    async fn binary(&mut self) -> Frame {
        loop {
            if let Message::Binary(frame) = self.next().await {
                return Frame(frame.to_vec());
            }
        }
    }
}

#[tokio::test]
async fn the_api_document_holds_in_both_shapes() {
    for shape in [ApiShape::Wire, ApiShape::Documented] {
        let check = Check { document: Document::read(), shape, server: server(shape).await };
        check.lists().await;
        check.uploads().await;
        check.view().await;
        check.errors().await;
        let check = Check { server: server(shape).await, ..check };
        check.queue().await;
        let check = Check { server: server(shape).await, ..check };
        check.history().await;
        let check = Check { server: server(shape).await, ..check };
        check.events().await;
        let unseen: Vec<String> = check.document.all().difference(&check.document.seen.lock()).cloned().collect();
        assert_eq!(unseen, Vec::<String>::new(), "the document has more than this test looks at");
    }
}

/// The reader of the document is one that would notice a new endpoint, parameter or field.
#[test]
fn the_document_is_read_to_its_end() {
    let document = Document::read();
    assert_eq!(document.endpoints.len(), DOCUMENT.matches("**メソッド:**").count());
    assert_eq!(
        document.endpoints.iter().chain([&document.error]).filter(|end| end.answer.is_some()).count(),
        DOCUMENT.matches("```json").count()
    );
    let items = DOCUMENT.lines().filter(|line| line.starts_with("- `")).count();
    let read = document.endpoints.iter().map(|end| end.items.len()).sum::<usize>() + document.events.len() + document.error.items.len();
    assert_eq!(read, items);
}
