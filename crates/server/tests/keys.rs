//! Whom keys let in, and that no user gets to see, hear of or change what is another's.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use comfyd_jobs::Status;
use comfyd_jobs::contract::{outcome, worker};
use comfyd_node::{Input, Schema};
use comfyd_server::keys::{KeyFile, Keys, Scope};
use comfyd_server::{Audit, Options, Quotas};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use support::{Answer, Idle, Server, picture};

const PAGE: (&str, &str) = ("accept", "text/html,*/*");

struct Keyed {
    server: Server,
    admin: String,
    ann: String,
    bob: String,
    guest: String,
}

impl Keyed {
    fn new(change: impl FnOnce(&mut Options)) -> Self {
        Self::with_device(Idle::default(), change)
    }

    fn with_device(device: Idle, change: impl FnOnce(&mut Options)) -> Self {
        let mut tokens = Vec::new();
        let show = Schema::new("Show").input(Input::text("value")).output_node();
        let sized = ["width", "height", "batch_size"].into_iter().fold(Schema::new("Sized"), |schema, name| schema.input(Input::int(name)));
        let server = Server::with_device(device, [show, sized.output_node()], |options, dir| {
            let file = KeyFile::of(&dir.join("user"));
            for (name, scope) in [("boss", Scope::Admin), ("ann", Scope::Run), ("bob", Scope::Run), ("guest", Scope::Read)] {
                tokens.push(file.add(name, scope, None).unwrap().1);
            }
            options.keys = Arc::new(Keys::open(file, false).unwrap());
            options.audit = Some(Arc::new(Audit::start(dir.join("user")).unwrap()));
            change(options);
        });
        let [admin, ann, bob, guest] = tokens.try_into().unwrap();
        Self { server, admin, ann, bob, guest }
    }

    async fn send(&self, key: &str, method: &str, path: &str, body: impl ToString) -> Answer {
        self.server.send(method, path, &[("x-api-key", key)], body.to_string()).await
    }

    async fn get(&self, key: &str, path: &str) -> Value {
        let answer = self.send(key, "GET", path, "").await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", String::from_utf8_lossy(&answer.body));
        answer.json()
    }

    async fn status(&self, key: &str, method: &str, path: &str, body: impl ToString) -> u16 {
        self.send(key, method, path, body).await.status.as_u16()
    }

    async fn submit(&self, key: &str, id: &str) -> u16 {
        let prompt = json!({"prompt_id": id, "prompt": {"1": {"class_type": "Show", "inputs": {"value": id}}}});
        self.status(key, "POST", "/prompt", prompt).await
    }
}

fn ids(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|item| item[1].as_str().or(item["id"].as_str()).unwrap()).collect()
}

#[tokio::test]
async fn no_route_is_open_and_each_wants_its_scope() {
    let server = Keyed::new(|_| ());
    let document = server.get(&server.guest, "/openapi.json").await;
    assert_eq!(document["components"]["securitySchemes"].as_object().unwrap().len(), 4);
    let mut seen = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let method = method.to_uppercase();
            // One part of the path each, and none that is there.
            let path: String =
                path.split('/').map(|part| if part.starts_with('{') { "nothing" } else { part }).collect::<Vec<_>>().join("/");
            let wanted = operation["x-permission"].as_str().unwrap();
            let prefixed = if path.starts_with("/api/") { path.clone() } else { format!("/api{path}") };
            for path in [path.clone(), prefixed] {
                for key in ["", "wrong", &server.ann.to_uppercase()] {
                    let headers = if key.is_empty() { vec![] } else { vec![("x-api-key", key)] };
                    let status = server.server.send(&method, &path, &headers, "{}").await.status.as_u16();
                    let refused = matches!(status, 401 | 429);
                    assert_eq!(refused, wanted != "anybody", "{method} {path} with {key:?}: {status}");
                }
                let allowed = |scope| match wanted {
                    "anybody" | "read" => true,
                    "run" => scope >= Scope::Run,
                    "admin" => scope >= Scope::Admin,
                    other => panic!("{other}"),
                };
                for (key, scope) in [(&server.guest, Scope::Read), (&server.ann, Scope::Run)].into_iter().filter(|(_, s)| !allowed(*s)) {
                    let answer = server.send(key, &method, &path, "{}").await;
                    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path} with {scope}");
                    assert!(answer.json()["error"]["message"].as_str().unwrap().contains(wanted), "{method} {path}");
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 90, "{seen}");
    for (method, path) in [("GET", "/nothing"), ("GET", "/scripts/app.js"), ("HEAD", "/queue"), ("DELETE", "/queue"), ("POST", "/%71ueue")]
    {
        assert_eq!(server.server.send(method, path, &[], "").await.status.as_u16(), 401, "{method} {path}");
    }
    assert_eq!(server.server.get("/assets/manifest-a_B9.json").await.status.as_u16(), 404, "browsers show no cookie with it");
    assert_eq!(server.server.get("/assets/manifest-a/../x.json").await.status.as_u16(), 401);
    assert_eq!(server.server.send("OPTIONS", "/queue", &[], "").await.status.as_u16(), 200);
}

