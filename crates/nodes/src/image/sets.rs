//! Sets of pictures: cropped, evened out, shuffled, laid into a grid.

use comfyd_imaging::resize::{Crop, Method};
use comfyd_kernels::random::Generator;
use comfyd_node::{Error, Input, NodeOutput, Result, Schema, Value};
use comfyd_values::Image;
use ndarray::{Array4, s};

use crate::class::{Call, Class};
use crate::resize;

/// numpy's seeds have 32 bits; larger ones are brought there so.
pub(super) const SEEDS: u64 = u32::MAX as u64;

/// The side of the pictures that likenesses are told by.
const THUMB: usize = 8;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            schema("ResizeImagesByShorterEdge", "Resize Images by Shorter Edge (DEPRECATED)", "image/transform")
                .deprecated()
                .description("Resizes pictures so that the shorter side gets a length, and keeps the proportions.")
                .input(side("shorter_edge", 512, "Pixels of the shorter side."))
                .output_named("IMAGE", "images")
        },
        |call| to_edge(call, "shorter_edge", |width, height| width < height),
    ),
    Class::new(
        || {
            schema("ResizeImagesByLongerEdge", "Resize Images by Longer Edge (DEPRECATED)", "image/transform")
                .deprecated()
                .description("Resizes pictures so that the longer side gets a length, and keeps the proportions.")
                .input(side("longer_edge", 1024, "Pixels of the longer side."))
                .output_named("IMAGE", "images")
        },
        |call| to_edge(call, "longer_edge", |width, height| width > height),
    ),
    Class::new(
        || {
            schema("CenterCropImages", "Crop Image (Center)", "image/transform")
                .description("Cuts the middle out of pictures.")
                .aliases(["cut out", "middle"])
                .input(side("width", 512, "Pixels wide."))
                .input(side("height", 512, "Pixels high."))
                .output_named("IMAGE", "images")
        },
        |call| crop(call, |room| room / 2),
    ),
    Class::new(
        || {
            schema("RandomCropImages", "Crop Image (Random)", "image/transform")
                .description("Cuts a rectangle out of pictures at a place that the seed decides.")
                .aliases(["cut out", "augmentation"])
                .input(side("width", 512, "Pixels wide."))
                .input(side("height", 512, "Pixels high."))
                .input(seed())
                .output_named("IMAGE", "images")
        },
        |call| {
            let mut random = Generator::new(call.int::<u64>("seed")? % SEEDS);
            crop(call, |room| below(&mut random, room))
        },
    ),
    Class::new(
        || {
            let part = |name: &str, min: f64, text: &str| Input::float(name).default(0.5).min(min).max(1.0).advanced().tooltip(text);
            schema("NormalizeImages", "Normalize Image Colors", "image/color")
                .description("Shifts and scales colour values, as models are trained with them.")
                .aliases(["mean", "standard deviation"])
                .input(part("mean", 0.0, "What is taken away."))
                .input(part("std", 0.001, "What is divided by."))
                .output_named("IMAGE", "images")
        },
        |call| {
            let (mean, std) = (call.float("mean")? as f32, call.float("std")? as f32);
            if std == 0.0 {
                return Err(Error::msg("input 'std' is 0, it must be above 0"));
            }
            each_value(call, move |value| (value - mean) / std)
        },
    ),
    Class::new(
        || {
            schema("AdjustBrightness", "Adjust Brightness", "image/adjustments")
                .description("Makes pictures brighter or darker.")
                .aliases(["exposure", "lighter", "darker"])
                .input(factor("Above 1 is brighter, below 1 darker."))
                .output_named("IMAGE", "images")
        },
        |call| {
            let factor = call.float("factor")? as f32;
            each_value(call, move |value| (value * factor).clamp(0.0, 1.0))
        },
    ),
    Class::new(
        || {
            schema("AdjustContrast", "Adjust Contrast", "image/adjustments")
                .description("Makes the difference between bright and dark larger or smaller.")
                .aliases(["flatten", "punchy"])
                .input(factor("Above 1 is more contrast, below 1 less."))
                .output_named("IMAGE", "images")
        },
        |call| {
            let factor = call.float("factor")? as f32;
            each_value(call, move |value| ((value - 0.5) * factor + 0.5).clamp(0.0, 1.0))
        },
    ),
    Class::new(
        || {
            schema("ShuffleDataset", "Shuffle Images List", "image/batch")
                .description("Brings a list of pictures into an order that the seed decides.")
                .aliases(["random order", "mix"])
                .input(seed())
                .input_is_list()
                .output_list_named("IMAGE", "images")
        },
        shuffle,
    ),
    Class::new(
        || {
            schema("ImageDeduplication", "Deduplicate Images", "image/batch")
                .description("Leaves out pictures that look like one before them.")
                .aliases(["similar", "twice", "unique"])
                .input(
                    Input::float("similarity_threshold")
                        .default(0.95)
                        .min(0.0)
                        .max(1.0)
                        .advanced()
                        .tooltip("From which likeness on two count as the same; 1 is nearly equal."),
                )
                .input_is_list()
                .output_list_named("IMAGE", "images")
        },
        deduplicate,
    ),
    Class::new(
        || {
            let cell = |name: &str, text: &str| Input::int(name).default(256).min(32).max(2048).advanced().tooltip(text);
            schema("ImageGrid", "Make Image Grid", "image/batch")
                .description("Lays pictures into rows and columns of one picture.")
                .aliases(["contact sheet", "collage", "table"])
                .input(Input::int("columns").default(4).min(1).max(20).tooltip("Pictures in a row."))
                .input(cell("cell_width", "Width that each picture gets."))
                .input(cell("cell_height", "Height that each picture gets."))
                .input(Input::int("padding").default(4).min(0).max(50).advanced().tooltip("Black pixels between pictures."))
                .input_is_list()
                .output_named("IMAGE", "images")
        },
        grid,
    ),
    Class::new(
        || {
            schema("MergeImageLists", "Merge Image Lists (DEPRECATED)", "image/batch")
                .deprecated()
                .description("Makes a list of single pictures of all pictures that come.")
                .input_is_list()
                .output_list_named("IMAGE", "images")
        },
        |call| Ok(NodeOutput::one(list(singles(call)?))),
    ),
];

