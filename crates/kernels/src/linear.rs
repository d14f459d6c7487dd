//! The fully connected layer.

// Tiles are arrays of registers: loops with constant bounds over indices are what the compiler unrolls.
#![allow(clippy::needless_range_loop)]

use rayon::prelude::*;

use crate::gemm::{Bias, DEPTH_SLICE, Gemm, Panels, Shared};
use crate::out::{Out, Written};
use crate::packed::Packed;
use crate::rows::Rows;
use crate::scratch::Scratch;
use crate::simd::{Level, Simd, Task, dispatch};
use crate::tile::PANEL_VECTORS;
use crate::tiles::multiply;
use crate::weight::{Error, Result, Weight, check_len, product};

/// Up to this many rows of input, a weight is read once and not packed.
const FEW_ROWS: usize = 4;
/// Most numbers of a product that is turned in the end.
const TURNED_MAX_LEN: usize = 4 << 20;
/// Columns of a panel that are packed at a time.
const COLUMNS_AT_ONCE: usize = 8;
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
    out: Out<'_>,
) -> Result<Written> {
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
    mut out: Out<'_>,
) -> Result<Written> {
    check_len("the input", x.len(), &[rows, depth])?;
    weight.check(&[columns, depth])?;
    check_len("the output", out.len(), &[rows, columns])?;
    if let Some(bias) = bias {
        check_len("the bias", bias.len(), &[columns])?;
    }
    product("the product", &[rows.max(1), columns.max(1), 4])?;
    let weight = Rows::new(weight, depth, level);
    if rows <= FEW_ROWS {
        let to = out.shared();
        let work = |task: usize| {
            let range = (task * COLUMNS_PER_TASK, ((task + 1) * COLUMNS_PER_TASK).min(columns));
            dispatch(level, Dots { x, weight, bias, rows, depth, columns, range, out: to });
        };
        (0..columns.div_ceil(COLUMNS_PER_TASK)).into_par_iter().for_each(work);
        // SAFETY: all columns of all rows are.
        return Ok(unsafe { out.written() });
    }
    if rows <= columns && rows * columns <= TURNED_MAX_LEN {
        turned(level, Rows::new(Weight::F32(x), depth, level), weight, bias, rows, depth, columns, out.shared());
        // SAFETY: as above.
        return Ok(unsafe { out.written() });
    }
    let bias = bias.map_or(Bias::None, Bias::Columns);
    let gemm = Gemm {
        a: Rows::new(Weight::F32(x), depth, level),
        rows,
        depth,
        b: &Transposed { weight, columns, whole: false },
        c: out.shared(),
        ldc: columns,
        bias,
    };
    // SAFETY: the lengths were checked against the sizes.
    unsafe { multiply(&gemm, level) };
    // SAFETY: as above.
    Ok(unsafe { out.written() })
}

/// The product with its factors exchanged, for inputs that have fewer rows than the weight: the weight is read along its rows, each number
/// once, and it is the input that is turned and packed. So is the result in the end.
#[allow(clippy::too_many_arguments)]
fn turned(level: Level, x: Rows<'_>, weight: Rows<'_>, bias: Option<&[f32]>, rows: usize, depth: usize, columns: usize, out: Shared) {
    let (lanes, _) = level.geometry();
    // Vectors are written as a whole: what their last columns hold is not read.
    let ldc = rows.next_multiple_of(lanes);
    let mut product = Scratch::take(columns * ldc);
    let c = Shared(product.as_mut_ptr());
    let b = &Transposed { weight: x, columns: rows, whole: true };
    let bias = bias.map_or(Bias::None, Bias::Rows);
    // SAFETY: the lengths were checked against the sizes; the product has room for whole vectors.
    unsafe { multiply(&Gemm { a: weight, rows: columns, depth, b, c, ldc, bias }, level) };
    let tasks = columns.div_ceil(COLUMNS_PER_TASK);
    (0..tasks).into_par_iter().for_each(|task| {
        let range = (task * COLUMNS_PER_TASK, ((task + 1) * COLUMNS_PER_TASK).min(columns));
        dispatch(level, Turn { product: c, ldc, range, rows, columns, out });
    });
}

/// Turns some rows of a product into columns of the result.
struct Turn {
    product: Shared,
    ldc: usize,
    range: (usize, usize),
    rows: usize,
    columns: usize,
    out: Shared,
}

