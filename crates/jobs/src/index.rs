//! The index of the history: what its lists are filtered and sorted by. Pure, as [`crate::line`] is: every store that keeps one in memory
//! finds the same entries in the same order, and reads only those of a page from wherever they are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::store::{Cursor, HistoryEntry, HistoryQuery, Order, Status};

/// What the index knows of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The prompt id.
    pub id: Arc<str>,
    /// Whose it is.
    pub owner: Arc<str>,
    /// Its workflow.
    pub workflow_id: Option<Arc<str>>,
    /// How it ended.
    pub status: Status,
    /// When it was enqueued, in milliseconds since 1970.
    pub created_ms: i64,
    /// When it began to run.
    pub started_ms: i64,
    /// When it ended.
    pub ended_ms: i64,
}

/// Which entries a query means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The keys of one page, in its order.
    pub keys: Vec<i64>,
    /// How many there are with these filters.
    pub total: usize,
    /// Where the next page begins, if there is one.
    pub next: Option<Cursor>,
}

/// The entries of the history by their keys, which grow in the order in which they ended.
#[derive(Debug, Clone, Default)]
pub struct Index {
    facts: BTreeMap<i64, Arc<Facts>>,
    keys: HashMap<Arc<str>, i64>,
    /// Keys are never used twice, so that nobody who keeps one finds another entry under it.
    next_key: i64,
}

impl From<&HistoryEntry> for Facts {
    fn from(entry: &HistoryEntry) -> Self {
        let HistoryEntry { job, status, started_ms, ended_ms, .. } = entry;
        Self {
            id: job.id.as_str().into(),
            owner: job.owner.clone(),
            workflow_id: job.workflow_id.clone(),
            status: *status,
            created_ms: job.created_ms,
            started_ms: *started_ms,
            ended_ms: *ended_ms,
        }
    }
}

impl HistoryQuery {
    fn wants(&self, facts: &Facts) -> bool {
        (self.statuses.is_empty() || self.statuses.contains(&facts.status))
            && self.owner.as_ref().is_none_or(|owner| *owner == facts.owner)
            && (self.workflow_id.is_none() || self.workflow_id == facts.workflow_id)
            && self.ended_ms.is_none_or(|(from, to)| (from..=to).contains(&facts.ended_ms))
    }
}

impl Order {
    fn value(self, facts: &Facts) -> i64 {
        match self {
            Self::Ended => 0,
            Self::Created => facts.created_ms,
            Self::Duration => facts.ended_ms.saturating_sub(facts.started_ms),
        }
    }
}

impl Index {
    /// An empty index whose next key is `next_key`.
    pub fn new(next_key: i64) -> Self {
        Self { next_key, ..Self::default() }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.facts.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }

    /// The key of a prompt's entry.
    pub fn key(&self, id: &str) -> Option<i64> {
        self.keys.get(id).copied()
    }

    /// The prompt whose entry has this key.
    pub fn id(&self, key: i64) -> Option<Arc<str>> {
        self.facts.get(&key).map(|facts| facts.id.clone())
    }

    /// The last key that was given out.
    pub fn last_key(&self) -> i64 {
        self.next_key - 1
    }

    /// The entries that a query means.
    pub fn find(&self, query: &HistoryQuery) -> Found {
        let wanted = self.facts.iter().filter(|(_, facts)| query.wants(facts));
        let mut places: Vec<Cursor> = wanted.map(|(key, facts)| Cursor { value: query.order.value(facts), key: *key }).collect();
        places.sort_unstable();
        if query.descending {
            places.reverse();
        }
        let total = places.len();
        let passed = query.after.map_or(0, |after| places.partition_point(|place| *place == after || (*place < after) != query.descending));
        let start = passed.saturating_add(query.offset).min(total);
        let end = query.limit.map_or(total, |limit| start.saturating_add(limit).min(total));
        let page = &places[start..end];
        let next = page.last().copied().filter(|_| end < total);
        Found { keys: page.iter().map(|place| place.key).collect(), total, next }
    }

    /// Adds an entry with the next key.
    pub fn push(&mut self, facts: Facts) -> i64 {
        let key = self.next_key;
        self.insert(key, facts);
        key
    }

    /// Adds an entry whose key is known.
    pub fn insert(&mut self, key: i64, facts: Facts) {
        self.keys.insert(facts.id.clone(), key);
        self.facts.insert(key, Arc::new(facts));
        self.next_key = self.next_key.max(key.saturating_add(1));
    }

    /// The entries that ended first, so many.
    pub fn oldest(&self, many: usize) -> Vec<(i64, Arc<str>)> {
        self.facts.iter().take(many).map(|(key, facts)| (*key, facts.id.clone())).collect()
    }

    /// Whether there is an entry with this key.
    pub fn contains(&self, key: i64) -> bool {
        self.facts.contains_key(&key)
    }

    /// Forgets the entry that ended first, and gives its key.
    pub fn pop_oldest(&mut self) -> Option<i64> {
        let (key, facts) = self.facts.pop_first()?;
        self.keys.remove(&facts.id);
        Some(key)
    }

    /// Forgets a prompt's entry, and gives its key.
    pub fn remove(&mut self, id: &str) -> Option<i64> {
        let key = self.keys.remove(id)?;
        self.facts.remove(&key);
        Some(key)
    }

    /// Forgets all entries and says how many.
    pub fn clear(&mut self) -> usize {
        self.keys.clear();
        std::mem::take(&mut self.facts).len()
    }
}
