//! What travels along links: plain values, opaque objects, lists, execution blockers; and a node's inputs and outputs.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::Value as Json;

use crate::{Error, Result};

/// An object that only nodes understand: an image, a latent, a model.
pub trait Opaque: Any + Send + Sync {
    /// The link type it travels under, such as `IMAGE`.
    fn type_name(&self) -> &str;

    /// Memory that the cache accounts for it, in bytes. What several values share (a loaded model) counts as zero.
    fn size_bytes(&self) -> usize;

    /// A short human-readable text (PreviewAny, error reports).
    fn describe(&self) -> String {
        format!("<{}>", self.type_name())
    }

    /// The name of the [`crate::Host`] in which the object lies; `None` if it lies in this process.
    fn host(&self) -> Option<&str> {
        None
    }

    /// The value as this process has it, where the object lies in another one and can be brought here; `None` if it is here.
    fn localize(&self) -> Result<Option<Value>> {
        Ok(None)
    }

    /// Whether it can still be used: the process in which it lies lives.
    fn alive(&self) -> bool {
        true
    }
}

/// A value on a link or in a widget.
#[derive(Clone, Default)]
pub enum Value {
    /// Python's `None`.
    #[default]
    Null,
    /// BOOLEAN.
    Bool(bool),
    /// INT. Wide enough for seeds (unsigned 64 bits) and negative numbers.
    Int(i128),
    /// FLOAT.
    Float(f64),
    /// STRING, and the choice of a combo.
    Text(Arc<str>),
    /// A JSON array or object given as a widget's value.
    Json(Arc<Json>),
    /// An object of a node's own type.
    Object(Arc<dyn Opaque>),
    /// A list: all values of an input for a node that takes lists, or of an output that is a list.
    List(Arc<Vec<Value>>),
    /// Stops every node that receives it; with a message, the prompt reports it as an error (ComfyUI's `ExecutionBlocker`).
    Blocker(Option<Arc<str>>),
}

impl Value {
    /// Wraps an object.
    pub fn object(object: impl Opaque) -> Self {
        Self::Object(Arc::new(object))
    }

    /// A list value.
    pub fn list(values: Vec<Value>) -> Self {
        Self::List(Arc::new(values))
    }

    /// The object of type `T` inside, if that is what it holds.
    pub fn downcast<T: Opaque>(&self) -> Option<Arc<T>> {
        match self {
            Self::Object(object) => {
                let any: Arc<dyn Any + Send + Sync> = object.clone();
                any.downcast::<T>().ok()
            }
            _ => None,
        }
    }

    /// The type's name for messages and for checks of a link at run time.
    pub fn type_name(&self) -> &str {
        match self {
            Self::Null => "NONE",
            Self::Bool(_) => "BOOLEAN",
            Self::Int(_) => "INT",
            Self::Float(_) => "FLOAT",
            Self::Text(_) => "STRING",
            Self::Json(_) => "JSON",
            Self::Object(object) => object.type_name(),
            Self::List(_) => "LIST",
            Self::Blocker(_) => "BLOCKER",
        }
    }

    /// Memory to account for, in bytes.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Json(json) => json.to_string().len(),
            Self::Object(object) => object.size_bytes(),
            Self::List(values) => values.iter().map(Value::size_bytes).sum(),
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::Float(_) | Self::Blocker(_) => 0,
        }
    }

    /// As JSON, for reports and the `current_inputs` of an error; objects become their description.
    pub fn to_json(&self) -> Json {
        match self {
            Self::Null => Json::Null,
            Self::Bool(b) => Json::Bool(*b),
            Self::Int(i) => {
                if let Ok(i) = i64::try_from(*i) {
                    Json::from(i)
                } else if let Ok(u) = u64::try_from(*i) {
                    Json::from(u)
                } else {
                    Json::from(*i as f64)
                }
            }
            Self::Float(f) => Json::from(*f),
            Self::Text(text) => Json::String(text.to_string()),
            Self::Json(json) => json.as_ref().clone(),
            Self::Object(object) => Json::String(object.describe()),
            Self::List(values) => Json::Array(values.iter().map(Value::to_json).collect()),
            Self::Blocker(_) => Json::String("<blocked>".into()),
        }
    }
}