#[tokio::test]
async fn keys_are_shown_in_headers_cookies_and_the_first_address() {
    let server = Keyed::new(|_| ());
    let key = server.ann.as_str();
    let bearer = format!("Bearer {key}");
    let cookie = format!("a=b; comfyd_key_8188={key}");
    for header in [("authorization", bearer.as_str()), ("x-api-key", key), ("cookie", cookie.as_str())] {
        let answer = server.server.send("GET", "/queue", &[("host", "localhost:8188"), header], "").await;
        assert_eq!(answer.status, StatusCode::OK, "{header:?}");
    }
    // Addresses are kept in too many places.
    assert_eq!(server.server.get(&format!("/queue?token={key}")).await.status.as_u16(), 401);
    let first = server.server.send("GET", &format!("//evil.example/?a=1&token={key}&b=2"), &[PAGE], "").await;
    assert_eq!((first.status.as_u16(), first.header("location")), (303, "/evil.example/?a=1&b=2"));
    let first = server.server.send("GET", &format!("/?token={key}"), &[PAGE, ("host", "localhost:8188")], "").await;
    assert_eq!((first.status.as_u16(), first.header("location"), first.header("referrer-policy")), (303, "/", "same-origin"));
    let set = first.header("set-cookie");
    assert!(set.starts_with(&format!("comfyd_key_8188={key}; Path=/; HttpOnly; SameSite=Strict; Max-Age=")), "{set}");
    assert!(!set.contains("Secure"));
    let secure = Keyed::new(|options| options.tls = true);
    let first = secure.server.send("GET", &format!("/?token={}", secure.ann), &[PAGE], "").await;
    assert!(first.header("set-cookie").ends_with("; Secure"));
}

#[tokio::test]
async fn who_shows_none_is_told_how_and_a_browser_can_log_in() {
    let server = Keyed::new(|_| ());
    let refused = server.server.get("/queue").await;
    assert_eq!((refused.status.as_u16(), refused.header("www-authenticate")), (401, "Bearer realm=\"comfyd\""));
    let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("/login") && message.contains("X-API-Key") && message.contains("comfyd key add"), "{message}");
    for path in ["/", "/login", "/any/page"] {
        let page = server.server.send("GET", path, &[PAGE], "").await;
        assert_eq!(page.status.as_u16(), if path == "/login" { 200 } else { 401 }, "{path}");
        let policy = page.header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(String::from_utf8(page.body).unwrap().contains("<form method=\"post\""), "{path}");
    }
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let wrong = server.server.send("POST", "/login", &form, "key=wrong").await;
    assert_eq!((wrong.status.as_u16(), wrong.header("set-cookie")), (401, ""));
    let logged_in = server.server.send("POST", "/login", &form, format!("key=+{}", server.ann)).await;
    assert_eq!((logged_in.status.as_u16(), logged_in.header("location")), (303, "./"));
    let cookie = logged_in.header("set-cookie").split(';').next().unwrap().to_owned();
    assert_eq!(server.server.send("GET", "/queue", &[("cookie", &cookie)], "").await.status.as_u16(), 200);
    let page = server.server.send("GET", "/login", &[PAGE, ("cookie", &cookie)], "").await;
    assert!(String::from_utf8(page.body).unwrap().contains("You are ann"));
    // What a stranger may send is a form, however it is packed.
    let long = server.server.send("POST", "/login", &form, format!("key={}", "a".repeat(70_000))).await;
    assert_eq!(long.status.as_u16(), 413);
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(&[b"key=".as_slice(), &vec![b'a'; 10 << 20]].concat()).unwrap();
    let packed = server.server.send("POST", "/login", &[form[0], ("content-encoding", "gzip")], packed.finish().unwrap()).await;
    assert_eq!(packed.status.as_u16(), 413);
    let out = server.server.send("POST", "/login", &[form[0], ("cookie", &cookie)], "key=").await;
    assert!(out.header("set-cookie").contains("comfyd_key=; ") && out.header("set-cookie").contains("Max-Age=0"));
}

