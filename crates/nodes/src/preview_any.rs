//! Any value shown as text.

use comfyd_node::{Input, NodeOutput, Result, Schema};

use crate::class::{Call, Class};
use crate::python;

pub(crate) const CLASSES: &[Class] = &[Class::new(
    || {
        Schema::new("PreviewAny")
            .display("Preview as Text")
            .category("utilities")
            .module("comfy_extras.nodes_preview_any")
            .description("Shows any value as text.")
            .aliases(["what is in it", "log", "json"])
            .input(Input::link("source", "*").tooltip("What to show."))
            .output("STRING")
            .output_node()
    },
    preview,
)];

fn preview(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let text = call.inputs.optional("source").map_or_else(|| "None".into(), python::shown);
    Ok(NodeOutput::one(text.as_str()).with_ui("text", vec![text.into()]))
}
