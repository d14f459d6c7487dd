//! One prompt's run: picks nodes in order, takes results from the cache or calls the node, wires expansions in.

use std::any::Any;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use comfyd_graph::{ExecutionList, Graph, InputSource, NodeIndex, Signature, Signatures};
use comfyd_jobs::{EventKind, Failure, Message, NodeRef};
use comfyd_node::{CancellationToken, Catalog, Context, Entry, Error as NodeError, Fingerprint, Hidden, Inputs, Node, NodeOutput, Source};
use indexmap::IndexSet;
use serde_json::{Map, Value as Json, json};

use crate::cache::{Cache, NodeResult, Scope};
use crate::calls::{self, Given};
use crate::options::ExecutorOptions;
use crate::progress::{Progress, node_ref};

/// Why a prompt ended early.
pub(crate) struct Halt {
    /// The node's id; of the prompt's node if it failed inside an expansion.
    pub node_id: Arc<str>,
    /// Its class.
    pub node_type: Arc<str>,
    /// What happened.
    pub cause: Cause,
}

pub(crate) enum Cause {
    Interrupted,
    Failed {
        kind: Cow<'static, str>,
        message: String,
        /// The causes below, outermost first.
        traceback: Vec<String>,
        /// What the node was given.
        inputs: Json,
    },
}

/// A failed step, before it is known which node reports it.
enum Stop {
    Interrupted,
    Failed { kind: Cow<'static, str>, message: String, traceback: Vec<String> },
}

impl From<NodeError> for Stop {
    fn from(error: NodeError) -> Self {
        if matches!(error, NodeError::Interrupted) {
            return Self::Interrupted;
        }
        let mut traceback = Vec::new();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            traceback.push(format!("caused by: {cause}\n"));
            source = cause.source();
        }
        Self::Failed { kind: error.kind().to_owned().into(), message: error.to_string(), traceback }
    }
}

impl From<comfyd_graph::Error> for Stop {
    fn from(error: comfyd_graph::Error) -> Self {
        use comfyd_graph::Error;
        let kind = match &error {
            Error::DuplicateNode(_) => "DuplicateNodeError",
            Error::UnknownClass { .. } | Error::DanglingLink { .. } => "NodeNotFoundError",
            Error::NotAGraph => "ValueError",
            Error::TooManyNodes { .. } | Error::TooDeep { .. } => "RecursionError",
        };
        Self::Failed { kind: kind.into(), message: error.to_string(), traceback: Vec::new() }
    }
}

/// What one step of a node led to.
enum Step {
    /// The node has its result.
    Done,
    /// It waits for lazy inputs, or for the nodes that it expanded into.
    Waiting,
}

/// What a node's question for lazy inputs led to.
enum Asked {
    /// It has all that it needs.
    Nothing,
    /// What it asked for is known.
    Known,
    /// Some of it must be evaluated first.
    Unknown,
}

/// What a node shows and where it belongs, for the history.
#[derive(Default)]
pub(crate) struct Shown {
    /// Node id → what it shows.
    pub outputs: Map<String, Json>,
    /// Those nodes.
    pub nodes: Vec<NodeRef>,
}

/// What is known of nodes' results.
struct Known<'a> {
    cache: &'a mut Cache,
    cancel: &'a CancellationToken,
    signatures: Signatures,
    /// Results that nodes of this run still need.
    results: HashMap<NodeIndex, Arc<NodeResult>>,
}

impl Known<'_> {
    fn signature(&mut self, graph: &Graph, node: NodeIndex) -> Option<Signature> {
        let cancel = self.cancel;
        self.signatures.get(graph, node, &mut |graph, node| fingerprint(graph, node, cancel))
    }

    fn has(&mut self, graph: &Graph, node: NodeIndex) -> bool {
        if self.results.contains_key(&node) {
            return true;
        }
        let Some(result) = self.signature(graph, node).and_then(|s| self.cache.get(&s)) else { return false };
        self.results.insert(node, result);
        true
    }
}

pub(crate) struct Run<'a> {
    catalog: &'a Catalog,
    options: &'a ExecutorOptions,
    cancel: &'a CancellationToken,
    progress: &'a Progress<'a>,
    hidden: Hidden,
    graph: Graph,
    list: ExecutionList,
    known: Known<'a>,
    /// By node: links of nodes that may still run. At zero its result is dropped.
    uses: Vec<usize>,
    /// By node: the lazy inputs that it asked for.
    asked: HashMap<NodeIndex, IndexSet<String>>,
    /// Nodes that wait for what they expanded into: what each of their calls gave.
    expanding: HashMap<NodeIndex, Vec<Vec<Source>>>,
    /// Ids of the nodes that expanded in this run.
    expanded: HashSet<Arc<str>>,
    executed: IndexSet<Arc<str>>,
    /// What nodes of this run show.
    ui: HashMap<NodeIndex, Arc<Json>>,
}

