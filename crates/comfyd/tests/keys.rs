//! Two users of one server, with the real program: each sees his own queue, history, pictures and events; keys that are revoked or end shut
//! out at once; beyond loopback nothing is open by accident.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};
use support::{Server, id};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

/// What `comfyd key` prints.
fn key(base: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_comfyd")).arg("key").args(arguments).arg("--base-directory").arg(base).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn ask(server: &Server, key: &str, method: &str, path: &str, body: Value) -> (u16, Vec<u8>) {
    let url = format!("{}{path}", server.url);
    let request = reqwest::Client::new().request(method.parse().unwrap(), url).bearer_auth(key).json(&body);
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.bytes().await.unwrap().to_vec())
}

async fn get(server: &Server, key: &str, path: &str) -> Value {
    let (status, body) = ask(server, key, "GET", path, Value::Null).await;
    assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

async fn connect(server: &Server, key: &str, client: &str) -> Result<Socket, Error> {
    let url = format!("{}/ws?clientId={client}&token={key}", server.url.replace("http", "ws"));
    connect_async(url).await.map(|(socket, _)| socket)
}

/// What a socket is told until the prompt of this id is over, or until it is silent.
async fn told(socket: &mut Socket, until: &str) -> Vec<Value> {
    let mut told = Vec::new();
    let silence = if until.is_empty() { Duration::from_millis(300) } else { Duration::from_secs(30) };
    while let Ok(Some(Ok(message))) = tokio::time::timeout(silence, socket.next()).await {
        let Message::Text(text) = message else { continue };
        let event: Value = serde_json::from_str(&text).unwrap();
        let over = event["type"] == "executing" && event["data"]["node"].is_null() && event["data"]["prompt_id"] == until;
        told.push(event);
        if over {
            break;
        }
    }
    told
}

async fn history(server: &Server, key: &str, id: &str) -> Value {
    let start = Instant::now();
    loop {
        let mut history = get(server, key, &format!("/history/{id}")).await;
        if history.get(id).is_some() {
            return history[id].take();
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{id} did not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn workflow(color: u32) -> Value {
    json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": color}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "ComfyUI"}},
    })
}

#[tokio::test]
async fn two_users_each_see_their_own() {
    let base = tempfile::tempdir().unwrap();
    let (ann, bob) = (key(base.path(), &["add", "ann"]), key(base.path(), &["add", "bob"]));
    let boss = key(base.path(), &["add", "boss", "--scope", "admin"]);
    let server = Server::start_in(base, &[]).await;
    // They call their clients the same.
    let (mut of_ann, mut of_bob) = (connect(&server, &ann, "same").await.unwrap(), connect(&server, &bob, "same").await.unwrap());
    let mut of_boss = connect(&server, &boss, "same").await.unwrap();
    let mut shown = Vec::new();
    for (key, id) in [(&ann, id("of-ann")), (&bob, id("of-bob"))] {
        // The very same graph: what is cached is saved again for the other.
        let body = json!({"prompt": workflow(7), "prompt_id": id, "client_id": "same"});
        assert_eq!(ask(&server, key, "POST", "/prompt", body).await.0, 200);
        shown.push(history(&server, key, &id).await["outputs"]["2"]["images"][0].clone());
    }
    assert_eq!(shown[0], json!({"filename": "ComfyUI_00001_.png", "subfolder": "users/ann", "type": "output"}));
    assert_eq!(shown[1], json!({"filename": "ComfyUI_00001_.png", "subfolder": "users/bob", "type": "output"}));
    let view = |user: &str| format!("/view?filename=ComfyUI_00001_.png&subfolder=users/{user}&type=output");
    for (key, own, other) in [(&ann, "ann", "bob"), (&bob, "bob", "ann")] {
        assert_eq!(ask(&server, key, "GET", &view(own), Value::Null).await.0, 200);
        assert_eq!(ask(&server, key, "GET", &view(other), Value::Null).await.0, 403);
        assert_eq!(ask(&server, &boss, "GET", &view(own), Value::Null).await.0, 200);
        let ended = get(&server, key, "/history").await;
        assert_eq!(ended.as_object().unwrap().keys().collect::<Vec<_>>(), [&id(&format!("of-{own}"))]);
    }
    for (socket, own, other) in [(&mut of_ann, id("of-ann"), id("of-bob")), (&mut of_bob, id("of-bob"), id("of-ann"))] {
        let mut events = told(socket, &own).await;
        events.extend(told(socket, "").await);
        let text = Value::Array(events.clone()).to_string();
        assert!(text.contains(&own) && !text.contains(&other), "{text}");
        assert!(events.iter().filter(|event| event["type"] == "status").count() >= 3, "{text}");
    }
    let all = Value::Array(told(&mut of_boss, "").await).to_string();
    assert!(!all.contains("\"executed\""), "an administrator's client is not theirs: {all}");
    // A picture of the other's is no input either.
    let other = json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "users/bob/ComfyUI_00001_.png [output]"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "ComfyUI"}},
    });
    assert_eq!(ask(&server, &ann, "POST", "/prompt", json!({"prompt": other})).await.0, 400);
    assert_eq!(ask(&server, &bob, "POST", "/prompt", json!({"prompt": other})).await.0, 200);
    let mut prompt = workflow(8);
    prompt["2"]["inputs"]["filename_prefix"] = json!("users/bob/ComfyUI");
    assert_eq!(ask(&server, &ann, "POST", "/prompt", json!({"prompt": prompt, "prompt_id": id("into")})).await.0, 200);
    assert_eq!(history(&server, &ann, &id("into")).await["status"]["status_str"], "error");
}

