//! Arithmetic with latents.

use comfyd_node::{Error, Input, NodeOutput, Result, Schema};
use comfyd_values::Latent;
use ndarray::{Axis, ShapeError, Slice, Zip};

use crate::class::{Call, Class, MAX_RESOLUTION, unknown_choice};
use crate::latent::arrays::{Samples, fit_batch, join, narrow, shape_text};
use crate::resize;

pub(crate) const CLASSES: &[Class] =
    &[
        Class::new(
            || {
                Schema::new("LatentAdd")
                    .no_display()
                    .category("model/latent/advanced")
                    .module("comfy_extras.nodes_latent")
                    .schema_generation()
                    .description("Adds two latents.")
                    .aliases(["plus"])
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
                    .aliases(["minus"])
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
                    .aliases(["times", "brighter latent"])
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
                    .aliases(["between two latents", "blend"])
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
                    .aliases(["append", "along an axis"])
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
                    .aliases(["part of a latent", "along an axis"])
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
        Class::new(
            || {
                Schema::new("LatentCutToBatch")
                    .no_display()
                    .category("model/latent/advanced")
                    .module("comfy_extras.nodes_latent")
                    .schema_generation()
                    .description("Cuts a latent into slices along an axis, each of which becomes one of the batch.")
                    .aliases(["frames to batch", "unstack", "divide"])
                    .input(Input::link("samples", "LATENT").tooltip("The latent."))
                    .input(Input::combo("dim", ["t", "x", "y"]).tooltip("t: time, x: width, y: height."))
                    .input(
                        Input::int("slice_size")
                            .default(1)
                            .min(1)
                            .max(MAX_RESOLUTION)
                            .step(1)
                            .tooltip("How thick a slice is; a rest is left away."),
                    )
                    .output("LATENT")
            },
            cut_to_batch,
        ),
        Class::new(
            || {
                Schema::new("ReplaceVideoLatentFrames")
                    .display("Replace Video Latent Frames")
                    .category("model/latent/batch")
                    .module("comfy_extras.nodes_latent")
                    .schema_generation()
                    .description("Puts the frames of one video latent in place of some of another. Where they do not fit, nothing changes.")
                    .aliases(["insert frames", "paste latent frames"])
                    .input(Input::link("destination", "LATENT").tooltip("The latent whose frames are replaced."))
                    .input(Input::link("source", "LATENT").optional().tooltip("The frames to put there."))
                    .input(
                        Input::int("index").default(0).min(-MAX_RESOLUTION).max(MAX_RESOLUTION).step(1).tooltip(
                            "The first frame that is replaced, counted in frames of the latent; negative ones count from the end.",
                        ),
                    )
                    .output("LATENT")
            },
            replace_frames,
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

fn cut_to_batch(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut latent = call.latent("samples")?;
    let dim = axis(&latent.samples, call.text("dim")?).unwrap_or(0);
    if dim < 2 {
        return Ok(NodeOutput::one(latent));
    }
    let side = latent.samples.shape()[dim];
    let thick = call.count("slice_size", 1)?.min(side);
    let samples = narrow(call, &latent.samples, dim, 0, side / thick * thick)?;
    call.reserve(samples.shape())?;
    latent.samples = call
        .aside(samples.len(), move || {
            // The axis before the channels: each slice takes the place of a whole latent.
            let mut order: Vec<usize> = (0..samples.ndim()).filter(|axis| *axis != dim).collect();
            order.insert(1, dim);
            let moved = samples.view().permuted_axes(order).as_standard_layout().into_owned();
            let mut shape = moved.shape().to_vec();
            (shape[0], shape[1]) = (shape[0] * (shape[1] / thick), thick);
            let slices = moved.into_shape_with_order(shape)?;
            let mut back: Vec<usize> = (0..slices.ndim()).filter(|axis| *axis != 1).collect();
            back.insert(dim, 1);
            Ok::<_, ShapeError>(slices.permuted_axes(back).as_standard_layout().into_owned().into_shared())
        })?
        .map_err(Error::other)?;
    Ok(NodeOutput::one(latent))
}

fn replace_frames(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let destination = call.latent("destination")?;
    if call.inputs.optional("source").is_none() {
        return Ok(NodeOutput::one(destination));
    }
    let mut source = call.latent("source")?;
    let frames = |latent: &Latent| latent.samples.shape()[2];
    let (there, new) = (frames(&destination), frames(&source));
    let index = call.int::<i64>("index")?;
    let start = if index < 0 { there.checked_sub(index.unsigned_abs() as usize) } else { Some(index as usize) };
    let Some(start) = start.filter(|start| start.saturating_add(new) <= there) else { return Ok(NodeOutput::one(destination)) };
    let fits = destination.samples.ndim() == source.samples.ndim()
        && (0..source.samples.ndim()).all(|axis| axis == 2 || destination.samples.shape()[axis] == source.samples.shape()[axis]);
    if !fits {
        let (a, b) = (shape_text(source.samples.shape()), shape_text(destination.samples.shape()));
        return Err(Error::msg(format!("frames of shape {a} do not fit into a latent of shape {b}; make all axes but the third equal")));
    }
    call.reserve(destination.samples.shape())?;
    source.samples = call.aside(destination.samples.len(), move || {
        let mut samples = destination.samples.into_owned();
        samples.slice_axis_mut(Axis(2), Slice::from(start..start + new)).assign(&source.samples);
        samples.into_shared()
    })?;
    Ok(NodeOutput::one(source))
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