impl<'a> Run<'a> {
    pub fn new(
        catalog: &'a Catalog,
        options: &'a ExecutorOptions,
        cache: &'a mut Cache,
        cancel: &'a CancellationToken,
        progress: &'a Progress<'a>,
        hidden: Hidden,
        graph: Graph,
    ) -> Self {
        let known = Known { cache, cancel, signatures: Signatures::new(), results: HashMap::new() };
        Self {
            catalog,
            options,
            cancel,
            progress,
            hidden,
            graph,
            list: ExecutionList::new(),
            known,
            uses: Vec::new(),
            asked: HashMap::new(),
            expanding: HashMap::new(),
            expanded: HashSet::new(),
            executed: IndexSet::new(),
            ui: HashMap::new(),
        }
    }

    /// Makes the cache ready for this prompt; gives the ids of the nodes whose results it holds, in the order of the prompt.
    pub fn begin(&mut self) -> Vec<Arc<str>> {
        let count = self.graph.prompt_nodes().len();
        let signatures: Vec<Option<Signature>> = (0..count).map(|i| self.known.signature(&self.graph, i)).collect();
        let used: HashSet<Signature> = signatures.iter().flatten().copied().collect();
        let graph = &self.graph;
        let lives = |scope: &Scope| graph.find(&scope.root).is_some_and(|i| graph.node(i).class_type == scope.class);
        self.known.cache.begin(&used, &lives);
        let mut cached = Vec::new();
        for (index, signature) in signatures.iter().enumerate() {
            if signature.is_some_and(|s| self.known.cache.contains(&s)) {
                cached.push(self.graph.node(index).id.clone());
            }
        }
        cached
    }

    /// Runs the outputs and all that they need.
    pub fn outputs(&mut self, outputs: &[String]) -> Result<(), Box<Halt>> {
        for id in outputs {
            let Some(index) = self.graph.find(id) else {
                let message = format!("output node '{id}' is not in the prompt: submit it again");
                let cause = Cause::Failed { kind: "NodeNotFoundError".into(), message, traceback: Vec::new(), inputs: json!({}) };
                return Err(Box::new(Halt { node_id: id.as_str().into(), node_type: Arc::default(), cause }));
            };
            self.add(index).map_err(|stop| self.halt(index, stop, json!({})))?;
        }
        loop {
            let index = match self.list.next(&self.graph) {
                Ok(None) => return Ok(()),
                Ok(Some(index)) => index,
                Err(cycle) => {
                    let message = "dependency cycle detected: the nodes of an expansion wait for each other".to_owned();
                    let stop = Stop::Failed { kind: "graph.DependencyCycleError".into(), message, traceback: Vec::new() };
                    return Err(self.halt(cycle.blamed, stop, json!([])));
                }
            };
            match self.step(index)? {
                Step::Done => self.complete(index),
                Step::Waiting => {}
            }
        }
    }

    /// What the prompt's nodes and those of its expansions show, whether they ran now or are cached.
    pub fn shown(&mut self) -> Shown {
        let mut shown = Shown::default();
        let prompt_len = self.graph.prompt_nodes().len();
        for index in 0..self.graph.nodes().len() {
            let mut ui = self.ui.get(&index).cloned();
            if ui.is_none() && index < prompt_len {
                let signature = self.known.signature(&self.graph, index);
                ui = signature.and_then(|s| self.known.cache.peek(&s)).and_then(|r| r.ui.clone());
            }
            let Some(ui) = ui else { continue };
            let node = node_ref(&self.graph, index);
            shown.outputs.insert(node.id.to_string(), (*ui).clone());
            shown.nodes.push(node);
        }
        shown
    }

    /// Ends the run: the cache forgets what earlier expansions of the same nodes left.
    pub fn end(self) {
        self.known.cache.end(&self.expanded);
    }

    /// Ids of the nodes that ran, in order.
    pub fn executed(&self) -> Vec<Arc<str>> {
        self.executed.iter().cloned().collect()
    }

    /// Ids of all nodes of the prompt, as the reference gives them under `current_outputs`.
    pub fn prompt_ids(&self) -> Vec<Arc<str>> {
        self.graph.prompt_nodes().iter().map(|n| n.id.clone()).collect()
    }

