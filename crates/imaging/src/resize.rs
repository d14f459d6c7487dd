//! Resizing pictures, masks and latents as `torch.nn.functional.interpolate` and ComfyUI's `common_upscale` do. Knows the axes of the
//! arrays, and no node.

use crate::resample::{self, Filter};

use crate::{Error, Raster, Result};
use comfyd_values::{Image, Mask};
use ndarray::{ArcArray, ArrayView4, Axis, Dimension, IxDyn, s};

/// Most values that one resize may produce.
const MAX_VALUES: u64 = 1 << 31;

/// How values between pixels are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The nearest pixel (torch's "nearest-exact").
    NearestExact,
    /// Two pixels per axis; no wider when shrinking.
    Bilinear,
    /// The mean of all pixels that an output pixel covers.
    Area,
    /// Four pixels per axis with Keys' kernel, a = -0.75; no wider when shrinking. Overshoots are kept.
    Bicubic,
    /// Pillow's Lanczos on 8-bit values. For pictures and masks only.
    Lanczos,
    /// Two neighbours per axis, interpolated on the sphere over all channels. For latents.
    Bislerp,
}

impl std::str::FromStr for Method {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "nearest-exact" => Self::NearestExact,
            "bilinear" => Self::Bilinear,
            "area" => Self::Area,
            "bicubic" => Self::Bicubic,
            "lanczos" => Self::Lanczos,
            "bislerp" => Self::Bislerp,
            _ => {
                return Err(Error::Parameter(format!(
                    "{name:?} is no scaling method: use nearest-exact, bilinear, area, bicubic, lanczos or bislerp"
                )));
            }
        })
    }
}

/// What happens when the aspect ratio changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crop {
    /// The picture is distorted.
    Disabled,
    /// The larger axis is cut on both sides first.
    Center,
}

impl std::str::FromStr for Crop {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "disabled" => Ok(Self::Disabled),
            "center" => Ok(Self::Center),
            _ => Err(Error::Parameter(format!("{name:?} is no way to crop: use disabled or center"))),
        }
    }
}

/// Resizes all pictures of a batch to `width` by `height`.
///
/// # Errors
/// If a side is or becomes zero, or the result would be too large.
pub fn image(image: &Image, width: usize, height: usize, method: Method, crop: Crop) -> Result<Image> {
    let (left, top, old_width, old_height) = window(image.width(), image.height(), width, height, crop)?;
    check_size(image.batch() * image.channels(), width, height)?;
    let view = image.0.slice(s![.., top..top + old_height, left..left + old_width, ..]);
    let (batch, channels) = (image.batch(), image.channels());
    let values = match method {
        Method::Lanczos => lanczos(view, width, height)?,
        Method::Bislerp => {
            let planes = view.permuted_axes([0, 3, 1, 2]);
            let out = bislerp(&dense(planes), [batch, channels, old_height, old_width], width, height);
            let out = from_values((batch, channels, height, width), out)?;
            return Ok(Image(out.permuted_axes([0, 2, 3, 1]).as_standard_layout().into_owned().into_shared()));
        }
        Method::Area => area(&dense(view), [batch, old_height, old_width, channels], width, height),
        Method::NearestExact | Method::Bilinear | Method::Bicubic => {
            interpolate(&dense(view), [batch, old_height, old_width, channels], width, height, method)
        }
    };
    Ok(Image(from_values((batch, height, width, channels), values)?))
}

/// Resizes all masks of a batch to `width` by `height`.
///
/// # Errors
/// If a side is or becomes zero, or the result would be too large.
pub fn mask(mask: &Mask, width: usize, height: usize, method: Method, crop: Crop) -> Result<Mask> {
    let picture = Image(mask.0.clone().insert_axis(Axis(3)));
    let resized = image(&picture, width, height, method, crop)?;
    Ok(Mask(resized.0.remove_axis(Axis(3))))
}

