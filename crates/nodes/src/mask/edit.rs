//! Masks made and changed.

use comfyd_folders::Kind;
use comfyd_imaging::mask;
use comfyd_node::{Error, Input, NodeOutput, Result, Schema};
use comfyd_values::Mask;

use crate::class::{Call, Class, MAX_RESOLUTION};
use crate::mask::convert::grey;
use crate::saving;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("SolidMask")
                .display("Create Solid Mask")
                .category("image/mask")
                .module("comfy_extras.nodes_mask")
                .schema_generation()
                .description("Makes a mask with the same value everywhere.")
                .input(Input::float("value").default(1.0).min(0.0).max(1.0).step(0.01).tooltip("1 masks all, 0 nothing."))
                .input(Input::int("width").default(512).min(1).max(MAX_RESOLUTION).step(1).tooltip("Pixels wide."))
                .input(Input::int("height").default(512).min(1).max(MAX_RESOLUTION).step(1).tooltip("Pixels high."))
                .output("MASK")
        },
        solid,
    ),
    Class::new(
        || {
            Schema::new("InvertMask")
                .display("Invert Mask")
                .category("image/mask")
                .module("comfy_extras.nodes_mask")
                .schema_generation()
                .description("Swaps what is masked and what is not.")
                .aliases(["inside out", "opposite"])
                .input(Input::link("mask", "MASK"))
                .output("MASK")
        },
        invert,
    ),
    Class::new(
        || {
            Schema::new("CropMask")
                .display("Crop Mask")
                .category("image/mask")
                .module("comfy_extras.nodes_mask")
                .schema_generation()
                .description("Cuts a rectangle out of a mask.")
                .aliases(["part of a mask"])
                .input(Input::link("mask", "MASK"))
                .input(Input::int("x").default(0).min(0).max(MAX_RESOLUTION).step(1).tooltip("Distance from the left edge, in pixels."))
                .input(Input::int("y").default(0).min(0).max(MAX_RESOLUTION).step(1).tooltip("Distance from the top edge, in pixels."))
                .input(Input::int("width").default(512).min(1).max(MAX_RESOLUTION).step(1).tooltip("Pixels wide."))
                .input(Input::int("height").default(512).min(1).max(MAX_RESOLUTION).step(1).tooltip("Pixels high."))
                .output("MASK")
        },
        crop,
    ),
    Class::new(
        || {
            Schema::new("MaskComposite")
                .display("Combine Masks")
                .category("image/mask")
                .module("comfy_extras.nodes_mask")
                .schema_generation()
                .description("Combines a mask with another one laid onto it.")
                .aliases(["union", "intersection", "add", "subtract"])
                .input(Input::link("destination", "MASK"))
                .input(Input::link("source", "MASK"))
                .input(Input::int("x").default(0).min(0).max(MAX_RESOLUTION).step(1).tooltip("Distance from the left edge, in pixels."))
                .input(Input::int("y").default(0).min(0).max(MAX_RESOLUTION).step(1).tooltip("Distance from the top edge, in pixels."))
                .input(Input::combo("operation", ["multiply", "add", "subtract", "and", "or", "xor"]))
                .output("MASK")
        },
        composite,
    ),
    Class::new(
        || {
            Schema::new("FeatherMask")
                .display("Feather Mask")
                .category("image/mask")
                .module("comfy_extras.nodes_mask")
                .schema_generation()
                .description("Fades a mask out towards its edges.")
                .aliases(["soft border", "fade out"])
                .input(Input::link("mask", "MASK"))
                .input(Input::int("left").default(0).min(0).max(MAX_RESOLUTION).step(1).tooltip("Pixels at the left edge."))
                .input(Input::int("top").default(0).min(0).max(MAX_RESOLUTION).step(1).tooltip("Pixels at the upper edge."))
                .input(Input::int("right").default(0).min(0).max(MAX_RESOLUTION).step(1).tooltip("Pixels at the right edge."))
                .input(Input::int("bottom").default(0).min(0).max(MAX_RESOLUTION).step(1).tooltip("Pixels at the lower edge."))
                .output("MASK")
        },
        feather,
    ),
    Class::new(
        || {
            Schema::new("GrowMask")
                .display("Grow Mask")
                .category("image/mask")
                .module("comfy_extras.nodes_mask")
                .schema_generation()
                .description("Makes the masked area larger, or smaller with a negative number.")
                .aliases(["larger", "smaller", "dilate", "erode"])
                .input(Input::link("mask", "MASK"))
                .input(Input::int("expand").default(0).min(-MAX_RESOLUTION).max(MAX_RESOLUTION).step(1).tooltip("By how many pixels."))
                .input(
                    Input::bool("tapered_corners")
                        .default(true)
                        .tooltip("Grows diagonally half as fast, so that corners become round.")
                        .advanced(),
                )
                .output("MASK")
        },
        grow,
    ),
    Class::new(
        || {
            Schema::new("ThresholdMask")
                .display("Threshold Mask")
                .category("image/mask")
                .module("comfy_extras.nodes_mask")
                .schema_generation()
                .description("Makes a mask hard: 1 above a value, 0 elsewhere.")
                .aliases(["black and white", "cut off"])
                .input(Input::link("mask", "MASK"))
                .input(Input::float("value").default(0.5).min(0.0).max(1.0).step(0.01).tooltip("The value to exceed."))
                .output("MASK")
        },
        threshold,
    ),
    Class::new(
        || {
            Schema::new("MaskPreview")
                .display("Preview Mask")
                .category("image/mask")
                .module("comfy_extras.nodes_mask")
                .schema_generation()
                .description("Shows a mask as a grey picture without keeping it.")
                .aliases(["look at a mask"])
                .input(Input::link("mask", "MASK"))
                .hidden_metadata()
                .output_named("MASK", "mask")
                .output_node()
        },
        preview,
    ),
];

