//! The hub under the test-suite of event sinks.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use axum::extract::ws::Message;
use comfyd_jobs::contract::sink::{self, Harness};
use comfyd_jobs::{Counts, Event, EventKind, EventSink, HistoryEntry, Job, NodeRef, Outcome, Secrets};
use comfyd_memory::Account;
use comfyd_node::PreviewImage;
use futures_util::FutureExt;
use parking_lot::Mutex;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};

use super::mailbox::{Kind, Queued};
use super::{Hearer, Hub, Mailbox};
use crate::events::Told;

const ALL: Hearer = Hearer { owner: None, all: true };

const ROOM: usize = 256;

#[derive(Default)]
struct Clients {
    mailboxes: Mutex<HashMap<String, Arc<Mailbox>>>,
}

#[async_trait]
impl Harness for Clients {
    async fn fresh(&self, clients: &[&str]) -> Arc<dyn EventSink> {
        let hub = Hub::new(ROOM, 8, &Account::unbounded());
        let connected = clients.iter().map(|client| ((*client).to_owned(), hub.connect(client, ALL, None).unwrap()));
        *self.mailboxes.lock() = connected.collect();
        Arc::new(hub)
    }

    async fn told(&self, client: &str) -> Vec<String> {
        let mailbox = self.mailboxes.lock().get(client).cloned();
        let Some(mailbox) = mailbox else { return Vec::new() };
        // A last message: whatever stands before it has been encoded when it comes.
        mailbox.push(Queued::new(Message::Text("end".into()), Kind::Needed));
        let mut told = Vec::new();
        while let Ok(message) = mailbox.next().await
            && message != Message::Text("end".into())
        {
            told.push(words(&message));
        }
        told
    }

    fn room(&self) -> usize {
        ROOM
    }
}

/// A message as [`sink::label`] words the event that it tells.
fn words(message: &Message) -> String {
    match message {
        Message::Text(text) => json_words(&serde_json::from_str(text.as_str()).unwrap()),
        Message::Binary(frame) => {
            let number = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
            match number(0) {
                1 => ["preview", "result"][number(4) as usize - 1].to_owned(),
                3 => {
                    let (node, text) = frame[8..].split_at(number(4) as usize);
                    format!("text {} {}", str::from_utf8(node).unwrap(), str::from_utf8(text).unwrap())
                }
                other => panic!("an unexpected frame: {other}"),
            }
        }
        other => panic!("an unexpected message: {other:?}"),
    }
}

