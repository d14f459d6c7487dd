//! Pictures and masks scaled to a size that is told in many ways.

use comfyd_imaging::resize::{Crop, Method};
use comfyd_node::{Branch, Input, NodeOutput, Result, Schema, Value};
use comfyd_values::{Image, Mask};
use ndarray::{Axis, s};

use crate::class::{Call, Class, MAX_RESOLUTION, unknown_choice};
use crate::resize;

pub(crate) const CLASSES: &[Class] = &[Class::new(schema, scale)];

fn schema() -> Schema {
    let side = |name: &str, text: &str| Input::int(name).default(512).min(0).max(MAX_RESOLUTION).step(1).tooltip(text);
    let crop = || {
        Input::combo("crop", ["disabled", "center"])
            .default("center")
            .tooltip("What becomes of another shape: it is stretched, or cut off on both sides.")
    };
    let match_to = Input::link("match", "IMAGE,MASK").tooltip("A picture or a mask of the wanted size.");
    let factor =
        Input::float("multiplier").default(1.0).min(0.01).max(8.0).step(0.01).tooltip("How many times larger: 0.5 halves both sides.");
    let total =
        Input::float("megapixels").default(1.0).min(0.01).max(16.0).step(0.01).tooltip("Wanted size; 1 megapixel is 1024 x 1024 pixels.");
    let multiple = Input::int("multiple")
        .default(8)
        .min(1)
        .max(MAX_RESOLUTION)
        .step(1)
        .tooltip("Both sides become multiples of this; what is too much is cut off.");
    Schema::new("ResizeImageMaskNode")
        .display("Resize Image/Mask")
        .category("image/transform")
        .module("comfy_extras.nodes_post_processing")
        .schema_generation()
        .description("Scales pictures or masks, to a size that can be told in several ways.")
        .aliases(["resize", "scale", "upscale", "downscale", "shrink", "enlarge", "size"])
        .input(Input::matching("input", "input_type", "IMAGE,MASK").tooltip("Pictures or masks."))
        .input(
            Input::branch(
                "resize_type",
                [
                    Branch::new(
                        "scale dimensions",
                        [
                            side("width", "Wanted width in pixels; 0 follows from the height."),
                            side("height", "Wanted height in pixels; 0 follows from the width."),
                            crop(),
                        ],
                    ),
                    Branch::new("scale by multiplier", [factor]),
                    Branch::new("scale longer dimension", [side("longer_size", "Pixels of the longer side.")]),
                    Branch::new("scale shorter dimension", [side("shorter_size", "Pixels of the shorter side.")]),
                    Branch::new("scale width", [side("width", "Wanted width in pixels; the height follows.")]),
                    Branch::new("scale height", [side("height", "Wanted height in pixels; the width follows.")]),
                    Branch::new("scale total pixels", [total]),
                    Branch::new("match size", [match_to, crop()]),
                    Branch::new("scale to multiple", [multiple]),
                ],
            )
            .tooltip("How the new size is told."),
        )
        .input(
            Input::combo("scale_method", ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"])
                .default("area")
                .tooltip("How new pixels are computed: area suits shrinking, lanczos enlarging, nearest-exact pixel art."),
        )
        .output_matching("resized", "input_type")
}

/// Pictures, or masks as pictures of one channel.
enum Pixels {
    Image(Image),
    Mask(Image),
}

impl Pixels {
    fn of(call: &Call<'_, '_>, name: &str) -> Result<Self> {
        if call.inputs.value(name)?.downcast::<Mask>().is_some() {
            return Ok(Self::Mask(Image(call.mask(name)?.0.insert_axis(Axis(3)))));
        }
        call.image(name).map(Self::Image)
    }

    fn image(&self) -> &Image {
        match self {
            Self::Image(image) | Self::Mask(image) => image,
        }
    }

    fn with(self, image: Image) -> Value {
        match self {
            Self::Image(_) => image.into(),
            Self::Mask(_) => Mask(image.0.remove_axis(Axis(3))).into(),
        }
    }
}

/// Python's `round` of a length.
fn round(length: f64) -> usize {
    length.round_ties_even() as usize
}

/// The size with one side given, if that is not 0.
fn proportional(size: (usize, usize), width: usize, height: usize) -> (usize, usize) {
    let other = |a: usize, b: usize, c: usize| round(a as f64 * b as f64 / c as f64).max(1);
    match (width, height) {
        (0, height) => (other(size.0, height, size.1), height),
        (width, 0) => (width, other(size.1, width, size.0)),
        both => both,
    }
}

fn scale(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let pixels = Pixels::of(call, "input")?;
    let method = call.method("scale_method")?;
    let (wide, high) = (pixels.image().width(), pixels.image().height());
    let side = |name: &str| call.count(&format!("resize_type.{name}"), 0);
    let mut crop = Crop::Disabled;
    let (width, height) = match call.text("resize_type")? {
        "scale dimensions" | "scale width" | "scale height" => {
            let given = |name: &str| if call.inputs.contains(&format!("resize_type.{name}")) { side(name) } else { Ok(0) };
            let (width, height) = (given("width")?, given("height")?);
            if (width, height) == (0, 0) {
                return Ok(NodeOutput::one(call.inputs.value("input")?.clone()));
            }
            if call.inputs.contains("resize_type.crop") {
                crop = call.crop("resize_type.crop")?;
            }
            proportional((wide, high), width, height)
        }
        "scale by multiplier" => {
            let factor = call.float("resize_type.multiplier")?;
            (round(wide as f64 * factor), round(high as f64 * factor))
        }
        "scale longer dimension" => to_side(wide, high, side("longer_size")?, wide > high),
        "scale shorter dimension" => to_side(wide, high, side("shorter_size")?, wide < high),
        "scale total pixels" => {
            let total = (call.float("resize_type.megapixels")? * 1024.0 * 1024.0).trunc();
            let factor = (total / (wide as f64 * high as f64)).sqrt();
            (round(wide as f64 * factor), round(high as f64 * factor))
        }
        "match size" => {
            let other = Pixels::of(call, "resize_type.match")?;
            crop = call.crop("resize_type.crop")?;
            (other.image().width(), other.image().height())
        }
        "scale to multiple" => return to_multiple(call, pixels, call.count("resize_type.multiple", 1)?, method),
        other => return Err(unknown_choice("resize_type", other)),
    };
    let scaled = resize::image(call, pixels.image(), width, height, method, crop)?;
    Ok(NodeOutput::one(pixels.with(scaled)))
}

/// The size with the width, or else the height, of so many pixels.
fn to_side(wide: usize, high: usize, pixels: usize, by_width: bool) -> (usize, usize) {
    let other = |a: usize, b: usize| round(a as f64 / b as f64 * pixels as f64);
    match (wide == high, by_width) {
        (true, _) => (pixels, pixels),
        (false, true) => (pixels, other(high, wide)),
        (false, false) => (other(wide, high), pixels),
    }
}

/// Scales so far that the largest multiples below the sides are covered, and cuts these out of the middle.
fn to_multiple(call: &Call<'_, '_>, pixels: Pixels, multiple: usize, method: Method) -> Result<NodeOutput> {
    let (wide, high) = (pixels.image().width(), pixels.image().height());
    let (width, height) = (wide / multiple * multiple, high / multiple * multiple);
    if width == 0 || height == 0 || (width, height) == (wide, high) {
        let own = pixels.image().clone();
        return Ok(NodeOutput::one(pixels.with(own)));
    }
    let (by_width, by_height) = (width as f64 / wide as f64, height as f64 / high as f64);
    let covering = if by_width >= by_height {
        (width, ((high as f64 * by_width).ceil() as usize).max(height))
    } else {
        (((wide as f64 * by_height).ceil() as usize).max(width), height)
    };
    let scaled = resize::image(call, pixels.image(), covering.0, covering.1, method, Crop::Disabled)?;
    let (left, top) = ((covering.0 - width) / 2, (covering.1 - height) / 2);
    let cut = call.aside(scaled.0.len(), move || scaled.0.slice(s![.., top..top + height, left..left + width, ..]).to_shared())?;
    Ok(NodeOutput::one(pixels.with(Image(cut))))
}
