//! Latents laid onto each other, and the mask that limits sampling.

use comfyd_node::{Input, NodeOutput, Result, Schema};

use crate::class::{Call, Class, MAX_RESOLUTION};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("LatentComposite")
                .display("Latent Composite")
                .category("latent")
                .description("Pastes one latent onto another, with soft edges if wanted.")
                .input(Input::link("samples_to", "LATENT"))
                .input(Input::link("samples_from", "LATENT"))
                .input(Input::int("x").default(0).min(0).max(MAX_RESOLUTION).step(8).tooltip("Distance from the left edge, in pixels."))
                .input(Input::int("y").default(0).min(0).max(MAX_RESOLUTION).step(8).tooltip("Distance from the top edge, in pixels."))
                .input(Input::int("feather").default(0).min(0).max(MAX_RESOLUTION).step(8).tooltip("Width of the soft edge, in pixels."))
                .output("LATENT")
        },
        composite,
    ),
    Class::new(
        || {
            Schema::new("LatentCompositeMasked")
                .category("latent")
                .module("comfy_extras.nodes_mask")
                .description("Pastes one latent onto another, through a mask if there is one.")
                .input(Input::link("destination", "LATENT"))
                .input(Input::link("source", "LATENT"))
                .input(Input::int("x").default(0).min(0).max(MAX_RESOLUTION).step(8).tooltip("Distance from the left edge, in pixels."))
                .input(Input::int("y").default(0).min(0).max(MAX_RESOLUTION).step(8).tooltip("Distance from the top edge, in pixels."))
                .input(Input::bool("resize_source").default(false).tooltip("Stretches the source to the destination's size first."))
                .input(Input::link("mask", "MASK").optional())
                .output("LATENT")
        },
        composite_masked,
    ),
    Class::new(
        || {
            Schema::new("LatentBlend")
                .display("Latent Blend")
                .category("_for_testing")
                .description("Mixes two latents.")
                .input(Input::link("samples1", "LATENT"))
                .input(Input::link("samples2", "LATENT"))
                .input(Input::float("blend_factor").default(0.5).min(0).max(1).step(0.01).tooltip("Share of the first one."))
                .output("LATENT")
        },
        blend,
    ),
    Class::new(
        || {
            Schema::new("SetLatentNoiseMask")
                .display("Set Latent Noise Mask")
                .category("latent/inpaint")
                .description("Limits sampling to the masked area: the rest stays as it is.")
                .input(Input::link("samples", "LATENT"))
                .input(Input::link("mask", "MASK"))
                .output("LATENT")
        },
        set_mask,
    ),
];
