//! Pictures resized.

use comfyd_imaging::resize::{Crop, Method};
use comfyd_imaging::transform;
use comfyd_node::{Input, NodeOutput, Result, Schema};

use crate::class::{Call, Class, MAX_RESOLUTION};
use crate::resize;

/// The sizes that Flux Kontext was trained with, as width and height.
const KONTEXT_SIZES: [(usize, usize); 17] = [
    (672, 1568),
    (688, 1504),
    (720, 1456),
    (752, 1392),
    (800, 1328),
    (832, 1248),
    (880, 1184),
    (944, 1104),
    (1024, 1024),
    (1104, 944),
    (1184, 880),
    (1248, 832),
    (1328, 800),
    (1392, 752),
    (1456, 720),
    (1504, 688),
    (1568, 672),
];

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("ImageScale")
                .display("Upscale Image")
                .category("image/upscaling")
                .essentials("Image Tools")
                .description("Resizes pictures to a width and a height; 0 for one of them keeps the proportions.")
                .aliases(["size", "width and height", "shrink"])
                .input(Input::link("image", "IMAGE"))
                .input(Input::combo("upscale_method", ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]))
                .input(Input::int("width").default(512).min(0).max(MAX_RESOLUTION).step(1).tooltip("Pixels wide; 0 follows the height."))
                .input(Input::int("height").default(512).min(0).max(MAX_RESOLUTION).step(1).tooltip("Pixels high; 0 follows the width."))
                .input(Input::combo("crop", ["disabled", "center"]))
                .output("IMAGE")
        },
        scale,
    ),
    Class::new(
        || {
            Schema::new("ImageScaleBy")
                .display("Upscale Image By")
                .category("image/upscaling")
                .essentials("Image Tools")
                .description("Resizes pictures by a factor.")
                .aliases(["size", "zoom", "factor"])
                .input(Input::link("image", "IMAGE"))
                .input(Input::combo("upscale_method", ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]))
                .input(
                    Input::float("scale_by").default(1.0).min(0.01).max(8.0).step(0.01).tooltip("The factor: 2 doubles width and height."),
                )
                .output("IMAGE")
        },
        scale_by,
    ),
    Class::new(
        || {
            Schema::new("ImageScaleToTotalPixels")
                .display("Scale Image to Total Pixels")
                .category("image/upscaling")
                .module("comfy_extras.nodes_post_processing")
                .schema_generation()
                .description("Resizes pictures to a number of pixels and keeps the proportions.")
                .input(Input::link("image", "IMAGE").tooltip("The pictures."))
                .input(
                    Input::combo("upscale_method", ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"])
                        .tooltip("How new pixels are computed."),
                )
                .input(
                    Input::float("megapixels")
                        .default(1.0)
                        .min(0.01)
                        .max(16.0)
                        .step(0.01)
                        .tooltip("Wanted size; 1 megapixel is 1024 x 1024 pixels."),
                )
                .input(
                    Input::int("resolution_steps")
                        .default(1)
                        .min(1)
                        .max(256)
                        .advanced()
                        .newer()
                        .tooltip("Width and height become multiples of this."),
                )
                .output("IMAGE")
        },
        scale_to_total,
    ),
    Class::new(
        || {
            Schema::new("ImageScaleToMaxDimension")
                .display("Scale Image to Max Dimension")
                .category("image/upscaling")
                .module("comfy_extras.nodes_images")
                .schema_generation()
                .description("Resizes pictures so that the longer side gets a length, and keeps the proportions.")
                .input(Input::link("image", "IMAGE"))
                .input(Input::combo("upscale_method", ["area", "lanczos", "bilinear", "nearest-exact", "bilinear", "bicubic"]))
                .input(Input::int("largest_size").default(512).min(0).max(MAX_RESOLUTION).step(1).tooltip("Pixels of the longer side."))
                .output("IMAGE")
        },
        scale_to_longest,
    ),
    Class::new(
        || {
            Schema::new("FluxKontextImageScale")
                .no_display()
                .category("model/conditioning/flux")
                .module("comfy_extras.nodes_flux")
                .schema_generation()
                .description("Resizes and crops pictures to the nearest of the sizes that Flux Kontext was trained with.")
                .input(Input::link("image", "IMAGE").tooltip("The pictures."))
                .output("IMAGE")
        },
        scale_for_kontext,
    ),
];

/// Python's `round` of a length.
fn round(length: f64) -> usize {
    length.round_ties_even() as usize
}

fn method(call: &Call<'_, '_>) -> Result<Method> {
    call.method("upscale_method")
}

fn scale(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let image = call.image("image")?;
    let proportional = |a: usize, b: usize, c: usize| round(a as f64 * b as f64 / c as f64).max(1);
    let (width, height) = match (call.count("width", 0)?, call.count("height", 0)?) {
        (0, 0) => return Ok(NodeOutput::one(image)),
        (0, height) => (proportional(image.width(), height, image.height()), height),
        (width, 0) => (width, proportional(image.height(), width, image.width())),
        (width, height) => (width, height),
    };
    let crop = call.crop("crop")?;
    Ok(NodeOutput::one(resize::image(call, &image, width, height, method(call)?, crop)?))
}

fn scale_by(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let image = call.image("image")?;
    let factor = call.float("scale_by")?;
    let (width, height) = (round(image.width() as f64 * factor), round(image.height() as f64 * factor));
    Ok(NodeOutput::one(resize::image(call, &image, width, height, method(call)?, Crop::Disabled)?))
}

fn scale_to_total(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let image = call.image("image")?;
    // Prompts for older versions do not have it.
    let step = if call.inputs.contains("resolution_steps") { call.count("resolution_steps", 1)? } else { 1 };
    let (width, height) = transform::total_pixels_size(image.width(), image.height(), call.float("megapixels")?, step);
    Ok(NodeOutput::one(resize::image(call, &image, width, height, method(call)?, Crop::Disabled)?))
}

fn scale_to_longest(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let image = call.image("image")?;
    let (width, height) = transform::max_dimension_size(image.width(), image.height(), call.count("largest_size", 1)?);
    Ok(NodeOutput::one(resize::image(call, &image, width, height, method(call)?, Crop::Disabled)?))
}

fn scale_for_kontext(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let image = call.image("image")?;
    let aspect = image.width() as f64 / image.height() as f64;
    let distance = |(width, height): (usize, usize)| (aspect - width as f64 / height as f64).abs();
    let (mut width, mut height) = KONTEXT_SIZES[0];
    for size in KONTEXT_SIZES {
        if distance(size) < distance((width, height)) {
            (width, height) = size;
        }
    }
    Ok(NodeOutput::one(resize::image(call, &image, width, height, Method::Lanczos, Crop::Center)?))
}