impl Task for Turn {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { product, ldc, range: (first, end), rows, columns, out } = self;
        // SAFETY: the product has these rows, the result these columns, which no other task writes.
        unsafe { turn::<S>(product.0.add(first * ldc), ldc, end - first, rows, out.0.add(first), columns) }
    }
}

/// `x (batch, rows, columns)` as `(batch, columns, rows)`, plus `residual` of that shape if it is there.
pub fn transpose(x: &[f32], sizes: [usize; 3], residual: Option<&[f32]>, out: Out<'_>) -> Result<Written> {
    transpose_at(Level::best(), x, sizes, residual, out)
}

pub(crate) fn transpose_at(level: Level, x: &[f32], sizes: [usize; 3], residual: Option<&[f32]>, mut out: Out<'_>) -> Result<Written> {
    let [_, rows, columns] = sizes;
    check_len("the input", x.len(), &sizes)?;
    check_len("the output", out.len(), &sizes)?;
    if let Some(residual) = residual {
        check_len("the residual", residual.len(), &sizes)?;
    }
    let to = out.shared();
    let each = columns.div_ceil(COLUMNS_PER_TASK);
    (0..x.len() / (rows * columns).max(1) * each).into_par_iter().for_each(|task| {
        let first = task % each * COLUMNS_PER_TASK;
        let count = COLUMNS_PER_TASK.min(columns - first);
        // SAFETY: the batch and these columns exist; no other task writes what they become.
        unsafe {
            let batch = task / each * rows * columns;
            let (src, out) = (x.as_ptr().add(batch + first).cast_mut(), to.at(batch + first * rows));
            dispatch(level, Turn { product: Shared(src), ldc: columns, range: (0, rows), rows: count, columns: rows, out });
            if let Some(residual) = residual {
                let sums = std::slice::from_raw_parts_mut(out.0, count * rows);
                sums.iter_mut().zip(&residual[batch + first * rows..]).for_each(|(sum, more)| *sum += more);
            }
        }
    });
    // SAFETY: all columns of all batches are.
    Ok(unsafe { out.written() })
}

/// Rows of `weight (rows, depth)`: those of `ids` to `out (ids, depth)`.
pub fn embedding(ids: &[u32], weight: Packed<'_>, rows: usize, depth: usize, mut out: Out<'_>) -> Result<Written> {
    Weight::Packed(weight).check(&[rows, depth])?;
    check_len("the output", out.len(), &[ids.len(), depth])?;
    for (id, out) in ids.iter().zip(out.cleared().chunks_exact_mut(depth.max(1))) {
        if *id as usize >= rows {
            return Err(Error(format!("row {id} of a weight of {rows} rows does not exist")));
        }
        weight.unpack_rows(Level::best(), depth, *id as usize, 0, depth, out);
    }
    // SAFETY: it was cleared.
    Ok(unsafe { out.written() })
}

/// Rows of a weight as columns of the right factor.
struct Transposed<'a> {
    weight: Rows<'a>,
    columns: usize,
    /// Whether there is room for all columns of the last vector.
    whole: bool,
}

impl Transposed<'_> {
    /// How many columns of a panel there are.
    #[inline(always)]
    fn columns(&self, panel: usize, width: usize) -> usize {
        width.min(self.columns - panel * width)
    }
}

impl Panels for Transposed<'_> {
    fn count(&self, width: usize) -> usize {
        self.columns.div_ceil(width)
    }

    #[inline(always)]
    fn place(&self, panel: usize, width: usize) -> (usize, usize) {
        let columns = self.columns(panel, width);
        (panel * width, if self.whole { columns.next_multiple_of(width / PANEL_VECTORS) } else { columns })
    }

    #[inline(always)]
    unsafe fn pack<S: Simd>(&self, panel: usize, k0: usize, kc: usize, dst: *mut f32) {
        let width = 2 * S::LANES;
        let (first, columns) = (panel * width, self.columns(panel, width));
        let mut buffer = self.weight.room::<{ COLUMNS_AT_ONCE * DEPTH_SLICE }>();
        for column in (0..width).step_by(COLUMNS_AT_ONCE) {
            let count = columns.saturating_sub(column).min(COLUMNS_AT_ONCE);
            // Where no column is left, nothing is read.
            let row = if count > 0 { first + column } else { first };
            // SAFETY: the rows `row..row + count` of the weight exist, `k0 + kc` does not exceed their length, `kc` no slice, and the panel has
            // room for these columns.
            unsafe {
                let (src, ld) = self.weight.pieces::<S>(row, count, k0, kc, buffer.as_mut_ptr().cast());
                pack_transposed::<S>(src, ld, count, kc, COLUMNS_AT_ONCE, width, dst.add(column));
            }
        }
    }
}