/// Prompts of two users.
const A0: &str = "00000000-0000-4000-8000-0000000000a0";
const A1: &str = "00000000-0000-4000-8000-0000000000a1";
const B0: &str = "00000000-0000-4000-8000-0000000000b0";
const B1: &str = "00000000-0000-4000-8000-0000000000b1";
const B2: &str = "00000000-0000-4000-8000-0000000000b2";

#[tokio::test]
async fn where_folders_are_on_the_machine_is_told_to_administrators() {
    let server = Keyed::new(|options| options.argv = ["serve", "of/somebody"].map(str::to_owned).to_vec());
    let vae = server.get(&server.admin, "/internal/folder_paths").await["vae"][0].as_str().unwrap().to_owned();
    assert!(std::path::Path::new(&vae).is_absolute() && vae.ends_with("vae"), "{vae}");
    let arguments = async |key: &str| server.get(key, "/system_stats").await["system"]["argv"].clone();
    assert_eq!((arguments(&server.admin).await, arguments(&server.guest).await), (json!(["serve", "of/somebody"]), json!(["comfyd"])));
    // The front end asks for them with every workflow that names a model.
    for key in [&server.guest, &server.ann] {
        assert_eq!(server.get(key, "/internal/folder_paths").await["vae"], json!(["models/vae"]));
    }
}

#[tokio::test]
async fn each_user_sees_and_changes_only_what_is_his() {
    let server = Keyed::with_device(Idle { runs: Some(B1), ..Idle::default() }, |_| ());
    for (key, id) in [(&server.bob, B0), (&server.ann, A0), (&server.bob, B1), (&server.ann, A1), (&server.bob, B2)] {
        assert_eq!(server.submit(key, id).await, 200);
    }
    // The first two end, the third runs.
    let store = &server.server.app.store;
    for _ in 0..2 {
        let claim = store.claim(&worker()).await.unwrap().unwrap();
        store.finish(&claim.token, &outcome(Status::Success)).await.unwrap();
    }
    assert_eq!(store.claim(&worker()).await.unwrap().unwrap().job.id, B1);
    let (ann, bob, admin) = (&server.ann, &server.bob, &server.admin);
    for (key, running, pending, ended) in
        [(ann, vec![], vec![A1], vec![A0]), (bob, vec![B1], vec![B2], vec![B0]), (admin, vec![B1], vec![A1, B2], vec![B0, A0])]
    {
        let queue = server.get(key, "/queue").await;
        assert_eq!((ids(&queue["queue_running"]), ids(&queue["queue_pending"])), (running.clone(), pending.clone()));
        let figures = server.get(key, "/prompt").await;
        assert_eq!(figures["exec_info"]["queue_remaining"], running.len() + pending.len());
        assert_eq!(figures["exec_info"]["running_prompt_id"], running.first().map_or(Value::Null, |id| json!(id)));
        let documented = server.get(key, "/queue?shape=documented").await;
        assert_eq!(documented, json!({"queue_running": running.len(), "queue_pending": pending.len()}));
        let history = server.get(key, "/history").await;
        assert_eq!(history.as_object().unwrap().keys().collect::<Vec<_>>(), ended);
        let mut jobs: Vec<String> = ids(&server.get(key, "/jobs").await["jobs"]).into_iter().map(str::to_owned).collect();
        jobs.sort();
        let mut all = [running, pending, ended].concat();
        all.sort();
        assert_eq!(jobs, all);
    }
    // Others' are as if they were not there.
    assert_eq!(server.get(ann, &format!("/history/{B0}")).await, json!({}));
    for id in [B0, B1, B2] {
        assert_eq!(server.status(ann, "GET", &format!("/jobs/{id}"), "").await, 404, "{id}");
        assert_eq!(server.send(ann, "POST", &format!("/jobs/{id}/cancel"), "").await.json(), json!({"cancelled": false}), "{id}");
    }
    let ok = |status| assert_eq!(status, 200);
    ok(server.status(ann, "POST", "/history", json!({"delete": [B0]})).await);
    ok(server.status(ann, "POST", "/history", json!({"clear": true})).await);
    ok(server.status(ann, "POST", "/queue", json!({"delete": [B2]})).await);
    ok(server.status(ann, "POST", "/queue", json!({"clear": true})).await);
    ok(server.status(ann, "POST", "/jobs/cancel", json!({"job_ids": [B1, B2]})).await);
    ok(server.status(ann, "POST", "/interrupt", json!({"prompt_id": B1})).await);
    ok(server.status(ann, "POST", "/interrupt", "").await);
    assert!(server.server.device.interrupted.lock().is_empty());
    let queue = server.get(admin, "/queue").await;
    assert_eq!((ids(&queue["queue_running"]), ids(&queue["queue_pending"])), (vec![B1], vec![B2]));
    assert_eq!(server.get(admin, "/history").await.as_object().unwrap().keys().collect::<Vec<_>>(), [B0]);
    ok(server.status(bob, "POST", "/interrupt", "").await);
    ok(server.status(bob, "POST", &format!("/jobs/{B1}/cancel"), "").await);
    assert_eq!(*server.server.device.interrupted.lock(), [Some(B1.to_owned()), Some(B1.to_owned())]);
    ok(server.status(bob, "POST", "/history", json!({"delete": [B0]})).await);
    ok(server.status(admin, "POST", "/queue", json!({"clear": true})).await);
    assert_eq!(server.get(bob, "/jobs").await["pagination"]["total"], 1);
}

