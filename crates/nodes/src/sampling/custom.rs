//! Sampling from parts: guidance, noise, sampler, noise levels.

use comfyd_engine::{Conditioning, DualStyle, Guider, Model, Noise, Sampler};
use comfyd_node::{Input, NodeOutput, Result, Schema, Value};
use comfyd_values::Sigmas;

use crate::class::{Call, Class};
use crate::model::neg_scale;
use crate::tensors;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("SamplerCustom")
                .no_display()
                .category("model/sampling/custom")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Removes noise with a sampler and noise levels of your choice.")
                .input(Input::link("model", "MODEL"))
                .input(Input::bool("add_noise").default(true).tooltip("Whether noise is added before the first step.").advanced())
                .input(
                    Input::int("noise_seed")
                        .default(0)
                        .min(0)
                        .max(18446744073709551615u64)
                        .option("control_after_generate", true)
                        .tooltip("Where the random numbers start; the same seed gives the same noise."),
                )
                .input(
                    Input::float("cfg")
                        .default(8.0)
                        .min(0.0)
                        .max(100.0)
                        .step(0.1)
                        .round(0.01)
                        .tooltip("How strongly the prompt pulls against the negative prompt; 1 leaves the negative prompt out."),
                )
                .input(Input::link("positive", "CONDITIONING"))
                .input(Input::link("negative", "CONDITIONING"))
                .input(Input::link("sampler", "SAMPLER"))
                .input(Input::link("sigmas", "SIGMAS"))
                .input(Input::link("latent_image", "LATENT"))
                .output_named("LATENT", "output")
                .output_named("LATENT", "denoised_output")
        },
        custom,
    ),
    Class::new(
        || {
            Schema::new("SamplerCustomAdvanced")
                .no_display()
                .category("model/sampling/custom")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Removes noise with noise, guidance, sampler and noise levels of your choice.")
                .input(Input::link("noise", "NOISE"))
                .input(Input::link("guider", "GUIDER"))
                .input(Input::link("sampler", "SAMPLER"))
                .input(Input::link("sigmas", "SIGMAS"))
                .input(Input::link("latent_image", "LATENT"))
                .output_named("LATENT", "output")
                .output_named("LATENT", "denoised_output")
        },
        custom_advanced,
    ),
    Class::new(
        || {
            Schema::new("CFGGuider")
                .display("CFG Guider")
                .category("model/sampling/guiders")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Guidance between a prompt and a negative prompt.")
                .input(Input::link("model", "MODEL"))
                .input(Input::link("positive", "CONDITIONING"))
                .input(Input::link("negative", "CONDITIONING"))
                .input(
                    Input::float("cfg")
                        .default(8.0)
                        .min(0.0)
                        .max(100.0)
                        .step(0.1)
                        .round(0.01)
                        .tooltip("How strongly the prompt pulls against the negative prompt; 1 leaves the negative prompt out."),
                )
                .output("GUIDER")
        },
        cfg_guider,
    ),
    Class::new(
        || {
            Schema::new("DualCFGGuider")
                .display("Dual CFG Guider")
                .category("model/sampling/guiders")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Guidance by two prompts and a negative prompt.")
                .aliases(["two prompts", "instruct pix2pix"])
                .input(Input::link("model", "MODEL"))
                .input(Input::link("cond1", "CONDITIONING"))
                .input(Input::link("cond2", "CONDITIONING"))
                .input(Input::link("negative", "CONDITIONING"))
                .input(
                    Input::float("cfg_conds")
                        .default(8.0)
                        .min(0.0)
                        .max(100.0)
                        .step(0.1)
                        .round(0.01)
                        .tooltip("Strength between the two prompts."),
                )
                .input(
                    Input::float("cfg_cond2_negative")
                        .default(8.0)
                        .min(0.0)
                        .max(100.0)
                        .step(0.1)
                        .round(0.01)
                        .tooltip("Strength between the second prompt and the negative one."),
                )
                .input(Input::combo("style", ["regular", "nested"]))
                .output("GUIDER")
        },
        dual_cfg_guider,
    ),
    Class::new(
        || {
            Schema::new("BasicGuider")
                .display("Basic Guider")
                .category("model/sampling/guiders")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Runs the model with one prompt and no guidance.")
                .input(Input::link("model", "MODEL"))
                .input(Input::link("conditioning", "CONDITIONING"))
                .output("GUIDER")
        },
        basic_guider,
    ),
    Class::new(
        || {
            Schema::new("PerpNegGuider")
                .display("Perp-Neg Guider")
                .category("experimental")
                .module("comfy_extras.nodes_perpneg")
                .schema_generation()
                .experimental()
                .description("Guidance that takes from the negative prompt only what is perpendicular to the prompt (Perp-Neg).")
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(Input::link("positive", "CONDITIONING").tooltip("What the picture is to show."))
                .input(Input::link("negative", "CONDITIONING").tooltip("What the picture is not to show."))
                .input(Input::link("empty_conditioning", "CONDITIONING").tooltip("The conditioning of an empty prompt."))
                .input(
                    Input::float("cfg")
                        .default(8.0)
                        .min(0.0)
                        .max(100.0)
                        .step(0.1)
                        .round(0.01)
                        .tooltip("How strongly the prompt pulls against the negative prompt; 1 leaves the negative prompt out."),
                )
                .input(neg_scale())
                .output("GUIDER")
        },
        perp_neg_guider,
    ),
    Class::new(
        || {
            Schema::new("RandomNoise")
                .no_display()
                .category("model/sampling/noise")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Noise from a seed.")
                .input(
                    Input::int("noise_seed")
                        .default(0)
                        .min(0)
                        .max(18446744073709551615u64)
                        .option("control_after_generate", true)
                        .tooltip("Where the random numbers start; the same seed gives the same noise."),
                )
                .output("NOISE")
        },
        random_noise,
    ),
    Class::new(
        || {
            Schema::new("DisableNoise")
                .no_display()
                .category("model/sampling/noise")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("No noise.")
                .aliases(["without noise"])
                .output("NOISE")
        },
        disable_noise,
    ),
    Class::new(
        || {
            Schema::new("AddNoise")
                .no_display()
                .experimental()
                .category("model/sampling/noise")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Adds noise of the first noise level to latents.")
                .input(Input::link("model", "MODEL"))
                .input(Input::link("noise", "NOISE"))
                .input(Input::link("sigmas", "SIGMAS"))
                .input(Input::link("latent_image", "LATENT"))
                .output("LATENT")
        },
        add_noise,
    ),
];

