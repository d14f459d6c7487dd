//! Group and layer normalisation. Means and variances are merged from short blocks in double precision (Chan, Golub and LeVeque 1983), so
//! that they are exact to single precision for groups of any size and any mean.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::activation::{Function, Silu};
use crate::out::{Out, Written};
use crate::simd::{Level, Simd, Task, dispatch};
use crate::weight::{Error, Result, check_len};

/// Numbers in a block of the statistics: 4 KiB, read twice from the first-level cache.
const BLOCK_LEN: usize = 1024;
/// Numbers in a task of the layer norm.
const CHUNK_LEN: usize = 16 * 1024;

/// The sizes of a group normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    /// Images.
    pub batch: usize,
    /// Channels.
    pub channels: usize,
    /// Pixels of an image.
    pub pixels: usize,
    /// Groups of neighbouring channels; they divide the channels.
    pub groups: usize,
    /// What is added to the variance.
    pub eps: f64,
    /// Whether `x * sigmoid(x)` follows.
    pub silu: bool,
}

/// Normalises every group of channels of `x (batch, channels, pixels)`; `weight` and `bias` are `(channels)`.
pub fn group_norm(x: &[f32], weight: &[f32], bias: &[f32], sizes: &GroupNorm, out: Out<'_>) -> Result<Written> {
    group_norm_at(Level::best(), x, weight, bias, sizes, out)
}

pub(crate) fn group_norm_at(level: Level, x: &[f32], weight: &[f32], bias: &[f32], sizes: &GroupNorm, mut out: Out<'_>) -> Result<Written> {
    let GroupNorm { batch, channels, pixels, groups, eps, silu } = *sizes;
    if groups == 0 || channels % groups != 0 {
        return Err(Error(format!("{channels} channels cannot be divided into {groups} groups")));
    }
    check_len("the input", x.len(), &[batch, channels, pixels])?;
    check_len("the output", out.len(), &[batch, channels, pixels])?;
    check_len("the weight", weight.len(), &[channels])?;
    check_len("the bias", bias.len(), &[channels])?;
    let each = channels / groups;
    let len = (each * pixels).max(1);
    x.par_chunks(len).zip(out.numbers().par_chunks_mut(len)).enumerate().for_each(|(index, (x, out))| {
        let first = index % groups * each;
        let (weight, bias) = (&weight[first..first + each], &bias[first..first + each]);
        dispatch(level, Group { x, weight, bias, pixels, eps, silu, out });
    });
    // SAFETY: it is as long as the input, and that is whole groups.
    Ok(unsafe { out.written() })
}

/// Normalises every row of `x (rows, columns)`; `weight` and `bias` are `(columns)`, one and zero where there is none.
pub fn layer_norm(x: &[f32], weight: Option<&[f32]>, bias: Option<&[f32]>, columns: usize, eps: f64, out: Out<'_>) -> Result<Written> {
    layer_norm_at(Level::best(), x, weight, bias, columns, eps, out)
}

pub(crate) fn layer_norm_at(
    level: Level,
    x: &[f32],
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    columns: usize,
    eps: f64,
    mut out: Out<'_>,
) -> Result<Written> {
    if columns == 0 || !x.len().is_multiple_of(columns) {
        return Err(Error(format!("an input of {} elements has no rows of {columns}", x.len())));
    }
    check_len("the output", out.len(), &[x.len()])?;
    for (what, parameter) in [("the weight", weight), ("the bias", bias)] {
        if let Some(parameter) = parameter {
            check_len(what, parameter.len(), &[columns])?;
        }
    }
    let (ones, zeros);
    let weight = match weight {
        Some(weight) => weight,
        None => {
            ones = vec![1.0; columns];
            &ones
        }
    };
    let bias = match bias {
        Some(bias) => bias,
        None => {
            zeros = vec![0.0; columns];
            &zeros
        }
    };
    let chunk = (CHUNK_LEN / columns).max(1) * columns;
    let chunks = x.par_chunks(chunk).zip(out.numbers().par_chunks_mut(chunk));
    chunks.for_each(|(x, out)| dispatch(level, Rows { x, weight, bias, columns, eps, out }));
    // SAFETY: it is as long as the input, and that is whole rows.
    Ok(unsafe { out.written() })
}

