//! What waits for one websocket client, bounded in messages and in bytes. A slow one gets the queue's newest figures only, loses previews,
//! and then its connection; it never slows another. It does not know whom events are for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message};
use comfyd_memory::Lease;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::gate::Gate;
use super::picture::Picture;
use crate::frames::Abilities;

/// How many bytes of previews wait for a client at most, as pixels, which take more room than what is sent of them; the oldest go first.
const MAX_PREVIEW_BYTES: usize = 32 << 20;
/// How many bytes of all wait for a client at most.
const MAX_BYTES: usize = 128 << 20;
/// Whose messages have more bytes is disconnected where there is no memory for all that waits for clients.
const FAIR_BYTES: usize = 1 << 20;
/// How long a client that is disconnected has to take the reason.
const FAREWELL: Duration = Duration::from_secs(5);

/// Why a client was disconnected by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Another connection came with the same id.
    TakenOver,
    /// It did not read fast enough.
    TooSlow,
    /// The server stops.
    Shutdown,
    /// Its key does not open any more, or one is asked for now.
    ShutOut,
}

impl Closed {
    /// What the client is told (RFC 6455).
    pub fn frame(self) -> CloseFrame {
        let (code, reason) = match self {
            Self::TakenOver => (1000, "another connection uses this clientId"),
            Self::TooSlow => (1008, "too slow: too many messages were waiting"),
            Self::Shutdown => (1001, "the server stops"),
            Self::ShutOut => (1008, "the key was revoked or has ended, or one is asked for now"),
        };
        CloseFrame { code, reason: reason.into() }
    }
}

/// Who is connected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hearer {
    /// Whose prompts it sends; `None` where nobody is told apart.
    pub owner: Option<Arc<str>>,
    /// Whether it is told of those of others too.
    pub all: bool,
}

impl Hearer {
    /// Whether it is who sent this owner's prompts.
    pub(super) fn is(&self, owner: &str) -> bool {
        self.owner.as_ref().is_none_or(|own| **own == *owner)
    }

    /// Whether it is told of this owner's prompts.
    pub(super) fn hears(&self, owner: &str) -> bool {
        self.all || self.is(owner)
    }
}

/// Something that waits for a client.
#[derive(Clone)]
pub(super) struct Queued {
    pub(super) body: Body,
    pub(super) kind: Kind,
    /// The prompt that it is of; empty where it is of none.
    pub(super) prompt_id: Arc<str>,
    /// Whose prompt it is of; empty where it is of none, or nobody is told apart.
    pub(super) owner: Arc<str>,
    /// What it waits for.
    pub(super) gate: Option<Arc<Gate>>,
    /// The memory that it takes, if that is much, wherever it waits.
    pub(super) _lease: Option<Arc<Lease>>,
    /// Whether there was less memory than that.
    pub(super) tight: bool,
}

/// What is sent.
#[derive(Clone)]
pub(super) enum Body {
    Message(Message),
    /// Encoded when its turn comes.
    Picture(Arc<Picture>),
}

impl Queued {
    pub(super) fn new(message: Message, kind: Kind) -> Self {
        Self {
            body: Body::Message(message),
            kind,
            prompt_id: Arc::default(),
            owner: Arc::default(),
            gate: None,
            _lease: None,
            tight: false,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match &self.body {
            Body::Message(Message::Text(text)) => text.len(),
            Body::Message(Message::Binary(bytes) | Message::Ping(bytes) | Message::Pong(bytes)) => bytes.len(),
            Body::Message(Message::Close(_)) => 0,
            Body::Picture(picture) => picture.bytes(),
        }
    }
}

/// What becomes of a message when its client is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It reaches the client, be it on its next connection, if that comes soon.
    Needed,
    /// It reaches the client, or the client is disconnected.
    Passing,
    /// Figures that newer ones make worthless.
    Figures,
    /// It may be left out.
    Droppable,
}

/// One connection's outgoing queue.
pub struct Mailbox {
    who: Hearer,
    limit: usize,
    waiting: Mutex<Waiting>,
    closed: Mutex<Option<Closed>>,
    wake: Arc<Notify>,
    given_up: Notify,
    abilities: Mutex<Abilities>,
}

#[derive(Default)]
struct Waiting {
    queue: VecDeque<Queued>,
    /// What the queue's messages have together.
    bytes: usize,
    /// What was handed out last: the client may have it or not.
    sending: Option<Queued>,
}

impl Waiting {
    fn push(&mut self, queued: Queued) {
        self.bytes += queued.bytes();
        self.queue.push_back(queued);
    }

