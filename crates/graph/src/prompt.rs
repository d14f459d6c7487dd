//! A prompt in API format as it was sent: node id → `{class_type, inputs, _meta}`, in the sender's order, within bounds. Does not know
//! which classes exist.

use serde_json::{Map, Value as Json};

use crate::report::PromptProblem;

/// Bounds on what a prompt may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Nodes in the graph.
    pub max_nodes: usize,
    /// Inputs of one node.
    pub max_inputs: usize,
    /// Nesting of arrays and objects inside one input's value.
    pub max_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_nodes: 10_000, max_inputs: 1_000, max_depth: comfyd_wire::json::MAX_DEPTH }
    }
}

/// A prompt whose shape was checked: an object of at most so many nodes, each input nested at most so deep.
///
/// Entries that are no objects, or that have no `class_type`, are still in it: [`crate::validate()`] reports them as the reference does.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    nodes: Map<String, Json>,
}

impl Prompt {
    /// Checks the shape and the bounds. The error is of the reference's type `invalid_prompt`.
    pub fn parse(json: Json, limits: &Limits) -> Result<Self, PromptProblem> {
        let Json::Object(nodes) = json else {
            return Err(PromptProblem::NotAnObject);
        };
        if nodes.len() > limits.max_nodes {
            return Err(PromptProblem::TooManyNodes { count: nodes.len(), max: limits.max_nodes });
        }
        for (id, node) in &nodes {
            match node.get("inputs") {
                None => {}
                Some(Json::Object(inputs)) => {
                    if inputs.len() > limits.max_inputs {
                        let (count, max) = (inputs.len(), limits.max_inputs);
                        return Err(PromptProblem::TooManyInputs { node: id.clone(), count, max });
                    }
                    if let Some((name, _)) = inputs.iter().find(|(_, value)| !nested_within(value, limits.max_depth)) {
                        let (node, input) = (id.as_str().into(), name.as_str().into());
                        return Err(PromptProblem::TooDeep { node, input, max: limits.max_depth });
                    }
                }
                Some(_) => return Err(PromptProblem::InputsNotAnObject { node: id.clone() }),
            }
        }
        Ok(Self { nodes })
    }

    /// Node id → node, in the sender's order.
    pub fn nodes(&self) -> &Map<String, Json> {
        &self.nodes
    }

    /// The prompt as JSON, to be stored.
    pub fn into_json(self) -> Json {
        Json::Object(self.nodes)
    }

    /// The class of a node, if it has one that is a text.
    pub fn class_type(&self, id: &str) -> Option<&str> {
        self.nodes.get(id)?.get("class_type")?.as_str()
    }

    /// The inputs of a node; `None` where the node has none.
    pub fn inputs(&self, id: &str) -> Option<&Map<String, Json>> {
        self.nodes.get(id)?.get("inputs")?.as_object()
    }

    /// Sets an input that is there; whether it was another value.
    pub(crate) fn set_input(&mut self, id: &str, name: &str, value: Json) -> bool {
        let slot = self.nodes.get_mut(id).and_then(|n| n.get_mut("inputs")).and_then(|i| i.get_mut(name));
        slot.is_some_and(|slot| std::mem::replace(slot, value) != *slot)
    }
}

/// The link that an input's value is, if it is one: `[node id, output slot]`. Every other value is a constant.
pub fn as_link(value: &Json) -> Option<(&str, usize)> {
    let [node, slot] = value.as_array()?.as_slice() else { return None };
    // Python clients may send 0.0 for 0.
    let slot = match (slot.as_u64(), slot.as_f64()) {
        (Some(slot), _) => slot,
        (None, Some(slot)) if slot >= 0.0 && slot.fract() == 0.0 && slot < f64::from(u32::MAX) => slot as u64,
        (None, _) => return None,
    };
    Some((node.as_str()?, usize::try_from(slot).ok()?))
}

/// The value inside `{"__value__": …}`, the way in which clients send an array that is a value and no link; any other value as it is.
pub(crate) fn unwrapped(value: &Json) -> &Json {
    value.as_object().and_then(|map| map.get("__value__")).unwrap_or(value)
}

fn nested_within(value: &Json, depth: usize) -> bool {
    match value {
        Json::Array(items) => depth > 0 && items.iter().all(|v| nested_within(v, depth - 1)),
        Json::Object(map) => depth > 0 && map.values().all(|v| nested_within(v, depth - 1)),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => true,
    }
}
