//! The history in parts: who wants much of it has a part at a time in memory, and not many read at once. Does not know what is made of it.

use std::sync::Arc;

use comfyd_jobs::{HistoryEntry, HistoryQuery};
use comfyd_memory::Lease;

use crate::app::App;
use crate::error::ApiError;

/// Entries of a part: at first, and at most where they are small.
const FIRST: usize = 8;
const MOST: usize = 256;
/// What a part should have, in bytes.
const PART_BYTES: usize = 1 << 20;
/// Smaller answers are not counted.
const SMALL_BYTES: usize = 64 << 10;

/// Entries of the history, part after part.
pub(crate) struct Parts {
    app: App,
    query: HistoryQuery,
    /// How many are still wanted.
    left: usize,
    size: usize,
    done: bool,
    /// How many there are, on other pages too. Known from the first part on.
    pub total: usize,
}

/// Entries, and the memory that they and what is written of them take.
pub(crate) struct Part {
    pub entries: Vec<Arc<HistoryEntry>>,
    pub lease: Lease,
    /// Whether nothing comes behind it.
    pub last: bool,
}

impl Parts {
    pub(crate) fn new(app: &App, query: HistoryQuery) -> Self {
        let left = query.limit.unwrap_or(usize::MAX);
        Self { app: app.clone(), query, left, size: FIRST, done: false, total: 0 }
    }

    /// The next entries; `None` behind the last ones.
    pub(crate) async fn next(&mut self) -> Result<Option<Part>, ApiError> {
        if self.done {
            return Ok(None);
        }
        // Until there is memory for it, few have a part.
        let _turn = self.app.readers.acquire().await;
        let room = &self.app.answers;
        let (page, bytes) = loop {
            self.query.limit = Some(self.left.min(self.size));
            let page = self.app.store.history(&self.query).await?;
            let bytes: usize = page.entries.iter().map(|entry| bytes(entry)).sum();
            if page.entries.len() <= 1 || 2 * bytes as u64 <= room.bytes() / 4 {
                break (page, bytes);
            }
            self.size = 1;
        };
        let lease = room.take(room.bytes().min(2 * bytes as u64)).await?;
        self.total = page.total;
        self.left = self.left.saturating_sub(self.size);
        self.size = (PART_BYTES * page.entries.len().max(1) / bytes.max(1)).clamp(1, MOST);
        (self.query.after, self.query.offset) = (page.next, 0);
        self.done = page.next.is_none() || self.left == 0;
        Ok(Some(Part { entries: page.entries, lease, last: self.done }))
    }
}

/// Memory for an answer with one entry, unless that is small.
pub(crate) async fn room_for(app: &App, entry: Option<&HistoryEntry>) -> Result<Vec<Lease>, ApiError> {
    let bytes = entry.map_or(0, bytes);
    if bytes <= SMALL_BYTES { Ok(Vec::new()) } else { Ok(vec![app.answers.take(bytes as u64).await?]) }
}

fn bytes(entry: &HistoryEntry) -> usize {
    let texts = [&entry.job.prompt, &entry.job.extra_data, &entry.messages, &entry.outputs, &entry.meta];
    texts.iter().map(|text| text.get().len()).sum()
}
