//! The pages `docs/api.md` and `docs/api.ja.md`: that they tell every endpoint, event and frame as the OpenAPI document has it, with an answer that the server
//! gives. `COMFYD_WRITE_PAGES=1` writes them anew. The Japanese texts are in `api/ja.json`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use comfyd_node::{Input, Schema};
use regex::Regex;
use serde_json::{Map, Value, json};
use support::{Server, assets, picture, safetensors};

/// What each call is shown with: method and path of the document, the path that is asked for, and the body.
const EXAMPLES: &[(&str, &str, &str, &str)] = &[
    ("post", "/prompt", "/prompt", r#"{"prompt": {"1": {"class_type": "Show", "inputs": {"value": 3}}}, "client_id": "me"}"#),
    ("get", "/history/{prompt_id}", "/history/ended", ""),
    ("post", "/history", "/history", r#"{"delete": ["none"]}"#),
    ("post", "/queue", "/queue", r#"{"delete": ["none"]}"#),
    ("post", "/interrupt", "/interrupt", r#"{"prompt_id": "none"}"#),
    ("post", "/free", "/free", r#"{"unload_models": true, "free_memory": true}"#),
    ("get", "/jobs", "/jobs?status=completed&limit=1", ""),
    ("get", "/jobs/{job_id}", "/jobs/ended", ""),
    ("post", "/jobs/{job_id}/cancel", "/jobs/ended/cancel", ""),
    ("post", "/jobs/cancel", "/jobs/cancel", r#"{"job_ids": ["00000000-0000-4000-8000-000000000000"]}"#),
    ("get", "/object_info/{node_class}", "/object_info/Show", ""),
    ("get", "/models/{folder}", "/models/loras", ""),
    ("get", "/experiment/models/{folder}", "/experiment/models/loras", ""),
    ("get", "/experiment/models/preview/{folder}/{path_index}/{filename}", "/experiment/models/preview/loras/0/a.safetensors", ""),
    ("get", "/view_metadata/{folder_name}", "/view_metadata/loras?filename=a.safetensors", ""),
    (
        "post",
        "/internal/models/download",
        "/internal/models/download",
        r#"{"url": "http://example.com/a", "model_directory": "loras", "model_filename": "a.pt"}"#,
    ),
    ("patch", "/internal/logs/subscribe", "/internal/logs/subscribe", r#"{"clientId": "me", "enabled": false}"#),
    ("get", "/internal/files/{type}", "/internal/files/input", ""),
    ("post", "/users", "/users", r#"{"username": "ann"}"#),
    ("post", "/settings", "/settings", r#"{"Comfy.ColorPalette": "light"}"#),
    ("post", "/settings/{id}", "/settings/Comfy.Locale", r#""ja""#),
    ("get", "/settings/{id}", "/settings/Comfy.Locale", ""),
    ("post", "/userdata/{file}", "/userdata/workflows%2Fa.json?full_info=true", "{}"),
    ("get", "/userdata/{file}", "/userdata/workflows%2Fa.json", ""),
    ("get", "/userdata", "/userdata?dir=workflows", ""),
    ("post", "/userdata/{file}/move/{dest}", "/userdata/workflows%2Fa.json/move/workflows%2Fb.json", ""),
    ("delete", "/userdata/{file}", "/userdata/workflows%2Fb.json", ""),
    ("get", "/view", "/view?filename=a.png&type=input", ""),
    ("get", "/global_subgraphs/{id}", "/global_subgraphs/none", ""),
    ("post", "/api/assets/seed", "/api/assets/seed?wait=true", r#"{"roots": ["input"]}"#),
    ("get", "/api/assets/seed/status", "/api/assets/seed/status", ""),
    ("post", "/api/assets/seed/cancel", "/api/assets/seed/cancel", ""),
    ("post", "/api/assets/prune", "/api/assets/prune", ""),
    ("get", "/api/assets", "/api/assets?tags_all=input&sort=name&limit=1", ""),
    ("post", "/api/assets/from-hash", "/api/assets/from-hash", r#"{"hash": "CONTENT", "name": "hello again", "tags": ["mine"]}"#),
    ("get", "/api/assets/tags/refine", "/api/assets/tags/refine?name_contains=hello", ""),
    ("head", "/api/assets/hash/{hash}", "/api/assets/hash/CONTENT", ""),
    ("put", "/api/assets/{id}", "/api/assets/ASSET", r#"{"user_metadata": {"stars": 5}}"#),
    ("post", "/api/assets/{id}/tags", "/api/assets/ASSET/tags", r#"{"tags": ["best"]}"#),
    ("get", "/api/assets/{id}", "/api/assets/ASSET", ""),
    ("get", "/api/assets/{id}/content", "/api/assets/ASSET/content?disposition=inline", ""),
    ("get", "/api/tags", "/api/tags?prefix=b", ""),
    ("delete", "/api/assets/{id}/tags", "/api/assets/ASSET/tags", r#"{"tags": ["best"]}"#),
    ("delete", "/api/assets/{id}", "/api/assets/ASSET", ""),
];

/// An asset whose content is `hello`: what the examples call its id, and its hash.
const ASSET: &str = "ASSET";
const CONTENT: (&str, &str) = ("CONTENT", "blake3:ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f");

/// Calls that are told without an answer: they take forms, or answer pages.
const WITHOUT: [(&str, &str); 7] = [
    ("get", "/"),
    ("get", "/login"),
    ("post", "/login"),
    ("get", "/ws"),
    ("post", "/upload/image"),
    ("post", "/upload/mask"),
    ("post", "/api/assets"),
];

/// What is shown for every id.
const SAME_ID: &str = "6f1c1d0a-8f0e-4e0b-9d0e-0123456789ab";

/// Values that are others in each run, and what is shown for them.
fn usual(key: &str) -> Option<Value> {
    Some(match key {
        "create_time" | "created_ms" | "execution_start_time" | "execution_end_time" | "timestamp" => json!(1_790_000_000_000_i64),
        "modified" | "created" => json!(1_790_000_000_000_i64),
        "ram_total" | "ram_free" | "vram_total" | "vram_free" | "torch_vram_total" | "torch_vram_free" => json!(17_179_869_184_i64),
        "cpu_count" => json!(8),
        "cpu_utilization" | "utilization" => json!(12.5),
        "argv" => json!(["comfyd", "serve"]),
        "os" => json!("linux"),
        "next_cursor" => json!("eyJzIjoibmFtZSJ9"),
        "created_at" | "updated_at" | "last_access_time" => json!("2026-11-01T12:00:00Z"),
        "entries" => json!([]),
        _ => return None,
    })
}

/// An answer without what changes from run to run, and short.
fn shown(value: &Value, dir: &str, ids: &Regex) -> Value {
    match value {
        Value::Object(fields) => {
            fields.iter().map(|(key, field)| (key.clone(), usual(key).unwrap_or_else(|| shown(field, dir, ids)))).collect()
        }
        Value::Array(items) => {
            let more = (items.len() > 3).then(|| json!("…"));
            items.iter().take(3).map(|item| shown(item, dir, ids)).chain(more).collect()
        }
        Value::String(text) => {
            let text = ids.replace_all(text, SAME_ID).replace(dir, "/data");
            json!(if text.chars().count() > 160 { text.chars().take(160).chain(['…']).collect() } else { text })
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

struct Texts(Option<Map<String, Value>>);

impl Texts {
    fn of(&self, text: &str) -> String {
        match &self.0 {
            None => text.to_owned(),
            Some(ja) => ja.get(text).and_then(Value::as_str).unwrap_or_else(|| panic!("api/ja.json lacks {text:?}")).to_owned(),
        }
    }
}

fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    value["$ref"].as_str().map_or(value, |reference| document.pointer(reference.trim_start_matches('#')).unwrap())
}

fn kind(schema: &Value) -> String {
    match &schema["type"] {
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        _ => "object".to_owned(),
    }
}

/// The table of what a call takes.
fn parameters(document: &Value, operation: &Value, texts: &Texts) -> String {
    let mut rows = Vec::new();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let parameter = resolved(document, parameter);
        if parameter["name"] != "shape" {
            rows.push((parameter["name"].clone(), parameter["in"].clone(), kind(&parameter["schema"]), parameter["description"].clone()));
        }
    }
    for (_, content) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
        let schema = resolved(document, &content["schema"]);
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let described = field["description"].clone();
            rows.push((json!(name), json!("body"), kind(resolved(document, field)), described));
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let heads = ["name", "in", "type", "meaning"].map(|head| texts.of(head)).join(" | ");
    let mut table = format!("| {heads} |\n|---|---|---|---|\n");
    for (name, place, kind, described) in rows {
        let described = described.as_str().map(|text| texts.of(text)).unwrap_or_default();
        writeln!(table, "| `{}` | {} | {kind} | {described} |", name.as_str().unwrap(), texts.of(place.as_str().unwrap())).unwrap();
    }
    table + "\n"
}

/// The table of events.
fn events(socket: &Value, texts: &Texts) -> String {
    let heads = ["event", "when", "data"].map(|head| texts.of(head)).join(" | ");
    let mut table = format!("| {heads} |\n|---|---|---|");
    for event in socket["x-events"].as_array().unwrap() {
        let data: Vec<String> = event["data"].as_array().unwrap().iter().map(|field| format!("`{}`", field.as_str().unwrap())).collect();
        write!(table, "\n| `{}` | {} | {} |", event["name"].as_str().unwrap(), texts.of(event["when"].as_str().unwrap()), data.join(", "))
            .unwrap();
    }
    table
}

/// The table of binary frames.
fn frames(socket: &Value, texts: &Texts) -> String {
    let heads = ["number", "what", "behind it", "with ?shape=documented"].map(|head| texts.of(head)).join(" | ");
    let mut table = format!("| {heads} |\n|---|---|---|---|");
    for frame in socket["x-frames"].as_array().unwrap() {
        let text = |text: &Value| texts.of(text.as_str().unwrap());
        let layout: Vec<String> = frame["layout"].as_array().unwrap().iter().map(text).collect();
        let documented = if frame["documented"] == "" { String::new() } else { text(&frame["documented"]) };
        write!(table, "\n| {} | {} | {} | {documented} |", frame["number"], text(&frame["what"]), layout.join("; ")).unwrap();
    }
    table
}

async fn server() -> Server {
    let value = Input::int("value").default(1);
    let show = Schema::new("Show").display("Show").category("test").description("Shows.").input(value).output_node();
    let server = Server::new([show], |options, dir| options.assets = Some(assets(dir)));
    server.add_jobs().await;
    server.put("models/loras/a.safetensors", safetensors(r#"{"__metadata__": {"author": "me"}}"#));
    server.put("models/loras/a.png", picture(255));
    server.put("input/a.png", picture(255));
    server
}

/// The pages in both languages.
async fn pages() -> [String; 2] {
    let server = server().await;
    let document = server.get("/openapi.json").await.json();
    let dir = server.dir.path().to_str().unwrap().to_owned();
    let ids = Regex::new("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").unwrap();
    let operations = |(path, methods): (&String, &Value)| {
        methods.as_object().unwrap().iter().map(|(method, operation)| (path.clone(), method.clone(), operation.clone())).collect::<Vec<_>>()
    };
    let all: Vec<_> = document["paths"].as_object().unwrap().iter().flat_map(operations).collect();
    // In the order of the examples, since some need what others have made; those without one come first.
    let place = |path: &str, method: &str| EXAMPLES.iter().position(|(m, template, ..)| (*m, *template) == (method, path));
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by_key(|at| place(&all[*at].0, &all[*at].1).map_or(0, |place| place + 1));
    let asset = server.upload("/upload/image", "hello.txt", b"hello", &[]).await.json()["asset"].clone();
    let mut answers = BTreeMap::new();
    for at in order {
        let (path, method, _) = &all[at];
        if WITHOUT.contains(&(method.as_str(), path.as_str())) {
            continue;
        }
        let (asked, body) = place(path, method).map_or((path.as_str(), ""), |place| (EXAMPLES[place].2, EXAMPLES[place].3));
        assert!(!asked.contains('{'), "{method} {path} has no example");
        let named = |text: &str| text.replace(ASSET, asset["id"].as_str().unwrap()).replace(CONTENT.0, CONTENT.1);
        let (asked, body) = (named(asked), named(body));
        let answer = server.send(&method.to_uppercase(), &asked, &[], body.clone()).await;
        assert!(answer.status.is_success(), "{method} {asked}: {} {}", answer.status, String::from_utf8_lossy(&answer.body));
        answers.insert(at, (asked, body, answer));
    }
    let ja = serde_json::from_str(include_str!("api/ja.json")).unwrap();
    [(include_str!("api/head.md"), Texts(None)), (include_str!("api/head.ja.md"), Texts(Some(ja)))].map(|(head, texts)| {
        let mut groups: BTreeMap<&str, String> = BTreeMap::new();
        for (at, (path, method, operation)) in all.iter().enumerate() {
            let mut text = format!("### `{} {path}`\n\n", method.to_uppercase());
            let permission = operation["x-permission"].as_str().unwrap();
            writeln!(text, "{} ({}: {permission})\n", texts.of(operation["summary"].as_str().unwrap()), texts.of("scope")).unwrap();
            text += &parameters(&document, operation, &texts);
            if let Some((asked, body, answer)) = answers.get(&at) {
                let verb = match method.as_str() {
                    "get" => String::new(),
                    "head" => "-I ".to_owned(),
                    other => format!("-X {} ", other.to_uppercase()),
                };
                let asked = ids.replace_all(asked, SAME_ID);
                let data = if body.is_empty() { String::new() } else { format!(" -d '{body}'") };
                writeln!(text, "```sh\ncurl {verb}'http://127.0.0.1:8188{asked}'{data}\n```\n").unwrap();
                match serde_json::from_slice::<Value>(&answer.body) {
                    Ok(_) if asked == "/openapi.json" => writeln!(text, "{}\n", texts.of("An OpenAPI 3.1 document.")).unwrap(),
                    Ok(json) => {
                        let json = serde_json::to_string_pretty(&shown(&json, &dir, &ids)).unwrap();
                        writeln!(text, "{}:\n\n```json\n{json}\n```\n", answer.status.as_u16()).unwrap();
                    }
                    Err(_) => writeln!(text, "{}: `{}`\n", answer.status.as_u16(), answer.header("content-type")).unwrap(),
                }
            }
            groups.entry(operation["tags"][0].as_str().unwrap()).or_default().push_str(&text);
        }
        let socket = &document["paths"]["/ws"]["get"];
        let head = head.replace("{events}", &events(socket, &texts)).replace("{frames}", &frames(socket, &texts));
        let parts = groups.iter().map(|(tag, text)| format!("## {}\n\n{text}", texts.of(tag)));
        format!("{head}{}", parts.collect::<String>()).trim_end().to_owned() + "\n"
    })
}

#[tokio::test]
async fn the_pages_tell_what_the_server_answers() {
    let docs = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs"));
    for (name, page) in ["api.md", "api.ja.md"].into_iter().zip(pages().await) {
        if std::env::var_os("COMFYD_WRITE_PAGES").is_some() {
            std::fs::write(docs.join(name), &page).unwrap();
        }
        let written = std::fs::read_to_string(docs.join(name)).unwrap_or_default();
        let first = page.lines().zip(written.lines()).find(|(now, then)| now != then);
        assert!(page == written, "docs/{name} is not what the server answers; write it with COMFYD_WRITE_PAGES=1: {first:?}");
    }
}