/// Resizes the last two axes of latents (B, C, H, W) or (B, C, T, H, W).
///
/// # Errors
/// If there are fewer than four axes, the method is Lanczos, a side is or becomes zero, or the result would be too large.
pub fn latent(samples: &ArcArray<f32, IxDyn>, width: usize, height: usize, method: Method, crop: Crop) -> Result<ArcArray<f32, IxDyn>> {
    let axes = samples.ndim();
    if axes < 4 {
        return Err(Error::Shape(format!(
            "latents need the axes batch, channels, height and width, these have shape {:?}",
            samples.shape()
        )));
    }
    let (old_height, old_width) = (samples.shape()[axes - 2], samples.shape()[axes - 1]);
    let (left, top, old_width, old_height) = window(old_width, old_height, width, height, crop)?;
    let mut view = samples.view();
    view.slice_axis_inplace(Axis(axes - 2), (top..top + old_height).into());
    view.slice_axis_inplace(Axis(axes - 1), (left..left + old_width).into());
    let mut shape = view.raw_dim();
    let planes: usize = shape.slice()[..axes - 2].iter().product();
    check_size(planes, width, height)?;
    shape[axes - 2] = height;
    shape[axes - 1] = width;

    let values = match method {
        Method::Lanczos => return Err(Error::Parameter("lanczos scales pictures only: choose another method for latents".into())),
        Method::Bislerp => {
            // The channels must lie before the plane, everything else before them.
            let channels = view.shape()[1];
            let mut order: Vec<usize> = (0..axes).filter(|&axis| axis != 1).collect();
            order.insert(axes - 3, 1);
            let moved = view.permuted_axes(order.clone());
            let out = bislerp(&dense(moved), [planes / channels.max(1), channels, old_height, old_width], width, height);
            let moved_shape: Vec<usize> = order.iter().map(|&axis| shape[axis]).collect();
            let out = from_values(IxDyn(&moved_shape), out)?;
            let back: Vec<usize> = (0..axes).map(|axis| order.iter().position(|&from| from == axis).unwrap_or(axis)).collect();
            return Ok(out.permuted_axes(back).as_standard_layout().into_owned().into_shared());
        }
        Method::Area => area(&dense(view), [planes, old_height, old_width, 1], width, height),
        Method::NearestExact | Method::Bilinear | Method::Bicubic => {
            interpolate(&dense(view), [planes, old_height, old_width, 1], width, height, method)
        }
    };
    from_values(shape, values)
}

/// Resizes planes (C, H, W) as torch does with `mode="bicubic", antialias=True`: Keys' kernel with a = -0.5, as wide as what an output pixel
/// covers, across and then down.
///
/// # Errors
/// If a side is or becomes zero, or the result would be too large.
pub fn antialiased_bicubic(values: &[f32], [planes, old_height, old_width]: [usize; 3], width: usize, height: usize) -> Result<Vec<f32>> {
    window(old_width, old_height, width, height, Crop::Disabled)?;
    check_size(planes, width, old_height.max(height))?;
    let across = Taps::antialiased_bicubic(old_width, width);
    let down = Taps::antialiased_bicubic(old_height, height);
    let mut out = Vec::with_capacity(planes * height * width);
    let mut narrow = vec![0.0; old_height * width];
    let mut sums = vec![0.0; width];
    for plane in values.chunks_exact(old_height * old_width) {
        for (row, target) in plane.chunks_exact(old_width).zip(narrow.chunks_exact_mut(width)) {
            interpolate_row::<1>(row, target, &across);
        }
        for (rows, weights) in down.iter() {
            sums.fill(0.0);
            for (row, &weight) in rows.iter().zip(weights) {
                sums.iter_mut().zip(&narrow[row * width..(row + 1) * width]).for_each(|(sum, value)| *sum += weight * value);
            }
            out.extend_from_slice(&sums);
        }
    }
    Ok(out)
}

