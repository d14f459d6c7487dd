//! Properties of one conditioning or of a pair, positive and negative, in one node; and conditionings that count where no other does.

use comfyd_engine::{Conditioning, HookGroup, Tensor};
use comfyd_node::{Input, NodeOutput, Opaque, Result, Schema, Value};

use super::hooks::{percent, schema};
use crate::class::{Call, Class};
use crate::tensors;

/// A part of the sampling: `TIMESTEPS_RANGE`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TimestepsRange(f64, f64);

impl Opaque for TimestepsRange {
    fn type_name(&self) -> &'static str {
        "TIMESTEPS_RANGE"
    }

    fn size_bytes(&self) -> usize {
        std::mem::size_of::<Self>()
    }
}

const SINGLE: &str = "cond single";
const PAIR: &str = "cond pair";

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            properties(
                schema("ConditioningSetProperties", "Cond Set Props", SINGLE)
                    .description("Sets mask, weight, part of the sampling and hooks of a conditioning.")
                    .input(Input::link("cond_NEW", "CONDITIONING")),
            )
            .output("CONDITIONING")
        },
        |call| set_properties(call, [(None, "cond_NEW")]),
    ),
    Class::new(
        || {
            properties(
                schema("ConditioningSetPropertiesAndCombine", "Cond Set Props Combine", SINGLE)
                    .description("Sets properties of a conditioning and puts it beside another one.")
                    .input(Input::link("cond", "CONDITIONING"))
                    .input(Input::link("cond_NEW", "CONDITIONING")),
            )
            .output("CONDITIONING")
        },
        |call| set_properties(call, [(Some("cond"), "cond_NEW")]),
    ),
    Class::new(
        || {
            pair_output(properties(
                schema("PairConditioningSetProperties", "Cond Pair Set Props", PAIR)
                    .description("Sets mask, weight, part of the sampling and hooks of both conditionings.")
                    .input(Input::link("positive_NEW", "CONDITIONING"))
                    .input(Input::link("negative_NEW", "CONDITIONING")),
            ))
        },
        |call| set_properties(call, [(None, "positive_NEW"), (None, "negative_NEW")]),
    ),
    Class::new(
        || {
            pair_output(properties(
                schema("PairConditioningSetPropertiesAndCombine", "Cond Pair Set Props Combine", PAIR)
                    .description("Sets properties of both conditionings and puts them beside others.")
                    .input(Input::link("positive", "CONDITIONING"))
                    .input(Input::link("negative", "CONDITIONING"))
                    .input(Input::link("positive_NEW", "CONDITIONING"))
                    .input(Input::link("negative_NEW", "CONDITIONING")),
            ))
        },
        |call| set_properties(call, [(Some("positive"), "positive_NEW"), (Some("negative"), "negative_NEW")]),
    ),
    Class::new(
        || {
            pair_output(
                schema("PairConditioningCombine", "Cond Pair Combine", PAIR)
                    .description("Puts two pairs of conditionings side by side.")
                    .input(Input::link("positive_A", "CONDITIONING"))
                    .input(Input::link("negative_A", "CONDITIONING"))
                    .input(Input::link("positive_B", "CONDITIONING"))
                    .input(Input::link("negative_B", "CONDITIONING")),
            )
        },
        combine,
    ),
    Class::new(
        || {
            schema("ConditioningSetDefaultCombine", "Cond Set Default Combine", SINGLE)
                .description("Adds a conditioning that counts where no other does.")
                .input(Input::link("cond", "CONDITIONING"))
                .input(Input::link("cond_DEFAULT", "CONDITIONING"))
                .input(Input::link("hooks", "HOOKS").optional())
                .output("CONDITIONING")
        },
        |call| set_default(call, [("cond", "cond_DEFAULT")]),
    ),
    Class::new(
        || {
            pair_output(
                schema("PairConditioningSetDefaultCombine", "Cond Pair Set Default Combine", PAIR)
                    .description("Adds a pair of conditionings that count where no other does.")
                    .input(Input::link("positive", "CONDITIONING"))
                    .input(Input::link("negative", "CONDITIONING"))
                    .input(Input::link("positive_DEFAULT", "CONDITIONING"))
                    .input(Input::link("negative_DEFAULT", "CONDITIONING"))
                    .input(Input::link("hooks", "HOOKS").optional()),
            )
        },
        |call| set_default(call, [("positive", "positive_DEFAULT"), ("negative", "negative_DEFAULT")]),
    ),
    Class::new(
        || {
            schema("ConditioningTimestepsRange", "Timesteps Range", "")
                .description("A part of the sampling, what is before it, and what is after it.")
                .input(percent("start_percent", 0.0))
                .input(percent("end_percent", 1.0))
                .output_named("TIMESTEPS_RANGE", "TIMESTEPS_RANGE")
                .output_named("TIMESTEPS_RANGE", "BEFORE_RANGE")
                .output_named("TIMESTEPS_RANGE", "AFTER_RANGE")
        },
        range,
    ),
];

