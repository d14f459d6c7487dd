//! What was accepted survives the process: queue and history after `kill -9`, and the queue after SIGTERM.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use futures_util::StreamExt;
use serde_json::{Value, json};
use support::Server;
use tokio_tungstenite::tungstenite::Message;

fn workflow(color: u32) -> Value {
    json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": color}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "d"}},
    })
}

#[tokio::test]
async fn prompts_and_history_survive_a_kill() {
    let server = Server::start(&[]).await;
    let mut ids = Vec::new();
    for color in 0..40 {
        let (status, answer) = server.post("/prompt", &json!({"prompt": workflow(color), "extra_data": {"mine": color}})).await;
        assert_eq!(status, 200, "{answer}");
        ids.push(answer["prompt_id"].as_str().unwrap().to_owned());
    }
    let server = Server::start_in(server.kill(), &[]).await;
    for (color, id) in ids.iter().enumerate() {
        let entry = server.finished(id).await;
        assert_eq!(entry["status"]["status_str"], "success");
        assert_eq!(entry["prompt"][3]["mine"], json!(color));
    }
    let history = server.get("/history").await;
    assert_eq!(history.as_object().unwrap().len(), ids.len());
    // A known id is refused, also after a restart.
    let (status, answer) = server.post("/prompt", &json!({"prompt": workflow(1), "prompt_id": ids[0]})).await;
    assert_eq!((status, &answer["error"]["type"]), (409, &json!("duplicate_prompt_id")));
}

/// A prompt that takes a while: blurs of a large picture.
fn long_workflow() -> Value {
    let mut graph = json!({"0": {"class_type": "EmptyImage", "inputs": {"width": 2048, "height": 2048, "batch_size": 1, "color": 7}}});
    for n in 1..40 {
        graph[n.to_string()] =
            json!({"class_type": "ImageBlur", "inputs": {"image": [(n - 1).to_string(), 0], "blur_radius": 31, "sigma": 10.0}});
    }
    graph["40"] = json!({"class_type": "PreviewImage", "inputs": {"images": ["39", 0]}});
    graph
}

#[cfg(unix)]
#[tokio::test]
async fn a_signal_puts_the_running_prompt_back() {
    for signal in ["TERM", "INT"] {
        let server = Server::start(&[]).await;
        server.post("/prompt", &json!({"prompt": long_workflow(), "prompt_id": "long"})).await;
        server.post("/prompt", &json!({"prompt": workflow(1), "prompt_id": "short"})).await;
        while server.get("/queue?shape=documented").await["queue_running"] != 1 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let (ended, base) = server.stop(signal);
        assert!(ended.success(), "{signal}: {ended}");
        let server = Server::start_in(base, &[]).await;
        let queue = server.get("/queue").await;
        let ids: Vec<&Value> =
            ["queue_running", "queue_pending"].iter().flat_map(|list| queue[list].as_array().unwrap()).map(|item| &item[1]).collect();
        assert_eq!(ids, ["long", "short"], "{signal}");
        server.post("/interrupt", &json!({})).await;
        assert_eq!(server.finished("short").await["status"]["status_str"], "success");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn whoever_got_an_answer_can_stop_the_server() {
    for n in 0..8 {
        // A start that is answered as early as can be.
        let (ended, _) = Server::start(&[]).await.stop(["TERM", "INT"][n % 2]);
        assert!(ended.success(), "{ended}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn clients_are_told_that_the_server_stops() {
    let server = Server::start(&[]).await;
    let mut sockets = Vec::new();
    for n in 0..20 {
        let url = format!("{}/ws?clientId=c{n}", server.url.replace("http", "ws"));
        sockets.push(tokio_tungstenite::connect_async(url).await.unwrap().0);
    }
    let (ended, _) = tokio::task::spawn_blocking(|| server.stop("TERM")).await.unwrap();
    assert!(ended.success(), "{ended}");
    for mut socket in sockets {
        let mut last = None;
        while let Some(Ok(message)) = socket.next().await {
            last = Some(message);
        }
        let Some(Message::Close(Some(frame))) = last else { panic!("no reason was given: {last:?}") };
        assert_eq!((u16::from(frame.code), frame.reason.as_str()), (1001, "the server stops"));
    }
}

#[tokio::test]
async fn history_is_paged_and_bounded() {
    let server = Server::start(&["--history-limit", "5"]).await;
    let mut ids = Vec::new();
    for color in 0..8 {
        let (_, answer) = server.post("/prompt", &json!({"prompt": workflow(color)})).await;
        ids.push(answer["prompt_id"].as_str().unwrap().to_owned());
        server.finished(ids.last().unwrap()).await;
    }
    let keys = |history: &Value| history.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&server.get("/history").await), ids[3..]);
    assert_eq!(keys(&server.get("/history?max_items=2").await), ids[6..]);
    assert_eq!(keys(&server.get("/history?max_items=2&offset=1").await), ids[4..6]);
    let documented = server.get("/history?shape=documented").await;
    assert_eq!(documented.as_array().unwrap().len(), 5);
    assert_eq!(documented[0]["prompt_id"], json!(ids[3]));
    assert_eq!(server.get("/queue?shape=documented").await, json!({"queue_running": 0, "queue_pending": 0}));
    server.post("/history", &json!({"clear": true})).await;
    assert_eq!(server.get("/history").await, json!({}));
}
