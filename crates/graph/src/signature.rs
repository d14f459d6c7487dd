//! Signatures: nodes with equal signatures give equal results, in this prompt and in later ones.

use comfyd_node::{Fingerprint, HiddenKind, Value};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use crate::graph::{Graph, InputSource, NodeIndex};

/// Hash of a node's class, constants and fingerprint, and of the signatures of the nodes that it links to. A class that asks for its
/// own id has the id in it, one of another process the process's name and the version of its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signature([u8; 32]);

/// The signatures of a graph's nodes, computed once each.
#[derive(Debug, Default)]
pub struct Signatures {
    known: Vec<Slot>,
}

#[derive(Debug, Clone, Copy, Default)]
enum Slot {
    #[default]
    Unknown,
    /// Being computed: met again, it is part of a circle.
    Open,
    /// `None`: its result may not be used again.
    Known(Option<Signature>),
}

impl Signatures {
    /// No signatures.
    pub fn new() -> Self {
        Self::default()
    }

    /// The node's signature; `None` if its result must not be used again: it or a node above wants to run every time, holds an object
    /// as a constant, links nowhere, or is part of a circle.
    pub fn get(
        &mut self,
        graph: &Graph,
        node: NodeIndex,
        fingerprint: &mut dyn FnMut(&Graph, NodeIndex) -> Fingerprint,
    ) -> Option<Signature> {
        self.known.resize(graph.nodes().len(), Slot::Unknown);
        let mut todo = vec![node];
        while let Some(&index) = todo.last() {
            match self.known[index] {
                Slot::Known(_) => {
                    todo.pop();
                }
                Slot::Unknown => {
                    self.known[index] = Slot::Open;
                    for input in &graph.node(index).inputs {
                        if let InputSource::Link(link) = &input.source
                            && let Some(target) = link.target
                            && matches!(self.known[target], Slot::Unknown)
                        {
                            todo.push(target);
                        }
                    }
                }
                Slot::Open => {
                    let signature = self.compute(graph, index, fingerprint);
                    self.known[index] = Slot::Known(signature);
                    todo.pop();
                }
            }
        }
        match self.known[node] {
            Slot::Known(signature) => signature,
            Slot::Unknown | Slot::Open => None,
        }
    }

    /// All nodes above are known, or part of a circle with this one.
    fn compute(&self, graph: &Graph, index: NodeIndex, fingerprint: &mut dyn FnMut(&Graph, NodeIndex) -> Fingerprint) -> Option<Signature> {
        let node = graph.node(index);
        let mut hash = Hash(Sha256::new());
        hash.text(&node.class_type);
        if let Some(host) = node.entry.host() {
            hash.tag(b'h');
            hash.text(host.name());
            hash.text(&host.version());
        }
        match fingerprint(graph, index) {
            Fingerprint::Inputs => hash.tag(b'-'),
            Fingerprint::Text(text) => {
                hash.tag(b'f');
                hash.text(&text);
            }
            Fingerprint::Always => return None,
        }
        let schema = &node.entry.schema;
        let unique = schema.hosted.as_ref().is_some_and(|h| h.unique);
        if unique || schema.hidden.iter().any(|(_, kind)| *kind == HiddenKind::UniqueId) {
            hash.tag(b'u');
            hash.text(&node.id);
        }
        let mut inputs: Vec<_> = node.inputs.iter().collect();
        inputs.sort_by(|a, b| a.name.cmp(&b.name));
        for input in inputs {
            hash.text(&input.name);
            match &input.source {
                InputSource::Link(link) => {
                    let Slot::Known(Some(above)) = self.known[link.target?] else { return None };
                    hash.tag(b'l');
                    hash.0.update(above.0);
                    hash.number(link.slot as u64);
                }
                InputSource::Value(value) => hash.value(value)?,
            }
        }
        Some(Signature(hash.0.finalize().into()))
    }
}

/// Writes values so that different ones give different bytes.
struct Hash(Sha256);

impl Hash {
    fn tag(&mut self, tag: u8) {
        self.0.update([tag]);
    }

    fn number(&mut self, number: u64) {
        self.0.update(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text.as_bytes());
    }

    /// `None` if the value is an object, which has no lasting identity.
    fn value(&mut self, value: &Value) -> Option<()> {
        match value {
            Value::Null => self.tag(b'n'),
            Value::Bool(b) => self.0.update([b'b', u8::from(*b)]),
            Value::Int(i) => {
                self.tag(b'i');
                self.0.update(i.to_le_bytes());
            }
            Value::Float(f) => {
                self.tag(b'd');
                self.number(f.to_bits());
            }
            Value::Text(text) => {
                self.tag(b's');
                self.text(text);
            }
            Value::Json(json) => self.json(json),
            Value::List(values) => {
                self.tag(b'L');
                self.number(values.len() as u64);
                for value in values.iter() {
                    self.value(value)?;
                }
            }
            Value::Blocker(message) => {
                self.tag(b'x');
                self.text(message.as_deref().unwrap_or_default());
            }
            Value::Object(_) => return None,
        }
        Some(())
    }

    fn json(&mut self, json: &Json) {
        match json {
            Json::Null => self.tag(b'n'),
            Json::Bool(b) => self.0.update([b'b', u8::from(*b)]),
            Json::Number(number) => {
                self.tag(b'#');
                self.text(&number.to_string());
            }
            Json::String(text) => {
                self.tag(b's');
                self.text(text);
            }
            Json::Array(items) => {
                self.tag(b'A');
                self.number(items.len() as u64);
                for item in items {
                    self.json(item);
                }
            }
            Json::Object(map) => {
                self.tag(b'O');
                self.number(map.len() as u64);
                let mut pairs: Vec<_> = map.iter().collect();
                pairs.sort_by_key(|(key, _)| *key);
                for (key, value) in pairs {
                    self.text(key);
                    self.json(value);
                }
            }
        }
    }
}