fn properties(schema: Schema) -> Schema {
    schema
        .input(Input::float("strength").default(1.0).min(0.0).max(10.0).step(0.01).tooltip("Weight where the mask is."))
        .input(Input::combo("set_cond_area", ["default", "mask bounds"]))
        .input(Input::link("mask", "MASK").optional())
        .input(Input::link("hooks", "HOOKS").optional())
        .input(Input::link("timesteps", "TIMESTEPS_RANGE").optional())
}

fn pair_output(schema: Schema) -> Schema {
    schema.output_named("CONDITIONING", "positive").output_named("CONDITIONING", "negative")
}

fn conditionings<const N: usize>(call: &Call<'_, '_>, names: [&str; N]) -> Result<Vec<Conditioning>> {
    names.into_iter().map(|name| Ok(call.object::<Conditioning>(name)?.as_ref().clone())).collect()
}

fn with_hooks(call: &Call<'_, '_>, conditionings: Vec<Conditioning>) -> Result<Vec<Conditioning>> {
    Ok(match call.inputs.get_optional::<HookGroup>("hooks")? {
        Some(hooks) => Conditioning::with_hooks(&conditionings.iter().collect::<Vec<_>>(), &hooks),
        None => conditionings,
    })
}

/// For each pair of inputs: what is put before, and what gets the properties.
fn set_properties<const N: usize>(call: &Call<'_, '_>, inputs: [(Option<&str>, &str); N]) -> Result<NodeOutput> {
    let mask: Option<Tensor> = call.mask_optional("mask")?.map(|mask| tensors::mask(call, &mask)).transpose()?;
    let (strength, to_bounds) = (call.float("strength")?, call.text("set_cond_area")? != "default");
    let range = call.inputs.get_optional::<TimestepsRange>("timesteps")?;
    let changed = with_hooks(call, conditionings(call, inputs.map(|(_, name)| name))?)?;
    let mut outputs = Vec::new();
    for ((before, _), conditioning) in inputs.into_iter().zip(changed) {
        let conditioning = conditioning.map(|entry| {
            if let Some(mask) = &mask {
                entry.mask = Some(mask.clone());
                entry.set_area_to_bounds = to_bounds;
                entry.mask_strength = Some(strength);
            }
            if let Some(range) = &range {
                (entry.start_percent, entry.end_percent) = (Some(range.0), Some(range.1));
            }
        });
        outputs.push(Value::object(match before {
            Some(before) => call.object::<Conditioning>(before)?.combine(&conditioning),
            None => conditioning,
        }));
    }
    Ok(NodeOutput::values(outputs))
}

fn combine(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let all = conditionings(call, ["positive_A", "negative_A", "positive_B", "negative_B"])?;
    Ok(NodeOutput::values((0..2).map(|i| Value::object(all[i].combine(&all[i + 2])))))
}

fn set_default<const N: usize>(call: &Call<'_, '_>, inputs: [(&str, &str); N]) -> Result<NodeOutput> {
    let before = conditionings(call, inputs.map(|(name, _)| name))?;
    let defaults = with_hooks(call, conditionings(call, inputs.map(|(_, name)| name))?)?;
    let both = before.into_iter().zip(defaults);
    Ok(NodeOutput::values(both.map(|(before, default)| Value::object(before.combine(&default.map(|entry| entry.is_default = true))))))
}

fn range(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (start, end) = (call.float("start_percent")?, call.float("end_percent")?);
    let ranges = [TimestepsRange(start, end), TimestepsRange(0.0, start), TimestepsRange(end, 1.0)];
    Ok(NodeOutput::values(ranges.map(Value::object)))
}