    fn step(&mut self, index: NodeIndex) -> Result<Step, Box<Halt>> {
        let node = node_ref(&self.graph, index);
        if self.known.has(&self.graph, index) {
            let ui = self.known.results.get(&index).and_then(|r| r.ui.clone());
            let output = ui.as_deref().cloned().unwrap_or(Json::Null);
            if let Some(ui) = ui {
                self.ui.insert(index, ui);
            }
            self.progress.emit(EventKind::Executed { node: node.clone(), output });
            self.progress.finish(&node);
            return Ok(Step::Done);
        }
        let mut given = None;
        let step = match self.expanding.remove(&index) {
            Some(parts) => self.store(index, parts).map(|()| Step::Done),
            None => {
                self.progress.start(&node);
                tracing::debug!(node = %node.id, class = %node.class_type, "a node begins");
                let mut inputs = self.collect(index);
                self.progress.emit(EventKind::Executing(node.clone()));
                let step = self.call(index, &mut inputs);
                given = Some(inputs);
                step
            }
        };
        match step {
            Ok(Step::Waiting) => Ok(Step::Waiting),
            Ok(Step::Done) => {
                self.progress.finish(&node);
                self.executed.insert(node.id);
                Ok(Step::Done)
            }
            Err(stop) => {
                self.progress.fail(&node);
                let inputs = given.map_or_else(|| json!({}), |g| g.report());
                Err(self.halt(index, stop, inputs))
            }
        }
    }

    /// Calls a node with its inputs, unless it first needs lazy ones.
    fn call(&mut self, index: NodeIndex, given: &mut Given) -> Result<Step, Stop> {
        let entry = self.graph.node(index).entry.clone();
        let mut calls = self.calls(given)?;
        if entry.schema.inputs.iter().any(|i| i.lazy) {
            loop {
                match self.ask(index, given, calls)? {
                    Asked::Nothing => break,
                    Asked::Known => {
                        *given = self.collect(index);
                        calls = self.calls(given)?;
                    }
                    Asked::Unknown => return Ok(Step::Waiting),
                }
            }
        }
        let mut parts = Vec::with_capacity(calls);
        let mut uis = Vec::new();
        let mut expansions = Vec::new();
        for call in 0..calls {
            let output = self.one_call(index, given, call)?;
            let NodeOutput { values, ui, expand } = output;
            uis.extend(ui.filter(|ui| !ui.is_empty()));
            if expand.is_none() && values.iter().any(|v| matches!(v, Source::Link { .. })) {
                return Err(NodeError::msg("the node gave a link as output without an expansion").into());
            }
            expansions.extend(expand);
            parts.push(values);
        }
        if let Some(ui) = calls::join_ui(uis) {
            self.ui.insert(index, ui.clone());
            self.progress.emit(EventKind::Executed { node: node_ref(&self.graph, index), output: (*ui).clone() });
        }
        if expansions.is_empty() {
            self.store(index, parts)?;
            return Ok(Step::Done);
        }
        self.expand(index, parts, expansions)?;
        Ok(Step::Waiting)
    }

    fn one_call(&self, index: NodeIndex, given: &Given, call: usize) -> Result<NodeOutput, Stop> {
        if self.cancel.is_cancelled() {
            return Err(Stop::Interrupted);
        }
        let node = self.graph.node(index);
        if let Some(message) = given.blocker(call) {
            if let Some(message) = message {
                self.tell_blocked(index, message);
            }
            return Ok(calls::blocked(&node.entry.schema));
        }
        let inputs = given.call(call);
        let output = self.caught(|| {
            let mut context = Context::new(&node.id, &self.hidden, self.cancel, self.progress, call);
            native(&node.entry)?.run(&mut context, inputs)
        })?;
        Ok(output)
    }

    /// How often the node is called, within the bound.
    fn calls(&self, given: &Given) -> Result<usize, Stop> {
        let (calls, max) = (given.calls()?, self.options.max_list_len);
        if calls > max {
            let message = format!("the node would be called {calls} times, at most {max} are allowed: make shorter lists");
            return Err(NodeError::Failed(message).into());
        }
        Ok(calls)
    }

    /// The inputs of a node that are there.
    fn collect(&mut self, index: NodeIndex) -> Given {
        // Takes what only the cache holds.
        for target in link_targets(&self.graph, index) {
            self.known.has(&self.graph, target);
        }
        Given::collect(&self.graph, index, self.asked.get(&index), |i| self.known.results.get(&i).cloned())
    }

