//! The innermost loops of products of sixteen bits, and what rounds the factors for them. Knows no blocking.
//!
//! Each block of a factor is multiplied by a power of two of its own before it is rounded, and the sums by what takes that back while they are
//! widened, so that half precision has room for numbers of any size.

// Tiles are arrays of registers: loops with constant bounds over indices are what the compiler unrolls.
#![allow(clippy::needless_range_loop)]

use std::hint::black_box;

use crate::simd::{Simd, Sixteen};
use crate::tile::{Init, Target};

/// Columns of a panel.
const WIDTH: usize = 32;
/// Rows of a tile of two panels.
const ROWS: usize = 12;
/// Most panels of a tile.
const MOST_PANELS: usize = 2;
/// What lies behind the last number of an odd depth.
static NOTHING: [f32; WIDTH] = [0.0; WIDTH];

/// The words of this many numbers along the depth.
pub(crate) const fn words<S: Sixteen>(depth: usize) -> usize {
    depth.div_ceil(S::DEPTH)
}

/// The words of a panel of this depth.
pub(crate) const fn panel_words<S: Sixteen>(depth: usize) -> usize {
    words::<S>(depth) * S::ROW_WORDS
}

/// The greatest magnitude of rows that are `ld` apart, but for what is not a number.
///
/// # Safety
/// The instruction set is available; `src` is valid for these rows of `len` numbers.
#[inline(always)]
pub(crate) unsafe fn greatest<S: Simd>(src: *const f32, ld: usize, rows: usize, len: usize) -> f32 {
    // SAFETY: the caller's; `i + LANES <= len` in the first loop, `i < len` in the second.
    unsafe {
        let mut most = [S::zero(); 2];
        let mut rest = 0.0f32;
        for row in 0..rows {
            let src = src.add(row * ld);
            let mut i = 0;
            while i + S::LANES <= len {
                let number = S::load(src.add(i));
                most[row % 2] = S::max(S::max(number, S::sub(S::zero(), number)), most[row % 2]);
                i += S::LANES;
            }
            while i < len {
                rest = rest.max((*src.add(i)).abs());
                i += 1;
            }
        }
        S::max_of(S::max(most[0], most[1])).max(rest)
    }
}

/// Rows of `depth` numbers, `ld` apart, as words along the depth, one row behind the other. Gives what takes the scale back.
///
/// # Safety
/// The instruction set is available; `src` is valid for these rows, `dst` for the words of each and fifteen more.
#[inline(always)]
pub(crate) unsafe fn round_rows<S: Sixteen>(src: *const f32, ld: usize, rows: usize, depth: usize, dst: *mut u32) -> f32 {
    let each = words::<S>(depth);
    // SAFETY: the caller's. What is written behind a row is the next one's, or the room for it.
    unsafe {
        let scale = S::scale(greatest::<S::F32>(src, ld, rows, depth));
        for row in 0..rows {
            let (src, dst) = (src.add(row * ld), dst.add(row * each));
            let mut k = 0;
            while k + 16 * S::DEPTH <= depth {
                S::along(src.add(k), scale, dst.add(k / S::DEPTH));
                k += 16 * S::DEPTH;
            }
            if k < depth {
                let mut rest = [0.0f32; WIDTH];
                for i in k..depth {
                    rest[i - k] = *src.add(i);
                }
                S::along(rest.as_ptr(), scale, dst.add(k / S::DEPTH));
            }
        }
        1.0 / scale
    }
}

/// `depth` rows of `columns` numbers, `ld` apart, as words of columns: for each word of the depth one for every column.
///
/// # Safety
/// The instruction set is available; `src` is valid for these rows, `dst` for the words of each and fifteen more.
#[inline(always)]
pub(crate) unsafe fn round_turned<S: Sixteen>(src: *const f32, ld: usize, depth: usize, columns: usize, scale: f32, dst: *mut u32) {
    // SAFETY: the caller's.
    unsafe {
        for word in 0..words::<S>(depth) {
            let (k, dst) = (word * S::DEPTH, dst.add(word * columns));
            let rows = [src.add(k * ld), if k + 1 < depth { src.add((k + 1) * ld) } else { NOTHING.as_ptr() }];
            let is_last = k + 1 >= depth;
            let mut i = 0;
            while i + 16 <= columns {
                S::across([rows[0].add(i), if is_last { NOTHING.as_ptr() } else { rows[1].add(i) }], scale, dst.add(i));
                i += 16;
            }
            if i < columns {
                let mut rest = [[0.0f32; 16]; 2];
                for j in i..columns {
                    rest[0][j - i] = *rows[0].add(j);
                    rest[1][j - i] = if is_last { 0.0 } else { *rows[1].add(j) };
                }
                S::across([rest[0].as_ptr(), rest[1].as_ptr()], scale, dst.add(i));
            }
        }
    }
}

/// A panel of `depth` rows of two vectors of numbers, rounded. Gives what takes the scale back.
///
/// # Safety
/// The instruction set is available; `src` is valid for these rows, `dst` for the panel's words.
#[inline(always)]
pub(crate) unsafe fn round_panel<S: Sixteen>(src: *const f32, depth: usize, dst: *mut u32) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let scale = S::scale(greatest::<S::F32>(src, WIDTH, depth, WIDTH));
        for word in 0..words::<S>(depth) {
            let k = word * S::DEPTH;
            let second = if k + 1 < depth { src.add((k + 1) * WIDTH) } else { NOTHING.as_ptr() };
            S::row([src.add(k * WIDTH), second], scale, dst.add(word * S::ROW_WORDS));
        }
        1.0 / scale
    }
}

