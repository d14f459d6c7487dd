//! Moving pixels about: cropping, turning, padding, stitching, batching, adding noise. Knows no node.

use crate::resize::{self, Crop, Method, check_size};

use crate::{Error, Result};
use comfyd_kernels::random::Generator;
use comfyd_values::{Image, Mask};
use ndarray::{ArcArray, Array3, Array4, Axis, Dimension, RemoveAxis, Slice, concatenate, s};

/// Cuts a rectangle out of every picture (ComfyUI's ImageCrop): a corner outside is moved to the last pixel, what lies beyond is
/// missing from the result.
///
/// # Errors
/// If the rectangle or the picture is empty.
pub fn crop(image: &Image, x: usize, y: usize, width: usize, height: usize) -> Result<Image> {
    if width == 0 || height == 0 || image.width() == 0 || image.height() == 0 {
        return Err(Error::Parameter("an empty rectangle cannot be cut out: give it a width and a height".into()));
    }
    let (x, y) = (x.min(image.width() - 1), y.min(image.height() - 1));
    let (right, bottom) = (x.saturating_add(width).min(image.width()), y.saturating_add(height).min(image.height()));
    Ok(Image::new(image.0.slice(s![.., y..bottom, x..right, ..]).to_owned()))
}

/// Mirrors an array along one axis. Pictures have their rows on axis 1 and their columns on axis 2, latents on the last two.
pub fn flip<D: Dimension>(array: &ArcArray<f32, D>, axis: Axis) -> ArcArray<f32, D> {
    let mut flipped = array.view();
    flipped.invert_axis(axis);
    flipped.as_standard_layout().into_owned().into_shared()
}

/// Turns an array clockwise by quarter turns.
pub fn rotate<D: Dimension>(array: &ArcArray<f32, D>, quarter_turns: usize, rows: Axis, columns: Axis) -> ArcArray<f32, D> {
    let mut turned = array.view();
    match quarter_turns % 4 {
        0 => return array.clone(),
        1 => {
            turned.invert_axis(rows);
            turned.swap_axes(rows.0, columns.0);
        }
        2 => {
            turned.invert_axis(rows);
            turned.invert_axis(columns);
        }
        _ => {
            turned.invert_axis(columns);
            turned.swap_axes(rows.0, columns.0);
        }
    }
    turned.as_standard_layout().into_owned().into_shared()
}

/// Repeats a whole array `amount` times along its first axis.
///
/// # Errors
/// If the result would be too large.
pub fn repeat<D: RemoveAxis>(array: &ArcArray<f32, D>, amount: usize) -> Result<ArcArray<f32, D>> {
    check_size(array.len(), amount, 1)?;
    let views = vec![array.view(); amount.max(1)];
    let repeated = ndarray::concatenate(Axis(0), &views).map_err(|error| Error::Shape(error.to_string()))?;
    Ok(repeated.into_shared())
}

/// Repeats a batch, or cuts it off, so that it has `batch` entries.
///
/// # Errors
/// If it is empty, or the result would be too large.
pub fn repeat_to_batch<D: RemoveAxis>(array: &ArcArray<f32, D>, batch: usize) -> Result<ArcArray<f32, D>> {
    let present = array.len_of(Axis(0));
    if present == 0 {
        return Err(Error::Shape("an empty batch cannot be repeated".into()));
    }
    if present == batch {
        return Ok(array.clone());
    }
    let mut repeated = repeat(array, batch.div_ceil(present))?;
    repeated.slice_axis_inplace(Axis(0), Slice::from(..batch));
    Ok(repeated)
}

/// `length` pictures from `start` on, as far as there are (ComfyUI's ImageFromBatch).
///
/// # Errors
/// If the batch is empty.
pub fn from_batch(image: &Image, start: usize, length: usize) -> Result<Image> {
    let start = start.min(image.batch().checked_sub(1).ok_or_else(|| Error::Shape("the batch holds no picture".into()))?);
    let end = start.saturating_add(length).min(image.batch());
    Ok(Image::new(image.0.slice(s![start..end, .., .., ..]).to_owned()))
}

