//! Websocket clients: who is connected, and to whom events go. It encodes no picture: each is queued as it is, and whoever sends it encodes
//! it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::Message;
use comfyd_jobs::{Counts, Event, EventKind, EventSink, HistoryEntry, NodeRef};
use comfyd_memory::Account;
use indexmap::IndexMap;
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::events::Told;
use crate::frames::{self, QueueStatus, Status, named, text};

mod gate;
mod mailbox;
mod missed;
mod picture;

use self::gate::Gates;
pub use self::gate::Held;
use self::mailbox::{Body, Kind, Queued};
pub use self::mailbox::{Closed, Hearer, Mailbox};
use self::missed::{KEPT, Missed};
use self::picture::Picture;

/// How many bytes wait for all clients together at most.
const MAX_WAITING_BYTES: u64 = 512 << 20;
/// Smaller messages are not counted: their number is bounded.
const LARGE_BYTES: usize = 16 << 10;

/// How long the end of a prompt that a restart failed waits for its client, which must notice the restart first.
const ENDED_KEPT: Duration = Duration::from_secs(300);

/// What a prompt is at.
struct Current {
    owner: Arc<str>,
    client: Option<Arc<str>>,
    /// That of its last `executing` event.
    node: NodeRef,
}

/// The connections of one client's id. There is one, but where users are told apart: each may have chosen the same.
type Namesakes = Vec<Arc<Mailbox>>;

/// All connections. Clones share them.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

/// The queue's figures that clients were told last.
#[derive(Default)]
struct LastStatus {
    version: u64,
    status: Option<QueueStatus>,
    /// Those of owners who were told their own.
    owners: HashMap<Arc<str>, QueueStatus>,
    running: Vec<String>,
}

struct Inner {
    clients: RwLock<HashMap<String, Namesakes>>,
    limit: usize,
    preview_size: u32,
    /// In the order in which they began.
    current: Mutex<IndexMap<Arc<str>, Current>>,
    max_clients: usize,
    status: Mutex<LastStatus>,
    memory: Account,
    gates: Gates,
    missed: Mutex<Missed>,
}

