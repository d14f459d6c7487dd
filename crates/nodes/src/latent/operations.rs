//! Operations on latents, as values that can be handed on.

use comfyd_node::{Input, NodeOutput, Result, Schema};

use crate::class::{Call, Class, MAX_RESOLUTION};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("LatentApplyOperation")
                .no_display()
                .category("latent/advanced/operations")
                .module("comfy_extras.nodes_latent")
                .schema_generation()
                .experimental()
                .description("Applies an operation to latents.")
                .input(Input::link("samples", "LATENT").tooltip("The latents."))
                .input(Input::link("operation", "LATENT_OPERATION").tooltip("What to do with them."))
                .output("LATENT")
        },
        apply,
    ),
    Class::new(
        || {
            Schema::new("LatentOperationTonemapReinhard")
                .no_display()
                .category("latent/advanced/operations")
                .module("comfy_extras.nodes_latent")
                .schema_generation()
                .experimental()
                .description(
                    "An operation that tames too strong values (Reinhard's tone mapping of the latent vectors' \
                     lengths).",
                )
                .input(
                    Input::float("multiplier")
                        .default(1.0)
                        .min(0.0)
                        .max(100.0)
                        .step(0.01)
                        .tooltip("Higher lets more of the strong values pass."),
                )
                .output("LATENT_OPERATION")
        },
        tonemap,
    ),
    Class::new(
        || {
            Schema::new("LatentOperationSharpen")
                .no_display()
                .category("latent/advanced/operations")
                .module("comfy_extras.nodes_latent")
                .schema_generation()
                .experimental()
                .description("An operation that sharpens latents.")
                .input(Input::int("sharpen_radius").default(9).min(1).max(31).step(1).tooltip("Reach in latent pixels."))
                .input(Input::float("sigma").default(1.0).min(0.1).max(10.0).step(0.1).tooltip("Width of the bell, in parts of the reach."))
                .input(Input::float("alpha").default(0.1).min(0.0).max(5.0).step(0.01).tooltip("Strength."))
                .output("LATENT_OPERATION")
        },
        sharpen,
    ),
];
