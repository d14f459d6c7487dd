//! Conditionings put together, bounded in place and time, and weakened.

use comfyd_engine::{Area, CondEntry, Conditioning};
use comfyd_node::{Error, Input, NodeOutput, Result, Schema, Value};

use crate::class::{CELL, Call, Class};
use crate::tensors;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("ConditioningCombine")
                .display("Conditioning (Combine)")
                .category("conditioning")
                .description("Puts two conditionings side by side: the model runs with each, and the predictions are averaged.")
                .input(Input::link("conditioning_1", "CONDITIONING"))
                .input(Input::link("conditioning_2", "CONDITIONING"))
                .output("CONDITIONING")
        },
        combine,
    ),
    Class::new(
        || {
            Schema::new("ConditioningAverage")
                .category("conditioning")
                .description("Mixes two conditionings into one.")
                .input(Input::link("conditioning_to", "CONDITIONING"))
                .input(Input::link("conditioning_from", "CONDITIONING"))
                .input(
                    Input::float("conditioning_to_strength")
                        .default(1.0)
                        .min(0.0)
                        .max(1.0)
                        .step(0.01)
                        .tooltip("The share of the first input."),
                )
                .output("CONDITIONING")
        },
        average,
    ),
    Class::new(
        || {
            Schema::new("ConditioningConcat")
                .display("Conditioning (Concat)")
                .category("conditioning")
                .description("Appends the tokens of one conditioning to another, as if the prompts were one.")
                .input(Input::link("conditioning_to", "CONDITIONING"))
                .input(Input::link("conditioning_from", "CONDITIONING"))
                .output("CONDITIONING")
        },
        concat,
    ),
    Class::new(
        || {
            Schema::new("ConditioningSetArea")
                .display("Conditioning (Set Area)")
                .category("conditioning")
                .description("Confines a conditioning to a rectangle.")
                .input(Input::link("conditioning", "CONDITIONING"))
                .input(Input::int("width").default(64).min(64).max(16384).step(8).tooltip("Width."))
                .input(Input::int("height").default(64).min(64).max(16384).step(8).tooltip("Height."))
                .input(Input::int("x").default(0).min(0).max(16384).step(8).tooltip("Left edge."))
                .input(Input::int("y").default(0).min(0).max(16384).step(8).tooltip("Upper edge."))
                .input(
                    Input::float("strength").default(1.0).min(0.0).max(10.0).step(0.01).tooltip("Weight of this prompt inside the area."),
                )
                .output("CONDITIONING")
        },
        set_area,
    ),
    Class::new(
        || {
            Schema::new("ConditioningSetAreaPercentage")
                .display("Conditioning (Set Area with Percentage)")
                .category("conditioning")
                .description("Confines a conditioning to a rectangle given in parts of the picture.")
                .input(Input::link("conditioning", "CONDITIONING"))
                .input(Input::float("width").default(1.0).min(0).max(1.0).step(0.01).tooltip("Width."))
                .input(Input::float("height").default(1.0).min(0).max(1.0).step(0.01).tooltip("Height."))
                .input(Input::float("x").default(0).min(0).max(1.0).step(0.01).tooltip("Left edge."))
                .input(Input::float("y").default(0).min(0).max(1.0).step(0.01).tooltip("Upper edge."))
                .input(Input::float("strength").default(1.0).min(0.0).max(10.0).step(0.01).tooltip("How strong the effect is."))
                .output("CONDITIONING")
        },
        set_area_percentage,
    ),
    Class::new(
        || {
            Schema::new("ConditioningSetAreaStrength")
                .category("conditioning")
                .description("Sets the weight of a conditioning.")
                .input(Input::link("conditioning", "CONDITIONING"))
                .input(Input::float("strength").default(1.0).min(0.0).max(10.0).step(0.01).tooltip("How strong the effect is."))
                .output("CONDITIONING")
        },
        set_strength,
    ),
    Class::new(
        || {
            Schema::new("ConditioningSetMask")
                .display("Conditioning (Set Mask)")
                .category("conditioning")
                .description("Confines a conditioning to a mask.")
                .input(Input::link("conditioning", "CONDITIONING"))
                .input(Input::link("mask", "MASK"))
                .input(Input::float("strength").default(1.0).min(0.0).max(10.0).step(0.01).tooltip("How strong the effect is."))
                .input(Input::combo("set_cond_area", ["default", "mask bounds"]))
                .output("CONDITIONING")
        },
        set_mask,
    ),
    Class::new(
        || {
            Schema::new("ConditioningZeroOut")
                .category("advanced/conditioning")
                .description("Replaces a conditioning by zeros, which some models take as no prompt at all.")
                .input(Input::link("conditioning", "CONDITIONING"))
                .output("CONDITIONING")
        },
        zero_out,
    ),
    Class::new(
        || {
            Schema::new("ConditioningSetTimestepRange")
                .category("advanced/conditioning")
                .description("Confines a conditioning to a part of the sampling.")
                .input(Input::link("conditioning", "CONDITIONING"))
                .input(
                    Input::float("start")
                        .default(0.0)
                        .min(0.0)
                        .max(1.0)
                        .step(0.001)
                        .tooltip("The part of the sampling after which it begins."),
                )
                .input(
                    Input::float("end").default(1.0).min(0.0).max(1.0).step(0.001).tooltip("The part of the sampling after which it ends."),
                )
                .output("CONDITIONING")
        },
        set_timestep_range,
    ),
];