/// A rounded panel, where its sums go, and what they are multiplied by.
#[derive(Clone, Copy)]
pub(crate) struct Panel16 {
    pub(crate) b: *const u32,
    pub(crate) target: Target,
    pub(crate) scale: f32,
}

/// All tiles of a block of rows and one or two panels. The rows of A are `lda` words apart, or, if it is `TURNED`, its columns; the depth is
/// `kw` words.
///
/// # Safety
/// The instruction set is available; `a` is valid for the rows, the panels for `kw` rows, the targets for the rows and their columns.
#[inline(always)]
pub(crate) unsafe fn block16<S: Sixteen, const TURNED: bool>(rows: usize, kw: usize, a: *const u32, lda: usize, panels: &[Panel16]) {
    // SAFETY: the rows named lie below `rows`.
    unsafe {
        if let ([first, second], true) = (panels, S::PANELS == MOST_PANELS) {
            let panels = [*first, *second];
            let mut row = 0;
            while row + ROWS <= rows {
                Tile16 { row, kw, a, lda, panels }.run::<S, ROWS, TURNED>();
                row += ROWS;
            }
            while row + 4 <= rows {
                Tile16 { row, kw, a, lda, panels }.run::<S, 4, TURNED>();
                row += 4;
            }
            while row < rows {
                Tile16 { row, kw, a, lda, panels }.run::<S, 1, TURNED>();
                row += 1;
            }
            return;
        }
        for panel in panels {
            let panels = [*panel];
            let mut row = 0;
            while row + S::TALL <= rows {
                match S::TALL {
                    24 => Tile16 { row, kw, a, lda, panels }.run::<S, 24, TURNED>(),
                    _ => Tile16 { row, kw, a, lda, panels }.run::<S, ROWS, TURNED>(),
                }
                row += if S::TALL == 24 { 24 } else { ROWS };
            }
            while S::TALL > 8 && row + 8 <= rows {
                Tile16 { row, kw, a, lda, panels }.run::<S, 8, TURNED>();
                row += 8;
            }
            while row + 2 <= rows {
                Tile16 { row, kw, a, lda, panels }.run::<S, 2, TURNED>();
                row += 2;
            }
            while row < rows {
                Tile16 { row, kw, a, lda, panels }.run::<S, 1, TURNED>();
                row += 1;
            }
        }
    }
}

/// One tile of the product.
struct Tile16<const P: usize> {
    row: usize,
    kw: usize,
    a: *const u32,
    lda: usize,
    panels: [Panel16; P],
}

impl<const P: usize> Tile16<P> {
    #[inline(always)]
    unsafe fn run<S: Sixteen, const R: usize, const TURNED: bool>(self) {
        let Self { row, kw, a, lda, panels } = self;
        let runs = kw.div_ceil(S::RUN).max(1);
        let run = kw.div_ceil(runs);
        let (from_row, from_column) = if TURNED { (1, lda) } else { (lda, 1) };
        // SAFETY: the rows `row..row + R` and the panels are valid by the contract of `block16`.
        unsafe {
            let mut k0 = 0;
            loop {
                let end = (k0 + run).min(kw);
                let a: [*const u32; R] = std::array::from_fn(|i| a.add((row + i) * from_row));
                let mut sums = [[S::zero(); P]; R];
                for k in k0..end {
                    let b: [S::Row; P] = std::array::from_fn(|p| S::load(panels[p].b.add(k * S::ROW_WORDS)));
                    for i in 0..R {
                        let x = S::splat(*a[i].add(k * from_column));
                        for p in 0..P {
                            sums[i][p] = S::multiply_add(x, b[p], sums[i][p]);
                        }
                    }
                }
                for p in 0..P {
                    let Panel16 { target, scale, .. } = panels[p];
                    let init = if k0 == 0 { target.init } else { Init::Accumulate };
                    // Or the compiler keeps what was written in registers, which are taken.
                    let c = black_box(target.c.add(row * target.ldc));
                    let target = Target { c, init, ..target };
                    for i in 0..R {
                        write::<S>(sums[i][p], row, i, target, scale);
                    }
                }
                k0 = end;
                if k0 >= kw {
                    return;
                }
            }
        }
    }
}

/// Writes the sums of row `row + i`, the `i`th of the target.
///
/// # Safety
/// The instruction set is available; the target is valid for this row.
#[inline(always)]
unsafe fn write<S: Sixteen>(sums: S::Sums, row: usize, i: usize, target: Target, scale: f32) {
    // SAFETY: the caller's.
    unsafe {
        let sums = S::widen(sums);
        let c = target.c.add(i * target.ldc);
        if target.columns >= WIDTH {
            for v in 0..2 {
                let at = v * 16;
                let start = match target.init {
                    Init::Zero => S::F32::zero(),
                    Init::Accumulate => S::F32::load(c.add(at)),
                    Init::Rows(bias) => S::F32::splat(*bias.add(row + i)),
                    Init::Columns(bias) => S::F32::load(bias.add(at)),
                };
                S::F32::store(c.add(at), S::F32::fma(sums[v], S::F32::splat(scale), start));
            }
            return;
        }
        let mut buffer = [0.0f32; WIDTH];
        S::F32::store(buffer.as_mut_ptr(), sums[0]);
        S::F32::store(buffer.as_mut_ptr().add(16), sums[1]);
        for (j, x) in buffer.iter().enumerate().take(target.columns) {
            let start = match target.init {
                Init::Zero => 0.0,
                Init::Accumulate => *c.add(j),
                Init::Rows(bias) => *bias.add(row + i),
                Init::Columns(bias) => *bias.add(j),
            };
            *c.add(j) = x.mul_add(scale, start);
        }
    }
}
