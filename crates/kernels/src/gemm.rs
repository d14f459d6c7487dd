//! The blocked matrix product under `linear` and `conv2d`: `C = A B + bias`, where A is read row by row from any weight type and B is
//! made panel by panel by the caller, so that neither a transposed nor an unfolded nor a converted copy ever exists as a whole.
//!
//! The blocking is that of BLIS (Van Zee and van de Geijn 2015): a panel of B two vectors wide stays in the first-level cache while rows of
//! A stream past it; a tile of C is kept in registers over a slice of the depth, and a block of it in the second-level cache over several
//! slices. Every task packs what it needs for itself, unless that is little and many tasks need it.

use rayon::prelude::*;

use crate::rows::Rows;
use crate::scratch::Scratch;
use crate::simd::{Level, MAX_LANES, Simd, Sixteen, Task, Task16, dispatch, dispatch16};
use crate::tile::{Init, PANEL_VECTORS, Target, block};
use crate::tile16::{Panel16, ROW_STRIDE, block16, panel_words, round_panel, round_rows, scale_of, words};

/// The slice of the depth that is worked on at a time.
pub(crate) const DEPTH_SLICE: usize = 160;
/// Slices of which the panels are packed at a time. C is read and written again for each of them, from the second-level cache.
const SLICES: usize = 8;
/// Rows of A that are kept in the second-level cache.
const ROW_BLOCK: usize = 96;
/// Panels of B that a task packs at once.
const PANEL_CHUNK: usize = 8;
/// Most numbers of panels that are packed once for all rows.
const PACKED_ONCE_MAX_LEN: usize = 1 << 20;
const _: () = assert!(DEPTH_SLICE <= ROW_STRIDE);
/// Tasks per thread, so that an unlucky thread does not hold up the others.
pub(crate) const TASKS_PER_THREAD: usize = 4;

/// The right factor, which can write any of its panels, and where the panel's columns lie in the product.
pub(crate) trait Panels: Sync {
    /// The number of panels of this many columns.
    fn count(&self, width: usize) -> usize;
    /// The offset in C of the first column of a panel, and how many columns it has.
    fn place(&self, panel: usize, width: usize) -> (usize, usize);
    /// Writes rows `k0..k0 + kc` of a panel, `2 * S::LANES` numbers each; columns that do not exist are zero.
    ///
    /// # Safety
    /// The instruction set is available, `dst` holds that many numbers, and there are at most [`DEPTH_SLICE`] rows.
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
impl Shared {
    /// So many numbers further.
    pub(crate) fn at(self, by: usize) -> Self {
        Self(self.0.wrapping_add(by))
    }
}

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
    /// Computes it with all threads, without tiles.
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
        // Rounded ones take half the room, and rows that are rounded for each chunk want more to do.
        let panel_chunks = panels.div_ceil(if level.rounds() { 2 * PANEL_CHUNK } else { PANEL_CHUNK });
        // Few columns: the rows are divided too, in whole tiles.
        let row_chunks = wanted.div_ceil(panel_chunks).min(self.rows.div_ceil(ROW_BLOCK)).max(self.rows.div_ceil(4096)).max(1);
        let rows_each = self.rows.div_ceil(row_chunks).next_multiple_of(tile_rows);
        let row_chunks = self.rows.div_ceil(rows_each);
        let mut panels_each = panels.div_ceil(panel_chunks);
        if row_chunks * panel_chunks < wanted {
            panels_each = panels.div_ceil(wanted.div_ceil(row_chunks)).clamp(1, panels_each);
        }
        let panel_chunks = panels.div_ceil(panels_each);
        let all_len = panels * PANEL_VECTORS * lanes * self.depth;
        let once = row_chunks > 1 && all_len <= PACKED_ONCE_MAX_LEN && !level.rounds();
        let mut room = once.then(|| Scratch::take(all_len));
        let packed = room.as_mut().map(|room| (Shared(room.as_mut_ptr()), panels));
        if let Some((packed, _)) = packed {
            let slices: Vec<_> = slices(0, self.depth, slice_of(self.depth, DEPTH_SLICE)).collect();
            (0..panels * slices.len()).into_par_iter().for_each(|index| {
                let (panel, (k0, kc)) = (index % panels, slices[index / panels]);
                let at = place(packed, (k0, kc), panel, panels, PANEL_VECTORS * lanes);
                dispatch(level, Pack { b: self.b, panel, k0, kc, at });
            });
        }
        let work = |index: usize| {
            let (row_chunk, panel_chunk) = (index % row_chunks, index / row_chunks);
            let rows = (row_chunk * rows_each, ((row_chunk + 1) * rows_each).min(self.rows));
            let chunk = (panel_chunk * panels_each, ((panel_chunk + 1) * panels_each).min(panels));
            dispatch16(level, Chunk { gemm: self, rows, panels: chunk, packed });
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
    /// All panels, if they are packed, and how many these are.
    packed: Option<(Shared, usize)>,
}

/// One panel of a slice.
struct Pack<'a, P> {
    b: &'a P,
    panel: usize,
    k0: usize,
    kc: usize,
    at: Shared,
}

