//! What a run knows of its nodes: their signatures and results, and what hosted classes make of links that they do not declare.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use comfyd_graph::{Graph, InputSource, NodeIndex, Signature, Signatures, Surroundings};
use comfyd_node::{CancellationToken, Code, Error as NodeError, Fingerprint, HostedNode, Inputs, Node, Result};
use parking_lot::Mutex;

use crate::cache::Cache;
use crate::calls;
use crate::guard::guarded;
use crate::hosts::Hosts;
use crate::results::{Ledger, NodeResult};

pub(crate) struct Known<'a, 'p> {
    pub cache: &'a Mutex<Cache>,
    pub ledger: &'a Arc<Ledger>,
    pub hosts: Hosts<'p>,
    signatures: Signatures,
    /// Results that nodes of this run still need.
    pub results: HashMap<NodeIndex, Arc<NodeResult>>,
    /// Nodes whose undeclared links were looked at.
    inspected: HashSet<NodeIndex>,
    /// Those whose class could not tell what these links are: they fail when it is their turn.
    pub failed: HashMap<NodeIndex, NodeError>,
}

impl<'a, 'p> Known<'a, 'p> {
    pub fn new(cache: &'a Mutex<Cache>, ledger: &'a Arc<Ledger>, hosts: Hosts<'p>) -> Self {
        Self {
            cache,
            ledger,
            hosts,
            signatures: Signatures::new(),
            results: HashMap::new(),
            inspected: HashSet::new(),
            failed: HashMap::new(),
        }
    }

    pub fn signature(&mut self, graph: &Graph, node: NodeIndex) -> Option<Signature> {
        let hosts = &mut self.hosts;
        self.signatures.get(graph, node, &mut |graph, node| fingerprint(graph, node, hosts))
    }

    pub fn has(&mut self, graph: &Graph, node: NodeIndex) -> bool {
        if self.results.contains_key(&node) {
            return true;
        }
        let Some(result) = self.signature(graph, node).and_then(|s| self.cache.lock().get(&s)) else { return false };
        self.results.insert(node, result);
        true
    }
}

impl Surroundings for Known<'_, '_> {
    fn known(&mut self, graph: &Graph, node: NodeIndex) -> bool {
        self.has(graph, node)
    }

    fn look(&mut self, graph: &mut Graph, index: NodeIndex) {
        let node = graph.node(index);
        let Code::Hosted(class) = &node.entry.code else { return };
        let open = node.entry.schema.hosted.as_ref().is_some_and(|h| h.open);
        let links = node.inputs.iter().any(|i| i.declared.is_none() && matches!(i.source, InputSource::Link(_)));
        if !open || !links || self.inspected.contains(&index) || self.has(graph, index) {
            return;
        }
        self.inspected.insert(index);
        let class = class.clone();
        let arguments = calls::arguments(graph, index, None, |_| None);
        let hosts = &mut self.hosts;
        match guarded(|| hosts.begin(&class.host()).and_then(|()| class.inspect(&arguments))) {
            Ok(names) => graph.inspected(index, &names),
            Err(error) => {
                self.failed.insert(index, error);
            }
        }
    }
}

/// Asks a node whether more than its inputs decides its result. A node that fails or panics here runs every time.
fn fingerprint(graph: &Graph, index: NodeIndex, hosts: &mut Hosts<'_>) -> Fingerprint {
    let node = graph.node(index);
    let fingerprint = guarded(|| match &node.entry.code {
        Code::Native(class) => native_fingerprint(graph, index, &**class, hosts.cancel),
        Code::Hosted(class) => hosted_fingerprint(graph, index, &**class, hosts),
    });
    match fingerprint {
        // What it saves is one user's.
        Ok(fingerprint) if node.entry.schema.output_node => of_owner(fingerprint, hosts.owner()),
        Ok(fingerprint) => fingerprint,
        // Nothing runs any more.
        Err(NodeError::Interrupted) => Fingerprint::Always,
        Err(error) => {
            tracing::warn!(node = %node.id, class = %node.class_type, %error, "the node could not be compared with its last run");
            Fingerprint::Always
        }
    }
}

fn of_owner(fingerprint: Fingerprint, owner: &str) -> Fingerprint {
    match fingerprint {
        fingerprint if owner.is_empty() => fingerprint,
        Fingerprint::Inputs => Fingerprint::Text(format!("of {owner}")),
        Fingerprint::Text(text) => Fingerprint::Text(format!("of {owner}: {text}")),
        Fingerprint::Always => Fingerprint::Always,
    }
}

fn native_fingerprint(graph: &Graph, index: NodeIndex, class: &dyn Node, cancel: &CancellationToken) -> Result<Fingerprint> {
    let mut constants: Vec<_> = graph.node(index).inputs.iter().filter(|i| i.declared.is_some()).collect();
    constants.sort_by_key(|i| i.declared);
    let mut inputs = Inputs::default();
    for input in constants {
        if let InputSource::Value(value) = &input.source {
            inputs.insert(&*input.name, value.clone());
        }
    }
    class.fingerprint(&inputs, cancel)
}

fn hosted_fingerprint(graph: &Graph, index: NodeIndex, class: &dyn HostedNode, hosts: &mut Hosts<'_>) -> Result<Fingerprint> {
    if !class.fingerprints() {
        return Ok(Fingerprint::Inputs);
    }
    hosts.begin(&class.host())?;
    class.fingerprint(&calls::hosted(graph, index, None, |_| None), hosts.cancel)
}
