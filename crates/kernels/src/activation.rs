//! Activation functions over whole slices, and nearest-neighbour enlargement.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::math;
use crate::out::{Out, Written};
use crate::simd::{Level, Simd, Task, dispatch};
use crate::weight::{Error, Result, check_len};

/// Numbers in a task.
const CHUNK_LEN: usize = 16 * 1024;

/// A function of one number that works on vectors.
pub(crate) trait Function: Copy + Send + Sync {
    /// The function's values.
    ///
    /// # Safety
    /// The instruction set is available.
    unsafe fn of<S: Simd>(x: S::V) -> S::V;
}

/// `x / (1 + e^-x)`
#[derive(Clone, Copy)]
pub(crate) struct Silu;
impl Function for Silu {
    #[inline(always)]
    unsafe fn of<S: Simd>(x: S::V) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::div(x, S::add(S::splat(1.0), math::exp::<S>(S::sub(S::zero(), x)))) }
    }
}

/// `x / (1 + e^(-1.702 x))`
#[derive(Clone, Copy)]
struct QuickGelu;
impl Function for QuickGelu {
    #[inline(always)]
    unsafe fn of<S: Simd>(x: S::V) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::div(x, S::add(S::splat(1.0), math::exp::<S>(S::mul(S::splat(-1.702), x)))) }
    }
}

/// `x (1 + erf(x / sqrt 2)) / 2`
#[derive(Clone, Copy)]
struct Gelu;
impl Function for Gelu {
    #[inline(always)]
    unsafe fn of<S: Simd>(x: S::V) -> S::V {
        // SAFETY: the caller's.
        unsafe {
            let erf = math::erf::<S>(S::mul(x, S::splat(std::f32::consts::FRAC_1_SQRT_2)));
            S::mul(S::mul(x, S::splat(0.5)), S::add(S::splat(1.0), erf))
        }
    }
}

/// `x / (1 + e^-x)` of every number.
pub fn silu(x: &[f32], out: Out<'_>) -> Result<Written> {
    map(Level::best(), Silu, x, out)
}

/// `x / (1 + e^(-1.702 x))` of every number, as in CLIP.
pub fn quick_gelu(x: &[f32], out: Out<'_>) -> Result<Written> {
    map(Level::best(), QuickGelu, x, out)
}

/// `x (1 + erf(x / sqrt 2)) / 2` of every number.
pub fn gelu(x: &[f32], out: Out<'_>) -> Result<Written> {
    map(Level::best(), Gelu, x, out)
}

/// Rows `(2 columns)` to rows `(columns)`: the first half of a row times the exact GELU of its second half.
pub fn geglu(x: &[f32], columns: usize, out: Out<'_>) -> Result<Written> {
    geglu_at(Level::best(), x, columns, out)
}

pub(crate) fn geglu_at(level: Level, x: &[f32], columns: usize, mut out: Out<'_>) -> Result<Written> {
    if columns == 0 || !out.len().is_multiple_of(columns) {
        return Err(Error(format!("an output of {} elements has no rows of {columns}", out.len())));
    }
    check_len("the input", x.len(), &[out.len(), 2])?;
    let rows = (CHUNK_LEN / columns).max(1);
    x.par_chunks(2 * rows * columns).zip(out.numbers().par_chunks_mut(rows * columns)).for_each(|(x, out)| {
        for (x, out) in x.chunks_exact(2 * columns).zip(out.chunks_exact_mut(columns)) {
            let (value, gate) = x.split_at(columns);
            dispatch(level, Gated { value, gate, out });
        }
    });
    // SAFETY: it has whole rows, and so many as the input.
    Ok(unsafe { out.written() })
}

pub(crate) fn map<F: Function>(level: Level, f: F, x: &[f32], mut out: Out<'_>) -> Result<Written> {
    check_len("the output", out.len(), &[x.len()])?;
    x.par_chunks(CHUNK_LEN).zip(out.numbers().par_chunks_mut(CHUNK_LEN)).for_each(|(x, out)| dispatch(level, Map { f, x, out }));
    // SAFETY: it is as long as the input.
    Ok(unsafe { out.written() })
}

struct Map<'a, F> {
    f: F,
    x: &'a [f32],
    out: &'a mut [MaybeUninit<f32>],
}

impl<F: Function> Task for Map<'_, F> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let _ = self.f;
        let len = self.x.len().min(self.out.len());
        let (x, out) = (self.x.as_ptr(), self.out.as_mut_ptr().cast::<f32>());
        let mut i = 0;
        // SAFETY: whole vectors lie below `len`; the rest goes through a buffer of one vector.
        unsafe {
            while i + S::LANES <= len {
                S::store(out.add(i), F::of::<S>(S::load(x.add(i))));
                i += S::LANES;
            }
            if i < len {
                let mut buffer = [0.0f32; 16];
                std::ptr::copy_nonoverlapping(x.add(i), buffer.as_mut_ptr(), len - i);
                S::store(buffer.as_mut_ptr(), F::of::<S>(S::load(buffer.as_ptr())));
                std::ptr::copy_nonoverlapping(buffer.as_ptr(), out.add(i), len - i);
            }
        }
    }
}

