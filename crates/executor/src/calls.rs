//! From a node's inputs to its calls, and from the calls' results to its outputs: lists, missing inputs, execution blockers.

use std::sync::Arc;

use comfyd_graph::{Graph, GraphInput, InputSource, Link, NodeIndex};
use comfyd_node::{Argument, Arguments, Error, HostedCall, Inputs, NodeOutput, Result, Schema, Source, Value};
use indexmap::IndexSet;
use serde_json::{Map, Value as Json, json};

use crate::results::NodeResult;

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
                    None if schema.takes_any => Values::One(value.clone()),
                    // As in the reference: other constants that the class does not declare are not passed on.
                    None => continue,
                },
                InputSource::Link(link) if input.raw_link => Values::One(Value::Json(Arc::new(json!([&*link.node, link.slot])))),
                InputSource::Link(link) => along(input, link, asked, &result).map_or(Values::Missing, Values::Many),
            };
            given.push((input.declared.unwrap_or(usize::MAX), input.name.clone(), values));
        }
        given.sort_by_key(|(place, _, _)| *place);
        Self { inputs: given.into_iter().map(|(_, name, values)| (name, values)).collect(), is_list: schema.input_is_list }
    }

    /// Brings objects of other processes here.
    pub fn localize(&mut self) -> Result<()> {
        for (_, values) in &mut self.inputs {
            match values {
                Values::One(value) => {
                    if let Some(local) = localized(value)? {
                        *value = local;
                    }
                }
                Values::Many(values) => {
                    if let Some(local) = localized_list(values)? {
                        *values = Arc::new(local);
                    }
                }
                Values::Missing => {}
            }
        }
        Ok(())
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

/// What came along a link, unless it is lazy and was not asked for, or there is no such output.
fn along(
    input: &GraphInput,
    link: &Link,
    asked: Option<&IndexSet<String>>,
    result: impl Fn(NodeIndex) -> Option<Arc<NodeResult>>,
) -> Option<Arc<Vec<Value>>> {
    if input.lazy && !asked.is_some_and(|a| a.contains(&*input.name)) {
        return None;
    }
    link.target.and_then(result).and_then(|r| r.outputs.get(link.slot).cloned())
}

/// The value as this process has it, if another one has it.
fn localized(value: &Value) -> Result<Option<Value>> {
    match value {
        Value::Object(object) => object.localize(),
        Value::List(values) => Ok(localized_list(values)?.map(Value::list)),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::Json(_) | Value::Blocker(_) => Ok(None),
    }
}

fn localized_list(values: &[Value]) -> Result<Option<Vec<Value>>> {
    let mut local: Option<Vec<Value>> = None;
    for (place, value) in values.iter().enumerate() {
        if let Some(value) = localized(value)? {
            local.get_or_insert_with(|| values.to_vec())[place] = value;
        }
    }
    Ok(local)
}

/// The inputs of a hosted node: in the prompt's order, with the constants that its class does not declare. `result` gives what a node left.
pub(crate) fn arguments(
    graph: &Graph,
    index: NodeIndex,
    asked: Option<&IndexSet<String>>,
    result: impl Fn(NodeIndex) -> Option<Arc<NodeResult>>,
) -> Arguments {
    let argument = |input: &GraphInput| match &input.source {
        InputSource::Value(value) => Argument::Constant(value.clone()),
        InputSource::Link(link) => {
            let values = if input.raw_link { None } else { along(input, link, asked, &result) };
            Argument::Link { node: link.node.clone(), slot: link.slot, values }
        }
    };
    graph.node(index).inputs.iter().map(|input| (input.name.clone(), argument(input))).collect()
}

/// The call of a hosted node.
pub(crate) fn hosted(
    graph: &Graph,
    index: NodeIndex,
    asked: Option<&IndexSet<String>>,
    result: impl Fn(NodeIndex) -> Option<Arc<NodeResult>>,
) -> HostedCall {
    let node = graph.node(index);
    HostedCall { node: node.id.clone(), display: node.display_id.clone(), arguments: arguments(graph, index, asked, result) }
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
            bounded(slot, output.len(), max_len)?;
        }
    }
    Ok(outputs.into_iter().map(Arc::new).collect())
}

/// Fails if an output has more values than one may have.
pub(crate) fn bounded(slot: usize, len: usize, max_len: usize) -> Result<()> {
    if len > max_len {
        return Err(Error::msg(format!("output {slot} has {len} values, at most {max_len} are allowed: make shorter lists")));
    }
    Ok(())
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