fn schema(class: &str, display: &str, category: &str) -> Schema {
    Schema::new(class)
        .display(display)
        .category(category)
        .module("comfy_extras.nodes_dataset")
        .schema_generation()
        .experimental()
        .input(Input::link("images", "IMAGE").tooltip("The pictures."))
}

fn side(name: &str, default: i64, text: &str) -> Input {
    Input::int(name).default(default).min(1).max(8192).tooltip(text)
}

fn seed() -> Input {
    Input::int("seed").default(0).min(0).max(u64::MAX).tooltip("Decides the random numbers.")
}

fn factor(text: &str) -> Input {
    Input::float("factor").default(1.0).min(0.0).max(2.0).tooltip(text)
}

/// A whole number up to and with `most`, as numpy's older generator draws it: bits are drawn until they fit.
pub(super) fn below(random: &mut Generator, most: usize) -> usize {
    let Ok(most) = u32::try_from(most) else { return 0 };
    if most == 0 {
        return 0;
    }
    let mask = u32::MAX >> most.leading_zeros();
    loop {
        let drawn = random.next_u32() & mask;
        if drawn <= most {
            return drawn as usize;
        }
    }
}

fn to_edge(call: &mut Call<'_, '_>, name: &str, by_width: fn(usize, usize) -> bool) -> Result<NodeOutput> {
    let image = call.image("images")?;
    let edge = call.count(name, 1)?;
    let other = |a: usize, b: usize| (a as f64 * (edge as f64 / b as f64)) as usize;
    let (width, height) = (image.width(), image.height());
    let (width, height) = if by_width(width, height) { (edge, other(height, width)) } else { (other(width, height), edge) };
    Ok(NodeOutput::one(resize::image(call, &image, width, height, Method::Lanczos, Crop::Disabled)?))
}

/// Cuts a rectangle out; `place` says where it begins, by the room that there is. Values become those of eight bits.
fn crop(call: &mut Call<'_, '_>, mut place: impl FnMut(usize) -> usize) -> Result<NodeOutput> {
    let image = call.image("images")?;
    let (width, height) = (call.count("width", 1)?, call.count("height", 1)?);
    let (left, top) = (place(image.width().saturating_sub(width)), place(image.height().saturating_sub(height)));
    let (right, bottom) = ((left + width).min(image.width()), (top + height).min(image.height()));
    call.reserve(&[image.batch(), bottom - top, right - left, image.channels()])?;
    let cut = call.aside(image.0.len(), move || {
        let cut = image.0.slice(s![.., top..bottom, left..right, ..]);
        Image::new(cut.mapv(|value| f32::from((value * 255.0).clamp(0.0, 255.0) as u8) / 255.0))
    })?;
    Ok(NodeOutput::one(cut))
}

