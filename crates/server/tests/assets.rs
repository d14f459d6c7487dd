//! Assets over HTTP: uploads, who gets to see and change what, bounds, and that all is off unless it is wanted.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;
use std::sync::Arc;

use axum::http::StatusCode;
use comfyd_server::keys::{KeyFile, Keys, Scope};
use comfyd_server::{Options, Quotas};
use serde_json::{Value, json};
use support::{Answer, Server, assets, picture};

fn start() -> Server {
    Server::new([], |options, dir| options.assets = Some(assets(dir)))
}

/// A part of a form: its name, that of a file, its content.
type Part<'a> = (&'a str, Option<&'a str>, &'a [u8]);

fn field<'a>(name: &'a str, text: &'a str) -> Part<'a> {
    (name, None, text.as_bytes())
}

fn file<'a>(name: &'a str, bytes: &'a [u8]) -> Part<'a> {
    ("file", Some(name), bytes)
}

async fn send(server: &Server, headers: &[(&str, &str)], parts: &[Part<'_>]) -> Answer {
    let mut body = Vec::new();
    for (name, file, bytes) in parts {
        let file = file.map_or_else(String::new, |file| format!("; filename=\"{file}\""));
        body.extend(format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").bytes());
        body.extend(*bytes);
        body.extend(b"\r\n");
    }
    body.extend(b"--b--\r\n");
    let headers = [&[("content-type", "multipart/form-data; boundary=b")][..], headers].concat();
    server.send("POST", "/api/assets", &headers, body).await
}

/// Uploads a file with tags.
async fn upload(server: &Server, headers: &[(&str, &str)], name: &str, bytes: &[u8], tags: &str) -> Answer {
    send(server, headers, &[field("tags", tags), file(name, bytes)]).await
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status.as_u16(), answer.json()["error"]["code"].as_str().unwrap().to_owned())
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn without_the_option_all_are_off() {
    let server = Server::new([], |_, _| ());
    let id = "00000000-0000-0000-0000-000000000000";
    for (method, path) in [
        ("GET", "/api/assets".to_owned()),
        ("POST", "/api/assets".to_owned()),
        ("POST", "/api/assets/from-hash".to_owned()),
        ("GET", "/api/assets/tags/refine".to_owned()),
        ("POST", "/api/assets/seed".to_owned()),
        ("GET", "/api/assets/seed/status".to_owned()),
        ("POST", "/api/assets/prune".to_owned()),
        ("GET", format!("/api/assets/{id}")),
        ("PUT", format!("/api/assets/{id}")),
        ("DELETE", format!("/api/assets/{id}/tags")),
        ("GET", "/api/tags".to_owned()),
    ] {
        assert_eq!(code(&server.send(method, &path, &[], "").await), (503, "SERVICE_DISABLED".into()), "{method} {path}");
    }
    assert_eq!(server.get("/features").await.json()["assets"], false);
    assert_eq!(server.upload("/upload/image", "a.png", &picture(1), &[]).await.json().get("asset"), None);
    assert_eq!(server.get("/assets").await.status, StatusCode::NOT_FOUND, "that is the front end's");
}

#[tokio::test]
async fn an_upload_is_an_asset_and_is_shown_by_its_hash() {
    let server = start();
    assert_eq!(server.get("/features").await.json()["assets"], true);
    let sent = picture(100);
    let answer = upload(&server, &[], "a.png", &sent, r#"["input", "label"]"#).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    let asset = answer.json();
    let hash = format!("blake3:{}", blake3::hash(&sent).to_hex());
    let stored = format!("{}.png", &hash["blake3:".len()..]);
    assert_eq!((asset["hash"].as_str(), asset["asset_hash"].as_str()), (Some(&*hash), Some(&*hash)));
    assert_eq!(
        (&asset["tags"], &asset["created_new"], &asset["name"]),
        (&json!(["input", "label", "uploaded"]), &json!(true), &json!("a.png"))
    );
    assert_eq!((asset["loader_path"].as_str(), asset["display_name"].as_str()), (Some(&*stored), Some(&*stored)));
    assert_eq!((&asset["metadata"]["width"], &asset["metadata"]["height"]), (&json!(6), &json!(4)));
    assert_eq!(files(&server.dir.path().join("input")), [stored]);
    for path in [asset["preview_url"].as_str().unwrap().to_owned(), format!("/view?filename={hash}")] {
        let view = server.get(&path).await;
        assert_eq!((view.status, view.header("content-type")), (StatusCode::OK, "image/png"), "{path}");
        assert_eq!(view.body, sent);
    }
    assert_eq!(server.get(&format!("/view?filename=blake3:{}", "0".repeat(64))).await.status, StatusCode::NOT_FOUND);
    let content = format!("/api/assets/{}/content", asset["id"].as_str().unwrap());
    for (query, wanted) in [("", "attachment"), ("?disposition=inline", "inline"), ("?disposition=x", "attachment")] {
        let answer = server.get(&format!("{content}{query}")).await;
        assert!(answer.header("content-disposition").starts_with(wanted) && answer.body == sent, "{query}");
    }
    let part = server.send("GET", &content, &[("range", "bytes=0-3")], "").await;
    assert_eq!((part.status, &part.body[..]), (StatusCode::PARTIAL_CONTENT, &sent[..4]));
    let again = upload(&server, &[], "b.png", &sent, "no-role").await;
    assert_eq!((again.status, &again.json()["created_new"]), (StatusCode::OK, &json!(false)));
    let image = server.upload("/upload/image", "p.png", &picture(7), &[("subfolder", "pasted")]).await.json();
    assert_eq!(image["asset"]["tags"], json!(["input", "pasted", "uploaded"]));
    assert_eq!(image["asset"]["asset_hash"], format!("blake3:{}", blake3::hash(&picture(7)).to_hex()));
}

#[tokio::test]
async fn what_cannot_be_taken_says_why_and_leaves_nothing() {
    let server = start();
    let hash = format!("blake3:{}", "0".repeat(64));
    let (whole, tags) = (file("a.bin", b"bytes"), field("tags", "input"));
    let (long, longer) = ("x".repeat(600), " ".repeat(70_000));
    for (parts, wanted) in [
        (vec![tags], "MISSING_FILE"),
        (vec![tags, file("a.bin", b"")], "EMPTY_UPLOAD"),
        (vec![tags, field("hash", &hash), whole], "HASH_MISMATCH"),
        (vec![tags, field("hash", "md5:00"), whole], "INVALID_HASH"),
        (vec![tags, field("id", "mine"), whole], "UNSUPPORTED_FIELD"),
        (vec![tags, field("user_metadata", "[1]"), whole], "INVALID_BODY"),
        (vec![tags, field("mime_type", "a\tb"), whole], "INVALID_BODY"),
        (vec![field("tags", "input,output"), whole], "INVALID_BODY"),
        (vec![field("tags", "models"), whole], "INVALID_BODY"),
        (vec![tags, field("name", &long), whole], "INVALID_BODY"),
        (vec![tags, field("user_metadata", &longer), whole], "INVALID_BODY"),
    ] {
        assert_eq!(code(&send(&server, &[], &parts).await), (400, wanted.into()));
        assert!(files(&server.dir.path().join("input")).is_empty(), "{wanted}");
    }
    assert_eq!(code(&server.post("/api/assets", "{}").await), (415, "UNSUPPORTED_MEDIA_TYPE".into()));
    for (path, wanted) in [
        ("/api/assets?limit=501", "INVALID_QUERY"),
        ("/api/assets?limit=x", "INVALID_QUERY"),
        ("/api/assets?offset=-1", "INVALID_QUERY"),
        ("/api/assets?sort=owner", "INVALID_QUERY"),
        ("/api/assets?order=up", "INVALID_QUERY"),
        ("/api/assets?metadata_filter=[1]", "INVALID_QUERY"),
        ("/api/assets?after=x", "INVALID_CURSOR"),
        ("/api/assets?after=x&sort=last_access_time", "INVALID_CURSOR"),
        ("/api/assets?tags_all=a&include_tags=b", "INVALID_TAG_FILTER"),
        ("/api/assets/tags/refine?tags_all=a&tags_none=a", "INVALID_TAG_FILTER"),
        ("/api/tags?limit=1001", "INVALID_QUERY"),
        ("/api/tags?include_zero=maybe", "INVALID_QUERY"),
    ] {
        assert_eq!(code(&server.get(path).await), (400, wanted.into()), "{path}");
    }
    let many: Vec<String> = (0..65).map(|key| format!("\"{key}\":1")).collect();
    let filter = format!("/api/assets?metadata_filter={{{}}}", many.join(",")).replace('"', "%22");
    assert_eq!(code(&server.get(&filter.replace('{', "%7B").replace('}', "%7D")).await), (400, "INVALID_QUERY".into()));
    assert_eq!(server.get("/api/assets/not-a-uuid").await.status, StatusCode::NOT_FOUND);
    assert_eq!(server.get("/api/assets?limit=x&shape=documented").await.json()["node_errors"], json!([]));
}

struct Keyed {
    server: Server,
    keys: Vec<String>,
}

impl Keyed {
    fn new(change: impl FnOnce(&mut Options)) -> Self {
        let mut keys = Vec::new();
        let server = Server::new([], |options, dir| {
            let file = KeyFile::of(&dir.join("user"));
            for (name, scope) in [("boss", Scope::Admin), ("ann", Scope::Run), ("bob", Scope::Run), ("guest", Scope::Read)] {
                keys.push(file.add(name, scope, None).unwrap().1);
            }
            options.keys = Arc::new(Keys::open(file, false).unwrap());
            options.assets = Some(assets(dir));
            change(options);
        });
        Self { server, keys }
    }

    fn header(&self, who: usize) -> [(&str, &str); 1] {
        [("x-api-key", &self.keys[who])]
    }

    async fn ask(&self, who: usize, method: &str, path: &str, body: &str) -> Answer {
        self.server.send(method, path, &self.header(who), body.to_owned()).await
    }
}

const BOSS: usize = 0;
const ANN: usize = 1;
const BOB: usize = 2;
const GUEST: usize = 3;

#[tokio::test]
async fn each_user_has_his_own_assets() {
    let server = Keyed::new(|_| ());
    let hers = upload(&server.server, &server.header(ANN), "a.txt", b"hers", "input,secret-label").await;
    assert_eq!(hers.status, StatusCode::CREATED);
    let asset = hers.json();
    let digits = blake3::hash(b"hers").to_hex();
    assert_eq!(asset["display_name"], format!("users/ann/{digits}.txt"));
    let id = asset["id"].as_str().unwrap();
    let view = asset["preview_url"].as_str().unwrap();
    assert_eq!(server.ask(ANN, "GET", view, "").await.body, b"hers");
    let one = format!("/api/assets/{id}");
    let tagged = format!("{one}/tags");
    for (method, path, body) in [
        ("GET", one.clone(), ""),
        ("GET", format!("{one}/content"), ""),
        ("PUT", one.clone(), r#"{"name": "his"}"#),
        ("DELETE", one.clone(), ""),
        ("POST", tagged.clone(), r#"{"tags": ["x"]}"#),
        ("DELETE", tagged.clone(), r#"{"tags": ["input"]}"#),
        ("HEAD", format!("/api/assets/hash/blake3:{digits}"), ""),
        ("GET", format!("/view?filename=blake3:{digits}"), ""),
        ("POST", "/api/assets/from-hash".to_owned(), &*format!(r#"{{"hash": "blake3:{digits}"}}"#)),
    ] {
        assert_eq!(server.ask(BOB, method, &path, body).await.status, StatusCode::NOT_FOUND, "{method} {path}");
    }
    let listed = async |who| server.ask(who, "GET", "/api/assets", "").await.json()["total"].clone();
    assert_eq!((listed(ANN).await, listed(BOB).await, listed(BOSS).await), (json!(1), json!(0), json!(1)));
    let tags = async |who| server.ask(who, "GET", "/api/tags", "").await.json().to_string();
    assert!(tags(ANN).await.contains("secret-label") && !tags(BOB).await.contains("secret-label"));
    // The same bytes are his own where he has them.
    let his = upload(&server.server, &server.header(BOB), "b.txt", b"hers", "input").await;
    assert_eq!((his.status, &his.json()["display_name"]), (StatusCode::CREATED, &json!(format!("users/bob/{digits}.txt"))));
    assert_eq!(server.ask(ANN, "DELETE", &one, "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(server.ask(BOB, "GET", &format!("/view?filename=blake3:{digits}"), "").await.body, b"hers");
}

#[tokio::test]
async fn models_are_an_administrators_and_guests_look_only() {
    let server = Keyed::new(|_| ());
    let model = async |who| upload(&server.server, &server.header(who), "m.safetensors", b"weights", "models,model_type:loras").await;
    assert_eq!(code(&model(ANN).await), (403, "FORBIDDEN".into()));
    assert_eq!(upload(&server.server, &server.header(GUEST), "a", b"a", "input").await.status, StatusCode::FORBIDDEN);
    assert!(files(&server.server.dir.path().join("models/loras")).is_empty());
    let asset = model(BOSS).await.json();
    let one = format!("/api/assets/{}", asset["id"].as_str().unwrap());
    assert_eq!(server.ask(ANN, "GET", &one, "").await.json()["tags"], json!(["model_type:loras", "models", "uploaded"]));
    assert_eq!(code(&server.ask(ANN, "PUT", &one, r#"{"name": "mine"}"#).await), (403, "FORBIDDEN".into()));
    assert_eq!(server.ask(BOSS, "PUT", &one, r#"{"name": "ours"}"#).await.json()["name"], "ours");
    for path in ["/api/assets/prune", "/api/assets/seed/cancel"] {
        assert_eq!(server.ask(ANN, "POST", path, "").await.status, StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn a_users_space_holds_for_assets_too() {
    let server = Keyed::new(|options| options.quotas = Quotas { disk_bytes: Some(10), ..Quotas::default() });
    assert_eq!(upload(&server.server, &server.header(ANN), "a", b"12345678", "input").await.status, StatusCode::CREATED);
    assert_eq!(code(&upload(&server.server, &server.header(ANN), "b", b"123456789", "input").await), (507, "DISK_QUOTA".into()));
    assert_eq!(files(&server.server.dir.path().join("input/users/ann")).len(), 1);
    assert_eq!(upload(&server.server, &server.header(BOB), "b", b"123456789", "input").await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn users_without_keys_see_their_own_and_what_is_nobodys() {
    let server = Server::new([], |options, dir| (options.multi_user, options.assets) = (true, Some(assets(dir))));
    let hers = upload(&server, &[("comfy-user", "ann")], "a.txt", b"hers", "input").await.json();
    let one = format!("/api/assets/{}", hers["id"].as_str().unwrap());
    assert_eq!(server.send("GET", &one, &[("comfy-user", "ann")], "").await.status, StatusCode::OK);
    assert_eq!(server.send("GET", &one, &[("comfy-user", "bob")], "").await.status, StatusCode::NOT_FOUND);
    server.upload("/upload/image", "p.png", &picture(1), &[]).await;
    let listed: Value = server.send("GET", "/api/assets", &[("comfy-user", "bob")], "").await.json();
    assert_eq!((&listed["total"], &listed["assets"][0]["name"]), (&json!(1), &json!("p.png")));
}

#[tokio::test]
async fn a_scan_is_asked_for_and_told_of() {
    let server = start();
    server.put("input/found.txt", "found");
    let seeded = loop {
        let answer = server.post("/api/assets/seed?wait=true", r#"{"roots": ["input", "elsewhere"]}"#).await;
        if answer.status != StatusCode::CONFLICT {
            break answer.json();
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    };
    assert_eq!((&seeded["status"], &seeded["errors"]), (&json!("completed"), &json!([])));
    let found = server.get("/api/assets?name_contains=FOUND").await.json();
    assert_eq!((&found["total"], &found["assets"][0]["tags"]), (&json!(1), &json!(["input"])));
    assert_eq!(found["assets"][0].get("hash"), None);
    assert_eq!(server.get("/api/assets/seed/status").await.json()["state"], "idle");
    assert_eq!(code(&server.post("/api/assets/seed", r#"{"roots": ["elsewhere"]}"#).await), (400, "INVALID_BODY".into()));
    assert_eq!(server.post("/api/assets/prune", "").await.json(), json!({"status": "completed", "marked": 0}));
}