fn custom(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let model = call.object::<Model>("model")?;
    let (positive, negative) = (call.object::<Conditioning>("positive")?, call.object::<Conditioning>("negative")?);
    let guider = Guider::cfg(&model, &positive, &negative, call.float("cfg")?);
    let seed = call.int("noise_seed")?;
    let noise = if call.bool("add_noise")? { Noise::Random(seed) } else { Noise::Disabled { seed } };
    sample(call, &guider, noise)
}

fn custom_advanced(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (guider, noise) = (call.object::<Guider>("guider")?, *call.object::<Noise>("noise")?);
    sample(call, &guider, noise)
}

fn sample(call: &Call<'_, '_>, guider: &Guider, noise: Noise) -> Result<NodeOutput> {
    let (sampler, sigmas) = (call.object::<Sampler>("sampler")?, call.object::<Sigmas>("sigmas")?);
    let latent = call.latent("latent_image")?;
    let input = tensors::latent(call, &latent, guider.model().latents())?;
    let sampled = call.engine().sample(call.cx, guider, noise, &sampler, &sigmas, &input)?;
    let output = tensors::sampled(call, &latent, &sampled.output)?;
    let denoised = tensors::sampled(call, &latent, &sampled.denoised)?;
    Ok(NodeOutput::values([Value::object(output), Value::object(denoised)]))
}

fn cfg_guider(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let model = call.object::<Model>("model")?;
    let (positive, negative) = (call.object::<Conditioning>("positive")?, call.object::<Conditioning>("negative")?);
    Ok(NodeOutput::one(Value::object(Guider::cfg(&model, &positive, &negative, call.float("cfg")?))))
}

fn dual_cfg_guider(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let model = call.object::<Model>("model")?;
    let (first, second) = (call.object::<Conditioning>("cond1")?, call.object::<Conditioning>("cond2")?);
    let negative = call.object::<Conditioning>("negative")?;
    let style = if call.text("style")? == "nested" { DualStyle::Nested } else { DualStyle::Regular };
    let (cfg_conds, cfg_negative) = (call.float("cfg_conds")?, call.float("cfg_cond2_negative")?);
    Ok(NodeOutput::one(Value::object(Guider::dual_cfg(&model, &first, &second, &negative, cfg_conds, cfg_negative, style))))
}

fn basic_guider(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (model, conditioning) = (call.object::<Model>("model")?, call.object::<Conditioning>("conditioning")?);
    Ok(NodeOutput::one(Value::object(Guider::basic(&model, &conditioning))))
}

fn perp_neg_guider(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let model = call.object::<Model>("model")?;
    let (positive, negative) = (call.object::<Conditioning>("positive")?, call.object::<Conditioning>("negative")?);
    let empty = call.object::<Conditioning>("empty_conditioning")?;
    let guider = Guider::perp_neg(&model, &positive, &negative, &empty, call.float("cfg")?, call.float("neg_scale")?);
    Ok(NodeOutput::one(Value::object(guider)))
}

fn random_noise(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    Ok(NodeOutput::one(Value::object(Noise::Random(call.int("noise_seed")?))))
}

fn disable_noise(_call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    Ok(NodeOutput::one(Value::object(Noise::Disabled { seed: 0 })))
}

fn add_noise(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (model, noise) = (call.object::<Model>("model")?, call.object::<Noise>("noise")?);
    let sigmas = call.object::<Sigmas>("sigmas")?;
    let latent = call.latent("latent_image")?;
    if sigmas.0.is_empty() {
        return Ok(NodeOutput::one(latent));
    }
    let input = tensors::latent(call, &latent, model.latents())?;
    let noisy = model.add_noise(&noise.generate(&input)?, &sigmas.0, &input.samples)?;
    Ok(NodeOutput::one(tensors::with_samples(call, &latent, &noisy)?))
}
