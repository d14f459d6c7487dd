//! The API document, read as data, against the server: every endpoint, parameter, default, field and event that it names. In the document's
//! shape all of it holds; in ComfyUI's, all but what is listed here. What the document names and no test has looked at fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use comfyd_folders::{Folders, Roots};
use comfyd_jobs::memory::MemoryStore;
use comfyd_jobs::{Event, EventKind, EventSink, JobStore, NodeRef, contract};
use comfyd_node::PreviewImage;
use comfyd_node::{Catalog, Context, Input, Inputs, Node, NodeOutput, Provider, Schema};
use futures_util::{SinkExt, StreamExt};
use image::DynamicImage;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tower::ServiceExt;

use crate::routes::download;
use crate::services::download::{Downloads, Policy};
use crate::{ApiShape, App, Control, FrontEnd, Hub, Log, Options, Parts, router};

const DOCUMENT: &str = include_str!("../../../docs/prompt-server-api.ja.md");

/// A parameter, an event, or a field of an error: its name, and what the document says of it.
#[derive(Debug, Default)]
struct Item {
    name: String,
    text: String,
}

impl Item {
    /// What the document calls the default.
    fn default(&self) -> &str {
        let (_, rest) = self.text.split_once("デフォルトは `").unwrap_or_else(|| panic!("{} has no default", self.name));
        rest.split_once('`').unwrap().0
    }

    /// The values that it may have.
    fn choices(&self) -> Vec<&str> {
        let line = self.text.lines().find(|line| line.contains("を指定します")).unwrap();
        line.split('`').skip(1).step_by(2).collect()
    }
}

/// What a text says is contained in an answer or event: `…には、A、B、Cなどが含まれます`.
fn contained(text: &str) -> Vec<&str> {
    let sentence = text.split(['。', '\n']).find(|sentence| sentence.contains("が含まれ")).unwrap_or_default();
    let list = sentence.split("が含まれ").next().unwrap();
    let list = list.split_once("には、").map_or(list, |(_, list)| list).trim();
    list.trim_end_matches("の情報").trim_end_matches("など").split('、').collect()
}

/// One endpoint.
#[derive(Debug, Default)]
struct Endpoint {
    method: String,
    path: String,
    text: String,
    items: Vec<Item>,
    answer: Option<Value>,
}

/// The document, and what tests have looked at of it.
#[derive(Default)]
struct Document {
    endpoints: Vec<Endpoint>,
    events: Vec<Item>,
    error: Endpoint,
    seen: Mutex<BTreeSet<String>>,
}

impl Document {
    fn read() -> Self {
        let mut document = Self::default();
        let (mut in_events, mut in_error, mut json) = (false, false, None::<String>);
        for line in DOCUMENT.lines() {
            if let Some(text) = &mut json {
                if line == "```" {
                    let answer = example(text);
                    let end = if in_error { &mut document.error } else { document.endpoints.last_mut().unwrap() };
                    assert!(end.answer.replace(answer).is_none(), "{} has two answers", end.path);
                    json = None;
                } else {
                    text.push_str(&format!("{line}\n"));
                }
                continue;
            }
            let end = if in_error { &mut document.error } else { document.endpoints.last_mut().unwrap_or(&mut document.error) };
            let items = if in_events { &mut document.events } else { &mut end.items };
            if line == "```json" {
                json = Some(String::new());
            } else if let Some(path) =
                line.strip_prefix("**エンドポイント:** ").or_else(|| line.strip_prefix("**").filter(|l| l.starts_with('`')))
            {
                in_events = false;
                let path = path.trim_matches(['`', '*']).to_owned();
                document.endpoints.push(Endpoint { path, ..Endpoint::default() });
            } else if let Some(method) = line.strip_prefix("**メソッド:** ") {
                end.method = method.to_owned();
            } else if let Some(text) = line.strip_prefix("**説明:** ") {
                end.text = text.to_owned();
            } else if line == "**イベント:**" {
                in_events = true;
            } else if line == "### エラーレスポンス" {
                in_error = true;
            } else if let Some((name, text)) = line.strip_prefix("- `").and_then(|line| line.split_once("`:")) {
                items.push(Item { name: name.to_owned(), text: text.to_owned() });
            } else if let Some(text) = line.strip_prefix("    - ") {
                items.last_mut().unwrap().text.push_str(&format!("\n{text}"));
            }
        }
        document
    }

