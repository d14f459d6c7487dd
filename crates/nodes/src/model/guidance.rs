//! Changes of the guidance.

use std::sync::Arc;

use comfyd_engine::{Conditioning, LatentFunction, Model};
use comfyd_node::{Error, Input, NodeOutput, Result, Schema, Value};
use comfyd_values::LatentOperation;
use ndarray::{ArcArray, IxDyn};

use crate::class::{Call, Class};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("RescaleCFG")
                .category("advanced/model")
                .module("comfy_extras.nodes_model_advanced")
                .description("Brings the contrast of guided predictions back to that of unguided ones.")
                .input(Input::link("model", "MODEL"))
                .input(Input::float("multiplier").default(0.7).min(0.0).max(1.0).step(0.01).tooltip("How strong the effect is."))
                .output("MODEL")
        },
        rescale_cfg,
    ),
    Class::new(
        || {
            Schema::new("PerpNeg")
                .display("Perp-Neg (DEPRECATED by PerpNegGuider)")
                .category("_for_testing")
                .module("comfy_extras.nodes_perpneg")
                .schema_generation()
                .deprecated()
                .experimental()
                .description("Takes from the negative prompt only what is perpendicular to the prompt. PerpNegGuider does it better.")
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(Input::link("empty_conditioning", "CONDITIONING").tooltip("The conditioning of an empty prompt."))
                .input(Input::float("neg_scale").default(1.0).min(0.0).max(100.0).step(0.01).tooltip("How strong the negative prompt is."))
                .output("MODEL")
        },
        perp_neg,
    ),
    Class::new(
        || {
            Schema::new("SelfAttentionGuidance")
                .display("Self-Attention Guidance")
                .category("_for_testing")
                .module("comfy_extras.nodes_sag")
                .schema_generation()
                .experimental()
                .description("Guides away from a prediction in which what the model attends to was blurred.")
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(Input::float("scale").default(0.5).min(-2.0).max(5.0).step(0.01).tooltip("How strong the effect is."))
                .input(Input::float("blur_sigma").default(2.0).min(0.0).max(10.0).step(0.1).tooltip("How far the picture is blurred."))
                .output("MODEL")
        },
        self_attention_guidance,
    ),
    Class::new(
        || {
            Schema::new("PerturbedAttentionGuidance")
                .no_display()
                .category("model_patches/unet")
                .module("comfy_extras.nodes_pag")
                .schema_generation()
                .description("Guides away from a prediction made without self-attention in the middle.")
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(Input::float("scale").default(3.0).min(0.0).max(100.0).step(0.01).round(0.01).tooltip("How strong the effect is."))
                .output("MODEL")
        },
        perturbed_attention_guidance,
    ),
    Class::new(
        || {
            Schema::new("Mahiro")
                .display("Mahiro is so cute that she deserves a better guidance function!! (。・ω・。)")
                .category("_for_testing")
                .module("comfy_extras.nodes_mahiro")
                .schema_generation()
                .experimental()
                .description("Guides by how alike the predictions with and without guidance are.")
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .output_named("MODEL", "patched_model")
        },
        mahiro,
    ),
    Class::new(
        || {
            Schema::new("APG")
                .display("Adaptive Projected Guidance")
                .category("sampling/custom_sampling")
                .module("comfy_extras.nodes_apg")
                .schema_generation()
                .description(
                    "Guides mostly along what is perpendicular to the prediction, with a bound and a memory (adaptive projected guidance).",
                )
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(Input::float("eta").default(1.0).min(-10.0).max(10.0).step(0.01).tooltip("How much fresh noise each step adds."))
                .input(
                    Input::float("norm_threshold")
                        .default(5.0)
                        .min(0.0)
                        .max(50.0)
                        .step(0.1)
                        .tooltip("Longest guidance allowed; 0 sets no bound."),
                )
                .input(
                    Input::float("momentum")
                        .default(0.0)
                        .min(-5.0)
                        .max(1.0)
                        .step(0.01)
                        .tooltip("Share of the guidance of the steps before."),
                )
                .output("MODEL")
        },
        apg,
    ),
    Class::new(
        || {
            Schema::new("CFGZeroStar")
                .no_display()
                .category("advanced/guidance")
                .module("comfy_extras.nodes_cfg")
                .schema_generation()
                .description("Scales the prediction without the prompt to fit the one with it before guiding (CFG-Zero*).")
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .output_named("MODEL", "patched_model")
        },
        cfg_zero_star,
    ),
    Class::new(
        || {
            Schema::new("CFGNorm")
                .no_display()
                .category("advanced/guidance")
                .module("comfy_extras.nodes_cfg")
                .schema_generation()
                .experimental()
                .description("Keeps guided predictions from growing longer than unguided ones.")
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(Input::float("strength").default(1.0).min(0.0).max(100.0).step(0.01).tooltip("How strong the effect is."))
                .output_named("MODEL", "patched_model")
        },
        cfg_norm,
    ),
    Class::new(
        || {
            Schema::new("TCFG")
                .display("Tangential Damping CFG")
                .category("advanced/guidance")
                .module("comfy_extras.nodes_tcfg")
                .schema_generation()
                .description(
                    "Damps the part of the prediction without the prompt that does not agree with the one with it (tangential damping).",
                )
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .output_named("MODEL", "patched_model")
        },
        tcfg,
    ),
    Class::new(
        || {
            Schema::new("FreSca")
                .category("_for_testing")
                .module("comfy_extras.nodes_fresca")
                .schema_generation()
                .experimental()
                .description("Guides low and high frequencies differently.")
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(Input::float("scale_low").default(1.0).min(0).max(10).step(0.01).tooltip("Factor of low frequencies."))
                .input(Input::float("scale_high").default(1.25).min(0).max(10).step(0.01).tooltip("Factor of high frequencies."))
                .input(Input::int("freq_cutoff").default(20).min(1).max(10000).step(1).tooltip("How many frequencies count as low."))
                .output("MODEL")
        },
        fresca,
    ),
    Class::new(
        || {
            Schema::new("Epsilon Scaling")
                .no_display()
                .category("model_patches/unet")
                .module("comfy_extras.nodes_eps")
                .schema_generation()
                .description("Scales the predicted noise down to counter exposure bias.")
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(
                    Input::float("scaling_factor")
                        .default(1.005)
                        .min(0.5)
                        .max(1.5)
                        .step(0.001)
                        .option("display", "number")
                        .tooltip("The divisor of the noise predicted."),
                )
                .output("MODEL")
        },
        epsilon_scaling,
    ),
    Class::new(
        || {
            Schema::new("LatentApplyOperationCFG")
                .no_display()
                .category("latent/advanced/operations")
                .module("comfy_extras.nodes_latent")
                .schema_generation()
                .experimental()
                .description("Applies an operation to the guidance of each step.")
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(Input::link("operation", "LATENT_OPERATION").tooltip("The operation."))
                .output("MODEL")
        },
        operation_cfg,
    ),
    Class::new(
        || {
            Schema::new("DifferentialDiffusion")
                .display("Differential Diffusion")
                .category("_for_testing")
                .module("comfy_extras.nodes_differential_diffusion")
                .schema_generation()
                .experimental()
                .description("Lets a grey mask decide from which step on each part may change.")
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(
                    Input::float("strength")
                        .default(1.0)
                        .min(0.0)
                        .max(1.0)
                        .step(0.01)
                        .tooltip("How far the mask is turned into steps: 0 keeps it as it is.")
                        .optional(),
                )
                .output("MODEL")
        },
        differential_diffusion,
    ),
    Class::new(
        || {
            Schema::new("RenormCFG")
                .no_display()
                .category("advanced/model")
                .module("comfy_extras.nodes_lumina2")
                .schema_generation()
                .description("Bounds the length of guided predictions, and guides only below a noise level.")
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(Input::float("cfg_trunc").default(100).min(0.0).max(100.0).step(0.01).tooltip("Guides below this noise level."))
                .input(
                    Input::float("renorm_cfg")
                        .default(1.0)
                        .min(0.0)
                        .max(100.0)
                        .step(0.01)
                        .tooltip("The longest guided prediction as a multiple of the one with the prompt; 0 sets no bound."),
                )
                .output("MODEL")
        },
        renorm_cfg,
    ),
    Class::new(
        || over_batch("VideoLinearCFGGuidance", "Lets guidance grow from the first latent of the batch to the last."),
        |call| {
            let min = call.float("min_cfg")?;
            change(call, |model| model.linear_cfg(min))
        },
    ),
    Class::new(
        || over_batch("VideoTriangleCFGGuidance", "Lets guidance grow to the middle of the batch and fall again."),
        |call| {
            let min = call.float("min_cfg")?;
            change(call, |model| model.triangle_cfg(min))
        },
    ),
];

