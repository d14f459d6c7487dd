//! Bodies, files and texts that ComfyUI's Python reads though they are no JSON, and numbers in texts, on every route that takes some.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use axum::http::StatusCode;
use comfyd_jobs::{Status, contract};
use comfyd_node::{Input, Schema};
use comfyd_wire::json::read;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use support::{Server, picture, safetensors};
use tokio_tungstenite::tungstenite::Message;

fn start(multi_user: bool) -> Server {
    let seed = Input::int("seed").min(0).max(u64::MAX);
    let show = Schema::new("Show").input(seed).input(Input::float("cfg").min(0.0).max(100.0).optional()).output_node();
    Server::new([show], |options, _| options.multi_user = multi_user)
}

async fn post(server: &Server, path: &str, body: &str) -> (StatusCode, Value) {
    let answer = server.post(path, body).await;
    (answer.status, read(&answer.body).unwrap_or_default())
}

/// An answer, which must be what browsers read: JSON by the standard.
async fn get(server: &Server, path: &str) -> Value {
    let answer = server.get(path).await;
    assert_eq!(answer.status, StatusCode::OK, "{path}");
    let strict = serde_json::from_slice::<Box<serde_json::value::RawValue>>(&answer.body);
    assert!(strict.is_ok(), "{path}: {}", String::from_utf8_lossy(&answer.body));
    read(&answer.body).unwrap()
}