fn solid(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (width, height) = (call.count("width", 1)?, call.count("height", 1)?);
    call.reserve(&[height, width])?;
    let value = call.float("value")? as f32;
    Ok(NodeOutput::one(call.aside(height * width, move || Mask::solid(1, height, width, value))?))
}

fn invert(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mask = call.mask("mask")?;
    Ok(NodeOutput::one(call.aside(mask.0.len(), move || mask::invert(&mask))?))
}

fn crop(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (x, y) = (call.count("x", 0)?, call.count("y", 0)?);
    let (width, height) = (call.count("width", 1)?, call.count("height", 1)?);
    let mask = call.mask("mask")?;
    Ok(NodeOutput::one(call.apart(mask.0.len(), move || mask::crop(&mask, x, y, width, height))?))
}

fn composite(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (destination, source) = (call.mask("destination")?, call.mask("source")?);
    let operation: mask::Operation = call.text("operation")?.parse().map_err(Error::other)?;
    let (x, y) = (call.count("x", 0)?, call.count("y", 0)?);
    let values = destination.0.len() + source.0.len();
    Ok(NodeOutput::one(call.apart(values, move || mask::combine(&destination, &source, x, y, operation))?))
}

fn feather(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mask = call.mask("mask")?;
    let [left, top, right, bottom] = ["left", "top", "right", "bottom"].map(|side| call.count(side, 0));
    let (left, top, right, bottom) = (left?, top?, right?, bottom?);
    Ok(NodeOutput::one(call.aside(mask.0.len(), move || mask::feather(&mask, left, top, right, bottom))?))
}

fn grow(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mask = call.mask("mask")?;
    let expand = call.int::<i64>("expand")?.clamp(-MAX_RESOLUTION, MAX_RESOLUTION);
    let (tapered, cancel) = (call.bool("tapered_corners")?, call.cx.cancel_token().clone());
    let grow = move |one| mask::grow(&Mask(one), expand, tapered, &|| cancel.is_cancelled()).map(|grown| grown.0);
    Ok(NodeOutput::one(Mask(call.one_by_one(&mask.0, grow)?)))
}

fn threshold(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (mask, value) = (call.mask("mask")?, call.float("value")? as f32);
    Ok(NodeOutput::one(call.aside(mask.0.len(), move || mask::threshold(&mask, value))?))
}

fn preview(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mask = call.mask("mask")?;
    let image = grey(call, &mask)?;
    let saved = saving::save_png(call, &image, Kind::Temp, &call.state.preview_prefix, saving::SAVE_COMPRESSION)?;
    Ok(NodeOutput { ui: saved.ui, ..NodeOutput::one(mask) })
}
