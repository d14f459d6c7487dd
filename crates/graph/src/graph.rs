//! The graph that is run: the prompt's nodes with their classes, and the nodes that expansions add while it runs.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use comfyd_node::{Catalog, Entry, Expansion, Inspected, Source, Value};
use indexmap::IndexMap;
use serde_json::{Map, Value as Json};

use crate::dynamic::{finalized, is_dynamic};
use crate::placement::Placement;
use crate::prompt::{as_link, unwrapped};
use crate::python;

/// A node's place in [`Graph`].
pub type NodeIndex = usize;

/// Why a graph cannot be built or grown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The stored prompt is no object of nodes.
    #[error("the prompt is no graph in API format: submit it again")]
    NotAGraph,
    /// A class that the catalog does not have (any more).
    #[error("node class '{class}' of node '{node}' does not exist: install it, or remove the node")]
    UnknownClass {
        /// The node's id.
        node: String,
        /// The class.
        class: String,
    },
    /// An expansion adds a node under an id that exists.
    #[error("the expansion adds node '{0}', which exists already: make ids with Context::expansion_id")]
    DuplicateNode(String),
    /// A link leads to no node.
    #[error("input '{input}' of node '{node}' links to node '{target}', which does not exist")]
    DanglingLink {
        /// The node's id.
        node: String,
        /// The input's name.
        input: String,
        /// The id that does not exist.
        target: String,
    },
    /// Expansions made the graph too large.
    #[error("the graph would grow to {count} nodes, at most {max} are allowed: check that the loop ends, or raise the limit")]
    TooManyNodes {
        /// Nodes there would be.
        count: usize,
        /// Nodes allowed.
        max: usize,
    },
    /// Expansions nest too deep.
    #[error("expansions nest {max} levels deep: check that the loop ends, or raise the limit")]
    TooDeep {
        /// Levels allowed.
        max: usize,
    },
}

/// Where an input comes from.
#[derive(Debug, Clone)]
pub enum InputSource {
    /// An output slot of a node.
    Link(Link),
    /// A constant.
    Value(Value),
}

/// A link to an output slot.
#[derive(Debug, Clone)]
pub struct Link {
    /// The node's id.
    pub node: Arc<str>,
    /// The output's index.
    pub slot: usize,
    /// The node; `None` if the link leads nowhere.
    pub target: Option<NodeIndex>,
}

/// One input of a node.
#[derive(Debug, Clone)]
pub struct GraphInput {
    /// Its name.
    pub name: Arc<str>,
    /// Its place in the class's schema; `None` if the class does not declare it.
    pub declared: Option<usize>,
    /// Whether the node waits for it only once its class asks for it.
    pub lazy: bool,
    /// Whether the class gets the link itself.
    pub raw_link: bool,
    /// Where its value comes from.
    pub source: InputSource,
}

impl GraphInput {
    fn new(entry: &Entry, name: &str, source: impl FnOnce(Option<usize>) -> InputSource) -> Self {
        let declared = entry.schema.inputs.iter().position(|i| i.name == name);
        let (lazy, raw_link) = declared.map_or((false, false), |at| (entry.schema.inputs[at].lazy, entry.schema.inputs[at].raw_link));
        Self { name: name.into(), declared, lazy, raw_link, source: source(declared) }
    }
}

/// One node.
#[derive(Clone)]
pub struct GraphNode {
    /// Its id.
    pub id: Arc<str>,
    /// Its class.
    pub entry: Entry,
    /// Its class's name.
    pub class_type: Arc<str>,
    /// Its title, if the client sent one.
    pub title: Option<Arc<str>>,
    /// Its inputs, in the order of the prompt.
    pub inputs: Vec<GraphInput>,
    /// The node that it expanded from.
    pub parent: Option<NodeIndex>,
    /// The node of the submitted prompt from which it comes: itself, or its outermost parent.
    pub real: NodeIndex,
    /// The id under which clients show it.
    pub display_id: Arc<str>,
    /// How many expansions it lies in.
    pub depth: usize,
}

impl GraphNode {
    /// The input of that name.
    pub fn input(&self, name: &str) -> Option<&GraphInput> {
        self.inputs.iter().find(|i| &*i.name == name)
    }
}

/// All nodes: first those of the prompt, in its order, then those of expansions.
pub struct Graph {
    nodes: Vec<GraphNode>,
    ids: HashMap<Arc<str>, NodeIndex>,
    prompt_len: usize,
}