/// The part of a picture that is used: left, top, width, height.
fn window(old_width: usize, old_height: usize, width: usize, height: usize, crop: Crop) -> Result<(usize, usize, usize, usize)> {
    if width == 0 || height == 0 || old_width == 0 || old_height == 0 {
        return Err(Error::Parameter(format!("cannot scale {old_width}x{old_height} to {width}x{height}: every side must be at least 1")));
    }
    let (w, h) = (old_width as f64, old_height as f64);
    let old_aspect = w / h;
    let new_aspect = width as f64 / height as f64;
    let (mut left, mut top) = (0, 0);
    if crop == Crop::Center && old_aspect > new_aspect {
        left = ((w - w * (new_aspect / old_aspect)) / 2.0).round_ties_even() as usize;
    } else if crop == Crop::Center && old_aspect < new_aspect {
        top = ((h - h * (old_aspect / new_aspect)) / 2.0).round_ties_even() as usize;
    }
    if left * 2 >= old_width || top * 2 >= old_height {
        return Err(Error::Parameter(format!(
            "nothing of {old_width}x{old_height} is left when it is cropped to the shape of {width}x{height}: disable cropping"
        )));
    }
    Ok((left, top, old_width - 2 * left, old_height - 2 * top))
}

pub(crate) fn check_size(planes: usize, width: usize, height: usize) -> Result<()> {
    let values = (planes as u64).saturating_mul(width as u64).saturating_mul(height as u64);
    if values > MAX_VALUES {
        return Err(Error::TooLarge { what: "values", found: values, limit: MAX_VALUES });
    }
    Ok(())
}

fn dense<'a, D: Dimension>(view: ndarray::ArrayView<'a, f32, D>) -> std::borrow::Cow<'a, [f32]> {
    match view.to_slice() {
        Some(slice) => slice.into(),
        None => view.iter().copied().collect::<Vec<f32>>().into(),
    }
}

fn from_values<D: Dimension>(
    shape: impl ndarray::ShapeArg<Dim = D> + Into<ndarray::StrideShape<D>>,
    values: Vec<f32>,
) -> Result<ArcArray<f32, D>> {
    ArcArray::from_shape_vec(shape, values).map_err(|error| Error::Shape(format!("resized values do not fit their shape: {error}")))
}

/// For one axis: which input positions make each output position, and with which weights.
struct Taps {
    /// Where the taps of each output position begin, and after the last where they end.
    starts: Vec<usize>,
    index: Vec<usize>,
    weight: Vec<f32>,
}

impl Taps {
    fn new(old: usize, new: usize, method: Method) -> Self {
        let mut taps = Self { starts: vec![0], index: Vec::new(), weight: Vec::new() };
        let scale = old as f32 / new as f32;
        for position in 0..new {
            match method {
                Method::Bilinear => {
                    let center = (scale * (position as f32 + 0.5) - 0.5).max(0.0);
                    let first = (center as usize).min(old - 1);
                    let fraction = (center - first as f32).clamp(0.0, 1.0);
                    taps.push(first, 1.0 - fraction);
                    taps.push((first + 1).min(old - 1), fraction);
                }
                Method::Bicubic => {
                    let center = scale * (position as f32 + 0.5) - 0.5;
                    let floor = center.floor();
                    let first = floor as i64 - 1;
                    for (offset, weight) in cubic_weights(center - floor).into_iter().enumerate() {
                        taps.push((first + offset as i64).clamp(0, old as i64 - 1) as usize, weight);
                    }
                }
                Method::NearestExact | Method::Area | Method::Lanczos | Method::Bislerp => {
                    let index = (((position as f32 + 0.5) * scale).floor() as usize).min(old - 1);
                    taps.push(index, 1.0);
                }
            }
            taps.starts.push(taps.index.len());
        }
        taps
    }

