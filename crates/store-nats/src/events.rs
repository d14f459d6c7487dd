//! Events on their way from the process that runs a prompt to those that have its clients: core subjects, one for each prompt, nothing of
//! which is stored. What belongs into the history is in the outcome, so that an event that is lost loses no state. Previews are left out
//! first where the way is narrow.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use bytes::{Bytes, BytesMut};
use comfyd_jobs::event::NodeProgress;
use comfyd_jobs::{Counts, Event, EventKind, EventSink, Message, NodeRef};
use comfyd_node::PreviewImage;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::connect::Link;
use crate::document::{SCHEMA, key, nonce};
use crate::error::Error;
use crate::inner::Inner;
use crate::said::{Ears, Ran, Said};
use crate::store::NatsStore;

/// How many bytes of events may wait to be sent, and from how many on previews are left out.
const MAX_WAITING_BYTES: usize = 64 << 20;
const CROWDED_BYTES: usize = 8 << 20;
/// How many bytes a message has at most.
const PART_BYTES: usize = 512 << 10;
/// The header that tells the parts of an event apart: which event, which part, of how many.
const PART: &str = "Comfyd-Part";
/// In the place of a prompt's id where what is sent is no prompt's.
const SAID: &str = "said";
/// How many runs of nodes are told at once at most.
const MAX_RUNS: usize = 256;
/// How many bytes of events may be there in part, and for how long.
const MAX_PARTS_BYTES: usize = 256 << 20;
const PARTS_KEPT: Duration = Duration::from_secs(10);
/// How long an event waits for the change of the store that it tells of.
const PATIENCE: Duration = Duration::from_secs(2);

/// An event as it is sent. Behind it are a picture's pixels, if it is one.
#[derive(Debug, Serialize, Deserialize)]
struct Sent {
    v: u32,
    /// Whose it is: that process has told its own clients.
    session: String,
    /// The last change of the store that its sender had seen.
    after: u64,
    prompt_id: Arc<str>,
    owner: Arc<str>,
    client_id: Option<Arc<str>>,
    kind: Kind,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Message(String, Json),
    Executing(NodeRef),
    Idle,
    Progress { node: NodeRef, value: f64, max: f64 },
    ProgressState(Vec<NodeProgress>),
    Executed { node: NodeRef, output: Json },
    Image { node: NodeRef, width: u32, height: u32, channels: u8, lossless: bool, max_size: Option<u32> },
    Queue { version: u64, counts: Counts },
    Text { node: NodeRef, text: String },
    Said { name: String, data: Json, client: Option<String>, owner: Option<String> },
    SaidBytes { kind: u32, client: Option<String>, owner: Option<String> },
    Ran(Vec<Ran>),
}

/// What came.
enum Heard {
    Event(EventKind),
    Said(Said),
}

/// What is to be sent.
enum Item {
    Event(Event),
    Said(Said),
}

impl Item {
    fn droppable(&self) -> bool {
        match self {
            Self::Event(event) => event.kind.droppable(),
            Self::Said(said) => matches!(said, Said::Bytes { .. }),
        }
    }

    /// What it takes, about.
    fn weight(&self) -> usize {
        match self {
            Self::Event(event) => match &event.kind {
                EventKind::Image { image, .. } => 1024 + image.pixels.len(),
                EventKind::Text { text, .. } => 1024 + text.len(),
                _ => 1024,
            },
            Self::Said(Said::Event { data, .. }) => 1024 + data.to_string().len(),
            Self::Said(Said::Bytes { bytes, .. }) => 1024 + bytes.len(),
            Self::Said(Said::Ran(ran)) => 128 * ran.len(),
        }
    }
}

impl Kind {
    fn said(said: Said) -> (Self, Option<Arc<Vec<u8>>>) {
        match said {
            Said::Event { name, data, client, owner } => (Self::Said { name, data, client, owner }, None),
            Said::Bytes { kind, bytes, client, owner } => (Self::SaidBytes { kind, client, owner }, Some(bytes)),
            Said::Ran(ran) => (Self::Ran(ran), None),
        }
    }

