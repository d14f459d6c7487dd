//! The sampling nodes that do all in one.

use comfyd_engine::{Conditioning, KSampler, Model};
use comfyd_node::{Input, NodeOutput, Result, Schema};
use comfyd_samplers::{NAMES as SAMPLERS, scheduler::NAMES as SCHEDULERS};

use crate::class::{Call, Class};
use crate::tensors;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("KSampler")
                .category("model/sampling")
                .description("Removes noise from a latent step by step, guided by the prompts.")
                .aliases(["make picture", "run model", "text to image", "image to image"])
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(
                    Input::int("seed")
                        .default(0)
                        .min(0)
                        .max(18446744073709551615u64)
                        .option("control_after_generate", true)
                        .tooltip("Where the random numbers start; the same seed gives the same noise."),
                )
                .input(Input::int("steps").default(20).min(1).max(10000).tooltip("How many noise levels the way is divided into."))
                .input(
                    Input::float("cfg")
                        .default(8.0)
                        .min(0.0)
                        .max(100.0)
                        .step(0.1)
                        .round(0.01)
                        .tooltip("How strongly the prompt pulls against the negative prompt; 1 leaves the negative prompt out."),
                )
                .input(Input::combo("sampler_name", SAMPLERS).tooltip("The method that takes the steps."))
                .input(Input::combo("scheduler", SCHEDULERS).tooltip("How the noise levels are spread over the steps."))
                .input(Input::link("positive", "CONDITIONING").tooltip("What the picture is to show."))
                .input(Input::link("negative", "CONDITIONING").tooltip("What the picture is not to show."))
                .input(Input::link("latent_image", "LATENT").tooltip("The latent to start from."))
                .input(
                    Input::float("denoise")
                        .default(1.0)
                        .min(0.0)
                        .max(1.0)
                        .step(0.01)
                        .tooltip("The part of the noise levels that is run, counted from the end; below 1 keeps some of the input."),
                )
                .output("LATENT")
        },
        ksampler,
    ),
    Class::new(
        || {
            Schema::new("KSamplerAdvanced")
                .display("KSampler (Advanced)")
                .category("model/sampling")
                .description("Removes noise like KSampler, with the steps to start and to end at.")
                .aliases(["start step", "end step", "two passes", "hires fix"])
                .input(Input::link("model", "MODEL"))
                .input(Input::combo("add_noise", ["enable", "disable"]).advanced())
                .input(
                    Input::int("noise_seed")
                        .default(0)
                        .min(0)
                        .max(18446744073709551615u64)
                        .option("control_after_generate", true)
                        .tooltip("Where the random numbers start; the same seed gives the same noise."),
                )
                .input(Input::int("steps").default(20).min(1).max(10000).tooltip("How many noise levels the way is divided into."))
                .input(
                    Input::float("cfg")
                        .default(8.0)
                        .min(0.0)
                        .max(100.0)
                        .step(0.1)
                        .round(0.01)
                        .tooltip("How strongly the prompt pulls against the negative prompt; 1 leaves the negative prompt out."),
                )
                .input(Input::combo("sampler_name", SAMPLERS))
                .input(Input::combo("scheduler", SCHEDULERS))
                .input(Input::link("positive", "CONDITIONING"))
                .input(Input::link("negative", "CONDITIONING"))
                .input(Input::link("latent_image", "LATENT"))
                .input(Input::int("start_at_step").default(0).min(0).max(10000).tooltip("The first step that is taken.").advanced())
                .input(Input::int("end_at_step").default(10000).min(0).max(10000).tooltip("The step before which to stop.").advanced())
                .input(Input::combo("return_with_leftover_noise", ["disable", "enable"]).advanced())
                .output("LATENT")
        },
        ksampler_advanced,
    ),
];

fn ksampler(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let settings = KSampler { seed: call.int("seed")?, denoise: call.float("denoise")?, ..common(call)? };
    sample(call, &settings)
}

fn ksampler_advanced(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let settings = KSampler {
        seed: call.int("noise_seed")?,
        disable_noise: call.text("add_noise")? == "disable",
        start_step: Some(call.int("start_at_step")?),
        last_step: Some(call.int("end_at_step")?),
        force_full_denoise: call.text("return_with_leftover_noise")? != "enable",
        ..common(call)?
    };
    sample(call, &settings)
}

/// What both nodes are told; the rest is what samples all steps.
fn common(call: &Call<'_, '_>) -> Result<KSampler> {
    Ok(KSampler {
        seed: 0,
        steps: call.count("steps", 1)?,
        cfg: call.float("cfg")?,
        sampler: call.text("sampler_name")?.to_owned(),
        scheduler: call.text("scheduler")?.to_owned(),
        denoise: 1.0,
        disable_noise: false,
        start_step: None,
        last_step: None,
        force_full_denoise: false,
    })
}

fn sample(call: &Call<'_, '_>, settings: &KSampler) -> Result<NodeOutput> {
    let model = call.object::<Model>("model")?;
    let (positive, negative) = (call.object::<Conditioning>("positive")?, call.object::<Conditioning>("negative")?);
    let latent = call.latent("latent_image")?;
    let input = tensors::latent(call, &latent, model.latents())?;
    let samples = call.engine().ksampler(call.cx, &model, &positive, &negative, &input, settings)?;
    Ok(NodeOutput::one(tensors::sampled(call, &latent, &samples)?))
}