/// Ids of prompts that are somebody else's: `id("done")` and `id("waits")`.
const DONE: &str = "646f6e65-0000-0000-0000-000000000000";
const WAITS: &str = "77616974-7300-0000-0000-000000000000";

/// What each parameter of a request may name of somebody else's.
fn names(parameter: &str) -> &'static [&'static str] {
    const FILES: &[&str] = &[
        "up.png",
        "users/other/up.png",
        "users/ann/../other/up.png",
        "./users//other/up.png",
        "USERS/other/up.png",
        "users\\other\\up.png",
        "up.png [input]",
        "../other/workflows/w.json",
        "../../user/other/workflows/w.json",
        "workflows/w.json",
        "w.json",
        "pic_00001_.png",
        "users/other/pic_00001_.png",
        "..",
        "users",
    ];
    match parameter {
        "prompt_id" | "job_id" => &[DONE, WAITS],
        "workflow_id" => &["other's"],
        "id" => &[DONE, "Test.Secret", "../other/g"],
        "filename" | "file" => FILES,
        "dest" => &["mine.json", "../other/w.json"],
        "type" => &["input", "output", "temp", "users"],
        "subfolder" => &["users/other", "users/ann/../other", "users"],
        "dir" | "path" => &[".", "..", "../other", "workflows"],
        "recurse" | "full_info" | "overwrite" => &["true"],
        "folder" | "folder_name" => &["checkpoints", "../users"],
        "path_index" => &["0"],
        "node_class" => &["LoadImage"],
        _ => &[],
    }
}

/// Requests that name what is somebody else's, for each route of the document: method and path.
fn prying(document: &Value) -> Vec<(String, String)> {
    let mut requests = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap().iter().filter(|(path, _)| *path != "/ws") {
        for (method, operation) in methods.as_object().unwrap() {
            let mut addresses = vec![path.clone()];
            for parameter in operation["parameters"].as_array().into_iter().flatten().filter_map(|parameter| parameter["name"].as_str()) {
                let (place, given) = (format!("{{{parameter}}}"), !path.contains(&format!("{{{parameter}}}")));
                let named = |address: &String| {
                    let with = |name: &&str| {
                        let name: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
                        match (given, address.contains('?')) {
                            (false, _) => address.replace(&place, &name),
                            (true, false) => format!("{address}?{parameter}={name}"),
                            (true, true) => format!("{address}&{parameter}={name}"),
                        }
                    };
                    names(parameter).iter().map(with).chain(given.then(|| address.clone())).collect::<Vec<_>>()
                };
                addresses = addresses.iter().flat_map(named).collect();
            }
            requests.extend(addresses.into_iter().map(|address| (method.to_uppercase(), address)));
        }
    }
    requests
}