/// Adds normal noise of a standard deviation of `strength`, and clips to 0..1 (ComfyUI's ImageAddNoise).
pub fn add_noise(image: &Image, seed: u64, strength: f32) -> Image {
    let mut noisy = with_noise(image, seed, strength);
    noisy.0.mapv_inplace(|value| value.clamp(0.0, 1.0));
    noisy
}

/// Adds normal noise of a standard deviation of `strength`.
pub fn with_noise(image: &Image, seed: u64, strength: f32) -> Image {
    let mut noise = Generator::new(seed).randn(image.0.len()).into_iter();
    let mut out = image.0.as_standard_layout().into_owned();
    // As many numbers as values, in the same order.
    out.iter_mut().for_each(|value| *value += strength * noise.next().unwrap_or(0.0));
    Image::new(out)
}

/// Pixels to add on each side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Sides {
    pub left: usize,
    pub top: usize,
    pub right: usize,
    pub bottom: usize,
}

/// Surrounds pictures with grey, and makes the mask of what is to be painted: 1 on the new pixels, falling to 0 over `feathering` pixels
/// inside the old ones (ComfyUI's ImagePadForOutpaint).
///
/// # Errors
/// If the result would be too large.
pub fn pad_for_outpaint(image: &Image, sides: Sides, feathering: usize) -> Result<(Image, Mask)> {
    let (batch, height, width, channels) = image.0.dim();
    let sum = |old: usize, a: usize, b: usize| old.saturating_add(a).saturating_add(b);
    let (new_height, new_width) = (sum(height, sides.top, sides.bottom), sum(width, sides.left, sides.right));
    check_size(batch * channels, new_width, new_height)?;
    let inner = s![.., sides.top..sides.top + height, sides.left..sides.left + width];
    let mut padded = Array4::from_elem((batch, new_height, new_width, channels), 0.5);
    padded.slice_mut(s![.., sides.top..sides.top + height, sides.left..sides.left + width, ..]).assign(&image.0);

    let mut mask = Array3::ones((1, new_height, new_width));
    let mut old = mask.slice_mut(inner);
    old.fill(0.0);
    if feathering > 0 && feathering.saturating_mul(2) < height.min(width) {
        for ((_, y, x), value) in old.indexed_iter_mut() {
            // Distance to the nearest side that has been extended.
            let distances = [
                if sides.top > 0 { y } else { height },
                if sides.bottom > 0 { height - y } else { height },
                if sides.left > 0 { x } else { width },
                if sides.right > 0 { width - x } else { width },
            ];
            let distance = distances.into_iter().min().unwrap_or(height);
            if distance < feathering {
                let v = (feathering - distance) as f64 / feathering as f64;
                *value = (v * v) as f32;
            }
        }
    }
    Ok((Image::new(padded), Mask::new(mask)))
}

/// Scales pictures to fit into a box and fills the rest with `fill` (ComfyUI's ResizeAndPadImage).
///
/// # Errors
/// If a side of the box or of the scaled picture is zero, or the result would be too large.
pub fn resize_and_pad(image: &Image, width: usize, height: usize, fill: f32, method: Method) -> Result<Image> {
    let (batch, old_height, old_width, channels) = image.0.dim();
    check_size(batch * channels, width, height)?;
    let scale = (width as f64 / old_width as f64).min(height as f64 / old_height as f64);
    let (new_width, new_height) = ((old_width as f64 * scale) as usize, (old_height as f64 * scale) as usize);
    let resized = resize::image(image, new_width, new_height, method, Crop::Disabled)?;
    let (top, left) = ((height - new_height) / 2, (width - new_width) / 2);
    let mut padded = Array4::from_elem((batch, height, width, channels), fill);
    padded.slice_mut(s![.., top..top + new_height, left..left + new_width, ..]).assign(&resized.0);
    Ok(Image::new(padded))
}

/// On which side of the first picture [`stitch`] puts the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Direction {
    Right,
    Down,
    Left,
    Up,
}

