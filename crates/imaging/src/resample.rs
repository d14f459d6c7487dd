//! Resampling of 8-bit pictures as Pillow does it (`Image.resize`, `ImageOps.contain`), with its fixed-point weights. Knows no floats
//! between 0 and 1: see [`crate::resize`] for those.

use crate::{Error, Raster, Result};

/// Fraction bits of a weight: 32 less 8 for the pixel and 2 for overshoot.
const PRECISION_BITS: u32 = 22;

/// Pillow's resampling filters that ComfyUI uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// A triangle: used for previews.
    Bilinear,
    /// A windowed sinc over three pixels on either side: used for scaling pictures.
    Lanczos,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}

/// Scales a picture to exactly this size. Colours are weighted by alpha if there is any.
///
/// # Errors
/// If a side is zero or absurdly large.
pub fn resize(raster: &Raster, width: usize, height: usize, filter: Filter) -> Result<Raster> {
    if (width, height) == (raster.width(), raster.height()) {
        return Ok(raster.clone());
    }
    let premultiplied = raster.has_alpha().then(|| premultiply(raster)).transpose()?;
    let mut current = premultiplied.unwrap_or_else(|| raster.clone());
    // As Pillow does since version 13, which thus has fewer pixels between: rounding between the passes shows in the last bit.
    let columns_first = width > current.width() && height < current.height();
    if columns_first {
        current = resize_columns(&current, height, filter)?;
    }
    if width != current.width() {
        current = resize_rows(&current, width, filter)?;
    }
    if height != current.height() {
        current = resize_columns(&current, height, filter)?;
    }
    if raster.has_alpha() { unpremultiply(&current) } else { Ok(current) }
}

/// Scales a picture to fit into a box, keeping its aspect ratio; also enlarges (`ImageOps.contain`).
///
/// # Errors
/// If a side of the box is zero or absurdly large.
pub fn contain(raster: &Raster, width: usize, height: usize, filter: Filter) -> Result<Raster> {
    let (old_width, old_height) = (raster.width() as f64, raster.height() as f64);
    let old_aspect = old_width / old_height;
    let box_aspect = width as f64 / height as f64;
    let side = |value: f64| (value.round_ties_even() as usize).max(1);
    if old_aspect > box_aspect {
        resize(raster, width, side(old_height / old_width * width as f64), filter)
    } else if old_aspect < box_aspect {
        resize(raster, side(old_width / old_height * height as f64), height, filter)
    } else {
        resize(raster, width, height, filter)
    }
}

/// For each output position: the first input position, and the weights of it and its successors.
fn weights(old: usize, new: usize, filter: Filter) -> Vec<(usize, Vec<i32>)> {
    let scale = old as f64 / new as f64;
    let filter_scale = scale.max(1.0);
    let support = filter.support() * filter_scale;
    let one = f64::from(1u32 << PRECISION_BITS);
    (0..new)
        .map(|position| {
            let center = (position as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(old);
            let raw: Vec<f64> = (first..end).map(|x| filter.weight((x as f64 - center + 0.5) * (1.0 / filter_scale))).collect();
            let sum: f64 = raw.iter().sum();
            let fixed = |weight: &f64| {
                let weight = if sum == 0.0 { *weight } else { *weight / sum };
                // Rounded away from zero at the half.
                (weight * one + if weight < 0.0 { -0.5 } else { 0.5 }) as i32
            };
            (first, raw.iter().map(fixed).collect())
        })
        .collect()
}

fn clip(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (PRECISION_BITS - 1);

fn resize_rows(raster: &Raster, width: usize, filter: Filter) -> Result<Raster> {
    match raster.channels() {
        1 => resize_rows_of::<1>(raster, width, filter),
        2 => resize_rows_of::<2>(raster, width, filter),
        3 => resize_rows_of::<3>(raster, width, filter),
        _ => resize_rows_of::<4>(raster, width, filter),
    }
}

fn resize_rows_of<const C: usize>(raster: &Raster, width: usize, filter: Filter) -> Result<Raster> {
    check(width, raster.height(), C)?;
    let weights = weights(raster.width(), width, filter);
    let mut data = Vec::with_capacity(width * raster.height() * C);
    for row in raster.data().chunks_exact(raster.width() * C) {
        let (pixels, _) = row.as_chunks::<C>();
        for (first, weights) in &weights {
            let mut sums = [HALF; C];
            for (pixel, weight) in pixels[*first..].iter().zip(weights) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*value) * weight;
                }
            }
            data.extend(sums.map(clip));
        }
    }
    Raster::new(width, raster.height(), C, data)
}

fn resize_columns(raster: &Raster, height: usize, filter: Filter) -> Result<Raster> {
    check(raster.width(), height, raster.channels())?;
    let stride = raster.width() * raster.channels();
    let mut data = Vec::with_capacity(stride * height);
    let mut sums = vec![0; stride];
    for (first, weights) in weights(raster.height(), height, filter) {
        sums.fill(HALF);
        for (row, weight) in raster.data().chunks_exact(stride).skip(first).zip(weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        data.extend(sums.iter().map(|&sum| clip(sum)));
    }
    Raster::new(raster.width(), height, raster.channels(), data)
}

fn check(width: usize, height: usize, channels: usize) -> Result<()> {
    const MAX_BYTES: u64 = 1 << 32;
    if width == 0 || height == 0 {
        return Err(Error::Parameter(format!("a picture cannot be scaled to {width}x{height}: both sides must be at least 1")));
    }
    let bytes = (width as u64).saturating_mul(height as u64).saturating_mul(channels as u64);
    if bytes > MAX_BYTES {
        return Err(Error::TooLarge { what: "bytes after scaling", found: bytes, limit: MAX_BYTES });
    }
    Ok(())
}

fn premultiply(raster: &Raster) -> Result<Raster> {
    map_with_alpha(raster, crate::color::multiplied)
}

fn unpremultiply(raster: &Raster) -> Result<Raster> {
    map_with_alpha(raster, |value, alpha| match alpha {
        0 | 255 => value,
        _ => (255 * u32::from(value) / u32::from(alpha)).min(255) as u8,
    })
}

fn map_with_alpha(raster: &Raster, color: impl Fn(u8, u8) -> u8) -> Result<Raster> {
    let channels = raster.channels();
    let mut data = raster.data().to_vec();
    for pixel in data.chunks_exact_mut(channels) {
        let alpha = pixel[channels - 1];
        for value in &mut pixel[..channels - 1] {
            *value = color(*value, alpha);
        }
    }
    Raster::new(raster.width(), raster.height(), channels, data)
}
