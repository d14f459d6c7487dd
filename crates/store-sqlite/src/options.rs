//! A store's bounds and how durable it is.

/// How much a commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The end of the process, `kill -9` included. After a loss of power the last commits may be gone; the database stays whole.
    #[default]
    Normal,
    /// A loss of power too: each commit waits for the disk.
    Full,
}

/// A store's bounds and how durable it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How many jobs may wait. They are kept in memory too.
    pub max_pending: usize,
    /// How many bytes their texts may have together.
    pub max_pending_bytes: usize,
    /// How many jobs of one owner may wait and run.
    pub max_of_owner: usize,
    /// How many finished jobs are kept; the oldest go first. Each costs about 400 bytes of memory, besides the cache.
    pub max_history: usize,
    /// How much of the history is kept in memory, in bytes.
    pub cache_bytes: usize,
    /// How many bytes of JSON the outcome of one job may have.
    pub max_outcome_bytes: usize,
    /// How much a commit survives.
    pub durability: Durability,
}

impl Default for Options {
    /// 10,000 of each, no bound of one owner, 512 MiB that wait, 32 MiB of cache, 64 MiB an outcome, [`Durability::Normal`].
    fn default() -> Self {
        Self {
            max_pending: 10_000,
            max_pending_bytes: 512 << 20,
            max_of_owner: usize::MAX,
            max_history: 10_000,
            cache_bytes: 32 << 20,
            max_outcome_bytes: 64 << 20,
            durability: Durability::Normal,
        }
    }
}
