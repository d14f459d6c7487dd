//! Keeps what is told of a prompt back until its client can know the prompt's id: until the answer to its request is on the way.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A client that does not take its answer holds up nobody's events for longer.
const LONGEST: Duration = Duration::from_secs(1);

/// Messages behind a closed gate wait in their mailboxes.
pub(super) struct Gate {
    open: AtomicBool,
    until: Instant,
    waiting: Mutex<Vec<Arc<Notify>>>,
}

impl Gate {
    /// When it opens by itself; `None` once it is open.
    pub(super) fn closed_until(&self) -> Option<Instant> {
        (!self.open.load(Ordering::Acquire) && Instant::now() < self.until).then_some(self.until)
    }

    /// Wakes a mailbox when the gate opens.
    pub(super) fn wakes(&self, mailbox: &Arc<Notify>) {
        let mut waiting = self.waiting.lock();
        if !waiting.iter().any(|known| Arc::ptr_eq(known, mailbox)) {
            waiting.push(Arc::clone(mailbox));
        }
    }

    fn open(&self) {
        self.open.store(true, Ordering::Release);
        for mailbox in self.waiting.lock().drain(..) {
            mailbox.notify_one();
        }
    }
}

/// The closed gates, by prompt id.
#[derive(Clone, Default)]
pub(super) struct Gates {
    closed: Arc<Mutex<HashMap<Arc<str>, Arc<Gate>>>>,
}

impl Gates {
    /// Closes the gate of a prompt that is about to be enqueued. If one with this id was closed before, that one counts.
    pub(super) fn close(&self, prompt_id: &str) -> Held {
        let gate = Arc::new(Gate { open: AtomicBool::new(false), until: Instant::now() + LONGEST, waiting: Mutex::default() });
        let prompt_id: Arc<str> = prompt_id.into();
        self.closed.lock().entry(Arc::clone(&prompt_id)).or_insert_with(|| Arc::clone(&gate));
        Held { gates: self.clone(), prompt_id, gate }
    }

    /// The gate before a prompt's events.
    pub(super) fn of(&self, prompt_id: &str) -> Option<Arc<Gate>> {
        self.closed.lock().get(prompt_id).cloned()
    }
}

/// While this lives, what is told of its prompt waits.
pub struct Held {
    gates: Gates,
    prompt_id: Arc<str>,
    gate: Arc<Gate>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut closed = self.gates.closed.lock();
        if closed.get(&self.prompt_id).is_some_and(|gate| Arc::ptr_eq(gate, &self.gate)) {
            closed.remove(&self.prompt_id);
        }
        drop(closed);
        self.gate.open();
    }
}