#[tokio::test]
async fn each_user_has_his_own_files() {
    let server = Keyed::new(|options| options.quotas = Quotas { disk_bytes: Some(4096), ..Quotas::default() });
    let upload = async |key: &str, name: &str, bytes: &[u8], subfolder: &str| {
        let mut body = format!("--b\r\nContent-Disposition: form-data; name=\"subfolder\"\r\n\r\n{subfolder}\r\n").into_bytes();
        body.extend(format!("--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"{name}\"\r\n\r\n").bytes());
        body.extend([bytes, b"\r\n--b--\r\n"].concat());
        let headers = [("x-api-key", key), ("content-type", "multipart/form-data; boundary=b")];
        server.server.send("POST", "/upload/image", &headers, body).await
    };
    let (anns, bobs) = (picture(1), picture(2));
    server.server.put("input/shared.png", picture(3));
    server.server.put("output/users/bob/made.png", &bobs);
    server.server.put("output/old.png", &bobs);
    let told = upload(&server.ann, "a.png", &anns, "").await.json();
    assert_eq!(told, json!({"name": "a.png", "subfolder": "users/ann", "type": "input"}));
    assert_eq!(upload(&server.bob, "a.png", &bobs, "deep").await.json()["subfolder"], "users/bob/deep");
    assert_eq!(upload(&server.bob, "a.png", &bobs, "").await.json()["name"], "a.png");
    assert_eq!(upload(&server.ann, "a.png", &anns, "users/ann").await.json()["subfolder"], "users/ann", "told again");
    assert_eq!(upload(&server.ann, "b.png", &anns, "users/bob").await.status.as_u16(), 400);
    let view = async |key: &str, name: &str, subfolder: &str, kind: &str| {
        let answer = server.send(key, "GET", &format!("/view?filename={name}&subfolder={subfolder}&type={kind}"), "").await;
        (answer.status.as_u16(), answer.body)
    };
    for (key, bytes) in [(&server.ann, &anns), (&server.bob, &bobs)] {
        assert_eq!(view(key, "a.png", "", "input").await, (200, bytes.clone()));
        assert_eq!(view(key, "shared.png", "", "input").await, (200, picture(3)));
        assert_eq!(view(key, "old.png", "", "output").await.0, 404, "from before there were keys");
    }
    for (name, subfolder, kind) in [
        ("a.png", "users/bob", "input"),
        ("a.png", "users/ann/../bob", "input"),
        ("a.png", "x/../users/bob", "input"),
        ("users/bob/a.png", "", "input"),
        ("made.png", "users/bob", "output"),
        ("made.png%20[output]", "users/bob", "temp"),
    ] {
        let (status, body) = view(&server.ann, name, subfolder, kind).await;
        assert!((400..500).contains(&status) || body == anns, "{name} {subfolder}: {status}");
    }
    assert_eq!(view(&server.admin, "made.png", "users/bob", "output").await, (200, bobs.clone()));
    assert_eq!(view(&server.bob, "made.png", "", "output").await, (200, bobs.clone()));
    assert_eq!(server.get(&server.bob, "/internal/files/output").await, json!(["made.png [output]"]));
    assert_eq!(server.get(&server.ann, "/internal/files/output").await, json!([]));
    // Settings and workflows too.
    assert_eq!(server.status(&server.ann, "POST", "/settings", json!({"a": 1})).await, 200);
    assert_eq!(server.get(&server.ann, "/settings").await, json!({"a": 1}));
    assert_eq!(server.get(&server.bob, "/settings").await, json!({}));
    assert_eq!(server.status(&server.ann, "POST", "/userdata/w.json", "{}").await, 200);
    assert_eq!(server.status(&server.bob, "GET", "/userdata/w.json", "").await, 404);
    // And there is a bound.
    let full = upload(&server.ann, "big.bin", &[0; 4096], "").await;
    assert_eq!((full.status.as_u16(), full.json()["error"]["type"].as_str()), (507, Some("disk_quota")));
    assert_eq!(server.status(&server.ann, "POST", "/userdata/big", "x".repeat(4096)).await, 507);
    for (path, body) in [("/settings", json!({"b": "x".repeat(4096)})), ("/settings/b", json!("x".repeat(4096)))] {
        assert_eq!(server.status(&server.ann, "POST", path, body).await, 507, "{path}");
    }
    assert_eq!(upload(&server.bob, "small.bin", &[0; 64], "").await.status.as_u16(), 200);
}