/// A class whose guidance depends on the place in the batch.
fn over_batch(class: &str, description: &str) -> Schema {
    Schema::new(class)
        .category("sampling/video_models")
        .module("comfy_extras.nodes_video_model")
        .description(description)
        .input(Input::link("model", "MODEL"))
        .input(Input::float("min_cfg").default(1.0).min(0.0).max(100.0).step(0.5).round(0.01).tooltip("The weakest guidance."))
        .output("MODEL")
}

fn renorm_cfg(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (truncation, limit) = (call.float("cfg_trunc")?, call.float("renorm_cfg")?);
    change(call, |model| model.renorm_cfg(truncation, limit))
}

fn rescale_cfg(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let multiplier = call.float("multiplier")?;
    change(call, |model| model.rescale_cfg(multiplier))
}

fn perp_neg(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (empty, scale) = (call.object::<Conditioning>("empty_conditioning")?, call.float("neg_scale")?);
    change(call, |model| model.perp_neg(&empty, scale))
}

fn self_attention_guidance(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (scale, sigma) = (call.float("scale")?, call.float("blur_sigma")?);
    change(call, |model| model.self_attention_guidance(scale, sigma))
}

fn perturbed_attention_guidance(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let scale = call.float("scale")?;
    change(call, |model| model.perturbed_attention_guidance(scale))
}

