//! What people paint over pictures.

use comfyd_folders::Kind;
use comfyd_imaging::decode;
use comfyd_imaging::resample::{self, Filter};
use comfyd_node::{CancellationToken, Error, Fingerprint, Input, Inputs, NodeOutput, Result, Schema, Value};
use comfyd_values::{Image, Mask};
use ndarray::{Array3, Axis, s};

use super::load::file_fingerprint;
use crate::class::{Call, Class};
use crate::saving;
use crate::services::State;

pub(crate) const CLASSES: &[Class] = &[Class::new(
    || {
        Schema::new("Painter")
            .category("image")
            .module("comfy_extras.nodes_painter")
            .schema_generation()
            .description("Paints over a picture, or over a ground of one colour, in the browser.")
            .aliases(["draw", "brush", "sketch", "mask"])
            .input(
                Input::text("mask")
                    .default("")
                    .socketless()
                    .option("widgetType", "PAINTER")
                    .option("image_upload", true)
                    .tooltip("The file that the browser uploads."),
            )
            .input(Input::int("width").default(512).min(64).max(4096).step(64).socketless().option("hidden", true).tooltip("Pixels wide."))
            .input(Input::int("height").default(512).min(64).max(4096).step(64).socketless().option("hidden", true).tooltip("Pixels high."))
            .input(Input::link("bg_color", "COLOR").default("#000000").socketless().tooltip("The colour of the ground without a picture."))
            .input(Input::link("image", "IMAGE").tooltip("What is painted over.").optional())
            .output("IMAGE")
            .output("MASK")
            .intermediate_output()
    },
    paint,
)
.fingerprint(fingerprint)];

fn paint(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let ground = match call.inputs.optional("image") {
        Some(_) => Image(call.image("image")?.0.slice_move(s![..1, .., .., ..])),
        None => {
            let (width, height) = (call.count("width", 1)?, call.count("height", 1)?);
            call.reserve(&[1, height, width, 3])?;
            Image::solid(1, height, width, color(call.text("bg_color")?))
        }
    };
    let (height, width) = (ground.height(), ground.width());
    call.reserve(&[1, height, width])?;
    let name = call.text("mask")?;
    let (image, mask) = if name.trim().is_empty() {
        (ground, Mask::solid(1, height, width, 0.0))
    } else {
        if ground.channels() != 3 {
            return Err(Error::msg(format!("pictures of {} channels cannot be painted over; give it one of three", ground.channels())));
        }
        let bytes = call.state.read(&call.state.input_file(name)?)?;
        call.reserve(&[3, height, width, 4])?;
        let painted = call.decoded(bytes, move |bytes, limits| {
            resample::resize(&decode::raster(bytes, limits)?.to_rgba(), width, height, Filter::Lanczos)
        })?;
        call.aside(ground.0.len(), move || {
            let painted = painted.to_image().0;
            let mut mask = Array3::zeros((1, height, width));
            let mut image = ground.0.to_owned();
            for ((mut pixel, over), mask) in image.lanes_mut(Axis(3)).into_iter().zip(painted.lanes(Axis(3))).zip(&mut mask) {
                *mask = over[3];
                pixel.iter_mut().zip(over).for_each(|(value, over_value)| *value = over_value * over[3] + *value * (1.0 - over[3]));
            }
            (Image::new(image), Mask::new(mask))
        })?
    };
    let shown = saving::save_png(call, &image, Kind::Temp, &call.state.preview_prefix, saving::PREVIEW_COMPRESSION)?;
    Ok(NodeOutput { values: NodeOutput::values([Value::from(image), Value::from(mask)]).values, ..shown })
}

/// `#rrggbb`, black otherwise, as the reference has it.
pub(crate) fn color(text: &str) -> u32 {
    let digits = text.trim_start_matches('#');
    if digits.len() == 6 && digits.is_ascii() { u32::from_str_radix(digits, 16).unwrap_or(0) } else { 0 }
}

fn fingerprint(state: &State, inputs: &Inputs, cancel: &CancellationToken) -> Result<Fingerprint> {
    match inputs.optional("mask") {
        Some(Value::Text(name)) if name.trim().is_empty() => Ok(Fingerprint::Inputs),
        // Without a file there is an error, which the node tells.
        Some(Value::Text(name)) if state.input_file(name).is_err() => Ok(Fingerprint::Always),
        Some(_) => file_fingerprint(state, inputs, cancel, "mask"),
        None => Ok(Fingerprint::Always),
    }
}
