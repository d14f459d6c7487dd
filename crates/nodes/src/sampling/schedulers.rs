//! Noise levels from schedulers.

use comfyd_engine::Model;
use comfyd_node::{Error, Input, NodeOutput, Result, Schema};
use comfyd_samplers::ksampler;
use comfyd_samplers::scheduler::{self, NAMES as SCHEDULERS};
use comfyd_values::Sigmas;

use crate::class::{Call, Class};
use crate::sampling::gits;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("BasicScheduler")
                .no_display()
                .category("model/sampling/schedulers")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Noise levels of a model, spread by a named scheduler.")
                .input(Input::link("model", "MODEL"))
                .input(Input::combo("scheduler", SCHEDULERS))
                .input(steps())
                .input(denoise())
                .output("SIGMAS")
        },
        basic,
    ),
    Class::new(
        || {
            Schema::new("KarrasScheduler")
                .no_display()
                .category("model/sampling/schedulers")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Noise levels spread as in the paper of Karras et al.")
                .input(steps())
                .input(sigma_max())
                .input(sigma_min())
                .input(
                    Input::float("rho")
                        .default(7.0)
                        .min(0.0)
                        .max(100.0)
                        .step(0.01)
                        .round(false)
                        .tooltip("How much the low noise levels are favoured.")
                        .advanced(),
                )
                .output("SIGMAS")
        },
        karras,
    ),
    Class::new(
        || {
            Schema::new("ExponentialScheduler")
                .no_display()
                .category("model/sampling/schedulers")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Noise levels spread evenly by their logarithm.")
                .input(steps())
                .input(sigma_max())
                .input(sigma_min())
                .output("SIGMAS")
        },
        exponential,
    ),
    Class::new(
        || {
            Schema::new("PolyexponentialScheduler")
                .no_display()
                .category("model/sampling/schedulers")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Noise levels spread by a polynomial of their logarithm.")
                .input(steps())
                .input(sigma_max())
                .input(sigma_min())
                .input(
                    Input::float("rho")
                        .default(1.0)
                        .min(0.0)
                        .max(100.0)
                        .step(0.01)
                        .round(false)
                        .tooltip("How much the low noise levels are favoured.")
                        .advanced(),
                )
                .output("SIGMAS")
        },
        polyexponential,
    ),
    Class::new(
        || {
            Schema::new("LaplaceScheduler")
                .no_display()
                .category("model/sampling/schedulers")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Noise levels spread by a Laplace distribution.")
                .input(steps())
                .input(sigma_max())
                .input(sigma_min())
                .input(
                    Input::float("mu")
                        .default(0.0)
                        .min(-10.0)
                        .max(10.0)
                        .step(0.1)
                        .round(false)
                        .tooltip("Centre of the distribution.")
                        .advanced(),
                )
                .input(
                    Input::float("beta")
                        .default(0.5)
                        .min(0.0)
                        .max(10.0)
                        .step(0.1)
                        .round(false)
                        .tooltip("Width of the distribution.")
                        .advanced(),
                )
                .output("SIGMAS")
        },
        laplace,
    ),
    Class::new(
        || {
            Schema::new("VPScheduler")
                .no_display()
                .category("model/sampling/schedulers")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Noise levels of a continuous variance-preserving process.")
                .input(steps())
                .input(
                    Input::float("beta_d")
                        .default(19.9)
                        .min(0.0)
                        .max(5000.0)
                        .step(0.01)
                        .round(false)
                        .tooltip("Growth of the noise rate.")
                        .advanced(),
                )
                .input(
                    Input::float("beta_min")
                        .default(0.1)
                        .min(0.0)
                        .max(5000.0)
                        .step(0.01)
                        .round(false)
                        .tooltip("Noise rate at the start.")
                        .advanced(),
                )
                .input(
                    Input::float("eps_s")
                        .default(0.001)
                        .min(0.0)
                        .max(1.0)
                        .step(0.0001)
                        .round(false)
                        .tooltip("The smallest time.")
                        .advanced(),
                )
                .output("SIGMAS")
        },
        vp,
    ),
    Class::new(
        || {
            Schema::new("BetaSamplingScheduler")
                .no_display()
                .category("model/sampling/schedulers")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Noise levels of a model, spread by a beta distribution.")
                .input(Input::link("model", "MODEL"))
                .input(steps())
                .input(
                    Input::float("alpha")
                        .default(0.6)
                        .min(0.0)
                        .max(50.0)
                        .step(0.01)
                        .round(false)
                        .tooltip("First shape parameter of the distribution.")
                        .advanced(),
                )
                .input(
                    Input::float("beta")
                        .default(0.6)
                        .min(0.0)
                        .max(50.0)
                        .step(0.01)
                        .round(false)
                        .tooltip("Second shape parameter of the distribution.")
                        .advanced(),
                )
                .output("SIGMAS")
        },
        beta,
    ),
    Class::new(
        || {
            Schema::new("SDTurboScheduler")
                .no_display()
                .category("model/sampling/schedulers")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Noise levels for models that were distilled to a few steps.")
                .input(Input::link("model", "MODEL"))
                .input(Input::int("steps").default(1).min(1).max(10).tooltip("How many noise levels the way is divided into."))
                .input(
                    Input::float("denoise")
                        .default(1.0)
                        .min(0)
                        .max(1.0)
                        .step(0.01)
                        .tooltip("The part of the noise levels that is run, counted from the end; below 1 keeps some of the input."),
                )
                .output("SIGMAS")
        },
        turbo,
    ),
    Class::new(
        || {
            Schema::new("AlignYourStepsScheduler")
                .no_display()
                .category("model/sampling/schedulers")
                .module("comfy_extras.nodes_align_your_steps")
                .schema_generation()
                .description("Noise levels that were optimised for a family of models (Align Your Steps).")
                .aliases(["few steps"])
                .input(Input::combo("model_type", ["SD1", "SDXL", "SVD"]).tooltip("The family of the model."))
                .input(Input::int("steps").default(10).min(1).max(10000).tooltip("How many noise levels the way is divided into."))
                .input(denoise())
                .output("SIGMAS")
        },
        align_your_steps,
    ),
    Class::new(
        || {
            Schema::new("GITSScheduler")
                .no_display()
                .category("model/sampling/schedulers")
                .module("comfy_extras.nodes_gits")
                .schema_generation()
                .description("Noise levels that were optimised by the geometry of the way (GITS).")
                .input(Input::float("coeff").default(1.2).min(0.8).max(1.5).step(0.05).tooltip("Which table of noise levels.").advanced())
                .input(Input::int("steps").default(10).min(2).max(1000).tooltip("How many noise levels the way is divided into."))
                .input(denoise())
                .output("SIGMAS")
        },
        gits,
    ),
];

