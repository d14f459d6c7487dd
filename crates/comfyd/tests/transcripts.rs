//! Replays the wire scenarios recorded from the reference against the real binary. The rules are those of conformance/transcript.py:
//! what the reference sent must be there with equal values, more is allowed, and where it broke a JSON error is asked for.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use parking_lot::Mutex;
use regex::Regex;
use serde_json::{Value, json};
use support::{Part, Server, conformance, multipart, read_json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

const VOLATILE: &[&str] = &[
    "timestamp",
    "priority",
    "total",
    "create_time",
    "execution_start_time",
    "execution_end_time",
    "created",
    "modified",
    "mtime",
    "current_inputs",
    "traceback",
    "exception_type",
    "current_outputs",
    "number",
    "size",
    "argv",
    "python_version",
    "pytorch_version",
    "comfyui_version",
    "ram_total",
    "ram_free",
    "vram_total",
    "vram_free",
    "torch_vram_total",
    "torch_vram_free",
    "os",
    "required_frontend_version",
    "installed_templates_version",
    "required_templates_version",
    "exception_message",
    "migrated",
];
const UNCOMPARED_EVENTS: &[&str] = &["progress_state", "feature_flags"];

struct Normalizer {
    uuid: Regex,
    temp: Regex,
    counter: Regex,
}

impl Normalizer {
    fn new() -> Self {
        Self {
            uuid: Regex::new(r"\b[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}\b").unwrap(),
            temp: Regex::new(r"_temp_[a-z]{5}_").unwrap(),
            counter: Regex::new(r"_\d{5}_").unwrap(),
        }
    }

    fn apply(&self, value: &Value, key: Option<&str>) -> Value {
        if key.is_some_and(|k| VOLATILE.contains(&k)) {
            return json!("<volatile>");
        }
        match value {
            Value::Object(map) => {
                map.iter().map(|(k, v)| (self.uuid.replace_all(k, "<id>").into_owned(), self.apply(v, Some(k)))).collect()
            }
            Value::Array(items) if key == Some("prompt") && items.len() == 5 => {
                // A queue item: its number varies, and the outputs' order is not part of the contract.
                let mut item: Vec<Value> = items.iter().map(|v| self.apply(v, None)).collect();
                item[0] = json!("<volatile>");
                item[4].as_array_mut().unwrap().sort_by_key(Value::to_string);
                Value::Array(item)
            }
            Value::Array(items) => items.iter().map(|v| self.apply(v, None)).collect(),
            Value::String(text) => {
                let text = self.uuid.replace_all(text, "<id>");
                let text = self.temp.replace_all(&text, "_temp_<r>_");
                json!(self.counter.replace_all(&text, "_<n>_"))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }
}

fn fill(value: &Value, vars: &HashMap<String, String>) -> Value {
    let text = |s: &str| vars.iter().fold(s.to_owned(), |s, (k, v)| s.replace(&format!("{{{k}}}"), v));
    match value {
        Value::String(s) => json!(text(s)),
        Value::Array(items) => items.iter().map(|v| fill(v, vars)).collect(),
        Value::Object(map) => map.iter().map(|(k, v)| (text(k), fill(v, vars))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

fn diff(reference: &Value, got: &Value, path: &str, out: &mut Vec<String>) {
    match (reference, got) {
        (Value::Object(r), Value::Object(g)) => {
            for (key, value) in r {
                match g.get(key) {
                    Some(g) => diff(value, g, &format!("{path}.{key}"), out),
                    None => out.push(format!("{path}.{key}: missing, the reference has {value}")),
                }
            }
        }
        (Value::Array(r), Value::Array(g)) => {
            let (mut r, mut g) = (r.clone(), g.clone());
            if path.ends_with(".errors") {
                // There in the order of a Python set.
                let key = |error: &Value| format!("{} {}", error["type"], error["details"]);
                r.sort_by_key(key);
                g.sort_by_key(key);
            }
            if r.len() != g.len() {
                out.push(format!("{path}: {} items, the reference has {}: {got} against {reference}", g.len(), r.len()));
            }
            r.iter().zip(&g).enumerate().for_each(|(i, (r, g))| diff(r, g, &format!("{path}[{i}]"), out));
        }
        (Value::String(r), _) if r == "<volatile>" => {}
        (_, Value::String(g)) if g == "<volatile>" => {}
        (Value::String(r), Value::String(_)) if r.is_empty() => {}
        // There a bare text, here always an object.
        (Value::String(_), Value::Object(g)) if path.ends_with(".error") && g.get("message").is_some_and(|message| message != "") => {}
        (Value::Number(r), Value::Number(g)) if (r.as_f64().unwrap() - g.as_f64().unwrap()).abs() < 1e-6 => {}
        (r, g) if r != g => out.push(format!("{path}: {g}, the reference has {r}")),
        _ => {}
    }
}

/// How often the queue's length is repeated is not part of the contract.
fn without_repeats(events: &Value) -> Value {
    let mut kept: Vec<Value> = Vec::new();
    for event in events.as_array().unwrap() {
        match kept.last_mut() {
            Some(last) if last["type"] == "status" && event["type"] == "status" => *last = event.clone(),
            _ => kept.push(event.clone()),
        }
    }
    Value::Array(in_order(&kept))
}

/// Output nodes that run one behind the other, by their ids: in the reference they do in the order of a Python set, which is another in
/// every process.
fn in_order(events: &[Value]) -> Vec<Value> {
    let (mut ordered, mut left) = (Vec::new(), events);
    while !left.is_empty() {
        let mut pairs: Vec<&[Value]> = Vec::new();
        while let [executing, executed, rest @ ..] = left
            && (&executing["type"], &executed["type"]) == (&json!("executing"), &json!("executed"))
            && executing["data"]["node"] == executed["data"]["node"]
        {
            pairs.push(&left[..2]);
            left = rest;
        }
        pairs.sort_by_key(|pair| pair[0]["data"]["node"].to_string());
        ordered.extend(pairs.into_iter().flatten().cloned());
        if let [next, rest @ ..] = left {
            ordered.push(next.clone());
            left = rest;
        }
    }
    ordered
}

async fn request(server: &Server, step: &Value, vars: &HashMap<String, String>) -> (u16, String, Option<Value>) {
    let method = step["request"][0].as_str().unwrap();
    let path = fill(&step["request"][1], vars);
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let mut builder = client.request(method.parse().unwrap(), format!("{}{}", server.url, path.as_str().unwrap()));
    for (name, value) in step["headers"].as_object().into_iter().flatten() {
        builder = builder.header(name, value.as_str().unwrap());
    }
    if let Some(body) = step.get("json") {
        builder = builder.json(&fill(body, vars));
    } else if let Some(body) = step.get("raw") {
        builder = builder.body(fill(body, vars).as_str().unwrap().to_owned());
    } else if let Some(form) = step.get("form") {
        let (body, content_type) = form_body(form, vars);
        builder = builder.header("Content-Type", content_type).body(body);
    }
    let response = builder.send().await.unwrap();
    let status = response.status().as_u16();
    let content_type = response.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let content_type = content_type.split(';').next().unwrap().to_owned();
    let body = serde_json::from_slice(&response.bytes().await.unwrap()).ok();
    (status, content_type, body)
}

fn form_body(form: &Value, vars: &HashMap<String, String>) -> (Vec<u8>, String) {
    let fields: Vec<(String, Option<String>, String, Vec<u8>)> = form
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| match value.get("hex").and_then(Value::as_str) {
            Some(hex) => {
                let bytes = (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
                // As aiohttp does, which made the recording.
                let filename = value["filename"].as_str().unwrap().replace('/', "%2F");
                (name.clone(), Some(filename), value["type"].as_str().unwrap_or("application/octet-stream").to_owned(), bytes)
            }
            None => (name.clone(), None, String::new(), fill(value, vars).as_str().unwrap().as_bytes().to_vec()),
        })
        .collect();
    let parts: Vec<Part<'_>> = fields
        .iter()
        .map(|(name, filename, content_type, bytes)| Part { name, filename: filename.as_deref(), content_type, bytes })
        .collect();
    multipart(&parts)
}

async fn replay(server: &Server, name: &str, scenario: &Value) -> Vec<String> {
    let normalizer = Normalizer::new();
    let cid = uuid::Uuid::new_v4().simple().to_string();
    let mut vars = HashMap::from([("cid".to_owned(), cid.clone())]);
    let (socket, _) = connect_async(format!("{}/ws?clientId={cid}", server.url.replacen("http", "ws", 1))).await.unwrap();
    let seen: Arc<Mutex<Vec<Value>>> = Arc::default();
    let pump = tokio::spawn({
        let seen = Arc::clone(&seen);
        socket.for_each(move |message| {
            match message {
                Ok(Message::Text(text)) => seen.lock().push(serde_json::from_str(&text).unwrap()),
                Ok(Message::Binary(data)) => {
                    let number = |at: usize| u32::from_be_bytes(data[at..at + 4].try_into().unwrap());
                    seen.lock().push(json!({"type": format!("binary:{}", number(0)), "data": {"format": number(4)}}));
                }
                Ok(_) | Err(_) => {}
            }
            std::future::ready(())
        })
    });
    // The recording tool waits this long too: the first status belongs to the first group of events.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (mut mark, mut last) = (0, String::new());
    let mut differences = Vec::new();
    for (i, (step, expected)) in scenario["steps"].as_array().unwrap().iter().zip(scenario["observed"].as_array().unwrap()).enumerate() {
        let at = format!("{name} step {i} {}", step["request"]);
        if step.get("request").is_some() {
            let (status, content_type, body) = request(server, step, &vars).await;
            if let Some(id) = body.as_ref().and_then(|b| b.get("prompt_id")).and_then(Value::as_str) {
                last = id.to_owned();
                vars.insert("prompt_id".into(), last.clone());
            }
            let reference = expected["status"].as_u64().unwrap() as u16;
            if reference >= 400 && expected.get("json").is_none() {
                let right_class = if reference >= 500 { (400..500).contains(&status) } else { status == reference };
                if !right_class || body.as_ref().is_none_or(|b| b.get("error").is_none()) {
                    differences.push(format!("{at}: {status} {body:?}, wanted a JSON error ({reference})"));
                }
                continue;
            }
            let mut got = json!({"status": status, "type": content_type});
            if let (Some(body), "application/json") = (&body, content_type.as_str()) {
                got["json"] = normalizer.apply(body, None);
            }
            diff(expected, &got, &at, &mut differences);
        } else if step.get("wait").is_some() {
            for _ in 0..1200 {
                let ended = seen.lock().iter().any(|e| {
                    matches!(e["type"].as_str(), Some("execution_success" | "execution_error" | "execution_interrupted"))
                        && e["data"]["prompt_id"] == json!(last)
                });
                if ended {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
                if server.get(&format!("/history/{last}")).await.get(&last).is_some() {
                    break;
                }
            }
            tokio::time::sleep(Duration::from_millis(80)).await;
        } else if step.get("events").is_some() {
            let all = seen.lock().clone();
            let compared = |kind: &str| !UNCOMPARED_EVENTS.contains(&kind) && !kind.starts_with("assets.");
            let fresh = all[mark..].iter().filter(|e| compared(e["type"].as_str().unwrap()));
            let got: Value = fresh.map(|e| normalizer.apply(e, None)).collect();
            mark = all.len();
            diff(&without_repeats(&expected["events"]), &without_repeats(&got), &at, &mut differences);
        }
    }
    pump.abort();
    differences
}

/// The node classes of a scenario's prompts, but for those that the reference does not have either.
fn classes(scenario: &Value) -> Vec<String> {
    let refused = scenario["observed"].to_string();
    let prompts = scenario["steps"].as_array().unwrap().iter().filter_map(|step| step["json"]["prompt"].as_object());
    let classes = prompts.flat_map(|prompt| prompt.values()).filter_map(|node| node["class_type"].as_str());
    classes.filter(|class| !refused.contains(&format!("Node '{class}' not found"))).map(str::to_owned).collect()
}

/// Replays the scenarios of a file but for those named, and those of classes that there are not; how many were.
async fn all_hold(file: &str, without: &[&str]) -> usize {
    let server = Server::start(&[]).await;
    // They were recorded on a server on which the settings scenario had run before.
    assert_eq!(server.post("/settings/Test.Key", &json!(5)).await.0, 200);
    assert_eq!(server.post("/settings/Test.Other", &json!({"x": [1]})).await.0, 200);
    // And one whose prompt belongs to the workflow of another.
    let graph = json!({"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 3}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}});
    let body = json!({"prompt": graph, "extra_data": {"extra_pnginfo": {"workflow": {"id": "wf-1"}}}});
    let (_, answer) = server.post("/prompt", &body).await;
    server.finished(answer["prompt_id"].as_str().unwrap()).await;
    let known = server.get("/object_info").await;
    let scenarios = read_json(&conformance(file));
    let (mut differences, mut compared) = (Vec::new(), 0);
    for (name, scenario) in scenarios.as_object().unwrap() {
        if without.contains(&name.as_str()) || classes(scenario).iter().any(|class| known.get(class).is_none()) {
            continue;
        }
        compared += 1;
        differences.extend(replay(&server, name, scenario).await);
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    compared
}

#[tokio::test]
async fn every_recorded_scenario_is_reproduced() {
    assert!(all_hold("transcripts.json", &[]).await >= 58);
}

/// What spoke to 0.3.64 finds what it found there, where both can hold.
#[tokio::test]
async fn the_older_scenarios_are_reproduced() {
    assert_eq!(all_hold("transcripts-0.3.64.json", &["get/root_json", "prompt/missing_class", "prompt/unknown_node"]).await, 45);
}

/// A graph whose text no standard reader of JSON takes, and with it what ends up in the picture. `run` reads the same text from a file.
#[tokio::test]
async fn prompts_that_only_python_reads_are_run() {
    let nodes = r#""1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": "1_6", "batch_size": 1, "color": 0}, "is_changed": [NaN],
        "_meta": {"title": "x\ud83d"}}, "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "deep"}}"#;
    let deep = [("[", "]"), ("{\"a\": ", "}")].map(|(open, close)| format!("{}0{}", open.repeat(1_000), close.repeat(1_000)));
    let extra = format!(r#"{{"extra_pnginfo": {{"workflow": {}, "other": {}, "x": [-Infinity]}}}}"#, deep[0], deep[1]);
    let server = Server::start(&[]).await;
    let body = format!(r#"{{"prompt": {{{nodes}}}, "extra_data": {extra}}}"#);
    let response = reqwest::Client::new().post(format!("{}/prompt", server.url)).body(body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let id = response.json::<Value>().await.unwrap()["prompt_id"].as_str().unwrap().to_owned();
    let asked = std::time::Instant::now();
    let entry = loop {
        let answer = reqwest::get(format!("{}/history/{id}", server.url)).await.unwrap().bytes().await.unwrap();
        let mut history = comfyd_wire::json::read(&answer).unwrap();
        if history.get(&id).is_some() {
            break history[&id].take();
        }
        assert!(asked.elapsed() < Duration::from_secs(120), "the prompt did not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(entry["status"]["status_str"], "success", "{}", entry["status"]);
    let picture = std::fs::read(server.base.path().join("output/deep_00001_.png")).unwrap();
    for text in [&deep[0], &deep[1], "[null]", "x\\ufffd"] {
        assert!(picture.windows(text.len()).any(|part| part == text.as_bytes()), "{}", &text[..6]);
    }

    let file = server.base.path().join("graph.json");
    std::fs::write(&file, format!("{{{nodes}}}")).unwrap();
    let base = server.base.path().join("alone");
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_comfyd")).arg("run").arg(&file).arg("--base-directory").arg(&base).output();
    let run = run.unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert!(base.join("output/deep_00001_.png").exists());
}
