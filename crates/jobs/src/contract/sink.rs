//! The test-suite of every [`EventSink`]: what each must do with events, whoever sees them. It knows nothing of how clients are reached.
//!
//! A sink's tests implement [`Harness`] and call [`run`]. Each check gets a sink of its own; a failed one panics with its name first.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::json;

use comfyd_node::PreviewImage;

use crate::event::{Event, EventKind, EventSink, NodeProgress, NodeState};
use crate::message::{Message, NodeRef};
use crate::store::{Counts, Outcome};

/// What emitting may take at most, all events of a check together: a sink that waits for a client takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a sink's tests provide.
#[async_trait]
pub trait Harness: Send + Sync {
    /// A new sink with these clients, all connected; those of earlier sinks are forgotten.
    async fn fresh(&self, clients: &[&str]) -> Arc<dyn EventSink>;

    /// What a client was told since the last call, as [`label`] words it, in order. A client that has lost its connection is told no more.
    async fn told(&self, client: &str) -> Vec<String>;

    /// Whether [`Harness::told`] can be asked. If not, only that the sink takes everything at once is checked.
    fn observable(&self) -> bool {
        true
    }

    /// How many messages may wait for a client without loss.
    fn room(&self) -> usize {
        1_000
    }
}

/// Runs every check.
///
/// # Panics
/// When a check fails; the message begins with the check's name.
pub async fn run(harness: &dyn Harness) {
    everything(harness).await;
    crowds(harness).await;
    if harness.observable() {
        order(harness).await;
        addressees(harness).await;
        figures(harness).await;
        previews(harness).await;
        slow_clients(harness).await;
        devices(harness).await;
    }
}

/// An event in words, as far as every client can tell it: pictures and texts do not name their prompt.
pub fn label(event: &Event) -> String {
    let id = &event.prompt_id;
    match &event.kind {
        EventKind::Message(Message::Start { .. }) => format!("{id} start"),
        EventKind::Message(Message::Cached { nodes, .. }) => format!("{id} cached {}", nodes.join(",")),
        EventKind::Message(Message::Success { .. }) => format!("{id} success"),
        EventKind::Message(Message::Failed(failure)) => format!("{id} error {}", json!(failure.exception_message)),
        EventKind::Message(Message::Interrupted(_)) => format!("{id} interrupted"),
        EventKind::Executing(node) => format!("{id} executing {}", node.id),
        EventKind::Idle => format!("{id} idle"),
        EventKind::Progress { node, value, max } => format!("{id} progress {} {value}/{max}", node.id),
        EventKind::ProgressState(nodes) => {
            let nodes: Vec<String> = nodes.iter().map(|n| format!("{} {}/{}", n.node.id, n.value, n.max)).collect();
            format!("{id} progress_state {}", nodes.join(","))
        }
        EventKind::Executed { node, output } => format!("{id} executed {} {output}", node.id),
        EventKind::Image { image, .. } => if image.lossless { "result" } else { "preview" }.to_owned(),
        EventKind::Queue { counts, .. } => format!("queue {} running {} waiting", counts.running, counts.pending),
        EventKind::Text { node, text } => format!("text {} {text}", node.id),
    }
}

/// A node of this id.
pub fn node(id: &str) -> NodeRef {
    NodeRef { id: id.into(), display_id: id.into(), real_id: id.into(), parent_id: None, class_type: "Class".into(), title: None }
}

fn event(prompt: &str, client: Option<&str>, kind: EventKind) -> Event {
    Event { prompt_id: prompt.into(), owner: "".into(), client_id: client.map(Into::into), kind }
}

fn progress(step: usize, steps: usize) -> EventKind {
    EventKind::Progress { node: node("3"), value: step as f64, max: steps as f64 }
}

fn image(lossless: bool) -> EventKind {
    let image = PreviewImage { width: 2, height: 1, channels: 3, pixels: Arc::new(vec![255, 0, 0, 0, 0, 255]), lossless, max_size: None };
    EventKind::Image { node: node("3"), image }
}

fn queue(version: u64, running: usize, pending: usize) -> EventKind {
    let running_ids = (0..running).map(|n| format!("r{n}")).collect();
    EventKind::Queue { version, counts: Counts { running, pending, running_ids, ..Counts::default() } }
}

