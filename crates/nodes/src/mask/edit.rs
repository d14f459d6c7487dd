//! Masks made and changed.

use comfyd_node::{Input, NodeOutput, Result, Schema};

use crate::class::{Call, Class, MAX_RESOLUTION};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("SolidMask")
                .category("mask")
                .module("comfy_extras.nodes_mask")
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
                .category("mask")
                .module("comfy_extras.nodes_mask")
                .description("Swaps what is masked and what is not.")
                .input(Input::link("mask", "MASK"))
                .output("MASK")
        },
        invert,
    ),
    Class::new(
        || {
            Schema::new("CropMask")
                .category("mask")
                .module("comfy_extras.nodes_mask")
                .description("Cuts a rectangle out of a mask.")
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
                .category("mask")
                .module("comfy_extras.nodes_mask")
                .description("Combines a mask with another one laid onto it.")
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
                .category("mask")
                .module("comfy_extras.nodes_mask")
                .description("Fades a mask out towards its edges.")
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
                .category("mask")
                .module("comfy_extras.nodes_mask")
                .description("Makes the masked area larger, or smaller with a negative number.")
                .input(Input::link("mask", "MASK"))
                .input(Input::int("expand").default(0).min(-MAX_RESOLUTION).max(MAX_RESOLUTION).step(1).tooltip("By how many pixels."))
                .input(Input::bool("tapered_corners").default(true).tooltip("Grows diagonally half as fast, so that corners become round."))
                .output("MASK")
        },
        grow,
    ),
    Class::new(
        || {
            Schema::new("ThresholdMask")
                .category("mask")
                .module("comfy_extras.nodes_mask")
                .description("Makes a mask hard: 1 above a value, 0 elsewhere.")
                .input(Input::link("mask", "MASK"))
                .input(Input::float("value").default(0.5).min(0.0).max(1.0).step(0.01).tooltip("The value to exceed."))
                .output("MASK")
        },
        threshold,
    ),
    Class::new(
        || {
            Schema::new("MaskPreview")
                .category("mask")
                .module("comfy_extras.nodes_mask")
                .description("Shows a mask as a grey picture without keeping it.")
                .input(Input::link("mask", "MASK"))
                .hidden_metadata()
                .output_node()
        },
        preview,
    ),
];