/// Writes `columns` rows of `kc` elements, `ld` apart, as columns of a panel whose rows are `ldd` apart, and zeros into its other columns up
/// to `width`.
///
/// # Safety
/// The rows are valid, and so are `kc` rows of the panel; `columns <= width`, the width a multiple of eight.
#[inline(always)]
pub(crate) unsafe fn pack_transposed<S: Simd>(
    src: *const f32,
    ld: usize,
    columns: usize,
    kc: usize,
    width: usize,
    ldd: usize,
    dst: *mut f32,
) {
    let mut column = 0;
    // SAFETY: `column + 8 <= columns` and `k + 8 <= kc` where blocks are transposed; single elements are inside both limits.
    unsafe {
        while column + 8 <= columns {
            let src = src.add(column * ld);
            let mut k = 0;
            while k + 8 <= kc {
                S::transpose8(src.add(k), ld, dst.add(k * ldd + column), ldd);
                k += 8;
            }
            while k < kc {
                for j in 0..8 {
                    *dst.add(k * ldd + column + j) = *src.add(j * ld + k);
                }
                k += 1;
            }
            column += 8;
        }
        while column < width {
            for k in 0..kc {
                *dst.add(k * ldd + column) = if column < columns { *src.add(column * ld + k) } else { 0.0 };
            }
            column += 1;
        }
    }
}

/// Writes rows of `columns` numbers as columns of `rows` numbers.
///
/// # Safety
/// The instruction set is available; the pointers are valid for so many rows and columns with these distances.
#[inline(always)]
pub(crate) unsafe fn turn<S: Simd>(src: *const f32, ld: usize, rows: usize, columns: usize, dst: *mut f32, ldd: usize) {
    let (whole_rows, whole_columns) = (rows / 8 * 8, columns / 8 * 8);
    // SAFETY: the caller's; whole blocks lie inside both limits.
    unsafe {
        for row in (0..whole_rows).step_by(8) {
            for column in (0..whole_columns).step_by(8) {
                S::transpose8(src.add(row * ld + column), ld, dst.add(column * ldd + row), ldd);
            }
        }
        for row in 0..rows {
            let from = if row < whole_rows { whole_columns } else { 0 };
            for column in from..columns {
                *dst.add(column * ldd + row) = *src.add(row * ld + column);
            }
        }
    }
}

/// Few rows of input: dot products along the stored rows of the weight.
struct Dots<'a> {
    x: &'a [f32],
    weight: Rows<'a>,
    bias: Option<&'a [f32]>,
    rows: usize,
    depth: usize,
    columns: usize,
    range: (usize, usize),
    out: Shared,
}

impl Task for Dots<'_> {
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

impl Dots<'_> {
    #[inline(always)]
    unsafe fn column<S: Simd, const R: usize>(&self, column: usize) {
        let depth = self.depth;
        let mut buffer = self.weight.room::<DEPTH_SLICE>();
        // SAFETY: the weight has this row, the input `R` rows of `depth` elements, the output `R` rows of `columns`.
        unsafe {
            let mut acc = [[S::zero(); 2]; R];
            let mut k0 = 0;
            // All slices but the last are whole vectors.
            loop {
                let kc = DEPTH_SLICE.min(depth - k0);
                let (w, _) = self.weight.pieces::<S>(column, 1, k0, kc, buffer.as_mut_ptr().cast());
                let x = self.x.as_ptr().add(k0);
                let mut k = 0;
                while k + 2 * S::LANES <= kc {
                    for half in 0..2 {
                        let at = k + half * S::LANES;
                        let w = S::load(w.add(at));
                        for i in 0..R {
                            acc[i][half] = S::fma(w, S::load(x.add(i * depth + at)), acc[i][half]);
                        }
                    }
                    k += 2 * S::LANES;
                }
                k0 += kc;
                if k0 < depth {
                    continue;
                }
                for i in 0..R {
                    let mut sum = S::sum(S::add(acc[i][0], acc[i][1]));
                    for k in k..kc {
                        sum += *w.add(k) * *x.add(i * depth + k);
                    }
                    *self.out.0.add(i * self.columns + column) = sum + self.bias.map_or(0.0, |bias| bias[column]);
                }
                return;
            }
        }
    }
}
