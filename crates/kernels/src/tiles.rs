//! The product by tiles. They are so fast that it counts how often a number is rounded, and where it lies then: the smaller factor is rounded
//! once for all tasks, a task rounds as much of the other one as stays in the second-level cache, and a result is written once for a long part
//! of the depth, or only once.

use rayon::prelude::*;

use crate::gemm::{DEPTH_SLICE, Gemm, Panels, Shared, TASKS_PER_THREAD, slice_of, slices};
use crate::scratch::Scratch;
use crate::simd::{Level, Simd, Sixteen, TILE_WORDS, Task, Task16, dispatch16};
use crate::tile::{Init, PANEL_VECTORS, Target};
use crate::tile16::{Panel16, TALL_ROWS, block16, group_words, panel_words, round_panel, rows_words, words};

// Tests have less of everything, or they would have to be large to have more than one of each.

/// The depth of what a task has rounded at a time.
const MOST_DEPTH: usize = if cfg!(test) { 2 } else { 8 } * DEPTH_SLICE;
/// Most words of the factor that all tasks have in common.
const COMMON_MAX_LEN: usize = if cfg!(test) { 1 << 17 } else { 4 << 20 };
/// Words of the other one that a task works on at a time: half of a second-level cache of two megabytes.
const OWN_LEN: usize = if cfg!(test) { 1 << 15 } else { 1 << 18 };
/// Most numbers of a task's result that it keeps beside them until it is complete.
const SUMS_MAX_LEN: usize = 1 << 17;

/// Computes a product with all threads, by tiles where the level has them.
///
/// # Safety
/// As for [`Gemm::run`].
pub(crate) unsafe fn multiply<P: Panels>(gemm: &Gemm<'_, P>, level: Level) {
    let Gemm { rows, depth, .. } = *gemm;
    let (lanes, _) = level.geometry();
    let width = PANEL_VECTORS * lanes;
    let panels = gemm.b.count(width);
    if !level.has_tiles() || rows == 0 || panels == 0 {
        // SAFETY: the caller's.
        return unsafe { gemm.run(level) };
    }
    let wanted = rayon::current_num_threads() * TASKS_PER_THREAD;
    let tall = rows >= panels * width;
    let common = if tall { panels * width } else { rows.next_multiple_of(TALL_ROWS) };
    let slice = slice_of(depth, (COMMON_MAX_LEN / common).clamp(1, MOST_DEPTH)).next_multiple_of(2 * TILE_WORDS);
    // Results of long rows are far apart, often in the same places of a cache: better to have few rows' complete.
    let at_once = if tall { 1 } else { (COMMON_MAX_LEN / (common * slice)).clamp(1, depth.div_ceil(slice).max(1)) };
    let mut memory = Scratch::take(common * slice * at_once);
    let (rounded, each, all) = if tall {
        (panels, rows.div_ceil(wanted).next_multiple_of(TALL_ROWS), rows)
    } else {
        let most = (OWN_LEN / (width * slice)).min(if at_once > 1 { SUMS_MAX_LEN / (width * common) } else { usize::MAX });
        (rows.div_ceil(TALL_ROWS), panels.div_ceil(wanted).clamp(1, most.max(1)), panels)
    };
    for range in slices(0, depth, slice * at_once) {
        let part = &Part { gemm, tall, panels, range, slice, common: Shared(memory.as_mut_ptr()) };
        (0..rounded).into_par_iter().for_each(|block| dispatch16(level, Round { part, block }));
        (0..all.div_ceil(each)).into_par_iter().with_max_len(1).for_each(|task| {
            dispatch16(level, Multiply { part, range: (task * each, ((task + 1) * each).min(all)) });
        });
    }
}

/// A part of the depth of a product.
struct Part<'a, P> {
    gemm: &'a Gemm<'a, P>,
    /// Whether the panels are what all tasks have in common; else the rows are.
    tall: bool,
    panels: usize,
    range: (usize, usize),
    /// The depth of what a task has rounded at a time.
    slice: usize,
    common: Shared,
}