/// The kind that comes after another in a prompt with one of each: a new kind must find its place here.
fn after(kind: Option<&EventKind>) -> Option<EventKind> {
    let end = |outcome: Outcome| outcome.messages.into_iter().next_back().map(EventKind::Message);
    let prompt_id: Arc<str> = "p".into();
    Some(match kind {
        None => EventKind::Message(Message::Start { prompt_id, timestamp_ms: 1 }),
        Some(EventKind::Message(Message::Start { .. })) => {
            EventKind::Message(Message::Cached { nodes: vec!["1".into(), "2".into()], prompt_id, timestamp_ms: 1 })
        }
        Some(EventKind::Message(Message::Cached { .. })) => EventKind::Executing(node("3")),
        Some(EventKind::Executing(_)) => progress(1, 4),
        Some(EventKind::Progress { .. }) => {
            EventKind::ProgressState(vec![NodeProgress { node: node("3"), state: NodeState::Running, value: 1.0, max: 4.0 }])
        }
        Some(EventKind::ProgressState(_)) => image(false),
        Some(EventKind::Image { image: shown, .. }) if !shown.lossless => image(true),
        Some(EventKind::Image { .. }) => EventKind::Text { node: node("3"), text: "half done é".to_owned() },
        Some(EventKind::Text { .. }) => EventKind::Executed { node: node("3"), output: json!({"images": []}) },
        Some(EventKind::Executed { .. }) => EventKind::Message(Message::Success { prompt_id, timestamp_ms: 2 }),
        Some(EventKind::Message(Message::Success { .. })) => end(Outcome::failed("p", "RuntimeError", "broke", 1, 1))?,
        Some(EventKind::Message(Message::Failed(_))) => end(Outcome::interrupted("p", 1, 1))?,
        Some(EventKind::Message(Message::Interrupted(_))) => queue(1, 1, 2),
        Some(EventKind::Queue { .. }) => EventKind::Idle,
        Some(EventKind::Idle) => return None,
    })
}

/// One of each kind.
fn kinds() -> Vec<EventKind> {
    let mut kinds: Vec<EventKind> = Vec::new();
    while let Some(kind) = after(kinds.last()) {
        kinds.push(kind);
    }
    kinds
}

fn in_time(check: &str, began: Instant) {
    assert!(began.elapsed() < PATIENCE, "{check}: emitting took {:?}: a sink must not wait", began.elapsed());
}

async fn everything(harness: &dyn Harness) {
    const CHECK: &str = "everything";
    let sink = harness.fresh(&["me"]).await;
    let began = Instant::now();
    let mut wanted = Vec::new();
    for kind in kinds() {
        let event = event("p", Some("me"), kind);
        wanted.push(label(&event));
        sink.emit(event);
    }
    in_time(CHECK, began);
    if harness.observable() {
        assert_eq!(harness.told("me").await, wanted, "{CHECK}: a client is told every kind of event");
    }
}

/// Clients that are not there, none at all, and far more events than anybody reads.
async fn crowds(harness: &dyn Harness) {
    const CHECK: &str = "crowds";
    let began = Instant::now();
    for clients in [&["me"][..], &[]] {
        let sink = harness.fresh(clients).await;
        for client in [Some("me"), Some("nobody"), Some(""), None] {
            for kind in kinds() {
                sink.emit(event("p", client, kind));
            }
            for step in 0..3_000 {
                sink.emit(event("p", client, progress(step, 3_000)));
            }
        }
    }
    in_time(CHECK, began);
}

async fn order(harness: &dyn Harness) {
    const CHECK: &str = "order";
    let sink = harness.fresh(&["me"]).await;
    let mut wanted = Vec::new();
    for step in 0..100 {
        let kind = if step % 10 == 0 { EventKind::Executing(node(&step.to_string())) } else { progress(step, 100) };
        let event = event("p", Some("me"), kind);
        wanted.push(label(&event));
        sink.emit(event);
    }
    assert_eq!(harness.told("me").await, wanted, "{CHECK}: events arrive in their order");
    assert!(harness.told("me").await.is_empty(), "{CHECK}: nothing is told twice");
}

