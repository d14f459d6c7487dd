//! The binary beside a ComfyUI: the stub installation of the crate `python`, which needs nothing but a Python. From the command line to the
//! answers, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(target_os = "linux")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};
use support::{Server, id};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

fn comfyui() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../python/tests/comfyui").canonicalize().unwrap()
}

async fn start(extra: &[&str]) -> Server {
    start_in(tempfile::tempdir().unwrap(), extra).await
}

async fn start_in(base: tempfile::TempDir, extra: &[&str]) -> Server {
    let comfyui = comfyui();
    Server::start_in(base, &[&["--comfyui", comfyui.to_str().unwrap(), "--cpu"], extra].concat()).await
}

/// Sends a prompt and gives its id.
async fn submit(server: &Server, prompt: Value) -> String {
    let (status, answer) = server.post("/prompt", &json!({"prompt": prompt, "client_id": "me"})).await;
    assert_eq!(status, 200, "{answer}");
    answer["prompt_id"].as_str().unwrap().to_owned()
}

/// Runs a prompt and gives its entry of the history.
async fn run(server: &Server, prompt: Value) -> Value {
    let id = submit(server, prompt).await;
    server.finished(&id).await
}

fn node(class: &str, inputs: Value) -> Value {
    json!({"class_type": class, "inputs": inputs})
}

fn sum(a: i64, b: i64) -> Value {
    json!({"1": node("StubAdd", json!({"a": a, "b": b})), "2": node("StubOutput", json!({"value": ["1", 0]}))})
}

/// What failed, as the history tells it.
fn failure(entry: &Value) -> &str {
    let messages = entry["status"]["messages"].as_array().unwrap();
    messages.iter().find(|message| message[0] == "execution_error").map_or("", |message| message[1]["exception_message"].as_str().unwrap())
}

/// The server's processes of ComfyUI.
fn workers(server: &Server) -> Vec<u32> {
    let parent = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        (fields.next()? != "Z").then(|| fields.next()?.parse().ok())?
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    all.filter(|pid| parent(*pid) == Some(server.id())).collect()
}