    fn antialiased_bicubic(old: usize, new: usize) -> Self {
        const A: f32 = -0.5;
        let kernel = |x: f32| match x.abs() {
            x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        };
        let mut taps = Self { starts: vec![0], index: Vec::new(), weight: Vec::new() };
        let scale = old as f32 / new as f32;
        let wide = scale.max(1.0);
        let support = 2.0 * wide;
        for position in 0..new {
            let center = scale * (position as f32 + 0.5);
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(old);
            let weights: Vec<f32> = (first..end).map(|index| kernel((index as f32 - center + 0.5) / wide)).collect();
            let sum: f32 = weights.iter().sum();
            for (index, weight) in (first..end).zip(weights) {
                taps.push(index, if sum == 0.0 { weight } else { weight / sum });
            }
            taps.starts.push(taps.index.len());
        }
        taps
    }

    fn push(&mut self, index: usize, weight: f32) {
        self.index.push(index);
        self.weight.push(weight);
    }

    /// For each output position: input positions and weights.
    fn iter(&self) -> impl Iterator<Item = (&[usize], &[f32])> {
        self.starts.windows(2).map(|pair| (&self.index[pair[0]..pair[1]], &self.weight[pair[0]..pair[1]]))
    }
}

/// Keys' cubic convolution (1981) with a = -0.75, at distances 1+t, t, 1-t and 2-t.
fn cubic_weights(t: f32) -> [f32; 4] {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let rest = 1.0 - t;
    [far(t + 1.0), near(t), near(rest), far(rest + 1.0)]
}

/// Interpolates (outer, height, width, inner) along the two middle axes: rows first, then columns.
fn interpolate(values: &[f32], [outer, old_height, old_width, inner]: [usize; 4], width: usize, height: usize, method: Method) -> Vec<f32> {
    let across = Taps::new(old_width, width, method);
    let down = Taps::new(old_height, height, method);
    let mut out = Vec::with_capacity(outer * height * width * inner);
    let stride = width * inner;
    let mut narrow = vec![0.0; old_height * stride];
    let mut sums = vec![0.0; stride];
    for plane in values.chunks_exact((old_height * old_width * inner).max(1)) {
        for (row, target) in plane.chunks_exact(old_width * inner).zip(narrow.chunks_exact_mut(stride)) {
            match inner {
                1 => interpolate_row::<1>(row, target, &across),
                3 => interpolate_row::<3>(row, target, &across),
                4 => interpolate_row::<4>(row, target, &across),
                _ => interpolate_wide_row(row, target, &across, inner),
            }
        }
        for (indices, weights) in down.iter() {
            if let ([index], [_]) = (indices, weights) {
                out.extend_from_slice(&narrow[index * stride..(index + 1) * stride]);
                continue;
            }
            sums.fill(0.0);
            for (index, &weight) in indices.iter().zip(weights) {
                for (sum, value) in sums.iter_mut().zip(&narrow[index * stride..(index + 1) * stride]) {
                    *sum += weight * value;
                }
            }
            out.extend_from_slice(&sums);
        }
    }
    out
}

/// Means over (outer, height, width, inner): each output pixel sums the input pixels that it covers row by row, as torch does, because
/// the order of a sum shows in the last bit and ComfyUI truncates when it saves.
fn area(values: &[f32], [outer, old_height, old_width, inner]: [usize; 4], width: usize, height: usize) -> Vec<f32> {
    let covered = |old: usize, new: usize| (0..new).map(move |i| (i * old / new, ((i + 1) * old).div_ceil(new)));
    let columns: Vec<(usize, usize)> = covered(old_width, width).collect();
    let mut out = vec![0.0; outer * height * width * inner];
    let mut targets = out.chunks_exact_mut(inner.max(1));
    for plane in values.chunks_exact((old_height * old_width * inner).max(1)) {
        for (top, bottom) in covered(old_height, height) {
            for &(left, right) in &columns {
                let Some(target) = targets.next() else { return out };
                for y in top..bottom {
                    let row = &plane[(y * old_width + left) * inner..(y * old_width + right) * inner];
                    for pixel in row.chunks_exact(inner) {
                        target.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += value);
                    }
                }
                let (rows, columns) = ((bottom - top) as f32, (right - left) as f32);
                target.iter_mut().for_each(|sum| *sum = *sum / rows / columns);
            }
        }
    }
    out
}