/// The widget of the number of noise levels.
fn steps() -> Input {
    Input::int("steps").default(20).min(1).max(10000).tooltip("How many noise levels the way is divided into.")
}

/// The highest level, that of Stable Diffusion 1 as default.
fn sigma_max() -> Input {
    Input::float("sigma_max").default(14.614642).min(0.0).max(5000.0).step(0.01).round(false).tooltip("The highest noise level.").advanced()
}

/// The lowest level, that of Stable Diffusion 1 as default.
fn sigma_min() -> Input {
    Input::float("sigma_min").default(0.0291675).min(0.0).max(5000.0).step(0.01).round(false).tooltip("The lowest noise level.").advanced()
}

/// The part of the noise levels that is run.
fn denoise() -> Input {
    Input::float("denoise")
        .default(1.0)
        .min(0.0)
        .max(1.0)
        .step(0.01)
        .tooltip("The part of the noise levels that is run, counted from the end; below 1 keeps some of the input.")
}

fn basic(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let model = call.object::<Model>("model")?;
    let (scheduler, steps) = (call.text("scheduler")?, call.count("steps", 1)?);
    sigmas(ksampler::basic_sigmas(scheduler, &*model.schedule(), steps, call.float("denoise")?))
}

fn karras(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (steps, min, max) = range(call)?;
    sigmas(scheduler::karras(steps, min, max, call.float("rho")?))
}

