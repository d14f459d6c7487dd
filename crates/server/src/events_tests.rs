//! That the events and frames of a running server are those that its document tells: each name, and each field of the data.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use comfyd_assets::ScanEvent;
use comfyd_jobs::event::{NodeProgress, NodeState};
use comfyd_jobs::{Event, EventKind, EventSink, Failure, Interruption, Message as Told};
use comfyd_node::PreviewImage;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::document_tests::node;
use crate::document_tests::support::{Server, safetensors};
use crate::routes::download;
use crate::services::download::{Downloads, Policy};

/// What the document tells, and what of it was seen.
struct Described {
    events: BTreeMap<String, BTreeSet<String>>,
    frames: BTreeSet<u64>,
    seen: BTreeSet<(String, String)>,
    seen_frames: BTreeSet<u64>,
}

impl Described {
    fn read(document: &Value) -> Self {
        let socket = &document["paths"]["/ws"]["get"];
        let list = |value: &Value| value.as_array().unwrap().clone();
        let fields = |event: &Value| list(&event["data"]).iter().map(|field| field.as_str().unwrap().to_owned()).collect();
        let events = list(&socket["x-events"]).iter().map(|event| (event["name"].as_str().unwrap().to_owned(), fields(event))).collect();
        let frames = list(&socket["x-frames"]).iter().map(|frame| frame["number"].as_u64().unwrap()).collect();
        Self { events, frames, seen: BTreeSet::new(), seen_frames: BTreeSet::new() }
    }

    fn event(&mut self, event: &Value) {
        let name = event["type"].as_str().unwrap();
        assert!(self.events.contains_key(name), "the event {name} is not described");
        self.seen.insert((name.to_owned(), String::new()));
        self.fields(name, "", &event["data"]);
    }

    /// Takes note of what is at a place of an event's data, down to what the document tells as one.
    fn fields(&mut self, name: &str, place: &str, value: &Value) {
        if self.events[name].contains(place) {
            self.seen.insert((name.to_owned(), place.to_owned()));
            return;
        }
        let inner: Vec<(String, &Value)> = match value {
            Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), value)).collect(),
            Value::Array(items) => items.iter().map(|item| ("*".to_owned(), item)).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => panic!("{name}: {place} is not described"),
        };
        for (key, value) in inner {
            let below = |key: &str| if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
            let any = below("*");
            let is_any = self.events[name].iter().any(|field| field.starts_with(&format!("{any}.")));
            self.fields(name, &if is_any { any } else { below(&key) }, value);
        }
    }

    fn frame(&mut self, frame: &[u8]) {
        let number = u64::from(u32::from_be_bytes(frame[..4].try_into().unwrap()));
        assert!(self.frames.contains(&number), "the frame {number} is not described");
        self.seen_frames.insert(number);
    }

    fn unseen(&self) -> Vec<String> {
        let whole = |name: &String| (name.clone(), String::new());
        let told = self
            .events
            .iter()
            .flat_map(|(name, fields)| fields.iter().map(|field| (name.clone(), field.clone())).chain([whole(name)]).collect::<Vec<_>>());
        let events = told.filter(|told| !self.seen.contains(told)).map(|(name, field)| format!("{name} {field}"));
        events.chain(self.frames.difference(&self.seen_frames).map(|number| format!("frame {number}"))).collect()
    }
}

/// One of each kind.
fn scan_events() -> [ScanEvent; 11] {
    let roots = || vec!["input"];
    [
        ScanEvent::Started { roots: roots(), total: Some(1), phase: "fast" },
        ScanEvent::Started { roots: roots(), total: None, phase: "enrich" },
        ScanEvent::Found { phase: "fast", scanned: 1, total: 2, created: 1 },
        ScanEvent::LookedInto { phase: "enrich", enriched: 1 },
        ScanEvent::FastComplete { roots: roots(), created: 1, skipped: 0, total: 1 },
        ScanEvent::EnrichComplete { roots: roots(), enriched: 1 },
        ScanEvent::Completed { phase: "full", total: 1, created: 1, enriched: 1, skipped: 0, elapsed: 0.1 },
        ScanEvent::Cancelled { scanned: 1, total: 2, created: 1 },
        ScanEvent::Paused {},
        ScanEvent::Resumed {},
        ScanEvent::Error { message: "full".to_owned() },
    ]
}