impl Hub {
    /// A hub whose clients may have `limit` messages waiting, with memory of this account; previews are reduced to `preview_size` pixels.
    pub fn new(limit: usize, preview_size: u32, memory: &Account) -> Self {
        let inner = Inner {
            clients: RwLock::default(),
            limit: limit.max(8),
            preview_size,
            current: Mutex::default(),
            max_clients: 100_000,
            status: Mutex::default(),
            memory: memory.part(MAX_WAITING_BYTES),
            gates: Gates::default(),
            missed: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Registers a connection, which is sent a first message, what its client missed in the last seconds, and at which node each of its
    /// prompts is of which nothing was missed. An older connection of the same one with the same id is closed, and what it was not sent goes to the
    /// new one. `None` when too many are connected.
    pub fn connect(&self, client_id: &str, who: Hearer, first: Option<Message>) -> Option<Arc<Mailbox>> {
        let mailbox = Arc::new(Mailbox::new(self.inner.limit, who));
        let who = mailbox.who();
        let mut clients = self.inner.clients.write();
        if clients.len() >= self.inner.max_clients {
            return None;
        }
        first.into_iter().for_each(|message| mailbox.push(Queued::new(message, Kind::Passing)));
        // Nobody adds to either meanwhile: whoever emits holds the clients.
        let mut missed = self.inner.missed.lock().take(client_id, who);
        let namesakes = clients.entry(client_id.to_owned()).or_default();
        for old in namesakes.extract_if(.., |known| known.who().owner == who.owner) {
            old.close(Closed::TakenOver);
            let (heard, others) = old.leave().into_iter().partition(|queued: &Queued| who.hears(&queued.owner));
            missed.extend::<Vec<_>>(heard);
            self.keep(client_id, old.who(), others);
        }
        namesakes.push(Arc::clone(&mailbox));
        for (prompt_id, executing) in self.executing_for(client_id, who) {
            if missed.iter().all(|queued| queued.prompt_id != prompt_id) {
                mailbox.push(Queued::new(executing, Kind::Passing));
            }
        }
        missed.into_iter().for_each(|queued| mailbox.push(queued));
        Some(mailbox)
    }

    /// Keeps what is told of a prompt back until what this returns is dropped: its client must know the id first.
    pub fn hold(&self, prompt_id: &str) -> Held {
        self.inner.gates.close(prompt_id)
    }

    /// Forgets a connection, unless a newer one has taken the id over. What it was not sent waits for the client to come again.
    pub fn disconnect(&self, client_id: &str, mailbox: &Mailbox) {
        let mut clients = self.inner.clients.write();
        let Some(namesakes) = clients.get_mut(client_id) else { return };
        let known = namesakes.len();
        namesakes.retain(|known| !std::ptr::eq(&**known, mailbox));
        if namesakes.len() < known {
            self.keep(client_id, mailbox.who(), mailbox.leave());
        }
        if namesakes.is_empty() {
            clients.remove(client_id);
        }
    }

    /// Keeps what a connection was not sent for its client's next one.
    fn keep(&self, client_id: &str, who: &Hearer, left: Vec<Queued>) {
        let (client_id, user) = (client_id.into(), who.owner.clone().unwrap_or_default());
        let mut missed = self.inner.missed.lock();
        left.into_iter().for_each(|queued| missed.keep(&client_id, &user, queued, KEPT));
    }

    /// Keeps the end of a prompt that ended while nobody could be connected, since the server was not there: its client, which knows only
    /// that the connection broke, is told when it comes again.
    pub fn ended(&self, entry: &HistoryEntry) {
        let Some(client_id) = &entry.job.client_id else { return };
        let Ok(messages) = serde_json::from_str::<Vec<(String, &RawValue)>>(entry.messages.get()) else { return };
        let messages = messages.iter().map(|(name, data)| named(name, data));
        let mut missed = self.inner.missed.lock();
        for message in messages.chain([frames::idle(&entry.job.id)]) {
            let queued = Queued { owner: Arc::clone(&entry.job.owner), ..Queued::new(message, Kind::Needed) };
            missed.keep(client_id, &entry.job.owner, queued, ENDED_KEPT);
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

    /// Sends an event that is no prompt's to everybody who gets to see everything.
    pub(crate) fn broadcast(&self, event: Told, data: &impl Serialize) {
        if let Some(queued) = self.weighed(Queued::new(text(event, data), Kind::Passing)) {
            self.push_to_some(&queued, |who| who.all);
        }
    }

    fn push_to_some(&self, queued: &Queued, wanted: impl Fn(&Hearer) -> bool) {
        for mailbox in self.inner.clients.read().values().flatten().filter(|mailbox| wanted(mailbox.who())) {
            mailbox.push(queued.clone());
        }
    }

    /// Tells everybody the queue's figures after a request changed them. `version` is the queue's version read before the figures were.
    /// Nothing is told while a worker has claimed or finished a prompt and not said so yet: its own figures follow at once, at their
    /// place among the prompt's events.
    pub fn status(&self, version: u64, counts: &Counts) {
        let mut last = self.inner.status.lock();
        if last.running == counts.running_ids {
            self.tell(&mut last, version, counts, None);
        }
    }

    /// Broadcasts figures unless newer ones, or the same, were told already; to who gets to see one owner's prompts only, that one's. The
    /// lock keeps two callers in order.
    fn tell(&self, last: &mut LastStatus, version: u64, counts: &Counts, prompt_id: Option<&str>) {
        let status = QueueStatus::from(counts);
        let owners: HashMap<Arc<str>, QueueStatus> =
            counts.owners.iter().map(|(owner, counts)| (Arc::clone(owner), QueueStatus::from(counts))).collect();
        if version < last.version {
            return;
        }
        if last.status.as_ref() == Some(&status) && last.owners == owners {
            (last.version, last.running) = (version, counts.running_ids.clone());
            return;
        }
        let gate = prompt_id.and_then(|id| self.inner.gates.of(id));
        let queued =
            |status| Queued { gate: gate.clone(), ..Queued::new(text(Told::Status, &Status { status, sid: None }), Kind::Figures) };
        if last.status.as_ref() != Some(&status) {
            self.push_to_some(&queued(&status), |who| who.all);
        }
        let none = QueueStatus::from(&Counts::default());
        for owner in owners.keys().chain(last.owners.keys().filter(|owner| !owners.contains_key(*owner))) {
            let own = owners.get(owner).unwrap_or(&none);
            if last.owners.get(owner).unwrap_or(&none) != own {
                self.push_to_some(&queued(own), |who| !who.all && who.is(owner));
            }
        }
        *last = LastStatus { version, status: Some(status), owners, running: counts.running_ids.clone() };
    }

    /// Sends what a custom node says, or something else that no prompt's event tells, to a client that is connected, or to all. Where it was
    /// said for an owner's prompt, only who gets to see that one's is told.
    pub fn event(&self, event: &str, data: &impl Serialize, client_id: Option<&str>, owner: Option<&str>) {
        self.push_to(client_id, owner, Queued::new(named(event, data), Kind::Passing));
    }

    /// The same with bytes behind the number of a binary event. They are pictures as a rule: a client that is slow may lose some.
    pub fn binary(&self, event: u32, bytes: &[u8], client_id: Option<&str>, owner: Option<&str>) {
        let frame = [&event.to_be_bytes()[..], bytes].concat();
        self.push_to(client_id, owner, Queued::new(Message::Binary(frame.into()), Kind::Droppable));
    }

    fn push_to(&self, client_id: Option<&str>, owner: Option<&str>, queued: Queued) {
        let Some(queued) = self.weighed(queued) else { return };
        let concerns = |who: &Hearer| owner.is_none_or(|owner| who.hears(owner));
        let Some(client_id) = client_id else { return self.push_to_some(&queued, concerns) };
        for mailbox in self.inner.clients.read().get(client_id).into_iter().flatten().filter(|mailbox| concerns(mailbox.who())) {
            mailbox.push(queued.clone());
        }
    }

    /// Counts what is large, once for all who are sent it. Where there is no memory left, previews are left out.
    fn weighed(&self, queued: Queued) -> Option<Queued> {
        let bytes = queued.bytes();
        if bytes < LARGE_BYTES {
            return Some(queued);
        }
        let tight = !self.inner.memory.has(bytes as u64);
        if tight && queued.kind == Kind::Droppable {
            return None;
        }
        Some(Queued { _lease: Some(Arc::new(self.inner.memory.count(bytes as u64))), tight, ..queued })
    }

    /// Sends an event to one connection.
    pub(crate) fn send(&self, mailbox: &Mailbox, event: Told, data: &impl Serialize) {
        mailbox.push(Queued::new(text(event, data), Kind::Passing));
    }

    /// What a client that reconnects in the middle of its prompts must be told: `executing` of each.
    fn executing_for(&self, client_id: &str, who: &Hearer) -> Vec<(Arc<str>, Message)> {
        let current = self.inner.current.lock();
        let own = |current: &Current| current.client.as_deref() == Some(client_id) && who.is(&current.owner);
        let own = current.iter().filter(|(_, current)| own(current));
        own.map(|(prompt_id, current)| (Arc::clone(prompt_id), frames::executing(prompt_id, &current.node))).collect()
    }

    /// Disconnects everybody once what waits for them is sent.
    pub fn shutdown(&self) {
        for mailbox in self.inner.clients.read().values().flatten() {
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
        if let EventKind::Executing(node) = &event.kind {
            let (owner, client, node) = (Arc::clone(&event.owner), event.client_id.clone(), node.clone());
            current.insert(Arc::clone(&event.prompt_id), Current { owner, client, node });
        } else if let EventKind::Idle = event.kind {
            current.shift_remove(&event.prompt_id);
        }
    }

    /// Whether anybody is told, now or when its client comes.
    fn concerns_anybody(&self, event: &Event) -> bool {
        let clients = self.inner.clients.read();
        let own = event.client_id.as_deref();
        event.broadcast() && !clients.is_empty() || own.is_some_and(|id| event.lasting() || clients.contains_key(id))
    }

    /// What is queued of an event; `None` for what is told otherwise.
    fn queued(&self, event: Event) -> Option<Queued> {
        let kind = match event.kind.droppable() {
            true => Kind::Droppable,
            false if event.lasting() => Kind::Needed,
            false => Kind::Passing,
        };
        let gate = self.inner.gates.of(&event.prompt_id);
        let (prompt_id, owner) = (Arc::clone(&event.prompt_id), Arc::clone(&event.owner));
        let body = match event.kind {
            EventKind::Image { node, image } => {
                Body::Picture(Arc::new(Picture::new(event.prompt_id, node, image, self.inner.preview_size)?))
            }
            _ => Body::Message(frames::message(&event)?),
        };
        self.weighed(Queued { body, kind, prompt_id, owner, gate, _lease: None, tight: false })
    }
}

impl EventSink for Hub {
    fn emit(&self, event: Event) {
        if let EventKind::Queue { version, counts } = &event.kind {
            return self.tell(&mut self.inner.status.lock(), *version, counts, Some(&event.prompt_id));
        }
        self.remember(&event);
        if !self.concerns_anybody(&event) {
            return;
        }
        let (to_all, lasting, owner, client) = (event.broadcast(), event.lasting(), Arc::clone(&event.owner), event.client_id.clone());
        let Some(queued) = self.queued(event) else { return };
        // Who comes meanwhile comes before this or behind it.
        let clients = self.inner.clients.read();
        if to_all {
            let hears = |mailbox: &&Arc<Mailbox>| mailbox.who().hears(&owner);
            clients.values().flatten().filter(hears).for_each(|mailbox| mailbox.push(queued.clone()));
        }
        let Some(client) = client else { return };
        match clients.get(&*client).and_then(|known| known.iter().find(|mailbox| mailbox.who().is(&owner))) {
            Some(mailbox) if !to_all => mailbox.push(queued),
            None if lasting => self.inner.missed.lock().keep(&client, &owner, queued, KEPT),
            Some(_) | None => {}
        }
    }
}

#[cfg(test)]
mod tests;
