//! A server in a temporary folder, as the tests of this crate ask it. Each file of tests uses a part of this.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use comfyd_assets::Assets;
use comfyd_folders::{Folders, Roots};
use comfyd_jobs::memory::MemoryStore;
use comfyd_jobs::{Position, Status, contract};
use comfyd_memory::Account;
use comfyd_node::{Catalog, Context, Inputs, Node, NodeOutput, Schema};
use comfyd_server::{App, Device, DeviceState, Devices, Hub, Installation, Installations, Log, Metrics, Options, Parts, router};
use comfyd_store_sqlite::Lock;
use parking_lot::Mutex;
use serde_json::Value;
use tower::ServiceExt;

/// A device that runs nothing, and remembers what it was asked.
#[derive(Default)]
pub struct Idle {
    /// The prompt that it claims to run.
    pub runs: Option<&'static str>,
    pub interrupted: Mutex<Vec<Option<String>>>,
    /// Whether models were to be unloaded, and memory freed.
    pub freed: Mutex<Vec<(bool, bool)>>,
}

#[async_trait]
impl Device for Idle {
    fn state(&self) -> DeviceState {
        DeviceState { name: "cpu".into(), memory: 1 << 30, free: 1 << 29, models: 0, stuck_threads: 0 }
    }

    async fn interrupt(&self, prompt_id: Option<&str>) -> bool {
        self.interrupted.lock().push(prompt_id.map(str::to_owned));
        self.runs.is_some() && (prompt_id.is_none() || prompt_id == self.runs)
    }

    fn free(&self, unload_models: bool, free_memory: bool) {
        self.freed.lock().push((unload_models, free_memory));
    }
}

/// A class whose nodes give nothing.
struct Class(Schema);

impl Node for Class {
    fn schema(&self) -> Schema {
        self.0.clone()
    }

    fn run(&self, _: &mut Context<'_>, _: Inputs) -> comfyd_node::Result<NodeOutput> {
        Ok(NodeOutput::default())
    }
}

/// A class whose nodes give nothing.
pub fn class(schema: Schema) -> Arc<dyn Node> {
    Arc::new(Class(schema))
}

pub struct Server {
    pub dir: tempfile::TempDir,
    pub device: Arc<Idle>,
    pub app: App,
    pub router: Router,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Server {
    /// A server with these classes; `change` gets its options and its folder, which is empty.
    pub fn new(classes: impl IntoIterator<Item = Schema>, change: impl FnOnce(&mut Options, &Path)) -> Self {
        Self::with_device(Idle::default(), classes, change)
    }

    pub fn with_device(device: Idle, classes: impl IntoIterator<Item = Schema>, change: impl FnOnce(&mut Options, &Path)) -> Self {
        Self::put_together(device, classes, [], change)
    }

    /// A server beside these ComfyUIs.
    pub fn beside(installations: impl IntoIterator<Item = Arc<dyn Installation>>, classes: impl IntoIterator<Item = Schema>) -> Self {
        Self::beside_with(installations, classes, |_| ())
    }

    pub fn beside_with(
        installations: impl IntoIterator<Item = Arc<dyn Installation>>,
        classes: impl IntoIterator<Item = Schema>,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        Self::put_together(Idle::default(), classes, installations, |options, _| change(options))
    }

    fn put_together(
        device: Idle,
        classes: impl IntoIterator<Item = Schema>,
        installations: impl IntoIterator<Item = Arc<dyn Installation>>,
        change: impl FnOnce(&mut Options, &Path),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (device, mut options, mut catalog) = (Arc::new(device), Options::default(), Catalog::new());
        change(&mut options, dir.path());
        for class in classes {
            catalog.insert(Arc::new(Class(class)));
        }
        let parts = Parts {
            catalog: Arc::new(catalog).into(),
            folders: Arc::new(Folders::new(Roots::under(dir.path())).unwrap()),
            store: Arc::new(MemoryStore::default()),
            installations: Installations::new(installations),
            devices: Devices::new([Arc::clone(&device) as Arc<dyn Device>]),
            hub: Hub::new(64, 512, &Account::unbounded()),
            log: Log::default(),
            metrics: Metrics::default(),
            memory: Account::unbounded(),
        };
        let app = App::new(parts, options);
        Self { dir, device, router: router(app.clone()), app }
    }

    /// Adds a job that ended, one that runs and one that waits, which are called so.
    pub async fn add_jobs(&self) {
        for id in ["ended", "running", "waiting"] {
            self.app.store.enqueue(contract::job(id, Position::Back)).await.unwrap();
        }
        let ended = self.app.store.claim(&contract::worker()).await.unwrap().unwrap();
        self.app.store.finish_and_claim(&ended.token, &contract::outcome(Status::Success)).await.unwrap();
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { status, headers, body: to_bytes(response.into_body(), 1 << 26).await.unwrap().to_vec() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: impl ToString) -> Answer {
        self.send("POST", path, &[], body.to_string()).await
    }

    /// Sends a form with a file.
    pub async fn upload(&self, path: &str, name: &str, bytes: &[u8], fields: &[(&str, &str)]) -> Answer {
        let mut body = Vec::new();
        for (key, value) in fields {
            body.extend(format!("--b\r\nContent-Disposition: form-data; name=\"{key}\"\r\n\r\n{value}\r\n").bytes());
        }
        body.extend(format!("--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"{name}\"\r\n\r\n").bytes());
        body.extend(bytes);
        body.extend(b"\r\n--b--\r\n");
        self.send("POST", path, &[("content-type", "multipart/form-data; boundary=b")], body).await
    }

    /// Writes a file in the server's folder.
    pub fn put(&self, path: &str, bytes: impl AsRef<[u8]>) {
        put(self.dir.path(), path, bytes);
    }
}

/// Writes a file in a folder.
pub fn put(dir: &Path, path: &str, bytes: impl AsRef<[u8]>) {
    let path = dir.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// The id of a prompt that is called so: clients may give none but UUIDs.
pub fn id(name: &str) -> String {
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    uuid::Uuid::from_bytes(bytes).to_string()
}

/// Assets of a server in this folder.
pub fn assets(dir: &Path) -> Arc<Assets> {
    let database = Lock::database(&dir.join("user/assets.db")).unwrap();
    let folders = Arc::new(Folders::new(Roots::under(dir)).unwrap());
    Arc::new(Assets::start(comfyd_assets::Options { database, hashes: false }, folders, Box::new(|_| ())).unwrap())
}

/// A safetensors file of a header.
pub fn safetensors(header: &str) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()
}

/// A PNG of one colour.
pub fn picture(alpha: u8) -> Vec<u8> {
    let mut out = std::io::Cursor::new(Vec::new());
    image::RgbaImage::from_pixel(6, 4, image::Rgba([9, 8, 7, alpha])).write_to(&mut out, image::ImageFormat::Png).unwrap();
    out.into_inner()
}
