//! Pictures cropped, joined, turned, mirrored.

use comfyd_folders::Kind;
use comfyd_imaging::transform::{self, Stitch};
use comfyd_node::{Error, Input, NodeOutput, Result, Schema};
use comfyd_values::Image;
use ndarray::Axis;
use serde_json::{Map, Value as Json, json};

use crate::class::{Call, Class, MAX_RESOLUTION, unknown_choice};
use crate::saving;

/// The axes of pictures.
const ROWS: Axis = Axis(1);
const COLUMNS: Axis = Axis(2);

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("ImageCrop")
                .display("Crop Image (DEPRECATED)")
                .deprecated()
                .category("image/transform")
                .essentials("Image Tools")
                .module("comfy_extras.nodes_images")
                .schema_generation()
                .description("Cuts a rectangle out of pictures; what lies outside the picture is left away.")
                .aliases(["cut out", "rectangle"])
                .input(Input::link("image", "IMAGE"))
                .input(Input::int("width").default(512).min(1).max(MAX_RESOLUTION).step(1).tooltip("Pixels wide."))
                .input(Input::int("height").default(512).min(1).max(MAX_RESOLUTION).step(1).tooltip("Pixels high."))
                .input(Input::int("x").default(0).min(0).max(MAX_RESOLUTION).step(1).tooltip("Distance from the left edge, in pixels."))
                .input(Input::int("y").default(0).min(0).max(MAX_RESOLUTION).step(1).tooltip("Distance from the top edge, in pixels."))
                .output("IMAGE")
        },
        crop,
    ),
    Class::new(
        || {
            let whole = json!({"x": 0, "y": 0, "width": 512, "height": 512});
            Schema::new("ImageCropV2")
                .display("Crop Image")
                .category("image/transform")
                .essentials("Image Tools")
                .module("comfy_extras.nodes_images")
                .schema_generation()
                .description("Cuts a rectangle out of pictures, which is drawn over them; what lies outside the picture is left away.")
                .aliases(["cut out", "clip", "region"])
                .input(Input::link("image", "IMAGE").tooltip("The pictures."))
                .input(
                    Input::link("crop_region", "BOUNDING_BOX")
                        .default(whole)
                        .socketless()
                        .option("component", "ImageCrop")
                        .tooltip("The rectangle, in pixels."),
                )
                .output("IMAGE")
                .intermediate_output()
        },
        crop_region,
    ),
    Class::new(
        || {
            let side = |name: &str, default: i64, min: i64, text: &str| {
                Input::int(name).default(default).min(min).max(MAX_RESOLUTION).tooltip(text)
            };
            Schema::new("PrimitiveBoundingBox")
                .display("Bounding Box")
                .category("utilities/primitive")
                .module("comfy_extras.nodes_images")
                .schema_generation()
                .description("A rectangle of numbers.")
                .aliases(["region", "rectangle", "crop area"])
                .input(side("x", 0, 0, "Distance from the left edge, in pixels."))
                .input(side("y", 0, 0, "Distance from the top edge, in pixels."))
                .input(side("width", 512, 1, "Pixels wide."))
                .input(side("height", 512, 1, "Pixels high."))
                .output("BOUNDING_BOX")
        },
        bounding_box,
    ),
    Class::new(
        || {
            Schema::new("ImageStitch")
                .display("Stitch Images")
                .category("image/transform")
                .module("comfy_extras.nodes_images")
                .schema_generation()
                .description(
                    "Puts a second picture beside, above or below the first, with a gap if wanted. Without a \
                     second picture the first is passed on.",
                )
                .aliases(["next to each other", "panorama", "collage"])
                .input(Input::link("image1", "IMAGE"))
                .input(
                    Input::combo("direction", ["right", "down", "left", "up"]).default("right").tooltip("Where the second picture goes."),
                )
                .input(
                    Input::bool("match_image_size")
                        .default(true)
                        .tooltip("Resizes the second picture to fit the first; off fills the smaller one up."),
                )
                .input(Input::int("spacing_width").default(0).min(0).max(1024).step(2).tooltip("Pixels between the two.").advanced())
                .input(
                    Input::combo("spacing_color", ["white", "black", "red", "green", "blue"])
                        .default("white")
                        .tooltip("Colour of the gap.")
                        .advanced(),
                )
                .input(Input::link("image2", "IMAGE").optional())
                .output("IMAGE")
        },
        stitch,
    ),
    Class::new(
        || {
            Schema::new("ResizeAndPadImage")
                .display("Resize And Pad Image")
                .category("image/transform")
                .module("comfy_extras.nodes_images")
                .schema_generation()
                .description(
                    "Resizes pictures to fit into a size with their proportions kept and fills the rest with one \
                     colour.",
                )
                .aliases(["letterbox", "keep proportions"])
                .input(Input::link("image", "IMAGE"))
                .input(Input::int("target_width").default(512).min(1).max(MAX_RESOLUTION).step(1).tooltip("Pixels wide."))
                .input(Input::int("target_height").default(512).min(1).max(MAX_RESOLUTION).step(1).tooltip("Pixels high."))
                .input(Input::combo("padding_color", ["white", "black"]).advanced())
                .input(Input::combo("interpolation", ["area", "bicubic", "nearest-exact", "bilinear", "lanczos"]).advanced())
                .output("IMAGE")
        },
        resize_and_pad,
    ),
    Class::new(
        || {
            Schema::new("ImageRotate")
                .display("Rotate Image")
                .category("image/transform")
                .essentials("Image Tools")
                .module("comfy_extras.nodes_images")
                .schema_generation()
                .description("Turns pictures clockwise in steps of a quarter.")
                .aliases(["90 degrees", "quarter turn"])
                .input(Input::link("image", "IMAGE"))
                .input(Input::combo("rotation", ["none", "90 degrees", "180 degrees", "270 degrees"]))
                .output("IMAGE")
        },
        rotate,
    ),
    Class::new(
        || {
            Schema::new("ImageFlip")
                .display("Flip Image")
                .category("image/transform")
                .module("comfy_extras.nodes_images")
                .schema_generation()
                .description("Mirrors pictures.")
                .aliases(["upside down", "left and right"])
                .input(Input::link("image", "IMAGE"))
                .input(Input::combo("flip_method", ["x-axis: vertically", "y-axis: horizontally"]))
                .output("IMAGE")
        },
        flip,
    ),
];

