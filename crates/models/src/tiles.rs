//! Work done in tiles that overlap and fade into each other. What is done to a tile is the caller's function; this file knows no model.

use candle_core::{DType, Device, Tensor};

use crate::{Error, Result};

/// Called as `progress(done, total)` when a part of the work is done; its error stops the work.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize) -> Result<()>;

/// Size and overlap of tiles, in the units of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Width.
    pub x: usize,
    /// Height.
    pub y: usize,
    /// How much of a tile its neighbour has too.
    pub overlap: usize,
}

/// How the result's height and width follow from the input's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// So many times larger.
    Up(usize),
    /// So many times smaller.
    Down(usize),
}

impl Scale {
    fn apply(self, length: usize) -> usize {
        match self {
            Self::Up(factor) => length * factor,
            Self::Down(factor) => round_half_even(length as f64 * (1.0 / factor as f64)),
        }
    }
}

/// Python's `round`.
fn round_half_even(x: f64) -> usize {
    x.round_ties_even() as usize
}

/// Calls of the function that [`tiled_scale`] makes for one image of this size.
pub fn steps(width: usize, height: usize, tile: Tile) -> usize {
    let along = |length: usize, tile_length: usize| {
        if length <= tile_length {
            1
        } else {
            length.saturating_sub(tile.overlap).div_ceil(tile_length.saturating_sub(tile.overlap).max(1))
        }
    };
    along(width, tile.x) * along(height, tile.y)
}

/// `f` of `samples (B, C, H, W)` tile by tile: `(B, channels, H', W')` as F32 on the CPU. `f` gets `(1, C, h, w)` and gives
/// `(1, channels, h', w')`. Tiles are weighted by ramps as wide as the overlap on all their sides, and the sum is divided by the sum of
/// the weights (ComfyUI's `tiled_scale`). `after` is called after each tile.
pub fn tiled_scale(
    samples: &Tensor,
    tile: Tile,
    scale: Scale,
    channels: usize,
    f: &mut dyn FnMut(&Tensor) -> Result<Tensor>,
    after: &mut dyn FnMut() -> Result<()>,
) -> Result<Tensor> {
    let (batch, _, height, width) = samples.dims4()?;
    let mut images = Vec::with_capacity(batch);
    for b in 0..batch {
        let image = samples.narrow(0, b, 1)?;
        if height <= tile.y && width <= tile.x {
            images.push(f(&image.contiguous()?)?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?);
            after()?;
        } else {
            images.push(blended(&image, tile, scale, channels, f, after)?);
        }
    }
    Ok(Tensor::cat(&images, 0)?)
}

fn blended(
    image: &Tensor,
    tile: Tile,
    scale: Scale,
    channels: usize,
    f: &mut dyn FnMut(&Tensor) -> Result<Tensor>,
    after: &mut dyn FnMut() -> Result<()>,
) -> Result<Tensor> {
    let (_, _, height, width) = image.dims4()?;
    let (out_height, out_width) = (scale.apply(height), scale.apply(width));
    let mut sum = vec![0f32; channels * out_height * out_width];
    let mut weights = vec![0f32; out_height * out_width];
    let feather = scale.apply(tile.overlap);
    let (rows, columns) = (starts(height, tile.y, tile.overlap)?, starts(width, tile.x, tile.overlap)?);
    for y in rows {
        for &x in &columns {
            let part = image.narrow(2, y, tile.y.min(height - y))?.narrow(3, x, tile.x.min(width - x))?.contiguous()?;
            let part = f(&part)?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
            let (_, c, h, w) = part.dims4()?;
            let (top, left) = (scale.apply(y), scale.apply(x));
            if c != channels || top + h > out_height || left + w > out_width {
                return Err(Error::msg(format!(
                    "a tile came back as {c} x {h} x {w}, which does not fit; choose a multiple of 8 as tile size"
                )));
            }
            let values = part.flatten_all()?.to_vec1::<f32>()?;
            let (vertical, horizontal) = (ramps(h, feather), ramps(w, feather));
            for row in 0..h {
                for column in 0..w {
                    let weight = vertical[row] * horizontal[column];
                    let place = (top + row) * out_width + left + column;
                    weights[place] += weight;
                    for channel in 0..channels {
                        sum[channel * out_height * out_width + place] += values[(channel * h + row) * w + column] * weight;
                    }
                }
            }
            after()?;
        }
    }
    for plane in sum.chunks_mut(out_height * out_width) {
        for (value, weight) in plane.iter_mut().zip(&weights) {
            *value /= weight;
        }
    }
    Ok(Tensor::from_vec(sum, (1, channels, out_height, out_width), &Device::Cpu)?)
}

/// Where tiles begin along one axis. Only where there is more than one must the next one begin further on.
fn starts(length: usize, tile: usize, overlap: usize) -> Result<Vec<usize>> {
    if length <= tile {
        return Ok(vec![0]);
    }
    match tile.checked_sub(overlap) {
        None | Some(0) => {
            Err(Error::msg(format!("tiles of {tile} cannot overlap by {overlap} along {length}; choose larger tiles or a smaller overlap")))
        }
        Some(step) => Ok((0..length - overlap).step_by(step).collect()),
    }
}

/// The weights along one axis: a ramp up, ones, a ramp down; ones only if the ramp would fill the axis.
fn ramps(length: usize, feather: usize) -> Vec<f32> {
    let mut weights = vec![1f32; length];
    if feather < length {
        for t in 0..feather {
            let weight = ((t + 1) as f64 / feather as f64) as f32;
            weights[t] *= weight;
            weights[length - 1 - t] *= weight;
        }
    }
    weights
}
