//! What a model predicts and which noise levels it has.

use std::sync::Arc;

use comfyd_engine::{Model, PLAYGROUND_LATENTS};
use comfyd_node::{Error, Input, NodeOutput, Result, Schema, Value};
use comfyd_samplers::schedule::{
    Cascade, Continuous, ContinuousSettings, Discrete, DiscreteFlow, DiscreteFlowSettings, DiscreteSettings, ShiftedFlow,
};
use comfyd_samplers::{Prediction, Schedule};
use comfyd_values::Latent;

use crate::class::{Call, Class, MAX_RESOLUTION, unknown_choice};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("ModelSamplingDiscrete")
                .category("model/patch")
                .module("comfy_extras.nodes_model_advanced")
                .description("Sets what a model predicts, with discrete noise levels.")
                .input(Input::link("model", "MODEL"))
                .input(Input::combo("sampling", ["eps", "v_prediction", "lcm", "x0", "img_to_img", "img_to_img_flow"]))
                .input(Input::bool("zsnr").default(false).tooltip("Moves the noise levels so that the last one is all noise.").advanced())
                .output("MODEL")
        },
        discrete,
    ),
    Class::new(
        || {
            Schema::new("ModelSamplingContinuousEDM")
                .category("model/patch")
                .module("comfy_extras.nodes_model_advanced")
                .description("Sets what a model predicts, with continuous noise levels.")
                .input(Input::link("model", "MODEL"))
                .input(Input::combo("sampling", ["v_prediction", "edm", "edm_playground_v2.5", "eps", "cosmos_rflow"]))
                .input(
                    Input::float("sigma_max")
                        .default(120.0)
                        .min(0.0)
                        .max(1000.0)
                        .step(0.001)
                        .round(false)
                        .tooltip("The highest noise level.")
                        .advanced(),
                )
                .input(
                    Input::float("sigma_min")
                        .default(0.002)
                        .min(0.0)
                        .max(1000.0)
                        .step(0.001)
                        .round(false)
                        .tooltip("The lowest noise level.")
                        .advanced(),
                )
                .output("MODEL")
        },
        continuous_edm,
    ),
    Class::new(
        || {
            Schema::new("ModelSamplingContinuousV")
                .category("model/patch")
                .module("comfy_extras.nodes_model_advanced")
                .description("Sets velocity prediction with continuous noise levels.")
                .input(Input::link("model", "MODEL"))
                .input(Input::combo("sampling", ["v_prediction"]))
                .input(
                    Input::float("sigma_max")
                        .default(500.0)
                        .min(0.0)
                        .max(1000.0)
                        .step(0.001)
                        .round(false)
                        .tooltip("The highest noise level.")
                        .advanced(),
                )
                .input(
                    Input::float("sigma_min")
                        .default(0.03)
                        .min(0.0)
                        .max(1000.0)
                        .step(0.001)
                        .round(false)
                        .tooltip("The lowest noise level.")
                        .advanced(),
                )
                .output("MODEL")
        },
        continuous_v,
    ),
    Class::new(
        || {
            shifted("ModelSamplingStableCascade", "model/patch/stable cascade", 2.0)
                .description("Sets the noise levels of Stable Cascade.")
                .output("MODEL")
        },
        stable_cascade,
    ),
    Class::new(
        || {
            shifted("ModelSamplingSD3", "model/patch/stable diffusion", 3.0)
                .description("Sets flow matching with the noise levels of Stable Diffusion 3.")
                .output("MODEL")
        },
        |call| flow(call, 1000.0),
    ),
    Class::new(
        || {
            shifted("ModelSamplingAuraFlow", "model/patch", 1.73)
                .description("Sets flow matching with the noise levels of AuraFlow.")
                .output("MODEL")
        },
        |call| flow(call, 1.0),
    ),
    Class::new(
        || {
            Schema::new("ModelSamplingFlux")
                .category("model/patch/flux")
                .module("comfy_extras.nodes_model_advanced")
                .description("Sets flow matching with the noise levels of Flux, which depend on the size of the picture.")
                .input(Input::link("model", "MODEL"))
                .input(
                    Input::float("max_shift")
                        .default(1.15)
                        .min(0.0)
                        .max(100.0)
                        .step(0.01)
                        .tooltip("The shift of pictures of a megapixel.")
                        .advanced(),
                )
                .input(
                    Input::float("base_shift")
                        .default(0.5)
                        .min(0.0)
                        .max(100.0)
                        .step(0.01)
                        .tooltip("The shift of small pictures.")
                        .advanced(),
                )
                .input(Input::int("width").default(1024).min(16).max(MAX_RESOLUTION).step(8).tooltip("Width."))
                .input(Input::int("height").default(1024).min(16).max(MAX_RESOLUTION).step(8).tooltip("Height."))
                .output("MODEL")
        },
        flux,
    ),
    Class::new(
        || {
            Schema::new("ModelComputeDtype")
                .category("advanced/debug")
                .module("comfy_extras.nodes_model_advanced")
                .description(
                    "Chooses the type of numbers to compute with. On the CPU that is always fp32, which the others only approximate.",
                )
                .aliases(["fp16", "bf16", "fp32"])
                .input(Input::link("model", "MODEL"))
                .input(Input::combo("dtype", ["default", "fp32", "fp16", "bf16"]).advanced())
                .output("MODEL")
        },
        compute_dtype,
    ),
    Class::new(
        || {
            Schema::new("ModelSamplingLTXV")
                .no_display()
                .category("model/patch/ltxv")
                .module("comfy_extras.nodes_lt")
                .schema_generation()
                .description("Noise levels for LTX-Video, whose shift depends on the size of the video.")
                .aliases(["shift"])
                .input(Input::link("model", "MODEL").tooltip("The model."))
                .input(Input::float("max_shift").default(2.05).min(0.0).max(100.0).step(0.01).tooltip("The shift of large videos."))
                .input(Input::float("base_shift").default(0.95).min(0.0).max(100.0).step(0.01).tooltip("The shift of small ones."))
                .input(Input::link("latent", "LATENT").tooltip("The video whose size counts.").optional())
                .output("MODEL")
        },
        ltxv,
    ),
];

