//! The executor: one prompt at a time, from the job to its outcome.

use std::sync::Arc;

use comfyd_graph::{Graph, Placement, PlacementMode, Placing};
use comfyd_jobs::{EventKind, EventSink, Failure, Interruption, Job, Message, Outcome, Status, now_ms};
use comfyd_memory::Account;
use comfyd_node::{Actor, CancellationToken, Catalog, Hidden, OptionSource, SharedCatalog, acting_for};
use indexmap::IndexSet;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use serde_json::{Value as Json, json};

use crate::cache::Cache;
use crate::guard::guarded;
use crate::hosts::Hosts;
use crate::known::Known;
use crate::options::ExecutorOptions;
use crate::places::{Arriving, BeforeNode, Places, Showing};
use crate::progress::Progress;
use crate::results::Ledger;
use crate::run::{Run, Shown};
use crate::stop::{Failed, Halt, Stop};
use crate::watch::Watch;

/// What is told of a failure besides its message when a device's memory ran out.
const OUT_OF_MEMORY: &str = "The device has too little memory for this: make the batch or the picture smaller, or use fewer models.";

/// Waits until more classes are known, or until the prompt is cancelled.
pub type Learn = dyn Fn(&CancellationToken) + Send + Sync;

/// Runs prompts, one at a time, and keeps results between them. Belongs to one device thread.
pub struct Executor {
    catalog: SharedCatalog,
    options: ExecutorOptions,
    files: Option<Arc<dyn OptionSource>>,
    before: Option<Arc<BeforeNode>>,
    showing: Option<Arc<Showing>>,
    learn: Option<Arc<Learn>>,
    arriving: Option<Arc<Arriving>>,
    cache: Arc<Mutex<Cache>>,
    ledger: Arc<Ledger>,
}

impl Executor {
    /// An executor with an empty cache. Each prompt runs with the catalog that there is at its start.
    pub fn new(catalog: impl Into<SharedCatalog>, options: ExecutorOptions) -> Self {
        let cache = Cache::new(options.cache, options.cache_budget_bytes);
        let (cache, ledger) = (Arc::new(Mutex::new(cache)), Ledger::new(Account::unbounded()));
        Self { catalog: catalog.into(), options, files: None, before: None, showing: None, learn: None, arriving: None, cache, ledger }
    }

    /// The same with an account of memory that is told of results, and for which results of earlier prompts give way.
    pub fn with_account(self, account: &Account) -> Self {
        let cache = Arc::downgrade(&self.cache);
        account.gives_way(0, move |missing| cache.upgrade().is_some_and(|cache| cache.lock().give_way(missing)));
        Self { ledger: Ledger::new(account.clone()), ..self }
    }

    /// The same with the files that combos list: a node whose file this process does not list may run in another one that does.
    pub fn with_files(self, files: Arc<dyn OptionSource>) -> Self {
        Self { files: Some(files), ..self }
    }

    /// The same with something to do on the device thread before each node.
    pub fn with_before(self, before: Arc<BeforeNode>) -> Self {
        Self { before: Some(before), ..self }
    }

    /// The same with something to do with what each node shows, before anybody is told.
    pub fn with_showing(self, showing: Arc<Showing>) -> Self {
        Self { showing: Some(showing), ..self }
    }

    /// The same with something to do with a prompt before anything of it runs.
    pub fn with_arriving(self, arriving: Arc<Arriving>) -> Self {
        Self { arriving: Some(arriving), ..self }
    }

    /// The same with somebody to ask for classes that a prompt names and the catalog lacks: the process that has them may never have started.
    pub fn with_learning(self, learn: Arc<Learn>) -> Self {
        Self { learn: Some(learn), ..self }
    }

    /// The catalog for a prompt.
    fn catalog_for(&self, prompt: &Json, cancel: &CancellationToken) -> Arc<Catalog> {
        let catalog = self.catalog.current();
        let lacks = |node: &Json| node.get("class_type").and_then(Json::as_str).is_some_and(|class| catalog.get(class).is_none());
        match &self.learn {
            Some(learn) if prompt.as_object().into_iter().flatten().any(|(_, node)| lacks(node)) => {
                learn(cancel);
                self.catalog.current()
            }
            Some(_) | None => catalog,
        }
    }

