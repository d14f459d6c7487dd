//! Tells the sink where the nodes of one prompt stand. Nodes report through it while they run.

use std::sync::Arc;

use comfyd_graph::{Graph, NodeIndex};
use comfyd_jobs::event::{NodeProgress, NodeState};
use comfyd_jobs::{Event, EventKind, EventSink, Job, NodeRef};
use comfyd_node::{PreviewImage, Reporter};
use indexmap::IndexMap;
use parking_lot::Mutex;

pub(crate) struct Progress {
    sink: Arc<dyn EventSink>,
    prompt_id: Arc<str>,
    owner: Arc<str>,
    client_id: Option<Arc<str>>,
    max_nodes: usize,
    nodes: Mutex<Nodes>,
}

#[derive(Default)]
struct Nodes {
    /// Nodes that began, in the order in which they did.
    began: IndexMap<Arc<str>, NodeProgress>,
    /// The prompt is over: what a host still reports comes too late.
    closed: bool,
}

impl Progress {
    pub fn new(sink: Arc<dyn EventSink>, prompt_id: Arc<str>, job: &Job, max_nodes: usize) -> Self {
        let (owner, client_id) = (job.owner.clone(), job.client_id.clone());
        Self { sink, prompt_id, owner, client_id, max_nodes: max_nodes.max(1), nodes: Mutex::default() }
    }

    pub fn emit(&self, kind: EventKind) {
        let (prompt_id, owner, client_id) = (self.prompt_id.clone(), self.owner.clone(), self.client_id.clone());
        self.sink.emit(Event { prompt_id, owner, client_id, kind });
    }

    pub fn start(&self, node: &NodeRef) {
        self.set(&mut self.nodes.lock(), node, NodeState::Running, 0.0, 1.0);
    }

    pub fn finish(&self, node: &NodeRef) {
        let mut nodes = self.nodes.lock();
        let max = nodes.began.get(&node.id).map_or(1.0, |n| n.max);
        self.set(&mut nodes, node, NodeState::Finished, max, max);
    }

    pub fn fail(&self, node: &NodeRef) {
        let mut nodes = self.nodes.lock();
        let (value, max) = nodes.began.get(&node.id).map_or((0.0, 1.0), |n| (n.value, n.max));
        self.set(&mut nodes, node, NodeState::Error, value, max);
    }

    /// Nothing is reported from now on.
    pub fn close(&self) {
        self.nodes.lock().closed = true;
    }

    /// The nodes are locked while the states are told: they must arrive in their order.
    fn set(&self, nodes: &mut Nodes, node: &NodeRef, state: NodeState, value: f64, max: f64) {
        let nodes = &mut nodes.began;
        match nodes.get_mut(&node.id) {
            Some(entry) => {
                entry.state = state;
                entry.value = value;
                entry.max = max;
            }
            None => {
                nodes.insert(node.id.clone(), NodeProgress { node: node.clone(), state, value, max });
            }
        }
        if nodes.len() > self.max_nodes
            && let Some(finished) = nodes.values().position(|n| n.state == NodeState::Finished)
        {
            nodes.shift_remove_index(finished);
        }
        self.emit(EventKind::ProgressState(nodes.values().cloned().collect()));
    }

    /// Tells what a node reports, unless it did not begin or the prompt is over.
    fn report(&self, id: &str, tell: impl FnOnce(&mut Nodes, NodeRef)) {
        let mut nodes = self.nodes.lock();
        if nodes.closed {
            return;
        }
        let Some(node) = nodes.began.get(id).map(|n| n.node.clone()) else { return };
        tell(&mut nodes, node);
    }
}

impl Reporter for Progress {
    fn progress(&self, node: &str, value: f64, max: f64) {
        self.report(node, |nodes, node| {
            self.set(nodes, &node, NodeState::Running, value, max);
            self.emit(EventKind::Progress { node, value, max });
        });
    }

    fn image(&self, node: &str, image: PreviewImage) {
        self.report(node, |_, node| self.emit(EventKind::Image { node, image }));
    }

    fn text(&self, node: &str, text: &str) {
        self.report(node, |_, node| self.emit(EventKind::Text { node, text: text.to_owned() }));
    }
}

/// A node as events name it.
pub(crate) fn node_ref(graph: &Graph, index: NodeIndex) -> NodeRef {
    let node = graph.node(index);
    NodeRef {
        id: node.id.clone(),
        display_id: node.display_id.clone(),
        real_id: graph.node(node.real).id.clone(),
        parent_id: node.parent.map(|p| graph.node(p).id.clone()),
        class_type: node.class_type.clone(),
        title: node.title.clone(),
    }
}
