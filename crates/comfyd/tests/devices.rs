//! Several devices of one host, over real sockets: prompts run at once, each client hears of its own, and what ends one leaves the others.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};
use support::{Server, id, long_workflow};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// A client's socket, and what it was told of prompts so far: the event, the prompt and the node.
struct Client {
    name: &'static str,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    told: Vec<(String, String, Value)>,
}

impl Client {
    async fn connect(server: &Server, name: &'static str) -> Self {
        let url = format!("{}/ws?clientId={name}", server.url.replace("http", "ws"));
        Self { name, socket: connect_async(url).await.unwrap().0, told: Vec::new() }
    }

    /// Sends a prompt that is called so.
    async fn submit(&self, server: &Server, name: &str, prompt: &Value) {
        let (status, answer) = server.post("/prompt", &json!({"prompt": prompt, "prompt_id": id(name), "client_id": self.name})).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// Listens until it is told this of a prompt.
    async fn until(&mut self, event: &str, prompt: &str) {
        loop {
            let message = tokio::time::timeout(Duration::from_secs(120), self.socket.next()).await.expect("an event").unwrap().unwrap();
            let Message::Text(text) = message else { continue };
            let mut told: Value = serde_json::from_str(&text).unwrap();
            let Some(of) = told["data"]["prompt_id"].as_str().map(str::to_owned) else { continue };
            let name = told["type"].as_str().unwrap().to_owned();
            let done = name == event && of == id(prompt);
            self.told.push((name, of, told["data"]["node"].take()));
            if done {
                return;
            }
        }
    }

    /// Which prompts it was told of, but for interruptions, which all hear of.
    fn heard_of(&self) -> Vec<&str> {
        let mut ids: Vec<&str> =
            self.told.iter().filter(|(event, _, _)| event != "execution_interrupted").map(|(_, id, _)| id.as_str()).collect();
        ids.dedup();
        ids
    }
}

async fn running(server: &Server) -> Vec<String> {
    let queue = server.get("/queue").await;
    let mut ids: Vec<String> = queue["queue_running"].as_array().unwrap().iter().map(|item| item[1].as_str().unwrap().to_owned()).collect();
    ids.sort_unstable();
    ids
}

fn short(color: usize) -> Value {
    json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": color}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    })
}

#[tokio::test]
async fn two_prompts_run_at_once_and_each_client_hears_of_its_own() {
    let server = Server::start(&["--device", "cpu,cpu"]).await;
    let stats = server.get("/system_stats").await;
    let devices: Vec<&Value> = stats["devices"].as_array().unwrap().iter().map(|device| &device["type"]).collect();
    assert_eq!(devices, ["cpu", "cpu"]);
    let (mut ann, mut bob) = (Client::connect(&server, "ann").await, Client::connect(&server, "bob").await);
    ann.submit(&server, "a", &long_workflow()).await;
    bob.submit(&server, "b", &long_workflow()).await;
    // Both are at a node, and neither is over: they would not have been told so in any other order on one device.
    ann.until("executing", "a").await;
    bob.until("executing", "b").await;
    let mut both = vec![id("a"), id("b")];
    both.sort_unstable();
    assert_eq!(running(&server).await, both);
    let figures = server.get("/prompt").await["exec_info"].take();
    assert_eq!((&figures["queue_running"], &figures["queue_pending"]), (&json!(2), &json!(0)));
    // What waits begins as soon as either is free: an interruption reaches the device that runs the prompt.
    ann.submit(&server, "c", &short(1)).await;
    assert_eq!(server.post("/interrupt", &json!({"prompt_id": id("b")})).await.0, 200);
    bob.until("execution_interrupted", "b").await;
    ann.until("execution_success", "c").await;
    assert_eq!(running(&server).await, [id("a")], "the other one goes on");
    // Without an id all that run are meant.
    bob.submit(&server, "d", &long_workflow()).await;
    bob.until("executing", "d").await;
    assert_eq!(server.post("/interrupt", &json!({})).await.0, 200);
    ann.until("execution_interrupted", "a").await;
    bob.until("execution_interrupted", "d").await;
    for prompt in ["a", "d"] {
        let entry = server.finished(&id(prompt)).await;
        assert_eq!(entry["status"]["messages"].as_array().unwrap().last().unwrap()[0], "execution_interrupted", "{prompt}");
    }
    assert!(ann.heard_of().iter().all(|of| [id("a"), id("c")].iter().any(|own| own == of)), "{:?}", ann.told);
    assert!(bob.heard_of().iter().all(|of| [id("b"), id("d")].iter().any(|own| own == of)), "{:?}", bob.told);
}

#[tokio::test]
async fn what_ran_on_all_devices_runs_again_after_a_stop_and_after_a_crash() {
    let devices = ["--device", "cpu,cpu,cpu"];
    let server = Server::start(&devices).await;
    let names = ["a", "b", "c", "d"];
    for name in names {
        server.post("/prompt", &json!({"prompt": long_workflow(), "prompt_id": id(name)})).await;
    }
    let all_run = async |server: &Server| {
        let begun = Instant::now();
        while running(server).await.len() < 3 {
            assert!(begun.elapsed() < Duration::from_secs(60), "three devices run three prompts");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    all_run(&server).await;
    let (ended, base) = server.stop("TERM");
    assert!(ended.success());
    let server = Server::start_in(base, &devices).await;
    all_run(&server).await;
    // They ran before: what waited waits still.
    let mut ran = vec![id("a"), id("b"), id("c")];
    ran.sort_unstable();
    assert_eq!(running(&server).await, ran);
    let base = server.kill();
    // With fewer devices than before.
    let server = Server::start_in(base, &["--cpu"]).await;
    let queue = server.get("/queue").await;
    assert_eq!(queue["queue_running"].as_array().unwrap().len() + queue["queue_pending"].as_array().unwrap().len(), 4, "{queue}");
    for name in names {
        server.post("/interrupt", &json!({})).await;
        server.post("/queue", &json!({"delete": [id(name)]})).await;
    }
}

#[tokio::test]
async fn devices_that_are_no_devices_are_refused_with_words() {
    let base = tempfile::tempdir().unwrap();
    for (devices, why) in [("cpu,gpu", "`gpu` is no device"), ("cuda:1,cuda:1", "named twice")] {
        let (ended, said) = support::run_in_shell(r#""$@""#, &["serve", "--device", devices], base.path());
        assert!(!ended.success() && said.contains(why), "{said}");
    }
}