#[tokio::test]
async fn prompts_of_a_user_are_bounded() {
    let quotas = Quotas { prompts_per_minute: Some(3), prompt_pixels: Some(1000), ..Quotas::default() };
    let server = Keyed::new(|options| options.quotas = quotas);
    for id in ["1", "2", "3"] {
        assert_eq!(server.submit(&server.ann, &support::id(id)).await, 200);
    }
    assert_eq!((server.submit(&server.ann, &support::id("4")).await, server.submit(&server.bob, &support::id("5")).await), (429, 200));
    for batch in [json!(1), json!(true), json!("1")] {
        let inputs = json!({"value": "", "width": 100, "height": "100", "batch_size": batch});
        let large = json!({"prompt": {"1": {"class_type": "Sized", "inputs": inputs}}});
        let refused = server.send(&server.bob, "POST", "/prompt", large).await;
        assert_eq!((refused.status.as_u16(), refused.json()["error"]["type"].as_str()), (403, Some("pixel_quota")));
    }
}

#[tokio::test]
async fn what_is_changed_is_written_down() {
    let server = Keyed::new(|_| ());
    let mine = support::id("mine");
    assert_eq!(server.submit(&server.ann, &mine).await, 200);
    assert_eq!(server.status(&server.ann, "POST", "/queue", json!({"delete": [mine]})).await, 200);
    assert_eq!(server.status(&server.guest, "POST", "/queue", json!({"clear": true})).await, 403);
    let path = server.server.dir.path().join("user/audit.jsonl");
    let records = loop {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(!text.contains(&server.ann));
        let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        if records.len() >= 2 {
            break records;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let told = |record: &Value| json!([record["user"], record["action"], record["what"], record["status"]]);
    assert_eq!(told(&records[0]), json!(["ann", "POST /prompt", [mine], 200]));
    assert_eq!(told(&records[1]), json!(["ann", "POST /queue", [mine], 200]));
}

#[tokio::test]
async fn without_keys_nobody_is_asked() {
    let server = Server::new([], |options, dir| {
        options.keys = Arc::new(Keys::open(KeyFile::of(&dir.join("user")), false).unwrap());
    });
    assert_eq!(server.get("/queue").await.status.as_u16(), 200);
    assert!(String::from_utf8(server.get("/login").await.body).unwrap().contains("asks for no key"));
    assert!(!server.dir.path().join("user/audit.jsonl").exists());
    // Beyond this machine it is never open by accident.
    let server = Server::new([], |options, dir| {
        options.keys = Arc::new(Keys::open(KeyFile::of(&dir.join("user")), true).unwrap());
    });
    assert_eq!(server.get("/queue").await.status.as_u16(), 401);
}

#[tokio::test]
async fn whether_it_lives_is_told_without_a_key_and_figures_to_administrators() {
    let keyed = Keyed::new(|_| ());
    for path in ["/health", "/ready"] {
        assert_eq!(keyed.server.send("GET", path, &[], "").await.status, StatusCode::OK);
    }
    assert_eq!(keyed.server.send("GET", "/metrics", &[], "").await.status, StatusCode::UNAUTHORIZED);
    let who = [(&keyed.guest, 403), (&keyed.ann, 403), (&keyed.admin, 200)];
    for (key, status) in who {
        assert_eq!(keyed.status(key, "GET", "/metrics", "").await, status);
    }
}
