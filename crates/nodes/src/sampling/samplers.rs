//! Samplers with their options.

use comfyd_imaging::resize::Crop;
use std::sync::Arc;

use comfyd_engine::{Model, Sampler, Tensor};
use comfyd_imaging::resize;
use comfyd_node::{Error, Input, NodeOutput, Result, Schema, Value};
use comfyd_samplers::NAMES as SAMPLERS;
use comfyd_samplers::sampler::{
    DpmAdaptive, Dpmpp2mSde, Dpmpp2sAncestral, Dpmpp3mSde, DpmppSde, ErSde, EulerAncestral, EulerAncestralCfgPp, EulerCfgPpAlternative,
    Lcm, LcmUpscale, Lms, NoiseScaler, SaSolver, Seeds2, SolverType, Tau,
};
use ndarray::IxDyn;

use crate::class::{Call, Class, unknown_choice};
use crate::tensors;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            let noise = |name: &str, text: &str| Input::float(name).default(1.0).min(0.0).max(64.0).step(0.01).tooltip(text);
            Schema::new("SamplerLCM")
                .no_display()
                .category("model/sampling/samplers")
                .module("comfy_extras.nodes_advanced_samplers")
                .schema_generation()
                .description("Consistency sampling, with as much fresh noise in each step as you like.")
                .aliases(["latent consistency", "few steps"])
                .input(noise("s_noise", "Factor of the fresh noise in the first step."))
                .input(noise("s_noise_end", "Factor of the fresh noise in the last step."))
                .input(
                    Input::float("noise_clip_std")
                        .default(0.0)
                        .min(0.0)
                        .max(10.0)
                        .step(0.01)
                        .tooltip("Cuts fresh noise off at so many standard deviations; 0 does not."),
                )
                .output("SAMPLER")
        },
        lcm,
    ),
    Class::new(
        || {
            Schema::new("SamplerSEEDS2")
                .no_display()
                .category("model/sampling/samplers")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description(
                    "Exponential integrator of two stages. With phi_2 and r = 1 it is the exponential Heun method, without noise at eta = 0.",
                )
                .aliases(["stochastic", "exponential heun", "sde"])
                .input(Input::combo("solver_type", ["phi_1", "phi_2"]).tooltip("How the second stage counts."))
                .input(eta().advanced())
                .input(s_noise().advanced())
                .input(
                    Input::float("r")
                        .default(0.5)
                        .min(0.01)
                        .max(1.0)
                        .step(0.01)
                        .round(false)
                        .advanced()
                        .tooltip("How far on the way the second stage is."),
                )
                .output("SAMPLER")
        },
        seeds_2,
    ),
    Class::new(
        || {
            Schema::new("KSamplerSelect")
                .no_display()
                .category("model/sampling/samplers")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("A sampler by its name, with its usual options.")
                .input(Input::combo("sampler_name", SAMPLERS))
                .output("SAMPLER")
        },
        select,
    ),
    Class::new(
        || {
            Schema::new("SamplerEulerAncestral")
                .no_display()
                .category("model/sampling/samplers")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Euler steps with fresh noise.")
                .input(eta().advanced())
                .input(s_noise().advanced())
                .output("SAMPLER")
        },
        euler_ancestral,
    ),
    Class::new(
        || {
            Schema::new("SamplerEulerAncestralCFGPP")
                .display("SamplerEulerAncestralCFG++")
                .category("model/sampling/samplers")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Euler steps with fresh noise, along the prediction without the prompt (CFG++).")
                .input(
                    Input::float("eta")
                        .default(1.0)
                        .min(0.0)
                        .max(1.0)
                        .step(0.01)
                        .round(false)
                        .tooltip("How much fresh noise each step adds."),
                )
                .input(
                    Input::float("s_noise").default(1.0).min(0.0).max(10.0).step(0.01).round(false).tooltip("Factor of the fresh noise."),
                )
                .output("SAMPLER")
        },
        euler_ancestral_cfg_pp,
    ),
    Class::new(
        || {
            Schema::new("SamplerLMS")
                .no_display()
                .category("model/sampling/samplers")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Linear multi-step method.")
                .input(Input::int("order").default(4).min(1).max(100).tooltip("Order of the method.").advanced())
                .output("SAMPLER")
        },
        lms,
    ),
    Class::new(
        || {
            Schema::new("SamplerDPMPP_3M_SDE")
                .no_display()
                .category("model/sampling/samplers")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("DPM-Solver++ with three steps of memory and fresh noise.")
                .input(eta().advanced())
                .input(s_noise().advanced())
                .input(Input::combo("noise_device", ["gpu", "cpu"]).advanced())
                .output("SAMPLER")
        },
        dpmpp_3m_sde,
    ),
    Class::new(
        || {
            Schema::new("SamplerDPMPP_2M_SDE")
                .no_display()
                .category("model/sampling/samplers")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("DPM-Solver++ with two steps of memory and fresh noise.")
                .input(Input::combo("solver_type", ["midpoint", "heun"]))
                .input(eta().advanced())
                .input(s_noise().advanced())
                .input(Input::combo("noise_device", ["gpu", "cpu"]).advanced())
                .output("SAMPLER")
        },
        dpmpp_2m_sde,
    ),
    Class::new(
        || {
            Schema::new("SamplerDPMPP_SDE")
                .no_display()
                .category("model/sampling/samplers")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("DPM-Solver++ with a step in between and fresh noise.")
                .input(eta().advanced())
                .input(s_noise().advanced())
                .input(
                    Input::float("r")
                        .default(0.5)
                        .min(0.0)
                        .max(100.0)
                        .step(0.01)
                        .round(false)
                        .tooltip("Place of the step in between.")
                        .advanced(),
                )
                .input(Input::combo("noise_device", ["gpu", "cpu"]).advanced())
                .output("SAMPLER")
        },
        dpmpp_sde,
    ),
    Class::new(
        || {
            Schema::new("SamplerDPMPP_2S_Ancestral")
                .no_display()
                .category("model/sampling/samplers")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("DPM-Solver++ with a step in between and ancestral noise.")
                .input(eta())
                .input(s_noise())
                .output("SAMPLER")
        },
        dpmpp_2s_ancestral,
    ),
    Class::new(
        || {
            Schema::new("SamplerDPMAdaptative")
                .no_display()
                .category("model/sampling/samplers")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("DPM-Solver with steps as large as the error allows.")
                .input(Input::int("order").default(3).min(2).max(3).tooltip("Order of the method.").advanced())
                .input(
                    Input::float("rtol")
                        .default(0.05)
                        .min(0.0)
                        .max(100.0)
                        .step(0.01)
                        .round(false)
                        .tooltip("Relative error allowed.")
                        .advanced(),
                )
                .input(
                    Input::float("atol")
                        .default(0.0078)
                        .min(0.0)
                        .max(100.0)
                        .step(0.01)
                        .round(false)
                        .tooltip("Absolute error allowed.")
                        .advanced(),
                )
                .input(
                    Input::float("h_init")
                        .default(0.05)
                        .min(0.0)
                        .max(100.0)
                        .step(0.01)
                        .round(false)
                        .tooltip("Size of the first step.")
                        .advanced(),
                )
                .input(
                    Input::float("pcoeff")
                        .default(0.0)
                        .min(0.0)
                        .max(100.0)
                        .step(0.01)
                        .round(false)
                        .tooltip("Proportional part of the step-size control.")
                        .advanced(),
                )
                .input(
                    Input::float("icoeff")
                        .default(1.0)
                        .min(0.0)
                        .max(100.0)
                        .step(0.01)
                        .round(false)
                        .tooltip("Integral part of the step-size control.")
                        .advanced(),
                )
                .input(
                    Input::float("dcoeff")
                        .default(0.0)
                        .min(0.0)
                        .max(100.0)
                        .step(0.01)
                        .round(false)
                        .tooltip("Derivative part of the step-size control.")
                        .advanced(),
                )
                .input(
                    Input::float("accept_safety")
                        .default(0.81)
                        .min(0.0)
                        .max(100.0)
                        .step(0.01)
                        .round(false)
                        .tooltip("How good a step must be to be kept.")
                        .advanced(),
                )
                .input(
                    Input::float("eta")
                        .default(0.0)
                        .min(0.0)
                        .max(100.0)
                        .step(0.01)
                        .round(false)
                        .tooltip("How much fresh noise each step adds.")
                        .advanced(),
                )
                .input(s_noise().advanced())
                .output("SAMPLER")
        },
        dpm_adaptive,
    ),
    Class::new(
        || {
            Schema::new("SamplerER_SDE")
                .no_display()
                .category("model/sampling/samplers")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Extended reverse-time solver.")
                .input(Input::combo("solver_type", ["ER-SDE", "Reverse-time SDE", "ODE"]).tooltip("What kind of equation is solved."))
                .input(Input::int("max_stage").default(3).min(1).max(3).tooltip("Highest order.").advanced())
                .input(eta().max(10.0).advanced())
                .input(s_noise().advanced())
                .output("SAMPLER")
        },
        er_sde,
    ),
    Class::new(
        || {
            Schema::new("SamplerSASolver")
                .no_display()
                .category("model/sampling/samplers")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Stochastic Adams method: predictor and corrector with fresh noise in a part of the sampling.")
                .aliases(["stochastic", "adams"])
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(
                    Input::float("eta")
                        .default(1.0)
                        .min(0.0)
                        .max(10.0)
                        .step(0.01)
                        .round(false)
                        .tooltip("How much fresh noise each step adds.")
                        .advanced(),
                )
                .input(
                    Input::float("sde_start_percent")
                        .default(0.2)
                        .min(0.0)
                        .max(1.0)
                        .step(0.001)
                        .tooltip("The part of the sampling after which fresh noise begins.")
                        .advanced(),
                )
                .input(
                    Input::float("sde_end_percent")
                        .default(0.8)
                        .min(0.0)
                        .max(1.0)
                        .step(0.001)
                        .tooltip("The part of the sampling after which fresh noise ends.")
                        .advanced(),
                )
                .input(s_noise().advanced())
                .input(Input::int("predictor_order").default(3).min(1).max(6).tooltip("Order of the predictor.").advanced())
                .input(
                    Input::int("corrector_order").default(4).min(0).max(6).tooltip("Order of the corrector; 0 leaves it out.").advanced(),
                )
                .input(Input::bool("use_pece").tooltip("Evaluates the model again after the correction.").advanced())
                .input(Input::bool("simple_order_2").tooltip("Uses the simpler formula for order 2.").advanced())
                .output("SAMPLER")
        },
        sa_solver,
    ),
    Class::new(
        || {
            Schema::new("SamplerLCMUpscale")
                .no_display()
                .category("model/sampling/samplers")
                .module("comfy_extras.nodes_advanced_samplers")
                .schema_generation()
                .description("Steps for latent consistency models that enlarge the latent on the way.")
                .input(
                    Input::float("scale_ratio")
                        .default(1.0)
                        .min(0.1)
                        .max(20.0)
                        .step(0.01)
                        .tooltip("Factor of the size at the end.")
                        .advanced(),
                )
                .input(
                    Input::int("scale_steps")
                        .default(-1)
                        .min(-1)
                        .max(1000)
                        .step(1)
                        .tooltip("Steps over which the size grows; -1 takes all.")
                        .advanced(),
                )
                .input(
                    Input::combo("upscale_method", ["bislerp", "nearest-exact", "bilinear", "area", "bicubic"])
                        .tooltip("How latents are enlarged."),
                )
                .output("SAMPLER")
        },
        lcm_upscale,
    ),
    Class::new(
        || {
            Schema::new("SamplerEulerCFGpp")
                .display("SamplerEulerCFG++")
                .category("experimental")
                .module("comfy_extras.nodes_advanced_samplers")
                .schema_generation()
                .experimental()
                .description("Euler steps along the prediction without the prompt (CFG++).")
                .input(Input::combo("version", ["regular", "alternative"]).tooltip("Which formula.").advanced())
                .output("SAMPLER")
        },
        euler_cfg_pp,
    ),
];

