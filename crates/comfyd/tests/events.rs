//! What clients are told and when, over real sockets: nothing of a prompt before the answer to its request, what was missed to who comes
//! late, and no secret to anybody.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use support::{Server, id};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

fn workflow(color: usize) -> Value {
    json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": color}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    })
}

/// Sends a request and leaves the answer in the socket.
fn send(server: &Server, body: &Value) -> TcpStream {
    let address = server.url.strip_prefix("http://").unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    let body = body.to_string();
    write!(socket, "POST /prompt HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    socket
}

/// The next event of a prompt: its name and data.
async fn next(socket: &mut (impl StreamExt<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin)) -> (String, Value) {
    loop {
        let message = tokio::time::timeout(Duration::from_secs(30), socket.next()).await.expect("an event").unwrap().unwrap();
        let Message::Text(text) = message else { continue };
        let mut event: Value = serde_json::from_str(&text).unwrap();
        if event["data"].get("prompt_id").is_some() {
            return (event["type"].as_str().unwrap().to_owned(), event["data"].take());
        }
    }
}

/// Whether it is a prompt's last event.
fn ends((name, data): &(String, Value)) -> bool {
    name == "executing" && data["node"].is_null()
}

#[tokio::test]
async fn no_event_comes_before_the_answer() {
    let server = Server::start(&[]).await;
    let url = format!("{}/ws?clientId=me", server.url.replace("http", "ws"));
    let (mut events, _) = connect_async(url).await.unwrap();
    for n in 0..300 {
        let id = id(&format!("p{n}"));
        let mut request = send(&server, &json!({"prompt": workflow(n), "prompt_id": id, "client_id": "me"}));
        let (name, data) = next(&mut events).await;
        assert_eq!((name.as_str(), &data["prompt_id"]), ("execution_start", &json!(id)));
        // The event is here: so must the answer be, unread as it is.
        request.set_nonblocking(true).unwrap();
        let mut answer = [0; 1024];
        match request.read(&mut answer) {
            Ok(length) => assert!(answer[..length].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..length])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("prompt {n} began before its request was answered"),
            Err(error) => panic!("{error}"),
        }
        while !ends(&next(&mut events).await) {}
    }
}

#[tokio::test]
async fn who_comes_late_is_told_what_happened() {
    let server = Server::start(&[]).await;
    let (status, answer) = server.post("/prompt", &json!({"prompt": workflow(1), "client_id": "late"})).await;
    assert_eq!(status, 200, "{answer}");
    server.finished(answer["prompt_id"].as_str().unwrap()).await;
    let url = format!("{}/ws?clientId=late", server.url.replace("http", "ws"));
    let (mut events, _) = connect_async(&url).await.unwrap();
    let mut told = Vec::new();
    loop {
        let event = next(&mut events).await;
        assert_eq!(event.1["prompt_id"], answer["prompt_id"]);
        let last = ends(&event);
        told.push(event.0);
        if last {
            break;
        }
    }
    let wanted = ["execution_start", "execution_cached", "executing", "executing", "executed", "execution_success", "executing"];
    assert_eq!(told, wanted);
    // Once.
    drop(events);
    let (mut events, _) = connect_async(&url).await.unwrap();
    let first = events.next().await.unwrap().unwrap().into_text().unwrap();
    assert!(first.contains("\"sid\":\"late\""), "{first}");
    assert!(tokio::time::timeout(Duration::from_millis(300), next(&mut events)).await.is_err(), "told twice");
}

#[tokio::test]
async fn who_comes_again_after_a_crash_is_told_what_it_failed() {
    let server = Server::start(&["--on-restart", "fail"]).await;
    let url = |server: &Server| format!("{}/ws?clientId=me", server.url.replace("http", "ws"));
    let (mut events, _) = connect_async(url(&server)).await.unwrap();
    server.post("/prompt", &json!({"prompt": support::long_workflow(), "prompt_id": id("p"), "client_id": "me"})).await;
    assert_eq!(next(&mut events).await.0, "execution_start");
    let server = Server::start_in(server.kill(), &["--on-restart", "fail"]).await;
    let (mut events, _) = connect_async(url(&server)).await.unwrap();
    let (name, data) = next(&mut events).await;
    assert_eq!((name.as_str(), &data["exception_type"], &data["prompt_id"]), ("execution_error", &json!("ServerStopped"), &json!(id("p"))));
    assert!(ends(&next(&mut events).await));
    // Another restart did not end it.
    let server = Server::start_in(server.kill(), &["--on-restart", "fail"]).await;
    let (mut events, _) = connect_async(url(&server)).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(300), next(&mut events)).await.is_err(), "told again");
}

