//! Gaussian blur and sharpening with reflected borders, as ComfyUI's ImageBlur, ImageSharpen and LatentOperationSharpen do. Knows no
//! node.

use comfyd_values::Image;

use crate::{Error, Result};

/// Blurs with a Gaussian of `2 * radius + 1` pixels. `sigma` is in units of the radius: at the kernel's edge the distance is 1.
///
/// # Errors
/// If the radius is not smaller than both sides (the border is reflected), or sigma is not positive.
pub fn blur(image: &Image, radius: usize, sigma: f64) -> Result<Image> {
    if radius == 0 {
        return Ok(image.clone());
    }
    check(radius, sigma, image.width(), image.height())?;
    let across = gaussian_1d(radius, sigma);
    Ok(map_batch(image, |plane, shape, out| convolve_separable(plane, shape, &across, out)))
}

/// Sharpens by the unsharp mask of that Gaussian, ten times `alpha` strong, and clips to 0..1.
///
/// # Errors
/// If the radius is not smaller than both sides (the border is reflected), or sigma is not positive.
pub fn sharpen(image: &Image, radius: usize, sigma: f64, alpha: f64) -> Result<Image> {
    if radius == 0 {
        return Ok(image.clone());
    }
    check(radius, sigma, image.width(), image.height())?;
    let across = gaussian_1d(radius, sigma);
    let amount = (alpha * 10.0) as f32;
    Ok(map_batch(image, |plane, shape, out| {
        convolve_separable(plane, shape, &across, out);
        for (blurred, value) in out.iter_mut().zip(plane) {
            *blurred = sharpened(*value, *blurred, amount).clamp(0.0, 1.0);
        }
    }))
}

/// Sharpens one plane (height, width) of any values, without clipping: what LatentOperationSharpen does to normalised latents.
///
/// # Errors
/// If the radius is not smaller than both sides (the border is reflected), sigma is not positive, or the plane has another size.
pub fn sharpen_plane(plane: &[f32], height: usize, width: usize, radius: usize, sigma: f64, alpha: f64) -> Result<Vec<f32>> {
    if plane.len() != height * width {
        return Err(Error::Shape(format!("{} values are no plane of {height}x{width}", plane.len())));
    }
    check(radius, sigma, width, height)?;
    let mut out = vec![0.0; plane.len()];
    convolve_separable(plane, [height, width, 1], &gaussian_1d(radius, sigma), &mut out);
    for (blurred, value) in out.iter_mut().zip(plane) {
        *blurred = sharpened(*value, *blurred, (alpha * 10.0) as f32);
    }
    Ok(out)
}

/// The kernel is -amount times the Gaussian, with the centre raised so that all weights add up to one.
fn sharpened(value: f32, blurred: f32, amount: f32) -> f32 {
    value * (1.0 + amount) - blurred * amount
}

fn check(radius: usize, sigma: f64, width: usize, height: usize) -> Result<()> {
    if radius >= width.min(height) {
        return Err(Error::Parameter(format!(
            "a radius of {radius} is too large for {width}x{height} pixels: it must be smaller than both sides"
        )));
    }
    if sigma.is_nan() || sigma <= 0.0 {
        return Err(Error::Parameter(format!("sigma {sigma} must be greater than 0")));
    }
    Ok(())
}

/// Weights of one axis. The kernel of two axes is their product, because exp(-(x²+y²)) is one.
fn gaussian_1d(radius: usize, sigma: f64) -> Vec<f32> {
    let raw: Vec<f64> = (0..=2 * radius)
        .map(|i| {
            let x = i as f64 / radius as f64 - 1.0;
            (-(x * x) / (2.0 * sigma * sigma)).exp()
        })
        .collect();
    let sum: f64 = raw.iter().sum();
    raw.iter().map(|weight| (weight / sum) as f32).collect()
}

fn map_batch(image: &Image, mut one: impl FnMut(&[f32], [usize; 3], &mut [f32])) -> Image {
    let source = image.0.as_standard_layout();
    let mut out = ndarray::Array4::zeros(image.0.raw_dim());
    for (source, mut out) in source.outer_iter().zip(out.outer_iter_mut()) {
        if let (Some(source), Some(out)) = (source.as_slice(), out.as_slice_mut()) {
            one(source, [image.height(), image.width(), image.channels()], out);
        }
    }
    Image::new(out)
}

