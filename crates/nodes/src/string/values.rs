//! Texts made of values: filled in, and written and read as JSON.

use std::collections::HashMap;

use comfyd_node::{Error, Grow, Input, NodeOutput, Result, Schema, Value};
use comfyd_wire::shown;
use serde_json::Value as Json;

use crate::class::{Call, Class};
use crate::python;
use crate::string::format;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            let value = Input::link("value", "*").tooltip("What is put into the text.");
            schema("StringFormat", "Format Text")
                .description("Puts values into a text, as Python's format does: {a}, {b:.2f}, {c:>8}.")
                .aliases(["template", "fill in", "placeholders", "f-string"])
                .input(Input::grow("values", Grow::listed(value, ('a'..='z').map(String::from)).min(0)))
                .input(Input::text("f_string").default("{a}").multiline().tooltip("The text; {a}, {b}, … are the values connected."))
                .output("STRING")
        },
        fill,
    ),
    Class::new(
        || {
            schema("JsonExtractString", "Extract Text from JSON")
                .description("The value of a key of a JSON object, as text; nothing where there is none.")
                .aliases(["field", "property", "answer of a model"])
                .input(Input::text("json_string").multiline().tooltip("A JSON object."))
                .input(Input::text("key").tooltip("The name of what is wanted."))
                .output("STRING")
        },
        extract,
    ),
    Class::new(
        || {
            schema("ConvertDictionaryToString", "Convert Dictionary to String")
                .description("Writes an object of names and values as JSON.")
                .aliases(["to json", "dump"])
                .input(Input::link("dictionary", "DICT").tooltip("The object."))
                .input(indent())
                .output("STRING")
        },
        |call| write(call, "dictionary"),
    ),
    Class::new(
        || {
            schema("ConvertArrayToString", "Convert Array to String")
                .description("Writes a list of values as JSON.")
                .aliases(["to json", "dump"])
                .input(Input::link("array", "ARRAY").tooltip("The list."))
                .input(indent())
                .output("STRING")
        },
        |call| write(call, "array"),
    ),
];

fn schema(class: &str, display: &str) -> Schema {
    Schema::new(class).display(display).category("text").module("comfy_extras.nodes_string").schema_generation()
}

fn indent() -> Input {
    Input::int("indent").default(2).min(0).max(8).tooltip("Spaces per level; 0 writes all on one line.")
}

fn fill(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let values = call.inputs.group("values");
    let bound = call.state.services.limits.max_text_bytes;
    let values: HashMap<String, Value> = values.iter().map(|(name, value)| (name.to_owned(), value.clone())).collect();
    let template = call.text("f_string")?.to_owned();
    let given = template.len() + values.values().map(Value::size_bytes).sum::<usize>();
    let room = 2 * (bound as usize).min(given.saturating_mul(16));
    let text = call.of_text(given, room, move || format::fill(&template, &|name| values.get(name).cloned(), bound as usize))?;
    let text = text.map_err(Error::Failed)?;
    call.reserve_text(text.len())?;
    Ok(NodeOutput::one(text))
}

fn extract(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let read = call.json(call.text("json_string")?)?;
    let text = match read.as_ref().and_then(|object| object.as_object()?.get(call.text("key").ok()?)) {
        None | Some(Json::Null) => String::new(),
        Some(value) => shown::str(value),
    };
    call.reserve_text(text.len())?;
    Ok(NodeOutput::one(text))
}

fn write(call: &mut Call<'_, '_>, name: &str) -> Result<NodeOutput> {
    let most = call.state.services.limits.max_text_bytes as usize;
    let text = python::dumps_readable(&call.inputs.value(name)?.to_json(), call.count("indent", 0)?, most);
    call.reserve_text(text.len())?;
    Ok(NodeOutput::one(text))
}
