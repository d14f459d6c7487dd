//! The innermost loops of products in single precision: a tile of the result, held in registers. Knows no blocking.

// Tiles are arrays of registers: loops with constant bounds over indices are what the compiler unrolls.
#![allow(clippy::needless_range_loop)]

use std::hint::black_box;

use crate::simd::Simd;

/// Where tiles go, and what is added to them.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) c: *mut f32,
    pub(crate) ldc: usize,
    /// Columns of the panel that exist.
    pub(crate) columns: usize,
    pub(crate) init: Init,
}

/// What a tile starts from.
#[derive(Clone, Copy)]
pub(crate) enum Init {
    Zero,
    /// What is there.
    Accumulate,
    /// A number for every row.
    Rows(*const f32),
    /// A number for every column.
    Columns(*const f32),
}

/// All tiles of a block of rows and one panel `NV` vectors wide. The rows of A are `lda` apart, or, if it is `TURNED`, its columns.
///
/// # Safety
/// `a` is valid for `rows` rows of `kc` numbers, `b` for `kc` rows of `NV` vectors, the target for the rows and its columns.
#[inline(always)]
pub(crate) unsafe fn block<S: Simd, const NV: usize, const TURNED: bool>(
    rows: usize,
    kc: usize,
    a: *const f32,
    lda: usize,
    b: *const f32,
    target: Target,
) {
    // Three vectors take the place of a third of the rows; the sizes are constants, so that one branch is left.
    let most = if NV > 2 { S::TILE_ROWS * 2 / 3 } else { S::TILE_ROWS };
    let mut row = 0;
    // SAFETY: the rows named lie below `rows`.
    unsafe {
        while row + most <= rows {
            let at = Tile { row, kc, a, lda, b, target };
            match most {
                12 => at.run::<S, 12, NV, TURNED>(),
                8 => at.run::<S, 8, NV, TURNED>(),
                6 => at.run::<S, 6, NV, TURNED>(),
                4 => at.run::<S, 4, NV, TURNED>(),
                2 => at.run::<S, 2, NV, TURNED>(),
                _ => at.run::<S, 1, NV, TURNED>(),
            }
            row += if matches!(most, 12 | 8 | 6 | 4 | 2) { most } else { 1 };
        }
        while most > 4 && row + 4 <= rows {
            Tile { row, kc, a, lda, b, target }.run::<S, 4, NV, TURNED>();
            row += 4;
        }
        while row + 2 <= rows {
            Tile { row, kc, a, lda, b, target }.run::<S, 2, NV, TURNED>();
            row += 2;
        }
        while row < rows {
            Tile { row, kc, a, lda, b, target }.run::<S, 1, NV, TURNED>();
            row += 1;
        }
    }
}

/// One tile of the product, held in registers.
struct Tile {
    row: usize,
    kc: usize,
    a: *const f32,
    lda: usize,
    b: *const f32,
    target: Target,
}

impl Tile {
    #[inline(always)]
    unsafe fn run<S: Simd, const R: usize, const NV: usize, const TURNED: bool>(self) {
        let Self { row, kc, a, lda, b, target } = self;
        // Or the compiler finds it out again, from all that it depends on, for every product.
        let kc = black_box(kc);
        // SAFETY: the rows `row..row + R` and the panel are valid by the contract of `block`.
        unsafe {
            let (from_row, from_column) = if TURNED { (1, lda) } else { (lda, 1) };
            let a: [*const f32; R] = std::array::from_fn(|i| a.add((row + i) * from_row));
            let mut acc = [[S::zero(); NV]; R];
            let mut b = b;
            for k in 0..kc {
                let mut columns = [S::zero(); NV];
                for v in 0..NV {
                    columns[v] = S::load(b.add(v * S::LANES));
                }
                for i in 0..R {
                    let x = S::splat(*a[i].add(k * from_column));
                    for v in 0..NV {
                        acc[i][v] = S::fma(x, columns[v], acc[i][v]);
                    }
                }
                b = b.add(NV * S::LANES);
            }
            let c = target.c.add(row * target.ldc);
            if target.columns >= NV * S::LANES {
                for i in 0..R {
                    let c = c.add(i * target.ldc);
                    for v in 0..NV {
                        let at = c.add(v * S::LANES);
                        let start = match target.init {
                            Init::Zero => S::zero(),
                            Init::Accumulate => S::load(at),
                            Init::Rows(bias) => S::splat(*bias.add(row + i)),
                            Init::Columns(bias) => S::load(bias.add(v * S::LANES)),
                        };
                        S::store(at, S::add(start, acc[i][v]));
                    }
                }
            } else {
                // A part of a panel at the right edge: over a buffer of the widest tile row.
                let mut buffer = [0.0f32; 64];
                for i in 0..R {
                    for v in 0..NV {
                        S::store(buffer.as_mut_ptr().add(v * S::LANES), acc[i][v]);
                    }
                    let c = c.add(i * target.ldc);
                    for (j, x) in buffer.iter().enumerate().take(target.columns) {
                        let start = match target.init {
                            Init::Zero => 0.0,
                            Init::Accumulate => *c.add(j),
                            Init::Rows(bias) => *bias.add(row + i),
                            Init::Columns(bias) => *bias.add(j),
                        };
                        *c.add(j) = start + x;
                    }
                }
            }
        }
    }
}
