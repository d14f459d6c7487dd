//! Plain values.

use comfyd_node::{Input, NodeOutput, Result, Schema};

use crate::class::{Call, Class};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("PrimitiveString")
                .display("Text")
                .category("utilities/primitive")
                .module("comfy_extras.nodes_primitive")
                .schema_generation()
                .description("A text.")
                .aliases(["one line", "words"])
                .input(Input::text("value").tooltip("The text."))
                .output("STRING")
        },
        pass,
    ),
    Class::new(
        || {
            Schema::new("PrimitiveStringMultiline")
                .display("Text (Multiline)")
                .category("utilities/primitive")
                .essentials("Basics")
                .module("comfy_extras.nodes_primitive")
                .schema_generation()
                .description("A text of several lines.")
                .aliases(["paragraph", "words"])
                .input(Input::text("value").multiline().tooltip("The text."))
                .output("STRING")
        },
        pass,
    ),
    Class::new(
        || {
            Schema::new("PrimitiveInt")
                .display("Int")
                .category("utilities/primitive")
                .module("comfy_extras.nodes_primitive")
                .schema_generation()
                .description("A whole number.")
                .aliases(["whole number", "count"])
                .input(Input::int("value").min(-i64::MAX).max(i64::MAX).option("control_after_generate", "fixed").tooltip("The number."))
                .output("INT")
        },
        pass,
    ),
    Class::new(
        || {
            Schema::new("PrimitiveFloat")
                .display("Float")
                .category("utilities/primitive")
                .module("comfy_extras.nodes_primitive")
                .schema_generation()
                .description("A number.")
                .aliases(["decimal", "number"])
                .input(Input::float("value").min(-i64::MAX).max(i64::MAX).tooltip("The number.").step(0.1))
                .output("FLOAT")
        },
        pass,
    ),
    Class::new(
        || {
            Schema::new("PrimitiveBoolean")
                .display("Boolean")
                .category("utilities/primitive")
                .module("comfy_extras.nodes_primitive")
                .schema_generation()
                .description("Yes or no.")
                .aliases(["on and off", "toggle"])
                .input(Input::bool("value").tooltip("The answer."))
                .output("BOOLEAN")
        },
        pass,
    ),
];

fn pass(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    Ok(NodeOutput::one(call.inputs.value("value")?.clone()))
}
