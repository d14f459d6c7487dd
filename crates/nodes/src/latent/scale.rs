//! Latents resized.

use comfyd_imaging::resize::Crop;
use comfyd_node::{Input, NodeOutput, Result, Schema};

use crate::class::{CELL, Call, Class, MAX_RESOLUTION};
use crate::latent::arrays::Samples;
use crate::resize;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("LatentUpscale")
                .display("Upscale Latent")
                .category("model/latent")
                .description("Resizes latents to a width and a height; 0 for one of them keeps the proportions.")
                .aliases(["latent size", "hires fix"])
                .input(Input::link("samples", "LATENT"))
                .input(Input::combo("upscale_method", ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"]))
                .input(
                    Input::int("width")
                        .default(512)
                        .min(0)
                        .max(MAX_RESOLUTION)
                        .step(8)
                        .tooltip("Pixels wide, after decoding; 0 follows the height."),
                )
                .input(
                    Input::int("height")
                        .default(512)
                        .min(0)
                        .max(MAX_RESOLUTION)
                        .step(8)
                        .tooltip("Pixels high, after decoding; 0 follows the width."),
                )
                .input(Input::combo("crop", ["disabled", "center"]))
                .output("LATENT")
        },
        upscale,
    ),
    Class::new(
        || {
            Schema::new("LatentUpscaleBy")
                .display("Upscale Latent By")
                .category("model/latent")
                .description("Resizes latents by a factor.")
                .aliases(["latent size", "hires fix", "zoom"])
                .input(Input::link("samples", "LATENT"))
                .input(Input::combo("upscale_method", ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"]))
                .input(
                    Input::float("scale_by").default(1.5).min(0.01).max(8.0).step(0.01).tooltip("The factor: 2 doubles width and height."),
                )
                .output("LATENT")
        },
        upscale_by,
    ),
];

fn upscale(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut latent = call.latent("samples")?;
    let (width, height) = (call.count("width", 0)?, call.count("height", 0)?);
    let (own_height, own_width) = size(&latent.samples);
    let proportional = |a: usize, b: usize, c: usize| (a as f64 * b as f64 / c as f64).round_ties_even() as usize;
    let (width, height) = match (width, height) {
        (0, 0) => return Ok(NodeOutput::one(latent)),
        (0, height) => (proportional(own_width, height.max(64), own_height), height),
        (width, 0) => (width, proportional(own_height, width.max(64), own_width)),
        (width, height) => (width, height),
    };
    let method = call.method("upscale_method")?;
    let crop = call.crop("crop")?;
    latent.samples = resize::latent(call, &latent.samples, width.max(64) / CELL, height.max(64) / CELL, method, crop)?;
    Ok(NodeOutput::one(latent))
}

fn upscale_by(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut latent = call.latent("samples")?;
    let factor = call.float("scale_by")?;
    let (height, width) = size(&latent.samples);
    let scaled = |side: usize| (side as f64 * factor).round_ties_even() as usize;
    let method = call.method("upscale_method")?;
    latent.samples = resize::latent(call, &latent.samples, scaled(width), scaled(height), method, Crop::Disabled)?;
    Ok(NodeOutput::one(latent))
}

/// Height and width: the last two axes.
fn size(samples: &Samples) -> (usize, usize) {
    let shape = samples.shape();
    (shape[shape.len() - 2], shape[shape.len() - 1])
}
