//! Which node runs next. The order is a function of the graph and of what is known already, never of chance.
//!
//! The rules are the reference's: of the nodes whose inputs are there, an output node or one beside whose call others may run first, then a
//! node that an output node waits for, then one two steps before an output node, then the one that was added first.

use std::collections::BTreeMap;

use indexmap::IndexSet;

use crate::graph::{Error, Graph, InputSource, NodeIndex};

/// Every pending node waits for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cycle {
    /// The node to be blamed: the first one of an expansion, since circles of the prompt itself are found by validation.
    pub blamed: NodeIndex,
}

/// What the order must be told of the run around it. A function that tells which results are there is one.
pub trait Surroundings {
    /// Whether the node's result is there.
    fn known(&mut self, graph: &Graph, node: NodeIndex) -> bool;

    /// A node is added, and its links are to be followed: what they are to its class is found out now, if it was not before.
    fn look(&mut self, _graph: &mut Graph, _node: NodeIndex) {}
}

impl<F: FnMut(&Graph, NodeIndex) -> bool> Surroundings for F {
    fn known(&mut self, graph: &Graph, node: NodeIndex) -> bool {
        self(graph, node)
    }
}

/// The nodes still to be run, and what each waits for.
#[derive(Debug, Default)]
pub struct ExecutionList {
    /// By node; grows with the graph.
    states: Vec<State>,
    /// Pending nodes that wait for nothing, by when they were added.
    ready: BTreeMap<usize, NodeIndex>,
    pending: usize,
    added: usize,
    /// How many nodes wait for something outside the graph.
    outside: usize,
}

#[derive(Debug, Default)]
struct State {
    /// When it was added; `None` if it is not pending.
    seq: Option<usize>,
    /// How many nodes it waits for; something outside the graph counts as one.
    waits_for: usize,
    /// The nodes that wait for it.
    blocks: IndexSet<NodeIndex>,
}

impl ExecutionList {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing is left to run.
    pub fn is_empty(&self) -> bool {
        self.pending == 0
    }

    /// Adds a node and all nodes that it needs, but for those that are known and for lazy inputs. Gives the nodes that were not
    /// pending before.
    pub fn add(&mut self, graph: &mut Graph, node: NodeIndex, around: &mut dyn Surroundings) -> Result<Vec<NodeIndex>, Error> {
        self.states.resize_with(graph.nodes().len(), State::default);
        let mut todo = vec![node];
        let mut links = Vec::new();
        let mut added = Vec::new();
        while let Some(index) = todo.pop() {
            if self.states[index].seq.is_some() {
                continue;
            }
            added.push(index);
            self.added += 1;
            self.pending += 1;
            self.states[index] = State { seq: Some(self.added), ..State::default() };
            self.ready.insert(self.added, index);
            around.look(graph, index);
            let node = graph.node(index);
            for input in &node.inputs {
                let InputSource::Link(link) = &input.source else { continue };
                let Some(target) = link.target else {
                    let (node, input, target) = (node.id.to_string(), input.name.to_string(), link.node.to_string());
                    return Err(Error::DanglingLink { node, input, target });
                };
                // A raw link is waited for too, as in the reference: a loop's end runs after its beginning.
                if !input.lazy && !around.known(graph, target) {
                    todo.push(target);
                    links.push((target, index));
                }
            }
        }
        for (from, to) in links {
            self.wait(from, to);
        }
        Ok(added)
    }

    /// Makes a pending node wait for another one, which is added with what it needs unless it is known.
    pub fn add_link(
        &mut self,
        graph: &mut Graph,
        from: NodeIndex,
        to: NodeIndex,
        around: &mut dyn Surroundings,
    ) -> Result<Vec<NodeIndex>, Error> {
        if around.known(graph, from) {
            return Ok(Vec::new());
        }
        let added = self.add(graph, from, around)?;
        self.wait(from, to);
        Ok(added)
    }

    /// The node to run now. It stays pending until [`ExecutionList::complete`]. `None` when nothing is left, or when all that is left waits for
    /// the outside.
    pub fn next(&self, graph: &Graph) -> Result<Option<NodeIndex>, Cycle> {
        if self.is_empty() {
            return Ok(None);
        }
        let Some(first) = self.ready.values().next() else {
            return if self.outside > 0 { Ok(None) } else { Err(self.cycle(graph)) };
        };
        let is_output = |node: &NodeIndex| graph.node(*node).entry.schema.output_node;
        let is_async = |node: &NodeIndex| graph.node(*node).entry.schema.hosted.as_ref().is_some_and(|h| h.is_async);
        if let Some(node) = self.ready.values().find(|n| is_output(n) || is_async(n)) {
            return Ok(Some(*node));
        }
        if let Some(node) = self.ready.values().find(|n| self.states[**n].blocks.iter().any(is_output)) {
            return Ok(Some(*node));
        }
        let two_before = |node: &&NodeIndex| self.states[**node].blocks.iter().any(|b| self.states[*b].blocks.iter().any(is_output));
        Ok(Some(*self.ready.values().find(two_before).unwrap_or(first)))
    }

    /// A pending node waits for something outside the graph, until [`ExecutionList::resume`].
    pub fn suspend(&mut self, node: NodeIndex) {
        if let Some(seq) = self.states[node].seq {
            self.states[node].waits_for += 1;
            self.outside += 1;
            self.ready.remove(&seq);
        }
    }

    /// What a suspended node waited for outside the graph is there.
    pub fn resume(&mut self, node: NodeIndex) {
        self.outside -= 1;
        self.waits_less(node);
    }

    /// Takes a node out that has run.
    pub fn complete(&mut self, node: NodeIndex) {
        let state = std::mem::take(&mut self.states[node]);
        let Some(seq) = state.seq else { return };
        self.pending -= 1;
        self.ready.remove(&seq);
        for blocked in state.blocks {
            self.waits_less(blocked);
        }
    }

    fn waits_less(&mut self, node: NodeIndex) {
        let state = &mut self.states[node];
        state.waits_for -= 1;
        if let (0, Some(seq)) = (state.waits_for, state.seq) {
            self.ready.insert(seq, node);
        }
    }

    fn wait(&mut self, from: NodeIndex, to: NodeIndex) {
        if self.states[from].seq.is_none() || self.states[to].seq.is_none() || !self.states[from].blocks.insert(to) {
            return;
        }
        self.states[to].waits_for += 1;
        if let Some(seq) = self.states[to].seq {
            self.ready.remove(&seq);
        }
    }

    /// The node to blame when every pending node waits: each is part of a circle or behind one.
    fn cycle(&self, graph: &Graph) -> Cycle {
        let mut left: Vec<(usize, NodeIndex)> =
            self.states.iter().enumerate().filter_map(|(index, s)| s.seq.map(|seq| (seq, index))).collect();
        left.sort_unstable();
        let expanded = left.iter().find(|(_, index)| graph.node(*index).display_id != graph.node(*index).id);
        let blamed = expanded.or(left.first()).map_or(0, |(_, index)| *index);
        Cycle { blamed }
    }
}

#[cfg(test)]
mod tests;
