//! The list of jobs over queue and history, through the router.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;

use axum::http::StatusCode;
use comfyd_jobs::{JobStore, NewJob, Outcome, Position, Secrets, Status, contract};
use comfyd_node::Schema;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use support::{Idle, Server, id};

async fn enqueue(store: &dyn JobStore, id: &str, workflow: &str) {
    let extra = json!({"client_id": "c", "extra_pnginfo": {"workflow": {"id": workflow, "nodes": []}}});
    let job = NewJob {
        id: id.into(),
        position: Position::Back,
        owner: Arc::default(),
        client_id: Some("c".into()),
        workflow_id: Some(workflow.into()),
        prompt: Arc::from(to_raw_value(&json!({"1": {"class_type": "A", "inputs": {}}})).unwrap()),
        extra_data: Arc::from(to_raw_value(&extra).unwrap()),
        secrets: Secrets::default(),
        outputs: vec!["1".into()],
        created_ms: comfyd_jobs::now_ms(),
        needs: Default::default(),
    };
    store.enqueue(job).await.unwrap();
}

async fn finish(store: &dyn JobStore, id: &str, status: Status, took_ms: i64) {
    let claim = store.claim(&contract::worker()).await.unwrap().unwrap();
    let outcome = Outcome {
        status,
        outputs: json!({"1": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}}),
        ..Outcome::failed(id, "RuntimeError", "broke", 1000, 1000 + took_ms)
    };
    store.finish(&claim.token, &outcome).await.unwrap();
}

/// Three ended jobs, one that runs and one that waits.
async fn server() -> Server {
    let server = Server::with_device(Idle { runs: Some("running"), ..Idle::default() }, [], |_, _| ());
    let store = &*server.app.store;
    for (id, status, took_ms) in [("good", Status::Success, 30), ("bad", Status::Error, 10), ("stopped", Status::Interrupted, 20)] {
        enqueue(store, id, id).await;
        finish(store, id, status, took_ms).await;
    }
    enqueue(store, "running", "w").await;
    store.claim(&contract::worker()).await.unwrap().unwrap();
    enqueue(store, "waiting", "w").await;
    server
}

async fn ask(server: &Server, method: &str, path: &str, body: &'static str) -> (StatusCode, Value) {
    let answer = server.send(method, path, &[], body).await;
    (answer.status, answer.json())
}