/// The widget of the samplers that exchange noise.
fn eta() -> Input {
    Input::float("eta").default(1.0).min(0.0).max(100.0).step(0.01).round(false).tooltip("How much fresh noise each step adds.")
}

/// The widget of the samplers that add noise.
fn s_noise() -> Input {
    Input::float("s_noise").default(1.0).min(0.0).max(100.0).step(0.01).round(false).tooltip("Factor of the fresh noise.")
}

fn select(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    Ok(NodeOutput::one(Value::object(Sampler::by_name(call.text("sampler_name")?)?)))
}

fn euler_ancestral(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    give(EulerAncestral { eta: call.float("eta")?, s_noise: call.float("s_noise")? })
}

fn euler_ancestral_cfg_pp(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    give(EulerAncestralCfgPp { eta: call.float("eta")?, s_noise: call.float("s_noise")? })
}

fn lms(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    give(Lms { order: call.count("order", 1)? })
}

fn dpmpp_3m_sde(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    give(Dpmpp3mSde { eta: call.float("eta")?, s_noise: call.float("s_noise")? })
}

fn dpmpp_2m_sde(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let name = call.text("solver_type")?;
    let solver_type = SolverType::by_name(name).ok_or_else(|| unknown_choice("solver_type", name))?;
    give(Dpmpp2mSde { eta: call.float("eta")?, s_noise: call.float("s_noise")?, solver_type })
}