fn combine(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (first, second) = (call.object::<Conditioning>("conditioning_1")?, call.object::<Conditioning>("conditioning_2")?);
    conditioning(first.combine(&second))
}

fn average(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (to, from) = (call.object::<Conditioning>("conditioning_to")?, call.object::<Conditioning>("conditioning_from")?);
    conditioning(to.average(&from, call.float("conditioning_to_strength")?)?)
}

fn concat(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (to, from) = (call.object::<Conditioning>("conditioning_to")?, call.object::<Conditioning>("conditioning_from")?);
    conditioning(to.concat(&from)?)
}

fn set_area(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let cells = |name: &str| Ok::<_, Error>(call.int::<usize>(name)? / CELL);
    let area = Area::Latent { height: cells("height")?, width: cells("width")?, y: cells("y")?, x: cells("x")? };
    with_area(call, area)
}

fn set_area_percentage(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let area = Area::Percent { height: call.float("height")?, width: call.float("width")?, y: call.float("y")?, x: call.float("x")? };
    with_area(call, area)
}

fn with_area(call: &Call<'_, '_>, area: Area) -> Result<NodeOutput> {
    let strength = call.float("strength")?;
    change(call, |entry| {
        entry.area = Some(area);
        entry.strength = Some(strength);
        entry.set_area_to_bounds = false;
    })
}

fn set_strength(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let strength = call.float("strength")?;
    change(call, |entry| entry.strength = Some(strength))
}

fn set_mask(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mask = tensors::mask(call, &call.mask("mask")?)?;
    let strength = call.float("strength")?;
    let to_bounds = call.text("set_cond_area")? != "default";
    change(call, |entry| {
        entry.mask = Some(mask.clone());
        entry.set_area_to_bounds = to_bounds;
        entry.mask_strength = Some(strength);
    })
}

fn zero_out(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    conditioning(call.object::<Conditioning>("conditioning")?.zero_out()?)
}

fn set_timestep_range(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (start, end) = (call.float("start")?, call.float("end")?);
    change(call, |entry| {
        entry.start_percent = Some(start);
        entry.end_percent = Some(end);
    })
}

/// The conditioning of the input with every entry changed.
fn change(call: &Call<'_, '_>, f: impl FnMut(&mut CondEntry)) -> Result<NodeOutput> {
    conditioning(call.object::<Conditioning>("conditioning")?.map(f))
}

fn conditioning(conditioning: Conditioning) -> Result<NodeOutput> {
    Ok(NodeOutput::one(Value::object(conditioning)))
}
