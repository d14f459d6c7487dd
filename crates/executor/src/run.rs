//! One prompt's run: picks nodes in order, takes results from the cache or calls the node, wires expansions in.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use comfyd_graph::{ExecutionList, Graph, InputSource, NodeIndex, Signature};
use comfyd_jobs::{EventKind, Failure, Message, NodeRef};
use comfyd_node::{
    Argument, CancellationToken, Catalog, Code, Context, Error as NodeError, Expansion, Hidden, Host, HostedCall, HostedNode, HostedOutput,
    Node, NodeOutput, Returned, Source, Value,
};
use indexmap::IndexSet;
use serde_json::{Map, Value as Json, json};

use crate::cache::Scope;
use crate::calls::{self, Given};
use crate::guard::guarded;
use crate::hosts::Hosts;
use crate::known::Known;
use crate::options::ExecutorOptions;
use crate::outside::Outside;
use crate::places::Places;
use crate::progress::{Progress, node_ref};
use crate::stop::{Failed, Halt, Stop};
use crate::watch::{Timer, Watch};

/// What one step of a node led to.
enum Step {
    /// The node has its result.
    Done,
    /// It waits for lazy inputs, or for the nodes that it expanded into.
    Waiting,
    /// It waits for its host.
    Outside,
}

/// What a node shows and where it belongs, for the history.
#[derive(Default)]
pub(crate) struct Shown {
    /// Node id → what it shows.
    pub outputs: Map<String, Json>,
    /// Those nodes.
    pub nodes: Vec<NodeRef>,
}

pub(crate) struct Run<'a, 'p> {
    catalog: &'a Catalog,
    options: &'a ExecutorOptions,
    places: &'a Places<'a>,
    cancel: &'p CancellationToken,
    watch: &'p Watch,
    /// Calls that hosts have not answered.
    timers: HashMap<NodeIndex, Timer<'p>>,
    progress: &'a Progress,
    hidden: Hidden,
    graph: Graph,
    list: ExecutionList,
    known: Known<'a, 'p>,
    outside: Outside,
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

impl<'a, 'p> Run<'a, 'p> {
    pub fn new(
        catalog: &'a Catalog,
        options: &'a ExecutorOptions,
        places: &'a Places<'a>,
        known: Known<'a, 'p>,
        progress: &'a Progress,
        graph: Graph,
    ) -> Self {
        let (cancel, watch, hidden) = (known.hosts.cancel, known.hosts.watch, known.hosts.hidden.clone());
        Self {
            catalog,
            options,
            places,
            cancel,
            watch,
            timers: HashMap::new(),
            progress,
            hidden,
            graph,
            list: ExecutionList::new(),
            known,
            outside: Outside::new(),
            uses: Vec::new(),
            asked: HashMap::new(),
            expanding: HashMap::new(),
            expanded: HashSet::new(),
            executed: IndexSet::new(),
            ui: HashMap::new(),
        }
    }

    /// Goes on where another run of the same prompt ended.
    pub fn after(mut self, executed: IndexSet<Arc<str>>) -> Self {
        self.executed = executed;
        self
    }

    /// Makes the cache ready for this prompt; gives the ids of the nodes whose results it holds, in the order of the prompt.
    pub fn begin(&mut self) -> Vec<Arc<str>> {
        let count = self.graph.prompt_nodes().len();
        let signatures: Vec<Option<Signature>> = (0..count).map(|i| self.known.signature(&self.graph, i)).collect();
        let used: HashSet<Signature> = signatures.iter().flatten().copied().collect();
        let graph = &self.graph;
        let lives = |scope: &Scope| graph.find(&scope.root).is_some_and(|i| graph.node(i).class_type == scope.class);
        let mut cache = self.known.cache.lock();
        cache.begin(&used, &lives);
        let mut cached = Vec::new();
        for (index, signature) in signatures.iter().enumerate() {
            if signature.is_some_and(|s| cache.contains(&s)) {
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
                let stop = Stop::Failed(Failed::new("NodeNotFoundError", message));
                return Err(Box::new(Halt { node_id: id.as_str().into(), node_type: Arc::default(), stop }));
            };
            self.add(index).map_err(|stop| self.halt(index, stop, json!({})))?;
        }
        loop {
            while let Some(index) = self.outside.arrived() {
                self.list.resume(index);
            }
            match self.list.next(&self.graph) {
                Ok(None) if self.list.is_empty() => {
                    self.show_cached();
                    return Ok(());
                }
                Ok(None) => {
                    let arrived = self.outside.wait(&mut self.known.hosts);
                    arrived.into_iter().for_each(|index| self.list.resume(index));
                }
                Ok(Some(index)) => match self.step(index)? {
                    Step::Done => self.complete(index),
                    Step::Waiting => {}
                    Step::Outside => self.list.suspend(index),
                },
                Err(cycle) => {
                    let message = "dependency cycle detected: the nodes of an expansion wait for each other".to_owned();
                    let stop = Stop::Failed(Failed::new("graph.DependencyCycleError", message));
                    return Err(self.halt(cycle.blamed, stop, json!([])));
                }
            }
        }
    }