    /// Runs a job to its end. Never fails: what goes wrong, panics of nodes included, is in the outcome.
    ///
    /// Emits every event but the last ones: the outcome's last message is to be told once the outcome is stored, so that clients which
    /// are told of the end find it in the history.
    pub fn run(&mut self, job: &Job, cancel: &CancellationToken, sink: Arc<dyn EventSink>) -> Outcome {
        self.run_watched(job, cancel, sink, &Watch::default())
    }

    /// The same, told of to whoever watches.
    pub(crate) fn run_watched(&mut self, job: &Job, cancel: &CancellationToken, sink: Arc<dyn EventSink>, watch: &Watch) -> Outcome {
        let stored = |text: &RawValue| Arc::new(comfyd_wire::json::read(text.get().as_bytes()).unwrap_or_default());
        let (prompt, extra_data) = (stored(&job.prompt), stored(&job.extra_data));
        let prompt_id: Arc<str> = job.id.as_str().into();
        let progress = Arc::new(Progress::new(sink, prompt_id.clone(), job, self.options.max_progress_nodes));

        // What nodes read and save is its owner's.
        let _acting = acting_for(Actor { owner: job.owner.clone(), all: false, patient: Some(cancel.clone()) });
        let started_ms = now_ms();
        let mut messages = Vec::new();
        let mut tell = |message: Message| {
            progress.emit(EventKind::Message(message.clone()));
            messages.push(message);
        };
        tell(Message::Start { prompt_id: prompt_id.clone(), timestamp_ms: started_ms });
        let cached = |nodes| Message::Cached { nodes, prompt_id: prompt_id.clone(), timestamp_ms: now_ms() };
        let hidden = Hidden { prompt_id: prompt_id.clone(), prompt, extra_data, secrets: job.secrets.values() };
        let hosts = Hosts::new(job, hidden, progress.clone(), cancel, watch);
        let ended = self.attempt(job, &progress, hosts, &mut |nodes| tell(cached(nodes)));
        progress.close();
        let ended_ms = now_ms();
        let (status, mut end, Shown { outputs, nodes }) = ended.message(prompt_id, ended_ms);
        if let Message::Failed(failure) = &mut end {
            job.secrets.hide_in(failure);
        }
        messages.push(end);
        Outcome { status, messages, outputs: Json::Object(outputs), meta: nodes, started_ms, ended_ms }
    }

    /// Runs a job; where a value could not cross to another host, once more, with its nodes where the other hosts have them. What ran before
    /// is cached then.
    fn attempt(&mut self, job: &Job, progress: &Progress, mut hosts: Hosts<'_>, tell_cached: &mut dyn FnMut(Vec<Arc<str>>)) -> Ended {
        let catalog = self.catalog_for(&hosts.hidden.prompt, hosts.cancel);
        let (files, before, showing) = (self.files.as_deref(), self.before.as_deref(), self.showing.as_deref());
        let places = Places { placing: self.options.placing.clone(), files, before, showing };
        let arrived = self.arriving.as_ref().map_or(Ok(()), |arriving| guarded(|| arriving(&hosts.hidden.prompt)));
        let arrived = arrived.map_err(|error| Box::new(Halt { node_id: "".into(), node_type: "".into(), stop: error.into() }));
        let (placement, graph) = match arrived.and_then(|()| built(&catalog, &places, &hosts.hidden.prompt, &job.outputs)) {
            Ok(built) => built,
            Err(mut halt) => {
                // Whoever interrupted the wait for its classes is not told that there are none.
                if hosts.cancel.is_cancelled() {
                    halt.stop = Stop::Interrupted;
                }
                tell_cached(Vec::new());
                return Ended { halt: Some(halt), executed: IndexSet::new(), prompt_ids: Vec::new(), shown: Shown::default() };
            }
        };
        let mut run = Run::new(&catalog, &self.options, &places, Known::new(&self.cache, &self.ledger, hosts), progress, graph);
        tell_cached(run.begin());
        let ended = Ended::of(&mut run, &job.outputs);
        hosts = run.end();
        let crossing = ended.halt.as_ref().is_some_and(|halt| matches!(&halt.stop, Stop::Failed(failed) if failed.cannot_cross));
        if !crossing || !catalog.has_hosted() {
            return ended;
        }
        let places = Places { placing: Placing { mode: PlacementMode::Python, ..Placing::default() }, files, before, showing };
        match built(&catalog, &places, &hosts.hidden.prompt, &job.outputs) {
            Ok((other, graph)) if other != placement => {
                tracing::info!(prompt_id = job.id, "a value cannot leave its process: the prompt's nodes are placed anew");
                let run = Run::new(&catalog, &self.options, &places, Known::new(&self.cache, &self.ledger, hosts), progress, graph);
                let mut run = run.after(ended.executed);
                run.begin();
                let ended = Ended::of(&mut run, &job.outputs);
                run.end();
                ended
            }
            Ok(_) | Err(_) => ended,
        }
    }