    fn of(kind: EventKind) -> (Self, Option<Arc<Vec<u8>>>) {
        let kind = match kind {
            EventKind::Message(message) => Self::Message(message.name().to_owned(), serde_json::to_value(&message).unwrap_or_default()),
            EventKind::Executing(node) => Self::Executing(node),
            EventKind::Idle => Self::Idle,
            EventKind::Progress { node, value, max } => Self::Progress { node, value, max },
            EventKind::ProgressState(nodes) => Self::ProgressState(nodes),
            EventKind::Executed { node, output } => Self::Executed { node, output },
            EventKind::Queue { version, counts } => Self::Queue { version, counts },
            EventKind::Text { node, text } => Self::Text { node, text },
            EventKind::Image { node, image } => {
                let PreviewImage { width, height, channels, pixels, lossless, max_size } = image;
                return (Self::Image { node, width, height, channels, lossless, max_size }, Some(pixels));
            }
        };
        (kind, None)
    }

    fn heard(self, bytes: &[u8]) -> Option<Heard> {
        let said = match self {
            Self::Said { name, data, client, owner } => Said::Event { name, data, client, owner },
            Self::SaidBytes { kind, client, owner } => Said::Bytes { kind, bytes: Arc::new(bytes.to_vec()), client, owner },
            Self::Ran(ran) => Said::Ran(ran),
            event => return event.event(bytes).map(Heard::Event),
        };
        Some(Heard::Said(said))
    }

    fn event(self, pixels: &[u8]) -> Option<EventKind> {
        Some(match self {
            Self::Said { .. } | Self::SaidBytes { .. } | Self::Ran(_) => return None,
            Self::Message(name, data) => EventKind::Message(serde_json::from_value::<Message>(Json::Array(vec![name.into(), data])).ok()?),
            Self::Executing(node) => EventKind::Executing(node),
            Self::Idle => EventKind::Idle,
            Self::Progress { node, value, max } => EventKind::Progress { node, value, max },
            Self::ProgressState(nodes) => EventKind::ProgressState(nodes),
            Self::Executed { node, output } => EventKind::Executed { node, output },
            Self::Queue { version, counts } => EventKind::Queue { version, counts },
            Self::Text { node, text } => EventKind::Text { node, text },
            Self::Image { node, width, height, channels, lossless, max_size } => {
                let whole = (width as usize).checked_mul(height as usize)?.checked_mul(channels.into())?;
                if pixels.len() != whole {
                    return None;
                }
                let pixels = Arc::new(pixels.to_vec());
                EventKind::Image { node, image: PreviewImage { width, height, channels, pixels, lossless, max_size } }
            }
        })
    }
}

