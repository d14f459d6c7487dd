//! Changes of the guidance.

use std::sync::Arc;

use comfyd_engine::patches::{
    self, Apg, CfgNorm, CfgOverBatch, CfgOverride, CfgZeroStar, DifferentialDiffusion, EpsilonScaling, FreSca, Mahiro, ModelPatch, PerpNeg,
    PerturbedAttentionGuidance, RenormCfg, RescaleCfg, SelfAttentionGuidance, TangentialDamping,
};
use comfyd_engine::{Conditioning, Model, Tensor};
use comfyd_node::{Error, Input, NodeOutput, Result, Schema};
use comfyd_values::LatentOperation;

use crate::class::{Call, Class};
use crate::tensors;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("RescaleCFG")
                .category("model/patch")
                .module("comfy_extras.nodes_model_advanced")
                .description("Brings the contrast of guided predictions back to that of unguided ones.")
                .input(Input::link("model", "MODEL"))
                .input(Input::float("multiplier").default(0.7).min(0.0).max(1.0).step(0.01).tooltip("How strong the effect is."))
                .output("MODEL")
        },
        |call| call.patched(RescaleCfg { multiplier: call.float("multiplier")? }),
    ),
    Class::new(
        || {
            Schema::new("PerpNeg")
                .display("Perp-Neg (DEPRECATED by Perp-Neg Guider)")
                .category("experimental")
                .module("comfy_extras.nodes_perpneg")
                .schema_generation()
                .deprecated()
                .experimental()
                .description("Takes from the negative prompt only what is perpendicular to the prompt. PerpNegGuider does it better.")
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(Input::link("empty_conditioning", "CONDITIONING").tooltip("The conditioning of an empty prompt."))
                .input(neg_scale())
                .output("MODEL")
        },
        |call| {
            let empty = call.object::<Conditioning>("empty_conditioning")?.as_ref().clone();
            call.patched(PerpNeg { empty, neg_scale: call.float("neg_scale")? })
        },
    ),
    Class::new(
        || {
            Schema::new("SelfAttentionGuidance")
                .display("Self-Attention Guidance")
                .category("experimental")
                .module("comfy_extras.nodes_sag")
                .schema_generation()
                .experimental()
                .description("Guides away from a prediction in which what the model attends to was blurred.")
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(Input::float("scale").default(0.5).min(-2.0).max(5.0).step(0.01).tooltip("How strong the effect is."))
                .input(
                    Input::float("blur_sigma")
                        .default(2.0)
                        .min(0.0)
                        .max(10.0)
                        .step(0.1)
                        .tooltip("How far the picture is blurred.")
                        .advanced(),
                )
                .output("MODEL")
        },
        |call| call.patched(SelfAttentionGuidance::new(call.float("scale")?, call.float("blur_sigma")?)),
    ),
    Class::new(
        || {
            Schema::new("PerturbedAttentionGuidance")
                .no_display()
                .category("model/patch/unet")
                .module("comfy_extras.nodes_pag")
                .schema_generation()
                .description("Guides away from a prediction made without self-attention in the middle.")
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(Input::float("scale").default(3.0).min(0.0).max(100.0).step(0.01).round(0.01).tooltip("How strong the effect is."))
                .output("MODEL")
        },
        |call| call.patched(PerturbedAttentionGuidance { scale: call.float("scale")? }),
    ),
    Class::new(
        || {
            Schema::new("Mahiro")
                .display("Positive-Biased Guidance")
                .category("experimental")
                .module("comfy_extras.nodes_mahiro")
                .schema_generation()
                .experimental()
                .description("Guides by how alike the predictions with and without guidance are.")
                .aliases(["guidance by similarity"])
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .output_named("MODEL", "patched_model")
        },
        |call| call.patched(Mahiro),
    ),
    Class::new(
        || {
            Schema::new("APG")
                .display("Adaptive Projected Guidance")
                .category("model/sampling/custom")
                .module("comfy_extras.nodes_apg")
                .schema_generation()
                .description(
                    "Guides mostly along what is perpendicular to the prediction, with a bound and a memory (adaptive projected guidance).",
                )
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(
                    Input::float("eta")
                        .default(1.0)
                        .min(-10.0)
                        .max(10.0)
                        .step(0.01)
                        .tooltip("How much fresh noise each step adds.")
                        .advanced(),
                )
                .input(
                    Input::float("norm_threshold")
                        .default(5.0)
                        .min(0.0)
                        .max(50.0)
                        .step(0.1)
                        .tooltip("Longest guidance allowed; 0 sets no bound.")
                        .advanced(),
                )
                .input(
                    Input::float("momentum")
                        .default(0.0)
                        .min(-5.0)
                        .max(1.0)
                        .step(0.01)
                        .tooltip("Share of the guidance of the steps before.")
                        .advanced(),
                )
                .output("MODEL")
        },
        |call| call.patched(Apg::new(call.float("eta")?, call.float("norm_threshold")?, call.float("momentum")?)),
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
        |call| call.patched(CfgZeroStar),
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
                .input(
                    Input::bool("pre_cfg")
                        .default(false)
                        .optional()
                        .tooltip("Scales the noise that is taken away instead, also upwards, as models such as Lens want it."),
                )
                .output_named("MODEL", "patched_model")
        },
        |call| call.patched(CfgNorm { strength: call.float("strength")?, pre_cfg: call.bool_or("pre_cfg", false)? }),
    ),
    Class::new(
        || {
            let percent =
                |name: &str, default: f64, text: &str| Input::float(name).default(default).min(0.0).max(1.0).step(0.001).tooltip(text);
            Schema::new("CFGOverride")
                .display("CFG Override")
                .category("model/sampling/guiders")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Another strength of guidance for a part of the sampling. Of several, the one nearest to the sampler counts.")
                .aliases(["cfg schedule", "guidance interval", "limit guidance"])
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(Input::float("cfg").default(1.0).min(0.0).max(100.0).step(0.1).round(0.01).tooltip("The strength there."))
                .input(percent("start_percent", 0.0, "Where the part begins: 0 is the begin of the sampling."))
                .input(percent("end_percent", 1.0, "Where the part ends: 1 is the end of the sampling."))
                .output("MODEL")
        },
        |call| {
            let model = call.object::<Model>("model")?;
            let sigma = |percent: f64| model.schedule().percent_to_sigma(percent);
            let (highest, lowest) = (sigma(call.float("start_percent")?), sigma(call.float("end_percent")?));
            call.patched(CfgOverride { cfg: call.float("cfg")?, highest, lowest })
        },
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
        |call| call.patched(TangentialDamping),
    ),
    Class::new(
        || {
            Schema::new("FreSca")
                .category("experimental")
                .module("comfy_extras.nodes_fresca")
                .schema_generation()
                .experimental()
                .description("Guides low and high frequencies differently.")
                .aliases(["low and high frequencies"])
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(Input::float("scale_low").default(1.0).min(0).max(10).step(0.01).tooltip("Factor of low frequencies.").advanced())
                .input(Input::float("scale_high").default(1.25).min(0).max(10).step(0.01).tooltip("Factor of high frequencies.").advanced())
                .input(
                    Input::int("freq_cutoff")
                        .default(20)
                        .min(1)
                        .max(10000)
                        .step(1)
                        .tooltip("How many frequencies count as low.")
                        .advanced(),
                )
                .output("MODEL")
        },
        |call| {
            let (low, high) = (call.float("scale_low")?, call.float("scale_high")?);
            call.patched(FreSca { low, high, cutoff: call.int("freq_cutoff")? })
        },
    ),
    Class::new(
        || {
            Schema::new("Epsilon Scaling")
                .no_display()
                .category("model/patch/unet")
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
                        .tooltip("The divisor of the noise predicted.")
                        .advanced(),
                )
                .output("MODEL")
        },
        epsilon_scaling,
    ),
    Class::new(
        || {
            Schema::new("LatentApplyOperationCFG")
                .no_display()
                .category("model/latent/advanced/operations")
                .module("comfy_extras.nodes_latent")
                .schema_generation()
                .experimental()
                .description("Applies an operation to the guidance of each step.")
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(Input::link("operation", "LATENT_OPERATION").tooltip("The operation."))
                .output("MODEL")
        },
        |call| call.patched(OperationCfg(call.object::<LatentOperation>("operation")?)),
    ),
    Class::new(
        || {
            Schema::new("DifferentialDiffusion")
                .display("Differential Diffusion")
                .category("experimental")
                .module("comfy_extras.nodes_differential_diffusion")
                .schema_generation()
                .experimental()
                .description("Lets a grey mask decide from which step on each part may change.")
                .aliases(["soft inpainting", "how much changes"])
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
        |call| {
            let strength = call.inputs.optional("strength").map_or(Ok(1.0), |_| call.float("strength"))?;
            call.patched(DifferentialDiffusion { strength })
        },
    ),
    Class::new(
        || {
            Schema::new("RenormCFG")
                .no_display()
                .category("model/patch")
                .module("comfy_extras.nodes_lumina2")
                .schema_generation()
                .description("Bounds the length of guided predictions, and guides only below a noise level.")
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(
                    Input::float("cfg_trunc")
                        .default(100)
                        .min(0.0)
                        .max(100.0)
                        .step(0.01)
                        .tooltip("Guides below this noise level.")
                        .advanced(),
                )
                .input(
                    Input::float("renorm_cfg")
                        .default(1.0)
                        .min(0.0)
                        .max(100.0)
                        .step(0.01)
                        .tooltip("The longest guided prediction as a multiple of the one with the prompt; 0 sets no bound.")
                        .advanced(),
                )
                .output("MODEL")
        },
        |call| call.patched(RenormCfg { truncation: call.float("cfg_trunc")?, limit: call.float("renorm_cfg")? }),
    ),
    Class::new(
        || {
            over_batch(
                "VideoLinearCFGGuidance",
                "Video Linear CFG Guidance",
                "Lets guidance grow from the first latent of the batch to the last.",
            )
        },
        |call| call.patched(CfgOverBatch { min: call.float("min_cfg")?, triangle: false }),
    ),
    Class::new(
        || {
            over_batch(
                "VideoTriangleCFGGuidance",
                "Video Triangle CFG Guidance",
                "Lets guidance grow to the middle of the batch and fall again.",
            )
        },
        |call| call.patched(CfgOverBatch { min: call.float("min_cfg")?, triangle: true }),
    ),
];

