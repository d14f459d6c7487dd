//! Latents laid onto each other, and the mask that limits sampling.

use comfyd_imaging::blend::{self, Paste};
use comfyd_imaging::resize::{Crop, Method};
use comfyd_node::{Error, Input, NodeOutput, Result, Schema};
use comfyd_values::Mask;
use ndarray::Axis;

use crate::class::{CELL, Call, Class, MAX_RESOLUTION};
use crate::latent::arrays::{Samples, expect_picture, fit_batch, narrow, shape_text};
use crate::resize;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("LatentComposite")
                .display("Latent Composite")
                .category("model/latent")
                .description("Pastes one latent onto another, with soft edges if wanted.")
                .aliases(["put onto", "collage"])
                .input(Input::link("samples_to", "LATENT"))
                .input(Input::link("samples_from", "LATENT"))
                .input(Input::int("x").default(0).min(0).max(MAX_RESOLUTION).step(8).tooltip("Distance from the left edge, in pixels."))
                .input(Input::int("y").default(0).min(0).max(MAX_RESOLUTION).step(8).tooltip("Distance from the top edge, in pixels."))
                .input(Input::int("feather").default(0).min(0).max(MAX_RESOLUTION).step(8).tooltip("Width of the soft edge, in pixels."))
                .output("LATENT")
        },
        composite,
    ),
    Class::new(
        || {
            Schema::new("LatentCompositeMasked")
                .display("Latent Composite Masked")
                .category("model/latent")
                .module("comfy_extras.nodes_mask")
                .schema_generation()
                .description("Pastes one latent onto another, through a mask if there is one.")
                .aliases(["paste with mask", "collage"])
                .input(Input::link("destination", "LATENT"))
                .input(Input::link("source", "LATENT"))
                .input(Input::int("x").default(0).min(0).max(MAX_RESOLUTION).step(8).tooltip("Distance from the left edge, in pixels."))
                .input(Input::int("y").default(0).min(0).max(MAX_RESOLUTION).step(8).tooltip("Distance from the top edge, in pixels."))
                .input(Input::bool("resize_source").default(false).tooltip("Stretches the source to the destination's size first."))
                .input(Input::link("mask", "MASK").optional())
                .output("LATENT")
        },
        composite_masked,
    ),
    Class::new(
        || {
            Schema::new("LatentBlend")
                .display("Latent Blend")
                .category("experimental")
                .description("Mixes two latents.")
                .aliases(["average of latents", "fade"])
                .input(Input::link("samples1", "LATENT"))
                .input(Input::link("samples2", "LATENT"))
                .input(Input::float("blend_factor").default(0.5).min(0).max(1).step(0.01).tooltip("Share of the first one."))
                .output("LATENT")
        },
        blend,
    ),
    Class::new(
        || {
            Schema::new("SetLatentNoiseMask")
                .display("Set Latent Noise Mask")
                .category("model/latent")
                .description("Limits sampling to the masked area: the rest stays as it is.")
                .input(Input::link("samples", "LATENT"))
                .input(Input::link("mask", "MASK"))
                .output("LATENT")
        },
        set_mask,
    ),
];

fn composite(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (mut to, from) = (call.latent("samples_to")?, call.latent("samples_from")?.samples);
    expect_picture(&to.samples, "samples_to")?;
    expect_picture(&from, "samples_from")?;
    let feather = call.count("feather", 0)? / CELL;
    let mut place = [0; 2];
    let mut from = from;
    for (i, name) in ["y", "x"].into_iter().enumerate() {
        let side = to.samples.shape()[i + 2];
        // What begins outside changes nothing.
        place[i] = (call.count(name, 0)? / CELL).min(side);
        let length = from.shape()[i + 2].min(side - place[i]);
        from = narrow(call, &from, i + 2, 0, length)?;
    }
    if from.is_empty() {
        return Ok(NodeOutput::one(to));
    }
    let from = fit_batch_of_one(call, &from, &to.samples)?;
    let [y, x] = place;
    let (height, width) = (from.shape()[2], from.shape()[3]);
    // An edge is soft where it does not lie on the destination's edge.
    let soft = [y != 0, y + height < to.samples.shape()[2], x != 0, x + width < to.samples.shape()[3]];
    let weights = [weights(height, feather, soft[0], soft[1]), weights(width, feather, soft[2], soft[3])];
    let samples = to.samples.clone();
    to.samples = call.aside(samples.len(), move || {
        let mut samples = samples.into_owned();
        let mut target = samples.view_mut();
        target.slice_axis_inplace(Axis(2), (y..y + height).into());
        target.slice_axis_inplace(Axis(3), (x..x + width).into());
        for (index, value) in target.indexed_iter_mut() {
            let weight = weights[0][index[2]] * weights[1][index[3]];
            *value = from[&index] * weight + *value * (1.0 - weight);
        }
        samples.into_shared()
    })?;
    Ok(NodeOutput::one(to))
}

