//! The executor: one prompt at a time, from the job to its outcome.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use comfyd_graph::Graph;
use comfyd_jobs::{EventKind, EventSink, Job, Outcome, Status};
use comfyd_node::{CancelToken, Catalog, Hidden};
use serde_json::value::RawValue;
use serde_json::{Value as Json, json};

use crate::cache::Cache;
use crate::progress::Progress;
use crate::run::{Cause, Failure, Run, Shown};

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
    catalog: Arc<Catalog>,
    options: ExecutorOptions,
    cache: Cache,
}

impl Executor {
    /// An executor with an empty cache.
    pub fn new(catalog: Arc<Catalog>, options: ExecutorOptions) -> Self {
        let cache = Cache::new(options.cache, options.cache_budget_bytes);
        Self { catalog, options, cache }
    }

    /// Runs a job to its end. Never fails: what goes wrong, panics of nodes included, is in the outcome.
    ///
    /// Emits every event but the last ones: [`terminal_event`] makes the event of the end, to be emitted once the outcome is stored, so
    /// that clients which are told of the end find it in the history.
    pub fn run(&mut self, job: &Job, cancel: &CancelToken, sink: &dyn EventSink) -> Outcome {
        let stored = |text: &RawValue| Arc::new(comfyd_wire::json::read(text.get().as_bytes()).unwrap_or_default());
        let (prompt, extra_data) = (stored(&job.prompt), stored(&job.extra_data));
        let prompt_id: Arc<str> = job.id.as_str().into();
        let client_id = extra_data.get("client_id").and_then(Json::as_str).map(Arc::from);
        let progress = Progress::new(sink, prompt_id.clone(), client_id, self.options.max_progress_nodes);

        let started_ms = now_ms();
        let mut messages = vec![message("execution_start", json!({"prompt_id": job.id}), started_ms)];
        progress.emit(EventKind::Start { timestamp_ms: started_ms });
        let hidden = Hidden { prompt_id, prompt, extra_data, secrets: job.secrets.values() };
        let graph = Graph::from_prompt(&self.catalog, &hidden.prompt);
        let ended = match graph {
            Err(error) => {
                messages.push(tell_cached(&progress, &job.id, Vec::new()));
                Ended { failure: Some(unbuildable(&error)), executed: json!([]), prompt_ids: json!([]), shown: Shown::default() }
            }
            Ok(graph) => {
                let cache = &mut self.cache;
                let mut run = Run::new(&self.catalog, &self.options, cache, cancel, &progress, hidden, graph);
                let cached = run.begin();
                messages.push(tell_cached(&progress, &job.id, cached));
                let failure = run.outputs(&job.outputs).err();
                let ended = Ended { failure, executed: run.executed(), prompt_ids: run.prompt_ids(), shown: run.shown() };
                run.end();
                ended
            }
        };
        let ended_ms = now_ms();
        let (status, end) = ended.message(&job.id, ended_ms);
        messages.push(end);
        let Shown { outputs, meta } = ended.shown;
        Outcome { status, messages, outputs: Json::Object(outputs), meta: Json::Object(meta), started_ms, ended_ms }
    }

    /// Drops all cached results.
    pub fn clear(&mut self) {
        self.cache.clear();
    }

    /// How many results are cached, and the bytes that they are accounted with.
    pub fn cache_usage(&self) -> (usize, usize) {
        self.cache.usage()
    }
}

/// How a run ended.
struct Ended {
    failure: Option<Box<Failure>>,
    executed: Json,
    prompt_ids: Json,
    shown: Shown,
}

impl Ended {
    /// The last message of the history.
    fn message(&self, prompt_id: &str, timestamp_ms: i64) -> (Status, (String, Json)) {
        let Some(failure) = &self.failure else {
            return (Status::Success, message("execution_success", json!({"prompt_id": prompt_id}), timestamp_ms));
        };
        let mut data = json!({
            "prompt_id": prompt_id,
            "node_id": failure.node_id,
            "node_type": failure.node_type,
            "executed": self.executed,
        });
        match &failure.cause {
            Cause::Interrupted => (Status::Interrupted, message("execution_interrupted", data, timestamp_ms)),
            Cause::Failed { kind, message: text, traceback, inputs } => {
                // The reference puts tips for people behind a line break, which is there without tips too.
                data["exception_message"] = format!("{text}\n").into();
                data["exception_type"] = (*kind).into();
                data["traceback"] = traceback.as_slice().into();
                data["current_inputs"] = inputs.clone();
                data["current_outputs"] = self.prompt_ids.clone();
                (Status::Error, message("execution_error", data, timestamp_ms))
            }
        }
    }
}

fn tell_cached(progress: &Progress<'_>, prompt_id: &str, nodes: Vec<Arc<str>>) -> (String, Json) {
    let timestamp_ms = now_ms();
    let ids: Vec<&str> = nodes.iter().map(|id| &**id).collect();
    let message = message("execution_cached", json!({"nodes": ids, "prompt_id": prompt_id}), timestamp_ms);
    progress.emit(EventKind::Cached { nodes, timestamp_ms });
    message
}

/// The catalog has changed since the prompt was accepted.
fn unbuildable(error: &comfyd_graph::Error) -> Box<Failure> {
    let (node_id, node_type) = match error {
        comfyd_graph::Error::UnknownClass { node, class } => (node.clone(), class.clone()),
        comfyd_graph::Error::DanglingLink { node, .. } | comfyd_graph::Error::DuplicateNode(node) => (node.clone(), String::new()),
        comfyd_graph::Error::NotAGraph | comfyd_graph::Error::TooManyNodes { .. } | comfyd_graph::Error::TooDeep { .. } => {
            (String::new(), String::new())
        }
    };
    let message = error.to_string();
    let cause = Cause::Failed { kind: "ValueError", message, traceback: Vec::new(), inputs: json!({}) };
    Box::new(Failure { node_id, node_type, cause })
}

fn message(name: &str, mut data: Json, timestamp_ms: i64) -> (String, Json) {
    data["timestamp"] = timestamp_ms.into();
    (name.to_owned(), data)
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
