//! Values of inputs and outputs as messages hold them: numbers and texts as themselves, objects of the worker by number, those of this
//! process as what can cross.

use std::sync::Arc;

use comfyd_node::{
    Argument, Arguments, Error, Expansion, ExpansionNode, HostedOutput, NodeOutput, Opaque, Refusal, Result, Returned, Schema, Source,
    Value,
};
use indexmap::IndexMap;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value as Json};

use crate::frame::Message;
use crate::portable::{self, Piece};
use crate::remote::{Objects, Remote, Told};

/// A value on its way out.
enum Form {
    /// Written as it is.
    Plain(Value),
    Handle(u64),
    /// A native object; a description and, in the message, its pieces. With a number, the worker keeps it until the prompt ends.
    Portable(Arc<Json>, Option<u64>),
    /// One that it keeps.
    Kept(u64),
    List(Vec<Form>),
}

/// An input on its way out.
enum Given {
    Constant(Form),
    Link { node: Arc<str>, slot: usize, values: Option<Vec<Form>> },
}

/// What goes along with a message: tensors, each once.
struct Outgoing<'a> {
    objects: Option<&'a Arc<Objects>>,
    pieces: Vec<Piece>,
    len: u64,
    /// What goes there with this message, with a number for what the worker is to keep.
    crossing: Vec<(Option<u64>, Arc<dyn Opaque>)>,
}

/// Adds a node's inputs to a message to the process of `objects`. Fails with [`Error::CannotCross`] where one cannot go there.
pub(crate) fn with_inputs(message: Message, arguments: &Arguments, objects: &Arc<Objects>) -> Result<Message> {
    let mut outgoing = Outgoing::new(Some(objects));
    let mut inputs = Vec::with_capacity(arguments.len());
    for (name, argument) in arguments {
        let given = match argument {
            Argument::Constant(value) => Given::Constant(outgoing.form(value)?),
            Argument::Link { node, slot, values } => {
                let values = values.as_ref().map(|values| values.iter().map(|value| outgoing.form(value)).collect::<Result<Vec<_>>>());
                Given::Link { node: node.clone(), slot: *slot, values: values.transpose()? }
            }
        };
        inputs.push((name, given));
    }
    let message = message.field("inputs", &inputs).pieces(outgoing.pieces);
    message.check().map_err(Error::Failed)?;
    objects.cross(outgoing.crossing);
    Ok(message)
}

/// Adds a node's constants, and its links without what came along them. Constants that are objects are left out.
pub(crate) fn with_constants(message: Message, arguments: &Arguments) -> Message {
    let mut outgoing = Outgoing::new(None);
    let mut inputs = Vec::with_capacity(arguments.len());
    for (name, argument) in arguments {
        match argument {
            Argument::Constant(value) => inputs.extend(outgoing.form(value).ok().map(|form| (name, Given::Constant(form)))),
            Argument::Link { node, slot, .. } => inputs.push((name, Given::Link { node: node.clone(), slot: *slot, values: None })),
        }
    }
    message.field("inputs", &inputs)
}

/// What a class is asked about its inputs before a prompt runs.
pub(crate) fn question(class: &str, node: &str, arguments: &Arguments, types: &Map<String, Json>) -> Message {
    with_constants(Message::new("validate").field("node", node).field("class", class).field("types", types), arguments)
}

/// The inputs that it refuses, as it answers.
pub(crate) fn refusals(answer: &Json) -> Vec<Refusal> {
    let refusal = |refused: &Json| Refusal {
        input: refused["input"].as_str().unwrap_or_default().to_owned(),
        reason: refused["reason"].as_str().map(str::to_owned),
    };
    answer.get("refused").and_then(Json::as_array).into_iter().flatten().map(refusal).collect()
}

impl<'a> Outgoing<'a> {
    fn new(objects: Option<&'a Arc<Objects>>) -> Self {
        Self { objects, pieces: Vec::new(), len: 0, crossing: Vec::new() }
    }

    fn form(&mut self, value: &Value) -> Result<Form> {
        Ok(match value {
            Value::Object(object) => self.object(value, object)?,
            Value::List(values) => Form::List(values.iter().map(|value| self.form(value)).collect::<Result<_>>()?),
            plain => Form::Plain(plain.clone()),
        })
    }