    fn remove(&mut self, at: usize) -> bool {
        let removed = self.queue.remove(at);
        self.bytes -= removed.as_ref().map_or(0, Queued::bytes);
        removed.is_some()
    }

    /// Leaves the oldest preview out.
    fn drop_preview(&mut self) -> bool {
        let oldest = self.queue.iter().position(|q| q.kind == Kind::Droppable);
        oldest.is_some_and(|oldest| self.remove(oldest))
    }

    fn preview_bytes(&self) -> usize {
        self.queue.iter().filter(|q| q.kind == Kind::Droppable).map(Queued::bytes).sum()
    }

    /// Hands the first message out.
    fn next(&mut self) -> Option<Body> {
        let first = self.queue.pop_front()?;
        self.bytes -= first.bytes();
        let body = first.body.clone();
        self.sending = (first.kind == Kind::Needed).then_some(first);
        Some(body)
    }
}

impl Mailbox {
    /// For a connection of whose messages `limit` may wait.
    pub(super) fn new(limit: usize, who: Hearer) -> Self {
        let (waiting, closed, abilities) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { who, limit, waiting, closed, wake: Arc::default(), given_up: Notify::new(), abilities }
    }

    pub(super) fn push(&self, queued: Queued) {
        let kind = queued.kind;
        if let Some(gate) = &queued.gate {
            gate.wakes(&self.wake);
        }
        let mut waiting = self.waiting.lock();
        if kind == Kind::Droppable {
            while waiting.preview_bytes() + queued.bytes() > MAX_PREVIEW_BYTES && waiting.drop_preview() {}
        }
        if kind == Kind::Figures
            && waiting.queue.len() >= self.limit / 4
            && let Some(older) = waiting.queue.iter().rposition(|q| q.kind == Kind::Figures)
        {
            waiting.remove(older);
        }
        let is_full = |waiting: &Waiting| {
            waiting.queue.len() >= self.limit
                || !waiting.queue.is_empty() && waiting.bytes + queued.bytes() > MAX_BYTES
                || queued.tight && waiting.bytes > FAIR_BYTES
        };
        while is_full(&waiting) {
            if kind == Kind::Droppable {
                return;
            }
            // Makes room by the oldest preview; without one the client is hopelessly behind.
            if !waiting.drop_preview() {
                drop(waiting);
                return self.close(Closed::TooSlow);
            }
        }
        waiting.push(queued);
        drop(waiting);
        self.wake.notify_one();
    }

    pub(crate) fn close(&self, why: Closed) {
        let why = *self.closed.lock().get_or_insert(why);
        self.wake.notify_one();
        if why != Closed::Shutdown {
            self.given_up.notify_one();
        }
    }

    /// Waits until the client was disconnected and had time to take the reason.
    pub async fn given_up(&self) {
        self.given_up.notified().await;
        tokio::time::sleep(FAREWELL).await;
    }

    /// Empties it: what its client must be told when it comes again.
    pub(super) fn leave(&self) -> Vec<Queued> {
        let Waiting { queue, sending, .. } = std::mem::take(&mut *self.waiting.lock());
        sending.into_iter().chain(queue.into_iter().filter(|queued| queued.kind == Kind::Needed)).collect()
    }

    /// The next message to send, or why to stop. Pictures are encoded here, on a blocking thread. Who drops this while it waits loses the
    /// picture that is being encoded.
    pub async fn next(&self) -> Result<Message, Closed> {
        loop {
            match self.next_body().await? {
                Body::Message(message) => return Ok(message),
                Body::Picture(picture) => {
                    let abilities = *self.abilities.lock();
                    if let Some(frame) = picture.frame(abilities).await {
                        return Ok(Message::Binary(frame));
                    }
                }
            }
        }
    }

    async fn next_body(&self) -> Result<Body, Closed> {
        loop {
            if let Some(why @ (Closed::TooSlow | Closed::TakenOver | Closed::ShutOut)) = *self.closed.lock() {
                return Err(why);
            }
            let closed_until = {
                let mut waiting = self.waiting.lock();
                waiting.sending = None;
                match waiting.queue.front().map(|first| first.gate.as_ref().and_then(|gate| gate.closed_until())) {
                    Some(None) => return waiting.next().ok_or(Closed::Shutdown),
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

    /// Who is connected.
    pub(super) fn who(&self) -> &Hearer {
        &self.who
    }

    /// Remembers what the client understands.
    pub fn set_abilities(&self, change: impl FnOnce(&mut Abilities)) {
        change(&mut self.abilities.lock());
    }
}