impl From<&Json> for Value {
    fn from(json: &Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(b) => Self::Bool(*b),
            Json::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Self::Int(i.into()),
                (None, Some(u)) => Self::Int(u.into()),
                (None, None) => Self::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::Text(text.as_str().into()),
            Json::Array(_) | Json::Object(_) => Self::Json(Arc::new(json.clone())),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.type_name(), self.to_json())
    }
}

macro_rules! value_from {
    ($($ty:ty => $variant:ident($convert:expr)),* $(,)?) => { $(
        impl From<$ty> for Value {
            fn from(v: $ty) -> Self {
                #[allow(clippy::redundant_closure_call)]
                Self::$variant(($convert)(v))
            }
        }
    )* };
}
value_from! {
    bool => Bool(|v| v),
    i64 => Int(i128::from),
    i32 => Int(i128::from),
    u64 => Int(i128::from),
    usize => Int(|v| v as i128),
    i128 => Int(|v| v),
    f64 => Float(|v| v),
    &str => Text(Arc::from),
    String => Text(Arc::from),
}
impl<T: Opaque> From<Arc<T>> for Value {
    fn from(v: Arc<T>) -> Self {
        Self::Object(v)
    }
}
impl<T: Opaque> From<T> for Value {
    fn from(v: T) -> Self {
        Self::object(v)
    }
}

/// The inputs of one call, by name, in the schema's order.
///
/// For a node with [`crate::Schema::input_is_list`] every value is a [`Value::List`].
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    values: IndexMap<String, Value>,
}

impl Inputs {
    /// Adds or replaces a value.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.values.insert(name.into(), value.into());
    }

    /// Whether the input is there.
    pub fn contains(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// All inputs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// The value as it is, absent and null alike being `None`.
    pub fn optional(&self, name: &str) -> Option<&Value> {
        self.values.get(name).filter(|v| !matches!(v, Value::Null))
    }

    /// The value as it is.
    pub fn value(&self, name: &str) -> Result<&Value> {
        self.values.get(name).ok_or_else(|| Error::MissingInput(name.into()))
    }

    /// An object of type `T`, such as an image.
    pub fn get<T: Opaque>(&self, name: &str) -> Result<Arc<T>> {
        let value = self.value(name)?;
        value.downcast::<T>().ok_or_else(|| wrong(name, value, short_type_name::<T>()))
    }

    /// An object of type `T`, or `None` where the optional input is absent or null.
    pub fn get_optional<T: Opaque>(&self, name: &str) -> Result<Option<Arc<T>>> {
        match self.optional(name) {
            Some(_) => self.get(name).map(Some),
            None => Ok(None),
        }
    }

    /// An integer. A float without fraction counts, as does a boolean (as in Python).
    pub fn int(&self, name: &str) -> Result<i128> {
        let value = self.value(name)?;
        match value {
            Value::Int(i) => Ok(*i),
            Value::Bool(b) => Ok(i128::from(*b)),
            Value::Float(f) if f.fract() == 0.0 => Ok(*f as i128),
            _ => Err(wrong(name, value, "an integer")),
        }
    }

    /// An integer that must fit the wanted type (`u32`, `usize`, …).
    pub fn int_as<T: TryFrom<i128>>(&self, name: &str) -> Result<T> {
        let int = self.int(name)?;
        T::try_from(int).map_err(|_| Error::msg(format!("input '{name}' is {int}, which is out of range")))
    }

    /// A floating-point number; integers and booleans count.
    pub fn float(&self, name: &str) -> Result<f64> {
        let value = self.value(name)?;
        match value {
            Value::Float(f) => Ok(*f),
            Value::Int(i) => Ok(*i as f64),
            Value::Bool(b) => Ok(f64::from(u8::from(*b))),
            _ => Err(wrong(name, value, "a number")),
        }
    }

    /// A boolean; numbers count by Python's truth rule.
    pub fn bool(&self, name: &str) -> Result<bool> {
        let value = self.value(name)?;
        match value {
            Value::Bool(b) => Ok(*b),
            Value::Int(i) => Ok(*i != 0),
            Value::Float(f) => Ok(*f != 0.0),
            _ => Err(wrong(name, value, "a boolean")),
        }
    }

    /// A text.
    pub fn text(&self, name: &str) -> Result<&str> {
        let value = self.value(name)?;
        match value {
            Value::Text(text) => Ok(text),
            _ => Err(wrong(name, value, "a text")),
        }
    }

    /// What was given of the inputs that `name` stands for, under their names beneath it (`image0` for `images.image0`); a choice is there under
    /// the last part of its own name.
    pub fn group(&self, name: &str) -> Inputs {
        let own = name.rsplit('.').next().unwrap_or(name);
        let beneath = |full: &str| full.strip_prefix(name)?.strip_prefix('.').map(str::to_owned);
        let mut group = Inputs::default();
        for (full, value) in &self.values {
            if let Some(short) = beneath(full) {
                group.insert(short, value.clone());
            }
        }
        if let Some(choice) = self.values.get(name) {
            group.insert(own, choice.clone());
        }
        group
    }

    /// The values of an input of a node that takes lists.
    pub fn list(&self, name: &str) -> Result<&[Value]> {
        let value = self.value(name)?;
        match value {
            Value::List(values) => Ok(values),
            _ => Err(wrong(name, value, "a list")),
        }
    }
}

