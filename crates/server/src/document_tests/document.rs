//! The API document read as data: its endpoints, parameters, events and examples, and what tests have looked at of it.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use serde_json::Value;

pub(super) const DOCUMENT: &str = include_str!("../../../../docs/prompt-server-api.ja.md");

/// A parameter, an event, or a field of an error: its name, and what the document says of it.
#[derive(Debug, Default)]
pub(super) struct Item {
    pub(super) name: String,
    pub(super) text: String,
}

impl Item {
    /// What the document calls the default.
    pub(super) fn default(&self) -> &str {
        let (_, rest) = self.text.split_once("デフォルトは `").unwrap_or_else(|| panic!("{} has no default", self.name));
        rest.split_once('`').unwrap().0
    }

    /// The values that it may have.
    pub(super) fn choices(&self) -> Vec<&str> {
        let line = self.text.lines().find(|line| line.contains("を指定します")).unwrap();
        line.split('`').skip(1).step_by(2).collect()
    }
}

/// What a text says is contained in an answer or event: `…には、A、B、Cなどが含まれます`.
pub(super) fn contained(text: &str) -> Vec<&str> {
    let sentence = text.split(['。', '\n']).find(|sentence| sentence.contains("が含まれ")).unwrap_or_default();
    let list = sentence.split("が含まれ").next().unwrap();
    let list = list.split_once("には、").map_or(list, |(_, list)| list).trim();
    list.trim_end_matches("の情報").trim_end_matches("など").split('、').collect()
}

/// One endpoint.
#[derive(Debug, Default)]
pub(super) struct Endpoint {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) text: String,
    pub(super) items: Vec<Item>,
    pub(super) answer: Option<Value>,
}

/// The document, and what tests have looked at of it.
#[derive(Default)]
pub(super) struct Document {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) events: Vec<Item>,
    pub(super) error: Endpoint,
    pub(super) seen: Mutex<BTreeSet<String>>,
}

impl Document {
    pub(super) fn read() -> Self {
        let mut document = Self::default();
        let (mut in_events, mut in_error, mut json) = (false, false, None::<String>);
        for line in DOCUMENT.lines() {
            if let Some(text) = &mut json {
                if line == "```" {
                    let answer = example(text);
                    let end = if in_error { &mut document.error } else { document.endpoints.last_mut().unwrap() };
                    assert!(end.answer.replace(answer).is_none(), "{} has two answers", end.path);
                    json = None;
                } else {
                    text.push_str(&format!("{line}\n"));
                }
                continue;
            }
            let end = if in_error { &mut document.error } else { document.endpoints.last_mut().unwrap_or(&mut document.error) };
            let items = if in_events { &mut document.events } else { &mut end.items };
            if line == "```json" {
                json = Some(String::new());
            } else if let Some(path) =
                line.strip_prefix("**エンドポイント:** ").or_else(|| line.strip_prefix("**").filter(|l| l.starts_with('`')))
            {
                in_events = false;
                let path = path.trim_matches(['`', '*']).to_owned();
                document.endpoints.push(Endpoint { path, ..Endpoint::default() });
            } else if let Some(method) = line.strip_prefix("**メソッド:** ") {
                end.method = method.to_owned();
            } else if let Some(text) = line.strip_prefix("**説明:** ") {
                end.text = text.to_owned();
            } else if line == "**イベント:**" {
                in_events = true;
            } else if line == "### エラーレスポンス" {
                in_error = true;
            } else if let Some((name, text)) = line.strip_prefix("- `").and_then(|line| line.split_once("`:")) {
                items.push(Item { name: name.to_owned(), text: text.to_owned() });
            } else if let Some(text) = line.strip_prefix("    - ") {
                items.last_mut().unwrap().text.push_str(&format!("\n{text}"));
            }
        }
        document
    }

    pub(super) fn endpoint(&self, method: &str, path: &str) -> &Endpoint {
        let found = self.endpoints.iter().find(|end| end.method == method && end.path == path);
        self.seen.lock().insert(format!("{method} {path}"));
        found.unwrap_or_else(|| panic!("the document has no {method} {path}"))
    }

