//! Noise levels of models that follow straight ways from noise to pictures.

use comfyd_node::{Error, Input, NodeOutput, Result, Schema};
use comfyd_values::{Latent, Sigmas};

use crate::class::{Call, Class, MAX_RESOLUTION, unknown_choice};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("Flux2Scheduler")
                .no_display()
                .category("model/sampling/schedulers")
                .module("comfy_extras.nodes_flux")
                .schema_generation()
                .description("Noise levels for Flux 2, which depend on the size of the picture.")
                .aliases(["klein"])
                .input(Input::int("steps").default(20).min(1).max(4096).tooltip("How many noise levels the way is divided into."))
                .input(Input::int("width").default(1024).min(16).max(MAX_RESOLUTION).step(1).tooltip("Width of the picture."))
                .input(Input::int("height").default(1024).min(16).max(MAX_RESOLUTION).step(1).tooltip("Height of the picture."))
                .output("SIGMAS")
        },
        flux2,
    ),
    Class::new(
        || {
            Schema::new("LTXVScheduler")
                .no_display()
                .category("model/sampling/schedulers")
                .module("comfy_extras.nodes_lt")
                .schema_generation()
                .description("Noise levels for LTX-Video, which depend on the size of the video.")
                .aliases(["ltx"])
                .input(Input::int("steps").default(20).min(1).max(10000).tooltip("How many noise levels the way is divided into."))
                .input(Input::float("max_shift").default(2.05).min(0.0).max(100.0).step(0.01).tooltip("The shift of large videos."))
                .input(Input::float("base_shift").default(0.95).min(0.0).max(100.0).step(0.01).tooltip("The shift of small ones."))
                .input(
                    Input::bool("stretch").default(true).advanced().tooltip("Whether the levels are stretched to end at the terminal one."),
                )
                .input(Input::float("terminal").default(0.1).min(0.0).max(0.99).step(0.01).advanced().tooltip("The last level before 0."))
                .input(Input::link("latent", "LATENT").tooltip("The video whose size counts.").optional())
                .output("SIGMAS")
        },
        ltxv,
    ),
    Class::new(
        || {
            Schema::new("OptimalStepsScheduler")
                .no_display()
                .category("model/sampling/schedulers")
                .module("comfy_extras.nodes_optimalsteps")
                .schema_generation()
                .description("Noise levels that were optimised for few steps, for Flux, Wan and Chroma.")
                .aliases(["few steps"])
                .input(Input::combo("model_type", ["FLUX", "Wan", "Chroma"]).tooltip("The model."))
                .input(Input::int("steps").default(20).min(3).max(1000).tooltip("How many noise levels the way is divided into."))
                .input(
                    Input::float("denoise")
                        .default(1.0)
                        .min(0.0)
                        .max(1.0)
                        .step(0.01)
                        .tooltip("The part of the noise levels that is run, counted from the end."),
                )
                .output("SIGMAS")
        },
        optimal,
    ),
];

/// Levels at equal distances from 1 to 0, as torch spaces them: from both ends.
fn equal(steps: usize) -> Vec<f32> {
    let step = -1.0 / steps as f32;
    let at = |index: usize| if index < steps.div_ceil(2) { 1.0 + step * index as f32 } else { -step * (steps - index) as f32 };
    (0..=steps).map(at).collect()
}

fn shifted(level: f32, shift: f64) -> f32 {
    let factor = shift.exp() as f32;
    if level == 0.0 { 0.0 } else { factor / (factor + (1.0 / level - 1.0)) }
}

