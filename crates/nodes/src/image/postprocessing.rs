//! Effects on finished pictures, edges and shapes.

use comfyd_imaging::quantize::{self, Dither};
use comfyd_imaging::{blend, canny, filter, morphology};
use comfyd_node::{Error, Input, NodeOutput, Result, Schema};
use comfyd_values::Image;

use crate::class::{Call, Class};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("ImageBlend")
                .display("Blend Images")
                .category("image/filters")
                .essentials("Image Tools")
                .module("comfy_extras.nodes_post_processing")
                .schema_generation()
                .description("Mixes two pictures the way layers of a paint program do.")
                .aliases(["mix", "multiply", "screen", "overlay"])
                .input(Input::link("image1", "IMAGE").tooltip("The lower layer."))
                .input(Input::link("image2", "IMAGE").tooltip("The upper layer, resized to the lower one."))
                .input(
                    Input::float("blend_factor")
                        .default(0.5)
                        .min(0.0)
                        .max(1.0)
                        .step(0.01)
                        .tooltip("Share of the mixed layer in the result."),
                )
                .input(
                    Input::combo("blend_mode", ["normal", "multiply", "screen", "overlay", "soft_light", "difference"])
                        .tooltip("How the layers mix."),
                )
                .output("IMAGE")
        },
        blend,
    ),
    Class::new(
        || {
            Schema::new("ImageBlur")
                .display("Blur Image")
                .category("image/filters")
                .module("comfy_extras.nodes_post_processing")
                .schema_generation()
                .description("Blurs pictures with a Gaussian bell.")
                .input(Input::link("image", "IMAGE").tooltip("The pictures."))
                .input(Input::int("blur_radius").default(1).min(1).max(31).step(1).tooltip("Reach in pixels."))
                .input(Input::float("sigma").default(1.0).min(0.1).max(10.0).step(0.1).tooltip("Width of the bell, in parts of the reach."))
                .output("IMAGE")
        },
        blur,
    ),
    Class::new(
        || {
            Schema::new("ImageQuantize")
                .display("Quantize Image")
                .category("image/filters")
                .module("comfy_extras.nodes_post_processing")
                .schema_generation()
                .description("Reduces pictures to a few colours chosen from them.")
                .input(Input::link("image", "IMAGE").tooltip("The pictures."))
                .input(Input::int("colors").default(256).min(1).max(256).step(1).tooltip("How many colours."))
                .input(
                    Input::combo("dither", ["none", "floyd-steinberg", "bayer-2", "bayer-4", "bayer-8", "bayer-16"])
                        .tooltip("Pattern that hides the missing colours."),
                )
                .output("IMAGE")
        },
        quantize,
    ),
    Class::new(
        || {
            Schema::new("ImageSharpen")
                .display("Sharpen Image")
                .category("image/filters")
                .module("comfy_extras.nodes_post_processing")
                .schema_generation()
                .description("Sharpens pictures.")
                .input(Input::link("image", "IMAGE").tooltip("The pictures."))
                .input(Input::int("sharpen_radius").default(1).min(1).max(31).step(1).tooltip("Reach in pixels.").advanced())
                .input(
                    Input::float("sigma")
                        .default(1.0)
                        .min(0.1)
                        .max(10.0)
                        .step(0.01)
                        .tooltip("Width of the bell, in parts of the reach.")
                        .advanced(),
                )
                .input(Input::float("alpha").default(1.0).min(0.0).max(5.0).step(0.01).tooltip("Strength.").advanced())
                .output("IMAGE")
        },
        sharpen,
    ),
    Class::new(
        || {
            Schema::new("Morphology")
                .display("Apply Morphology")
                .category("image/filters")
                .module("comfy_extras.nodes_morphology")
                .schema_generation()
                .description("Grows and shrinks bright areas, and what is made of that: opening, closing, outlines.")
                .aliases(["opening", "closing", "grow", "shrink"])
                .input(Input::link("image", "IMAGE").tooltip("The pictures."))
                .input(
                    Input::combo("operation", ["erode", "dilate", "open", "close", "gradient", "bottom_hat", "top_hat"])
                        .tooltip("What to do with bright areas."),
                )
                .input(
                    Input::int("kernel_size")
                        .default(3)
                        .min(3)
                        .max(999)
                        .step(1)
                        .tooltip("Side of the square that is looked at around each pixel."),
                )
                .output("IMAGE")
        },
        morphology,
    ),
    Class::new(
        || {
            Schema::new("Canny")
                .display("Detect Edges (Canny)")
                .category("image/filters")
                .essentials("Image Tools")
                .module("comfy_extras.nodes_canny")
                .schema_generation()
                .description("Draws the edges in pictures as white lines on black (Canny's method).")
                .aliases(["edges", "lines", "contours"])
                .input(Input::link("image", "IMAGE").tooltip("The pictures."))
                .input(
                    Input::float("low_threshold")
                        .default(0.4)
                        .min(0.01)
                        .max(0.99)
                        .step(0.01)
                        .tooltip("Edges weaker than this are dropped."),
                )
                .input(
                    Input::float("high_threshold")
                        .default(0.8)
                        .min(0.01)
                        .max(0.99)
                        .step(0.01)
                        .tooltip("Edges stronger than this are kept; those between are kept where they continue a strong one."),
                )
                .output("IMAGE")
        },
        canny,
    ),
];

