//! History entries in memory, bounded in bytes; the least recently used go first. It knows no disk.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::store::HistoryEntry;

/// What an entry costs beside its texts: the structures around them.
const OVERHEAD_BYTES: usize = 512;

/// Entries by their key in the history.
#[derive(Debug, Default)]
pub struct Cache {
    max_bytes: usize,
    bytes: usize,
    clock: u64,
    /// Key → entry, its size and when it was last used.
    entries: HashMap<i64, (Arc<HistoryEntry>, usize, u64)>,
    /// When last used → key.
    uses: BTreeMap<u64, i64>,
}

impl Cache {
    /// A cache of so many bytes.
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, ..Self::default() }
    }

    /// An entry, which counts as used.
    pub fn get(&mut self, key: i64) -> Option<Arc<HistoryEntry>> {
        let (entry, _, used) = self.entries.get_mut(&key)?;
        self.clock += 1;
        self.uses.remove(used);
        self.uses.insert(self.clock, key);
        *used = self.clock;
        Some(entry.clone())
    }

    /// Takes an entry in; older ones make room. One larger than the whole cache is not taken.
    pub fn insert(&mut self, key: i64, entry: Arc<HistoryEntry>) {
        let size = size(&entry);
        if size > self.max_bytes {
            return;
        }
        self.remove(key);
        while self.bytes + size > self.max_bytes {
            let Some((_, oldest)) = self.uses.pop_first() else { break };
            if let Some((_, freed, _)) = self.entries.remove(&oldest) {
                self.bytes -= freed;
            }
        }
        self.clock += 1;
        self.bytes += size;
        self.uses.insert(self.clock, key);
        self.entries.insert(key, (entry, size, self.clock));
    }

    /// Takes an entry in if there is room: reading a long list must not push out what is in use.
    pub fn insert_if_room(&mut self, key: i64, entry: Arc<HistoryEntry>) {
        if self.bytes + size(&entry) <= self.max_bytes {
            self.insert(key, entry);
        }
    }

    /// Drops an entry.
    pub fn remove(&mut self, key: i64) {
        if let Some((_, freed, used)) = self.entries.remove(&key) {
            self.bytes -= freed;
            self.uses.remove(&used);
        }
    }

    /// Drops all.
    pub fn clear(&mut self) {
        *self = Self { max_bytes: self.max_bytes, ..Self::default() };
    }
}

fn size(entry: &HistoryEntry) -> usize {
    let job = &entry.job;
    let outputs: usize = job.outputs.iter().map(|output| output.len() + size_of::<String>()).sum();
    let texts = [&job.prompt, &job.extra_data, &entry.messages, &entry.outputs, &entry.meta];
    OVERHEAD_BYTES + job.id.len() + outputs + texts.iter().map(|text| text.get().len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use crate::contract;
    use crate::line::{Bounds, Line};
    use crate::store::Status;

    use super::*;

    fn entry(id: &str) -> Arc<HistoryEntry> {
        let new = contract::job(id, crate::store::Position::Back);
        let (_, job) = Line::default().admit(&new, Bounds { pending: 1, bytes: usize::MAX, of_owner: 1 }).unwrap();
        let job = job.as_ref().clone();
        Arc::new(HistoryEntry::new(job, &contract::outcome(Status::Success), usize::MAX).unwrap())
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = Cache::new(3 * size(&entry("a")));
        for (key, id) in [(1, "a"), (2, "b"), (3, "c")] {
            cache.insert(key, entry(id));
        }
        assert!(cache.get(1).is_some());
        cache.insert_if_room(4, entry("d"));
        assert!(cache.get(4).is_none(), "there was no room");
        cache.insert(4, entry("d"));
        assert!(cache.get(2).is_none(), "2 was used longest ago");
        assert!(cache.get(1).is_some() && cache.get(3).is_some() && cache.get(4).is_some());
        assert!(cache.bytes <= cache.max_bytes);
        for key in 1..=4 {
            cache.remove(key);
        }
        assert_eq!((cache.bytes, cache.entries.len(), cache.uses.len()), (0, 0, 0));
    }
}