fn json_words(message: &Value) -> String {
    let data = &message["data"];
    let text = |key: &str| data[key].as_str().unwrap_or_default().to_owned();
    let (id, node) = (text("prompt_id"), text("node"));
    match message["type"].as_str().unwrap() {
        "execution_start" => format!("{id} start"),
        "execution_cached" => {
            let nodes: Vec<&str> = data["nodes"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
            format!("{id} cached {}", nodes.join(","))
        }
        "executing" if data["node"].is_null() => format!("{id} idle"),
        "executing" => format!("{id} executing {node}"),
        "progress" => format!("{id} progress {node} {}/{}", data["value"], data["max"]),
        "progress_state" => {
            let nodes = data["nodes"].as_object().unwrap().iter();
            let nodes: Vec<String> = nodes.map(|(node, at)| format!("{node} {}/{}", at["value"], at["max"])).collect();
            format!("{id} progress_state {}", nodes.join(","))
        }
        "executed" => format!("{id} executed {node} {}", data["output"]),
        "execution_success" => format!("{id} success"),
        "execution_error" => format!("{id} error {}", data["exception_message"]),
        "execution_interrupted" => format!("{id} interrupted"),
        "status" => {
            let figures = &data["status"]["exec_info"];
            format!("queue {} running {} waiting", figures["queue_running"], figures["queue_pending"])
        }
        other => panic!("an unexpected event: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract() {
    sink::run(&Clients::default()).await;
}

#[test]
fn a_slow_client_is_told_why_it_is_disconnected() {
    let hub = Hub::new(8, 8, &Account::unbounded());
    let mailbox = hub.connect("slow", ALL, None).unwrap();
    for _ in 0..9 {
        hub.broadcast(Told::Logs, &Value::Null);
    }
    let why = mailbox.next().now_or_never().unwrap().unwrap_err().frame();
    assert_eq!((why.code, why.reason.as_str()), (1008, "too slow: too many messages were waiting"));
}

#[test]
fn who_is_behind_gets_the_newest_figures_only() {
    let hub = Hub::new(16, 8, &Account::unbounded());
    let (idle, busy) = (hub.connect("idle", ALL, None).unwrap(), hub.connect("busy", ALL, None).unwrap());
    let counts = |pending| Counts { pending, ..Counts::default() };
    for n in 1..1_000 {
        hub.status(n as u64, &counts(n));
        if n % 100 == 0 {
            hub.send(&busy, Told::Logs, &n);
        }
    }
    let texts = |mailbox: &Mailbox| {
        let messages = std::iter::from_fn(|| mailbox.next().now_or_never());
        let texts = messages.map(|message| message.unwrap().into_text().unwrap().to_string());
        texts.collect::<Vec<String>>()
    };
    let idle = texts(&idle);
    assert!(idle.len() <= 5 && idle.last().unwrap().contains("\"queue_pending\":999"), "{idle:?}");
    let busy = texts(&busy);
    assert_eq!(busy.iter().filter(|text| text.contains("logs")).count(), 9, "{busy:?}");
    assert!(busy.last().unwrap().contains("\"queue_pending\":999"), "{busy:?}");
}

fn node() -> NodeRef {
    NodeRef { id: "3".into(), display_id: "3".into(), real_id: "3".into(), parent_id: None, class_type: "A".into(), title: None }
}

/// A preview for everybody, of 2 x 1 pixels in a buffer with so many bytes.
fn preview(bytes: usize) -> Event {
    let image = PreviewImage { width: 2, height: 1, channels: 3, pixels: Arc::new(vec![7; bytes]), lossless: false, max_size: None };
    Event { prompt_id: "p".into(), owner: "".into(), client_id: None, kind: EventKind::Image { node: node(), image } }
}

#[tokio::test]
async fn a_picture_is_encoded_once_for_each_form_and_when_it_is_sent() {
    let hub = Hub::new(8, 16, &Account::unbounded());
    let [one, two, raw] = ["one", "two", "raw"].map(|id| hub.connect(id, ALL, None).unwrap());
    hub.emit(preview(6));
    // Nothing is decided before it is sent.
    raw.set_abilities(|abilities| abilities.raw_previews = true);
    let mut frames = Vec::new();
    for mailbox in [&one, &two, &raw] {
        let Ok(Message::Binary(frame)) = mailbox.next().await else { panic!("no picture") };
        frames.push(frame);
    }
    assert_eq!(frames[0].as_ptr(), frames[1].as_ptr(), "one frame for both");
    assert_eq!(frames[2][..16], [0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 16, 0, 0, 0, 8], "another form");
}

#[tokio::test]
async fn previews_that_wait_are_bounded_in_bytes_and_everything_else_stays_in_order() {
    let hub = Hub::new(64, 8, &Account::unbounded());
    let mailbox = hub.connect("slow", ALL, None).unwrap();
    for n in 0..4 {
        hub.emit(preview(16 << 20));
        hub.broadcast(Told::Logs, &n);
    }
    hub.broadcast(Told::Download, &Value::Null);
    let mut told = Vec::new();
    while let Ok(message) = mailbox.next().await {
        match message {
            Message::Text(text) if text.contains("download") => break,
            Message::Text(text) => told.push(text.chars().filter(char::is_ascii_digit).collect()),
            _picture => told.push("preview".to_owned()),
        }
    }
    assert_eq!(told, ["0", "1", "preview", "2", "preview", "3"]);
}

#[test]
fn results_wait_as_they_are_sent() {
    let hub = Hub::new(64, 8, &Account::unbounded());
    // As pixels they would have more bytes than may wait.
    for _ in 0..6 {
        let mut event = preview(3 << 22);
        if let EventKind::Image { image, .. } = &mut event.kind {
            (image.width, image.height, image.lossless) = (1 << 11, 1 << 11, true);
        }
        hub.emit(Event { client_id: Some("late".into()), ..event });
    }
    let late = hub.connect("late", ALL, None).unwrap();
    let frames: Vec<_> = std::iter::from_fn(|| late.next().now_or_never()).collect();
    assert_eq!(frames.len(), 6);
    assert!(frames.iter().all(|frame| matches!(frame, Ok(Message::Binary(png)) if png.len() < 1 << 20)));
}

/// What a hub told a connection so far.
fn told(mailbox: &Mailbox) -> Vec<String> {
    std::iter::from_fn(|| mailbox.next().now_or_never()).map_while(Result::ok).map(|message| words(&message)).collect()
}

#[test]
fn what_an_administrator_was_not_sent_waits_for_one() {
    let hub = Hub::new(ROOM, 8, &Account::unbounded());
    let who = |all| Hearer { owner: Some("ann".into()), all };
    let interrupted = |owner: &str, id: &str| {
        let message = Outcome::interrupted(id, 0, 0).messages.remove(0);
        hub.emit(Event { prompt_id: id.into(), owner: owner.into(), client_id: None, kind: EventKind::Message(message) });
    };
    let admin = hub.connect("page", who(true), None).unwrap();
    interrupted("ann", "hers");
    interrupted("bob", "his");
    hub.disconnect("page", &admin);
    // The same user and client with a lesser key, after the administrator's end and in its place.
    let lesser = hub.connect("page", who(false), None).unwrap();
    assert_eq!(told(&lesser), ["hers interrupted"]);
    hub.disconnect("page", &lesser);
    let admin = hub.connect("page", who(true), None).unwrap();
    interrupted("bob", "later");
    assert!(told(&hub.connect("page", who(false), None).unwrap()).is_empty());
    drop(admin);
    assert_eq!(told(&hub.connect("page", who(true), None).unwrap()), ["his interrupted", "later interrupted"]);
}

#[test]
fn who_comes_after_a_restart_is_told_what_it_ended() {
    let hub = Hub::new(ROOM, 8, &Account::unbounded());
    let job = Job {
        id: "p".into(),
        number: 0.0,
        owner: "ann".into(),
        client_id: Some("page".into()),
        workflow_id: None,
        prompt: to_raw_value(&json!({})).unwrap().into(),
        extra_data: to_raw_value(&json!({})).unwrap().into(),
        secrets: Secrets::default(),
        outputs: Vec::new(),
        created_ms: 0,
        needs: Default::default(),
    };
    let outcome = Outcome::stopped(&job, 0, 1);
    hub.ended(&HistoryEntry::new(job.clone(), &outcome, usize::MAX).unwrap());
    hub.ended(&HistoryEntry::new(Job { client_id: None, ..job }, &outcome, usize::MAX).unwrap());
    let other = hub.connect("page", Hearer { owner: Some("bob".into()), all: true }, None).unwrap();
    assert!(told(&other).is_empty());
    let own = hub.connect("page", Hearer { owner: Some("ann".into()), all: false }, None).unwrap();
    let told = told(&own);
    assert!(told.len() == 2 && told[0].starts_with("p error \"the server stopped"), "{told:?}");
    assert_eq!(told[1], "p idle");
}

#[test]
fn who_comes_again_is_told_where_each_of_its_prompts_is() {
    let hub = Hub::new(ROOM, 8, &Account::unbounded());
    let emit = |id: &str, client: &str, kind| {
        hub.emit(Event { prompt_id: id.into(), owner: "".into(), client_id: Some(client.into()), kind });
    };
    let first = hub.connect("me", ALL, None).unwrap();
    for (id, client) in [("p", "me"), ("q", "me"), ("r", "other")] {
        emit(id, client, EventKind::Executing(node()));
    }
    assert_eq!(told(&first).len(), 2);
    hub.disconnect("me", &first);
    let again = told(&hub.connect("me", ALL, None).unwrap());
    assert!(again.len() == 2 && again[0].starts_with("p ") && again[1].starts_with("q "), "{again:?}");
    emit("p", "me", EventKind::Idle);
    let last = told(&hub.connect("me", ALL, None).unwrap());
    assert!(last.len() == 2 && last[0].starts_with("q ") && last[1] == "p idle", "what was missed of one leaves the other: {last:?}");
}

#[test]
fn what_is_said_for_a_users_prompt_reaches_that_user_alone_whoever_else_runs_one() {
    let hub = Hub::new(ROOM, 8, &Account::unbounded());
    let connect = |name: &str, all| hub.connect(name, Hearer { owner: Some(name.into()), all }, None).unwrap();
    let [ann, bob, boss] = [connect("ann", false), connect("bob", false), connect("boss", true)];
    for (id, owner) in [("hers", "ann"), ("his", "bob")] {
        let kind = EventKind::Executing(node());
        hub.emit(Event { prompt_id: id.into(), owner: owner.into(), client_id: None, kind });
    }
    hub.event("pack", &json!({}), None, Some("ann"));
    hub.binary(7, b"x", Some("bob"), Some("ann"));
    hub.event("all", &json!({}), None, None);
    let count = |mailbox: &Mailbox| std::iter::from_fn(|| mailbox.next().now_or_never()).count();
    assert_eq!([count(&ann), count(&bob), count(&boss)], [2, 1, 2]);
}
