//! Two servers whose files are in one store: what one takes in the other serves, at once and as it is now.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::http::StatusCode;
use comfyd_folders::contract::MemoryFiles;
use comfyd_folders::shared::Copies;
use comfyd_node::{FileSource, Input, Schema};
use serde_json::json;
use support::{Server, picture};

fn two() -> (Arc<MemoryFiles>, Server, Server) {
    let store = Arc::new(MemoryFiles::default());
    let server = || {
        let load = Schema::new("Load").input(Input::files("image", FileSource::InputFiles(vec![".png".into()]))).output_node();
        let server = Server::new([load], |_, _| ());
        let folders = &server.app.folders;
        folders.share(Copies::new(store.clone(), folders.roots(), u64::MAX));
        server
    };
    let (one, other) = (server(), server());
    (store, one, other)
}

async fn uploaded(server: &Server, name: &str, bytes: &[u8], fields: &[(&str, &str)]) -> String {
    let answer = server.upload("/upload/image", name, bytes, fields).await;
    assert_eq!(answer.status, StatusCode::OK, "{:?}", String::from_utf8_lossy(&answer.body));
    answer.json()["name"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_upload_is_served_by_every_server_with_ranges_and_one_validator() {
    let (_, one, other) = two();
    let bytes = picture(255);
    assert_eq!(uploaded(&one, "a.png", &bytes, &[]).await, "a.png");
    let path = "/view?filename=a.png&type=input";
    let (here, there) = (one.get(path).await, other.get(path).await);
    assert_eq!((here.status, &here.body, &there.body), (StatusCode::OK, &bytes, &bytes));
    assert!(
        !here.header("etag").is_empty() && here.header("etag") == there.header("etag"),
        "{} {}",
        here.header("etag"),
        there.header("etag")
    );
    let part = other.send("GET", path, &[("range", "bytes=1-3"), ("if-range", here.header("etag"))], "").await;
    assert_eq!(
        (part.status, part.body.as_slice(), part.header("content-range")),
        (StatusCode::PARTIAL_CONTENT, &b"PNG"[..], format!("bytes 1-3/{}", bytes.len()).as_str())
    );
    assert_eq!(other.send("GET", path, &[("if-none-match", here.header("etag"))], "").await.status, StatusCode::NOT_MODIFIED);
    let preview = other.get(&format!("{path}&preview=webp;50")).await;
    assert_eq!((preview.status, preview.header("content-type")), (StatusCode::OK, "image/webp"));
    // Written over elsewhere, it is another file at once, whatever its size.
    let changed = bytes.iter().rev().copied().collect::<Vec<_>>();
    assert_eq!(uploaded(&other, "a.png", &changed, &[("overwrite", "true")]).await, "a.png");
    let now = one.send("GET", path, &[("if-none-match", here.header("etag"))], "").await;
    assert_eq!((now.status, now.body), (StatusCode::OK, changed));
    assert_eq!(other.get("/view?filename=none.png&type=input").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn names_are_given_once_and_a_prompt_may_name_what_another_server_took_in_a_moment_ago() {
    let (_, one, other) = two();
    assert_eq!(uploaded(&one, "a.png", b"1", &[]).await, "a.png");
    assert_eq!(uploaded(&other, "a.png", b"1", &[]).await, "a.png", "the same bytes");
    assert_eq!(uploaded(&other, "a.png", b"2", &[]).await, "a (1).png");
    assert_eq!(uploaded(&one, "a.png", b"2", &[]).await, "a (1).png");
    let prompt = |name: &str| json!({"prompt": {"1": {"class_type": "Load", "inputs": {"image": name}}}});
    // It lists the folder first, so that what it knows is old.
    assert_eq!(other.get("/object_info/Load").await.status, StatusCode::OK);
    uploaded(&one, "new.png", b"3", &[]).await;
    assert_eq!(other.post("/prompt", prompt("new.png")).await.status, StatusCode::OK);
    assert_eq!(other.post("/prompt", prompt("none.png")).await.status, StatusCode::BAD_REQUEST);
    let listed = other.get("/internal/files/input").await.json();
    assert_eq!(listed.as_array().unwrap().len(), 3, "{listed}");
}

#[tokio::test]
async fn a_mask_belongs_to_a_picture_that_another_server_took_in() {
    let (_, one, other) = two();
    uploaded(&one, "a.png", &picture(255), &[]).await;
    let original = json!({"filename": "a.png", "type": "input", "subfolder": ""}).to_string();
    let answer = other.upload("/upload/mask", "mask.png", &picture(7), &[("original_ref", &original), ("type", "input")]).await;
    assert_eq!(answer.status, StatusCode::OK, "{:?}", String::from_utf8_lossy(&answer.body));
    let masked = one.get("/view?filename=mask.png&type=input&channel=rgba").await;
    assert_eq!(masked.status, StatusCode::OK);
}

#[tokio::test]
async fn what_is_kept_for_users_is_everywhere() {
    let (_, one, other) = two();
    let write = "/userdata/workflows%2Fdeep%2Fa.json";
    assert_eq!(one.post(write, r#"{"a": 1}"#).await.status, StatusCode::OK);
    assert_eq!(other.get(write).await.json(), json!({"a": 1}));
    assert_eq!(other.post(&format!("{write}?overwrite=false"), "{}").await.status, StatusCode::CONFLICT);
    assert_eq!(other.get("/userdata?dir=workflows&recurse=true").await.json(), json!(["deep/a.json"]));
    assert_eq!(other.get("/userdata?dir=workflows").await.json(), json!([]));
    let listed = other.get("/v2/userdata?path=workflows").await.json();
    let entries: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["path"].as_str().unwrap(), entry["type"].as_str().unwrap(), entry["size"].as_u64()))
        .collect();
    assert_eq!(entries, [("workflows/deep", "directory", None), ("workflows/deep/a.json", "file", Some(8))]);
    assert_eq!(other.get("/v2/userdata?path=workflows/none").await.status, StatusCode::NOT_FOUND);
    assert_eq!(other.get("/v2/userdata?path=workflows/deep/a.json").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(other.post(&format!("{write}/move/workflows%2Fb.json"), "").await.status, StatusCode::OK);
    assert_eq!(one.get(write).await.status, StatusCode::NOT_FOUND);
    assert_eq!(one.get("/userdata/workflows%2Fb.json").await.json(), json!({"a": 1}));
    assert_eq!(one.send("DELETE", "/userdata/workflows%2Fb.json", &[], "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(other.get("/userdata/workflows%2Fb.json").await.status, StatusCode::NOT_FOUND);
    assert_eq!(other.send("DELETE", "/userdata/workflows%2Fb.json", &[], "").await.status, StatusCode::NOT_FOUND);
    // Settings that both change are both there.
    assert_eq!(one.post("/settings/Comfy.One", "1").await.status, StatusCode::OK);
    assert_eq!(other.post("/settings/Comfy.Two", "2").await.status, StatusCode::OK);
    for server in [&one, &other] {
        let settings = server.get("/settings").await.json();
        assert_eq!((&settings["Comfy.One"], &settings["Comfy.Two"]), (&json!(1), &json!(2)), "{settings}");
        assert_eq!(server.get("/users").await.json()["migrated"], true);
    }
}

#[tokio::test]
async fn where_the_store_is_away_it_is_said() {
    let (store, one, _) = two();
    uploaded(&one, "a.png", b"1", &[]).await;
    store.away.store(true, Ordering::Relaxed);
    for answer in [
        one.get("/view?filename=a.png&type=input").await,
        one.upload("/upload/image", "b.png", b"2", &[]).await,
        one.get("/userdata?dir=workflows").await,
        one.get("/settings").await,
        one.post("/settings/a", "1").await,
        one.post("/userdata/a.json", "1").await,
        one.send("DELETE", "/userdata/a.json", &[], "").await,
    ] {
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status, &error["type"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("files_unavailable")), "{error}");
        assert!(error["message"].as_str().unwrap().contains("try again"), "{error}");
    }
    store.away.store(false, Ordering::Relaxed);
    assert_eq!(one.get("/view?filename=a.png&type=input").await.body, b"1");
}