fn each_value(call: &mut Call<'_, '_>, change: impl Fn(f32) -> f32 + Send + 'static) -> Result<NodeOutput> {
    let image = call.image("images")?;
    call.reserve(image.0.shape())?;
    Ok(NodeOutput::one(call.aside(image.0.len(), move || Image(image.0.mapv(change).into_shared()))?))
}

/// All pictures of all batches of a list, one by one.
fn singles(call: &Call<'_, '_>) -> Result<Vec<Image>> {
    let mut singles = Vec::new();
    for value in call.inputs.list("images")? {
        let image = value.downcast::<Image>().filter(|image| !image.0.is_empty());
        let image = image.ok_or_else(|| Error::msg("input 'images' must hold pictures only, none of them empty"))?;
        singles.extend((0..image.batch()).map(|i| Image(image.0.clone().slice_move(s![i..i + 1, .., .., ..]))));
    }
    Ok(singles)
}

fn list(images: Vec<Image>) -> Value {
    Value::list(images.into_iter().map(Value::from).collect())
}

fn shuffle(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut images = singles(call)?;
    let mut random = Generator::new(call.first::<u64>("seed")? % SEEDS);
    for last in (1..images.len()).rev() {
        images.swap(last, below(&mut random, last));
    }
    Ok(NodeOutput::one(list(images)))
}

fn deduplicate(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let threshold = match call.inputs.list("similarity_threshold")?.first() {
        Some(Value::Float(threshold)) => *threshold,
        Some(Value::Int(threshold)) => *threshold as f64,
        Some(_) | None => return Err(Error::msg("input 'similarity_threshold' must hold a number")),
    };
    let mut kept: Vec<(Image, u64)> = Vec::new();
    for image in singles(call)? {
        let print = fingerprint(call, &image)?;
        let likeness = |other: u64| 1.0 - f64::from((print ^ other).count_ones()) / 64.0;
        if !kept.iter().any(|(_, other)| likeness(*other) >= threshold) {
            kept.push((image, print));
        }
    }
    Ok(NodeOutput::one(list(kept.into_iter().map(|(image, _)| image).collect())))
}

/// One bit for each place of a small grey picture: whether it is brighter than the mean.
fn fingerprint(call: &Call<'_, '_>, image: &Image) -> Result<u64> {
    let small = resize::image(call, image, THUMB, THUMB, Method::Lanczos, Crop::Disabled)?;
    let level = |y: usize, x: usize, channel: usize| (small.0[[0, y, x, channel.min(small.channels() - 1)]] * 255.0).round() as u32;
    let mut levels = Vec::with_capacity(THUMB * THUMB);
    for (y, x) in (0..THUMB).flat_map(|y| (0..THUMB).map(move |x| (y, x))) {
        // Pillow's grey, in whole numbers.
        levels.push((19595 * level(y, x, 0) + 38470 * level(y, x, 1) + 7471 * level(y, x, 2) + 0x8000) >> 16);
    }
    let sum: u32 = levels.iter().sum();
    let bright = levels.iter().enumerate().filter(|(_, level)| **level * levels.len() as u32 > sum);
    Ok(bright.fold(0, |print, (at, _)| print | 1 << at))
}

fn grid(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let images = singles(call)?;
    if images.is_empty() {
        return Err(Error::msg("input 'images' holds no picture to lay into a grid"));
    }
    let columns = call.first::<usize>("columns")?.max(1);
    let (width, height) = (call.first::<usize>("cell_width")?.max(1), call.first::<usize>("cell_height")?.max(1));
    let padding = call.first::<usize>("padding")?;
    let rows = images.len().div_ceil(columns);
    let shape = [1, rows * (height + padding) - padding, columns * (width + padding) - padding, 3];
    call.reserve(&shape)?;
    let mut grid = Array4::<f32>::zeros(shape);
    for (at, image) in images.iter().enumerate() {
        let cell = resize::image(call, image, width, height, Method::Lanczos, Crop::Disabled)?;
        let (top, left) = (at / columns * (height + padding), at % columns * (width + padding));
        for channel in 0..3 {
            let from = cell.0.slice(s![0, .., .., channel.min(cell.channels() - 1)]);
            grid.slice_mut(s![0, top..top + height, left..left + width, channel]).assign(&from);
        }
    }
    Ok(NodeOutput::one(Image::new(grid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_are_numpys() {
        // python: numpy.random.seed(7); [numpy.random.randint(0, most + 1) for most in (9, 100, 1, 63, 1000)]
        let mut random = Generator::new(7);
        assert_eq!([9, 100, 1, 63, 1000].map(|most| below(&mut random, most)), [4, 25, 0, 3, 211]);
    }
}
