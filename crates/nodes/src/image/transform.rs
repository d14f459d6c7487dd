//! Pictures cropped, joined, turned, mirrored.

use comfyd_imaging::Image;
use comfyd_node::{Error, Input, NodeOutput, Result, Schema};
use ndarray::{Array4, Axis, concatenate, s};

use crate::class::{Call, Class, MAX_RESOLUTION, unknown_choice};
use crate::resize::{self, Crop, Method};
use crate::values;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("ImageCrop")
                .display("Image Crop")
                .category("image/transform")
                .module("comfy_extras.nodes_images")
                .description("Cuts a rectangle out of pictures; what lies outside the picture is left away.")
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
            Schema::new("ImageStitch")
                .display("Image Stitch")
                .category("image/transform")
                .module("comfy_extras.nodes_images")
                .description(
                    "Puts a second picture beside, above or below the first, with a gap if wanted. Without a \
                     second picture the first is passed on.",
                )
                .input(Input::link("image1", "IMAGE"))
                .input(
                    Input::combo("direction", ["right", "down", "left", "up"]).default("right").tooltip("Where the second picture goes."),
                )
                .input(
                    Input::bool("match_image_size")
                        .default(true)
                        .tooltip("Resizes the second picture to fit the first; off fills the smaller one up."),
                )
                .input(Input::int("spacing_width").default(0).min(0).max(1024).step(2).tooltip("Pixels between the two."))
                .input(
                    Input::combo("spacing_color", ["white", "black", "red", "green", "blue"])
                        .default("white")
                        .tooltip("Colour of the gap."),
                )
                .input(Input::link("image2", "IMAGE").optional())
                .output("IMAGE")
        },
        stitch,
    ),
    Class::new(
        || {
            Schema::new("ResizeAndPadImage")
                .category("image/transform")
                .module("comfy_extras.nodes_images")
                .description(
                    "Resizes pictures to fit into a size with their proportions kept and fills the rest with one \
                     colour.",
                )
                .input(Input::link("image", "IMAGE"))
                .input(Input::int("target_width").default(512).min(1).max(MAX_RESOLUTION).step(1).tooltip("Pixels wide."))
                .input(Input::int("target_height").default(512).min(1).max(MAX_RESOLUTION).step(1).tooltip("Pixels high."))
                .input(Input::combo("padding_color", ["white", "black"]))
                .input(Input::combo("interpolation", ["area", "bicubic", "nearest-exact", "bilinear", "lanczos"]))
                .output("IMAGE")
        },
        resize_and_pad,
    ),
    Class::new(
        || {
            Schema::new("ImageRotate")
                .category("image/transform")
                .module("comfy_extras.nodes_images")
                .description("Turns pictures clockwise in steps of a quarter.")
                .input(Input::link("image", "IMAGE"))
                .input(Input::combo("rotation", ["none", "90 degrees", "180 degrees", "270 degrees"]))
                .output("IMAGE")
        },
        rotate,
    ),
    Class::new(
        || {
            Schema::new("ImageFlip")
                .category("image/transform")
                .module("comfy_extras.nodes_images")
                .description("Mirrors pictures.")
                .input(Input::link("image", "IMAGE"))
                .input(Input::combo("flip_method", ["x-axis: vertically", "y-axis: horizontally"]))
                .output("IMAGE")
        },
        flip,
    ),
];

fn crop(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let image = call.image("image")?;
    let x = call.count("x", 0)?.min(image.width() - 1);
    let y = call.count("y", 0)?.min(image.height() - 1);
    let right = call.count("width", 1)?.saturating_add(x).min(image.width());
    let bottom = call.count("height", 1)?.saturating_add(y).min(image.height());
    values::image(Image::new(image.0.slice(s![.., y..bottom, x..right, ..]).to_owned()))
}

fn rotate(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut turned = call.image("image")?.0;
    match call.text("rotation")? {
        "none" => {}
        "90 degrees" => {
            turned.invert_axis(Axis(1));
            turned.swap_axes(1, 2);
        }
        "180 degrees" => {
            turned.invert_axis(Axis(1));
            turned.invert_axis(Axis(2));
        }
        "270 degrees" => {
            turned.invert_axis(Axis(2));
            turned.swap_axes(1, 2);
        }
        other => return Err(unknown_choice("rotation", other)),
    }
    values::image(Image(turned.as_standard_layout().to_shared()))
}

fn flip(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut turned = call.image("image")?.0;
    match call.text("flip_method")? {
        "x-axis: vertically" => turned.invert_axis(Axis(1)),
        "y-axis: horizontally" => turned.invert_axis(Axis(2)),
        other => return Err(unknown_choice("flip_method", other)),
    }
    values::image(Image(turned.as_standard_layout().to_shared()))
}

fn resize_and_pad(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let image = call.image("image")?;
    let (width, height) = (call.count("target_width", 1)?, call.count("target_height", 1)?);
    let padding = match call.text("padding_color")? {
        "white" => 1.0,
        "black" => 0.0,
        other => return Err(unknown_choice("padding_color", other)),
    };
    let method = call.method("interpolation")?;
    let scale = (width as f64 / image.width() as f64).min(height as f64 / image.height() as f64);
    let (inner_width, inner_height) = ((image.width() as f64 * scale) as usize, (image.height() as f64 * scale) as usize);
    let shape = (image.batch(), height, width, image.channels());
    call.reserve(&[shape.0, shape.1, shape.2, shape.3])?;
    let resized = resize::image(call, &image, inner_width, inner_height, method, Crop::Disabled)?;
    let mut out = Array4::from_elem(shape, padding);
    let (top, left) = ((height - inner_height) / 2, (width - inner_width) / 2);
    out.slice_mut(s![.., top..top + inner_height, left..left + inner_width, ..]).assign(&resized.0);
    values::image(Image::new(out))
}

