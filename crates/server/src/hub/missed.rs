//! What clients were not there to hear: the last messages of prompts whose client is not connected, for a few seconds. A script that
//! submits first and connects then, or a page that is loaded anew, gets them when it comes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::mailbox::{Hearer, Queued};

/// How long a message waits for its client.
pub(super) const KEPT: Duration = Duration::from_secs(10);
/// How many messages wait in all, and how many bytes they have; the oldest go first.
const MAX_MESSAGES: usize = 4096;
const MAX_BYTES: usize = 8 << 20;

struct Entry {
    until: Instant,
    client: Arc<str>,
    /// Whose connection it was for: that of whoever sent the prompt, or of somebody who is told of those of others too.
    user: Arc<str>,
    queued: Queued,
}

#[derive(Default)]
pub(super) struct Missed {
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Missed {
    pub(super) fn keep(&mut self, client: &Arc<str>, user: &Arc<str>, queued: Queued, how_long: Duration) {
        let now = Instant::now();
        self.bytes += queued.bytes();
        self.entries.push_back(Entry { until: now + how_long, client: Arc::clone(client), user: Arc::clone(user), queued });
        while let Some(oldest) = self.entries.front()
            && (self.entries.len() > MAX_MESSAGES || self.bytes > MAX_BYTES || now > oldest.until)
        {
            self.bytes -= oldest.queued.bytes();
            self.entries.pop_front();
        }
    }

    /// What a client that comes now has missed, in order. What its key gives no right to hear stays for one that does.
    pub(super) fn take(&mut self, client: &str, who: &Hearer) -> Vec<Queued> {
        let now = Instant::now();
        let (mut taken, mut left) = (Vec::new(), VecDeque::with_capacity(self.entries.len()));
        for entry in self.entries.drain(..).filter(|entry| now <= entry.until) {
            let heard = &*entry.client == client && who.is(&entry.user) && who.hears(&entry.queued.owner);
            if heard { taken.push(entry.queued) } else { left.push_back(entry) }
        }
        self.bytes = left.iter().map(|entry| entry.queued.bytes()).sum();
        self.entries = left;
        taken
    }
}
