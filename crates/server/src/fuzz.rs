//! What fuzzing calls: any bytes as what a connection brings, as a form, or as the file of keys. The servers behind it run no prompt and reach no
//! other machine.
#![allow(clippy::expect_used)]

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::FromRequest;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use comfyd_folders::{Folders, Roots};
use comfyd_jobs::memory::MemoryStore;
use comfyd_memory::Account;
use comfyd_node::{Catalog, Context, Input, Inputs, Node, NodeOutput, Schema};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

use crate::form::Form;
use crate::keys::{KeyFile, Keys};
use crate::listen::serve_stream;
use crate::{App, Device, DeviceState, Devices, Hub, Installations, Log, Metrics, Options, Parts, router};

#[cfg(test)]
#[path = "../../../fuzz/kept.rs"]
mod kept;

/// A server is used for so many inputs, so that what they leave does not add up.
const INPUTS_OF_SERVER: usize = 256;
/// What a connection holds on its way.
const DUPLEX_BYTES: usize = 64 << 10;
/// How long a client waits for answers before it ends.
const ANSWERS: Duration = Duration::from_millis(3);
/// A connection that has not ended by then hangs.
const HANGS_AFTER: Duration = Duration::from_secs(9);
/// The key of the server that asks for one: `comfyd_fuzz`.
const KEYS: &str = r#"{"keys": [{"id": "a", "user": "ann", "scope": "admin", "created_ms": 1, "expires_ms": null,
    "hash": "c5a78ad7ee5dfd1a09e463e288f64be8b105023df843601a4fa22f65b496c0de"}]}"#;
const UPGRADE: &[u8] = b"GET /ws?clientId=a HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";

struct Idle;

#[async_trait]
impl Device for Idle {
    fn state(&self) -> DeviceState {
        DeviceState { name: "cpu".into(), memory: 1 << 30, free: 1 << 29, models: 0, stuck_threads: 0 }
    }

    async fn interrupt(&self, _prompt_id: Option<&str>) -> bool {
        false
    }

    fn free(&self, _unload_models: bool, _free_memory: bool) {}
}

struct Show;

impl Node for Show {
    fn schema(&self) -> Schema {
        Schema::new("Show").input(Input::int("value").min(0).max(9)).output_node()
    }

    fn run(&self, _: &mut Context<'_>, _: Inputs) -> comfyd_node::Result<NodeOutput> {
        Ok(NodeOutput::default())
    }
}

fn server(folder: &Path, shut: bool) -> Router {
    // It need not be there.
    drop(std::fs::remove_dir_all(folder));
    let folders = Folders::new(Roots::under(folder)).expect("the folders can be made");
    for (file, content) in
        [("input/a.png", &b"\x89PNG\r\n\x1a\n"[..]), ("output/b.txt", b"0123456789"), ("user/keys.json", KEYS.as_bytes())]
    {
        std::fs::write(folder.join(file), content).expect("the files can be written");
    }
    let mut catalog = Catalog::new();
    catalog.insert(Arc::new(Show));
    let keys = if shut { Keys::open(KeyFile::of(&folder.join("user")), true).expect("the keys can be read") } else { Keys::default() };
    let options = Options { download_hosts: Vec::new(), keys: Arc::new(keys), max_upload_bytes: 1 << 20, ..Options::default() };
    let parts = Parts {
        catalog: Arc::new(catalog).into(),
        folders: Arc::new(folders),
        store: Arc::new(MemoryStore::default()),
        installations: Installations::new([]),
        devices: Devices::new([Arc::new(Idle) as Arc<dyn Device>]),
        hub: Hub::new(64, 512, &Account::unbounded()),
        log: Log::default(),
        metrics: Metrics::default(),
        memory: Account::new(1 << 30),
    };
    router(App::new(parts, options))
}

/// What inputs share: a runtime, and the servers with how often they were used.
struct Bench {
    runtime: Runtime,
    servers: [Option<(Router, usize)>; 2],
}

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::new(Bench {
        runtime: Builder::new_current_thread().enable_all().build().expect("a runtime can be made"),
        servers: [None, None],
    });
}

/// A connection that brings these bytes and ends; gives what the server said.
fn connect(bytes: &[u8], folder: &Path, shut: bool) -> Vec<u8> {
    BENCH.with_borrow_mut(|bench| {
        let folder = folder.join(if shut { "shut" } else { "open" });
        let kept = bench.servers[usize::from(shut)].take().filter(|(_, used)| *used < INPUTS_OF_SERVER);
        let _entered = bench.runtime.enter();
        let (router, used) = kept.unwrap_or_else(|| (server(&folder, shut), 0));
        bench.servers[usize::from(shut)] = Some((router.clone(), used + 1));
        bench.runtime.block_on(async {
            let (client, stream) = tokio::io::duplex(DUPLEX_BYTES);
            let (mut answers, mut asks) = tokio::io::split(client);
            let mut said = Vec::new();
            let ask = async {
                // The server may have closed the connection already.
                drop(asks.write_all(bytes).await);
                // Who ends at once is not answered.
                tokio::time::sleep(ANSWERS).await;
                drop(asks.shutdown().await);
            };
            let all = async { tokio::join!(ask, answers.read_to_end(&mut said), serve_stream(router, stream)) };
            tokio::time::timeout(HANGS_AFTER, all)
                .await
                .expect("a connection whose client has said all ends")
                .1
                .expect("a pipe can be read");
            said
        })
    })
}

/// A connection, to a server that asks for keys if the first byte is `k`.
pub fn http(data: &[u8], folder: &Path) {
    let (bytes, shut) = data.strip_prefix(b"k").map_or((data, false), |bytes| (bytes, true));
    let said = connect(bytes, folder, shut);
    assert!(!said.starts_with(b"HTTP/1.1 500"), "{}", String::from_utf8_lossy(&said));
    if shut && !String::from_utf8_lossy(bytes).contains("comfyd_fuzz") {
        assert!(!said.windows(10).any(|part| part == b"0123456789"), "nobody without a key gets a file");
    }
}

/// What a websocket client sends.
pub fn websocket(data: &[u8], folder: &Path) {
    let said = connect(&[UPGRADE, data].concat(), folder, false);
    assert!(said.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&said));
}

/// A form; its first line is its type.
pub fn multipart(data: &[u8]) {
    let (kind, body) = data.iter().position(|byte| *byte == b'\n').map_or((data, &[][..]), |end| (&data[..end], &data[end + 1..]));
    let Ok(kind) = HeaderValue::from_bytes(kind) else { return };
    let request = axum::http::Request::post("/").header(CONTENT_TYPE, kind).body(Body::from(body.to_vec())).expect("a request");
    let form = BENCH.with_borrow(|bench| bench.runtime.block_on(Form::from_request(request, &())));
    for name in ["image", "overwrite", "original_ref"] {
        let _ = form.as_ref().map(|form| form.text(name));
    }
}

/// The file of keys.
pub fn keys(data: &[u8], folder: &Path) {
    std::fs::create_dir_all(folder).expect("the folder can be made");
    std::fs::write(folder.join("keys.json"), data).expect("the file can be written");
    if let Ok(keys) = Keys::open(KeyFile::of(folder), true) {
        keys.any();
        assert!(keys.find("").is_none(), "nothing is no key");
    }
}

#[cfg(test)]
#[test]
fn what_fuzzing_found_is_answered() {
    let dir = tempfile::tempdir().expect("a folder");
    kept::replay("http", |data| http(data, dir.path()));
    kept::replay("websocket", |data| websocket(data, dir.path()));
    kept::replay("multipart", multipart);
    kept::replay("keys", |data| keys(data, dir.path()));
}