async fn ids(server: &Server, query: &str) -> Vec<String> {
    let (status, list) = ask(server, "GET", &format!("/api/jobs?{query}"), "").await;
    assert_eq!(status, StatusCode::OK, "{list}");
    let jobs = list["jobs"].as_array().unwrap();
    jobs.iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn jobs_are_filtered_and_paged() {
    let server = server().await;
    assert_eq!(ids(&server, "status=completed,failed,cancelled").await, ["stopped", "bad", "good"]);
    assert_eq!(ids(&server, "status=completed,failed,cancelled&sort_order=asc&limit=2&offset=1").await, ["bad", "stopped"]);
    assert_eq!(ids(&server, "status=failed").await, ["bad"]);
    assert_eq!(ids(&server, "workflow_id=good").await, ["good"]);
    assert_eq!(ids(&server, "status=completed,failed,cancelled&sort_by=execution_duration").await, ["good", "stopped", "bad"]);
    assert_eq!(ids(&server, "status=pending").await, ["waiting"]);
    assert_eq!(ids(&server, "limit=2&offset=3").await, ["bad", "good"]);
    let (_, list) = ask(&server, "GET", "/jobs?limit=2&offset=1", "").await;
    assert_eq!(list["pagination"], json!({"offset": 1, "limit": 2, "total": 5, "has_more": true}));
    for sorting in ["sort_order=asc", "sort_order=desc", "sort_by=execution_duration", "sort_order=asc&workflow_id=w"] {
        let all = ids(&server, sorting).await;
        for (offset, limit) in (0..7).flat_map(|offset| (1..7).map(move |limit| (offset, limit))) {
            let page: Vec<String> = all.iter().skip(offset).take(limit).cloned().collect();
            assert_eq!(ids(&server, &format!("{sorting}&offset={offset}&limit={limit}")).await, page, "{sorting}: {offset}, {limit}");
        }
    }
    for query in ["status=done", "limit=0", "sort_by=size", "sort_order=up", "offset=x"] {
        assert_eq!(ask(&server, "GET", &format!("/jobs?{query}"), "").await.0, StatusCode::BAD_REQUEST, "{query}");
    }
}

#[tokio::test]
async fn a_job_tells_how_it_ended_and_what_it_made() {
    let server = server().await;
    let (_, good) = ask(&server, "GET", "/api/jobs/good", "").await;
    assert_eq!((&good["status"], &good["workflow_id"], &good["outputs_count"]), (&json!("completed"), &json!("good"), &json!(1)));
    assert_eq!((&good["preview_output"]["nodeId"], &good["previewable_outputs_count"]), (&json!("1"), &json!(1)));
    assert_eq!(good["execution_end_time"], 1030);
    assert_eq!(good["workflow"]["prompt"]["1"]["class_type"], "A");
    assert_eq!(good["outputs"]["1"]["images"][0]["filename"], "a.png");
    let (_, bad) = ask(&server, "GET", "/jobs/bad", "").await;
    assert_eq!(bad["execution_error"]["exception_message"], "broke");
    assert_eq!(ask(&server, "GET", "/jobs/running", "").await.1["status"], "in_progress");
    assert_eq!(ask(&server, "GET", "/jobs/none", "").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn jobs_are_cancelled_wherever_they_are() {
    let server = server().await;
    let (yes, no) = ((StatusCode::OK, json!({"cancelled": true})), (StatusCode::OK, json!({"cancelled": false})));
    for (job, answer) in [("waiting", &yes), ("running", &yes), ("waiting", &no), ("good", &no), ("none", &no)] {
        assert_eq!(ask(&server, "POST", &format!("/api/jobs/{job}/cancel"), "").await, *answer, "{job}");
    }
    assert_eq!(ids(&server, "status=pending").await, Vec::<String>::new());
    assert_eq!(server.device.interrupted.lock().first(), Some(&Some("running".to_owned())));
    let cancel = async |ids: Value| {
        let answer = server.post("/api/jobs/cancel", json!({"job_ids": ids})).await;
        (answer.status, answer.json())
    };
    let (first, second, none) = (id("first"), id("second"), id("none"));
    for waiting in [&first, &second] {
        enqueue(&*server.app.store, waiting, "w").await;
    }
    assert_eq!(cancel(json!([first, none, second])).await, yes);
    assert_eq!(ids(&server, "status=pending").await, Vec::<String>::new());
    for nothing in [json!([first, none]), json!([])] {
        assert_eq!(cancel(nothing).await, no);
    }
    for (wrong, invalid) in [(json!([none, {}, "not-a-uuid", 5, none.to_uppercase()]), json!([{}, "not-a-uuid", 5, none.to_uppercase()]))] {
        let (status, answer) = cancel(wrong).await;
        assert_eq!((status, &answer["invalid_ids"]), (StatusCode::BAD_REQUEST, &invalid));
    }
    for body in ["{}", r#"{"job_ids": "x"}"#, "[]", "no json"] {
        assert_eq!(ask(&server, "POST", "/jobs/cancel", body).await.0, StatusCode::BAD_REQUEST, "{body}");
    }
}

#[tokio::test]
async fn a_job_belongs_to_whoever_asked_where_users_are_told_apart() {
    for (several, owner) in [(true, "u"), (false, "")] {
        let server = Server::new([Schema::new("Show").output_node()], |options, _| options.multi_user = several);
        let body = r#"{"prompt": {"1": {"class_type": "Show", "inputs": {}}}}"#;
        assert_eq!(server.send("POST", "/prompt", &[("comfy-user", "u")], body).await.status, StatusCode::OK);
        assert_eq!(&*server.app.store.queue().await.unwrap().pending[0].owner, owner);
    }
}

#[tokio::test]
async fn the_devices_are_those_that_prompts_run_on() {
    let stats = server().await.get("/system_stats").await.json();
    let [device] = stats["devices"].as_array().unwrap().as_slice() else { panic!("{stats}") };
    assert_eq!((&device["name"], &device["type"], &device["index"]), (&json!("cpu"), &json!("cpu"), &Value::Null));
    assert_eq!((&device["vram_total"], &device["vram_free"], &device["models_bytes"]), (&json!(1 << 30), &json!(1 << 29), &json!(0)));
}
