//! Between masks and pictures.

use comfyd_node::{Input, NodeOutput, Result, Schema};

use crate::class::{Call, Class, MAX_RESOLUTION};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("MaskToImage")
                .display("Convert Mask to Image")
                .category("mask")
                .module("comfy_extras.nodes_mask")
                .description("Shows a mask as a grey picture.")
                .input(Input::link("mask", "MASK"))
                .output("IMAGE")
        },
        to_image,
    ),
    Class::new(
        || {
            Schema::new("ImageToMask")
                .display("Convert Image to Mask")
                .category("mask")
                .module("comfy_extras.nodes_mask")
                .description("Takes one channel of a picture as a mask.")
                .input(Input::link("image", "IMAGE"))
                .input(Input::combo("channel", ["red", "green", "blue", "alpha"]))
                .output("MASK")
        },
        from_image,
    ),
    Class::new(
        || {
            Schema::new("ImageColorToMask")
                .category("mask")
                .module("comfy_extras.nodes_mask")
                .description("Masks the pixels that have exactly one colour.")
                .input(Input::link("image", "IMAGE"))
                .input(
                    Input::int("color")
                        .default(0)
                        .min(0)
                        .max(0xFF_FFFF)
                        .step(1)
                        .option("display", "color")
                        .tooltip("The colour as 0xRRGGBB."),
                )
                .output("MASK")
        },
        from_color,
    ),
];
