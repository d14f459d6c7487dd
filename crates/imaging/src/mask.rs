//! Masks: making them from pictures, combining, growing and feathering them, as ComfyUI's mask nodes do. Knows no node.

use crate::morphology::{Extremum, running};

use crate::{Error, Result};
use comfyd_values::{Image, Mask};
use ndarray::{Array3, Axis, Slice, Zip, s};

/// One channel of a picture: 0 red, 1 green, 2 blue, 3 alpha (ComfyUI's ImageToMask).
///
/// # Errors
/// If the picture has no such channel.
pub fn from_channel(image: &Image, channel: usize) -> Result<Mask> {
    if channel >= image.channels() {
        return Err(Error::Shape(format!(
            "channel {channel} was asked for, but the picture has {}: choose another channel",
            image.channels()
        )));
    }
    Ok(Mask::new(image.0.index_axis(Axis(3), channel).to_owned()))
}

/// 1 where a picture's colour, rounded to bytes, is 0xRRGGBB, else 0 (ComfyUI's ImageColorToMask).
///
/// # Errors
/// If the picture has fewer than three channels.
pub fn from_color(image: &Image, color: u32) -> Result<Mask> {
    if image.channels() < 3 {
        return Err(Error::Shape("a colour can only be looked for in a picture with red, green and blue".into()));
    }
    let byte = |value: f32| (value.clamp(0.0, 1.0) * 255.0).round_ties_even() as u32;
    let matches = image.0.map_axis(Axis(3), |pixel| {
        let found = (byte(pixel[0]) << 16) | (byte(pixel[1]) << 8) | byte(pixel[2]);
        if found == color { 1.0 } else { 0.0 }
    });
    Ok(Mask::new(matches))
}

/// A grey picture with three equal channels (ComfyUI's MaskToImage).
pub fn to_image(mask: &Mask) -> Image {
    let (batch, height, width) = mask.0.dim();
    Image::new(ndarray::Array4::from_shape_fn((batch, height, width, 3), |(b, y, x, _)| mask.0[[b, y, x]]))
}

/// 1 - mask.
pub fn invert(mask: &Mask) -> Mask {
    Mask::new(mask.0.mapv(|value| 1.0 - value))
}

/// 1 where the mask is greater than `value`, else 0.
pub fn threshold(mask: &Mask, value: f32) -> Mask {
    Mask::new(mask.0.mapv(|found| if found > value { 1.0 } else { 0.0 }))
}

/// Cuts a rectangle out; what lies outside the mask is missing from the result.
///
/// # Errors
/// If nothing is left.
pub fn crop(mask: &Mask, x: usize, y: usize, width: usize, height: usize) -> Result<Mask> {
    let (right, bottom) = (x.saturating_add(width).min(mask.width()), y.saturating_add(height).min(mask.height()));
    if x >= right || y >= bottom {
        return Err(Error::Parameter(format!(
            "the rectangle at {x},{y} lies outside the mask of {}x{}: move or enlarge it",
            mask.width(),
            mask.height()
        )));
    }
    Ok(Mask::new(mask.0.slice(s![.., y..bottom, x..right]).to_owned()))
}

/// How two masks are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// The product.
    Multiply,
    /// The sum.
    Add,
    /// Destination minus source.
    Subtract,
    /// 1 where both round to 1.
    And,
    /// 1 where at least one rounds to 1.
    Or,
    /// 1 where exactly one rounds to 1.
    Xor,
}

impl std::str::FromStr for Operation {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "multiply" => Self::Multiply,
            "add" => Self::Add,
            "subtract" => Self::Subtract,
            "and" => Self::And,
            "or" => Self::Or,
            "xor" => Self::Xor,
            _ => return Err(Error::Parameter(format!("{name:?} combines no masks: use multiply, add, subtract, and, or, or xor"))),
        })
    }
}