fn crop(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (x, y) = (call.count("x", 0)?, call.count("y", 0)?);
    let (width, height) = (call.count("width", 1)?, call.count("height", 1)?);
    let image = call.image("image")?;
    Ok(NodeOutput::one(call.apart(image.0.len(), move || transform::crop(&image, x, y, width, height))?))
}

fn bounding_box(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut sides = Map::new();
    for name in ["x", "y", "width", "height"] {
        sides.insert(name.into(), call.int::<i64>(name)?.into());
    }
    Ok(NodeOutput::one(&Json::Object(sides)))
}

fn crop_region(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let value = call.inputs.value("crop_region")?.to_json();
    let region = value.as_object().ok_or_else(|| Error::msg("input 'crop_region' is no rectangle: give it x, y, width and height"))?;
    let side = |name: &str, absent: u64| {
        let Some(given) = region.get(name) else { return Ok(absent as usize) };
        let whole = given.as_u64().or_else(|| given.as_f64().filter(|side| *side >= 0.0 && *side < 1e9).map(|side| side as u64));
        whole
            .map(|side| side as usize)
            .ok_or_else(|| Error::msg(format!("'{name}' of input 'crop_region' is {given}; give it pixels, 0 or more")))
    };
    let (x, y, width, height) = (side("x", 0)?, side("y", 0)?, side("width", 512)?, side("height", 512)?);
    let image = call.image("image")?;
    let cut = call.apart(image.0.len(), move || transform::crop(&image, x, y, width, height))?;
    let saved = saving::save_png(call, &cut, Kind::Temp, &call.state.preview_prefix, saving::PREVIEW_COMPRESSION)?;
    Ok(saved.with_ui("animated", vec![json!(false)]))
}