/// How much the negative prompt counts where guidance is perpendicular to it.
pub(crate) fn neg_scale() -> Input {
    Input::float("neg_scale").default(1.0).min(0.0).max(100.0).step(0.01).tooltip("How strong the negative prompt is.").advanced()
}

/// A class whose guidance depends on the place in the batch.
fn over_batch(class: &str, display: &str, description: &str) -> Schema {
    Schema::new(class)
        .display(display)
        .category("model/sampling/guiders")
        .module("comfy_extras.nodes_video_model")
        .description(description)
        .input(Input::link("model", "MODEL"))
        .input(Input::float("min_cfg").default(1.0).min(0.0).max(100.0).step(0.5).round(0.01).tooltip("The weakest guidance.").advanced())
        .output("MODEL")
}

fn epsilon_scaling(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let factor = call.float("scaling_factor")?;
    if factor == 0.0 {
        return Err(Error::msg("input 'scaling_factor' is 0; take a number near 1"));
    }
    call.patched(EpsilonScaling { factor })
}

/// Applies an operation to the guidance, or to the one prediction where there is no negative prompt.
#[derive(Clone)]
struct OperationCfg(Arc<LatentOperation>);

impl ModelPatch for OperationCfg {
    fn before(&mut self, _call: &patches::Call<'_>, predictions: &mut [Tensor]) -> comfyd_engine::Result<()> {
        let guidance = if predictions.len() == 2 { (&predictions[0] - &predictions[1])? } else { predictions[0].clone() };
        let samples = tensors::array_of(&guidance)?;
        let done = self.0.apply(&samples)?;
        if done.shape() != samples.shape() {
            return Err(Error::msg("the latent operation changed the shape of the latent; take one that keeps it").into());
        }
        let changed = tensors::copied(&done)?.to_device(guidance.device())?;
        predictions[0] = if predictions.len() == 2 { (changed + &predictions[1])? } else { changed };
        Ok(())
    }
}