fn blend(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (first, second) = (call.image("image1")?, call.image("image2")?);
    let mode: blend::BlendMode = call.text("blend_mode")?.parse().map_err(Error::other)?;
    let factor = call.float("blend_factor")? as f32;
    // The second is scaled to the first's size before its batch counts.
    call.reserve(&[second.batch(), first.height(), first.width(), first.channels()])?;
    Ok(NodeOutput::one(call.apart(first.0.len() + second.0.len(), move || blend::blend(&first, &second, factor, mode))?))
}

fn blur(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let image = call.image("image")?;
    let (radius, sigma) = (call.count("blur_radius", 0)?, call.float("sigma")?);
    if radius == 0 {
        return Ok(NodeOutput::one(image));
    }
    each_picture(call, &image, move |image| filter::blur(image, radius, sigma))
}

fn sharpen(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let image = call.image("image")?;
    let (radius, sigma, alpha) = (call.count("sharpen_radius", 0)?, call.float("sigma")?, call.float("alpha")?);
    if radius == 0 {
        return Ok(NodeOutput::one(image));
    }
    each_picture(call, &image, move |image| filter::sharpen(image, radius, sigma, alpha))
}

fn morphology(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let operation: morphology::Operation = call.text("operation")?.parse().map_err(Error::other)?;
    let kernel_size = call.count("kernel_size", 1)?;
    each_picture(call, &call.image("image")?, move |image| morphology::apply(image, operation, kernel_size))
}

fn quantize(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let dither: Dither = call.text("dither")?.parse().map_err(Error::other)?;
    let colors = call.count("colors", 1)?;
    each_picture(call, &call.image("image")?, move |image| quantize::quantize(image, colors, dither))
}

fn canny(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (low, high) = (call.float("low_threshold")? as f32, call.float("high_threshold")? as f32);
    each_picture(call, &call.image("image")?, move |image| canny::canny(image, low, high))
}

/// A node's one output, of what becomes of each picture alone.
fn each_picture(
    call: &Call<'_, '_>,
    images: &Image,
    work: impl Fn(&Image) -> comfyd_imaging::Result<Image> + Send + Sync + 'static,
) -> Result<NodeOutput> {
    // What they take between.
    call.room(2 * size_of::<f32>() as u64 * (images.0.len() / images.batch().max(1)) as u64)?;
    Ok(NodeOutput::one(Image(call.one_by_one(&images.0, move |one| work(&Image(one)).map(|done| done.0))?)))
}
