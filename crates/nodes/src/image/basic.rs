//! Nodes of the menu `image`: new pictures, sizes, simple changes.

use comfyd_node::{Input, NodeOutput, Result, Schema};

use crate::class::{Call, Class, MAX_RESOLUTION};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("EmptyImage")
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
                .display("Invert Image")
                .category("image")
                .description("Turns each colour into its opposite.")
                .input(Input::link("image", "IMAGE"))
                .output("IMAGE")
        },
        invert,
    ),
    Class::new(
        || {
            Schema::new("ImageAddNoise")
                .category("image")
                .module("comfy_extras.nodes_images")
                .description("Adds random noise to a picture; the same seed gives the same noise.")
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
                .description("Tells the width, the height and how many pictures the batch has.")
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
                .category("image")
                .description("Enlarges a picture with grey borders and gives the mask of what is to be painted there.")
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
                        .tooltip("How far the mask fades into the old picture, in pixels."),
                )
                .output("IMAGE")
                .output("MASK")
        },
        pad,
    ),
    Class::new(
        || {
            Schema::new("ImageCompositeMasked")
                .category("image")
                .module("comfy_extras.nodes_mask")
                .description("Pastes one picture onto another, through a mask if there is one.")
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