impl Graph {
    /// Builds the graph of a prompt in API format, of the implementations that the placement names.
    pub fn from_prompt(catalog: &Catalog, prompt: &Json, placement: &Placement) -> Result<Self, Error> {
        let prompt = prompt.as_object().ok_or(Error::NotAGraph)?;
        let mut graph =
            Self { nodes: Vec::with_capacity(prompt.len()), ids: HashMap::with_capacity(prompt.len()), prompt_len: prompt.len() };
        for (id, node) in prompt {
            let class = node.get("class_type").and_then(Json::as_str).unwrap_or_default();
            let unknown = || Error::UnknownClass { node: id.clone(), class: class.to_owned() };
            let entry = placement.entry(catalog, id, class).ok_or_else(unknown)?;
            let given = node.get("inputs").and_then(Json::as_object);
            let entry = given.map_or_else(|| entry.clone(), |given| finalized(entry, given));
            let mut inputs = Vec::new();
            for (name, value) in given.into_iter().flatten() {
                inputs.push(GraphInput::new(&entry, name, |declared| match as_link(value) {
                    Some((node, slot)) => InputSource::Link(Link { node: node.into(), slot, target: None }),
                    None => InputSource::Value(constant(&entry, declared, value)),
                }));
            }
            let index = graph.nodes.len();
            let id: Arc<str> = id.as_str().into();
            let title = node.get("_meta").and_then(|m| m.get("title")).and_then(Json::as_str).map(Arc::from);
            graph.ids.insert(id.clone(), index);
            graph.nodes.push(GraphNode {
                display_id: id.clone(),
                id,
                entry,
                class_type: class.into(),
                title,
                inputs,
                parent: None,
                real: index,
                depth: 0,
            });
        }
        graph.resolve(0..graph.nodes.len());
        Ok(graph)
    }

    /// Adds the nodes of an expansion of `parent`. On error the graph is as before.
    pub fn expand(
        &mut self,
        catalog: &Catalog,
        parent: NodeIndex,
        expansion: Expansion,
        placement: &Placement,
        max_nodes: usize,
        max_depth: usize,
    ) -> Result<Range<NodeIndex>, Error> {
        let count = self.nodes.len() + expansion.nodes.len();
        if count > max_nodes {
            return Err(Error::TooManyNodes { count, max: max_nodes });
        }
        let depth = self.nodes[parent].depth + 1;
        if depth > max_depth {
            return Err(Error::TooDeep { max: max_depth });
        }
        for (id, node) in &expansion.nodes {
            if self.ids.contains_key(id.as_str()) {
                return Err(Error::DuplicateNode(id.clone()));
            }
            if catalog.get(&node.class_type).is_none() {
                return Err(Error::UnknownClass { node: id.clone(), class: node.class_type.clone() });
            }
        }
        let first = self.nodes.len();
        let real = self.nodes[parent].real;
        for (id, node) in expansion.nodes {
            // Present: checked above.
            let Some(entry) = placement.entry(catalog, &id, &node.class_type) else { continue };
            let display_id = match &node.display_id {
                None => self.nodes[parent].display_id.clone(),
                Some(id) => self.find(id).map_or_else(|| id.as_str().into(), |i| self.nodes[i].display_id.clone()),
            };
            let entry = if is_dynamic(entry) { finalized(entry, &plain(&node.inputs)) } else { entry.clone() };
            let mut inputs = Vec::with_capacity(node.inputs.len());
            for (name, source) in node.inputs {
                inputs.push(GraphInput::new(&entry, &name, |_| match source {
                    Source::Link { node, slot } => InputSource::Link(Link { node: node.into(), slot, target: None }),
                    Source::Value(value) => InputSource::Value(value),
                }));
            }
            let id: Arc<str> = id.into();
            self.ids.insert(id.clone(), self.nodes.len());
            self.nodes.push(GraphNode {
                id,
                entry,
                class_type: node.class_type.into(),
                title: None,
                inputs,
                parent: Some(parent),
                real,
                display_id,
                depth,
            });
        }
        let added = first..self.nodes.len();
        self.resolve(added.clone());
        Ok(added)
    }

    /// The node at a place.
    pub fn node(&self, index: NodeIndex) -> &GraphNode {
        &self.nodes[index]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[GraphNode] {
        &self.nodes
    }

    /// The nodes of the prompt itself.
    pub fn prompt_nodes(&self) -> &[GraphNode] {
        &self.nodes[..self.prompt_len]
    }

    /// The node of that id.
    pub fn find(&self, id: &str) -> Option<NodeIndex> {
        self.ids.get(id).copied()
    }

    /// Notes what a node's class makes of links under names that it does not declare.
    pub fn inspected(&mut self, node: NodeIndex, names: &IndexMap<String, Inspected>) {
        for input in &mut self.nodes[node].inputs {
            if let (None, Some(found)) = (input.declared, names.get(&*input.name)) {
                (input.lazy, input.raw_link) = (found.lazy, found.raw_link);
            }
        }
    }

    /// Finds the nodes that links name.
    fn resolve(&mut self, range: Range<NodeIndex>) {
        for node in &mut self.nodes[range] {
            for input in &mut node.inputs {
                if let InputSource::Link(link) = &mut input.source {
                    link.target = self.ids.get(&link.node).copied();
                }
            }
        }
    }
}

/// What an expansion gives a node: which inputs, and the texts among them, which choices are made by.
fn plain(inputs: &IndexMap<String, Source>) -> Map<String, Json> {
    let value = |source: &Source| match source {
        Source::Value(Value::Text(text)) => Json::from(&**text),
        Source::Value(_) | Source::Link { .. } => Json::Null,
    };
    inputs.iter().map(|(name, source)| (name.clone(), value(source))).collect()
}

/// A constant as the class gets it. A class of another process takes what it does not declare as it was sent, as in the reference.
fn constant(entry: &Entry, declared: Option<usize>, sent: &Json) -> Value {
    match declared {
        None if entry.schema.hosted.is_some() => Value::from(sent),
        None => python::value(None, unwrapped(sent)),
        Some(at) => python::value(Some(&entry.schema.inputs[at].kind), unwrapped(sent)),
    }
}