fn interpolate_row<const C: usize>(row: &[f32], target: &mut [f32], taps: &Taps) {
    let (pixels, _) = row.as_chunks::<C>();
    let (targets, _) = target.as_chunks_mut::<C>();
    for (target, (indices, weights)) in targets.iter_mut().zip(taps.iter()) {
        let mut sums = [0.0; C];
        for (&index, &weight) in indices.iter().zip(weights) {
            for (sum, value) in sums.iter_mut().zip(&pixels[index]) {
                *sum += weight * value;
            }
        }
        *target = sums;
    }
}

fn interpolate_wide_row(row: &[f32], target: &mut [f32], taps: &Taps, inner: usize) {
    target.fill(0.0);
    for (target, (indices, weights)) in target.chunks_exact_mut(inner.max(1)).zip(taps.iter()) {
        for (&index, &weight) in indices.iter().zip(weights) {
            for (sum, value) in target.iter_mut().zip(&row[index * inner..(index + 1) * inner]) {
                *sum += weight * value;
            }
        }
    }
}

fn lanczos(view: ArrayView4<f32>, width: usize, height: usize) -> Result<Vec<f32>> {
    let mut out = Vec::with_capacity(view.shape()[0] * width * height * view.shape()[3]);
    for picture in view.outer_iter() {
        let resized = resample::resize(&Raster::from_view(picture)?, width, height, Filter::Lanczos)?;
        out.extend(resized.data().iter().map(|&byte| f32::from(byte) / 255.0));
    }
    Ok(out)
}

/// The two neighbours of every output position and how far it lies between them, as ComfyUI's bislerp finds them: it interpolates the
/// positions themselves bilinearly.
fn slerp_neighbours(old: usize, new: usize) -> Vec<(usize, usize, f32)> {
    let taps = Taps::new(old, new, Method::Bilinear);
    let last = old - 1;
    taps.iter()
        .map(|(indices, weights)| {
            let at = |shift: usize| -> f32 { indices.iter().zip(weights).map(|(&i, &w)| w * (i + shift).min(last) as f32).sum() };
            let first = at(0);
            ((first as usize).min(last), (at(1) as usize).min(last), first - first.floor())
        })
        .collect()
}

/// Spherical interpolation of (outer, channels, height, width), along rows and then along columns.
fn bislerp(values: &[f32], [outer, channels, old_height, old_width]: [usize; 4], width: usize, height: usize) -> Vec<f32> {
    let mut rows = vec![0.0; outer * channels * old_height * width];
    let mut out = vec![0.0; outer * channels * height * width];
    let mut scratch = Slerp::new(channels);
    let across = slerp_neighbours(old_width, width);
    let down = slerp_neighbours(old_height, height);
    for sample in 0..outer {
        for y in 0..old_height {
            for (x, &(first, second, ratio)) in across.iter().enumerate() {
                let at = |channel: usize, x: usize| values[((sample * channels + channel) * old_height + y) * old_width + x];
                let result = scratch.run(|c| at(c, first), |c| at(c, second), ratio);
                for (channel, &value) in result.iter().enumerate() {
                    rows[((sample * channels + channel) * old_height + y) * width + x] = value;
                }
            }
        }
        for (y, &(first, second, ratio)) in down.iter().enumerate() {
            for x in 0..width {
                let at = |channel: usize, y: usize| rows[((sample * channels + channel) * old_height + y) * width + x];
                let result = scratch.run(|c| at(c, first), |c| at(c, second), ratio);
                for (channel, &value) in result.iter().enumerate() {
                    out[((sample * channels + channel) * height + y) * width + x] = value;
                }
            }
        }
    }
    out
}