/// One of each kind of what prompts tell.
fn prompt_events() -> Vec<EventKind> {
    let (prompt_id, timestamp_ms) = (|| "p".into(), 1);
    let failure = Failure {
        prompt_id: prompt_id(),
        node_id: "3".into(),
        node_type: "KSampler".into(),
        executed: vec!["1".into()],
        exception_message: "no".to_owned(),
        exception_type: "ValueError".into(),
        traceback: Vec::new(),
        current_inputs: json!({}),
        current_outputs: Vec::new(),
        timestamp_ms: Some(timestamp_ms),
    };
    let interruption =
        Interruption { prompt_id: prompt_id(), node_id: "3".into(), node_type: "KSampler".into(), executed: Vec::new(), timestamp_ms };
    let picture = |lossless| {
        let image = PreviewImage { width: 8, height: 4, channels: 3, pixels: Arc::new(vec![7; 8 * 4 * 3]), lossless, max_size: None };
        EventKind::Image { node: node(), image }
    };
    let progress = NodeProgress { node: node(), state: NodeState::Running, value: 1.0, max: 2.0 };
    vec![
        EventKind::Message(Told::Start { prompt_id: prompt_id(), timestamp_ms }),
        EventKind::Message(Told::Cached { nodes: Vec::new(), prompt_id: prompt_id(), timestamp_ms }),
        EventKind::Executing(node()),
        EventKind::Progress { node: node(), value: 1.0, max: 2.0 },
        EventKind::ProgressState(vec![progress]),
        EventKind::Text { node: node(), text: "half".to_owned() },
        picture(false),
        picture(true),
        EventKind::Executed { node: node(), output: json!({"text": ["a"]}) },
        EventKind::Message(Told::Failed(Box::new(failure))),
        EventKind::Message(Told::Interrupted(interruption)),
        EventKind::Message(Told::Success { prompt_id: prompt_id(), timestamp_ms }),
        EventKind::Idle,
    ]
}

#[tokio::test]
async fn every_event_and_frame_is_described_and_comes() {
    let server = Server::new([], |_, _| ());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = server.router.clone().route("/host/m", axum::routing::get(|| async { safetensors("{}") }));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let connect = async |query: &str| tokio_tungstenite::connect_async(format!("ws://{address}/ws?clientId=me{query}")).await.unwrap().0;
    let mut described = Described::read(&server.get("/openapi.json").await.json());

    // A client for each form of pictures, since another connection of the same id takes the earlier one's place.
    for (query, flags) in [("", json!({})), ("&preview=raw", json!({})), ("", json!({"supports_preview_metadata": true}))] {
        let mut client = connect(query).await;
        client.send(Message::Text(json!({"type": "feature_flags", "data": flags}).to_string().into())).await.unwrap();
        while let Some(message) = client.next().await {
            let Message::Text(text) = message.unwrap() else { continue };
            let event: Value = serde_json::from_str(text.as_str()).unwrap();
            described.event(&event);
            if event["type"] == "feature_flags" {
                break;
            }
        }
        server.send("PATCH", "/internal/logs/subscribe", &[], json!({"clientId": "me", "enabled": true}).to_string()).await;
        let order = json!({
            "url": format!("http://{address}/host/m"), "model_directory": "loras", "model_filename": "m.safetensors",
        });
        download::answer(&server.app, &Downloads::new(Policy::local()), &order).await.unwrap();
        scan_events().iter().for_each(|event| server.app.hub.event(event.name(), event, None, None));
        for kind in prompt_events() {
            server.app.hub.emit(Event { prompt_id: "p".into(), owner: "".into(), client_id: Some("me".into()), kind });
        }
        server.app.log.keep("2026-11-01T12:00:00Z", "a line");
        // The log's lines come last: they are sent a few times a second.
        loop {
            match client.next().await.unwrap().unwrap() {
                Message::Text(text) => {
                    let event: Value = serde_json::from_str(text.as_str()).unwrap();
                    described.event(&event);
                    if event["type"] == "logs" {
                        break;
                    }
                }
                Message::Binary(frame) => described.frame(&frame),
                other => panic!("an unexpected message: {other:?}"),
            }
        }
    }
    assert_eq!(described.unseen(), Vec::<String>::new(), "the document tells of more than comes");
}