impl<P: Panels> Part<'_, P> {
    /// Numbers that [`Self::round_panel`] and [`Self::round_rows`] need before they are rounded.
    fn numbers() -> Scratch {
        Scratch::take(TALL_ROWS * DEPTH_SLICE)
    }

    /// The slices of the part.
    fn slices(&self) -> impl Iterator<Item = (usize, usize)> {
        slices(self.range.0, self.range.0 + self.range.1, self.slice)
    }

    /// Where the rows from this one on of a slice are among what all have in common.
    #[inline(always)]
    fn rows_at<S: Sixteen>(&self, row: usize, index: usize, depth: usize) -> *mut u32 {
        self.common.at(index * rows_words::<S>(self.gemm.rows, self.slice) + rows_words::<S>(row, depth)).0.cast()
    }

    /// Rounds a panel of a slice.
    ///
    /// # Safety
    /// The panel exists; there is memory for it.
    #[inline(always)]
    unsafe fn round_panel<S: Sixteen>(&self, panel: usize, (first, len): (usize, usize), numbers: *mut f32, to: *mut u32) {
        for (k0, kc) in slices(first, first + len, DEPTH_SLICE) {
            // SAFETY: the caller's; slices are whole tiles deep.
            unsafe {
                self.gemm.b.pack::<S::F32>(panel, k0, kc, numbers);
                round_panel::<S>(numbers, kc, 1.0, to.add(panel_words::<S>(k0 - first)));
            }
        }
    }

    /// Rounds at most as many rows as are multiplied at once.
    ///
    /// # Safety
    /// The rows exist; there is memory for them.
    #[inline(always)]
    unsafe fn round_rows<S: Sixteen>(&self, rows: (usize, usize), (first, len): (usize, usize), numbers: *mut f32, to: *mut u32) {
        for (k0, kc) in slices(first, first + len, DEPTH_SLICE) {
            // SAFETY: as above.
            unsafe {
                self.gemm.a.round::<S>(rows, (k0, kc), len, numbers, to.add(group_words::<S>(k0 - first)));
            }
        }
    }

    /// Where the result of these rows and a panel goes.
    ///
    /// # Safety
    /// The rows and the panel exist.
    #[inline(always)]
    unsafe fn target<S: Sixteen>(&self, row: usize, panel: usize) -> Target {
        let Gemm { b, c, ldc, .. } = *self.gemm;
        let (offset, columns) = b.place(panel, PANEL_VECTORS * S::F32::LANES);
        // SAFETY: the caller's.
        unsafe { Target { c: c.0.add(offset + row * ldc), ldc, columns, init: self.gemm.init(self.range.0, row, offset) } }
    }
}

/// Rounds a panel, or rows that are multiplied at once, for all tasks.
struct Round<'a, P> {
    part: &'a Part<'a, P>,
    block: usize,
}

impl<P: Panels> Task16 for Round<'_, P> {
    #[inline(always)]
    unsafe fn run16<S: Sixteen>(self) {
        let Self { part, block } = self;
        let (mut numbers, row) = (Part::<P>::numbers(), block * TALL_ROWS);
        // SAFETY: the panel or the rows exist, there is memory for all of them, and nobody else writes that of these.
        unsafe {
            if part.tall {
                let to = part.common.at(block * panel_words::<S>(part.range.1)).0;
                return part.round_panel::<S>(block, part.range, numbers.as_mut_ptr(), to.cast());
            }
            let rows = (row, TALL_ROWS.min(part.gemm.rows - row));
            for (index, slice) in part.slices().enumerate() {
                part.round_rows::<S>(rows, slice, numbers.as_mut_ptr(), part.rows_at::<S>(row, index, slice.1));
            }
        }
    }
}

/// Some rows times all panels, or all rows times some panels.
struct Multiply<'a, P> {
    part: &'a Part<'a, P>,
    range: (usize, usize),
}

impl<P: Panels> Task16 for Multiply<'_, P> {
    #[inline(always)]
    unsafe fn run16<S: Sixteen>(self) {
        // SAFETY: the caller's.
        unsafe { if self.part.tall { self.rows::<S>() } else { self.panels::<S>() } }
    }
}

