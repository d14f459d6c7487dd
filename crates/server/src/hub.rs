//! Websocket clients: who is connected, what waits for each, and how events become frames. A slow client gets the queue's newest figures
//! only, loses previews, and then its connection; it never slows another.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::ws::Message;
use comfyd_jobs::{Counts, Event, EventKind, EventSink, NodeRef};
use parking_lot::{Mutex, RwLock};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::frames;

mod gate;
mod missed;
#[cfg(test)]
mod tests;

pub use gate::Held;
use gate::{Gate, Gates};
use missed::Missed;

/// What a client can understand, from its feature flags and its query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Previews with metadata (binary event 4).
    pub preview_metadata: bool,
    /// Raw pixels in place of JPEG (binary event 2).
    pub raw_previews: bool,
    /// Frames with what the API document has in them.
    pub documented: bool,
}

/// Why a client was disconnected by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Another connection came with the same id.
    TakenOver,
    /// It did not read fast enough.
    TooSlow,
    /// The server stops.
    Shutdown,
}

impl Closed {
    /// The reason in the close frame.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TakenOver => "another connection uses this clientId",
            Self::TooSlow => "too slow: too many messages were waiting",
            Self::Shutdown => "the server stops",
        }
    }

    /// The close code (RFC 6455).
    pub fn code(self) -> u16 {
        match self {
            Self::TakenOver => 1000,
            Self::TooSlow => 1008,
            Self::Shutdown => 1001,
        }
    }
}

#[derive(Clone)]
struct Queued {
    message: Message,
    kind: Kind,
    /// What it waits for.
    gate: Option<Arc<Gate>>,
}

impl Queued {
    fn new(message: Message, kind: Kind) -> Self {
        Self { message, kind, gate: None }
    }

    fn bytes(&self) -> usize {
        match &self.message {
            Message::Text(text) => text.len(),
            Message::Binary(bytes) | Message::Ping(bytes) | Message::Pong(bytes) => bytes.len(),
            Message::Close(_) => 0,
        }
    }
}

/// What becomes of a message when its client is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It reaches the client, or the client is disconnected.
    Needed,
    /// Figures that newer ones make worthless.
    Figures,
    /// It may be left out.
    Droppable,
}

impl Kind {
    fn of(event: &EventKind) -> Self {
        if event.droppable() { Self::Droppable } else { Self::Needed }
    }
}

/// One connection's outgoing queue.
pub struct Mailbox {
    number: u64,
    limit: usize,
    queue: Mutex<VecDeque<Queued>>,
    closed: Mutex<Option<Closed>>,
    wake: Notify,
    abilities: Mutex<Abilities>,
}

impl Mailbox {
    fn push(self: &Arc<Self>, queued: Queued) {
        let kind = queued.kind;
        if let Some(gate) = &queued.gate {
            gate.wakes(self);
        }
        let mut queue = self.queue.lock();
        if kind == Kind::Figures
            && queue.len() >= self.limit / 4
            && let Some(older) = queue.iter().rposition(|q| q.kind == Kind::Figures)
        {
            queue.remove(older);
        }
        if queue.len() >= self.limit {
            if kind == Kind::Droppable {
                return;
            }
            // Makes room by the oldest preview; without one the client is hopelessly behind.
            match queue.iter().position(|q| q.kind == Kind::Droppable) {
                Some(at) => drop(queue.remove(at)),
                None => {
                    drop(queue);
                    return self.close(Closed::TooSlow);
                }
            }
        }
        queue.push_back(queued);
        drop(queue);
        self.wake.notify_one();
    }

    fn close(&self, why: Closed) {
        self.closed.lock().get_or_insert(why);
        self.wake.notify_one();
    }

    /// The next message to send, or why to stop.
    pub async fn next(&self) -> Result<Message, Closed> {
        loop {
            if let Some(why @ (Closed::TooSlow | Closed::TakenOver)) = *self.closed.lock() {
                return Err(why);
            }
            let closed_until = {
                let mut queue = self.queue.lock();
                match queue.front().map(|first| first.gate.as_ref().and_then(|gate| gate.closed_until())) {
                    Some(None) => return queue.pop_front().map(|first| first.message).ok_or(Closed::Shutdown),
                    Some(until) => until,
                    None => None,
                }
            };
            if let Some(until) = closed_until {
                // Either the gate was opened, or it is open by now.
                let _ = tokio::time::timeout_at(until, self.wake.notified()).await;
                continue;
            }
            let closed = *self.closed.lock();
            if let Some(why) = closed {
                return Err(why);
            }
            self.wake.notified().await;
        }
    }

    /// Remembers what the client understands.
    pub fn set_abilities(&self, change: impl FnOnce(&mut Abilities)) {
        change(&mut self.abilities.lock());
    }
}