/// How much of the pasted latent counts at each place of an axis: rising over `feather` places from a soft edge.
fn weights(length: usize, feather: usize, soft_start: bool, soft_end: bool) -> Vec<f32> {
    let mut weights = vec![1.0; length];
    for step in 0..feather.min(2 * length) {
        let rate = (1.0 / feather as f64 * (step + 1) as f64) as f32;
        if let (true, Some(weight)) = (soft_start, weights.get_mut(step)) {
            *weight *= rate;
        }
        // Past the start the reference's positions become negative and count from the end again, except for the first.
        let from_end = if step > length { 2 * length - 1 - step } else { (length - 1).wrapping_sub(step) };
        if let (true, Some(weight)) = (soft_end, weights.get_mut(from_end)) {
            *weight *= rate;
        }
    }
    weights
}

/// A batch of one serves all samples; other batches must agree.
fn fit_batch_of_one(call: &Call<'_, '_>, from: &Samples, to: &Samples) -> Result<Samples> {
    let from = if from.shape()[0] == 1 { fit_batch(call, from, to.shape()[0])? } else { from.clone() };
    if from.shape()[..2] == to.shape()[..2] {
        return Ok(from);
    }
    let (a, b) = (shape_text(to.shape()), shape_text(from.shape()));
    Err(Error::msg(format!("a latent of shape {b} cannot be pasted onto one of shape {a}; make batch and channels equal")))
}

fn composite_masked(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (mut destination, source) = (call.latent("destination")?, call.latent("source")?);
    expect_picture(&destination.samples, "destination")?;
    expect_picture(&source.samples, "source")?;
    let mask = call.mask_optional("mask")?;
    let Paste { x, y, resize_source, .. } = paste(call, None)?;
    let (onto, values) = (destination.samples.clone(), destination.samples.len() + source.samples.len());
    let pasted = move || blend::paste_latent(&onto, &source.samples, &Paste { x, y, resize_source, mask: mask.as_ref() });
    destination.samples = call.apart(values, pasted)?;
    Ok(NodeOutput::one(destination))
}

/// Where and how to paste, from the inputs that the two masked composites share.
pub(crate) fn paste<'a>(call: &Call<'_, '_>, mask: Option<&'a Mask>) -> Result<Paste<'a>> {
    Ok(Paste { x: call.int("x")?, y: call.int("y")?, mask, resize_source: call.bool("resize_source")? })
}

fn blend(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (mut first, mut second) = (call.latent("samples1")?, call.latent("samples2")?.samples);
    let factor = call.float("blend_factor")?;
    if first.samples.shape() != second.shape() {
        expect_picture(&first.samples, "samples1")?;
        expect_picture(&second, "samples2")?;
        let (height, width) = (first.samples.shape()[2], first.samples.shape()[3]);
        second = resize::latent(call, &second, width, height, Method::Bicubic, Crop::Center)?;
        second = fit_batch_of_one(call, &second, &first.samples)?;
    }
    let (share, rest) = (factor as f32, (1.0 - factor) as f32);
    let mut samples = first.samples.clone();
    first.samples = call.aside(samples.len(), move || {
        samples.zip_mut_with(&second, |a, b| *a = *a * share + b * rest);
        samples
    })?;
    Ok(NodeOutput::one(first))
}

fn set_mask(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut latent = call.latent("samples")?;
    let mask = call.mask("mask")?;
    latent.noise_mask = Some(mask.0.insert_axis(Axis(1)).into_dyn());
    Ok(NodeOutput::one(latent))
}
