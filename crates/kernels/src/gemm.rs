//! The blocked matrix product under `linear` and `conv2d`: `C = A B + bias`, where A is read row by row from any weight type and B is
//! made panel by panel by the caller, so that neither a transposed nor an unfolded nor a converted copy ever exists as a whole.
//!
//! The blocking is that of BLIS (Van Zee and van de Geijn 2015): a panel of B two vectors wide stays in the first-level cache while rows of
//! A stream past it; a tile of C is kept in registers over a slice of the depth. Every task packs what it needs for itself: no barriers.

// Tiles are arrays of registers: loops with constant bounds over indices are what the compiler unrolls.
#![allow(clippy::needless_range_loop)]

use rayon::prelude::*;

use crate::rows::Rows;
use crate::scratch::Scratch;
use crate::simd::{Level, Simd, Task, dispatch};

/// The slice of the depth that is worked on at a time.
pub(crate) const DEPTH_SLICE: usize = 160;
/// Rows of A that are kept in the second-level cache.
const ROW_BLOCK: usize = 96;
/// Panels of B that a task packs at once.
const PANEL_CHUNK: usize = 8;
/// Vectors in a panel of B.
pub(crate) const PANEL_VECTORS: usize = 2;
/// Tasks per thread, so that an unlucky thread does not hold up the others.
const TASKS_PER_THREAD: usize = 4;

/// The right factor, which can write any of its panels, and where the panel's columns lie in the product.
pub(crate) trait Panels: Sync {
    /// The number of panels of this many columns.
    fn count(&self, width: usize) -> usize;
    /// The offset in C of the first column of a panel, and how many columns it has.
    fn place(&self, panel: usize, width: usize) -> (usize, usize);
    /// Writes rows `k0..k0 + kc` of a panel, `2 * S::LANES` numbers each; columns that do not exist are zero.
    ///
    /// # Safety
    /// The instruction set is available and `dst` holds that many numbers.
    unsafe fn pack<S: Simd>(&self, panel: usize, k0: usize, kc: usize, dst: *mut f32);
}

/// What is added to the product.
#[derive(Clone, Copy)]
pub(crate) enum Bias<'a> {
    None,
    /// One number for every row of C.
    Rows(&'a [f32]),
    /// One number for every column of C; then panels have their column as their offset.
    Columns(&'a [f32]),
}

/// A pointer that tasks share; each writes elements of its own.
#[derive(Clone, Copy)]
pub(crate) struct Shared(pub(crate) *mut f32);
// SAFETY: the kernels that use it write disjoint elements from different tasks, and wait for all tasks before they return.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// The whole product. `a` has `rows` rows of `depth`; row `i` of the product begins at `i * ldc` plus the panel's offset.
pub(crate) struct Gemm<'a, P> {
    pub(crate) a: Rows<'a>,
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    pub(crate) b: &'a P,
    pub(crate) c: Shared,
    pub(crate) ldc: usize,
    pub(crate) bias: Bias<'a>,
}

impl<P: Panels> Gemm<'_, P> {
    /// Computes it with all threads.
    ///
    /// # Safety
    /// C must be valid for the rows and for all columns that the panels place in it, and nobody else may touch it meanwhile; `a` has
    /// these rows, a bias one number for every row or column.
    pub(crate) unsafe fn run(&self, level: Level) {
        let (lanes, tile_rows) = level.geometry();
        let panels = self.b.count(PANEL_VECTORS * lanes);
        if self.rows == 0 || panels == 0 {
            return;
        }
        let wanted = rayon::current_num_threads() * TASKS_PER_THREAD;
        let panel_chunks = panels.div_ceil(PANEL_CHUNK);
        // Few columns: the rows are divided too, in whole tiles.
        let row_chunks = wanted.div_ceil(panel_chunks).min(self.rows.div_ceil(ROW_BLOCK)).max(self.rows.div_ceil(4096)).max(1);
        let rows_each = self.rows.div_ceil(row_chunks).next_multiple_of(tile_rows);
        let row_chunks = self.rows.div_ceil(rows_each);
        let mut panels_each = panels.div_ceil(panel_chunks);
        if row_chunks * panel_chunks < wanted {
            panels_each = panels.div_ceil(wanted.div_ceil(row_chunks)).clamp(1, panels_each);
        }
        let panel_chunks = panels.div_ceil(panels_each);
        let work = |index: usize| {
            let (row_chunk, panel_chunk) = (index % row_chunks, index / row_chunks);
            let rows = (row_chunk * rows_each, ((row_chunk + 1) * rows_each).min(self.rows));
            let panels = (panel_chunk * panels_each, ((panel_chunk + 1) * panels_each).min(panels));
            dispatch(level, Chunk { gemm: self, rows, panels });
        };
        match row_chunks * panel_chunks {
            1 => work(0),
            tasks => (0..tasks).into_par_iter().with_max_len(1).for_each(work),
        }
    }
}

/// Some rows times some panels, over the whole depth.
struct Chunk<'a, 'b, P> {
    gemm: &'a Gemm<'b, P>,
    rows: (usize, usize),
    panels: (usize, usize),
}

impl<P: Panels> Task for Chunk<'_, '_, P> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Gemm { a, depth, b, c, ldc, bias, .. } = *self.gemm;
        let (first_panel, end_panel) = self.panels;
        let width = PANEL_VECTORS * S::LANES;
        let slices = depth.div_ceil(DEPTH_SLICE).max(1);
        let slice = depth.div_ceil(slices);
        let panels_len = (end_panel - first_panel) * width * slice;
        let converted_len = if a.lie() { 0 } else { ROW_BLOCK * slice };
        let mut scratch = Scratch::take(panels_len + converted_len);
        let packed = scratch.as_mut_ptr();
        for k0 in (0..slices).map(|i| i * slice) {
            let kc = slice.min(depth.saturating_sub(k0));
            // SAFETY: the scratch holds all panels of a slice and a converted block of rows; `a` has `rows` rows of `depth`; C is valid
            // for these rows and panels by the contract of `Gemm::run`, and the chunks of different tasks are disjoint.
            unsafe {
                for panel in first_panel..end_panel {
                    b.pack::<S>(panel, k0, kc, packed.add((panel - first_panel) * width * kc));
                }
                let mut row = self.rows.0;
                while row < self.rows.1 {
                    let rows = ROW_BLOCK.min(self.rows.1 - row);
                    let (a, lda) = a.pieces::<S>(row, rows, k0, kc, packed.add(panels_len));
                    for panel in first_panel..end_panel {
                        let (offset, columns) = b.place(panel, width);
                        let init = match bias {
                            _ if k0 > 0 => Init::Accumulate,
                            Bias::None => Init::Zero,
                            Bias::Rows(bias) => Init::Rows(bias.as_ptr().add(row)),
                            Bias::Columns(bias) => Init::Columns(bias.as_ptr().add(offset)),
                        };
                        let target = Target { c: c.0.add(offset + row * ldc), ldc, columns, init };
                        block::<S, PANEL_VECTORS, false>(rows, kc, a, lda, packed.add((panel - first_panel) * width * kc), target);
                    }
                    row += rows;
                }
            }
        }
    }
}

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