async fn addressees(harness: &dyn Harness) {
    const CHECK: &str = "addressees";
    let sink = harness.fresh(&["a", "b"]).await;
    for kind in kinds() {
        for client in [Some("a"), Some("nobody"), None] {
            let everybody = event("p", client, kind.clone()).broadcast();
            // The queue's figures are told once; whom they come from does not matter.
            if everybody && client.is_some() && matches!(kind, EventKind::Queue { .. }) {
                continue;
            }
            let event = event("p", client, kind.clone());
            let wanted = label(&event);
            sink.emit(event);
            let (a, b) = (harness.told("a").await, harness.told("b").await);
            let to_a = everybody || client == Some("a");
            assert_eq!(a, if to_a { vec![wanted.clone()] } else { vec![] }, "{CHECK}: told to a, of an event to {client:?}");
            assert_eq!(b, if everybody { vec![wanted.clone()] } else { vec![] }, "{CHECK}: told to b, of an event to {client:?}");
        }
    }
}

/// Several threads tell the queue's figures; whoever comes late must not make clients believe the past.
async fn figures(harness: &dyn Harness) {
    const CHECK: &str = "figures";
    let sink = harness.fresh(&["me"]).await;
    for (version, running, pending) in [(3, 1, 4), (5, 1, 2), (4, 1, 3), (6, 0, 2)] {
        sink.emit(event("p", None, queue(version, running, pending)));
    }
    let wanted = ["queue 1 running 4 waiting", "queue 1 running 2 waiting", "queue 0 running 2 waiting"];
    assert_eq!(harness.told("me").await, wanted, "{CHECK}: older figures are not told after newer ones");
}

/// What a client that is behind loses.
async fn previews(harness: &dyn Harness) {
    const CHECK: &str = "previews";
    let sink = harness.fresh(&["me"]).await;
    let began = Instant::now();
    let (states, mut wanted) = (harness.room() / 4, Vec::new());
    for step in 0..states {
        for _ in 0..8 {
            sink.emit(event("p", Some("me"), image(false)));
        }
        let kind = if step % 8 == 0 { image(true) } else { progress(step, states) };
        let event = event("p", Some("me"), kind);
        wanted.push(label(&event));
        sink.emit(event);
    }
    in_time(CHECK, began);
    let told: Vec<String> = harness.told("me").await.into_iter().filter(|what| what != "preview").collect();
    assert_eq!(told, wanted, "{CHECK}: only previews may be lost");
}

/// A client that reads nothing costs nobody else an event.
async fn slow_clients(harness: &dyn Harness) {
    const CHECK: &str = "slow clients";
    let sink = harness.fresh(&["slow", "quick"]).await;
    let began = Instant::now();
    let (mut wanted, mut told) = (Vec::new(), Vec::new());
    let rounds = 4 * harness.room();
    for step in 0..rounds {
        sink.emit(event("s", Some("slow"), progress(step, rounds)));
        let event = event("q", Some("quick"), progress(step, rounds));
        wanted.push(label(&event));
        sink.emit(event);
        if step % 64 == 0 {
            told.extend(harness.told("quick").await);
        }
    }
    in_time(CHECK, began);
    told.extend(harness.told("quick").await);
    assert_eq!(told, wanted, "{CHECK}: the quick one gets everything");
}

/// Each device has a thread of its own.
async fn devices(harness: &dyn Harness) {
    const CHECK: &str = "devices";
    const DEVICES: usize = 4;
    let sink = harness.fresh(&["me"]).await;
    let each = (harness.room() / DEVICES / 2).min(100);
    let threads: Vec<_> = (0..DEVICES)
        .map(|device| {
            let sink = sink.clone();
            std::thread::spawn(move || {
                for step in 0..each {
                    sink.emit(event(&format!("p{device}"), Some("me"), progress(step, each)));
                }
            })
        })
        .collect();
    for thread in threads {
        assert!(thread.join().is_ok(), "{CHECK}: a thread panicked");
    }
    let told = harness.told("me").await;
    assert_eq!(told.len(), DEVICES * each, "{CHECK}: nothing is lost");
    for device in 0..DEVICES {
        let prompt = format!("p{device}");
        let own: Vec<&String> = told.iter().filter(|what| what.starts_with(&prompt)).collect();
        let wanted: Vec<String> = (0..each).map(|step| label(&event(&prompt, None, progress(step, each)))).collect();
        assert_eq!(own, wanted.iter().collect::<Vec<_>>(), "{CHECK}: the order of {prompt}");
    }
}
