//! How prompts run: what of their results stays, and the bounds.

use comfyd_graph::Placing;

/// Which results stay for later prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CachePolicy {
    /// What the current prompt uses; everything else is dropped when a prompt begins (the reference's default).
    #[default]
    Classic,
    /// The results of at least so many nodes, those used longest ago being dropped first (`--cache-lru`).
    Lru(usize),
    /// Nothing: a result is dropped once the nodes that use it have run (`--cache-none`).
    None,
}

/// How prompts run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorOptions {
    /// Which results stay.
    pub cache: CachePolicy,
    /// Bytes that cached results may take; those used longest ago are dropped first. `None`: no budget.
    pub cache_budget_bytes: Option<usize>,
    /// How deep expansions may nest.
    pub max_expansion_depth: usize,
    /// Nodes of one prompt, those of its expansions included.
    pub max_nodes: usize,
    /// Values in one list, and calls of one node over a list.
    pub max_list_len: usize,
    /// Where nodes run whose class several processes have.
    pub placing: Placing,
    /// Nodes in one `progress_state` event; finished ones beyond are left out, oldest first.
    pub max_progress_nodes: usize,
}

impl Default for ExecutorOptions {
    fn default() -> Self {
        Self {
            cache: CachePolicy::Classic,
            cache_budget_bytes: None,
            max_expansion_depth: 1_000,
            max_nodes: 100_000,
            max_list_len: 100_000,
            placing: Placing::default(),
            max_progress_nodes: 500,
        }
    }
}