fn mahiro(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    change(call, Model::mahiro)
}

fn apg(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (eta, threshold, momentum) = (call.float("eta")?, call.float("norm_threshold")?, call.float("momentum")?);
    change(call, |model| model.adaptive_projected_guidance(eta, threshold, momentum))
}

fn cfg_zero_star(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    change(call, Model::cfg_zero_star)
}

fn cfg_norm(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let strength = call.float("strength")?;
    change(call, |model| model.cfg_norm(strength))
}

fn tcfg(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    change(call, Model::tangential_damping)
}

fn fresca(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (low, high, cutoff) = (call.float("scale_low")?, call.float("scale_high")?, call.int("freq_cutoff")?);
    change(call, |model| model.fresca(low, high, cutoff))
}

fn epsilon_scaling(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let factor = call.float("scaling_factor")?;
    if factor == 0.0 {
        return Err(Error::msg("input 'scaling_factor' is 0; take a number near 1"));
    }
    change(call, |model| model.epsilon_scaling(factor))
}

fn operation_cfg(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let operation = call.object::<LatentOperation>("operation")?;
    let function: LatentFunction = Arc::new(move |shape: &[usize], samples: Vec<f32>| {
        let samples = ArcArray::from_shape_vec(IxDyn(shape), samples).map_err(Error::other)?;
        let done = operation.apply(&samples)?;
        if done.shape() != shape {
            return Err(Error::msg("the latent operation changed the shape of the latent; take one that keeps it"));
        }
        Ok(done.iter().copied().collect())
    });
    change(call, |model| model.latent_operation_cfg(function))
}

fn differential_diffusion(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let strength = call.inputs.optional("strength").map_or(Ok(1.0), |_| call.float("strength"))?;
    change(call, |model| model.differential_diffusion(strength))
}

fn change(call: &Call<'_, '_>, f: impl FnOnce(&Model) -> Model) -> Result<NodeOutput> {
    Ok(NodeOutput::one(Value::object(f(call.object::<Model>("model")?.as_ref()))))
}