    /// Drops all cached results.
    pub fn clear(&mut self) {
        self.cache.lock().clear();
    }

    /// How many results are cached, and the bytes that they are accounted with.
    pub fn cache_usage(&self) -> (usize, usize) {
        self.cache.lock().usage()
    }
}

/// How a run ended.
struct Ended {
    halt: Option<Box<Halt>>,
    executed: IndexSet<Arc<str>>,
    prompt_ids: Vec<Arc<str>>,
    shown: Shown,
}

impl Ended {
    fn of(run: &mut Run<'_, '_>, outputs: &[String]) -> Self {
        let halt = run.outputs(outputs).err();
        Self { halt, executed: run.executed().clone(), prompt_ids: run.prompt_ids(), shown: run.shown() }
    }

    /// The last message of the history, and what is left.
    fn message(self, prompt_id: Arc<str>, timestamp_ms: i64) -> (Status, Message, Shown) {
        let Self { halt, executed, prompt_ids, shown } = self;
        let Some(halt) = halt else { return (Status::Success, Message::Success { prompt_id, timestamp_ms }, shown) };
        let Halt { node_id, node_type, stop } = *halt;
        let executed = executed.into_iter().collect();
        match stop {
            Stop::Interrupted => {
                let end = Interruption { prompt_id, node_id, node_type, executed, timestamp_ms };
                (Status::Interrupted, Message::Interrupted(end), shown)
            }
            Stop::Failed(failed) => {
                let Failed { kind, message, traceback, inputs, out_of_memory, cannot_cross: _ } = *failed;
                let tip = if out_of_memory { OUT_OF_MEMORY } else { "" };
                let failure = Failure {
                    prompt_id,
                    node_id,
                    node_type,
                    executed,
                    // The reference puts tips for people behind a line break, which is there without tips too.
                    exception_message: format!("{message}\n{tip}"),
                    exception_type: kind,
                    traceback,
                    current_inputs: inputs.unwrap_or_else(|| json!({})),
                    current_outputs: prompt_ids,
                    timestamp_ms: Some(timestamp_ms),
                };
                (Status::Error, Message::Failed(Box::new(failure)), shown)
            }
        }
    }
}

/// The graph of a prompt, with where its nodes run.
fn built(catalog: &Catalog, places: &Places<'_>, prompt: &Json, outputs: &[String]) -> Result<(Placement, Graph), Box<Halt>> {
    let placement = places.prompt(catalog, prompt, outputs).map_err(|unplaceable| {
        let (node_id, node_type) = (unplaceable.to.as_str().into(), unplaceable.to_class.as_str().into());
        Box::new(Halt { node_id, node_type, stop: unplaceable.into() })
    })?;
    let graph = Graph::from_prompt(catalog, prompt, &placement).map_err(|error| unbuildable(&error))?;
    Ok((placement, graph))
}

/// The catalog has changed since the prompt was accepted.
fn unbuildable(error: &comfyd_graph::Error) -> Box<Halt> {
    let (node_id, node_type) = match error {
        comfyd_graph::Error::UnknownClass { node, class } => (node.as_str(), class.as_str()),
        comfyd_graph::Error::DanglingLink { node, .. } | comfyd_graph::Error::DuplicateNode(node) => (node.as_str(), ""),
        comfyd_graph::Error::NotAGraph | comfyd_graph::Error::TooManyNodes { .. } | comfyd_graph::Error::TooDeep { .. } => ("", ""),
    };
    let stop = Stop::Failed(Failed::new("ValueError", error.to_string()));
    Box::new(Halt { node_id: node_id.into(), node_type: node_type.into(), stop })
}
