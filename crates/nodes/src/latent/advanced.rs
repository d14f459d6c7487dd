//! Arithmetic with latents.

use comfyd_node::{Error, Input, NodeOutput, Result, Schema};
use comfyd_values::Latent;
use ndarray::{Axis, Zip};

use crate::class::{Call, Class, MAX_RESOLUTION, unknown_choice};
use crate::latent::arrays::{Samples, fit_batch, join, narrow, shape_text};
use crate::resize;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("LatentAdd")
                .no_display()
                .category("model/latent/advanced")
                .module("comfy_extras.nodes_latent")
                .schema_generation()
                .description("Adds two latents.")
                .input(Input::link("samples1", "LATENT").tooltip("The first latent."))
                .input(Input::link("samples2", "LATENT").tooltip("The second latent, made to fit the first."))
                .output("LATENT")
        },
        add,
    ),
    Class::new(
        || {
            Schema::new("LatentSubtract")
                .no_display()
                .category("model/latent/advanced")
                .module("comfy_extras.nodes_latent")
                .schema_generation()
                .description("Subtracts the second latent from the first.")
                .input(Input::link("samples1", "LATENT").tooltip("The first latent."))
                .input(Input::link("samples2", "LATENT").tooltip("The second latent, made to fit the first."))
                .output("LATENT")
        },
        subtract,
    ),
    Class::new(
        || {
            Schema::new("LatentMultiply")
                .no_display()
                .category("model/latent/advanced")
                .module("comfy_extras.nodes_latent")
                .schema_generation()
                .description("Multiplies a latent by a number.")
                .input(Input::link("samples", "LATENT").tooltip("The latent."))
                .input(Input::float("multiplier").default(1.0).min(-10.0).max(10.0).step(0.01).tooltip("The number."))
                .output("LATENT")
        },
        multiply,
    ),
    Class::new(
        || {
            Schema::new("LatentInterpolate")
                .no_display()
                .category("model/latent/advanced")
                .module("comfy_extras.nodes_latent")
                .schema_generation()
                .description(
                    "Goes from the second latent to the first along directions and lengths apart, which keeps \
                     contrast.",
                )
                .input(Input::link("samples1", "LATENT").tooltip("The first latent."))
                .input(Input::link("samples2", "LATENT").tooltip("The second latent, made to fit the first."))
                .input(Input::float("ratio").default(1.0).min(0.0).max(1.0).step(0.01).tooltip("Share of the first one."))
                .output("LATENT")
        },
        interpolate,
    ),
    Class::new(
        || {
            Schema::new("LatentConcat")
                .no_display()
                .category("model/latent/advanced")
                .module("comfy_extras.nodes_latent")
                .schema_generation()
                .description("Joins two latents along an axis.")
                .input(Input::link("samples1", "LATENT").tooltip("The first latent."))
                .input(Input::link("samples2", "LATENT").tooltip("The second latent."))
                .input(Input::combo("dim", ["x", "-x", "y", "-y", "t", "-t"]).tooltip(
                    "x: side by side, y: one above the other, t: one after the other; with minus the second comes \
                     first.",
                ))
                .output("LATENT")
        },
        concat,
    ),
    Class::new(
        || {
            Schema::new("LatentCut")
                .no_display()
                .category("model/latent/advanced")
                .module("comfy_extras.nodes_latent")
                .schema_generation()
                .description("Takes a slice of a latent along an axis.")
                .input(Input::link("samples", "LATENT").tooltip("The latent."))
                .input(Input::combo("dim", ["x", "y", "t"]).tooltip("x: width, y: height, t: time."))
                .input(
                    Input::int("index")
                        .default(0)
                        .min(-MAX_RESOLUTION)
                        .max(MAX_RESOLUTION)
                        .step(1)
                        .tooltip("Where the slice begins; a negative number counts from the end."),
                )
                .input(Input::int("amount").default(1).min(1).max(MAX_RESOLUTION).step(1).tooltip("How thick the slice is."))
                .output("LATENT")
        },
        cut,
    ),
];