fn to_bytes(sent: &impl Serialize, pixels: Option<&[u8]>) -> Bytes {
    let json = serde_json::to_vec(sent).unwrap_or_default();
    let mut bytes = BytesMut::with_capacity(json.len() + 4 + pixels.map_or(0, <[u8]>::len));
    bytes.extend_from_slice(&u32::try_from(json.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(&json);
    bytes.extend_from_slice(pixels.unwrap_or_default());
    bytes.freeze()
}

fn from_bytes(bytes: &[u8]) -> Option<(Sent, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (json, pixels) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    Some((serde_json::from_slice(json).ok()?, pixels))
}

/// Sends events to all processes of the cluster, and hands each to this one's clients at once. Clones send to the same.
#[derive(Clone)]
pub struct Post {
    waiting: Arc<Waiting>,
    inner: Arc<Inner>,
    own: Option<Arc<dyn EventSink>>,
}

/// Each with the last change of the store that was seen before it, and what it takes; and what all take.
type Items = (VecDeque<(Item, u64, usize)>, usize);

#[derive(Default)]
struct Waiting {
    items: Mutex<Items>,
    bell: Notify,
    ran: Mutex<Vec<Ran>>,
}

impl Post {
    /// What sends for a store. `own`: who tells this process's clients, if it has any.
    pub fn new(store: &NatsStore, own: Option<Arc<dyn EventSink>>) -> Self {
        Self { waiting: Arc::default(), inner: store.inner.clone(), own }
    }

    /// Sends, for as long as the runtime runs.
    pub fn run(&self) -> JoinHandle<()> {
        let (waiting, inner) = (self.waiting.clone(), self.inner.clone());
        tokio::spawn(async move {
            loop {
                let next = {
                    let (items, bytes) = &mut *waiting.items.lock();
                    let next = items.pop_front();
                    if let Some((.., weight)) = &next {
                        *bytes -= weight;
                    }
                    next
                };
                match next {
                    Some((item, after, _)) => send(&inner, item, after).await,
                    None => waiting.bell.notified().await,
                }
            }
        })
    }
}

impl EventSink for Post {
    fn emit(&self, event: Event) {
        if let Some(own) = &self.own {
            own.emit(event.clone());
        }
        let over = matches!(event.kind, EventKind::Idle);
        self.push(Item::Event(event));
        if over {
            self.tell_runs();
        }
    }
}

impl Post {
    /// Has the other processes hear something besides events, behind those that were told before.
    pub fn say(&self, said: Said) {
        self.push(Item::Said(said));
    }

    /// Counts a run of a node on a device, whose name no other process has. The others are told when its prompt is over.
    pub fn ran(&self, class: &str, device: &str, took: Duration) {
        let many = {
            let mut ran = self.waiting.ran.lock();
            ran.push(Ran { class: class.to_owned(), device: device.to_owned(), seconds: took.as_secs_f64() });
            ran.len()
        };
        if many >= MAX_RUNS {
            self.tell_runs();
        }
    }

    fn tell_runs(&self) {
        let ran = std::mem::take(&mut *self.waiting.ran.lock());
        if !ran.is_empty() {
            self.say(Said::Ran(ran));
        }
    }

    fn push(&self, item: Item) {
        let after = self.inner.mirror.versions.borrow().queue;
        let weight = item.weight();
        {
            let (items, bytes) = &mut *self.waiting.items.lock();
            if *bytes + weight > if item.droppable() { CROWDED_BYTES } else { MAX_WAITING_BYTES } {
                if !item.droppable() {
                    tracing::warn!("what happens is not told other hosts: NATS does not take it fast enough");
                }
                return;
            }
            *bytes += weight;
            items.push_back((item, after, weight));
        }
        self.waiting.bell.notify_one();
    }
}

async fn send(inner: &Inner, item: Item, after: u64) {
    let droppable = item.droppable();
    let session = inner.session().to_owned();
    let (sent, pixels) = match item {
        Item::Event(Event { prompt_id, owner, client_id, kind }) => {
            let (kind, pixels) = Kind::of(kind);
            (Sent { v: SCHEMA, session, after, prompt_id, owner, client_id, kind }, pixels)
        }
        Item::Said(said) => {
            let (kind, bytes) = Kind::said(said);
            (Sent { v: SCHEMA, session, after: 0, prompt_id: SAID.into(), owner: Arc::default(), client_id: None, kind }, bytes)
        }
    };
    let subject = format!("comfyd.{}.event.{}", inner.options.cluster, key(&sent.prompt_id));
    let bytes = to_bytes(&sent, pixels.as_ref().map(|pixels| pixels.as_slice()));
    let client = &inner.link.client;
    // While nobody can hear it, previews are not kept for later.
    if droppable && client.connection_state() != async_nats::connection::State::Connected {
        return;
    }
    let published = if bytes.len() <= PART_BYTES {
        client.publish(subject, bytes).await
    } else {
        let (event, parts) = (nonce(), bytes.len().div_ceil(PART_BYTES));
        let mut published = Ok(());
        for part in 0..parts {
            let mut headers = HeaderMap::new();
            headers.insert(PART, format!("{event} {part} {parts}"));
            let slice = bytes.slice(part * PART_BYTES..bytes.len().min((part + 1) * PART_BYTES));
            published = client.publish_with_headers(subject.clone(), headers, slice).await;
        }
        published
    };
    if let Err(error) = published {
        tracing::debug!(%error, "an event could not be sent");
    }
}

/// Events that are there in part.
#[derive(Default)]
struct Parts {
    events: HashMap<u64, (Instant, BytesMut, usize)>,
    bytes: usize,
}

impl Parts {
    /// Takes a part, and gives the event if it was the last. Parts come in order.
    fn take(&mut self, header: &str, payload: &[u8]) -> Option<Bytes> {
        let mut numbers = header.split(' ').map(|number| number.parse::<u64>().ok());
        let (event, part, parts) = (numbers.next()??, numbers.next()??, numbers.next()??);
        self.events.retain(|_, (begun, bytes, _)| {
            let kept = begun.elapsed() < PARTS_KEPT;
            self.bytes -= if kept { 0 } else { bytes.len() };
            kept
        });
        let (_, bytes, next) = self.events.entry(event).or_insert_with(|| (Instant::now(), BytesMut::new(), 0));
        let fits = *next as u64 == part && self.bytes + payload.len() <= MAX_PARTS_BYTES;
        if fits {
            bytes.extend_from_slice(payload);
            *next += 1;
            self.bytes += payload.len();
        }
        if fits && part + 1 < parts {
            return None;
        }
        let (_, bytes, _) = self.events.remove(&event)?;
        self.bytes -= bytes.len();
        fits.then(|| bytes.freeze())
    }
}

impl NatsStore {
    /// Hands what other processes say besides events to these ears, as soon as events are heard. Only the first ones that are given hear.
    pub fn hear_said(&self, ears: Ears) {
        self.inner.ears.get_or_init(|| ears);
    }

    /// Hands what other processes send to this one's clients, for as long as the runtime runs.
    ///
    /// # Errors
    /// When NATS cannot be asked for it.
    pub async fn hear_events(&self, sink: Arc<dyn EventSink>) -> Result<JoinHandle<()>, Error> {
        let inner = self.inner.clone();
        let subject = format!("comfyd.{}.event.>", inner.options.cluster);
        let subscribed = subscribe(&inner.link, &subject).await?;
        Ok(tokio::spawn(async move {
            let mut messages = subscribed;
            let mut parts = Parts::default();
            while let Some(message) = messages.next().await {
                let part = message.headers.as_ref().and_then(|headers| headers.get(PART));
                let whole = match part {
                    Some(part) => parts.take(part.as_str(), &message.payload),
                    None => Some(message.payload.clone()),
                };
                let Some((sent, pixels)) = whole.as_deref().and_then(from_bytes) else { continue };
                if sent.session == inner.session() {
                    continue;
                }
                // What clients are told can be read from the lists then.
                let mut applied = inner.mirror.applied.subscribe();
                let _seen = tokio::time::timeout(PATIENCE, applied.wait_for(|applied| *applied >= sent.after)).await;
                let Sent { prompt_id, owner, client_id, kind, .. } = sent;
                match kind.heard(pixels) {
                    Some(Heard::Event(kind)) => sink.emit(Event { prompt_id, owner, client_id, kind }),
                    Some(Heard::Said(said)) => {
                        if let Some(ears) = inner.ears.get() {
                            ears(said);
                        }
                    }
                    // A later version says it.
                    None => {}
                }
            }
        }))
    }
}

/// Subscribes, and returns once NATS knows of it: what anyone sends from then on is heard. Without NATS it returns before that.
pub(crate) async fn subscribe(link: &Link, subject: &str) -> Result<async_nats::Subscriber, Error> {
    let client = &link.client;
    let own = async |subject: String| client.subscribe(subject).await.map_err(|error| Error::Refused(error.to_string()));
    let subscribed = own(subject.to_owned()).await?;
    // NATS takes what comes on a connection in its order.
    let inbox = client.new_inbox();
    let mut echo = own(inbox.clone()).await?;
    client.publish(inbox, Bytes::new()).await.map_err(|error| Error::Refused(error.to_string()))?;
    let _known = tokio::time::timeout(PATIENCE, echo.next()).await;
    Ok(subscribed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use comfyd_jobs::event::NodeState;
    use comfyd_jobs::{Failure, Interruption};
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_of_event_arrives_as_it_was_sent() {
        let node = comfyd_jobs::contract::sink::node("1");
        let failure = Failure {
            prompt_id: "p".into(),
            node_id: "1".into(),
            node_type: "Any".into(),
            executed: vec!["0".into()],
            exception_message: "ähm".into(),
            exception_type: "ValueError".into(),
            traceback: vec!["a\n".into()],
            current_inputs: json!({"a": [1.5]}),
            current_outputs: vec!["1".into()],
            timestamp_ms: None,
        };
        let end = Interruption { prompt_id: "p".into(), node_id: "1".into(), node_type: "Any".into(), executed: vec![], timestamp_ms: 5 };
        let pixels = Arc::new((0..=255).cycle().take(300 * 200 * 3).collect::<Vec<u8>>());
        let image = PreviewImage { width: 300, height: 200, channels: 3, pixels, lossless: true, max_size: Some(64) };
        let mut counts = Counts { running: 1, pending: 2, running_ids: vec!["p".into()], ..Counts::default() };
        counts.owners.insert("me".into(), Counts::default());
        for kind in [
            EventKind::Message(Message::Start { prompt_id: "p".into(), timestamp_ms: 1 }),
            EventKind::Message(Message::Cached { nodes: vec!["1".into()], prompt_id: "p".into(), timestamp_ms: 2 }),
            EventKind::Message(Message::Success { prompt_id: "p".into(), timestamp_ms: 3 }),
            EventKind::Message(Message::Failed(Box::new(failure))),
            EventKind::Message(Message::Interrupted(end)),
            EventKind::Executing(node.clone()),
            EventKind::Idle,
            EventKind::Progress { node: node.clone(), value: 1.0, max: 20.0 },
            EventKind::ProgressState(vec![NodeProgress { node: node.clone(), state: NodeState::Running, value: 1.0, max: 2.0 }]),
            EventKind::Executed { node: node.clone(), output: json!({"images": []}) },
            EventKind::Image { node: node.clone(), image },
            EventKind::Queue { version: 7, counts },
            EventKind::Text { node, text: "text".into() },
        ] {
            let told = format!("{kind:?}");
            let (kind, pixels) = Kind::of(kind);
            let sent =
                Sent { v: 1, session: "s".into(), after: 3, prompt_id: "p".into(), owner: "".into(), client_id: Some("c".into()), kind };
            let bytes = to_bytes(&sent, pixels.as_ref().map(|pixels| pixels.as_slice()));
            let (sent, pixels) = from_bytes(&bytes).unwrap();
            assert_eq!(format!("{:?}", sent.kind.event(pixels).unwrap()), told);
        }
        let (client, owner) = (Some("c".to_owned()), None);
        for said in [
            Said::Event { name: "pack.told".into(), data: json!({"a": [1, "é"]}), client: client.clone(), owner: owner.clone() },
            Said::Bytes { kind: 77, bytes: Arc::new(vec![0, 255, 1]), client, owner },
            Said::Ran(vec![Ran { class: "A".into(), device: "i/cpu".into(), seconds: 0.5 }]),
        ] {
            let (kind, bytes) = Kind::said(said.clone());
            let sent = Sent { v: 1, session: "s".into(), after: 0, prompt_id: SAID.into(), owner: "".into(), client_id: None, kind };
            let bytes = to_bytes(&sent, bytes.as_ref().map(|bytes| bytes.as_slice()));
            let (sent, bytes) = from_bytes(&bytes).unwrap();
            assert!(matches!(sent.kind.heard(bytes), Some(Heard::Said(heard)) if heard == said));
        }
        // Of what a later version sends all else is heard.
        assert!(from_bytes(&to_bytes(&json!({"v": 2, "session": "s", "kind": {"later": 1}}), None)).is_none());
    }

    #[test]
    fn parts_become_whole_in_order_only() {
        let mut parts = Parts::default();
        assert_eq!(parts.take("7 0 2", b"ab"), None);
        assert_eq!(parts.take("8 1 2", b"x"), None, "its first part is missing");
        assert_eq!(parts.take("7 1 2", b"c").as_deref(), Some(&b"abc"[..]));
        assert_eq!((parts.take("9 a 2", b"x"), parts.take("", b"x"), parts.bytes, parts.events.len()), (None, None, 0, 0));
        assert!(from_bytes(b"").is_none() && from_bytes(b"\0\0\0\x09{}").is_none());
    }
}