    /// Asks the node which lazy inputs it needs beyond those that it named before, and has the unknown ones evaluated.
    fn ask(&mut self, index: NodeIndex, given: &Given, calls: usize) -> Result<Asked, Stop> {
        let entry = self.graph.node(index).entry.clone();
        let mut wanted = IndexSet::new();
        for call in 0..calls {
            if given.blocker(call).is_none() {
                let inputs = given.call(call);
                wanted.extend(self.caught(|| native(&entry)?.needed(&inputs))?);
            }
        }
        let mut answer = Asked::Nothing;
        for name in wanted {
            // Inputs that are not connected are named by the default implementation too.
            let Some(InputSource::Link(link)) = self.graph.node(index).input(&name).map(|i| &i.source) else { continue };
            let Some(target) = link.target else {
                let (node, target) = (self.graph.node(index).id.to_string(), link.node.to_string());
                return Err(comfyd_graph::Error::DanglingLink { node, input: name, target }.into());
            };
            if !self.asked.entry(index).or_default().insert(name) {
                continue;
            }
            if !self.known.has(&self.graph, target) {
                answer = Asked::Unknown;
                self.wait(target, index)?;
            } else if matches!(answer, Asked::Nothing) {
                answer = Asked::Known;
            }
        }
        Ok(answer)
    }

    /// Runs node code: a panic becomes an error, and any error is an interruption once the prompt was interrupted.
    fn caught<T>(&self, code: impl FnOnce() -> comfyd_node::Result<T>) -> Result<T, Stop> {
        let stop = match catch_unwind(AssertUnwindSafe(code)) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => Stop::from(error),
            Err(panic) => {
                let message = format!("the node panicked: {}", panic_text(&*panic));
                Stop::Failed { kind: "RuntimeError".into(), message, traceback: Vec::new() }
            }
        };
        Err(if self.cancel.is_cancelled() { Stop::Interrupted } else { stop })
    }

    /// Tells the client why a node was not called. The prompt goes on.
    fn tell_blocked(&self, index: NodeIndex, message: &str) {
        let node = self.graph.node(index);
        let failure = Failure {
            prompt_id: self.hidden.prompt_id.clone(),
            node_id: node.id.clone(),
            node_type: node.class_type.clone(),
            executed: self.executed(),
            exception_message: format!("Execution Blocked: {message}"),
            exception_type: "ExecutionBlocked".into(),
            traceback: Vec::new(),
            current_inputs: json!([]),
            current_outputs: Vec::new(),
            timestamp_ms: None,
        };
        self.progress.emit(EventKind::Message(Message::Failed(Box::new(failure))));
    }

    /// Wires in what a node's calls expanded into.
    fn expand(&mut self, index: NodeIndex, parts: Vec<Vec<Source>>, expansions: Vec<comfyd_node::Expansion>) -> Result<(), Stop> {
        let mut added = Vec::new();
        for expansion in expansions {
            let (max_nodes, max_depth) = (self.options.max_nodes, self.options.max_expansion_depth);
            added.extend(self.graph.expand(self.catalog, index, expansion, max_nodes, max_depth)?);
        }
        self.expanded.insert(self.graph.node(index).id.clone());
        for node in added {
            if self.graph.node(node).entry.schema.output_node {
                self.add(node)?;
            }
        }
        for source in parts.iter().flatten() {
            let Source::Link { node, .. } = source else { continue };
            let Some(target) = self.graph.find(node) else {
                return Err(NodeError::msg(format!("the expansion's output links to node '{node}', which does not exist")).into());
            };
            *self.use_count(target) += 1;
            self.wait(target, index)?;
        }
        self.expanding.insert(index, parts);
        Ok(())
    }

    /// Keeps a node's result for the nodes that use it, and for later prompts.
    fn store(&mut self, index: NodeIndex, parts: Vec<Vec<Source>>) -> Result<(), Stop> {
        let graph = &self.graph;
        let known = &self.known;
        let mut used = Vec::new();
        for source in parts.iter().flatten() {
            if let Source::Link { node, .. } = source {
                used.extend(graph.find(node));
            }
        }
        let schema = graph.node(index).entry.schema.clone();
        let outputs = calls::join(&schema, parts, self.options.max_list_len, |node, slot| {
            let result = graph.find(node).and_then(|i| known.results.get(&i));
            let values = result.and_then(|r| r.outputs.get(slot));
            values.cloned().ok_or_else(|| NodeError::msg(format!("node '{node}' of the expansion has no output {slot}")))
        })?;
        let result = Arc::new(NodeResult { outputs, ui: self.ui.get(&index).cloned() });
        if let Some(signature) = self.known.signature(&self.graph, index) {
            let node = self.graph.node(index);
            let root = self.graph.node(node.real);
            let scope = node.parent.map(|parent| Scope {
                root: root.id.clone(),
                class: root.class_type.clone(),
                parent: self.graph.node(parent).id.clone(),
            });
            self.known.cache.put(signature, result.clone(), scope);
        }
        self.known.results.insert(index, result);
        for target in used {
            self.release(target);
        }
        Ok(())
    }

    /// Adds a node to be run, with all that it needs.
    fn add(&mut self, index: NodeIndex) -> Result<(), Stop> {
        let added = self.list.add(&self.graph, index, &mut |graph, node| self.known.has(graph, node))?;
        self.count_links(&added);
        Ok(())
    }

    /// Makes a node wait for another one.
    fn wait(&mut self, from: NodeIndex, to: NodeIndex) -> Result<(), Stop> {
        let added = self.list.add_link(&self.graph, from, to, &mut |graph, node| self.known.has(graph, node))?;
        self.count_links(&added);
        Ok(())
    }

    /// Results that pending nodes link to are kept.
    fn count_links(&mut self, pending: &[NodeIndex]) {
        for &index in pending {
            for target in link_targets(&self.graph, index).collect::<Vec<_>>() {
                *self.use_count(target) += 1;
            }
        }
    }

    /// A node has run: what only it needed can go.
    fn complete(&mut self, index: NodeIndex) {
        self.list.complete(index);
        // A node whose result is dropped may run again for another node: then it must ask again, for its inputs are gone too.
        self.asked.remove(&index);
        for target in link_targets(&self.graph, index).collect::<Vec<_>>() {
            self.release(target);
        }
        if *self.use_count(index) == 0 {
            self.forget(index);
        }
    }

    fn release(&mut self, target: NodeIndex) {
        let count = self.use_count(target);
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.forget(target);
        }
    }

    fn forget(&mut self, index: NodeIndex) {
        // A node that expanded keeps its result: it could not expand a second time under the same ids.
        if !self.expanded.contains(&self.graph.node(index).id) {
            self.known.results.remove(&index);
        }
    }

    fn use_count(&mut self, node: NodeIndex) -> &mut usize {
        let nodes = self.graph.nodes().len();
        if self.uses.len() < nodes {
            self.uses.resize(nodes, 0);
        }
        &mut self.uses[node]
    }

    /// The report of what happened at a node, in the name of the prompt's node that it comes from.
    fn halt(&self, index: NodeIndex, stop: Stop, inputs: Json) -> Box<Halt> {
        let real = self.graph.node(self.graph.node(index).real);
        let cause = match stop {
            Stop::Interrupted => Cause::Interrupted,
            Stop::Failed { kind, message, traceback } => {
                tracing::warn!(node = %real.id, class = %real.class_type, %kind, message, "a node failed");
                Cause::Failed { kind, message, traceback, inputs }
            }
        };
        Box::new(Halt { node_id: real.id.clone(), node_type: real.class_type.clone(), cause })
    }
}