/// A class that sets noise levels with a shift.
fn shifted(class: &str, category: &str, default: f64) -> Schema {
    Schema::new(class)
        .category(category)
        .module("comfy_extras.nodes_model_advanced")
        .input(Input::link("model", "MODEL"))
        .input(Input::float("shift").default(default).min(0.0).max(100.0).step(0.01).tooltip("How far the levels are moved towards noise."))
}

fn stable_cascade(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let schedule = Cascade::new(call.float("shift")?).map_err(Error::other)?;
    with_schedule(call, Arc::new(schedule))
}

fn flow(call: &Call<'_, '_>, multiplier: f64) -> Result<NodeOutput> {
    let settings = DiscreteFlowSettings { shift: call.float("shift")?, multiplier };
    with_schedule(call, Arc::new(DiscreteFlow::new(&settings).map_err(Error::other)?))
}

/// The shift grows linearly with the number of patches of two by two cells, between 256 of them and 4096.
fn flux(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    const PATCH: f64 = 16.0;
    let (base, max) = (call.float("base_shift")?, call.float("max_shift")?);
    let slope = (max - base) / (4096.0 - 256.0);
    let patches = call.float("width")? * call.float("height")? / (PATCH * PATCH);
    let shift = patches * slope + (base - slope * 256.0);
    with_schedule(call, Arc::new(ShiftedFlow::new(shift).map_err(Error::other)?))
}

/// The shift grows linearly with the number of cells of the latent, between 1024 of them and 4096.
fn ltxv(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (base, max) = (call.float("base_shift")?, call.float("max_shift")?);
    let cells = match call.inputs.get_optional::<Latent>("latent")? {
        Some(latent) => latent.samples.shape().iter().skip(2).product::<usize>() as f64,
        None => 4096.0,
    };
    let slope = (max - base) / (4096.0 - 1024.0);
    let shift = cells * slope + (base - slope * 1024.0);
    with_schedule(call, Arc::new(ShiftedFlow::new(shift).map_err(Error::other)?))
}

fn compute_dtype(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    match call.text("dtype")? {
        "default" | "fp32" | "fp16" | "bf16" => Ok(NodeOutput::one(call.object::<Model>("model")?)),
        other => Err(unknown_choice("dtype", other)),
    }
}

fn discrete(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let settings = |prediction| Ok::<_, Error>(DiscreteSettings { prediction, zsnr: call.bool("zsnr")?, ..DiscreteSettings::default() });
    let schedule = match call.text("sampling")? {
        "eps" => Discrete::new(&settings(Prediction::Eps)?),
        "v_prediction" => Discrete::new(&settings(Prediction::V)?),
        "x0" => Discrete::new(&settings(Prediction::X0)?),
        "lcm" => Discrete::distilled(&settings(Prediction::Lcm)?),
        "img_to_img" | "img_to_img_flow" => {
            return Err(Error::msg("img_to_img is for models that are not supported; take another kind of sampling"));
        }
        other => return Err(unknown_choice("sampling", other)),
    };
    with_schedule(call, Arc::new(schedule.map_err(Error::other)?))
}

fn continuous_edm(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let model = call.object::<Model>("model")?;
    let settings = |prediction, sigma_data| {
        let (sigma_min, sigma_max) = (call.float("sigma_min")?, call.float("sigma_max")?);
        Ok::<_, Error>(ContinuousSettings { prediction, sigma_min, sigma_max, sigma_data })
    };
    let sampling = call.text("sampling")?;
    let schedule = match sampling {
        "eps" => Continuous::edm(&settings(Prediction::Eps, 1.0)?),
        "v_prediction" => Continuous::edm(&settings(Prediction::V, 1.0)?),
        "edm" | "edm_playground_v2.5" => Continuous::edm(&settings(Prediction::Edm, 0.5)?),
        "cosmos_rflow" => Continuous::cosmos_flow(&settings(Prediction::Flow, 1.0)?),
        other => return Err(unknown_choice("sampling", other)),
    };
    let mut model = model.with_schedule(Arc::new(schedule.map_err(Error::other)?));
    if sampling == "edm_playground_v2.5" {
        model = model.with_latents(&PLAYGROUND_LATENTS);
    }
    Ok(NodeOutput::one(Value::object(model)))
}

fn continuous_v(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (sigma_min, sigma_max) = (call.float("sigma_min")?, call.float("sigma_max")?);
    let settings = ContinuousSettings { prediction: Prediction::V, sigma_min, sigma_max, sigma_data: 1.0 };
    with_schedule(call, Arc::new(Continuous::v(&settings).map_err(Error::other)?))
}

fn with_schedule(call: &Call<'_, '_>, schedule: Arc<dyn Schedule>) -> Result<NodeOutput> {
    Ok(NodeOutput::one(Value::object(call.object::<Model>("model")?.with_schedule(schedule))))
}