impl std::str::FromStr for Direction {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "right" => Self::Right,
            "down" => Self::Down,
            "left" => Self::Left,
            "up" => Self::Up,
            _ => return Err(Error::Parameter(format!("{name:?} is no direction: use right, down, left or up"))),
        })
    }
}

/// How [`stitch`] joins pictures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stitch {
    /// Where the second picture goes.
    pub direction: Direction,
    /// Whether the second is scaled (Lanczos) so that the touching sides are equally long. Otherwise the shorter is centred.
    pub match_size: bool,
    /// Pixels between the pictures; an odd number is raised by one.
    pub spacing: usize,
    /// Colour of these pixels. If it is a grey, it also fills what is centred; other colours leave black there.
    pub color: [f32; 3],
}

/// Puts two pictures side by side (ComfyUI's ImageStitch). The smaller batch repeats its last picture; missing channels are 1.
///
/// # Errors
/// If a batch is empty, or the result would be too large.
pub fn stitch(first: &Image, second: &Image, options: &Stitch) -> Result<Image> {
    let batch = first.batch().max(second.batch());
    let first = extend_batch(first, batch)?;
    let mut second = extend_batch(second, batch)?;
    let horizontal = matches!(options.direction, Direction::Left | Direction::Right);
    // The axis along which the touching sides run.
    let side = if horizontal { Axis(1) } else { Axis(2) };
    if options.match_size {
        let aspect = second.width() as f64 / second.height() as f64;
        let (width, height) = match horizontal {
            true => ((first.height() as f64 * aspect) as usize, first.height()),
            false => (first.width(), (first.width() as f64 / aspect) as usize),
        };
        second = resize::image(&second, width, height, Method::Lanczos, Crop::Disabled)?;
    }
    let [r, g, b] = options.color;
    let fill = if r == g && g == b { r } else { 0.0 };
    let length = first.0.len_of(side).max(second.0.len_of(side));
    let channels = first.channels().max(second.channels());
    let first = fit(&first, side, length, fill, channels)?;
    let second = fit(&second, side, length, fill, channels)?;

    let spacing = options.spacing.saturating_add(options.spacing % 2);
    let (gap_height, gap_width) = if horizontal { (length, spacing) } else { (spacing, length) };
    check_size(batch * channels, gap_width, gap_height)?;
    let gap = Array4::from_shape_fn((batch, gap_height, gap_width, channels), |(.., channel)| *options.color.get(channel).unwrap_or(&1.0));
    let parts = match options.direction {
        Direction::Right | Direction::Down => [first.view(), gap.view(), second.view()],
        Direction::Left | Direction::Up => [second.view(), gap.view(), first.view()],
    };
    let along = if horizontal { Axis(2) } else { Axis(1) };
    let joined = ndarray::concatenate(along, &parts).map_err(|error| Error::Shape(format!("the pictures cannot be joined: {error}")))?;
    Ok(Image::new(joined))
}

fn extend_batch(image: &Image, batch: usize) -> Result<Image> {
    let missing = batch - image.batch();
    if missing == 0 {
        return Ok(image.clone());
    }
    let last = from_batch(image, image.batch(), 1)?;
    Ok(Image::new(concatenate![Axis(0), image.0, repeat(&last.0, missing)?]))
}

/// Centres a picture on an axis of `length`, and adds channels of 1.
fn fit(image: &Image, axis: Axis, length: usize, fill: f32, channels: usize) -> Result<Array4<f32>> {
    let mut shape = image.0.raw_dim();
    shape[axis.0] = length;
    shape[3] = channels;
    check_size(shape[0] * shape[3], shape[1], shape[2])?;
    let mut out = Array4::from_elem(shape, fill);
    out.slice_mut(s![.., .., .., image.channels()..]).fill(1.0);
    let before = (length - image.0.len_of(axis)) / 2;
    let mut inner = out.slice_axis_mut(axis, Slice::from(before..before + image.0.len_of(axis)));
    inner.slice_mut(s![.., .., .., ..image.channels()]).assign(&image.0);
    Ok(out)
}