/// A prompt with such text for `seed`.
fn seeded(seed: &str) -> String {
    format!(r#"{{"prompt": {{"1": {{"class_type": "Show", "inputs": {{"seed": {seed}}}}}}}}}"#)
}

fn nested(depth: usize) -> String {
    format!("{}0{}", "[".repeat(depth), "]".repeat(depth))
}

#[tokio::test]
async fn what_nobody_reads_refuses_no_prompt() {
    let server = start(false);
    let body = r#"{"prompt": {"1": {"class_type": "Show", "inputs": {"seed": 1, "cfg": NaN}, "is_changed": [NaN], "_meta": {"title": "x\ud83d"}}},
        "extra_data": {"extra_pnginfo": {"workflow": {"id": "w", "x": [NaN, -Infinity, 1e999], "y": "\ude00\ud83d"}}}}"#;
    let (status, answer) = post(&server, "/prompt", body).await;
    assert_eq!((status, &answer["node_errors"]), (StatusCode::OK, &json!({})), "{answer}");
    let queue = get(&server, "/queue").await;
    let (graph, extra) = (&queue["queue_pending"][0][2], &queue["queue_pending"][0][3]);
    assert_eq!(graph["1"]["inputs"], json!({"seed": 1, "cfg": "nan"}));
    assert_eq!((&graph["1"]["is_changed"], &graph["1"]["_meta"]["title"]), (&json!([null]), &json!("x\u{fffd}")));
    assert_eq!(extra["extra_pnginfo"]["workflow"], json!({"id": "w", "x": [null, null, null], "y": "\u{fffd}\u{fffd}"}));
    let id = answer["prompt_id"].as_str().unwrap();
    assert_eq!(get(&server, &format!("/jobs/{id}")).await["workflow"]["extra_data"], *extra);
    assert_eq!(get(&server, "/jobs?workflow_id=w").await["jobs"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_thousand_levels_are_taken_and_given_back() {
    let server = start(false);
    let deep = nested(1_000);
    for status in [Status::Success, Status::Error] {
        let body = format!(
            r#"{{"prompt": {{"1": {{"class_type": "Show", "inputs": {{"seed": 1, "other": {deep}}}, "_meta": {deep}}}}},
                "extra_data": {{"client_id": "c", "extra_pnginfo": {{"workflow": {deep}}}}}}}"#
        );
        let (answered, answer) = post(&server, "/prompt", &body).await;
        assert_eq!(answered, StatusCode::OK, "{answer}");
        let id = answer["prompt_id"].as_str().unwrap();
        get(&server, "/queue").await;
        get(&server, &format!("/jobs/{id}")).await;
        let claim = server.app.store.claim(&contract::worker()).await.unwrap().unwrap();
        server.app.store.finish(&claim.token, &contract::outcome(status)).await.unwrap();
        let entry = get(&server, &format!("/history/{id}")).await[id].take();
        assert_eq!(entry["prompt"][3]["extra_pnginfo"]["workflow"].to_string(), deep);
        let job = get(&server, &format!("/jobs/{id}")).await;
        assert_eq!(job["workflow"]["prompt"]["1"]["_meta"].to_string(), deep);
    }
    get(&server, "/history").await;
    get(&server, "/jobs").await;
    assert_eq!(post(&server, "/settings/Deep", &deep).await.0, StatusCode::OK);
    assert_eq!(get(&server, "/settings/Deep").await.to_string(), deep);
    let (status, answer) = post(&server, "/prompt", &nested(100_000)).await;
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(status == StatusCode::BAD_REQUEST && message.contains("flatten"), "{message}");
}

#[tokio::test]
async fn the_deepest_refusals_fit_a_threads_stack() {
    let server = start(false);
    let deep = nested(1_000);
    for body in [
        format!(r#"{{"prompt": {{"1": {{"class_type": {deep}}}}}}}"#),
        format!(r#"{{"prompt": {{"1": {deep}}}}}"#),
        format!(r#"{{"prompt": {{"1": {{"class_type": "Show", "inputs": {deep}}}}}}}"#),
        format!(r#"{{"prompt": {deep}}}"#),
        format!(r#"{{"prompt": {{}}, "number": {deep}}}"#),
        format!(r#"{{"prompt": {{}}, "prompt_id": {deep}}}"#),
        format!(r#"{{"prompt": {{}}, "partial_execution_targets": {deep}}}"#),
        format!(r#"{{"prompt": {{}}, "extra_data": {deep}}}"#),
        seeded(&format!(r#"{{"__value__": {deep}}}"#)),
        seeded(&format!("[{deep}, {deep}]")),
        seeded(&deep),
    ] {
        let (status, answer) = post(&server, "/prompt", &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{}", &body[..60]);
        assert!(answer["error"]["message"].is_string(), "{}", &body[..60]);
    }
}

#[tokio::test]
async fn seeds_are_exact_to_the_last_bit() {
    let server = start(false);
    for (seed, held) in
        [("18446744073709551615", json!(u64::MAX)), (r#"" 1_000 ""#, json!(1000)), ("9007199254740993", json!(9_007_199_254_740_993_u64))]
    {
        assert_eq!(post(&server, "/prompt", &seeded(seed)).await.0, StatusCode::OK, "{seed}");
        let queue = get(&server, "/queue").await;
        assert_eq!(queue["queue_pending"].as_array().unwrap().last().unwrap()[2]["1"]["inputs"]["seed"], held, "{seed}");
    }
    for (seed, kind) in [
        ("18446744073709551616", "value_bigger_than_max"),
        ("1e30", "value_bigger_than_max"),
        (r#""18446744073709551616""#, "value_bigger_than_max"),
        ("-1", "value_smaller_than_min"),
        ("NaN", "invalid_input_type"),
        ("Infinity", "invalid_input_type"),
        (r#""1e3""#, "invalid_input_type"),
    ] {
        let (status, answer) = post(&server, "/prompt", &seeded(seed)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{seed}");
        assert_eq!(answer["node_errors"]["1"]["errors"][0]["type"], kind, "{seed}");
    }
}

#[tokio::test]
async fn numbers_may_be_texts() {
    let server = start(false);
    for (number, wanted) in [("\" 1_0.5 \"", json!(10.5)), ("\"-٣\"", json!(-3)), ("true", json!(1)), ("1e2", json!(100))] {
        let body = seeded("1").replacen('{', &format!("{{\"number\": {number}, "), 1);
        let (status, answer) = post(&server, "/prompt", &body).await;
        assert_eq!((status, &answer["number"]), (StatusCode::OK, &wanted), "{number}");
    }
    for number in ["\"x\"", "\"nan\"", "\"inf\"", "\"0x1\"", "[1]"] {
        let body = seeded("1").replacen('{', &format!("{{\"number\": {number}, "), 1);
        assert_eq!(post(&server, "/prompt", &body).await.0, StatusCode::BAD_REQUEST, "{number}");
    }
    for query in ["max_items=%201_0%20", "max_items=%D9%A3&offset=%2B1", "max_items=-1", "max_items=99999999999999999999999&offset=007"] {
        get(&server, &format!("/history?{query}")).await;
    }
    get(&server, "/jobs?limit=1_0&offset=-5").await;
    for query in ["history?max_items=", "history?max_items=1.0", "history?offset=0x1", "jobs?limit=1e3", "jobs?offset=x"] {
        assert_eq!(server.get(&format!("/{query}")).await.status, StatusCode::BAD_REQUEST, "{query}");
    }
}

/// What Python reads and JSON does not have, as a member of the body, is no reason to refuse it.
#[tokio::test]
async fn every_body_is_read_leniently() {
    let server = start(true);
    let odd = r#""odd": [NaN, -Infinity, 1e999, 18446744073709551616, "\ud83d"]"#;
    assert_eq!(post(&server, "/users", &format!(r#"{{"username": "a", {odd}}}"#)).await.0, StatusCode::OK);
    let server = start(false);
    for (path, member) in [
        ("/queue", r#""delete": ["x"]"#),
        ("/history", r#""delete": ["x"]"#),
        ("/jobs/cancel", r#""job_ids": ["00000000-0000-4000-8000-000000000000"]"#),
        ("/free", r#""unload_models": true"#),
        ("/interrupt", r#""prompt_id": "x""#),
        ("/settings", r#""a": NaN"#),
        ("/settings/b", r#""a": NaN"#),
    ] {
        let (status, answer) = post(&server, path, &format!("{{{member}, {odd}}}")).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
    }
    assert_eq!(server.device.interrupted.lock().last(), Some(&Some("x".to_owned())), "not everything");
    let held = json!([null, null, null, 18446744073709551616.0, "\u{fffd}"]);
    assert_eq!(get(&server, "/settings").await, json!({"a": null, "odd": held, "b": {"a": null, "odd": held}}));
    let download = format!(r#"{{"url": "http://127.0.0.1/a", "model_directory": "loras", "model_filename": "a.bin", {odd}}}"#);
    assert_ne!(post(&server, "/internal/models/download", &download).await.1["error"]["type"], "invalid_json");
    for broken in ["{'a': 1}", "{\"a\": 1,}", "{\"a\": 01}", "{\"a\": nan}", "{\"a\": \"\t\"}", ""] {
        assert_eq!(post(&server, "/settings", broken).await.0, StatusCode::BAD_REQUEST, "{broken:?}");
    }
}

#[tokio::test]
async fn files_that_python_wrote_are_read() {
    let server = start(true);
    let user = server.dir.path().join("user");
    std::fs::create_dir_all(user.join("a")).unwrap();
    std::fs::write(user.join("users.json"), r#"{"a": "A\ud83d", "default": "d"}"#).unwrap();
    assert_eq!(get(&server, "/users").await["users"]["a"], "A\u{fffd}");
    std::fs::create_dir_all(user.join("default")).unwrap();
    std::fs::write(user.join("default/comfy.settings.json"), r#"{"x": NaN, "y": "\ude00", "z": 1}"#).unwrap();
    assert_eq!(get(&server, "/settings").await, json!({"x": null, "y": "\u{fffd}", "z": 1}));

    server.put("models/loras/a.safetensors", safetensors(r#"{"__metadata__": {"loss": NaN, "title": "\ud83d"}}"#));
    assert_eq!(get(&server, "/view_metadata/loras?filename=a.safetensors").await, json!({"loss": null, "title": "\u{fffd}"}));
}

#[tokio::test]
async fn a_form_field_may_hold_what_python_reads() {
    let server = start(false);
    let upload = async |path: &str, reference: &str| server.upload(path, "a.png", &picture(9), &[("original_ref", reference)]).await.status;
    assert_eq!(upload("/upload/image", "").await, StatusCode::OK);
    let reference = r#"{"filename": "a.png", "type": "input", "x": NaN, "y": "\ud83d"}"#;
    assert_eq!(upload("/upload/mask", reference).await, StatusCode::OK);
    assert_eq!(upload("/upload/mask", "{").await, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_socket_may_send_what_python_reads() {
    let server = start(false);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = server.router.clone();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://{address}/ws?clientId=c")).await.unwrap();
    let flags = r#"{"type": "feature_flags", "data": {"x": NaN, "y": "\ud83d"}}"#;
    socket.send(Message::text(flags)).await.unwrap();
    loop {
        let message = socket.next().await.unwrap().unwrap().into_text().unwrap();
        if serde_json::from_str::<Value>(message.as_str()).unwrap()["type"] == "feature_flags" {
            break;
        }
    }
}
