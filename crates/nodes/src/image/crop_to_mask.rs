//! Pictures cut to what a mask shows.

use comfyd_imaging::resize::{Crop, Method};
use comfyd_node::{Error, Input, NodeOutput, Result, Schema};
use comfyd_values::{Image, Mask};
use ndarray::{Array2, Array4, ArrayView2, Axis, s};

use super::painter::color;
use crate::class::{Call, Class};
use crate::resize;

pub(crate) const CLASSES: &[Class] = &[Class::new(
    || {
        Schema::new("ImageCropToMask")
            .display("Crop Image to Mask")
            .category("image/transform")
            .module("comfy_extras.nodes_images")
            .schema_generation()
            .description("Cuts pictures to what their masks show, puts it before one colour, and scales it.")
            .aliases(["cut out", "subject", "remove background"])
            .input(Input::link("images", "IMAGE").tooltip("The pictures."))
            .input(Input::link("masks", "MASK").tooltip("What stays of the pictures."))
            .input(Input::int("width").default(1024).min(64).max(4096).step(8).tooltip("Pixels wide."))
            .input(Input::int("height").default(1024).min(64).max(4096).step(8).tooltip("Pixels high."))
            .input(Input::float("pad_factor").default(1.0).min(1.0).max(2.0).step(0.01).tooltip("How much wider than the mask the cut is."))
            .input(
                Input::int("grow_mask")
                    .default(0)
                    .min(-32)
                    .max(32)
                    .step(1)
                    .tooltip("By how many pixels the mask is widened, or narrowed, first."),
            )
            .input(Input::link("background", "COLOR").default("#000000").socketless().tooltip("The colour around it."))
            .output_named("IMAGE", "images")
    },
    crop,
)];

/// What a mask holds less of counts as nothing.
const LEAST: f32 = 0.05;
/// From which of 255 levels on a pixel counts as shown.
const SHOWN: u8 = 204;

fn crop(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (images, masks) = (call.image("images")?, call.mask("masks")?);
    let (width, height) = (call.count("width", 1)?, call.count("height", 1)?);
    let (pad, grow) = (call.float("pad_factor")?, call.int::<i64>("grow_mask")?);
    if images.channels() < 3 {
        return Err(Error::msg(format!("pictures of {} channels have no colours; give it RGB", images.channels())));
    }
    if masks.batch() != 1 && masks.batch() != images.batch() {
        return Err(Error::msg(format!("{} masks do not fit {} pictures; use one mask or one for each", masks.batch(), images.batch())));
    }
    let ground = color(call.text("background")?);
    let ground = [ground >> 16, ground >> 8, ground].map(|part| (part & 0xff) as f32 / 255.0);
    call.reserve(&[images.batch(), height, width, 3])?;
    let mut out = Array4::zeros((images.batch(), height, width, 3));
    for index in 0..images.batch() {
        let picture = Image(images.0.clone().slice_move(s![index..index + 1, .., .., ..3]));
        let mask = Mask(masks.0.clone().slice_move(s![index % masks.batch()..index % masks.batch() + 1, .., ..]));
        let mask = if (mask.height(), mask.width()) == (picture.height(), picture.width()) {
            mask
        } else {
            scaled(call, &mask, picture.width(), picture.height(), Method::Bilinear)?
        };
        let mask = call.aside(mask.0.len() * (1 + grow.unsigned_abs() as usize), move || prepared(mask, grow))?;
        let cut = cut(call, picture, mask, (width, height), pad, ground)?;
        let one = resize::image(call, &cut, width, height, Method::Lanczos, Crop::Disabled)?;
        out.slice_mut(s![index, .., .., ..]).assign(&one.0.index_axis(Axis(0), 0));
    }
    Ok(NodeOutput::one(Image::new(out)))
}

fn scaled(call: &Call<'_, '_>, mask: &Mask, width: usize, height: usize, method: Method) -> Result<Mask> {
    let image = Image(mask.0.clone().insert_axis(Axis(3)));
    Ok(Mask(resize::image(call, &image, width, height, method, Crop::Disabled)?.0.remove_axis(Axis(3))))
}

/// The mask the right way round, grown, without what is next to nothing.
fn prepared(mask: Mask, grow: i64) -> Mask {
    let mut mask = mask.0.mapv(|value| value.clamp(0.0, 1.0)).index_axis_move(Axis(0), 0);
    if is_inverted(mask.view()) {
        mask.mapv_inplace(|value| 1.0 - value);
    }
    let radius = grow.unsigned_abs() as usize;
    if grow > 0 {
        mask = widest(mask, radius);
    } else if grow < 0 {
        mask = widest(mask.mapv(|value| 1.0 - value), radius).mapv(|value| 1.0 - value);
    }
    mask.mapv_inplace(|value| if value < LEAST { 0.0 } else { value });
    Mask::new(mask.insert_axis(Axis(0)))
}