#[tokio::test]
async fn no_answer_holds_what_is_anothers_and_no_request_changes_it() {
    let base = tempfile::tempdir().unwrap();
    let [other, ann] = ["other", "ann"].map(|name| key(base.path(), &["add", name]));
    let guest = key(base.path(), &["add", "guest", "--scope", "read"]);
    let server = Server::start_in(base, &["--enable-assets"]).await;
    let secret = "OF-THE-OTHER";
    let mut graph = workflow(1);
    graph["1"]["_meta"] = json!({"title": secret});
    graph["2"]["inputs"]["filename_prefix"] = json!("pic");
    let prompt = |graph: &Value, name: &str| {
        let extra = json!({"extra_pnginfo": {"workflow": {"id": "other's", "x": secret}}});
        json!({"prompt": graph, "prompt_id": id(name), "client_id": "page", "extra_data": extra})
    };
    assert_eq!(ask(&server, &other, "POST", "/prompt", prompt(&graph, "done")).await.0, 200);
    history(&server, &other, &id("done")).await;
    for (path, body) in [("/userdata/workflows%2Fw.json", json!({"x": secret})), ("/settings", json!({"Test.Secret": secret}))] {
        assert_eq!(ask(&server, &other, "POST", path, body).await.0, 200, "{path}");
    }
    let file = server.base.path().join("input/users/other/up.png");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, secret).unwrap();
    let mut long = support::long_workflow();
    long["0"]["_meta"] = json!({"title": secret});
    for (graph, name) in [(&long, "runs"), (&graph, "waits")] {
        assert_eq!(ask(&server, &other, "POST", "/prompt", prompt(graph, name)).await.0, 200);
    }
    assert_eq!([DONE, WAITS], [&*id("done"), &id("waits")]);
    let state = async || {
        let mut state = Vec::new();
        for path in ["/settings", "/userdata?dir=.&recurse=true", "/internal/files/input"] {
            state.push(get(&server, &other, path).await);
        }
        state
    };
    let before = state().await;
    let document = get(&server, &ann, "/openapi.json").await;
    let bodies = [
        (
            "/prompt",
            json!({"prompt": {"1": {"class_type": "LoadImage", "inputs": {"image": "users/other/up.png"}},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}, "client_id": "page"}),
        ),
        ("/queue", json!({"delete": [id("runs"), id("waits")]})),
        ("/history", json!({"delete": [id("done")]})),
        ("/interrupt", json!({"prompt_id": id("runs")})),
        ("/jobs/cancel", json!({"job_ids": [id("runs"), id("waits")]})),
    ];
    let (client, mut asked) = (reqwest::Client::new(), 0);
    for (method, address) in prying(&document) {
        let body = bodies.iter().find(|(path, _)| *path == address).map_or(json!({"mine": 1}), |(_, body)| body.clone());
        for key in [&ann, &guest] {
            let request = client.request(method.parse().unwrap(), format!("{}{address}", server.url)).bearer_auth(key).json(&body);
            let answer = request.send().await.unwrap();
            let (status, answer) = (answer.status(), answer.bytes().await.unwrap());
            assert!(!status.is_server_error(), "{method} {address}: {status}");
            let told = answer.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!told, "{method} {address}: {status} {}", String::from_utf8_lossy(&answer));
            asked += 1;
        }
    }
    assert!(asked > 1000, "{asked}");
    assert_eq!(before, state().await);
    assert_eq!(std::fs::read_to_string(file).unwrap(), secret);
    // Some may have ended meanwhile, but not otherwise than they should.
    let queue = get(&server, &other, "/queue").await;
    let ended = get(&server, &other, "/history").await;
    assert!(ended.as_object().unwrap().values().all(|entry| entry["status"]["status_str"] == "success"), "{ended}");
    let waiting = ["queue_running", "queue_pending"].iter().map(|list| queue[*list].as_array().unwrap().len()).sum::<usize>();
    assert_eq!(waiting + ended.as_object().unwrap().len(), 3);
}