    fn object(&mut self, value: &Value, object: &Arc<dyn Opaque>) -> Result<Form> {
        let refused = |why: &str| Error::CannotCross(format!("{} of type {} {why}", object.describe(), object.type_name()));
        let Some(objects) = self.objects else { return Err(refused("is no constant")) };
        let remote = value.downcast::<Remote>();
        if let Some(remote) = remote.as_ref().filter(|remote| remote.lies_in(objects)) {
            return match remote.lost() {
                Some(why) => Err(Error::Failed(why)),
                None => Ok(Form::Handle(remote.handle())),
            };
        }
        // Whether and as what an object went there before is known by what holds it here.
        let same = |(_, known): &&(Option<u64>, Arc<dyn Opaque>)| Arc::ptr_eq(known, object);
        let crossed = self.crossing.iter().rev().find(same).map(|(number, _)| *number).or_else(|| objects.crossed(object));
        if let Some(Some(number)) = crossed {
            return Ok(Form::Kept(number));
        }
        let local = match &remote {
            Some(remote) => Some(remote.carried()?),
            None => object.localize()?,
        };
        match local {
            Some(Value::Object(local)) => self.portable(&local, object, crossed.is_some()),
            Some(plain) => self.form(&plain),
            None => self.portable(object, object, crossed.is_some()),
        }
    }

    /// `local` is `object` as this process has it; whether it went there before.
    fn portable(&mut self, local: &Arc<dyn Opaque>, object: &Arc<dyn Opaque>, again: bool) -> Result<Form> {
        let Some(objects) = self.objects else { return Err(Error::msg("an object is no constant")) };
        let Some((description, pieces)) = portable::pack(&Value::Object(local.clone()), self.len) else {
            let (what, ty, place) = (object.describe(), object.type_name(), &objects.link.name);
            return Err(Error::CannotCross(format!("{what} of type {ty} cannot go to the Python worker '{place}'")));
        };
        self.len += pieces.iter().map(|piece| piece.bytes().len() as u64).sum::<u64>();
        self.pieces.extend(pieces);
        let number = if again { objects.new_put(object) } else { None };
        self.crossing.push((number, object.clone()));
        Ok(Form::Portable(Arc::new(description), number))
    }
}

impl Serialize for Form {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(value) => plain(value, serializer),
            Self::Handle(handle) => one(serializer, "h", handle),
            Self::Portable(description, None) => one(serializer, "p", description),
            Self::Portable(description, Some(number)) => {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("p", description)?;
                map.serialize_entry("put", number)?;
                map.end()
            }
            Self::Kept(number) => one(serializer, "put", number),
            Self::List(values) => one(serializer, "L", values),
        }
    }
}

fn plain<S: Serializer>(value: &Value, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Value::Null | Value::Object(_) | Value::List(_) => serializer.serialize_unit(),
        Value::Bool(value) => serializer.serialize_bool(*value),
        Value::Int(value) => serializer.serialize_i128(*value),
        Value::Float(value) if value.is_finite() => serializer.serialize_f64(*value),
        Value::Float(value) if value.is_nan() => one(serializer, "f", "nan"),
        Value::Float(value) => one(serializer, "f", if *value > 0.0 { "inf" } else { "-inf" }),
        Value::Text(text) => serializer.serialize_str(text),
        Value::Json(json) => one(serializer, "j", json),
        Value::Blocker(message) => one(serializer, "b", &message.as_deref()),
    }
}

fn one<S: Serializer>(serializer: S, name: &str, value: &(impl Serialize + ?Sized)) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry(name, value)?;
    map.end()
}

impl Serialize for Given {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Constant(form) => form.serialize(serializer),
            Self::Link { node, slot, values } => {
                let mut map = serializer.serialize_map(None)?;
                map.serialize_entry("link", &Link(node, *slot))?;
                if let Some(values) = values {
                    map.serialize_entry("values", values)?;
                }
                map.end()
            }
        }
    }
}

struct Link<'a>(&'a str, usize);