fn native(entry: &Entry) -> comfyd_node::Result<&Arc<dyn Node>> {
    entry.native().ok_or_else(|| NodeError::msg("classes of other processes cannot be run yet"))
}

fn link_targets(graph: &Graph, index: NodeIndex) -> impl Iterator<Item = NodeIndex> {
    graph.node(index).inputs.iter().filter_map(|input| match &input.source {
        InputSource::Link(link) => link.target,
        InputSource::Value(_) => None,
    })
}

/// Asks a node whether more than its inputs decides its result. A node that fails or panics here runs every time.
fn fingerprint(graph: &Graph, index: NodeIndex, cancel: &CancellationToken) -> Fingerprint {
    let node = graph.node(index);
    let mut constants: Vec<_> = node.inputs.iter().filter(|i| i.declared.is_some()).collect();
    constants.sort_by_key(|i| i.declared);
    let mut inputs = Inputs::default();
    for input in constants {
        if let InputSource::Value(value) = &input.source {
            inputs.insert(&*input.name, value.clone());
        }
    }
    match catch_unwind(AssertUnwindSafe(|| native(&node.entry)?.fingerprint(&inputs, cancel))) {
        Ok(Ok(fingerprint)) => fingerprint,
        // Nothing runs any more.
        Ok(Err(NodeError::Interrupted)) => Fingerprint::Always,
        Ok(Err(error)) => {
            tracing::warn!(node = %node.id, class = %node.class_type, %error, "the node could not be compared with its last run");
            Fingerprint::Always
        }
        Err(panic) => {
            let text = panic_text(&*panic);
            tracing::warn!(node = %node.id, class = %node.class_type, text, "the node panicked when it was compared with its last run");
            Fingerprint::Always
        }
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text,
        (None, None) => "it gave no message",
    }
}