impl Operation {
    fn apply(self, destination: f32, source: f32) -> f32 {
        let truth = |value: f32| value.round_ties_even() != 0.0;
        let number = |truth: bool| if truth { 1.0 } else { 0.0 };
        match self {
            Self::Multiply => destination * source,
            Self::Add => destination + source,
            Self::Subtract => destination - source,
            Self::And => number(truth(destination) && truth(source)),
            Self::Or => number(truth(destination) || truth(source)),
            Self::Xor => number(truth(destination) != truth(source)),
        }
    }
}

/// Combines `source` into `destination` with its top left corner at `x`, `y`, and clips everything to 0..1 (ComfyUI's MaskComposite).
///
/// # Errors
/// If the batches differ and neither source is a single mask.
pub fn combine(destination: &Mask, source: &Mask, x: usize, y: usize, operation: Operation) -> Result<Mask> {
    let mut out = destination.0.to_owned();
    if x < destination.width() && y < destination.height() {
        let width = source.width().min(destination.width() - x);
        let height = source.height().min(destination.height() - y);
        let mut target = out.slice_mut(s![.., y..y + height, x..x + width]);
        let source = source.0.slice(s![.., ..height, ..width]);
        let source = source.broadcast(target.raw_dim()).ok_or_else(|| {
            Error::Shape(format!("{} masks cannot be combined with {}: use equally many, or one", source.shape()[0], destination.batch()))
        })?;
        Zip::from(&mut target).and(source).for_each(|target, &source| *target = operation.apply(*target, source));
    }
    out.mapv_inplace(|value| value.clamp(0.0, 1.0));
    Ok(Mask::new(out))
}

/// Fades the borders out over so many pixels (ComfyUI's FeatherMask).
pub fn feather(mask: &Mask, left: usize, top: usize, right: usize, bottom: usize) -> Mask {
    let mut out = mask.0.to_owned();
    let (height, width) = (mask.height(), mask.width());
    let rate = |step: usize, of: usize| ((step as f64 + 1.0) / of as f64) as f32;
    let (left, right) = (left.min(width), right.min(width));
    let (top, bottom) = (top.min(height), bottom.min(height));
    let mut fade = |axis: usize, index: usize, rate: f32| out.index_axis_mut(Axis(axis), index).mapv_inplace(|value| value * rate);
    (0..left).for_each(|x| fade(2, x, rate(x, left)));
    (0..right).for_each(|x| fade(2, width - 1 - x, rate(x, right)));
    (0..top).for_each(|y| fade(1, y, rate(y, top)));
    (0..bottom).for_each(|y| fade(1, height - 1 - y, rate(y, bottom)));
    Mask::new(out)
}

/// Grows (or, if negative, shrinks) a mask by `expand` pixels: a square, or with `tapered` corners a diamond (ComfyUI's GrowMask, that
/// is scipy's grey dilation or erosion, repeated).
///
/// # Errors
/// If `interrupted` says so; it is asked at every step of a diamond.
pub fn grow(mask: &Mask, expand: i64, tapered: bool, interrupted: &dyn Fn() -> bool) -> Result<Mask> {
    let extremum = if expand < 0 { Extremum::Min } else { Extremum::Max };
    let steps = usize::try_from(expand.unsigned_abs()).unwrap_or(usize::MAX);
    if !tapered {
        // Repeating the 3x3 square is one square of that radius.
        let radius = steps.min(mask.height().max(mask.width()));
        let across = running(mask.0.view().into_dyn(), Axis(2), radius, radius, extremum);
        let both = running(across.view(), Axis(1), radius, radius, extremum);
        return Ok(match both.into_dimensionality() {
            Ok(grown) => Mask::new(grown),
            // Running extrema keep the number of axes.
            Err(_) => mask.clone(),
        });
    }
    let mut current = mask.0.to_owned();
    for _ in 0..steps {
        if interrupted() {
            return Err(Error::Interrupted);
        }
        let next = grow_by_one(&current, extremum);
        if next == current {
            break;
        }
        current = next;
    }
    Ok(Mask::new(current))
}

