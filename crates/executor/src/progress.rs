//! Tells the sink where the nodes of one prompt stand. Nodes report through it while they run.

use std::sync::Arc;

use comfyd_graph::{Graph, NodeIndex};
use comfyd_jobs::event::{NodeProgress, NodeState};
use comfyd_jobs::{Event, EventKind, EventSink, NodeRef};
use comfyd_node::{PreviewImage, Reporter};
use indexmap::IndexMap;
use parking_lot::Mutex;

pub(crate) struct Progress<'a> {
    sink: &'a dyn EventSink,
    prompt_id: Arc<str>,
    client_id: Option<Arc<str>>,
    max_nodes: usize,
    /// Nodes that began, in the order in which they did.
    nodes: Mutex<IndexMap<Arc<str>, NodeProgress>>,
}

impl<'a> Progress<'a> {
    pub fn new(sink: &'a dyn EventSink, prompt_id: Arc<str>, client_id: Option<Arc<str>>, max_nodes: usize) -> Self {
        Self { sink, prompt_id, client_id, max_nodes: max_nodes.max(1), nodes: Mutex::default() }
    }

    pub fn emit(&self, kind: EventKind) {
        self.sink.emit(Event { prompt_id: self.prompt_id.clone(), client_id: self.client_id.clone(), kind });
    }

    pub fn start(&self, node: &NodeRef) {
        self.set(node, NodeState::Running, 0.0, 1.0);
    }

    pub fn finish(&self, node: &NodeRef) {
        let max = self.nodes.lock().get(&node.id).map_or(1.0, |n| n.max);
        self.set(node, NodeState::Finished, max, max);
    }

    pub fn fail(&self, node: &NodeRef) {
        let (value, max) = self.nodes.lock().get(&node.id).map_or((0.0, 1.0), |n| (n.value, n.max));
        self.set(node, NodeState::Error, value, max);
    }

    fn set(&self, node: &NodeRef, state: NodeState, value: f64, max: f64) {
        let mut nodes = self.nodes.lock();
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
        // Under the lock: states must arrive in their order.
        self.emit(EventKind::ProgressState(nodes.values().cloned().collect()));
    }

    fn node(&self, id: &str) -> Option<NodeRef> {
        self.nodes.lock().get(id).map(|n| n.node.clone())
    }
}

impl Reporter for Progress<'_> {
    fn progress(&self, node: &str, value: f64, max: f64) {
        let Some(node) = self.node(node) else { return };
        self.set(&node, NodeState::Running, value, max);
        self.emit(EventKind::Progress { node, value, max });
    }

    fn image(&self, node: &str, image: PreviewImage) {
        let Some(node) = self.node(node) else { return };
        self.emit(EventKind::Image { node, image });
    }

    fn text(&self, node: &str, text: &str) {
        let Some(node) = self.node(node) else { return };
        self.emit(EventKind::Text { node, text: text.to_owned() });
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
