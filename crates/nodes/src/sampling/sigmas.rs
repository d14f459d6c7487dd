//! Noise levels taken apart and put together.

use std::f32::consts::PI;
use std::sync::Arc;

use comfyd_engine::Model;
use comfyd_node::{Error, Input, NodeOutput, Result, Schema, Value};
use comfyd_values::Sigmas;

use crate::class::{Call, Class, unknown_choice};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("ManualSigmas")
                .no_display()
                .category("model/sampling/sigmas")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .experimental()
                .description("Noise levels that you write yourself.")
                .aliases(["schedule by hand", "own sigmas", "noise levels"])
                .input(Input::text("sigmas").default("1, 0.5").tooltip("The levels, from the highest to the lowest."))
                .output("SIGMAS")
        },
        manual,
    ),
    Class::new(
        || {
            Schema::new("SplitSigmas")
                .no_display()
                .category("model/sampling/sigmas")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Splits noise levels at a step.")
                .input(Input::link("sigmas", "SIGMAS"))
                .input(Input::int("step").default(0).min(0).max(10000).tooltip("Where to split."))
                .output_named("SIGMAS", "high_sigmas")
                .output_named("SIGMAS", "low_sigmas")
        },
        split,
    ),
    Class::new(
        || {
            Schema::new("SplitSigmasDenoise")
                .no_display()
                .category("model/sampling/sigmas")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Splits noise levels so that the second part is a share of the steps.")
                .input(Input::link("sigmas", "SIGMAS"))
                .input(
                    Input::float("denoise")
                        .default(1.0)
                        .min(0.0)
                        .max(1.0)
                        .step(0.01)
                        .tooltip("The part of the noise levels that is run, counted from the end; below 1 keeps some of the input."),
                )
                .output_named("SIGMAS", "high_sigmas")
                .output_named("SIGMAS", "low_sigmas")
        },
        split_denoise,
    ),
    Class::new(
        || {
            Schema::new("FlipSigmas")
                .no_display()
                .category("model/sampling/sigmas")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Turns noise levels round, for going from a picture to noise.")
                .input(Input::link("sigmas", "SIGMAS"))
                .output("SIGMAS")
        },
        flip,
    ),
    Class::new(
        || {
            Schema::new("SetFirstSigma")
                .no_display()
                .category("model/sampling/sigmas")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Replaces the first noise level.")
                .input(Input::link("sigmas", "SIGMAS"))
                .input(
                    Input::float("sigma")
                        .default(136.0)
                        .min(0.0)
                        .max(20000.0)
                        .step(0.001)
                        .round(false)
                        .tooltip("The noise level to put first."),
                )
                .output("SIGMAS")
        },
        set_first,
    ),
    Class::new(
        || {
            Schema::new("ExtendIntermediateSigmas")
                .no_display()
                .category("model/sampling/sigmas")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("Puts more noise levels between those within a range.")
                .aliases(["more levels", "denser schedule"])
                .input(Input::link("sigmas", "SIGMAS"))
                .input(Input::int("steps").default(2).min(1).max(100).tooltip("How many levels are put into each step."))
                .input(
                    Input::float("start_at_sigma")
                        .default(-1.0)
                        .min(-1.0)
                        .max(20000.0)
                        .step(0.01)
                        .round(false)
                        .tooltip("Levels are added below this one; -1 is the highest."),
                )
                .input(
                    Input::float("end_at_sigma")
                        .default(12.0)
                        .min(0.0)
                        .max(20000.0)
                        .step(0.01)
                        .round(false)
                        .tooltip("Levels are added above this one."),
                )
                .input(Input::combo("spacing", ["linear", "cosine", "sine"]))
                .output("SIGMAS")
        },
        extend,
    ),
    Class::new(
        || {
            Schema::new("SamplingPercentToSigma")
                .no_display()
                .category("model/sampling/sigmas")
                .module("comfy_extras.nodes_custom_sampler")
                .schema_generation()
                .description("The noise level of a model when so much of the sampling is done.")
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(Input::float("sampling_percent").default(0.0).min(0.0).max(1.0).step(0.0001).tooltip("The part of the sampling."))
                .input(
                    Input::bool("return_actual_sigma")
                        .default(false)
                        .tooltip("Gives the true highest and lowest levels at 0 and 1 in place of stand-ins."),
                )
                .output_named("FLOAT", "sigma_value")
        },
        percent_to_sigma,
    ),
];

fn manual(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut levels = Vec::new();
    for number in numbers(call.text("sigmas")?) {
        let level: f64 = number.parse().map_err(|_| Error::msg(format!("input 'sigmas' holds '{number}', which is no number")))?;
        levels.push(level as f32);
    }
    Ok(NodeOutput::one(Sigmas::new(levels)))
}