/// The extremum of every pixel and its four neighbours.
fn grow_by_one(current: &Array3<f32>, extremum: Extremum) -> Array3<f32> {
    let mut next = current.clone();
    for axis in [Axis(1), Axis(2)] {
        let (front, back) = (Slice::from(..-1), Slice::from(1..));
        if current.len_of(axis) < 2 {
            continue;
        }
        for (to, from) in [(front, back), (back, front)] {
            let neighbours = current.slice_axis(axis, from);
            Zip::from(&mut next.slice_axis_mut(axis, to)).and(&neighbours).for_each(|to, &from| *to = extremum.of(*to, from));
        }
    }
    next
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn grow(mask: &Mask, expand: i64, tapered: bool) -> Mask {
        super::grow(mask, expand, tapered, &|| false).unwrap()
    }
    use ndarray::array;

    #[test]
    fn growing_makes_diamonds_and_squares() {
        let mut spot = Array3::zeros((1, 5, 6));
        spot[[0, 1, 2]] = 0.5;
        let spot = Mask::new(spot);
        let diamond = grow(&spot, 2, true);
        let square = grow(&spot, 2, false);
        for y in 0..5usize {
            for x in 0..6usize {
                let (dy, dx) = (y.abs_diff(1), x.abs_diff(2));
                assert_eq!(diamond.0[[0, y, x]] > 0.0, dy + dx <= 2, "diamond {y} {x}");
                assert_eq!(square.0[[0, y, x]] > 0.0, dy.max(dx) <= 2, "square {y} {x}");
            }
        }
        assert_eq!(grow(&invert(&spot), -2, true), invert(&diamond));
        assert_eq!(grow(&spot, i64::MIN, false), Mask::solid(1, 5, 6, 0.0), "growth beyond the mask is bounded");
        assert_eq!(grow(&spot, 1 << 40, true), Mask::solid(1, 5, 6, 0.5));
        assert_eq!(grow(&spot, 0, true), spot);
        assert_eq!(super::grow(&spot, 3, true, &|| true), Err(Error::Interrupted));
    }

    #[test]
    fn feathering_begins_at_the_borders() {
        // FeatherMask.execute(torch.ones(1, 1, 4), 2, 0, 2, 0)[0]
        let faded = feather(&Mask::solid(1, 1, 4, 1.0), 2, 0, 2, 0);
        assert_eq!(faded.0, array![[[0.5, 1.0, 1.0, 0.5]]].into_shared());
        let all = feather(&Mask::solid(1, 3, 1, 1.0), 0, 9, 0, 3);
        assert_eq!(all.0.len(), 3);
    }

    #[test]
    fn operations() {
        let (a, b) = (Mask::new(array![[[0.2, 0.6, 0.9]]]), Mask::new(array![[[0.7, 0.7, 0.1]]]));
        for (name, expected) in [("and", [0., 1., 0.]), ("or", [1., 1., 1.]), ("xor", [1., 0., 1.]), ("subtract", [0., 0., 0.8])] {
            let combined = combine(&a, &b, 0, 0, name.parse().unwrap()).unwrap();
            for (a, b) in combined.0.iter().zip(expected) {
                assert!((a - b).abs() < 1e-6, "{name}");
            }
        }
        assert_eq!(combine(&a, &b, 2, 0, Operation::Add).unwrap().0, array![[[0.2, 0.6, 1.0]]].into_shared());
        assert_eq!(combine(&a, &b, 3, 0, Operation::Add).unwrap(), a);
        assert!(combine(&a, &Mask::solid(2, 1, 1, 0.0), 0, 0, Operation::Add).is_err());
    }

    #[test]
    fn bad_channels_and_rectangles_are_errors() {
        let image = Image::solid(1, 2, 2, 0x010101);
        assert!(from_channel(&image, 3).is_err());
        assert_eq!(from_color(&image, 0x010101).unwrap(), Mask::solid(1, 2, 2, 1.0));
        assert!(crop(&Mask::solid(1, 2, 2, 1.0), 2, 0, 1, 1).is_err());
    }
}