/// The shift that was fitted to the size of the picture and the number of steps.
fn flux2(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    const PATCH: f64 = 16.0;
    const FEW: (f64, f64) = (8.738_095_24e-5, 1.898_333_33);
    const MANY: (f64, f64) = (0.000_169_27, 0.456_666_66);
    const LARGE: f64 = 4300.0;
    let steps = call.count("steps", 1)?;
    let patches = (call.float("width")? * call.float("height")? / (PATCH * PATCH)).round_ties_even();
    let line = |(slope, start): (f64, f64)| slope * patches + start;
    let shift = if patches > LARGE {
        line(MANY)
    } else {
        // Between what 10 steps and what 200 need.
        let slope = (line(MANY) - line(FEW)) / 190.0;
        slope * steps as f64 + line(MANY) - 200.0 * slope
    };
    Ok(NodeOutput::one(Sigmas::new(equal(steps).into_iter().map(|level| shifted(level, shift)).collect())))
}

fn ltxv(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    const SMALL: f64 = 1024.0;
    const LARGE: f64 = 4096.0;
    let steps = call.count("steps", 1)?;
    let tokens = match call.inputs.get_optional::<Latent>("latent")? {
        Some(latent) => latent.samples.shape().iter().skip(2).product::<usize>() as f64,
        None => LARGE,
    };
    let (base, max) = (call.float("base_shift")?, call.float("max_shift")?);
    let slope = (max - base) / (LARGE - SMALL);
    let shift = tokens * slope + base - slope * SMALL;
    let mut levels: Vec<f32> = equal(steps).into_iter().map(|level| shifted(level, shift)).collect();
    if call.bool("stretch")? {
        let terminal = call.float("terminal")? as f32;
        let Some(last) = levels.iter().rfind(|level| **level != 0.0) else { return Ok(NodeOutput::one(Sigmas::new(levels))) };
        let factor = (1.0 - last) / (1.0 - terminal);
        levels.iter_mut().filter(|level| **level != 0.0).for_each(|level| *level = 1.0 - (1.0 - *level) / factor);
        if levels.iter().any(|level| !level.is_finite()) {
            return Err(Error::msg("a single step cannot be stretched to a last level; take more steps or leave stretch out"));
        }
    }
    Ok(NodeOutput::one(Sigmas::new(levels)))
}

const FLUX: &[f64] = &[0.9968, 0.9886, 0.9819, 0.975, 0.966, 0.9471, 0.9158, 0.8287, 0.5512, 0.2808, 0.001];
const WAN: &[f64] = &[
    1.0, 0.997, 0.995, 0.993, 0.991, 0.989, 0.987, 0.985, 0.98, 0.975, 0.973, 0.968, 0.96, 0.946, 0.927, 0.902, 0.864, 0.776, 0.539, 0.208,
    0.001,
];
const CHROMA: &[f64] = &[
    0.992, 0.99, 0.988, 0.985, 0.982, 0.978, 0.973, 0.968, 0.961, 0.953, 0.943, 0.931, 0.917, 0.9, 0.881, 0.858, 0.832, 0.802, 0.769,
    0.731, 0.69, 0.646, 0.599, 0.55, 0.501, 0.451, 0.402, 0.355, 0.311, 0.27, 0.232, 0.199, 0.169, 0.143, 0.12, 0.101, 0.084, 0.07, 0.058,
    0.048, 0.001,
];

fn optimal(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let table = match call.text("model_type")? {
        "FLUX" => FLUX,
        "Wan" => WAN,
        "Chroma" => CHROMA,
        other => return Err(unknown_choice("model_type", other)),
    };
    let (steps, denoise) = (call.count("steps", 1)?, call.float("denoise")?);
    if denoise <= 0.0 {
        return Ok(NodeOutput::one(Sigmas::default()));
    }
    let kept = if denoise < 1.0 { (steps as f64 * denoise).round_ties_even() as usize } else { steps };
    let levels = if steps + 1 == table.len() { table.to_vec() } else { super::schedulers::log_linear(table, steps + 1) };
    let mut levels: Vec<f32> = levels[steps - kept.min(steps)..].iter().map(|level| *level as f32).collect();
    if let Some(last) = levels.last_mut() {
        *last = 0.0;
    }
    Ok(NodeOutput::one(Sigmas::new(levels)))
}