    fn endpoint(&self, method: &str, path: &str) -> &Endpoint {
        let found = self.endpoints.iter().find(|end| end.method == method && end.path == path);
        self.seen.lock().insert(format!("{method} {path}"));
        found.unwrap_or_else(|| panic!("the document has no {method} {path}"))
    }

    fn item(&self, method: &str, path: &str, name: &str) -> &Item {
        let found = self.endpoint(method, path).items.iter().find(|item| item.name == name);
        self.seen.lock().insert(format!("{method} {path} {name}"));
        found.unwrap_or_else(|| panic!("the document has no {name} of {method} {path}"))
    }

    fn event(&self, name: &str) -> &Item {
        self.seen.lock().insert(name.to_owned());
        self.events.iter().find(|event| event.name == name).unwrap()
    }

    fn error(&self, name: &str) -> &Item {
        self.seen.lock().insert(format!("error {name}"));
        self.error.items.iter().find(|item| item.name == name).unwrap()
    }

    /// Everything that the document names.
    fn all(&self) -> BTreeSet<String> {
        let ends = self.endpoints.iter().flat_map(|end| {
            let items = end.items.iter().map(|item| format!("{} {} {}", end.method, end.path, item.name));
            items.chain([format!("{} {}", end.method, end.path)])
        });
        let events = self.events.iter().map(|event| event.name.clone());
        ends.chain(events).chain(self.error.items.iter().map(|item| format!("error {}", item.name))).collect()
    }
}

/// The document's JSON, with `...` and what it leaves over taken out.
fn example(text: &str) -> Value {
    let kept: String = text.lines().filter(|line| !line.trim().starts_with("...")).flat_map(|line| line.trim().chars()).collect();
    let kept = kept.replace(",]", "]").replace(",}", "}");
    serde_json::from_str(&kept).unwrap_or_else(|e| panic!("{e}: {kept}"))
}

/// What kind of value the document means by the text that stands for it: by the field's name, "" for the items of a list.
fn means(field: &str, value: &Value) -> bool {
    match field {
        "" | "name" | "subfolder" | "type" | "author" | "description" | "license" | "os" | "comfyui_version" | "python_version"
        | "pytorch_version" | "prompt_id" | "status" | "message" | "download_path" | "display_name" | "python_module" | "category"
        | "error" => value.is_string(),
        "embedded_python" | "output_node" | "deprecated" | "experimental" => value.is_boolean(),
        "argv" | "output" | "output_is_list" | "output_name" | "node_errors" => value.is_array(),
        "input" | "input_order" => value.is_object(),
        // The prompt that ran: a graph.
        "prompt" => value.as_object().is_some_and(|graph| graph.values().all(|node| node["class_type"].is_string())),
        "vram_total" | "vram_free" | "torch_vram_total" | "torch_vram_free" | "queue_remaining" | "queue_running" | "queue_pending" => {
            value.is_u64()
        }
        "number" | "timestamp" => value.is_number(),
        // The processor has none.
        "index" => value.is_u64() || value.is_null(),
        field => panic!("the document has a field that this test does not know: {field}"),
    }
}