struct Gated<'a> {
    value: &'a [f32],
    gate: &'a [f32],
    out: &'a mut [MaybeUninit<f32>],
}

impl Task for Gated<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let len = self.value.len().min(self.gate.len()).min(self.out.len());
        let (value, gate, out) = (self.value.as_ptr(), self.gate.as_ptr(), self.out.as_mut_ptr().cast::<f32>());
        let mut i = 0;
        // SAFETY: as in `Map`.
        unsafe {
            while i + S::LANES <= len {
                S::store(out.add(i), S::mul(S::load(value.add(i)), Gelu::of::<S>(S::load(gate.add(i)))));
                i += S::LANES;
            }
            if i < len {
                let mut buffer = [0.0f32; 16];
                std::ptr::copy_nonoverlapping(gate.add(i), buffer.as_mut_ptr(), len - i);
                S::store(buffer.as_mut_ptr(), Gelu::of::<S>(S::load(buffer.as_ptr())));
                for (j, x) in buffer.iter().enumerate().take(len - i) {
                    *out.add(i + j) = *value.add(i + j) * x;
                }
            }
        }
    }
}

/// `(planes, height, width)` to `(planes, factor * height, factor * width)`, every value `factor * factor` times.
pub fn upsample_nearest(x: &[f32], planes: usize, height: usize, width: usize, factor: usize, mut out: Out<'_>) -> Result<Written> {
    check_len("the input", x.len(), &[planes, height, width])?;
    check_len("the output", out.len(), &[planes, height, width, factor, factor])?;
    let chunks = out.numbers().par_chunks_mut((factor * factor * width).max(1));
    chunks.zip(x.par_chunks(width.max(1))).with_min_len(16).for_each(|(out, row)| {
        let (first, rest) = out.split_at_mut(factor * width);
        if factor == 2 {
            for (pair, &value) in first.chunks_exact_mut(2).zip(row) {
                pair.fill(MaybeUninit::new(value));
            }
        } else {
            for (run, &value) in first.chunks_exact_mut(factor).zip(row) {
                run.fill(MaybeUninit::new(value));
            }
        }
        for copy in rest.chunks_exact_mut(factor * width) {
            copy.copy_from_slice(first);
        }
    });
    // SAFETY: each row of the input makes the rows of a chunk.
    Ok(unsafe { out.written() })
}

/// The sums of two slices.
pub fn add(a: &[f32], b: &[f32], mut out: Out<'_>) -> Result<Written> {
    check_len("the second term", b.len(), &[a.len()])?;
    check_len("the output", out.len(), &[a.len()])?;
    let terms = a.par_chunks(CHUNK_LEN).zip(b.par_chunks(CHUNK_LEN));
    terms.zip(out.numbers().par_chunks_mut(CHUNK_LEN)).for_each(|((a, b), out)| {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            out.write(a + b);
        }
    });
    // SAFETY: it is as long as both terms.
    Ok(unsafe { out.written() })
}

/// `x (planes, pixels)` plus one number of `y (planes)` for every plane.
pub fn add_planes(x: &[f32], y: &[f32], mut out: Out<'_>) -> Result<Written> {
    check_len("the output", out.len(), &[x.len()])?;
    if x.is_empty() {
        // SAFETY: there is nothing to write.
        return Ok(unsafe { out.written() });
    }
    if y.is_empty() || !x.len().is_multiple_of(y.len()) {
        return Err(Error(format!("{} elements cannot be divided into {} planes", x.len(), y.len())));
    }
    let pixels = x.len() / y.len();
    let least = (CHUNK_LEN / pixels).max(1);
    x.par_chunks(pixels).zip(out.numbers().par_chunks_mut(pixels)).zip(y).with_min_len(least).for_each(|((x, out), y)| {
        for (out, x) in out.iter_mut().zip(x) {
            out.write(x + y);
        }
    });
    // SAFETY: it is as long as the input, which has as many planes as there are numbers to add.
    Ok(unsafe { out.written() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) fn all_at(level: Level, x: &[f32]) -> [Vec<f32>; 3] {
    let mut out = [(); 3].map(|()| vec![0.0; x.len()]);
    map(level, Silu, x, Out::of(&mut out[0])).unwrap();
    map(level, QuickGelu, x, Out::of(&mut out[1])).unwrap();
    map(level, Gelu, x, Out::of(&mut out[2])).unwrap();
    out
}