impl<P: Panels> Task for Pack<'_, P> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the panel and the slice exist, and nobody else writes to its place.
        unsafe { self.b.pack::<S>(self.panel, self.k0, self.kc, self.at.0) }
    }
}

impl<P> Gemm<'_, P> {
    /// What a row of C starts from in the slice of the depth from `k0` on.
    ///
    /// # Safety
    /// The row and the column exist.
    #[inline(always)]
    pub(crate) unsafe fn init(&self, k0: usize, row: usize, offset: usize) -> Init {
        // SAFETY: the caller's; a bias has a number for every row or column.
        unsafe {
            match self.bias {
                _ if k0 > 0 => Init::Accumulate,
                Bias::None => Init::Zero,
                Bias::Rows(bias) => Init::Rows(bias.as_ptr().add(row)),
                Bias::Columns(bias) => Init::Columns(bias.as_ptr().add(offset)),
            }
        }
    }
}

/// The slices of `k0..end`, all but the last of this length.
pub(crate) fn slices(k0: usize, end: usize, slice: usize) -> impl Iterator<Item = (usize, usize)> {
    // Without any depth there is the bias to write.
    (k0..end.max(k0 + 1)).step_by(slice).map(move |k0| (k0, slice.min(end.saturating_sub(k0))))
}

/// How long slices of so much depth are: `most` at most, and whole vectors, since to convert what is left of one takes long.
pub(crate) fn slice_of(depth: usize, most: usize) -> usize {
    depth.div_ceil(depth.div_ceil(most).max(1)).max(1).next_multiple_of(MAX_LANES)
}

/// Where a panel of a slice lies, from where the packed ones do: those of a slice follow each other, and the slices as well.
#[inline(always)]
fn place(packed: Shared, (k0, kc): (usize, usize), panel: usize, panels: usize, width: usize) -> Shared {
    packed.at((k0 * panels + panel * kc) * width)
}

impl<P: Panels> Task for Chunk<'_, '_, P> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Gemm { a, depth, b, c, ldc, .. } = *self.gemm;
        let width = PANEL_VECTORS * S::LANES;
        let slice = slice_of(depth, DEPTH_SLICE);
        let part = if self.packed.is_some() { depth.max(1) } else { slice * SLICES };
        // What is packed: all panels, or these for themselves.
        let (first, end) = self.panels;
        let (first_packed, panels) = self.packed.map_or((first, end - first), |(_, all)| (0, all));
        let own_len = if self.packed.is_some() { 0 } else { panels * width * part.min(depth) };
        let converted_len = if a.lie() { 0 } else { ROW_BLOCK * slice };
        let mut scratch = Scratch::take(own_len + converted_len);
        let own = scratch.as_mut_ptr();
        let packed = self.packed.map_or(Shared(own), |(packed, _)| packed);
        for part in slices(0, depth, part) {
            let slices = || slices(part.0, part.0 + part.1, slice);
            // SAFETY: the packed panels are a part's, of which the scratch holds all, or the whole depth's; it holds a converted block of rows
            // too; `a` has `rows` rows of `depth`; C is valid for these rows and panels by the contract of `Gemm::run`, and the chunks of
            // different tasks are disjoint.
            unsafe {
                let at = |k0: usize, kc: usize, panel: usize| place(packed, (k0 - part.0, kc), panel - first_packed, panels, width).0;
                if self.packed.is_none() {
                    for (k0, kc) in slices() {
                        for panel in first..end {
                            b.pack::<S>(panel, k0, kc, at(k0, kc, panel));
                        }
                    }
                }
                for row in (self.rows.0..self.rows.1).step_by(ROW_BLOCK) {
                    let rows = ROW_BLOCK.min(self.rows.1 - row);
                    for (k0, kc) in slices() {
                        let (a, lda) = a.pieces::<S>(row, rows, k0, kc, own.add(own_len));
                        for panel in first..end {
                            let (offset, columns) = b.place(panel, width);
                            let target = Target { c: c.0.add(offset + row * ldc), ldc, columns, init: self.gemm.init(k0, row, offset) };
                            block::<S, false>(rows, kc, a, lda, at(k0, kc, panel), target);
                        }
                    }
                }
            }
        }
    }
}