/// Width and height of so many megapixels (2^20) in the same shape, multiples of `step` (ComfyUI's ImageScaleToTotalPixels).
pub fn total_pixels_size(width: usize, height: usize, megapixels: f64, step: usize) -> (usize, usize) {
    let total = megapixels * 1024.0 * 1024.0;
    let scale = (total / (width as f64 * height as f64)).sqrt();
    let side = |old: usize| (old as f64 * scale / step as f64).round_ties_even() as usize * step;
    (side(width), side(height))
}

/// Width and height in the same shape with the longer side of `largest` (ComfyUI's ImageScaleToMaxDimension).
pub fn max_dimension_size(width: usize, height: usize, largest: usize) -> (usize, usize) {
    let shorter = |short: usize, long: usize| (short as f64 / long as f64 * largest as f64).round_ties_even() as usize;
    match width.cmp(&height) {
        std::cmp::Ordering::Less => (shorter(width, height), largest),
        std::cmp::Ordering::Greater => (largest, shorter(height, width)),
        std::cmp::Ordering::Equal => (largest, largest),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;
    use ndarray::array;

    #[test]
    fn turning_is_clockwise() {
        let a = array![[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]].into_shared();
        assert_eq!(rotate(&a, 1, Axis(0), Axis(1)), array![[5.0, 3.0, 1.0], [6.0, 4.0, 2.0]].into_shared());
        assert_eq!(rotate(&a, 2, Axis(0), Axis(1)), flip(&flip(&a, Axis(0)), Axis(1)));
        assert_eq!(rotate(&rotate(&a, 3, Axis(0), Axis(1)), 5, Axis(0), Axis(1)), a);
    }

    #[test]
    fn batches_are_repeated_and_cut() {
        let image = Image::new(Array4::from_shape_fn((3, 1, 1, 1), |(b, ..)| b as f32));
        let values = |array: &ArcArray<f32, ndarray::Ix4>| array.iter().copied().collect::<Vec<f32>>();
        assert_eq!(values(&repeat(&image.0, 2).unwrap()), [0., 1., 2., 0., 1., 2.]);
        assert_eq!(values(&repeat_to_batch(&image.0, 4).unwrap()), [0., 1., 2., 0.]);
        assert_eq!(values(&repeat_to_batch(&image.0, 2).unwrap()), [0., 1.]);
        assert_eq!(values(&from_batch(&image, 1, 9).unwrap().0), [1., 2.]);
        assert_eq!(values(&from_batch(&image, 9, 9).unwrap().0), [2.]);
        assert!(repeat(&Image::solid(1, 64, 64, 0).0, usize::MAX).is_err());
    }

    #[test]
    fn stitching_centres_and_fills() {
        let (small, tall) = (Image::solid(1, 1, 2, 0xffffff), Image::solid(2, 4, 1, 0x00ff00));
        let options = Stitch { direction: Direction::Left, match_size: false, spacing: 1, color: [1.0, 0.0, 0.0] };
        let joined = stitch(&small, &tall, &options).unwrap();
        assert_eq!(joined.0.dim(), (2, 4, 5, 3));
        let pixel = |y: usize, x: usize| [0, 1, 2].map(|c| joined.0[[1, y, x, c]]);
        assert_eq!((pixel(0, 0), pixel(0, 1), pixel(0, 3), pixel(1, 4)), ([0., 1., 0.], [1., 0., 0.], [0.; 3], [1.; 3]));
    }

    #[test]
    fn padding_and_cropping_have_bounds() {
        let image = Image::solid(1, 4, 4, 0);
        let sides = Sides { left: usize::MAX, ..Sides::default() };
        assert!(matches!(pad_for_outpaint(&image, sides, 0), Err(Error::TooLarge { .. })));
        assert_eq!(crop(&image, 9, 9, 9, 9).unwrap().0.dim(), (1, 1, 1, 3));
        assert!(crop(&image, 0, 0, 0, 1).is_err());
    }
}
