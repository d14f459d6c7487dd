//! Between masks and pictures.

use comfyd_imaging::mask;
use comfyd_node::{Input, NodeOutput, Result, Schema};
use comfyd_values::{Image, Mask};

use crate::class::{Call, Class, unknown_choice};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("MaskToImage")
                .display("Convert Mask to Image")
                .category("image/mask")
                .module("comfy_extras.nodes_mask")
                .schema_generation()
                .description("Shows a mask as a grey picture.")
                .aliases(["mask as picture"])
                .input(Input::link("mask", "MASK"))
                .output("IMAGE")
        },
        to_image,
    ),
    Class::new(
        || {
            Schema::new("ImageToMask")
                .display("Convert Image to Mask")
                .category("image/mask")
                .module("comfy_extras.nodes_mask")
                .schema_generation()
                .description("Takes one channel of a picture as a mask.")
                .aliases(["red", "green", "blue", "alpha"])
                .input(Input::link("image", "IMAGE"))
                .input(Input::combo("channel", ["red", "green", "blue", "alpha"]))
                .output("MASK")
        },
        from_image,
    ),
    Class::new(
        || {
            Schema::new("ImageColorToMask")
                .display("Convert Image Color to Mask")
                .category("image/mask")
                .module("comfy_extras.nodes_mask")
                .schema_generation()
                .description("Masks the pixels that have exactly one colour.")
                .aliases(["pick a colour", "green screen"])
                .input(Input::link("image", "IMAGE"))
                .input(
                    Input::int("color")
                        .default(0)
                        .min(0)
                        .max(0xFF_FFFF)
                        .step(1)
                        .option("display", "number")
                        .tooltip("The colour as 0xRRGGBB."),
                )
                .output("MASK")
        },
        from_color,
    ),
];

fn to_image(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    Ok(NodeOutput::one(grey(call, &call.mask("mask")?)?))
}

/// A mask as pictures with three equal channels.
pub(crate) fn grey(call: &Call<'_, '_>, mask: &Mask) -> Result<Image> {
    call.reserve(&[mask.batch(), mask.height(), mask.width(), 3])?;
    let mask = mask.clone();
    call.aside(mask.0.len(), move || mask::to_image(&mask))
}

fn from_image(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let channel = match call.text("channel")? {
        "red" => 0,
        "green" => 1,
        "blue" => 2,
        "alpha" => 3,
        other => return Err(unknown_choice("channel", other)),
    };
    let image = call.image("image")?;
    Ok(NodeOutput::one(call.apart(image.0.len(), move || mask::from_channel(&image, channel))?))
}

fn from_color(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (image, color) = (call.image("image")?, call.int("color")?);
    Ok(NodeOutput::one(call.apart(image.0.len(), move || mask::from_color(&image, color))?))
}
