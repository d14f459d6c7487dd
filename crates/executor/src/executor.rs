//! The executor: one prompt at a time, from the job to its outcome.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use comfyd_jobs::{EventKind, EventSink, Job, Outcome, Status};
use comfyd_node::{CancelToken, Catalog};
use serde_json::{Value as Json, json};

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
            max_progress_nodes: 500,
        }
    }
}

/// Runs prompts, one at a time, and keeps results between them. Belongs to one device thread.
pub struct Executor {
    #[allow(dead_code)]
    catalog: Arc<Catalog>,
    #[allow(dead_code)]
    options: ExecutorOptions,
}

impl Executor {
    /// An executor with an empty cache.
    pub fn new(catalog: Arc<Catalog>, options: ExecutorOptions) -> Self {
        Self { catalog, options }
    }

    /// Runs a job to its end. Never panics and never fails: what goes wrong is in the outcome.
    ///
    /// Emits every event but the last ones: [`terminal_event`] makes the event of the end, to be emitted once the outcome is stored.
    pub fn run(&mut self, job: &Job, _cancel: &CancelToken, _sink: &dyn EventSink) -> Outcome {
        let now = now_ms();
        let messages = vec![("execution_start".to_owned(), json!({"prompt_id": job.id, "timestamp": now}))];
        Outcome { status: Status::Error, messages, outputs: json!({}), meta: json!({}), started_ms: now, ended_ms: now }
    }

    /// Drops all cached results.
    pub fn clear(&mut self) {}
}

/// The event that ends a prompt: the outcome's last message. `None` if the outcome holds no end.
pub fn terminal_event(outcome: &Outcome) -> Option<EventKind> {
    let (name, data) = outcome.messages.last()?;
    match name.as_str() {
        "execution_success" => {
            let timestamp_ms = data.get("timestamp").and_then(Json::as_i64).unwrap_or(outcome.ended_ms);
            Some(EventKind::Success { timestamp_ms })
        }
        "execution_error" => Some(EventKind::Error { data: data.clone() }),
        "execution_interrupted" => Some(EventKind::Interrupted { data: data.clone() }),
        _ => None,
    }
}

pub(crate) fn now_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text,
        (None, None) => "a panic without a message",
    }
}
