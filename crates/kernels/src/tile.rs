//! The innermost loops of products in single precision: a tile of the result, held in registers. Knows no blocking.

// Tiles are arrays of registers: loops with constant bounds over indices are what the compiler unrolls.
#![allow(clippy::needless_range_loop)]

use std::hint::black_box;

use crate::simd::{Simd, Task};

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

/// Vectors in a panel of B.
pub(crate) const PANEL_VECTORS: usize = 2;

/// All tiles of a block of rows and one panel. The rows of A are `lda` apart, or, if it is `TURNED`, its columns.
///
/// # Safety
/// `a` is valid for `rows` rows of `kc` numbers, `b` for `kc` rows of a panel, the target for the rows and its columns.
#[inline(always)]
pub(crate) unsafe fn block<S: Simd, const TURNED: bool>(rows: usize, kc: usize, a: *const f32, lda: usize, b: *const f32, target: Target) {
    let tile = Tile { row: 0, kc, a, lda, b, target };
    // SAFETY: the caller's.
    unsafe {
        // Nothing is computed of a vector without columns.
        if target.columns <= S::LANES {
            S::apart(Block::<1, TURNED> { rows, tile });
        } else {
            S::apart(Block::<PANEL_VECTORS, TURNED> { rows, tile });
        }
    }
}

/// The same with the first `NV` vectors of the panel. A function of its own: in larger ones compilers lose the registers that hold a tile.
struct Block<const NV: usize, const TURNED: bool> {
    rows: usize,
    tile: Tile,
}

impl<const NV: usize, const TURNED: bool> Task for Block<NV, TURNED> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { rows, tile: Tile { mut row, kc, a, lda, b, target } } = self;
        let most = S::TILE_ROWS;
        // SAFETY: the rows named lie below `rows`.
        unsafe {
            while row + most <= rows {
                let at = Tile { row, kc, a, lda, b, target };
                match most {
                    12 => at.run::<S, 12, NV, TURNED>(),
                    6 => at.run::<S, 6, NV, TURNED>(),
                    _ => at.run::<S, 4, NV, TURNED>(),
                }
                row += if matches!(most, 12 | 6) { most } else { 4 };
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
            // The rows' addresses are a chain of additions, since there are not registers for all. A tile of one vector is done before they are:
            // there are three chains.
            let chains = !TURNED && NV == 1;
            let chain = |i: usize| if chains { i / 4 } else { 0 };
            let a: [*const f32; 3] = std::array::from_fn(|chain| {
                let first = a.wrapping_add((row + 4 * chain) * from_row);
                if chains { black_box(first) } else { first }
            });
            let mut acc = [[S::zero(); NV]; R];
            let mut b = b;
            for k in 0..kc {
                let mut columns = [S::zero(); NV];
                for v in 0..NV {
                    columns[v] = S::load(b.add(v * S::LANES));
                }
                for i in 0..R {
                    let x = S::splat(*a[chain(i)].add((i - 4 * chain(i)) * from_row + k * from_column));
                    for v in 0..NV {
                        acc[i][v] = S::fma(x, columns[v], acc[i][v]);
                    }
                }
                b = b.add(PANEL_VECTORS * S::LANES);
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