fn wrong(name: &str, value: &Value, wanted: &str) -> Error {
    Error::WrongType { name: name.into(), got: value.type_name().into(), wanted: wanted.into() }
}

fn short_type_name<T>() -> &'static str {
    let full = std::any::type_name::<T>();
    full.rsplit("::").next().unwrap_or(full)
}

impl FromIterator<(String, Value)> for Inputs {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(iter: I) -> Self {
        Self { values: iter.into_iter().collect() }
    }
}

/// Where an input of an expanded node, or an output of an expansion, comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// An output slot of a node: of the expansion, or of the graph around it.
    Link {
        /// The node's id.
        node: String,
        /// The output's index.
        slot: usize,
    },
    /// A value.
    Value(Value),
}

/// A node that an expansion adds.
#[derive(Debug, Clone)]
pub struct ExpansionNode {
    /// Its class.
    pub class_type: String,
    /// Its inputs.
    pub inputs: IndexMap<String, Source>,
    /// The node under whose id its progress is shown; the expanding node's when `None`.
    pub display_id: Option<String>,
}

/// A graph that takes a node's place (ComfyUI's `expand`). Ids must be unique in the whole graph: [`crate::Context::expansion_id`]
/// makes such ids.
#[derive(Debug, Clone, Default)]
pub struct Expansion {
    /// The nodes to add.
    pub nodes: IndexMap<String, ExpansionNode>,
}

/// What a node gives back.
#[derive(Debug, Default)]
pub struct NodeOutput {
    /// One source per output slot. `Link` is allowed only together with an expansion. An output declared as list takes a
    /// [`Value::List`].
    pub values: Vec<Source>,
    /// What the client is shown: `{"images": [{filename, subfolder, type}]}`, `{"text": [..]}`. Values are arrays.
    pub ui: Option<serde_json::Map<String, Json>>,
    /// A graph to run in the node's place.
    pub expand: Option<Expansion>,
}

impl NodeOutput {
    /// The values of all output slots.
    pub fn values(values: impl IntoIterator<Item = Value>) -> Self {
        Self { values: values.into_iter().map(Source::Value).collect(), ..Self::default() }
    }

    /// The value of the one output slot.
    pub fn one(value: impl Into<Value>) -> Self {
        Self::values([value.into()])
    }

    /// No values, only something to show.
    pub fn ui(ui: serde_json::Map<String, Json>) -> Self {
        Self { ui: Some(ui), ..Self::default() }
    }

    /// Adds something to show.
    pub fn with_ui(mut self, key: &str, items: Vec<Json>) -> Self {
        self.ui.get_or_insert_default().insert(key.into(), Json::Array(items));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_what_an_input_stands_for() {
        let given = [("size.by.factor", 2), ("size.by", 1), ("size", 0), ("sizes", 9), ("images.image0", 3), ("images.image2", 4)];
        let inputs: Inputs = given.into_iter().map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
        let shown = |group: &Inputs| group.iter().map(|(name, value)| format!("{name}={}", value.to_json())).collect::<Vec<_>>().join(" ");
        assert_eq!(shown(&inputs.group("images")), "image0=3 image2=4");
        let size = inputs.group("size");
        assert_eq!(shown(&size), "by.factor=2 by=1 size=0");
        assert_eq!(shown(&size.group("by")), "factor=2 by=1");
        assert_eq!(shown(&inputs.group("none")), "");
    }
}