fn rotate(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let turns = quarter_turns(call)?;
    let image = call.image("image")?;
    Ok(NodeOutput::one(call.aside(image.0.len(), move || Image(transform::rotate(&image.0, turns, ROWS, COLUMNS)))?))
}

/// Clockwise, from the choice `rotation`.
pub(crate) fn quarter_turns(call: &Call<'_, '_>) -> Result<usize> {
    match call.text("rotation")? {
        "none" => Ok(0),
        "90 degrees" => Ok(1),
        "180 degrees" => Ok(2),
        "270 degrees" => Ok(3),
        other => Err(unknown_choice("rotation", other)),
    }
}

fn flip(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let axis = flip_axis(call, ROWS, COLUMNS)?;
    let image = call.image("image")?;
    Ok(NodeOutput::one(call.aside(image.0.len(), move || Image(transform::flip(&image.0, axis)))?))
}

/// The axis to mirror, from the choice `flip_method`.
pub(crate) fn flip_axis(call: &Call<'_, '_>, rows: Axis, columns: Axis) -> Result<Axis> {
    match call.text("flip_method")? {
        "x-axis: vertically" => Ok(rows),
        "y-axis: horizontally" => Ok(columns),
        other => Err(unknown_choice("flip_method", other)),
    }
}

fn resize_and_pad(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let image = call.image("image")?;
    let (width, height) = (call.count("target_width", 1)?, call.count("target_height", 1)?);
    let fill = match call.text("padding_color")? {
        "white" => 1.0,
        "black" => 0.0,
        other => return Err(unknown_choice("padding_color", other)),
    };
    let method = call.method("interpolation")?;
    call.reserve(&[image.batch(), height, width, image.channels()])?;
    let resize = move |one| transform::resize_and_pad(&Image(one), width, height, fill, method).map(|done| done.0);
    Ok(NodeOutput::one(Image(call.one_by_one(&image.0, resize)?)))
}

fn stitch(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let first = call.image("image1")?;
    if call.inputs.optional("image2").is_none() {
        return Ok(NodeOutput::one(first));
    }
    let second = call.image("image2")?;
    let color = match call.text("spacing_color")? {
        "white" => [1.0; 3],
        "black" => [0.0; 3],
        "red" => [1.0, 0.0, 0.0],
        "green" => [0.0, 1.0, 0.0],
        "blue" => [0.0, 0.0, 1.0],
        other => return Err(unknown_choice("spacing_color", other)),
    };
    let options = Stitch {
        direction: call.text("direction")?.parse().map_err(Error::other)?,
        match_size: call.bool("match_image_size")?,
        spacing: call.count("spacing_width", 0)?,
        color,
    };
    reserve_stitched(call, &first, &second, &options)?;
    Ok(NodeOutput::one(call.apart(usize::MAX, move || transform::stitch(&first, &second, &options))?))
}

/// Announces the largest result that stitching these may have.
fn reserve_stitched(call: &Call<'_, '_>, first: &Image, second: &Image, options: &Stitch) -> Result<()> {
    let horizontal = matches!(options.direction, transform::Direction::Left | transform::Direction::Right);
    // How long each picture is along the seam and across it.
    let sides = |image: &Image| if horizontal { (image.height(), image.width()) } else { (image.width(), image.height()) };
    let ((along, across), (other_along, other_across)) = (sides(first), sides(second));
    let (along, other_across) = match options.match_size {
        true => (along, (along as f64 / other_along as f64 * other_across as f64) as usize),
        false => (along.max(other_along), other_across),
    };
    let across = across.saturating_add(other_across).saturating_add(options.spacing).saturating_add(1);
    call.reserve(&[first.batch().max(second.batch()), along, across, first.channels().max(second.channels())])
}