/// Waits until something is so.
async fn eventually(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !so().await {
        assert!(start.elapsed() < Duration::from_secs(60), "it never came to be: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_prompt_of_python_classes_runs_and_is_told_of_as_any() {
    let server = start(&[]).await;
    let (mut socket, _) = connect_async(format!("{}/ws?clientId=me", server.url.replace("http", "ws"))).await.unwrap();
    let mut prompt = sum(40, 2);
    prompt["3"] = node("StubEvent", json!({"name": "stub.told", "text": "hello", "all": false}));
    let id = submit(&server, prompt).await;
    let (mut told, mut pack) = (Vec::new(), Vec::new());
    loop {
        let message = tokio::time::timeout(Duration::from_secs(60), socket.next()).await.expect("an event").unwrap().unwrap();
        match message {
            Message::Text(text) => {
                let event: Value = serde_json::from_str(&text).unwrap();
                let name = event["type"].as_str().unwrap();
                if name == "stub.told" {
                    pack.push(event["data"].clone());
                } else if event["data"]["prompt_id"] == json!(id) && !name.starts_with("progress") {
                    told.push(match event["data"]["node"].as_str() {
                        Some(node) => format!("{name} {node}"),
                        None => name.to_owned(),
                    });
                }
                if name == "executing" && event["data"]["node"].is_null() {
                    break;
                }
            }
            Message::Binary(bytes) => pack.push(json!(String::from_utf8_lossy(&bytes))),
            _ => {}
        }
    }
    assert_eq!(pack, [json!({"text": "hello"}), json!("\0\0\0\u{4d}hello")]);
    for event in ["executing 1", "executing 2", "executed 2", "executing 3"] {
        assert!(told.iter().any(|name| name == event), "{event}: {told:?}");
    }
    assert_eq!([&told[0], &told[told.len() - 2], &told[told.len() - 1]], ["execution_start", "execution_success", "executing"]);
    let entry = server.finished(&id).await;
    assert_eq!((&entry["outputs"]["2"], &entry["status"]["status_str"]), (&json!({"text": ["42"]}), &json!("success")));
    // The same again is kept.
    let again = run(&server, sum(40, 2)).await;
    let cached = again["status"]["messages"].as_array().unwrap().iter().find(|message| message[0] == "execution_cached").unwrap();
    assert_eq!(cached[1]["nodes"].as_array().unwrap().len(), 2, "{cached}");
}

#[tokio::test]
async fn what_packs_have_besides_classes_is_served() {
    let server = start(&[]).await;
    // The first start is waited for by those who ask for classes.
    let classes = server.get("/object_info").await;
    assert_eq!(classes["StubAdd"]["python_module"], "custom_nodes.stub_nodes");
    assert!(classes["KSampler"].is_object(), "native classes are there too");
    assert_eq!(server.get("/stub/hello/you?a=1").await, json!({"hello": "you", "query": {"a": "1"}}));
    let who = reqwest::get(format!("{}/stub/who", server.url)).await.unwrap().text().await.unwrap();
    assert_eq!(who, "127.0.0.1", "the client's address, though there is a socket without any between");
    let echoed = reqwest::Client::new().post(format!("{}/stub/echo", server.url)).body("bytes").send().await.unwrap();
    assert_eq!(echoed.text().await.unwrap(), "bytes");
    assert_eq!(server.get("/extensions").await, json!(["/extensions/stub_web/stub.js"]));
    assert_eq!(reqwest::get(format!("{}/extensions/stub_web/stub.js", server.url)).await.unwrap().status(), 200);
    assert!(server.get("/models").await.as_array().unwrap().contains(&json!("stubs")), "folders of packs are listed");
    let stats = server.get("/system_stats").await;
    assert_eq!((&stats["system"]["comfyui_version"], &stats["devices"][0]["name"]), (&json!("0.33.0-stub"), &json!("stub")));
    let (status, refused) = server.post("/prompt", &json!({"prompt": {"1": node("FromBroken", json!({}))}})).await;
    let details = refused["error"]["details"].as_str().unwrap();
    assert!(status == 400 && details.contains("stub_broken"), "{details}");
    // A handler of requests.
    let extra = json!({"stub_handler": 1});
    let body = json!({"prompt": sum(1, 2), "extra_data": extra, "prompt_id": id("handled")});
    assert_eq!(server.post("/prompt", &body).await.0, 200);
    assert_eq!(server.finished(&id("handled")).await["prompt"][3]["stub"], true);
    // One that queues the prompt once more.
    run(&server, json!({"1": node("StubEnqueue", json!({"times": 1}))})).await;
    eventually("the prompt runs again", async || {
        let history = server.get("/history").await;
        history.as_object().unwrap().values().filter(|entry| entry["prompt"][2]["1"]["class_type"] == "StubEnqueue").count() >= 2
    })
    .await;
}

#[tokio::test]
async fn classes_of_which_comfyui_cannot_tell_run_all_the_same() {
    let comfyui = comfyui();
    let server = Server::start_with(&["env", "STUB_ODD=1"], &["--comfyui", comfyui.to_str().unwrap(), "--cpu"]).await;
    let classes = server.get("/object_info").await;
    assert!(classes["StubNoComma"].is_object() && classes.get("StubNoTypes").is_none() && classes.get("StubNoJson").is_none());
    assert_eq!(server.get("/object_info/StubNoTypes").await, json!({}));
    let prompt = json!({
        "1": node("StubNoTypes", json!({"value": 5})),
        "2": node("StubNoJson", json!({"value": 6})),
        "3": node("StubOutput", json!({"value": ["2", 0]})),
    });
    let outputs = &run(&server, prompt).await["outputs"];
    assert_eq!(
        [&outputs["1"], &outputs["2"], &outputs["3"]],
        [&json!({"text": ["5"]}), &json!({"text": ["set"]}), &json!({"text": ["2"]})]
    );
}

#[tokio::test]
async fn packs_see_the_history_and_remove_from_it() {
    let server = start(&[]).await;
    let first = submit(&server, sum(1, 2)).await;
    server.finished(&first).await;
    let looks = json!({"1": node("StubHistory", json!({"id": first})), "2": node("StubOutput", json!({"value": ["1", 0]}))});
    let told = run(&server, looks).await;
    let told: Value = serde_json::from_str(told["outputs"]["2"]["text"][0].as_str().unwrap()).unwrap();
    let entry = &told["one"][&first];
    assert_eq!((&entry["outputs"]["2"], &entry["prompt"][1]), (&json!({"text": ["3"]}), &json!(first)));
    assert_eq!((&told["newest"], &told["tuple"]), (&json!([first]), &json!(true)));
    eventually("the entry is removed", async || server.get(&format!("/history/{first}")).await == json!({})).await;
}

#[tokio::test]
async fn a_kept_manifest_answers_before_python_is_up() {
    let server = start(&[]).await;
    let first = server.get("/object_info").await;
    let (ended, base) = server.stop("TERM");
    assert!(ended.success());
    let server = start_in(base, &["--python-start", "lazy"]).await;
    assert_eq!(server.get("/object_info").await, first);
    assert_eq!(server.get("/system_stats").await["system"]["comfyui_version"], "0.33.0-stub");
    assert_eq!(workers(&server), Vec::<u32>::new(), "nobody needed one");
    assert_eq!(run(&server, sum(1, 2)).await["outputs"]["2"], json!({"text": ["3"]}));
    assert_eq!(workers(&server).len(), 1);
}

#[tokio::test]
async fn prompts_that_wait_at_a_restart_run_though_nothing_is_known_of_their_classes_any_more() {
    let server = start(&[]).await;
    submit(
        &server,
        json!({"1": node("StubSleep", json!({"seconds": 60.0, "value": 1})), "2": node("StubOutput", json!({"value": ["1", 0]}))}),
    )
    .await;
    let waiting = submit(&server, sum(5, 6)).await;
    eventually("a prompt runs", async || server.get("/queue").await["queue_running"].as_array().unwrap().len() == 1).await;
    let base = server.kill();
    for entry in std::fs::read_dir(base.path().join("user")).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("python-") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    let server = start_in(base, &["--on-restart", "fail", "--python-start", "lazy"]).await;
    assert_eq!(server.finished(&waiting).await["outputs"]["2"], json!({"text": ["11"]}));
}

#[tokio::test]
async fn a_process_that_dies_fails_its_prompt_alone_and_ends_with_the_server() {
    let server = start(&[]).await;
    run(&server, sum(1, 1)).await;
    let id = submit(
        &server,
        json!({"1": node("StubSleep", json!({"seconds": 60.0, "value": 1})), "2": node("StubOutput", json!({"value": ["1", 0]}))}),
    )
    .await;
    eventually("the prompt runs", async || server.get("/queue").await["queue_running"].as_array().unwrap().len() == 1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let old = workers(&server);
    assert_eq!(old.len(), 1);
    assert!(Command::new("kill").args(["-9", &old[0].to_string()]).status().unwrap().success());
    let waiting = submit(&server, sum(2, 2)).await;
    let entry = server.finished(&id).await;
    assert!(!failure(&entry).is_empty(), "{entry}");
    assert_eq!(server.finished(&waiting).await["outputs"]["2"], json!({"text": ["4"]}));
    let new = workers(&server);
    assert!(new.len() == 1 && new != old, "{new:?}");
    drop(server.kill());
    eventually("the process ends", async || !Path::new(&format!("/proc/{}/cmdline", new[0])).exists()).await;
}

#[tokio::test]
async fn each_device_has_a_process_of_its_own_and_they_run_at_once() {
    let server = start_in(tempfile::tempdir().unwrap(), &[]).await;
    run(&server, sum(1, 1)).await;
    let (_, base) = server.stop("TERM");
    let comfyui = comfyui();
    let server = Server::start_in(base, &["--comfyui", comfyui.to_str().unwrap(), "--device", "cpu,cpu"]).await;
    let waits =
        |n: usize| json!({"1": node("StubLoop", json!({"seconds": 60.0 + n as f64})), "2": node("StubOutput", json!({"value": ["1", 0]}))});
    let ids = [submit(&server, waits(0)).await, submit(&server, waits(1)).await];
    eventually("both run", async || server.get("/queue").await["queue_running"].as_array().unwrap().len() == 2).await;
    eventually("a process for each", async || workers(&server).len() == 2).await;
    // One that is ended leaves the other one be.
    assert_eq!(server.post("/interrupt", &json!({"prompt_id": ids[1]})).await.0, 200);
    let entry = server.finished(&ids[1]).await;
    assert_eq!(entry["status"]["messages"].as_array().unwrap().last().unwrap()[0], "execution_interrupted", "{entry}");
    assert_eq!(run(&server, sum(2, 3)).await["outputs"]["2"], json!({"text": ["5"]}), "the free device has the same classes");
    assert_eq!(server.get("/queue").await["queue_running"][0][1], json!(ids[0]));
    server.post("/interrupt", &json!({})).await;
    server.finished(&ids[0]).await;
    let kept = std::fs::read_dir(server.base.path().join("user")).unwrap().flatten();
    let mut kept: Vec<String> =
        kept.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.starts_with("python-")).collect();
    kept.sort_unstable();
    assert_eq!(kept, ["python-default.2.json", "python-default.json"], "each keeps what is known of its own");
}

/// The memory that a process holds, in bytes.
fn held(pid: u32) -> u64 {
    let pages = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// `SOAK` is how many prompts are sent; a few by default.
#[tokio::test]
async fn every_prompt_ends_once_while_its_process_is_killed_at_random() {
    let prompts: usize = std::env::var("SOAK").ok().and_then(|count| count.parse().ok()).unwrap_or(24);
    let server = start(&[]).await;
    let (mut socket, _) = connect_async(format!("{}/ws?clientId=me", server.url.replace("http", "ws"))).await.unwrap();
    run(&server, sum(1, 1)).await;
    let (before, mut killed, mut random) = (held(server.id()), 0, 12_345_u64);
    let mut ids = Vec::new();
    for turn in 0..prompts {
        let object = json!({
            "1": node("StubObject", json!({"name": format!("object {turn}")})),
            "2": node("StubUseObject", json!({"object": ["1", 0]})),
            "3": node("StubTensor", json!({"height": 64, "width": 64, "value": 0.5})),
            "4": node("StubTensorSum", json!({"image": ["3", 0]})),
            "5": node("StubSleep", json!({"value": ["2", 0], "seconds": 0.02})),
            "6": node("StubOutput", json!({"value": ["5", 0]})),
            "7": node("StubOutput", json!({"value": ["4", 0]})),
        });
        let body = json!({"prompt": object, "client_id": "me"});
        let accepted = loop {
            // Packs' handlers want a process, and one that was killed while it started may not be there.
            match server.post("/prompt", &body).await {
                (200, answer) => break answer,
                (503, _) => tokio::time::sleep(Duration::from_millis(50)).await,
                other => panic!("{other:?}"),
            }
        };
        ids.push(accepted["prompt_id"].as_str().unwrap().to_owned());
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        tokio::time::sleep(Duration::from_millis((random >> 33) % 120)).await;
        if (random >> 20).is_multiple_of(4) {
            // There may be none at the moment.
            for pid in workers(&server) {
                killed += usize::from(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
            }
        }
    }
    let mut done = 0;
    for (turn, id) in ids.iter().enumerate() {
        let entry = server.finished(id).await;
        if entry["status"]["status_str"] == "success" {
            assert_eq!(entry["outputs"]["6"]["text"], json!([format!("object {turn}")]));
            done += 1;
        } else {
            assert!(failure(&entry).contains("the Python worker 'default'"), "{entry}");
        }
    }
    // Nothing of them is held any more, here or there.
    let alive = json!({"1": node("StubAlive", json!({})), "2": node("StubOutput", json!({"value": ["1", 0]}))});
    let last = submit(&server, alive).await;
    assert_eq!(server.finished(&last).await["outputs"]["2"]["text"], json!(["0"]));
    let mut ends: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
    while !ends.contains_key(&last) {
        let message = tokio::time::timeout(Duration::from_secs(60), socket.next()).await.expect("an event").unwrap().unwrap();
        let Message::Text(text) = message else { continue };
        let event: Value = serde_json::from_str(&text).unwrap();
        if ["execution_success", "execution_error", "execution_interrupted"].iter().any(|end| event["type"] == *end) {
            *ends.entry(event["data"]["prompt_id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    assert!(ids.iter().all(|id| ends.get(id) == Some(&1)), "{ends:?}");
    let after = held(server.id());
    eprintln!("{prompts} prompts, {killed} kills, {done} done; {} MB before, {} MB after", before >> 20, after >> 20);
}

#[tokio::test]
async fn an_interruption_ends_nodes_that_heed_it_and_those_that_do_not() {
    let server = start(&["--python-interrupt-timeout", "1", "--python-kill-timeout", "2"]).await;
    run(&server, sum(1, 1)).await;
    let old = workers(&server);
    for (class, killed) in [("StubLoop", false), ("StubHang", true)] {
        let graph = json!({"1": node(class, json!({"seconds": 60.0})), "2": node("StubOutput", json!({"value": ["1", 0]}))});
        let id = submit(&server, graph).await;
        eventually("the prompt runs", async || server.get("/queue").await["queue_running"].as_array().unwrap().len() == 1).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(server.post("/interrupt", &json!({"prompt_id": id})).await.0, 200);
        let entry = server.finished(&id).await;
        let messages = entry["status"]["messages"].as_array().unwrap();
        assert_eq!(messages.last().unwrap()[0], "execution_interrupted", "{class}: {entry}");
        assert_eq!(run(&server, sum(1, if killed { 3 } else { 2 })).await["status"]["status_str"], "success");
        assert_eq!(workers(&server) != old, killed, "{class}");
    }
}

#[tokio::test]
async fn the_command_line_runs_and_checks_without_a_server() {
    let base = tempfile::tempdir().unwrap();
    let (comfyui, workflow) = (comfyui(), base.path().join("workflow.json"));
    std::fs::write(&workflow, sum(20, 3).to_string()).unwrap();
    let comfyd = |arguments: &[&str]| {
        let options = ["--comfyui", comfyui.to_str().unwrap(), "--cpu", "--base-directory", base.path().to_str().unwrap()];
        let output = Command::new(env!("CARGO_BIN_EXE_comfyd")).args(arguments).args(options).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (done, said, errors) = comfyd(&["run", workflow.to_str().unwrap()]);
    assert!(done && said.contains("2 text: 23"), "{said}{errors}");
    let handled = json!({"1": node("StubText", json!({"text": "handle me"})), "2": node("StubOutput", json!({"value": ["1", 0]}))});
    std::fs::write(&workflow, handled.to_string()).unwrap();
    let (done, said, errors) = comfyd(&["run", workflow.to_str().unwrap()]);
    assert!(done && said.contains("2 text: handled"), "a handler of prompts changes it: {said}{errors}");
    let (done, said, errors) = comfyd(&["nodes"]);
    assert!(done && said.contains("StubAdd ") && said.contains("KSampler "), "{said}{errors}");
    let (done, said, _) = comfyd(&["nodes", "StubAdd"]);
    assert!(done && said.contains("\"python_module\": \"custom_nodes.stub_nodes\""), "{said}");
    let (done, said, errors) = comfyd(&["python", "check", "--json"]);
    assert!(done, "{errors}");
    let told: Value = serde_json::from_str(&said).unwrap();
    let packs = told[0]["packs"].as_array().unwrap();
    let broken = packs.iter().find(|pack| pack["name"].as_str().unwrap().contains("stub_broken")).unwrap();
    assert!(broken["error"].as_str().unwrap().contains("Error"), "{broken}");
    assert!(told[0]["classes"].as_array().unwrap().contains(&json!("StubAdd")) && told[0]["error"].is_null());
    let (done, said, _) = comfyd(&["python", "check"]);
    assert!(done && said.contains("stub_broken") && said.contains("stub_nodes"), "{said}");
}
