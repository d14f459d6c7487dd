//! The clients: they send prompts and ask for the queue, whatever becomes of the server, and write down what they were answered.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::Connection;

/// How long a client rests between two prompts.
const PACE: Duration = Duration::from_millis(10);
/// How often the queue is asked for.
const CONTROL: Duration = Duration::from_millis(20);
/// How long a client waits for a server that does not answer before it tries again.
const RETRY: Duration = Duration::from_millis(20);
/// Whatever takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Clients rest while more prompts wait than this.
const MOST_WAITING: u64 = 300;
/// The longest asset, in repetitions of its number. All are kept: those of an hour must not fill the file system.
const LONGEST_ASSET: u64 = 1_000;
/// How long a client rests between two assets.
const ASSET_PACE: Duration = Duration::from_millis(50);
/// One in so many prompts takes a while.
const HEAVY: u64 = 25;

/// What clients were answered.
#[derive(Default)]
pub(super) struct Ledger {
    /// Accepted prompts that have not been found in the history yet.
    pub(super) open: Mutex<HashSet<String>>,
    pub(super) accepted: AtomicU64,
    /// Prompts that were refused, since the disk was full or the server stopped.
    pub(super) refused: AtomicU64,
    /// Bad input that was refused.
    pub(super) bad: AtomicU64,
    /// Answers that must not be.
    pub(super) faults: Mutex<Vec<String>>,
    /// How long each answer to `GET /queue` took, in microseconds.
    pub(super) latencies: Mutex<Vec<u32>>,
    /// Accepted assets: id and content.
    pub(super) assets: Mutex<Vec<(String, String)>>,
    waiting: AtomicU64,
    pub(super) stop: AtomicBool,
}

impl Ledger {
    /// Keeps the first few things that must not be.
    pub(super) fn fault(&self, fault: String) {
        let mut faults = lock(&self.faults);
        if faults.len() < 10 {
            faults.push(fault);
        }
    }
}

/// A connection that is made anew whenever the last one broke.
pub(super) struct Client {
    host: String,
    connection: Option<Connection>,
}

impl Client {
    pub(super) fn new(host: String) -> Self {
        Self { host, connection: None }
    }

    /// An answer's body; an error that kept the connection is a refusal.
    pub(super) async fn ask(&mut self, path: &str, body: Option<&str>) -> io::Result<Vec<u8>> {
        self.with(async |connection| match body {
            Some(body) => connection.post(path, body).await,
            None => connection.get(path).await,
        })
        .await
    }

    async fn with(&mut self, ask: impl AsyncFnOnce(&mut Connection) -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.host).await?,
        };
        let answer = tokio::time::timeout(PATIENCE, ask(&mut connection)).await.map_err(io::Error::other)?;
        if answer.as_ref().map_or_else(|error| error.kind() == io::ErrorKind::Other, |_| true) {
            self.connection = Some(connection);
        }
        answer
    }
}

/// The id of a client's prompt: a UUID, since servers take no others.
pub(super) fn id(client: &str, n: u64) -> String {
    let mut hasher = DefaultHasher::new();
    client.hash(&mut hasher);
    let hash = format!("{:016x}{n:016x}", hasher.finish());
    [&hash[..8], &hash[8..12], &hash[12..16], &hash[16..20], &hash[20..]].join("-")
}

/// Sends prompts until it is told to stop.
pub(super) async fn submit(host: String, name: String, ledger: Arc<Ledger>) {
    let mut client = Client::new(host);
    for n in 0_u64.. {
        while ledger.waiting.load(Ordering::Relaxed) > MOST_WAITING && !ledger.stop.load(Ordering::Relaxed) {
            tokio::time::sleep(PACE).await;
        }
        if ledger.stop.load(Ordering::Relaxed) {
            return;
        }
        let id = id(&name, n);
        let body = json!({"prompt": graph(n), "prompt_id": id}).to_string();
        match client.ask("/prompt", Some(&body)).await {
            Ok(_answer) => {
                ledger.accepted.fetch_add(1, Ordering::Relaxed);
                lock(&ledger.open).insert(id);
                tokio::time::sleep(PACE).await;
            }
            // It may be accepted or not: nobody was told.
            Err(error) => {
                match status(&error) {
                    Some(503 | 507) => drop(ledger.refused.fetch_add(1, Ordering::Relaxed)),
                    Some(_) => ledger.fault(error.to_string()),
                    None => {}
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Uploads files as assets until it is told to stop.
pub(super) async fn upload(host: String, ledger: Arc<Ledger>) {
    let mut client = Client::new(host);
    for n in 0_u64.. {
        if ledger.stop.load(Ordering::Relaxed) {
            return;
        }
        let content = format!("{n} ").repeat(1 + (n % LONGEST_ASSET) as usize);
        let answer = client.with(async |connection| connection.upload("/api/assets", &format!("{n}.txt"), &content).await).await;
        match answer.map(|body| serde_json::from_slice::<Value>(&body).ok().and_then(|asset| Some(asset["id"].as_str()?.to_owned()))) {
            Ok(Some(id)) => lock(&ledger.assets).push((id, content)),
            Ok(None) => ledger.fault("an upload was answered without an id".into()),
            Err(error) if matches!(status(&error), Some(503 | 507) | None) => tokio::time::sleep(RETRY).await,
            Err(error) => ledger.fault(error.to_string()),
        }
        tokio::time::sleep(ASSET_PACE).await;
    }
}

/// [`control`] on a thread of its own: what other clients do here must not be measured.
pub(super) fn watch(host: String, ledger: Arc<Ledger>) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().spawn(move || runtime.block_on(control(host, ledger)))
}

/// Asks for the queue's figures and the queue in turn until it is told to stop, and notes how long the answers to the latter took, but for
/// the first of each server, which may have to start before it answers.
async fn control(host: String, ledger: Arc<Ledger>) {
    let mut client = Client::new(host);
    while !ledger.stop.load(Ordering::Relaxed) {
        let (began, starts) = (Instant::now(), client.connection.is_none());
        if client.ask("/queue", None).await.is_ok() && !starts {
            lock(&ledger.latencies).push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
        if let Ok(body) = client.ask("/prompt", None).await {
            let waiting = serde_json::from_slice::<Value>(&body).ok().and_then(|body| body["exec_info"]["queue_remaining"].as_u64());
            ledger.waiting.store(waiting.unwrap_or(0), Ordering::Relaxed);
        }
        tokio::time::sleep(CONTROL).await;
    }
}

/// A panic of another task has failed the run already.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A small picture that is saved; now and then a larger one that is worked on for a while.
fn graph(n: u64) -> Value {
    let heavy = n % HEAVY == HEAVY - 1;
    let side = if heavy { 768 } else { 64 };
    let mut graph = json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": side, "height": side, "batch_size": 1, "color": n % 0xff_ffff}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "torture"}},
    });
    if heavy {
        graph["4"] = json!({"class_type": "ImageBlur", "inputs": {"image": ["1", 0], "blur_radius": 31, "sigma": 10.0}});
        graph["2"]["inputs"]["image"] = json!(["4", 0]);
    }
    graph
}

/// The status of an answer that was no success; `None` if there was no answer.
pub(super) fn status(error: &io::Error) -> Option<u16> {
    let text = error.to_string();
    text.split_once("HTTP/1.1 ")?.1.get(..3)?.parse().ok()
}