/// What a prompt is at: its client and the node of its last `executing` event.
type Current = (Option<Arc<str>>, NodeRef);

/// All connections. Clones share them.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

/// The queue's figures that clients know.
#[derive(Default)]
struct Told {
    version: u64,
    status: Option<Value>,
    running: Vec<String>,
}

struct Inner {
    clients: RwLock<HashMap<String, Arc<Mailbox>>>,
    numbers: AtomicU64,
    limit: usize,
    preview_size: u32,
    current: Mutex<HashMap<Arc<str>, Current>>,
    max_clients: usize,
    status: Mutex<Told>,
    gates: Gates,
    missed: Mutex<Missed>,
}

impl Hub {
    /// A hub whose clients may have `limit` messages waiting; previews are reduced to `preview_size` pixels.
    pub fn new(limit: usize, preview_size: u32) -> Self {
        let inner = Inner {
            clients: RwLock::default(),
            numbers: AtomicU64::new(1),
            limit: limit.max(8),
            preview_size,
            current: Mutex::default(),
            max_clients: 100_000,
            status: Mutex::default(),
            gates: Gates::default(),
            missed: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Registers a connection, which is sent a first event, what its client missed in the last seconds, and, if nothing of this tells
    /// it, at which node its prompt is. An older connection with the same id is closed. `None` when too many are connected.
    pub fn connect(&self, client_id: &str, first: Option<(&str, &Value)>) -> Option<Arc<Mailbox>> {
        let mailbox = Arc::new(Mailbox {
            number: self.inner.numbers.fetch_add(1, Ordering::Relaxed),
            limit: self.inner.limit,
            queue: Mutex::default(),
            closed: Mutex::new(None),
            wake: Notify::new(),
            abilities: Mutex::default(),
        });
        let mut clients = self.inner.clients.write();
        if clients.len() >= self.inner.max_clients {
            return None;
        }
        if let Some((event, data)) = first {
            self.send(&mailbox, event, data);
        }
        // Nobody adds to either meanwhile: whoever emits holds the clients.
        let missed = self.inner.missed.lock().take(client_id);
        if missed.is_empty()
            && let Some(executing) = self.executing_for(client_id)
        {
            self.send(&mailbox, "executing", &executing);
        }
        missed.into_iter().for_each(|queued| mailbox.push(queued));
        if let Some(old) = clients.insert(client_id.to_owned(), Arc::clone(&mailbox)) {
            old.close(Closed::TakenOver);
        }
        Some(mailbox)
    }

    /// Keeps what is told of a prompt back until what this returns is dropped: its client must know the id first.
    pub fn hold(&self, prompt_id: &str) -> Held {
        self.inner.gates.close(prompt_id)
    }

    /// Forgets a connection, unless a newer one has taken the id over.
    pub fn disconnect(&self, client_id: &str, mailbox: &Mailbox) {
        let mut clients = self.inner.clients.write();
        if clients.get(client_id).is_some_and(|known| known.number == mailbox.number) {
            clients.remove(client_id);
        }
    }

    /// How many are connected.
    pub fn len(&self) -> usize {
        self.inner.clients.read().len()
    }

    /// Whether nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sends an event to everybody.
    pub fn broadcast(&self, event: &str, data: &Value) {
        self.broadcast_as(Kind::Needed, None, event, data);
    }

    fn broadcast_as(&self, kind: Kind, gate: Option<Arc<Gate>>, event: &str, data: &Value) {
        let clients = self.inner.clients.read();
        if clients.is_empty() {
            return;
        }
        let queued = Queued { message: text(event, data), kind, gate };
        for mailbox in clients.values() {
            mailbox.push(queued.clone());
        }
    }

    /// Tells everybody the queue's figures after a request changed them. `version` is the queue's version read before the figures were.
    /// Nothing is told while a worker has claimed or finished a prompt and not said so yet: its own figures follow at once, at their
    /// place among the prompt's events.
    pub fn status(&self, version: u64, counts: &Counts) {
        let mut told = self.inner.status.lock();
        if told.running == counts.running_ids {
            self.tell(&mut told, version, counts, None);
        }
    }

    /// Broadcasts figures unless newer ones, or the same, were told already. The lock keeps two callers in order.
    fn tell(&self, told: &mut Told, version: u64, counts: &Counts, gate: Option<Arc<Gate>>) {
        let status = frames::status(counts);
        if version < told.version || told.status.as_ref() == Some(&status) {
            return;
        }
        self.broadcast_as(Kind::Figures, gate, "status", &json!({"status": status}));
        *told = Told { version, status: Some(status), running: counts.running_ids.clone() };
    }

    /// Sends an event to one connection.
    pub fn send(&self, mailbox: &Arc<Mailbox>, event: &str, data: &Value) {
        mailbox.push(Queued::new(text(event, data), Kind::Needed));
    }

    /// What a client that reconnects in the middle of its prompt must be told: the `executing` data.
    fn executing_for(&self, client_id: &str) -> Option<Value> {
        let current = self.inner.current.lock();
        let (prompt_id, (_, node)) = current.iter().find(|(_, (client, _))| client.as_deref() == Some(client_id))?;
        Some(frames::executing(prompt_id, node))
    }

    /// Disconnects everybody once what waits for them is sent.
    pub fn shutdown(&self) {
        for mailbox in self.inner.clients.read().values() {
            mailbox.close(Closed::Shutdown);
        }
    }

    /// Waits until nobody is connected.
    pub async fn emptied(&self) {
        while !self.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn remember(&self, event: &Event) {
        let mut current = self.inner.current.lock();
        match &event.kind {
            EventKind::Executing(node) => {
                current.insert(Arc::clone(&event.prompt_id), (event.client_id.clone(), node.clone()));
            }
            EventKind::Idle => {
                current.remove(&event.prompt_id);
            }
            EventKind::Message(_)
            | EventKind::Progress { .. }
            | EventKind::ProgressState(_)
            | EventKind::Executed { .. }
            | EventKind::Image { .. }
            | EventKind::Queue { .. }
            | EventKind::Text { .. } => {}
        }
    }

    /// Who is told, and the client that should be, but is not there.
    fn receivers<'a>(&self, event: &'a Event) -> (Vec<Arc<Mailbox>>, Option<&'a Arc<str>>) {
        let clients = self.inner.clients.read();
        let own = event.client_id.as_ref().map(|id| (id, clients.get(&**id)));
        let absent = own.filter(|(_, mailbox)| mailbox.is_none() && event.lasting()).map(|(id, _)| id);
        let told = if event.broadcast() {
            clients.values().collect()
        } else {
            own.and_then(|(_, mailbox)| mailbox).into_iter().collect::<Vec<_>>()
        };
        (told.into_iter().cloned().collect(), absent)
    }

    /// The event as one mailbox gets it. `None` for what is told otherwise or cannot be encoded.
    fn message(&self, event: &Event, abilities: Abilities) -> Option<Message> {
        match &event.kind {
            EventKind::Image { node, image } => {
                let size = image.max_size.or((!image.lossless).then_some(self.inner.preview_size));
                match frames::image_frame(&event.prompt_id, node, image, size, abilities) {
                    Ok(frame) => Some(Message::Binary(frame)),
                    Err(error) => {
                        tracing::warn!(%error, "a preview could not be encoded");
                        None
                    }
                }
            }
            EventKind::Text { node, text } => Some(Message::Binary(frames::text_frame(&node.id, text))),
            _ => frames::json_event(event).map(|(name, data)| text(name, &data)),
        }
    }
}

impl EventSink for Hub {
    fn emit(&self, event: Event) {
        let gate = self.inner.gates.of(&event.prompt_id);
        if let EventKind::Queue { version, counts } = &event.kind {
            return self.tell(&mut self.inner.status.lock(), *version, counts, gate);
        }
        self.remember(&event);
        let kind = Kind::of(&event.kind);
        let (receivers, absent) = self.receivers(&event);
        // Encoded once for each form that somebody understands, and while nobody is kept from connecting.
        let mut forms: Vec<(Abilities, Option<Queued>)> = Vec::new();
        let mut form = |abilities: Abilities| {
            let abilities = if event.is_picture() { abilities } else { Abilities::default() };
            let known = forms.iter().position(|(known, _)| *known == abilities).unwrap_or_else(|| {
                let message = self.message(&event, abilities);
                forms.push((abilities, message.map(|message| Queued { message, kind, gate: gate.clone() })));
                forms.len() - 1
            });
            forms[known].1.clone()
        };
        for mailbox in &receivers {
            if let Some(queued) = form(*mailbox.abilities.lock()) {
                mailbox.push(queued);
            }
        }
        let Some(client) = absent else { return };
        if let Some(queued) = form(Abilities::default()) {
            match self.inner.clients.read().get(&**client) {
                // It has come meanwhile, and nothing later was told yet.
                Some(mailbox) => mailbox.push(queued),
                None => self.inner.missed.lock().keep(client, queued),
            }
        }
    }
}

fn text(event: &str, data: &Value) -> Message {
    // Without a copy of the data; the name is one of ours and needs no escapes.
    Message::Text(format!("{{\"type\":\"{event}\",\"data\":{data}}}").into())
}
