//! Plain values.

use comfyd_node::{Input, NodeOutput, Result, Schema};

use crate::class::{Call, Class};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("PrimitiveString")
                .display("String")
                .category("utils/primitive")
                .module("comfy_extras.nodes_primitive")
                .schema_generation()
                .description("A text.")
                .input(Input::text("value").option("multiline", false).tooltip("The text."))
                .output("STRING")
        },
        pass,
    ),
    Class::new(
        || {
            Schema::new("PrimitiveStringMultiline")
                .display("String (Multiline)")
                .category("utils/primitive")
                .module("comfy_extras.nodes_primitive")
                .schema_generation()
                .description("A text of several lines.")
                .input(Input::text("value").multiline().tooltip("The text."))
                .output("STRING")
        },
        pass,
    ),
    Class::new(
        || {
            Schema::new("PrimitiveInt")
                .display("Int")
                .category("utils/primitive")
                .module("comfy_extras.nodes_primitive")
                .schema_generation()
                .description("A whole number.")
                .input(Input::int("value").min(-i64::MAX).max(i64::MAX).option("control_after_generate", true).tooltip("The number."))
                .output("INT")
        },
        pass,
    ),
    Class::new(
        || {
            Schema::new("PrimitiveFloat")
                .display("Float")
                .category("utils/primitive")
                .module("comfy_extras.nodes_primitive")
                .schema_generation()
                .description("A number.")
                .input(Input::float("value").min(-i64::MAX).max(i64::MAX).tooltip("The number."))
                .output("FLOAT")
        },
        pass,
    ),
    Class::new(
        || {
            Schema::new("PrimitiveBoolean")
                .display("Boolean")
                .category("utils/primitive")
                .module("comfy_extras.nodes_primitive")
                .schema_generation()
                .description("Yes or no.")
                .input(Input::bool("value").tooltip("The answer."))
                .output("BOOLEAN")
        },
        pass,
    ),
];

fn pass(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    Ok(NodeOutput::one(call.inputs.value("value")?.clone()))
}