#[tokio::test]
async fn revoked_and_ended_keys_open_nothing_at_once() {
    let base = tempfile::tempdir().unwrap();
    let (ann, short) = (key(base.path(), &["add", "ann"]), key(base.path(), &["add", "bob", "--expires", "6s"]));
    let (begun, server) = (Instant::now(), Server::start_in(base, &[]).await);
    let (mut of_ann, mut of_bob) = (connect(&server, &ann, "a").await.unwrap(), connect(&server, &short, "b").await.unwrap());
    told(&mut of_ann, "").await;
    assert!(key(server.base.path(), &["revoke", "ann"]).contains("of ann"));
    assert_eq!(ask(&server, &ann, "GET", "/queue", Value::Null).await.0, 401);
    let closed = tokio::time::timeout(Duration::from_secs(5), of_ann.next()).await.unwrap();
    assert!(matches!(&closed, Some(Ok(Message::Close(Some(frame)))) if frame.reason.contains("revoked")), "{closed:?}");
    assert!(matches!(connect(&server, &ann, "a").await, Err(Error::Http(answer)) if answer.status() == 401));
    // One that is made while the server runs is good.
    let again = key(server.base.path(), &["add", "ann", "--scope", "read"]);
    let start = Instant::now();
    while ask(&server, &again, "GET", "/queue", Value::Null).await.0 != 200 {
        assert!(start.elapsed() < Duration::from_secs(5));
        // Too many wrong ones, and the address is made to wait.
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert_eq!(ask(&server, &again, "POST", "/prompt", json!({"prompt": workflow(1)})).await.0, 403);
    let list = key(server.base.path(), &["list"]);
    assert!(list.contains("read   ann, without an end") && list.contains("run    bob, "), "{list}");
    let closed = loop {
        match tokio::time::timeout(Duration::from_secs(10), of_bob.next()).await.unwrap() {
            Some(Ok(Message::Text(_))) => {}
            other => break other,
        }
    };
    assert!(matches!(closed, Some(Ok(Message::Close(_)))), "{closed:?}");
    assert!(begun.elapsed() > Duration::from_secs(2));
    assert_eq!(ask(&server, &short, "GET", "/queue", Value::Null).await.0, 401);
    let audit = std::fs::read_to_string(server.base.path().join("user/audit.jsonl")).unwrap();
    assert!(audit.contains("key revoke") && audit.contains("\"action\":\"POST /prompt\"") && audit.contains("127.0.0.1"), "{audit}");
    for token in [&ann, &short, &again] {
        assert!(!audit.contains(token) && !std::fs::read_to_string(server.base.path().join("user/keys.json")).unwrap().contains(token));
    }
}

#[tokio::test]
async fn a_key_that_is_made_while_the_server_runs_shuts_it() {
    let server = Server::start(&[]).await;
    assert_eq!(ask(&server, "", "GET", "/queue", Value::Null).await.0, 200);
    let mut open = connect(&server, "", "o").await.unwrap();
    told(&mut open, "").await;
    key(server.base.path(), &["add", "ann"]);
    let closed = tokio::time::timeout(Duration::from_secs(5), open.next()).await.unwrap();
    assert!(matches!(closed, Some(Ok(Message::Close(_)))), "{closed:?}");
    assert_eq!(ask(&server, "", "GET", "/queue", Value::Null).await.0, 401);
}

#[tokio::test]
async fn owners_take_turns() {
    let base = tempfile::tempdir().unwrap();
    let (ann, bob) = (key(base.path(), &["add", "ann"]), key(base.path(), &["add", "bob"]));
    let boss = key(base.path(), &["add", "boss", "--scope", "admin"]);
    let server = Server::start_in(base, &["--user-prompts", "8"]).await;
    let mut slow = workflow(1);
    slow["1"]["inputs"]["width"] = json!(2048);
    slow["1"]["inputs"]["height"] = json!(2048);
    for n in 0..8 {
        slow["1"]["inputs"]["color"] = json!(n);
        let body = json!({"prompt": slow, "prompt_id": id(&format!("a{n}"))});
        assert_eq!(ask(&server, &ann, "POST", "/prompt", body).await.0, 200);
    }
    let (status, body) = ask(&server, &ann, "POST", "/prompt", json!({"prompt": slow})).await;
    assert!(status == 429 || status == 200, "{status}: {}", String::from_utf8_lossy(&body));
    assert_eq!(ask(&server, &bob, "POST", "/prompt", json!({"prompt": workflow(9), "prompt_id": id("b")})).await.0, 200);
    history(&server, &bob, &id("b")).await;
    history(&server, &ann, &id("a7")).await;
    let ended = get(&server, &boss, "/history").await;
    let order: Vec<_> = ended.as_object().unwrap().keys().collect();
    let place = order.iter().position(|order| **order == id("b")).unwrap();
    assert!(place < 7, "{order:?}");
}

/// Starts a server that a proxy stands before, and gives what it says on the standard error until it is ready.
fn beyond(base: &Path, extra: &[&str]) -> (std::process::Child, String, Vec<String>) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut child = Command::new(env!("CARGO_BIN_EXE_comfyd"))
        .args([
            "serve",
            "--front-end",
            "none",
            "--listen",
            "127.0.0.1",
            "--trusted-proxy",
            "192.0.2.1",
            "--port",
            &port,
            "--base-directory",
        ])
        .arg(base)
        .args(extra)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = Vec::new();
    let mut reader = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    for line in reader.by_ref() {
        let ready = line.contains("ready at");
        lines.push(line);
        if ready {
            break;
        }
    }
    // What follows comes at once or not at all.
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || reader.for_each(|line| drop(sender.send(line))));
    while let Ok(line) = receiver.recv_timeout(Duration::from_millis(500)) {
        lines.push(line);
    }
    (child, format!("http://127.0.0.1:{port}"), lines)
}

