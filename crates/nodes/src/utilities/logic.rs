//! Truth and choice: the nodes that decide which way a graph goes on.

use comfyd_node::{Error, Grow, Input, Inputs, NodeOutput, Result, Schema, Value};
use comfyd_values::{Image, Mask, Sigmas};

use crate::class::{Call, Class};
use crate::services::State;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            schema("ComfySwitchNode", "If/Else Switch")
                .experimental()
                .description("Hands on one of two values. Only what leads to the one that is taken is run.")
                .aliases(["choose", "condition", "if", "else", "route"])
                .input(Input::bool("switch").tooltip("On: the second value. Off: the first."))
                .input(Input::matching("on_false", "switch", "*").lazy().tooltip("Taken while the switch is off."))
                .input(Input::matching("on_true", "switch", "*").lazy().tooltip("Taken while the switch is on."))
                .output_matching("output", "switch")
        },
        |call| Ok(NodeOutput::one(call.inputs.value(side(call.bool("switch")?))?.clone())),
    )
    .needed(chosen_side),
    Class::new(
        || {
            schema("CustomCombo", "Custom Combo")
                .category("utilities")
                .experimental()
                .description("A choice among texts that you write yourself, and its number.")
                .input(Input::combo("choice", [""; 0]).tooltip("What is chosen."))
                .output_named("STRING", "STRING")
                .output_named("INT", "INDEX")
                .takes_any()
                .validates(["choice", "index", "*"])
        },
        custom_combo,
    ),
    Class::new(
        || {
            schema("ComfyNotNode", "Not")
                .description("Whether a value counts as no: false, zero, an empty text, nothing.")
                .aliases(["contrary", "inverse", "opposite"])
                .input(Input::link("value", "*").tooltip("Anything."))
                .output("BOOLEAN")
        },
        |call| Ok(NodeOutput::one(!truth("value", call.inputs.value("value")?)?)),
    ),
    Class::new(
        || many("ComfyAndNode", "And").description("Whether all of several values count as yes.").aliases(["both", "each", "all of"]),
        |call| Ok(NodeOutput::one(truths(call)?.into_iter().all(|yes| yes))),
    ),
    Class::new(
        || many("ComfyOrNode", "Or").description("Whether any of several values counts as yes.").aliases(["either", "one of"]),
        |call| Ok(NodeOutput::one(truths(call)?.into_iter().any(|yes| yes))),
    ),
];

fn schema(class: &str, display: &str) -> Schema {
    Schema::new(class).display(display).category("utilities/logic").module("comfy_extras.nodes_logic").schema_generation()
}

fn many(class: &str, display: &str) -> Schema {
    let value = Input::link("value", "*").tooltip("Anything.");
    schema(class, display).input(Input::grow("values", Grow::numbered(value, "value"))).output("BOOLEAN")
}

fn side(on: bool) -> &'static str {
    if on { "on_true" } else { "on_false" }
}

fn chosen_side(_: &State, inputs: &Inputs) -> Result<Vec<String>> {
    Ok(vec![side(inputs.bool("switch")?).to_owned()])
}

fn custom_combo(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let index = call.inputs.optional("index").cloned().unwrap_or(Value::Int(0));
    Ok(NodeOutput::values([call.inputs.value("choice")?.clone(), index]))
}

fn truths(call: &Call<'_, '_>) -> Result<Vec<bool>> {
    call.each("values", |call, name| truth(name, call.inputs.value(name)?))
}

/// Whether Python takes a value for true. It does so of objects, but not of arrays.
fn truth(name: &str, value: &Value) -> Result<bool> {
    Ok(match value {
        Value::Null | Value::Blocker(_) => false,
        Value::Bool(yes) => *yes,
        Value::Int(number) => *number != 0,
        Value::Float(number) => *number != 0.0,
        Value::Text(text) => !text.is_empty(),
        Value::Json(json) => json.as_array().map_or_else(|| json.as_object().is_none_or(|map| !map.is_empty()), |items| !items.is_empty()),
        Value::List(values) => !values.is_empty(),
        Value::Object(_) => {
            let array = value.downcast::<Image>().is_some() || value.downcast::<Mask>().is_some() || value.downcast::<Sigmas>().is_some();
            if array {
                let ty = value.type_name();
                return Err(Error::msg(format!(
                    "input '{name}' holds {ty}, which is neither true nor false: compare a number of it instead"
                )));
            }
            true
        }
    })
}