/// Room for one spherical interpolation.
struct Slerp {
    first: Vec<f32>,
    second: Vec<f32>,
    result: Vec<f32>,
}

impl Slerp {
    fn new(channels: usize) -> Self {
        Self { first: vec![0.0; channels], second: vec![0.0; channels], result: vec![0.0; channels] }
    }

    fn run(&mut self, first: impl Fn(usize) -> f32, second: impl Fn(usize) -> f32, ratio: f32) -> &[f32] {
        const NEARLY_PARALLEL: f32 = 1.0 - 1e-5;
        self.first.iter_mut().enumerate().for_each(|(c, value)| *value = first(c));
        self.second.iter_mut().enumerate().for_each(|(c, value)| *value = second(c));
        let norm = |values: &[f32]| values.iter().map(|value| value * value).sum::<f32>().sqrt();
        let (first_norm, second_norm) = (norm(&self.first), norm(&self.second));
        let unit = |value: f32, norm: f32| if norm == 0.0 { 0.0 } else { value / norm };
        let pairs = || self.first.iter().zip(&self.second);
        let dot: f32 = pairs().map(|(a, b)| unit(*a, first_norm) * unit(*b, second_norm)).sum();
        if dot > NEARLY_PARALLEL {
            self.result.copy_from_slice(&self.first);
        } else if dot < -NEARLY_PARALLEL {
            for (result, (a, b)) in self.result.iter_mut().zip(self.first.iter().zip(&self.second)) {
                *result = a * (1.0 - ratio) + b * ratio;
            }
        } else {
            let angle = dot.acos();
            let sine = angle.sin();
            let (from, to) = (((1.0 - ratio) * angle).sin() / sine, (ratio * angle).sin() / sine);
            let length = first_norm * (1.0 - ratio) + second_norm * ratio;
            for (result, (a, b)) in self.result.iter_mut().zip(self.first.iter().zip(&self.second)) {
                *result = (from * unit(*a, first_norm) + to * unit(*b, second_norm)) * length;
            }
        }
        &self.result
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn shrinking_with_antialiasing_is_torchs() {
        // python: F.interpolate(torch.arange(35.).view(1, 1, 5, 7).sin(), size=size, mode="bicubic", antialias=True)
        let values: Vec<f32> = (0..35).map(|i| (i as f32).sin()).collect();
        for (width, height, want) in WANTED {
            let got = antialiased_bicubic(&values, [1, 5, 7], *width, *height).unwrap();
            assert_eq!(got.len(), want.len());
            assert!(got.iter().zip(*want).all(|(got, want)| (got - want).abs() < 1e-6), "{got:?} {want:?}");
        }
    }

    const WANTED: &[(usize, usize, &[f32])] = &[
        (3, 2, &[0.709_232_6, -0.31151128, -0.31982398, 0.06608994, -0.56749654, 0.643_316_5]),
        (
            4,
            8,
            &[
                0.374_383_2,
                0.793_519_4,
                -0.57712877,
                -0.66388804,
                0.579_693_4,
                0.59496355,
                -0.718_097_2,
                -0.41495526,
                0.86258274,
                0.22974789,
                -0.88695216,
                0.016_678_2,
                0.911_588_7,
                -0.171_690_6,
                -0.822_537_2,
                0.41856986,
                0.78643066,
                -0.52388746,
                -0.60552555,
                0.724_589_5,
                0.500_821_7,
                -0.788_254_1,
                -0.259_694,
                0.901_208_1,
                0.06324314,
                -0.85833657,
                0.17737678,
                0.847_800_1,
                -0.21307471,
                -0.85959786,
                0.44146565,
                0.772_485_9,
            ],
        ),
    ];
}