impl Serialize for Link<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut pair = serializer.serialize_seq(Some(2))?;
        pair.serialize_element(self.0)?;
        pair.serialize_element(&self.1)?;
        pair.end()
    }
}

/// What a call gave.
pub(crate) fn output(json: &mut Json, schema: &Schema, objects: &Arc<Objects>) -> HostedOutput {
    let declared = |slot: usize| schema.outputs.get(slot).map_or("*", |output| output.ty.as_str());
    let ui = json.get_mut("ui").and_then(Json::as_object_mut).map(std::mem::take);
    let blocked = json.get("blocked").and_then(Json::as_array);
    let blocked = blocked.into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect();
    let values = |json: &Json, ty: &str| Arc::new(list(json).iter().map(|item| value(item, ty, objects)).collect::<Vec<_>>());
    let returned = if let Some(calls) = json.get("calls") {
        let call = |call: &Json| NodeOutput {
            values: list(&call["values"]).iter().enumerate().map(|(slot, item)| source(item, declared(slot), objects)).collect(),
            ui: None,
            expand: call.get("expand").and_then(|expand| expansion(expand, objects)),
        };
        Returned::Calls(list(calls).iter().map(call).collect())
    } else {
        Returned::Values(list(&json["outputs"]).iter().enumerate().map(|(slot, items)| values(items, declared(slot))).collect())
    };
    HostedOutput { returned, ui, blocked }
}

fn list(json: &Json) -> &[Json] {
    json.as_array().map_or(&[], Vec::as_slice)
}

fn expansion(json: &Json, objects: &Arc<Objects>) -> Option<Expansion> {
    let node = |json: &Json| ExpansionNode {
        class_type: json["class_type"].as_str().unwrap_or_default().into(),
        inputs: inputs(&json["inputs"], objects),
        display_id: json["display"].as_str().map(str::to_owned),
    };
    let nodes = json.as_object()?.iter().map(|(id, json)| (id.clone(), node(json)));
    Some(Expansion { nodes: nodes.collect() })
}

fn inputs(json: &Json, objects: &Arc<Objects>) -> IndexMap<String, Source> {
    json.as_object().into_iter().flatten().map(|(name, item)| (name.clone(), source(item, "*", objects))).collect()
}

fn source(json: &Json, declared: &str, objects: &Arc<Objects>) -> Source {
    let link = json.get("link").and_then(|link| {
        let slot = usize::try_from(link.get(1)?.as_u64()?).ok()?;
        Some(Source::Link { node: link.get(0)?.as_str()?.to_owned(), slot })
    });
    link.unwrap_or_else(|| Source::Value(value(json, declared, objects)))
}

/// A value that came along a link of type `declared`.
pub(crate) fn value(json: &Json, declared: &str, objects: &Arc<Objects>) -> Value {
    let Json::Object(map) = json else { return Value::from(json) };
    if let Some(handle) = map.get("h").and_then(Json::as_u64) {
        let axis = |axis: &Json| axis.as_u64().unwrap_or_default() as usize;
        let told = Told {
            handle,
            kind: map.get("k").and_then(Json::as_str).unwrap_or("object").to_owned(),
            size: map.get("s").and_then(Json::as_u64).unwrap_or_default() as usize,
            shape: map.get("shape").and_then(Json::as_array).map(|shape| shape.iter().map(axis).collect()),
        };
        return Value::Object(objects.get(told, declared));
    }
    if let Some(values) = map.get("L") {
        return Value::list(list(values).iter().map(|item| value(item, declared, objects)).collect());
    }
    if let Some(message) = map.get("b") {
        return Value::Blocker(message.as_str().map(Arc::from));
    }
    if let Some(float) = map.get("f").and_then(Json::as_str) {
        return Value::Float(float.parse().unwrap_or(f64::NAN));
    }
    if let Some(digits) = map.get("i").and_then(Json::as_str) {
        return digits.parse().map_or_else(|_| Value::Float(digits.parse().unwrap_or(f64::NAN)), Value::Int);
    }
    match map.get("j") {
        Some(json) => Value::from(json),
        None => Value::from(json),
    }
}