fn dpmpp_sde(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    give(DpmppSde { eta: call.float("eta")?, s_noise: call.float("s_noise")?, r: call.float("r")? })
}

fn dpmpp_2s_ancestral(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    give(Dpmpp2sAncestral { eta: call.float("eta")?, s_noise: call.float("s_noise")? })
}

fn dpm_adaptive(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    give(DpmAdaptive {
        order: call.int("order")?,
        rtol: call.float("rtol")?,
        atol: call.float("atol")?,
        h_init: call.float("h_init")?,
        pcoeff: call.float("pcoeff")?,
        icoeff: call.float("icoeff")?,
        dcoeff: call.float("dcoeff")?,
        accept_safety: call.float("accept_safety")?,
        eta: call.float("eta")?,
        s_noise: call.float("s_noise")?,
    })
}

fn lcm(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (s_noise, s_noise_end) = (call.float("s_noise")?, call.float("s_noise_end")?);
    give(Lcm { s_noise, s_noise_end, noise_clip_std: call.float("noise_clip_std")? })
}

fn seeds_2(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let phi_2 = match call.text("solver_type")? {
        "phi_1" => false,
        "phi_2" => true,
        other => return Err(unknown_choice("solver_type", other)),
    };
    let r = call.float("r")?;
    if r <= 0.0 {
        return Err(Error::msg(format!("input 'r' is {r}, it must be above 0")));
    }
    give(Seeds2 { eta: call.float("eta")?, s_noise: call.float("s_noise")?, r, phi_2 })
}