#[tokio::test]
async fn what_ran_is_counted() {
    let server = Server::start(&[]).await;
    for _ in 0..2 {
        let (_, answer) = server.post("/prompt", &json!({"prompt": workflow(1)})).await;
        server.finished(answer["prompt_id"].as_str().unwrap()).await;
    }
    let text = reqwest::get(format!("{}/metrics", server.url)).await.unwrap().text().await.unwrap();
    for line in [
        "comfyd_prompt_seconds_count{status=\"success\"} 2",
        "comfyd_node_seconds_count{class=\"EmptyImage\",device=\"0\"} 1",
        "comfyd_cached_nodes_total 2",
        "comfyd_queue_prompts{state=\"pending\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn results_come_with_their_metadata_to_clients_that_take_it() {
    let server = Server::start(&[]).await;
    let (mut events, _) = connect_async(format!("{}/ws?clientId=me", server.url.replace("http", "ws"))).await.unwrap();
    let flags = json!({"type": "feature_flags", "data": {"supports_preview_metadata": true}});
    events.send(Message::text(flags.to_string())).await.unwrap();
    while !events.next().await.unwrap().unwrap().to_text().unwrap_or_default().contains("feature_flags") {}
    let mut graph = workflow(1);
    graph["2"] = json!({"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}});
    server.post("/prompt", &json!({"prompt": graph, "prompt_id": id("p"), "client_id": "me"})).await;
    let frame = loop {
        if let Message::Binary(frame) = events.next().await.unwrap().unwrap() {
            break frame;
        }
    };
    let number = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!(number(0), 4);
    let (metadata, picture) = frame[8..].split_at(number(4));
    let metadata: Value = serde_json::from_slice(metadata).unwrap();
    assert_eq!(
        (&metadata["image_type"], &metadata["node_id"], &metadata["prompt_id"]),
        (&json!("image/png"), &json!("2"), &json!(id("p")))
    );
    assert!(picture.starts_with(b"\x89PNG"));
}

#[tokio::test]
async fn secrets_are_nowhere_but_in_memory() {
    let server = Server::start(&["--secret-name", "my_token", "--verbose", "DEBUG"]).await;
    let mut graph = workflow(1);
    graph["1"]["_meta"] = json!({"authTokenComfyOrg": "S3CRET"});
    let inputs = json!({"images": ["1", 0], "filename_prefix": "s", "API-key-comfy-org": "S3CRET"});
    graph["2"] = json!({"class_type": "SaveImage", "inputs": inputs});
    std::fs::write(server.base.path().join("input/broken.latent"), "no latent").unwrap();
    graph["3"] = json!({"class_type": "LoadLatent", "inputs": {"latent": "broken.latent"}});
    graph["4"] = json!({"class_type": "SaveLatent", "inputs": {"samples": ["3", 0], "filename_prefix": "l"}});
    let extra = json!({
        "api_key_comfy_org": "S3CRET", "auth_token_comfy_org": {"deep": "S3CRET"}, "my_token": "S3CRET",
        "extra_pnginfo": {"workflow": {"nodes": [], "api_key_comfy_org": "S3CRET"}, "my_token": "S3CRET"},
    });
    let mut seen = String::new();
    for (prompt, fails) in [(json!({"1": graph["1"], "2": graph["2"]}), false), (graph, true)] {
        let (status, answer) = server.post("/prompt", &json!({"prompt": prompt, "extra_data": extra})).await;
        assert_eq!(status, 200, "{answer}");
        let id = answer["prompt_id"].as_str().unwrap().to_owned();
        let entry = server.finished(&id).await;
        assert_eq!(entry["status"]["completed"], json!(!fails), "{entry}");
        seen += &format!("{answer}{entry}");
        for path in ["/queue", "/history", "/jobs", &format!("/api/jobs/{id}"), "/internal/logs", "/internal/logs/raw"] {
            seen += &server.get(path).await.to_string();
        }
    }
    assert!(seen.contains("nodes"), "the workflow is there: {seen}");
    assert!(!seen.contains("S3CRET"), "{seen}");
    let found = |base: &std::path::Path| {
        let mut folders = vec![base.to_owned()];
        let mut found = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if std::fs::read(&path).unwrap().windows(6).any(|window| window == b"S3CRET") {
                    found.push(path);
                }
            }
        }
        found
    };
    assert_eq!(found(server.base.path()), Vec::<std::path::PathBuf>::new(), "while it runs");
    let base = server.kill();
    assert_eq!(found(base.path()), Vec::<std::path::PathBuf>::new(), "after a kill");
}