fn exponential(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (steps, min, max) = range(call)?;
    sigmas(scheduler::exponential(steps, min, max))
}

fn polyexponential(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (steps, min, max) = range(call)?;
    sigmas(scheduler::polyexponential(steps, min, max, call.float("rho")?))
}

fn laplace(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (steps, min, max) = range(call)?;
    sigmas(scheduler::laplace(steps, min, max, call.float("mu")?, call.float("beta")?))
}

fn vp(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    sigmas(scheduler::vp(call.count("steps", 1)?, call.float("beta_d")?, call.float("beta_min")?, call.float("eps_s")?))
}

fn beta(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let schedule = call.object::<Model>("model")?.schedule();
    sigmas(scheduler::beta(schedule.as_ref(), call.count("steps", 1)?, call.float("alpha")?, call.float("beta")?))
}

fn turbo(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let schedule = call.object::<Model>("model")?.schedule();
    sigmas(scheduler::sd_turbo(schedule.as_ref(), call.count("steps", 1)?, call.float("denoise")?))
}

fn align_your_steps(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    sigmas(scheduler::align_your_steps(call.text("model_type")?, call.count("steps", 1)?, call.float("denoise")?))
}

fn gits(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (coefficient, steps, denoise) = (call.float("coeff")?, call.count("steps", 2)?, call.float("denoise")?);
    if steps > scheduler::MAX_STEPS {
        return Err(Error::msg(format!("{steps} steps are more than the limit of {}; take fewer", scheduler::MAX_STEPS)));
    }
    if denoise <= 0.0 {
        return sigmas(Ok(Vec::new()));
    }
    let longest = *gits::STEPS.end();
    let Some(mut levels) = gits::levels(coefficient, steps.min(longest)) else {
        return Err(Error::msg(format!("there are no noise levels for coeff {coefficient}; take a multiple of 0.05 from 0.8 to 1.5")));
    };
    if steps > longest {
        levels = log_linear(&levels, steps + 1);
    }
    let kept = if denoise < 1.0 { (steps as f64 * denoise).round_ties_even() as usize } else { steps };
    levels.drain(..steps - kept);
    if let Some(end) = levels.last_mut() {
        *end = 0.0;
    }
    sigmas(Ok(levels.into_iter().map(|level| level as f32).collect()))
}

/// `count` levels at equal distances along descending ones, between neighbours by the logarithm.
pub(super) fn log_linear(levels: &[f64], count: usize) -> Vec<f64> {
    let last = levels.len() - 1;
    let at = |i: usize| {
        let place = i as f64 / (count - 1) as f64 * last as f64;
        let low = (place.floor() as usize).min(last - 1);
        let (a, b) = (levels[low].ln(), levels[low + 1].ln());
        (a + (b - a) * (place - low as f64)).exp()
    };
    (0..count).map(at).collect()
}

/// The number of steps and the bounds of the levels.
fn range(call: &Call<'_, '_>) -> Result<(usize, f64, f64)> {
    Ok((call.count("steps", 1)?, call.float("sigma_min")?, call.float("sigma_max")?))
}

fn sigmas(levels: comfyd_samplers::Result<Vec<f32>>) -> Result<NodeOutput> {
    Ok(NodeOutput::one(Sigmas::new(levels.map_err(Error::other)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_interpolated_by_their_logarithm() {
        let got = log_linear(&[8.0, 2.0, 1.0], 5);
        for (got, want) in got.iter().zip([8.0, 4.0, 2.0, 2f64.sqrt(), 1.0]) {
            assert!((got - want).abs() < 1e-12, "{got} {want}");
        }
    }
}