/// Where the second picture of a stitch goes.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Right,
    Down,
    Left,
    Up,
}

impl Side {
    /// The axis along which the pictures are joined.
    fn axis(self) -> usize {
        match self {
            Self::Right | Self::Left => 2,
            Self::Down | Self::Up => 1,
        }
    }
}

fn stitch(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let first = call.image("image1")?;
    if call.inputs.optional("image2").is_none() {
        return values::image(first);
    }
    let second = call.image("image2")?;
    let side = match call.text("direction")? {
        "right" => Side::Right,
        "down" => Side::Down,
        "left" => Side::Left,
        "up" => Side::Up,
        other => return Err(unknown_choice("direction", other)),
    };
    let color = color(call.text("spacing_color")?)?;
    let batch = first.batch().max(second.batch());
    let (mut first, mut second) = (repeat_last(call, &first, batch)?, repeat_last(call, &second, batch)?);
    if call.bool("match_image_size")? {
        second = match_size(call, &first, &second, side)?;
    } else {
        // A grey gap colour also fills the borders; a bright colour leaves them black.
        let grey = if color.iter().all(|c| *c == color[0]) { color[0] } else { 0.0 };
        let across = 3 - side.axis();
        let length = first.0.shape()[across].max(second.0.shape()[across]);
        first = center(call, &first, across, length, grey)?;
        second = center(call, &second, across, length, grey)?;
    }
    let channels = first.channels().max(second.channels());
    (first, second) = (opaque(call, &first, channels)?, opaque(call, &second, channels)?);
    let gap = call.count("spacing_width", 0)?.next_multiple_of(2);
    join(call, side, &first, &second, gap, color)
}

fn join(call: &Call<'_, '_>, side: Side, first: &Image, second: &Image, gap: usize, color: [f32; 3]) -> Result<NodeOutput> {
    let axis = side.axis();
    let across = first.0.shape()[3 - axis].max(second.0.shape()[3 - axis]);
    let mut shape = [first.batch(), across, across, first.channels()];
    shape[axis] = gap;
    let mut total = shape;
    total[axis] = gap.saturating_add(first.0.shape()[axis]).saturating_add(second.0.shape()[axis]);
    call.reserve(&total)?;
    let fill = |channel: usize| color.get(channel).copied().unwrap_or(1.0);
    let spacing = Array4::from_shape_fn(shape, |(_, _, _, channel)| fill(channel));
    let (start, end) = if matches!(side, Side::Left | Side::Up) { (second, first) } else { (first, second) };
    let parts = if gap > 0 { vec![start.0.view(), spacing.view(), end.0.view()] } else { vec![start.0.view(), end.0.view()] };
    values::image(Image::new(concatenate(Axis(axis), &parts).map_err(Error::other)?))
}

fn color(name: &str) -> Result<[f32; 3]> {
    match name {
        "white" => Ok([1.0; 3]),
        "black" => Ok([0.0; 3]),
        "red" => Ok([1.0, 0.0, 0.0]),
        "green" => Ok([0.0, 1.0, 0.0]),
        "blue" => Ok([0.0, 0.0, 1.0]),
        other => Err(unknown_choice("spacing_color", other)),
    }
}

/// Repeats the last picture until there are `batch`.
fn repeat_last(call: &Call<'_, '_>, image: &Image, batch: usize) -> Result<Image> {
    if image.batch() == batch {
        return Ok(image.clone());
    }
    call.reserve(&[batch, image.height(), image.width(), image.channels()])?;
    let last = image.batch() - 1;
    let index: Vec<usize> = (0..batch).map(|i| i.min(last)).collect();
    Ok(Image::new(image.0.select(Axis(0), &index)))
}

/// Resizes the second picture so that the sides that touch are equally long.
fn match_size(call: &Call<'_, '_>, first: &Image, second: &Image, side: Side) -> Result<Image> {
    let aspect = second.width() as f64 / second.height() as f64;
    let (width, height) = match side {
        Side::Left | Side::Right => ((first.height() as f64 * aspect) as usize, first.height()),
        Side::Up | Side::Down => (first.width(), (first.width() as f64 / aspect) as usize),
    };
    resize::image(call, second, width, height, Method::Lanczos, Crop::Disabled)
}

/// Fills up at both ends of an axis until it is `length` long.
fn center(call: &Call<'_, '_>, image: &Image, axis: usize, length: usize, fill: f32) -> Result<Image> {
    let own = image.0.shape()[axis];
    if own == length {
        return Ok(image.clone());
    }
    let mut shape = [image.batch(), image.height(), image.width(), image.channels()];
    shape[axis] = length;
    call.reserve(&shape)?;
    let start = (length - own) / 2;
    let mut out = Array4::from_elem(shape, fill);
    out.slice_axis_mut(Axis(axis), (start..start + own).into()).assign(&image.0);
    Ok(Image::new(out))
}

/// Adds channels of ones, which makes a picture opaque.
fn opaque(call: &Call<'_, '_>, image: &Image, channels: usize) -> Result<Image> {
    if image.channels() == channels {
        return Ok(image.clone());
    }
    let shape = [image.batch(), image.height(), image.width(), channels];
    call.reserve(&shape)?;
    let mut out = Array4::ones(shape);
    out.slice_mut(s![.., .., .., ..image.channels()]).assign(&image.0);
    Ok(Image::new(out))
}
