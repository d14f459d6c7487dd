//! Three-dimensional models shown by the client.

use comfyd_folders::Kind;
use comfyd_node::{Input, NodeOutput, Result, Schema, Value};
use ndarray::{Axis, Slice};
use serde_json::{Value as Json, json};

use crate::class::{Call, Class};
use crate::saving;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("Preview3D")
                .display("Preview 3D & Animation")
                .category("3d")
                .module("comfy_extras.nodes_load_3d")
                .schema_generation()
                .experimental()
                .description("Shows a three-dimensional model of the output folder.")
                .aliases(["glb", "model viewer"])
                .input(
                    Input::text("model_file")
                        .default("")
                        .option("multiline", false)
                        .also("FILE_3D_GLB,FILE_3D_GLTF,FILE_3D_FBX,FILE_3D_OBJ,FILE_3D_STL,FILE_3D_USDZ,FILE_3D")
                        .tooltip("The model's file in the output folder."),
                )
                .input(Input::link("camera_info", "LOAD3D_CAMERA").tooltip("Where the camera stands.").optional().advanced())
                .input(Input::link("bg_image", "IMAGE").tooltip("What is shown behind it.").optional().advanced())
                .hidden_metadata()
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
                .input(Input::text("model_file").default("").tooltip("The model's file in the output folder."))
                .input(Input::link("camera_info", "LOAD3D_CAMERA").tooltip("Where the camera stands.").optional())
                .output_node()
        },
        preview,
    ),
];

fn preview(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let camera = call.inputs.optional("camera_info").map_or(Json::Null, Value::to_json);
    let background = if call.inputs.optional("bg_image").is_some() { behind(call)? } else { Json::Null };
    Ok(NodeOutput::default().with_ui("result", vec![call.text("model_file")?.into(), camera, background]))
}

/// Where clients find the picture that is shown behind a model.
fn behind(call: &Call<'_, '_>) -> Result<Json> {
    let mut image = call.image("bg_image")?;
    image.0.slice_axis_inplace(Axis(0), Slice::from(..1));
    let prefix = format!("bg_{}", call.state.preview_prefix);
    let saved = saving::save_png(call, &image, Kind::Temp, &prefix, saving::PREVIEW_COMPRESSION)?;
    let name = saved.ui.as_ref().and_then(|ui| ui.get("images")?.get(0)?.get("filename")?.as_str().map(str::to_owned));
    Ok(name.map_or(Json::Null, |name| json!(format!("temp/{name}"))))
}