#[tokio::test]
async fn beyond_loopback_a_first_key_is_made_and_shown_once() {
    let base = tempfile::tempdir().unwrap();
    let (mut child, url, lines) = beyond(base.path(), &[]);
    let address = lines.iter().find_map(|line| line.trim().strip_prefix(&format!("{url}/?token="))).expect("the key's address").to_owned();
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let asked = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status().as_u16();
    assert_eq!(asked(client.get(format!("{url}/queue"))).await, 401);
    assert_eq!(asked(client.get(format!("{url}/?token={address}"))).await, 303);
    let log = client.get(format!("{url}/internal/logs")).bearer_auth(&address).send().await.unwrap().text().await.unwrap();
    assert!(!log.contains(&address), "clients see the log");
    child.kill().unwrap();
    child.wait().unwrap();
    let (mut child, url, lines) = beyond(base.path(), &[]);
    assert!(!lines.iter().any(|line| line.contains("token=")), "{lines:?}");
    assert_eq!(asked(client.get(format!("{url}/queue")).bearer_auth(&address)).await, 200);
    child.kill().unwrap();
    child.wait().unwrap();
    let (mut child, url, lines) = beyond(base.path(), &["--insecure"]);
    assert!(lines.iter().any(|line| line.contains("--insecure: everybody")), "{lines:?}");
    assert_eq!(asked(client.get(format!("{url}/queue"))).await, 200);
    child.kill().unwrap();
    child.wait().unwrap();
}
