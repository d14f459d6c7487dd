//! Lists made of what nodes give.

use comfyd_node::{Grow, Input, NodeOutput, Output, Result, Schema, Value};

use crate::class::{Call, Class};

pub(crate) const CLASSES: &[Class] = &[Class::new(
    || {
        let member = Input::matching("input", "type", "*").tooltip("A value, or all values of a list.");
        Schema::new("CreateList")
            .display("Create List")
            .category("utilities")
            .module("comfy_extras.nodes_toolkit")
            .schema_generation()
            .description("Puts values into one list; nodes behind it run once for each of them.")
            .aliases(["for each", "loop", "iterate", "list of images"])
            .input(Input::grow("inputs", Grow::numbered(member, "input")))
            .input_is_list()
            .slot(Output { is_list: true, ..Output::matching("list", "type") })
    },
    create,
)];

fn create(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let parts = call.each("inputs", |call, name| Ok(call.inputs.list(name)?.to_vec()))?;
    Ok(NodeOutput::one(Value::list(parts.concat())))
}