impl<P: Panels> Task16 for Chunk<'_, '_, P> {
    #[inline(always)]
    unsafe fn run16<S: Sixteen>(self) {
        let Gemm { a, depth, b, c, ldc, .. } = *self.gemm;
        let (first_panel, end_panel) = self.panels;
        let width = PANEL_VECTORS * S::F32::LANES;
        let slice = slice_of(depth, DEPTH_SLICE);
        let part = slice * SLICES;
        let panels = end_panel - first_panel;
        // A panel and a block of rows as they come, both rounded, and what takes the panels' scales back.
        let converted_len = (ROW_BLOCK * if a.lie() { 0 } else { slice }).max(width * slice);
        let (panel_len, rows_len) = (panel_words::<S>(slice), ROW_BLOCK * ROW_STRIDE);
        let panels_len = SLICES * panels * panel_len;
        let mut scratch = Scratch::take(converted_len + panels_len + rows_len + SLICES * panels);
        // SAFETY: the scratch holds all of these; `a` has `rows` rows of `depth`; C is valid for these rows and panels by the contract of
        // `Gemm::run`, and the chunks of different tasks are disjoint. Words are as long as numbers.
        unsafe {
            let converted = scratch.as_mut_ptr();
            let packed = converted.add(converted_len).cast::<u32>();
            let rounded = packed.add(panels_len);
            let scales = rounded.add(rows_len).cast::<f32>();
            for part in self::slices(0, depth, part) {
                let in_part = || self::slices(part.0, part.0 + part.1, slice).enumerate();
                for (index, (k0, kc)) in in_part() {
                    for panel in 0..panels {
                        b.pack::<S::F32>(first_panel + panel, k0, kc, converted);
                        let at = index * panels + panel;
                        let scale = scale_of::<S>(converted, width, kc, width);
                        *scales.add(at) = round_panel::<S>(converted, kc, scale, packed.add(at * panel_len));
                    }
                }
                for row in (self.rows.0..self.rows.1).step_by(ROW_BLOCK) {
                    let rows = ROW_BLOCK.min(self.rows.1 - row);
                    for (index, (k0, kc)) in in_part() {
                        let (a, lda) = a.pieces::<S::F32>(row, rows, k0, kc, converted);
                        let scale = scale_of::<S>(a, lda, rows, kc);
                        round_rows::<S, _>(a, (lda, 0), rows, (kc, kc), scale, rounded);
                        let panel = |panel: usize| {
                            let (offset, columns) = b.place(first_panel + panel, width);
                            let target = Target { c: c.0.add(offset + row * ldc), ldc, columns, init: self.gemm.init(k0, row, offset) };
                            let at = index * panels + panel;
                            Panel16 { b: packed.add(at * panel_len), target, scale: *scales.add(at) / scale }
                        };
                        let kw = words::<S>(kc);
                        for first in (0..panels).step_by(S::PANELS) {
                            match panels - first {
                                rest if rest > 1 && S::PANELS > 1 => {
                                    block16::<S, false>(rows, kw, rounded, 0, &[panel(first), panel(first + 1)]);
                                }
                                _ => block16::<S, false>(rows, kw, rounded, 0, &[panel(first)]),
                            }
                        }
                    }
                }
            }
        }
    }
}
