//! Nodes of the menu `image`: new pictures, sizes, simple changes.

use comfyd_imaging::blend::{self, Paste};
use comfyd_imaging::transform::{self, Sides};
use comfyd_node::{HiddenKind, Input, NodeOutput, Result, Schema, Value};
use comfyd_values::Image;

use crate::class::{Call, Class, MAX_RESOLUTION};
use crate::latent::paste;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("EmptyImage")
                .display("Empty Image")
                .category("image")
                .description("Makes pictures of one colour.")
                .input(Input::int("width").default(512).min(1).max(MAX_RESOLUTION).step(1).tooltip("Pixels wide."))
                .input(Input::int("height").default(512).min(1).max(MAX_RESOLUTION).step(1).tooltip("Pixels high."))
                .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("How many pictures."))
                .input(
                    Input::int("color")
                        .default(0)
                        .min(0)
                        .max(0xFF_FFFF)
                        .step(1)
                        .option("display", "color")
                        .tooltip("The colour as 0xRRGGBB."),
                )
                .output("IMAGE")
        },
        empty_image,
    ),
    Class::new(
        || {
            Schema::new("ImageInvert")
                .display("Invert Image Colors")
                .category("image/color")
                .essentials("Image Tools")
                .description("Turns each colour into its opposite.")
                .input(Input::link("image", "IMAGE"))
                .output("IMAGE")
        },
        invert,
    ),
    Class::new(
        || {
            Schema::new("ImageAddNoise")
                .display("Add Noise to Image")
                .category("image/filters")
                .module("comfy_extras.nodes_images")
                .schema_generation()
                .description("Adds random noise to a picture; the same seed gives the same noise.")
                .aliases(["grain", "random"])
                .input(Input::link("image", "IMAGE"))
                .input(
                    Input::int("seed")
                        .default(0)
                        .min(0)
                        .max(u64::MAX)
                        .option("control_after_generate", true)
                        .tooltip("Decides which noise."),
                )
                .input(Input::float("strength").default(0.5).min(0.0).max(1.0).step(0.01).tooltip("How much noise."))
                .output("IMAGE")
        },
        add_noise,
    ),
    Class::new(
        || {
            Schema::new("GetImageSize")
                .display("Get Image Size")
                .category("image")
                .module("comfy_extras.nodes_images")
                .schema_generation()
                .description("Tells the width, the height and how many pictures the batch has.")
                .aliases(["width and height", "how many"])
                .input(Input::link("image", "IMAGE"))
                .hidden("unique_id", HiddenKind::UniqueId)
                .output_named("INT", "width")
                .output_named("INT", "height")
                .output_named("INT", "batch_size")
        },
        size,
    ),
    Class::new(
        || {
            Schema::new("ImagePadForOutpaint")
                .display("Pad Image for Outpainting")
                .category("image/transform")
                .description("Enlarges a picture with grey borders and gives the mask of what is to be painted there.")
                .aliases(["border", "larger canvas", "outpainting"])
                .input(Input::link("image", "IMAGE"))
                .input(Input::int("left").default(0).min(0).max(MAX_RESOLUTION).step(8).tooltip("Pixels to add on the left."))
                .input(Input::int("top").default(0).min(0).max(MAX_RESOLUTION).step(8).tooltip("Pixels to add above."))
                .input(Input::int("right").default(0).min(0).max(MAX_RESOLUTION).step(8).tooltip("Pixels to add on the right."))
                .input(Input::int("bottom").default(0).min(0).max(MAX_RESOLUTION).step(8).tooltip("Pixels to add below."))
                .input(
                    Input::int("feathering")
                        .default(40)
                        .min(0)
                        .max(MAX_RESOLUTION)
                        .step(1)
                        .tooltip("How far the mask fades into the old picture, in pixels.")
                        .advanced(),
                )
                .output("IMAGE")
                .output("MASK")
        },
        pad,
    ),
    Class::new(
        || {
            Schema::new("ImageCompositeMasked")
                .display("Image Composite Masked")
                .category("image/compositing")
                .module("comfy_extras.nodes_mask")
                .schema_generation()
                .description("Pastes one picture onto another, through a mask if there is one.")
                .aliases(["paste with mask", "collage", "put onto"])
                .input(Input::link("destination", "IMAGE"))
                .input(Input::link("source", "IMAGE"))
                .input(Input::int("x").default(0).min(0).max(MAX_RESOLUTION).step(1).tooltip("Distance from the left edge, in pixels."))
                .input(Input::int("y").default(0).min(0).max(MAX_RESOLUTION).step(1).tooltip("Distance from the top edge, in pixels."))
                .input(Input::bool("resize_source").default(false).tooltip("Stretches the source to the destination's size first."))
                .input(Input::link("mask", "MASK").optional())
                .output("IMAGE")
        },
        composite_masked,
    ),
];

fn empty_image(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (batch, height, width) = (call.count("batch_size", 1)?, call.count("height", 1)?, call.count("width", 1)?);
    call.reserve(&[batch, height, width, 3])?;
    let color = call.int::<u32>("color")?;
    Ok(NodeOutput::one(call.aside(batch * height * width, move || Image::solid(batch, height, width, color))?))
}

fn invert(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let image = call.image("image")?;
    Ok(NodeOutput::one(call.aside(image.0.len(), move || Image::new(image.0.mapv(|value| 1.0 - value)))?))
}

fn add_noise(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (seed, strength) = (call.int::<u64>("seed")?, call.float("strength")? as f32);
    let image = call.image("image")?;
    Ok(NodeOutput::one(call.apart(image.0.len(), move || Ok(transform::add_noise(&image, seed, strength)))?))
}

fn size(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let image = call.image("image")?;
    let (width, height, batch) = (image.width(), image.height(), image.batch());
    call.cx.text(&format!("width: {width}, height: {height}\n batch size: {batch}"));
    Ok(NodeOutput::values([width, height, batch].map(Value::from)))
}

fn pad(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let image = call.image("image")?;
    let [left, top, right, bottom] = ["left", "top", "right", "bottom"].map(|side| call.count(side, 0));
    let sides = Sides { left: left?, top: top?, right: right?, bottom: bottom? };
    let height = image.height().saturating_add(sides.top).saturating_add(sides.bottom);
    let width = image.width().saturating_add(sides.left).saturating_add(sides.right);
    call.reserve(&[image.batch(), height, width, image.channels()])?;
    let feathering = call.count("feathering", 0)?;
    let (image, mask) =
        call.apart(image.batch() * height * width * image.channels(), move || transform::pad_for_outpaint(&image, sides, feathering))?;
    Ok(NodeOutput::values([image.into(), mask.into()]))
}

fn composite_masked(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (destination, source) = (call.image("destination")?, call.image("source")?);
    let mask = call.mask_optional("mask")?;
    let Paste { x, y, resize_source, .. } = paste(call, None)?;
    if resize_source {
        call.reserve(&[source.batch(), destination.height(), destination.width(), destination.channels()])?;
    }
    let values = destination.0.len() + source.0.len();
    let paste = move || blend::paste(&destination, &source, &Paste { x, y, resize_source, mask: mask.as_ref() });
    Ok(NodeOutput::one(call.apart(values, paste)?))
}
