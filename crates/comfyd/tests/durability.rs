//! What was accepted survives the process: queue and history after `kill -9`, and the queue after SIGTERM.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::{Value, json};
use support::Server;

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
