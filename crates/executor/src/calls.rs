//! From a node's inputs to its calls, and from the calls' results to its outputs: lists, missing inputs, execution blockers.

use std::sync::Arc;

use comfyd_graph::{Graph, InputSource, NodeIndex};
use comfyd_node::{Error, Inputs, NodeOutput, Result, Schema, Source, Value};
use indexmap::IndexSet;
use serde_json::{Map, Value as Json, json};

use crate::cache::NodeResult;

/// All values of one input.
#[derive(Debug)]
pub(crate) enum Values {
    /// A constant.
    One(Value),
    /// What came along a link.
    Many(Arc<Vec<Value>>),
    /// A link whose node was not evaluated (lazy), or that has no such slot.
    Missing,
}

impl Values {
    fn len(&self) -> usize {
        match self {
            Self::One(_) | Self::Missing => 1,
            Self::Many(values) => values.len(),
        }
    }

    /// The value for a call; the last one stands for those that a shorter list lacks.
    fn at(&self, call: usize) -> Option<&Value> {
        match self {
            Self::One(value) => Some(value),
            Self::Many(values) => values.get(call).or(values.last()),
            Self::Missing => None,
        }
    }

    fn as_slice(&self) -> &[Value] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
            Self::Missing => &[],
        }
    }
}

/// A node's inputs with all their values, in the order of its schema; undeclared links come last.
pub(crate) struct Given {
    inputs: Vec<(Arc<str>, Values)>,
    is_list: bool,
}

impl Given {
    /// Collects the inputs; `result` gives what a node left. A lazy input that was not `asked` for is missing even if it is known: what
    /// the cache happens to hold must not change the number of calls.
    pub fn collect(
        graph: &Graph,
        index: NodeIndex,
        asked: Option<&IndexSet<String>>,
        result: impl Fn(NodeIndex) -> Option<Arc<NodeResult>>,
    ) -> Self {
        let node = graph.node(index);
        let schema = &node.entry.schema;
        let mut given: Vec<(usize, Arc<str>, Values)> = Vec::with_capacity(node.inputs.len());
        for input in &node.inputs {
            let values = match &input.source {
                InputSource::Value(value) => match input.declared {
                    Some(_) => Values::One(value.clone()),
                    // As in the reference: constants that the class does not declare are not passed on.
                    None => continue,
                },
                InputSource::Link(link) if input.declared.is_some_and(|i| schema.inputs[i].raw_link) => {
                    Values::One(Value::Json(Arc::new(json!([&*link.node, link.slot]))))
                }
                InputSource::Link(_) if node.is_lazy(input) && !asked.is_some_and(|a| a.contains(&*input.name)) => Values::Missing,
                InputSource::Link(link) => {
                    let values = link.target.and_then(&result).and_then(|r| r.outputs.get(link.slot).cloned());
                    values.map_or(Values::Missing, Values::Many)
                }
            };
            given.push((input.declared.unwrap_or(usize::MAX), input.name.clone(), values));
        }
        given.sort_by_key(|(place, _, _)| *place);
        Self { inputs: given.into_iter().map(|(_, name, values)| (name, values)).collect(), is_list: schema.input_is_list }
    }

    /// How often the node is called.
    pub fn calls(&self) -> Result<usize> {
        if self.is_list {
            return Ok(1);
        }
        let longest = self.inputs.iter().map(|(_, v)| v.len()).max().unwrap_or(0);
        let empty = self.inputs.iter().find(|(_, v)| v.len() == 0);
        match empty {
            Some((name, _)) if longest > 0 => {
                Err(Error::msg(format!("input '{name}' is an empty list: the node cannot be called with it")))
            }
            Some(_) | None => Ok(longest.max(1)),
        }
    }

    /// The inputs of one call.
    pub fn call(&self, call: usize) -> Inputs {
        let mut inputs = Inputs::default();
        for (name, values) in &self.inputs {
            if self.is_list {
                match values {
                    Values::One(value) => inputs.insert(&**name, Value::list(vec![value.clone()])),
                    Values::Many(values) => inputs.insert(&**name, Value::List(values.clone())),
                    Values::Missing => {}
                }
            } else if let Some(value) = values.at(call) {
                inputs.insert(&**name, value.clone());
            }
        }
        inputs
    }

    /// The blocker that keeps a call from being made, if one is among its inputs.
    pub fn blocker(&self, call: usize) -> Option<&Option<Arc<str>>> {
        for (_, values) in &self.inputs {
            let values = if self.is_list { values.as_slice() } else { values.at(call).map_or(&[][..], std::slice::from_ref) };
            for value in values {
                if let Value::Blocker(message) = value {
                    return Some(message);
                }
            }
        }
        None
    }

    /// `current_inputs` of an error report.
    pub fn report(&self) -> Json {
        let mut report = Map::new();
        for (name, values) in &self.inputs {
            let values = match values {
                Values::Missing => vec![Json::Null],
                Values::One(_) | Values::Many(_) => values.as_slice().iter().map(shown).collect(),
            };
            report.insert(name.to_string(), Json::Array(values));
        }
        Json::Object(report)
    }
}

/// Scalars stay as they are, everything else becomes a text.
fn shown(value: &Value) -> Json {
    match value {
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::Object(_) | Value::Blocker(_) => {
            value.to_json()
        }
        Value::Json(_) | Value::List(_) => Json::String(value.to_json().to_string()),
    }
}

/// The result of a call that was blocked: a silent blocker in every slot.
pub(crate) fn blocked(schema: &Schema) -> NodeOutput {
    NodeOutput::values(schema.outputs.iter().map(|_| Value::Blocker(None)))
}

/// Joins what the calls gave into one list per slot. `resolve` gives all values of a link of an expansion.
pub(crate) fn join(
    schema: &Schema,
    parts: Vec<Vec<Source>>,
    max_len: usize,
    resolve: impl Fn(&str, usize) -> Result<Arc<Vec<Value>>>,
) -> Result<Vec<Arc<Vec<Value>>>> {
    let slots = parts.iter().map(Vec::len).max().unwrap_or(0);
    let mut outputs: Vec<Vec<Value>> = vec![Vec::with_capacity(parts.len()); slots];
    for part in parts.into_iter().filter(|p| !p.is_empty()) {
        let mut sources = part.into_iter();
        for (slot, output) in outputs.iter_mut().enumerate() {
            let is_list = schema.outputs.get(slot).is_some_and(|o| o.is_list);
            match sources.next() {
                None => output.push(Value::Null),
                Some(Source::Value(Value::List(values))) if is_list => output.extend(values.iter().cloned()),
                Some(Source::Value(value)) => output.push(value),
                Some(Source::Link { node, slot }) => output.extend(resolve(&node, slot)?.iter().cloned()),
            }
            if output.len() > max_len {
                let len = output.len();
                return Err(Error::msg(format!("output {slot} has {len} values, at most {max_len} are allowed: make shorter lists")));
            }
        }
    }
    Ok(outputs.into_iter().map(Arc::new).collect())
}

/// Joins what the calls show: the arrays under each of the first one's keys.
pub(crate) fn join_ui(uis: Vec<Map<String, Json>>) -> Option<Arc<Json>> {
    let mut uis = uis.into_iter();
    let mut joined = uis.next()?;
    for ui in uis {
        for (key, items) in ui {
            match (joined.get_mut(&key), items) {
                (Some(Json::Array(all)), Json::Array(items)) => all.extend(items),
                (Some(Json::Array(all)), item) => all.push(item),
                (Some(_) | None, _) => {}
            }
        }
    }
    (!joined.is_empty()).then(|| Arc::new(Json::Object(joined)))
}