/// The places of an answer that are not as the document's example has them.
fn misfits(example: &Value, answer: &Value, place: &str) -> Vec<String> {
    let wrong = || vec![place.to_owned()];
    match example {
        Value::Object(fields) if fields.keys().any(|key| key.starts_with("NodeClassName")) => {
            let Some(classes) = answer.as_object().filter(|classes| !classes.is_empty()) else { return wrong() };
            let class = fields.values().next().unwrap();
            let found: BTreeSet<String> = classes.values().flat_map(|answer| misfits(class, answer, place)).collect();
            found.into_iter().collect()
        }
        Value::Object(fields) => {
            if !answer.is_object() {
                return wrong();
            }
            let each = fields.iter().map(|(name, example)| match answer.get(name) {
                Some(answer) => misfits(example, answer, &format!("{place}/{name}")),
                None => vec![format!("{place}/{name}")],
            });
            each.flatten().collect()
        }
        Value::Array(examples) => match (answer.as_array(), examples.first()) {
            (None, _) => wrong(),
            (Some(_), None) => Vec::new(),
            (Some(items), Some(_)) if items.is_empty() => wrong(),
            (Some(items), Some(example)) => items.iter().flat_map(|item| misfits(example, item, &format!("{place}/"))).collect(),
        },
        Value::String(_) => {
            if means(place.rsplit('/').next().unwrap(), answer) {
                Vec::new()
            } else {
                wrong()
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => panic!("{place}: {example} stands for nothing"),
    }
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

#[derive(Default)]
struct Seen {
    interrupted: bool,
    freed: Option<(bool, bool)>,
}

#[derive(Default)]
struct Runner(Mutex<Seen>);

impl Control for Runner {
    fn interrupt(&self, _: Option<&str>) -> bool {
        self.0.lock().interrupted = true;
        true
    }

    fn free(&self, unload_models: bool, free_memory: bool) {
        self.0.lock().freed = Some((unload_models, free_memory));
    }
}

struct Class(&'static str);

impl Node for Class {
    fn schema(&self) -> Schema {
        let schema = Schema::new(self.0).category("test").input(Input::int("value").min(0)).output("INT").output_node();
        if self.0 == "Bare" { schema.no_display() } else { schema }
    }

    fn run(&self, _: &mut Context<'_>, _: Inputs) -> comfyd_node::Result<NodeOutput> {
        Ok(NodeOutput::default())
    }
}

struct Classes;

impl Provider for Classes {
    fn name(&self) -> &str {
        "test"
    }

    fn nodes(&self) -> Vec<Arc<dyn Node>> {
        vec![Arc::new(Class("Show")), Arc::new(Class("Bare"))]
    }
}

const MODEL: &[u8] = br#"{"__metadata__": {"author": "me", "description": "a model", "license": "MIT"}}"#;

fn model() -> Vec<u8> {
    [&(MODEL.len() as u64).to_le_bytes()[..], MODEL].concat()
}

fn picture(alpha: u8) -> Vec<u8> {
    let mut out = std::io::Cursor::new(Vec::new());
    image::RgbaImage::from_pixel(6, 4, image::Rgba([9, 8, 7, alpha])).write_to(&mut out, image::ImageFormat::Png).unwrap();
    out.into_inner()
}

/// A server in one of the two shapes, with a prompt that ended, one that runs and one that waits.
struct Server {
    dir: tempfile::TempDir,
    app: App,
    router: Router,
    runner: Arc<Runner>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    fn mime(&self) -> &str {
        self.headers["content-type"].to_str().unwrap()
    }

    fn picture(&self) -> DynamicImage {
        image::load_from_memory(&self.body).unwrap()
    }
}

impl Server {
    async fn new(shape: ApiShape) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, bytes: &[u8]| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        };
        put("models/loras/a.safetensors", &model());
        put("models/embeddings/e.safetensors", &model());
        put("web/index.html", b"<html>ComfyUI");
        put("web/extensions/core/a.js", b"1");
        for (folder, alpha) in [("input", 10), ("output", 20), ("temp", 30), ("output/sub", 40)] {
            put(&format!("{folder}/v.png"), &picture(alpha));
        }
        let store = Arc::new(MemoryStore::default());
        for id in ["ended", "running", "waiting"] {
            store.enqueue(contract::job(id, comfyd_jobs::Position::Back)).await.unwrap();
        }
        let ended = store.claim(&contract::worker()).await.unwrap().unwrap();
        store.finish_and_claim(&ended.token, &contract::outcome(comfyd_jobs::Status::Success)).await.unwrap();
        let folders = Folders::new(Roots::under(dir.path())).unwrap();
        let mut catalog = Catalog::new();
        catalog.add(&Classes);
        let runner = Arc::new(Runner::default());
        let options =
            Options { shape, front_end: FrontEnd::Folder(dir.path().join("web")), argv: vec!["serve".into()], ..Options::default() };
        let app = App::new(
            Parts {
                catalog: Arc::new(catalog),
                folders: Arc::new(folders),
                store,
                control: runner.clone(),
                hub: Hub::new(64, 512),
                log: Log::default(),
            },
            options,
        );
        Self { dir, router: router(app.clone()), app, runner }
    }

    async fn send(&self, method: &str, path: &str, content_type: &str, body: Vec<u8>) -> Answer {
        let request = Request::builder().method(method).uri(path).header("content-type", content_type).body(Body::from(body)).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { status, headers, body: to_bytes(response.into_body(), 1 << 24).await.unwrap().to_vec() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", Vec::new()).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, "application/json", body.to_string().into()).await
    }

    async fn upload(&self, path: &str, alpha: u8, fields: &[(&str, &str)]) -> Answer {
        let mut body = Vec::new();
        for (key, value) in fields {
            body.extend(format!("--b\r\nContent-Disposition: form-data; name=\"{key}\"\r\n\r\n{value}\r\n").bytes());
        }
        body.extend(b"--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"u.png\"\r\n\r\n");
        body.extend(picture(alpha));
        body.extend(b"\r\n--b--\r\n");
        self.send("POST", path, "multipart/form-data; boundary=b", body).await
    }

    async fn ids(&self) -> (Vec<String>, Vec<String>) {
        let queue = self.app.store.queue().await.unwrap();
        let entries = self.app.store.history(&Default::default()).await.unwrap().entries;
        (queue.pending.iter().map(|job| job.id.clone()).collect(), entries.iter().map(|entry| entry.job.id.clone()).collect())
    }
}

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
        for fact in contained(&self.document.endpoint(method, path).text) {
            let places: &[&str] = match (path, fact) {
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
                _ => panic!("{method} {path} has something that this test does not know: {fact}"),
            };
            for place in places {
                assert!(answer.pointer(place).is_some_and(|value| !value.is_null()), "{method} {path}: {fact}: {answer}");
            }
        }
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
                self.answer("POST", path, &server.upload(path, alpha, &fields).await)
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
            let alpha = get(&format!("filename=v.png&type={choice}")).await.picture().into_rgba8().get_pixel(0, 0).0[3];
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
        assert_eq!(get("filename=v.png&subfolder=sub").await.picture().into_rgba8().get_pixel(0, 0).0[3], 40);
        assert!(item("preview").text.contains("元の画像"));
        assert_eq!(plain.mime(), "image/png");
        for choice in item("preview").choices() {
            assert_eq!(get(&format!("filename=v.png&preview={choice}")).await.mime(), format!("image/{choice}"));
        }
        assert_eq!(plain.body, get(&format!("filename=v.png&channel={}", item("channel").default())).await.body);
        for choice in item("channel").choices() {
            let pixel = get(&format!("filename=v.png&channel={choice}")).await.picture().into_rgba8().get_pixel(0, 0).0;
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
        let body = json!({"number": -5, "prompt": graph, "extra_data": {"a": 1}, "client_id": "c", "prompt_id": "mine"});
        let accepted = self.answer("POST", "/prompt", &server.post("/prompt", &body).await);
        assert_eq!((&accepted["prompt_id"], &accepted["number"]), (&json!("mine"), &json!(-5)));
        assert_eq!(server.ids().await.0, ["mine", "waiting"], "lower numbers run first");
        let job = server.app.store.queue().await.unwrap().pending[0].clone();
        assert_eq!(serde_json::from_str::<Value>(job.extra_data.get()).unwrap(), json!({"a": 1, "client_id": "c"}));

        document.item("POST", "/queue", "delete");
        assert_eq!(server.post("/queue", &json!({"delete": ["waiting"]})).await.status, StatusCode::OK);
        assert_eq!(server.ids().await.0, ["mine"]);
        let clear = document.item("POST", "/queue", "clear").choices();
        assert_eq!(clear, ["true", "false"]);
        for (choice, left) in [("false", 1), ("true", 0)] {
            server.post("/queue", &json!({"clear": choice == "true"})).await;
            assert_eq!(server.ids().await.0.len(), left);
        }
        document.endpoint("POST", "/interrupt");
        assert_eq!(server.send("POST", "/interrupt", "", Vec::new()).await.status, StatusCode::OK);
        assert!(server.runner.0.lock().interrupted);
        for name in ["unload_models", "free_memory"] {
            assert_eq!(document.item("POST", "/free", name).choices(), ["true", "false"]);
        }
        for (unload_models, free_memory) in [(true, false), (false, true), (true, true)] {
            server.post("/free", &json!({"unload_models": unload_models, "free_memory": free_memory})).await;
            assert_eq!(server.runner.0.lock().freed, Some((unload_models, free_memory)));
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
        server.post("/history", &json!({"delete": ["ended"]})).await;
        assert_eq!(server.ids().await.1, ["running"]);
        assert_eq!(document.item("POST", "/history", "clear").choices(), ["true", "false"]);
        for (choice, left) in [(false, 1), (true, 0)] {
            server.post("/history", &json!({ "clear": choice })).await;
            assert_eq!(server.ids().await.1.len(), left);
        }
    }

    /// Compares an error with the document's.
    fn error(&self, answer: &Answer) -> Value {
        assert!(answer.status.is_client_error(), "{}", answer.status);
        assert_eq!(answer.mime(), "application/json");
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
            let told = self.error(&server.send(method, path, "", body.into()).await);
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
        let told = self.error(&server.post("/prompt", &json!({ "prompt": graph })).await);
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
        let told = self.answer("POST", "/prompt", &server.post("/prompt", &json!({ "prompt": graph })).await);
        match self.shape {
            ApiShape::Wire => assert_eq!(told["node_errors"]["7"]["class_type"], "Show"),
            ApiShape::Documented => assert_eq!(told["node_errors"][0]["node_id"], "7"),
        }
    }

    async fn events(&self) {
        let (server, document) = (&self.server, &self.document);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = server.router.clone().route("/host/m", axum::routing::get(|| async { model() }));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let connect = async |query: &str| Client(tokio_tungstenite::connect_async(format!("ws://{address}/ws{query}")).await.unwrap().0);
        document.item("GET", "/ws", "clientId");
        let mut client = connect("?clientId=me").await;
        let status = client.json("status").await;
        assert_eq!(status["sid"], "me", "the client's own id is kept");
        contains(document.event("status"), &status);
        assert_eq!(connect("").await.json("status").await["sid"].as_str().map(str::len), Some(32), "one is made");
        // The worker that took the prompt that runs says so.
        let store = &server.app.store;
        let kind = EventKind::Queue { version: store.versions().borrow().queue, counts: store.counts().await.unwrap() };
        server.app.hub.emit(Event { prompt_id: "running".into(), client_id: None, kind });
        client.json("status").await;
        server.post("/prompt", &json!({"prompt": {"1": {"class_type": "Show", "inputs": {"value": 1}}}})).await;
        assert_eq!(client.json("status").await["status"]["exec_info"]["queue_pending"], 2, "sent when it changes");

        let emit = |kind| server.app.hub.emit(Event { prompt_id: "p".into(), client_id: Some("me".into()), kind });
        let node = || NodeRef {
            id: "3".into(),
            display_id: "3".into(),
            real_id: "3".into(),
            parent_id: None,
            class_type: "KSampler".into(),
            title: None,
        };
        emit(EventKind::Executing(node()));
        contains(document.event("executing"), &client.json("executing").await);

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
        assert_eq!((&done["status"], std::fs::read(done["download_path"].as_str().unwrap()).unwrap()), (&json!("success"), model()));
        contains(document.event("download_progress"), &client.json("download_progress").await);
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

/// Whether the data of an event has what the document says.
fn contains(event: &Item, data: &Value) {
    for fact in contained(&event.text) {
        let place = match (event.name.as_str(), fact) {
            ("status", "実行中のタスク数") => "/status/exec_info/queue_running",
            ("status", "キュー内のタスク数") => "/status/exec_info/queue_pending",
            ("status", "実行中のプロンプトのID") => "/status/exec_info/running_prompt_id",
            ("executing", "実行中のノードのID") => "/node",
            ("executing", "ノードの名前") => "/title",
            ("download_progress", "ダウンロード中のファイル名") => "/filename",
            ("download_progress", "ダウンロードの進捗状況 (パーセンテージ)") => "/progress_percentage",
            ("download_progress", "ダウンロード速度") => "/speed",
            (name, _) => panic!("{name} has something that this test does not know: {fact}"),
        };
        assert!(data.pointer(place).is_some_and(|value| !value.is_null()), "{}: {fact}: {data}", event.name);
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
        let check = Check { document: Document::read(), shape, server: Server::new(shape).await };
        check.lists().await;
        check.uploads().await;
        check.view().await;
        check.errors().await;
        let check = Check { server: Server::new(shape).await, ..check };
        check.queue().await;
        let check = Check { server: Server::new(shape).await, ..check };
        check.history().await;
        let check = Check { server: Server::new(shape).await, ..check };
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