/// Index of the pixel that position `at - radius` shows when the border is reflected, without repeating the outermost pixel.
pub(crate) fn reflect(at: usize, radius: usize, length: usize) -> usize {
    let position = at as isize - radius as isize;
    let last = length as isize - 1;
    (last - (last - position.abs()).abs()) as usize
}

/// Convolves (height, width, inner) with the same weights along both axes.
fn convolve_separable(values: &[f32], [height, width, inner]: [usize; 3], weights: &[f32], out: &mut [f32]) {
    let radius = weights.len() / 2;
    let stride = width * inner;
    let mut rows = vec![0.0; values.len()];
    let mut padded = vec![0.0; (width + 2 * radius) * inner];
    for (source, target) in values.chunks_exact(stride).zip(rows.chunks_exact_mut(stride)) {
        for (at, pixel) in padded.chunks_exact_mut(inner).enumerate() {
            let x = reflect(at, radius, width);
            pixel.copy_from_slice(&source[x * inner..(x + 1) * inner]);
        }
        for (tap, weight) in weights.iter().enumerate() {
            target.iter_mut().zip(&padded[tap * inner..]).for_each(|(sum, value)| *sum += weight * value);
        }
    }
    for (y, target) in out.chunks_exact_mut(stride).enumerate() {
        target.fill(0.0);
        for (tap, weight) in weights.iter().enumerate() {
            let from = reflect(y + tap, radius, height) * stride;
            target.iter_mut().zip(&rows[from..from + stride]).for_each(|(sum, value)| *sum += weight * value);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::excessive_precision)]

    use super::*;
    use ndarray::Array4;

    fn ramp() -> Image {
        Image::new(Array4::from_shape_fn((1, 4, 5, 1), |(_, y, x, _)| ((y * 5 + x) * 7 % 20) as f32 / 20.0))
    }

    #[track_caller]
    fn close(actual: &Image, expected: &[f32]) {
        for (a, b) in actual.0.iter().zip(expected) {
            assert!((a - b).abs() < 2e-6, "{a} against {b}");
        }
        assert_eq!(actual.0.len(), expected.len());
    }

    // x = (torch.arange(20) * 7 % 20 / 20).reshape(1, 4, 5, 1)
    // nodes_post_processing.Blur.execute(x, 2, 0.7).args[0].flatten().tolist()
    // nodes_post_processing.Sharpen.execute(x, 1, 0.8, 0.3).args[0].flatten().tolist()
    const BLURRED: [f32; 20] = [
        0.4081756, 0.4209452, 0.4417119, 0.4566033, 0.4679654, 0.4371132, 0.4472175, 0.4668487, 0.4788924, 0.4871790, 0.5088656, 0.5086102,
        0.5159143, 0.5279582, 0.5288383, 0.5413330, 0.5394413, 0.5427622, 0.5576538, 0.5585337,
    ];
    const SHARPENED: [f32; 20] = [
        0.0000000, 0.3657818, 1.0000000, 0.0000000, 0.5749602, 1.0000000, 0.0000000, 0.4500001, 1.0000000, 0.0000000, 0.3408216, 1.0000000,
        0.0000000, 0.5500002, 1.0000000, 0.0000000, 0.5842181, 1.0000000, 0.0000000, 0.7933965,
    ];

    #[test]
    fn blur_equals_the_references() {
        close(&blur(&ramp(), 2, 0.7).unwrap(), &BLURRED);
    }

    #[test]
    fn sharpen_equals_the_references() {
        close(&sharpen(&ramp(), 1, 0.8, 0.3).unwrap(), &SHARPENED);
        let plane = sharpen_plane(ramp().0.as_slice().unwrap(), 4, 5, 1, 0.8, 0.3).unwrap();
        close(&Image::new(Array4::from_shape_vec((1, 4, 5, 1), plane).unwrap().clamp(0.0, 1.0)), &SHARPENED);
    }

    #[test]
    fn impossible_parameters_are_errors() {
        assert!(blur(&ramp(), 4, 1.0).unwrap_err().to_string().contains("radius"));
        assert!(blur(&ramp(), 1, 0.0).unwrap_err().to_string().contains("sigma"));
        assert_eq!(blur(&ramp(), 0, 1.0).unwrap(), ramp());
    }
}
