//! Two pictures side by side.

use comfyd_folders::Kind;
use comfyd_node::{Input, NodeOutput, Result, Schema};
use serde_json::Value as Json;

use crate::class::{Call, Class};
use crate::saving;

pub(crate) const CLASSES: &[Class] = &[Class::new(
    || {
        Schema::new("ImageCompare")
            .display("Compare Images")
            .category("image")
            .essentials("Image Tools")
            .module("comfy_extras.nodes_image_compare")
            .schema_generation()
            .experimental()
            .description("Shows two pictures over each other, with a slider between them.")
            .aliases(["before after", "difference", "slider"])
            .input(Input::link("image_a", "IMAGE").optional().tooltip("What is shown on one side."))
            .input(Input::link("image_b", "IMAGE").optional().tooltip("What is shown on the other side."))
            .input(Input::link("compare_view", "IMAGECOMPARE").socketless().tooltip("The view with the slider."))
            .hidden_metadata()
            .output_node()
    },
    compare,
)];

fn compare(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (a, b) = (side(call, "image_a", "a")?, side(call, "image_b", "b")?);
    Ok(NodeOutput::default().with_ui("a_images", a).with_ui("b_images", b))
}

/// Where the pictures of an input are, if there are any.
fn side(call: &Call<'_, '_>, name: &str, letter: &str) -> Result<Vec<Json>> {
    if call.inputs.optional(name).is_none() {
        return Ok(Vec::new());
    }
    let random = call.state.preview_prefix.trim_start_matches("ComfyUI");
    let saved =
        saving::save_png(call, &call.image(name)?, Kind::Temp, &format!("comfy.compare.{letter}{random}"), saving::PREVIEW_COMPRESSION)?;
    Ok(saved.ui.and_then(|mut ui| Some(ui.remove("images")?.as_array()?.clone())).unwrap_or_default())
}
