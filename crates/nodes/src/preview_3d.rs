//! Three-dimensional models shown by the client.

use comfyd_node::{Input, NodeOutput, Result, Schema, Value};

use crate::class::{Call, Class};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("Preview3D")
                .display("Preview 3D")
                .category("3d")
                .module("comfy_extras.nodes_load_3d")
                .experimental()
                .description("Shows a three-dimensional model of the output folder.")
                .input(Input::text("model_file").default("").option("multiline", false).tooltip("The model's file in the output folder."))
                .input(Input::link("camera_info", "LOAD3D_CAMERA").tooltip("Where the camera stands.").optional())
                .output_node()
        },
        preview,
    ),
    Class::new(
        || {
            Schema::new("Preview3DAnimation")
                .display("Preview 3D - Animation")
                .category("3d")
                .module("comfy_extras.nodes_load_3d")
                .experimental()
                .description("Shows a moving three-dimensional model of the output folder.")
                .input(Input::text("model_file").default("").option("multiline", false).tooltip("The model's file in the output folder."))
                .input(Input::link("camera_info", "LOAD3D_CAMERA").tooltip("Where the camera stands.").optional())
                .output_node()
        },
        preview,
    ),
];

fn preview(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let camera = call.inputs.optional("camera_info").map_or(serde_json::Value::Null, Value::to_json);
    Ok(NodeOutput::default().with_ui("result", vec![call.text("model_file")?.into(), camera]))
}
