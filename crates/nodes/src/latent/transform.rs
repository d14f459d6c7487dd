//! Latents turned, mirrored, cropped.

use comfyd_imaging::transform;
use comfyd_node::{Error, Input, NodeOutput, Result, Schema};
use ndarray::Axis;

use crate::class::{CELL, Call, Class, MAX_RESOLUTION};
use crate::image::transform::{flip_axis, quarter_turns};
use crate::latent::arrays::{expect_picture, narrow};

/// The axes of picture latents.
const ROWS: Axis = Axis(2);
const COLUMNS: Axis = Axis(3);

/// What cropping leaves at least, in cells: 64 pixels.
const MIN_SIDE: usize = 64 / CELL;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("LatentRotate")
                .display("Rotate Latent")
                .category("model/latent/transform")
                .description("Turns latents clockwise in steps of a quarter.")
                .input(Input::link("samples", "LATENT"))
                .input(Input::combo("rotation", ["none", "90 degrees", "180 degrees", "270 degrees"]))
                .output("LATENT")
        },
        rotate,
    ),
    Class::new(
        || {
            Schema::new("LatentFlip")
                .display("Flip Latent")
                .category("model/latent/transform")
                .description("Mirrors latents.")
                .aliases(["turn over", "horizontally", "vertically"])
                .input(Input::link("samples", "LATENT"))
                .input(Input::combo("flip_method", ["x-axis: vertically", "y-axis: horizontally"]))
                .output("LATENT")
        },
        flip,
    ),
    Class::new(
        || {
            Schema::new("LatentCrop")
                .display("Crop Latent")
                .category("model/latent/transform")
                .description("Cuts a rectangle out of latents.")
                .aliases(["cut out", "rectangle"])
                .input(Input::link("samples", "LATENT"))
                .input(Input::int("width").default(512).min(64).max(MAX_RESOLUTION).step(8).tooltip("Pixels wide, after decoding."))
                .input(Input::int("height").default(512).min(64).max(MAX_RESOLUTION).step(8).tooltip("Pixels high, after decoding."))
                .input(Input::int("x").default(0).min(0).max(MAX_RESOLUTION).step(8).tooltip("Distance from the left edge, in pixels."))
                .input(Input::int("y").default(0).min(0).max(MAX_RESOLUTION).step(8).tooltip("Distance from the top edge, in pixels."))
                .output("LATENT")
        },
        crop,
    ),
];

fn rotate(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut latent = call.latent("samples")?;
    expect_picture(&latent.samples, "samples")?;
    let (samples, turns) = (latent.samples.clone(), quarter_turns(call)?);
    latent.samples = call.aside(samples.len(), move || transform::rotate(&samples, turns, ROWS, COLUMNS))?;
    Ok(NodeOutput::one(latent))
}

fn flip(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut latent = call.latent("samples")?;
    expect_picture(&latent.samples, "samples")?;
    let (samples, axis) = (latent.samples.clone(), flip_axis(call, ROWS, COLUMNS)?);
    latent.samples = call.aside(samples.len(), move || transform::flip(&samples, axis))?;
    Ok(NodeOutput::one(latent))
}

fn crop(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut latent = call.latent("samples")?;
    expect_picture(&latent.samples, "samples")?;
    for (axis, start, length) in [(2, "y", "height"), (3, "x", "width")] {
        let side = latent.samples.shape()[axis];
        if side < MIN_SIDE {
            return Err(Error::msg(format!("the latent's {length} is {side} latent pixels; cropping needs at least {MIN_SIDE}")));
        }
        let start = (call.count(start, 0)? / CELL).min(side - MIN_SIDE);
        let length = (call.count(length, CELL)? / CELL).min(side - start);
        latent.samples = narrow(call, &latent.samples, axis, start, length)?;
    }
    Ok(NodeOutput::one(latent))
}