    pub(super) fn item(&self, method: &str, path: &str, name: &str) -> &Item {
        let found = self.endpoint(method, path).items.iter().find(|item| item.name == name);
        self.seen.lock().insert(format!("{method} {path} {name}"));
        found.unwrap_or_else(|| panic!("the document has no {name} of {method} {path}"))
    }

    pub(super) fn event(&self, name: &str) -> &Item {
        self.seen.lock().insert(name.to_owned());
        self.events.iter().find(|event| event.name == name).unwrap()
    }

    pub(super) fn error(&self, name: &str) -> &Item {
        self.seen.lock().insert(format!("error {name}"));
        self.error.items.iter().find(|item| item.name == name).unwrap()
    }

    /// Everything that the document names.
    pub(super) fn all(&self) -> BTreeSet<String> {
        let ends = self.endpoints.iter().flat_map(|end| {
            let items = end.items.iter().map(|item| format!("{} {} {}", end.method, end.path, item.name));
            items.chain([format!("{} {}", end.method, end.path)])
        });
        let events = self.events.iter().map(|event| event.name.clone());
        ends.chain(events).chain(self.error.items.iter().map(|item| format!("error {}", item.name))).collect()
    }
}

/// The document's JSON, with `...` and what it leaves over taken out.
pub(super) fn example(text: &str) -> Value {
    let kept: String = text.lines().filter(|line| !line.trim().starts_with("...")).flat_map(|line| line.trim().chars()).collect();
    let kept = kept.replace(",]", "]").replace(",}", "}");
    serde_json::from_str(&kept).unwrap_or_else(|e| panic!("{e}: {kept}"))
}

/// What kind of value the document means by the text that stands for it: by the field's name, "" for the items of a list.
fn means(field: &str, value: &Value) -> bool {
    match field {
        "" | "name" | "subfolder" | "type" | "author" | "description" | "license" | "os" | "comfyui_version" | "python_version"
        | "pytorch_version" | "prompt_id" | "status" | "message" | "download_path" | "display_name" | "python_module" | "category"
        | "error" => value.is_string(),
        "embedded_python" | "output_node" | "deprecated" | "experimental" => value.is_boolean(),
        "argv" | "output" | "output_is_list" | "output_name" | "node_errors" => value.is_array(),
        "input" | "input_order" => value.is_object(),
        // The prompt that ran: a graph.
        "prompt" => value.as_object().is_some_and(|graph| graph.values().all(|node| node["class_type"].is_string())),
        "vram_total" | "vram_free" | "torch_vram_total" | "torch_vram_free" | "queue_remaining" | "queue_running" | "queue_pending" => {
            value.is_u64()
        }
        "number" | "timestamp" => value.is_number(),
        // The processor has none.
        "index" => value.is_u64() || value.is_null(),
        field => panic!("the document has a field that this test does not know: {field}"),
    }
}

/// The places of an answer that are not as the document's example has them.
pub(super) fn misfits(example: &Value, answer: &Value, place: &str) -> Vec<String> {
    let wrong = || vec![place.to_owned()];
    match example {
        Value::Object(fields) if fields.keys().any(|key| key.starts_with("NodeClassName")) => {
            let Some(classes) = answer.as_object().filter(|classes| !classes.is_empty()) else { return wrong() };
            let class = fields.values().next().unwrap();
            let found: BTreeSet<String> = classes.values().flat_map(|answer| misfits(class, answer, place)).collect();
            found.into_iter().collect()
        }
        Value::Object(fields) => {
            if !answer.is_object() {
                return wrong();
            }
            let each = fields.iter().map(|(name, example)| match answer.get(name) {
                Some(answer) => misfits(example, answer, &format!("{place}/{name}")),
                None => vec![format!("{place}/{name}")],
            });
            each.flatten().collect()
        }
        Value::Array(examples) => match (answer.as_array(), examples.first()) {
            (None, _) => wrong(),
            (Some(_), None) => Vec::new(),
            (Some(items), Some(_)) if items.is_empty() => wrong(),
            (Some(items), Some(example)) => items.iter().flat_map(|item| misfits(example, item, &format!("{place}/"))).collect(),
        },
        Value::String(_) => {
            if means(place.rsplit('/').next().unwrap(), answer) {
                Vec::new()
            } else {
                wrong()
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => panic!("{place}: {example} stands for nothing"),
    }
}