    /// Tells clients again what nodes show with which they work on the graph, where these did not have to run.
    fn show_cached(&mut self) {
        for index in 0..self.graph.nodes().len() {
            let node = self.graph.node(index);
            if !node.entry.schema.intermediate_output || self.executed.contains(&node.id) || !self.known.has(&self.graph, index) {
                continue;
            }
            let ui = self.known.results.get(&index).and_then(|result| result.ui.clone());
            let (node, output) = (node_ref(&self.graph, index), ui.as_deref().cloned().unwrap_or(Json::Null));
            self.progress.emit(EventKind::Executed { node, output });
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
                ui = signature.and_then(|s| self.known.cache.lock().peek(&s)).and_then(|r| r.ui.clone());
            }
            let Some(ui) = ui else { continue };
            let node = node_ref(&self.graph, index);
            shown.outputs.insert(node.id.to_string(), (*ui).clone());
            shown.nodes.push(node);
        }
        shown
    }

    /// Ends the run: the cache forgets what earlier expansions of the same nodes left. Gives the hosts back.
    pub fn end(self) -> Hosts<'p> {
        let Known { cache, ledger, hosts, results, .. } = self.known;
        cache.lock().end(&self.expanded);
        // What was needed until now may be too much to be kept.
        drop(results);
        ledger.relieve();
        hosts
    }

    /// Ids of the nodes that ran, in order.
    pub fn executed(&self) -> &IndexSet<Arc<str>> {
        &self.executed
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
        let step = if let Some(parts) = self.expanding.remove(&index) {
            self.store_parts(index, parts).map(|()| Step::Done)
        } else if let Some(answer) = self.outside.take(index) {
            self.answered(index, answer)
        } else {
            self.progress.start(&node);
            tracing::debug!(node = %node.id, class = %node.class_type, "a node begins");
            let mut inputs = self.collect(index);
            self.progress.emit(EventKind::Executing(node.clone()));
            if let Some(before) = self.places.before {
                before(&self.graph.node(index).entry);
            }
            let step = match self.graph.node(index).entry.code.clone() {
                Code::Native(class) => self.call(index, &*class, &mut inputs),
                Code::Hosted(class) => self.call_hosted(index, &*class),
            };
            given = Some(inputs);
            step
        };
        match step {
            Ok(step @ (Step::Waiting | Step::Outside)) => Ok(step),
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

    /// Calls a node of this process with its inputs, unless it first needs lazy ones.
    fn call(&mut self, index: NodeIndex, class: &dyn Node, given: &mut Given) -> Result<Step, Stop> {
        self.caught(|| given.localize())?;
        let calls = self.calls(given)?;
        if self.graph.node(index).entry.schema.inputs.iter().any(|i| i.lazy) && self.ask(index, class, given, calls)? {
            return Ok(Step::Waiting);
        }
        let mut outputs = Vec::with_capacity(calls);
        for call in 0..calls {
            outputs.push(self.one_call(index, class, given, call)?);
        }
        self.take(index, None, outputs)
    }

    /// Takes what a node's calls gave, and what all of them show together.
    fn take(&mut self, index: NodeIndex, shown: Option<Map<String, Json>>, outputs: Vec<NodeOutput>) -> Result<Step, Stop> {
        let mut parts = Vec::with_capacity(outputs.len());
        let mut uis: Vec<Map<String, Json>> = shown.into_iter().collect();
        let mut expansions = Vec::new();
        for NodeOutput { values, ui, expand } in outputs {
            uis.extend(ui.filter(|ui| !ui.is_empty()));
            if expand.is_none() && values.iter().any(|v| matches!(v, Source::Link { .. })) {
                return Err(NodeError::msg("the node gave a link as output without an expansion").into());
            }
            expansions.extend(expand.map(|expansion| (parts.len(), expansion)));
            parts.push(values);
        }
        self.show(index, uis)?;
        if expansions.is_empty() {
            self.store_parts(index, parts)?;
            return Ok(Step::Done);
        }
        self.expand(index, parts, expansions)?;
        Ok(Step::Waiting)
    }

    fn show(&mut self, index: NodeIndex, mut uis: Vec<Map<String, Json>>) -> Result<(), Stop> {
        if let Some(showing) = self.places.showing {
            uis.iter_mut().try_for_each(|ui| showing(&self.hidden.prompt_id, ui))?;
        }
        if let Some(ui) = calls::join_ui(uis) {
            self.ui.insert(index, ui.clone());
            self.progress.emit(EventKind::Executed { node: node_ref(&self.graph, index), output: (*ui).clone() });
        }
        Ok(())
    }

    fn one_call(&self, index: NodeIndex, class: &dyn Node, given: &Given, call: usize) -> Result<NodeOutput, Stop> {
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
        let _timer = self.watch.node(&node.id, &node.class_type);
        self.caught(|| {
            let mut context = Context::new(&node.id, &self.hidden, self.cancel, self.progress, call);
            class.run(&mut context, inputs)
        })
    }

    /// Begins a node's call in its host, unless it first needs lazy inputs, and waits for the answer, unless others may run meanwhile.
    fn call_hosted(&mut self, index: NodeIndex, class: &dyn HostedNode) -> Result<Step, Stop> {
        if self.cancel.is_cancelled() {
            return Err(Stop::Interrupted);
        }
        if let Some(error) = self.known.failed.remove(&index) {
            return self.caught(|| Err(error));
        }
        let begun = self.known.hosts.begin(&class.host());
        self.caught(|| begun)?;
        let call = self.hosted_call(index);
        if self.ask_hosted(index, class, &call)? {
            return Ok(Step::Waiting);
        }
        let node = self.graph.node(index);
        self.timers.insert(index, self.watch.node(&node.id, &node.class_type));
        self.caught(|| {
            self.outside.start(index, class, call);
            Ok(())
        })?;
        if self.graph.node(index).entry.schema.hosted.as_ref().is_some_and(|h| h.is_async) {
            return Ok(Step::Outside);
        }
        loop {
            if let Some(answer) = self.outside.take(index) {
                return self.answered(index, answer);
            }
            match self.outside.wait(&mut self.known.hosts) {
                Some(other) if other != index => self.list.resume(other),
                Some(_) => {}
                None => return Err(NodeError::msg("the node's host gave no answer: run the prompt again").into()),
            }
        }
    }

    fn hosted_call(&mut self, index: NodeIndex) -> HostedCall {
        self.take_from_cache(index);
        calls::hosted(&self.graph, index, self.asked.get(&index), |i| self.known.results.get(&i).cloned())
    }

    /// Takes a host's answer.
    fn answered(&mut self, index: NodeIndex, answer: comfyd_node::Result<HostedOutput>) -> Result<Step, Stop> {
        self.timers.remove(&index);
        let HostedOutput { returned, ui, blocked } = self.caught(|| answer)?;
        for message in &blocked {
            self.tell_blocked(index, message);
        }
        match returned {
            Returned::Calls(outputs) => self.take(index, ui, outputs),
            Returned::Values(outputs) => {
                for (slot, values) in outputs.iter().enumerate() {
                    calls::bounded(slot, values.len(), self.options.max_list_len)?;
                }
                self.show(index, ui.into_iter().collect())?;
                self.store(index, outputs);
                Ok(Step::Done)
            }
        }
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
        self.take_from_cache(index);
        Given::collect(&self.graph, index, self.asked.get(&index), |i| self.known.results.get(&i).cloned())
    }

    /// Takes what only the cache holds of the results that a node links to.
    fn take_from_cache(&mut self, index: NodeIndex) {
        for target in link_targets(&self.graph, index) {
            self.known.has(&self.graph, target);
        }
    }

    /// Asks the node which lazy inputs it needs beyond those that it named before, and has the unknown ones evaluated. Whether there are any:
    /// then it begins anew when it is its turn again, as in the reference also where all are known.
    fn ask(&mut self, index: NodeIndex, class: &dyn Node, given: &Given, calls: usize) -> Result<bool, Stop> {
        let mut wanted = IndexSet::new();
        for call in 0..calls {
            if given.blocker(call).is_none() {
                let inputs = given.call(call);
                wanted.extend(self.caught(|| class.needed(&inputs))?);
            }
        }
        // Inputs that are not connected are named by the default implementation too.
        wanted.retain(|name| self.graph.node(index).input(name).is_some_and(|i| matches!(i.source, InputSource::Link(_))));
        self.want(index, wanted)
    }

    /// The same of a hosted node. As in the reference, it fails if it needs what it is not given.
    fn ask_hosted(&mut self, index: NodeIndex, class: &dyn HostedNode, call: &HostedCall) -> Result<bool, Stop> {
        let mut wanted = IndexSet::new();
        for name in self.caught(|| class.needed(call, self.cancel))? {
            let input = self.graph.node(index).input(&name);
            match call.arguments.get(name.as_str()) {
                Some(Argument::Link { values: None, .. }) if input.is_some_and(|i| !i.raw_link) => {
                    wanted.insert(name);
                }
                Some(Argument::Link { .. }) => {}
                Some(Argument::Constant(_)) if input.is_some_and(|i| i.declared.is_some()) => {}
                Some(Argument::Constant(_)) | None => {
                    let message = format!("the node asks for input '{name}', which no other node gives it: connect it");
                    return Err(Stop::Failed(Failed::new("comfy_execution.graph.NodeInputError", message)));
                }
            }
        }
        self.want(index, wanted)
    }

    /// Has those of these links evaluated that are unknown; whether any was not asked for before.
    fn want(&mut self, index: NodeIndex, wanted: IndexSet<String>) -> Result<bool, Stop> {
        let mut more = false;
        for name in wanted {
            let Some(InputSource::Link(link)) = self.graph.node(index).input(&name).map(|i| &i.source) else { continue };
            let Some(target) = link.target else {
                let (node, target) = (self.graph.node(index).id.to_string(), link.node.to_string());
                return Err(comfyd_graph::Error::DanglingLink { node, input: name, target }.into());
            };
            if self.asked.entry(index).or_default().insert(name) {
                more = true;
                self.wait(target, index)?;
            }
        }
        Ok(more)
    }

    /// Runs node code: a panic becomes an error, and any error is an interruption once the prompt was interrupted.
    fn caught<T>(&self, code: impl FnOnce() -> comfyd_node::Result<T>) -> Result<T, Stop> {
        guarded(code).map_err(|error| if self.cancel.is_cancelled() { Stop::Interrupted } else { error.into() })
    }

    /// Tells the client why a node was not called. The prompt goes on.
    fn tell_blocked(&self, index: NodeIndex, message: &str) {
        let node = self.graph.node(index);
        let failure = Failure {
            prompt_id: self.hidden.prompt_id.clone(),
            node_id: node.id.clone(),
            node_type: node.class_type.clone(),
            executed: self.executed.iter().cloned().collect(),
            exception_message: format!("Execution Blocked: {message}"),
            exception_type: "ExecutionBlocked".into(),
            traceback: Vec::new(),
            current_inputs: json!([]),
            current_outputs: Vec::new(),
            timestamp_ms: None,
        };
        self.progress.emit(EventKind::Message(Message::Failed(Box::new(failure))));
    }

    /// Wires in what a node's calls expanded into: which call it was, and its expansion.
    fn expand(&mut self, index: NodeIndex, parts: Vec<Vec<Source>>, expansions: Vec<(usize, Expansion)>) -> Result<(), Stop> {
        let mut added = Vec::new();
        for (call, expansion) in expansions {
            let (max_nodes, max_depth) = (self.options.max_nodes, self.options.max_expansion_depth);
            let placement = self.places.expansion(self.catalog, &self.graph, index, &expansion, &parts[call])?;
            added.extend(self.graph.expand(self.catalog, index, expansion, &placement, max_nodes, max_depth)?);
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

    /// Keeps what a node's calls gave, and what they expanded into.
    fn store_parts(&mut self, index: NodeIndex, parts: Vec<Vec<Source>>) -> Result<(), Stop> {
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
        self.store(index, outputs);
        for target in used {
            self.release(target);
        }
        Ok(())
    }

    /// Keeps a node's result for the nodes that use it, and for later prompts.
    fn store(&mut self, index: NodeIndex, outputs: Vec<Arc<Vec<Value>>>) {
        let result = Arc::new(self.known.ledger.result(outputs, self.ui.get(&index).cloned()));
        if let Some(signature) = self.known.signature(&self.graph, index) {
            let node = self.graph.node(index);
            let root = self.graph.node(node.real);
            let scope = node.parent.map(|parent| Scope {
                root: root.id.clone(),
                class: root.class_type.clone(),
                parent: self.graph.node(parent).id.clone(),
            });
            self.known.cache.lock().put(signature, result.clone(), scope);
        }
        self.known.results.insert(index, result);
        self.known.ledger.relieve();
    }

    /// Adds a node to be run, with all that it needs.
    fn add(&mut self, index: NodeIndex) -> Result<(), Stop> {
        let added = self.list.add(&mut self.graph, index, &mut self.known)?;
        self.count_links(&added);
        Ok(())
    }

    /// Makes a node wait for another one.
    fn wait(&mut self, from: NodeIndex, to: NodeIndex) -> Result<(), Stop> {
        let added = self.list.add_link(&mut self.graph, from, to, &mut self.known)?;
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

    /// The classes at whose links something could not cross: those that gave a node what cannot be brought here, or what may be anything, else
    /// its own.
    fn crossed(&self, index: NodeIndex) -> Vec<Arc<dyn HostedNode>> {
        let here = self.graph.node(index).entry.host();
        let name = |host: &Option<Arc<dyn Host>>| host.as_ref().map(|host| host.name().to_owned());
        let mut found = Vec::new();
        for input in &self.graph.node(index).inputs {
            let InputSource::Link(link) = &input.source else { continue };
            let Some(from) = link.target.filter(|from| name(&self.graph.node(*from).entry.host()) != name(&here)) else { continue };
            let stuck = match &here {
                None => self.known.results.get(&from).and_then(|r| r.outputs.get(link.slot)).is_some_and(|values| calls::stuck(values)),
                Some(_) => self.graph.node(from).entry.schema.outputs.get(link.slot).is_none_or(|output| output.ty == "*"),
            };
            if let (true, Code::Hosted(class)) = (stuck, &self.graph.node(from).entry.code) {
                found.push(class.clone());
            }
        }
        if let (true, Code::Hosted(class)) = (found.is_empty(), &self.graph.node(index).entry.code) {
            found.push(class.clone());
        }
        found
    }

    /// The report of what happened at a node, in the name of the prompt's node that it comes from.
    fn halt(&mut self, index: NodeIndex, mut stop: Stop, inputs: Json) -> Box<Halt> {
        let real = self.graph.node(self.graph.node(index).real);
        if let (Stop::Interrupted, Some(reason)) = (&stop, self.watch.timed_out()) {
            stop = Stop::Failed(Failed::new("TimeoutError", reason));
        }
        if let Stop::Failed(failed) = &mut stop {
            let message = self.known.hosts.for_the_log(&failed.message);
            tracing::warn!(node = %real.id, class = %real.class_type, kind = %failed.kind, message, "a node failed");
            failed.inputs.get_or_insert(inputs);
            if failed.cannot_cross {
                self.crossed(index).iter().for_each(|class| class.stay());
            }
            if failed.out_of_memory {
                self.known.hosts.unload();
            }
        }
        Box::new(Halt { node_id: real.id.clone(), node_type: real.class_type.clone(), stop })
    }
}

fn link_targets(graph: &Graph, index: NodeIndex) -> impl Iterator<Item = NodeIndex> {
    graph.node(index).inputs.iter().filter_map(|input| match &input.source {
        InputSource::Link(link) => link.target,
        InputSource::Value(_) => None,
    })
}