/// The two latents of a call, the second one's samples made to fit the first's.
fn pair(call: &Call<'_, '_>) -> Result<(Latent, Samples)> {
    let first = call.latent("samples1")?;
    let second = call.latent("samples2")?.samples;
    let second = resize::like(call, &second, &first.samples)?;
    let second = fit_batch(call, &second, first.samples.shape()[0])?;
    if second.shape() != first.samples.shape() {
        let (a, b) = (shape_text(first.samples.shape()), shape_text(second.shape()));
        return Err(Error::msg(format!("latents of shape {a} and {b} do not go together; take both from the same kind of model")));
    }
    Ok((first, second))
}

fn add(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (mut first, second) = pair(call)?;
    let samples = first.samples.clone();
    first.samples = call.aside(samples.len(), move || (samples + second).into_shared())?;
    Ok(NodeOutput::one(first))
}

fn subtract(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (mut first, second) = pair(call)?;
    let samples = first.samples.clone();
    first.samples = call.aside(samples.len(), move || (samples - second).into_shared())?;
    Ok(NodeOutput::one(first))
}

fn multiply(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut latent = call.latent("samples")?;
    let factor = call.float("multiplier")? as f32;
    let samples = latent.samples.clone();
    latent.samples = call.aside(samples.len(), move || samples.mapv(|value| value * factor).into_shared())?;
    Ok(NodeOutput::one(latent))
}

/// Each sample's latent vectors (axis 1) as length and direction; a vector of zeros has no direction and stays zeros.
///
/// The reference divides (B, C, H, W) by lengths (B, H, W), which only fits for one sample of one picture or where the batch equals the
/// channels; for a single sample both agree.
fn interpolate(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (mut first, second) = pair(call)?;
    let ratio = call.float("ratio")? as f32;
    let rest = (1.0 - call.float("ratio")?) as f32;
    let samples = first.samples.clone();
    first.samples = call.aside(samples.len(), move || interpolated(samples, &second, ratio, rest))?;
    Ok(NodeOutput::one(first))
}

fn interpolated(samples: Samples, second: &Samples, ratio: f32, rest: f32) -> Samples {
    let mut out = samples.into_owned();
    Zip::from(out.lanes_mut(Axis(1))).and(second.lanes(Axis(1))).for_each(|mut a, b| {
        let length = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
        let (length_a, length_b) = (length(&mut a.iter().copied()), length(&mut b.iter().copied()));
        let unit = |value: f32, length: f32| if length > 0.0 { value / length } else { 0.0 };
        a.zip_mut_with(&b, |a, b| *a = unit(*a, length_a) * ratio + unit(*b, length_b) * rest);
        let mixed = length(&mut a.iter().copied());
        let wanted = length_a * ratio + length_b * rest;
        a.mapv_inplace(|value| unit(value, mixed) * wanted);
    });
    out.into_shared()
}

/// The axis that a choice names, counted from the end.
fn axis(samples: &Samples, dim: &str) -> Result<usize> {
    let back = match dim.trim_start_matches('-') {
        "x" => 1,
        "y" => 2,
        "t" => 3,
        _ => return Err(unknown_choice("dim", dim)),
    };
    samples.ndim().checked_sub(back).ok_or_else(|| Error::msg(format!("the latent has no axis '{dim}'")))
}

fn concat(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut first = call.latent("samples1")?;
    let second = fit_batch(call, &call.latent("samples2")?.samples, first.samples.shape()[0])?;
    let dim = call.text("dim")?;
    let axis = axis(&first.samples, dim)?;
    let parts = if dim.starts_with('-') { [&second, &first.samples] } else { [&first.samples, &second] };
    first.samples = join(call, &parts, axis)?;
    Ok(NodeOutput::one(first))
}

fn cut(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut latent = call.latent("samples")?;
    let axis = axis(&latent.samples, call.text("dim")?)?;
    let side = latent.samples.shape()[axis];
    let (index, amount) = (call.int::<i64>("index")?, call.count("amount", 1)?);
    let start = if index >= 0 { (index as usize).min(side - 1) } else { side.saturating_sub(index.unsigned_abs() as usize) };
    latent.samples = narrow(call, &latent.samples, axis, start, amount.min(side - start))?;
    Ok(NodeOutput::one(latent))
}