/// Mean and population variance of some numbers.
///
/// # Safety
/// The instruction set is available.
#[inline(always)]
unsafe fn statistics<S: Simd>(x: &[f32]) -> (f64, f64) {
    let (mut count, mut mean, mut squares) = (0.0f64, 0.0f64, 0.0f64);
    for block in x.chunks(BLOCK_LEN) {
        let len = block.len();
        let vectors = len / S::LANES;
        let p = block.as_ptr();
        // SAFETY: whole vectors lie inside the block.
        let (block_mean, block_squares) = unsafe {
            let mut sums = [S::zero(); 4];
            for i in 0..vectors {
                sums[i % 4] = S::add(sums[i % 4], S::load(p.add(i * S::LANES)));
            }
            let mut sum = f64::from(S::sum(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3]))));
            for x in &block[vectors * S::LANES..] {
                sum += f64::from(*x);
            }
            let block_mean = sum / len as f64;
            let centre = block_mean as f32;
            let centres = S::splat(centre);
            let mut sums = [S::zero(); 4];
            for i in 0..vectors {
                let d = S::sub(S::load(p.add(i * S::LANES)), centres);
                sums[i % 4] = S::fma(d, d, sums[i % 4]);
            }
            let mut sum = f64::from(S::sum(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3]))));
            for x in &block[vectors * S::LANES..] {
                let d = f64::from(*x - centre);
                sum += d * d;
            }
            // The squares are about the rounded mean; what that adds is known.
            let off = block_mean - f64::from(centre);
            (block_mean, sum - len as f64 * off * off)
        };
        let total = count + len as f64;
        let delta = block_mean - mean;
        mean += delta * len as f64 / total;
        squares += block_squares + delta * delta * count * len as f64 / total;
        count = total;
    }
    (mean, (squares / count).max(0.0))
}

struct Group<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    pixels: usize,
    eps: f64,
    silu: bool,
    out: &'a mut [MaybeUninit<f32>],
}

impl Task for Group<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller has the instruction set; `x` and `out` have `pixels` numbers for every channel.
        unsafe {
            let (mean, variance) = statistics::<S>(self.x);
            let scale = 1.0 / (variance + self.eps).sqrt();
            for (channel, (weight, bias)) in self.weight.iter().zip(self.bias).enumerate() {
                let range = channel * self.pixels..(channel + 1) * self.pixels;
                let factor = f64::from(*weight) * scale;
                let offset = f64::from(*bias) - mean * factor;
                affine::<S>(&self.x[range.clone()], factor as f32, offset as f32, self.silu, &mut self.out[range]);
            }
        }
    }
}

/// `x * factor + offset`, and SiLU of it if wanted.
///
/// # Safety
/// The instruction set is available; the slices are of one length.
#[inline(always)]
unsafe fn affine<S: Simd>(x: &[f32], factor: f32, offset: f32, silu: bool, out: &mut [MaybeUninit<f32>]) {
    let len = x.len().min(out.len());
    let (x, out) = (x.as_ptr(), out.as_mut_ptr().cast::<f32>());
    // SAFETY: whole vectors lie below `len`; the rest goes through a buffer of one vector.
    unsafe {
        let (factor, offset) = (S::splat(factor), S::splat(offset));
        let mut i = 0;
        while i + S::LANES <= len {
            let y = S::fma(S::load(x.add(i)), factor, offset);
            S::store(out.add(i), if silu { Silu::of::<S>(y) } else { y });
            i += S::LANES;
        }
        if i < len {
            let mut buffer = [0.0f32; 16];
            std::ptr::copy_nonoverlapping(x.add(i), buffer.as_mut_ptr(), len - i);
            let y = S::fma(S::load(buffer.as_ptr()), factor, offset);
            S::store(buffer.as_mut_ptr(), if silu { Silu::of::<S>(y) } else { y });
            std::ptr::copy_nonoverlapping(buffer.as_ptr(), out.add(i), len - i);
        }
    }
}

struct Rows<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    columns: usize,
    eps: f64,
    out: &'a mut [MaybeUninit<f32>],
}

impl Task for Rows<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let columns = self.columns;
        for (x, out) in self.x.chunks_exact(columns).zip(self.out.chunks_exact_mut(columns)) {
            // SAFETY: the caller has the instruction set; row, weight and bias have `columns` numbers.
            unsafe {
                let (mean, variance) = statistics::<S>(x);
                let scale = (1.0 / (variance + self.eps).sqrt()) as f32;
                let mean = mean as f32;
                let (scales, means) = (S::splat(scale), S::splat(mean));
                let mut i = 0;
                while i + S::LANES <= columns {
                    let normed = S::mul(S::sub(S::load(x.as_ptr().add(i)), means), scales);
                    let y = S::fma(normed, S::load(self.weight.as_ptr().add(i)), S::load(self.bias.as_ptr().add(i)));
                    S::store(out.as_mut_ptr().cast::<f32>().add(i), y);
                    i += S::LANES;
                }
                for i in i..columns {
                    out[i].write((x[i] - mean) * scale * self.weight[i] + self.bias[i]);
                }
            }
        }
    }
}
