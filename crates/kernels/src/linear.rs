//! The fully connected layer.

// Tiles are arrays of registers: loops with constant bounds over indices are what the compiler unrolls.
#![allow(clippy::needless_range_loop)]

use rayon::prelude::*;

use crate::gemm::{Bias, Gemm, Panels, Shared};
use crate::simd::{Element, Level, Simd, Task, dispatch};
use crate::weight::{Result, Weight, check_len, product};

/// Up to this many rows of input, a weight is read once and not packed.
const FEW_ROWS: usize = 4;
/// Output columns in a task of the product with few rows.
const COLUMNS_PER_TASK: usize = 64;

/// `out (rows, columns) = x (rows, depth) · weight (columns, depth)ᵀ + bias (columns)`.
pub fn linear(
    x: &[f32],
    weight: Weight<'_>,
    bias: Option<&[f32]>,
    rows: usize,
    depth: usize,
    columns: usize,
    out: &mut [f32],
) -> Result<()> {
    linear_at(Level::best(), x, weight, bias, rows, depth, columns, out)
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn linear_at(
    level: Level,
    x: &[f32],
    weight: Weight<'_>,
    bias: Option<&[f32]>,
    rows: usize,
    depth: usize,
    columns: usize,
    out: &mut [f32],
) -> Result<()> {
    check_len("the input", x.len(), &[rows, depth])?;
    check_len("the weight", weight.len(), &[columns, depth])?;
    check_len("the output", out.len(), &[rows, columns])?;
    if let Some(bias) = bias {
        check_len("the bias", bias.len(), &[columns])?;
    }
    product("the product", &[rows.max(1), columns.max(1), 4])?;
    match weight {
        Weight::F32(w) => typed(level, x, w, bias, rows, depth, columns, out),
        Weight::F16(w) => typed(level, x, w, bias, rows, depth, columns, out),
        Weight::BF16(w) => typed(level, x, w, bias, rows, depth, columns, out),
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)]
fn typed<E: Element>(
    level: Level,
    x: &[f32],
    weight: &[E],
    bias: Option<&[f32]>,
    rows: usize,
    depth: usize,
    columns: usize,
    out: &mut [f32],
) {
    if rows <= FEW_ROWS {
        let out = Shared(out.as_mut_ptr());
        let work = |task: usize| {
            let range = (task * COLUMNS_PER_TASK, ((task + 1) * COLUMNS_PER_TASK).min(columns));
            dispatch(level, Dots { x, weight, bias, rows, depth, columns, range, out });
        };
        return (0..columns.div_ceil(COLUMNS_PER_TASK)).into_par_iter().for_each(work);
    }
    let bias = bias.map_or(Bias::None, Bias::Columns);
    let gemm = Gemm { a: x, rows, depth, b: &Transposed { weight, depth, columns }, c: Shared(out.as_mut_ptr()), ldc: columns, bias };
    // SAFETY: the lengths were checked against the sizes.
    unsafe { gemm.run(level) };
}

/// Rows of a weight as columns of the right factor.
struct Transposed<'a, E> {
    weight: &'a [E],
    depth: usize,
    columns: usize,
}

impl<E: Element> Panels for Transposed<'_, E> {
    fn count(&self, width: usize) -> usize {
        self.columns.div_ceil(width)
    }

    #[inline(always)]
    fn place(&self, panel: usize, width: usize) -> (usize, usize) {
        (panel * width, width.min(self.columns - panel * width))
    }

    #[inline(always)]
    unsafe fn pack<S: Simd>(&self, panel: usize, k0: usize, kc: usize, dst: *mut f32) {
        let width = 2 * S::LANES;
        let (first, columns) = self.place(panel, width);
        // SAFETY: the rows `first..first + columns` of the weight exist, and `k0 + kc` does not exceed their length.
        unsafe { pack_transposed::<S, E>(self.weight.as_ptr().add(first * self.depth + k0), self.depth, columns, kc, width, dst) };
    }
}

/// Writes `columns` rows of `kc` elements, `ld` apart, as columns of a panel of the given width, and zeros into the rest of it.
///
/// # Safety
/// The rows are valid, and so is the panel of `kc * width` numbers; `columns <= width`, the width a multiple of eight.
#[inline(always)]
pub(crate) unsafe fn pack_transposed<S: Simd, E: Element>(
    src: *const E,
    ld: usize,
    columns: usize,
    kc: usize,
    width: usize,
    dst: *mut f32,
) {
    let mut column = 0;
    // SAFETY: `column + 8 <= columns` and `k + 8 <= kc` where blocks are transposed; single elements are inside both limits.
    unsafe {
        while column + 8 <= columns {
            let src = src.add(column * ld);
            let mut k = 0;
            while k + 8 <= kc {
                S::transpose8(src.add(k), ld, dst.add(k * width + column), width);
                k += 8;
            }
            while k < kc {
                for j in 0..8 {
                    *dst.add(k * width + column + j) = (*src.add(j * ld + k)).to_f32();
                }
                k += 1;
            }
            column += 8;
        }
        while column < width {
            for k in 0..kc {
                *dst.add(k * width + column) = if column < columns { (*src.add(column * ld + k)).to_f32() } else { 0.0 };
            }
            column += 1;
        }
    }
}

/// Few rows of input: dot products along the stored rows of the weight.
struct Dots<'a, E> {
    x: &'a [f32],
    weight: &'a [E],
    bias: Option<&'a [f32]>,
    rows: usize,
    depth: usize,
    columns: usize,
    range: (usize, usize),
    out: Shared,
}

impl<E: Element> Task for Dots<'_, E> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for column in self.range.0..self.range.1 {
            // SAFETY: the column exists; no other task writes it.
            unsafe {
                match self.rows {
                    1 => self.column::<S, 1>(column),
                    2 => self.column::<S, 2>(column),
                    3 => self.column::<S, 3>(column),
                    4 => self.column::<S, 4>(column),
                    _ => {}
                }
            }
        }
    }
}

impl<E: Element> Dots<'_, E> {
    #[inline(always)]
    unsafe fn column<S: Simd, const R: usize>(&self, column: usize) {
        let depth = self.depth;
        // SAFETY: the weight has this row, the input `R` rows of `depth` elements, the output `R` rows of `columns`.
        unsafe {
            let w = self.weight.as_ptr().add(column * depth);
            let x = self.x.as_ptr();
            let mut acc = [[S::zero(); 2]; R];
            let mut k = 0;
            while k + 2 * S::LANES <= depth {
                for half in 0..2 {
                    let at = k + half * S::LANES;
                    let w = E::load::<S>(w.add(at));
                    for i in 0..R {
                        acc[i][half] = S::fma(w, S::load(x.add(i * depth + at)), acc[i][half]);
                    }
                }
                k += 2 * S::LANES;
            }
            for i in 0..R {
                let mut sum = S::sum(S::add(acc[i][0], acc[i][1]));
                for k in k..depth {
                    sum += (*w.add(k)).to_f32() * *x.add(i * depth + k);
                }
                *self.out.0.add(i * self.columns + column) = sum + self.bias.map_or(0.0, |bias| bias[column]);
            }
        }
    }
}