/// Whether the border is shown and the middle is not.
fn is_inverted(mask: ArrayView2<f32>) -> bool {
    let (height, width) = mask.dim();
    let mean = |sum: f32, count: usize| sum / count as f32;
    let border = mask.row(0).sum() + mask.row(height - 1).sum() + mask.column(0).sum() + mask.column(width - 1).sum();
    let middle = mask.slice(s![height / 4..height - height / 4, width / 4..width - width / 4]);
    mean(border, 2 * (height + width)) > 0.5 && mean(middle.sum(), middle.len()) < 0.5
}

/// The largest value within so many pixels in both directions.
fn widest(mask: Array2<f32>, radius: usize) -> Array2<f32> {
    let along = |mask: Array2<f32>, axis: Axis| {
        let mut out = mask.clone();
        for (mut to, from) in out.lanes_mut(axis).into_iter().zip(mask.lanes(axis)) {
            for (at, to) in to.iter_mut().enumerate() {
                let window = from.slice(s![at.saturating_sub(radius)..(at + radius + 1).min(from.len())]);
                *to = window.iter().copied().fold(*to, f32::max);
            }
        }
        out
    };
    along(along(mask, Axis(1)), Axis(0))
}

/// The picture before the colour, cut to the mask with the shape of `(width, height)`.
fn cut(call: &Call<'_, '_>, picture: Image, mask: Mask, (width, height): (usize, usize), pad: f64, ground: [f32; 3]) -> Result<Image> {
    let (mut picture, mut mask) = (Image(picture.0.mapv(|value| value.clamp(0.0, 1.0)).into_shared()), mask);
    let (longest, most) = (picture.height().max(picture.width()), width.max(height));
    if longest > most {
        let scale = most as f64 / longest as f64;
        let side = |side: usize| ((side as f64 * scale) as usize).max(1);
        let (width, height) = (side(picture.width()), side(picture.height()));
        picture = resize::image(call, &picture, width, height, Method::Lanczos, Crop::Disabled)?;
        mask = scaled(call, &mask, width, height, Method::Lanczos)?;
    }
    let (rows, columns) = (picture.height(), picture.width());
    let mut plane = mask.0.index_axis(Axis(0), 0).to_owned();
    let level = |value: f32| (value.clamp(0.0, 1.0) * 255.0) as u8;
    let mut shown = bounds(&plane, |value| level(value) > SHOWN);
    if shown.is_none() {
        shown = bounds(&plane, |value| 255 - level(value) > SHOWN);
        if shown.is_some() {
            plane.mapv_inplace(|value| 1.0 - value);
        } else {
            tracing::warn!("a mask shows nothing; the whole picture is taken");
        }
    }
    let [left, top, right, bottom] = match shown {
        None => [0, 0, columns as i64, rows as i64],
        Some([left, top, right, bottom]) => {
            let shape = width as f64 / height as f64;
            let (wide, high) = ((right - left + 1) as f64, (bottom - top + 1) as f64);
            let (wide, high) = if wide / high >= shape {
                ((wide * pad).trunc(), (wide / shape * pad).trunc())
            } else {
                ((high * shape * pad).trunc(), (high * pad).trunc())
            };
            let half = [(wide / 2.0).ceil(), (high / 2.0).ceil()];
            let left = ((left + right) as f64 / 2.0 - half[0]).trunc() as i64;
            let top = ((top + bottom) as f64 / 2.0 - half[1]).trunc() as i64;
            [left, top, left + 2 * half[0] as i64, top + 2 * half[1] as i64]
        }
    };
    let size = [(bottom - top).max(1) as usize, (right - left).max(1) as usize];
    call.reserve(&[1, size[0], size[1], 3])?;
    let at = |y: usize, x: usize| {
        let (y, x) = (top + y as i64, left + x as i64);
        ((0..rows as i64).contains(&y) && (0..columns as i64).contains(&x)).then_some((y as usize, x as usize))
    };
    let cut = Array4::from_shape_fn((1, size[0], size[1], 3), |(_, y, x, channel)| {
        let (value, share) = at(y, x).map_or((0.0, 0.0), |(y, x)| (picture.0[[0, y, x, channel]], plane[[y, x]]));
        (value * share + ground[channel] * (1.0 - share)).clamp(0.0, 1.0)
    });
    Ok(Image::new(cut))
}

/// Left, top, right and bottom of what is shown.
fn bounds(plane: &Array2<f32>, shown: impl Fn(f32) -> bool) -> Option<[i64; 4]> {
    let mut bounds: Option<[i64; 4]> = None;
    for ((y, x), _) in plane.indexed_iter().filter(|(_, value)| shown(**value)) {
        let (y, x) = (y as i64, x as i64);
        bounds = Some(bounds.map_or([x, y, x, y], |[left, top, right, bottom]| [left.min(x), top.min(y), right.max(x), bottom.max(y)]));
    }
    bounds
}