fn er_sde(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let eta = call.float("eta")?;
    let scaler = match call.text("solver_type")? {
        "ER-SDE" if eta != 0.0 => NoiseScaler::ErSde { eta },
        "Reverse-time SDE" if eta != 0.0 => NoiseScaler::ReverseTime { eta },
        "ER-SDE" | "Reverse-time SDE" | "ODE" => NoiseScaler::ReverseTime { eta: 0.0 },
        other => return Err(unknown_choice("solver_type", other)),
    };
    // An ordinary equation has no noise.
    let s_noise = if scaler == (NoiseScaler::ReverseTime { eta: 0.0 }) { 0.0 } else { call.float("s_noise")? };
    give(ErSde { s_noise, scaler, max_stage: call.count("max_stage", 1)? })
}

fn sa_solver(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let schedule = call.object::<Model>("model")?.schedule();
    let tau = Tau {
        start_sigma: schedule.percent_to_sigma(call.float("sde_start_percent")?),
        end_sigma: schedule.percent_to_sigma(call.float("sde_end_percent")?),
        eta: call.float("eta")?,
    };
    give(SaSolver {
        tau: Some(tau),
        s_noise: call.float("s_noise")?,
        predictor_order: call.int("predictor_order")?,
        corrector_order: call.int("corrector_order")?,
        pece: call.bool("use_pece")?,
        simple_order_2: call.bool("simple_order_2")?,
    })
}

fn lcm_upscale(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let method = call.method("upscale_method")?;
    let resize = move |x: &Tensor, width: usize, height: usize| {
        let resized = tensors::array_of::<IxDyn>(x).and_then(|array| {
            let array = resize::latent(&array, width, height, method, Crop::Disabled).map_err(Error::other)?;
            tensors::copied(&array)
        });
        let resized = resized.map_err(|error| comfyd_samplers::Error::msg(error.to_string()))?;
        Ok(resized.to_device(x.device())?)
    };
    let steps = usize::try_from(call.int::<i64>("scale_steps")?).ok();
    give(LcmUpscale { scale_ratio: call.float("scale_ratio")?, steps, resize: Arc::new(resize) })
}

fn euler_cfg_pp(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    match call.text("version")? {
        "regular" => Ok(NodeOutput::one(Value::object(Sampler::by_name("euler_cfg_pp")?))),
        "alternative" => give(EulerCfgPpAlternative),
        other => Err(unknown_choice("version", other)),
    }
}

fn give(sampler: impl comfyd_samplers::Sampler + 'static) -> Result<NodeOutput> {
    Ok(NodeOutput::one(Value::object(Sampler::new(Arc::new(sampler)))))
}