impl<P: Panels> Multiply<'_, P> {
    /// Some rows times all panels.
    ///
    /// # Safety
    /// The instruction set is available, and the panels are rounded.
    #[inline(always)]
    unsafe fn rows<S: Sixteen>(self) {
        let Self { part, range: (first, end) } = self;
        let depth = part.range.1;
        let block = (OWN_LEN / rows_words::<S>(TALL_ROWS, depth).max(1)).max(1) * TALL_ROWS;
        let (mut numbers, mut own) = (Part::<P>::numbers(), Scratch::take(rows_words::<S>(block.min(end - first), depth)));
        let own = own.as_mut_ptr().cast::<u32>();
        for row in (first..end).step_by(block) {
            let count = block.min(end - row);
            // SAFETY: `own` holds these rows, which exist as the panels do; other tasks have others. Words are as long as numbers.
            unsafe {
                for at in (0..count).step_by(TALL_ROWS) {
                    let rows = (row + at, TALL_ROWS.min(count - at));
                    part.round_rows::<S>(rows, part.range, numbers.as_mut_ptr(), own.add(rows_words::<S>(at, depth)));
                }
                for panel in 0..part.panels {
                    let b = part.common.at(panel * panel_words::<S>(depth)).0.cast::<u32>();
                    let target = part.target::<S>(row, panel);
                    block16::<S, false>(count, words::<S>(depth), own, 0, &[Panel16 { b, target, scale: 1.0 }]);
                }
            }
        }
    }

    /// All rows times some panels.
    ///
    /// # Safety
    /// The instruction set is available, and the rows are rounded.
    #[inline(always)]
    unsafe fn panels<S: Sixteen>(self) {
        let Self { part, range: (first, end) } = self;
        let (width, rows, panel_len) = (PANEL_VECTORS * S::F32::LANES, part.gemm.rows, panel_words::<S>(part.slice));
        let own_len = (end - first) * panel_len;
        // With one slice the results are complete at once.
        let kept = part.range.1 > part.slice;
        let sums_len = if kept { rows.next_multiple_of(TALL_ROWS) * (end - first) * width } else { 0 };
        let (mut numbers, mut memory) = (Part::<P>::numbers(), Scratch::take(own_len + sums_len));
        let own = memory.as_mut_ptr();
        let sums = own.wrapping_add(own_len);
        let sums = |row: usize, panel: usize| sums.wrapping_add((row * (end - first) + (panel - first) * TALL_ROWS) * width);
        for (index, slice) in part.slices().enumerate() {
            // SAFETY: `own` holds these panels of the slice, which exist as the rows do, the memory behind it their sums; other tasks have
            // other panels. Words are as long as numbers.
            unsafe {
                let own = |panel: usize| own.add((panel - first) * panel_len).cast::<u32>();
                for panel in first..end {
                    part.round_panel::<S>(panel, slice, numbers.as_mut_ptr(), own(panel));
                }
                for row in (0..rows).step_by(TALL_ROWS) {
                    let count = TALL_ROWS.min(rows - row);
                    let a = part.rows_at::<S>(row, index, slice.1).cast_const();
                    for panel in first..end {
                        let mut target = part.target::<S>(row, panel);
                        if kept {
                            let init = if index == 0 { Init::Zero } else { Init::Accumulate };
                            target = Target { c: sums(row, panel), ldc: width, columns: width, init };
                        }
                        block16::<S, false>(count, words::<S>(slice.1), a, 0, &[Panel16 { b: own(panel), target, scale: 1.0 }]);
                    }
                }
            }
        }
        if kept {
            for row in (0..rows).step_by(TALL_ROWS) {
                for panel in first..end {
                    // SAFETY: as above.
                    unsafe { add_sums::<S>(TALL_ROWS.min(rows - row), sums(row, panel), part.target::<S>(row, panel)) };
                }
            }
        }
    }
}

/// Writes rows of sums and what they start from.
///
/// # Safety
/// The instruction set is available; the target is valid for these rows, of which there is a panel's width of sums each.
#[inline(always)]
unsafe fn add_sums<S: Sixteen>(rows: usize, sums: *mut f32, target: Target) {
    let (width, Target { c, ldc, columns, init }) = (PANEL_VECTORS * S::F32::LANES, target);
    for row in 0..rows {
        // SAFETY: the caller's.
        unsafe {
            let (sums, c) = (sums.add(row * width), c.add(row * ldc));
            for column in 0..columns {
                let start = match init {
                    Init::Zero => 0.0,
                    Init::Accumulate => *c.add(column),
                    Init::Rows(bias) => *bias.add(row),
                    Init::Columns(bias) => *bias.add(column),
                };
                *c.add(column) = start + *sums.add(column);
            }
        }
    }
}

/// There is nothing to do without tiles.
impl<P: Panels> Task for Round<'_, P> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {}
}

/// As above.
impl<P: Panels> Task for Multiply<'_, P> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {}
}