/// All that looks like a number in a text: a sign, digits, dots, and digits behind them.
fn numbers(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let run = |from: usize, wanted: fn(&u8) -> bool| from + bytes[from..].iter().take_while(|b| wanted(b)).count();
    let mut numbers = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let digits = at + usize::from(matches!(bytes[at], b'+' | b'-'));
        let dots = run(digits, u8::is_ascii_digit);
        let behind = run(dots, |b| *b == b'.');
        let end = match run(behind, u8::is_ascii_digit) {
            end if end > behind => end,
            _ => dots,
        };
        if end > digits {
            numbers.push(&text[at..end]);
            at = end;
        } else {
            at += 1;
        }
    }
    numbers
}

fn split(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (levels, step) = (levels(call)?, call.int::<usize>("step")?);
    let high = &levels[..step.saturating_add(1).min(levels.len())];
    let low = &levels[step.min(levels.len())..];
    Ok(NodeOutput::values([sigmas(high), sigmas(low)]))
}

fn split_denoise(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let levels = levels(call)?;
    let steps = levels.len().saturating_sub(1);
    let total = (steps as f64 * call.float("denoise")?).round_ties_even().max(0.0) as usize;
    // Without a step in the second part the reference's first part is empty, as a slice up to -0 is.
    let high = if total == 0 { &[][..] } else { &levels[..levels.len().saturating_sub(total)] };
    let low = &levels[levels.len().saturating_sub(total.saturating_add(1))..];
    Ok(NodeOutput::values([sigmas(high), sigmas(low)]))
}

fn flip(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut levels: Vec<f32> = levels(call)?.iter().rev().copied().collect();
    if let Some(first) = levels.first_mut()
        && *first == 0.0
    {
        *first = 0.0001;
    }
    Ok(NodeOutput::one(sigmas(&levels)))
}

fn set_first(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut levels = levels(call)?.to_vec();
    let sigma = call.float("sigma")?;
    let Some(first) = levels.first_mut() else { return Err(Error::msg("there are no noise levels to change; take more steps")) };
    *first = sigma as f32;
    Ok(NodeOutput::one(sigmas(&levels)))
}

fn extend(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (levels, steps) = (levels(call)?, call.count("steps", 1)?);
    let start = Some(call.float("start_at_sigma")?).filter(|sigma| *sigma >= 0.0).unwrap_or(f64::INFINITY);
    let end = call.float("end_at_sigma")?;
    call.reserve(&[levels.len(), steps])?;
    let spacing = call.text("spacing")?;
    let curve = |x: f32| match spacing {
        "linear" => Ok(x),
        "cosine" => Ok((x * (PI / 2.0)).sin()),
        "sine" => Ok(1.0 - (x * (PI / 2.0)).cos()),
        other => Err(unknown_choice("spacing", other)),
    };
    let places = (1..steps).map(|i| curve(i as f32 / steps as f32)).collect::<Result<Vec<f32>>>()?;
    let mut extended = Vec::new();
    for pair in levels.windows(2) {
        extended.push(pair[0]);
        if end <= f64::from(pair[0]) && f64::from(pair[0]) <= start {
            extended.extend(places.iter().map(|place| place * (pair[1] - pair[0]) + pair[0]));
        }
    }
    extended.extend(levels.last());
    Ok(NodeOutput::one(sigmas(&extended)))
}

fn percent_to_sigma(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let schedule = call.object::<Model>("model")?.schedule();
    let percent = call.float("sampling_percent")?;
    let sigma = match (call.bool("return_actual_sigma")?, percent) {
        (true, 0.0) => f64::from(schedule.sigma_max()),
        (true, 1.0) => f64::from(schedule.sigma_min()),
        (true | false, _) => schedule.percent_to_sigma(percent),
    };
    Ok(NodeOutput::one(sigma))
}

fn levels(call: &Call<'_, '_>) -> Result<Arc<Vec<f32>>> {
    Ok(Arc::clone(&call.object::<Sigmas>("sigmas")?.0))
}

fn sigmas(levels: &[f32]) -> Value {
    Value::object(Sigmas::new(levels.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_any_text() {
        // python: re.findall(r"[-+]?(?:\d*\.*\d+)", text)
        assert_eq!(numbers("1, 0.5;.25 -3"), ["1", "0.5", ".25", "-3"]);
        assert_eq!(numbers("1. 2e-5 ö+7.x"), ["1", "2", "-5", "+7"]);
        assert_eq!(numbers("1..5 . - --2"), ["1..5", "-2"]);
        assert!(numbers("none").is_empty());
    }
}
