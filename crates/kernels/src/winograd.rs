//! Convolution with kernels of three by three and a stride of one by the minimal algorithm F(4x4, 3x3) (Winograd 1980, Lavin and Gray
//! 2016): a tile of sixteen results takes 36 products of an input and an output channel in place of 144.
//!
//! Tiles of the image are transformed once, a bounded number at a time; kernels are transformed as they are multiplied, which costs as much
//! as four tiles do, so that no transformed copy of a weight is kept. Between them lie 36 matrix products, one for each place in a tile.
//!
//! It is always done in single precision: it makes the rounding of factors five times as large, so that with half precision results would be
//! two to three times as far off as a direct convolution's with bfloat16, which is slower than this.
//!
//! The points are 0, ±5/8, ±3/2 and infinity. They make results half an order of magnitude closer to exact ones than the usual 0, ±1, ±2.

// Tiles are arrays of registers: loops with constant bounds over indices are what the compiler unrolls.
#![allow(clippy::needless_range_loop)]

use rayon::prelude::*;

use crate::gemm::Shared;
use crate::linear::{pack_transposed, turn};
use crate::out::Out;
use crate::rows::Rows;
use crate::scratch::Scratch;
use crate::simd::{Level, MAX_LANES, Simd, Task, dispatch};
use crate::sizes::{Added, Conv2d};
use crate::tile::{Init, PANEL_VECTORS, Target, block};

/// Results along a side of a tile.
const OUT: usize = 4;
/// Numbers along a side of a transformed tile.
const SIDE: usize = 6;
/// Numbers of a transformed tile.
const PLACES: usize = SIDE * SIDE;
/// Numbers of a kernel.
const KERNEL: usize = 9;
/// Tiles in a panel: a multiple of every set's rows and lanes.
const PANEL: usize = 48;
/// Input channels whose kernels are transformed at a time, so that they stay in the second-level cache.
const SLICE: usize = 160;
/// Transformed numbers of the image that are kept at a time.
const TRANSFORMED_LEN: usize = 1 << 20;
/// Input channels in a task that transforms a panel.
const CHANNELS_PER_TASK: usize = 32;
/// Input channels whose kernels are turned at a time.
const TURNED: usize = 16;
/// Kernels whose rows are read at a time.
const KERNELS_AT_ONCE: usize = 8;
/// Between the numbers of one place and those of the next: a cache line, so that they do not all fall into the same set.
const GAP: usize = 16;
/// Tiles whose results are written at a time.
const WRITTEN: usize = 8;
/// Pixels of a panel in a row, and behind them two more for each run of tiles.
const LINE: usize = OUT * PANEL + 2 * PANEL;
/// Room for one of the six numbers that every tile of a panel has in a row, with a vector before it and one after it.
const PHASE: usize = PANEL + 32;

/// Whether the algorithm does this convolution, and faster than a direct one.
pub(crate) fn suits(sizes: &Conv2d) -> bool {
    let Ok((height, width)) = sizes.output_size() else { return false };
    let tiles = sizes.batch * height.div_ceil(OUT) * width.div_ceil(OUT);
    let pixels = sizes.batch * height * width;
    sizes.kernel_height == 3
        && sizes.kernel_width == 3
        && sizes.stride == 1
        && sizes.in_channels >= 16
        && sizes.out_channels >= 16
        // A kernel's transformation, and what the tiles take.
        && PLACES * (tiles + 5) <= KERNEL * pixels
}

/// The picture.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    /// `(batch, in, height, width)`, or half as high and wide where it is doubled.
    pub(crate) x: &'a [f32],
    /// Whether every pixel is taken twice along both axes.
    pub(crate) doubled: bool,
}

/// The input to `out`, whose pictures have this height and width. The lengths were checked against the sizes, for which [`suits`] holds.
pub(crate) fn run(
    level: Level,
    input: Input<'_>,
    weight: Rows<'_>,
    added: Added<'_>,
    sizes: &Conv2d,
    (height, width): (usize, usize),
    out: &mut Out<'_>,
) {
    let (lanes, _) = level.geometry();
    let (tiles_x, tiles_y, channels) = (width.div_ceil(OUT), height.div_ceil(OUT), sizes.in_channels);
    let tiles = sizes.batch * tiles_x * tiles_y;
    let plan = Plan { sizes: *sizes, height, width, tiles_x, tiles_y, lanes, widest: tiles.next_multiple_of(lanes).min(PANEL) };
    let at_once = (TRANSFORMED_LEN / (PLACES * channels) / PANEL * PANEL).max(2 * PANEL);
    let mut transformed = Scratch::take(at_once.min(tiles).div_ceil(PANEL) * plan.panel_len());
    let columns = PANEL_VECTORS * lanes;
    let out = out.shared();
    for first in (0..tiles).step_by(at_once) {
        let end = (first + at_once).min(tiles);
        let panels = (end - first).div_ceil(PANEL);
        let v = Shared(transformed.as_mut_ptr());
        let tasks = channels.div_ceil(CHANNELS_PER_TASK);
        (0..panels * tasks).into_par_iter().with_max_len(4).for_each(|index| {
            let (panel, task) = (index / tasks, index % tasks);
            let channels = (task * CHANNELS_PER_TASK, ((task + 1) * CHANNELS_PER_TASK).min(channels));
            let panel = plan.panel(first, end, panel);
            dispatch(level, Tiles { plan: &plan, input, panel, channels, v });
        });
        let groups = sizes.out_channels.div_ceil(columns);
        // Few output channels: the panels are divided too.
        let parts = (2 * rayon::current_num_threads()).div_ceil(groups).min(panels);
        let each = panels.div_ceil(parts);
        (0..groups * panels.div_ceil(each)).into_par_iter().with_max_len(1).for_each(|index| {
            let (group, part) = (index % groups, index / groups);
            let panels = (part * each, ((part + 1) * each).min(panels));
            dispatch(level, Products { plan: &plan, weight, added, first, end, panels, column: group * columns, v, out });
        });
    }
}

/// The tiles of the result.
struct Plan {
    sizes: Conv2d,
    height: usize,
    width: usize,
    tiles_x: usize,
    tiles_y: usize,
    lanes: usize,
    /// The width of the widest panel.
    widest: usize,
}

/// Some tiles that are worked on together.
#[derive(Clone, Copy)]
struct Panel {
    first: usize,
    count: usize,
    /// Its tiles rounded up to whole vectors.
    width: usize,
    /// Where it lies among the transformed ones.
    at: usize,
}

/// Neighbouring tiles of one row.
#[derive(Clone, Copy, Default)]
struct Run {
    /// Their place in the panel.
    at: usize,
    len: usize,
    image: usize,
    y: usize,
    x: usize,
}

impl Plan {
    /// Numbers of one place of a panel, and the gap behind them.
    fn place_len(&self, width: usize) -> usize {
        self.sizes.in_channels * width + GAP
    }

    /// Numbers of a panel.
    fn panel_len(&self) -> usize {
        PLACES * self.place_len(self.widest)
    }

    /// A panel of the tiles `first..end`.
    fn panel(&self, first: usize, end: usize, panel: usize) -> Panel {
        let at = first + panel * PANEL;
        let count = PANEL.min(end - at);
        Panel { first: at, count, width: count.next_multiple_of(self.lanes), at: panel * self.panel_len() }
    }

    /// The runs of a panel, and how many there are.
    fn runs(&self, panel: Panel) -> ([Run; PANEL], usize) {
        let (mut runs, mut count, mut at) = ([Run::default(); PANEL], 0, 0);
        while at < panel.count {
            let tile = panel.first + at;
            let (row, x) = (tile / self.tiles_x, tile % self.tiles_x);
            let len = (self.tiles_x - x).min(panel.count - at);
            runs[count] = Run { at, len, image: row / self.tiles_y, y: row % self.tiles_y, x };
            count += 1;
            at += len;
        }
        (runs, count)
    }
}

const A: f32 = 0.625;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;
/// What a kernel's value at ±A and at ±B is divided by.
const AT_A: f32 = 2.0 * A2 * (A2 - B2);
const AT_B: f32 = 2.0 * B2 * (B2 - A2);

/// Six numbers of a tile, transformed.
///
/// # Safety
/// The instruction set is available.
#[inline(always)]
unsafe fn of_tile<S: Simd>(d: [S::V; SIDE]) -> [S::V; SIDE] {
    // SAFETY: the caller's.
    unsafe {
        let (both, sum) = (S::splat(A2 * B2), S::splat(-(A2 + B2)));
        let (even_a, odd_a) = (S::fma(d[2], S::splat(-B2), d[4]), S::fma(d[1], S::splat(-B2), d[3]));
        let (even_b, odd_b) = (S::fma(d[2], S::splat(-A2), d[4]), S::fma(d[1], S::splat(-A2), d[3]));
        [
            S::fma(d[0], both, S::fma(d[2], sum, d[4])),
            S::fma(odd_a, S::splat(A), even_a),
            S::fma(odd_a, S::splat(-A), even_a),
            S::fma(odd_b, S::splat(B), even_b),
            S::fma(odd_b, S::splat(-B), even_b),
            S::fma(d[1], both, S::fma(d[3], sum, d[5])),
        ]
    }
}

/// Three numbers of a kernel, transformed.
///
/// # Safety
/// The instruction set is available.
#[inline(always)]
unsafe fn of_kernel<S: Simd>(g: [S::V; 3]) -> [S::V; SIDE] {
    // SAFETY: the caller's.
    unsafe {
        let even_a = S::fma(g[2], S::splat(A2 / AT_A), S::mul(g[0], S::splat(1.0 / AT_A)));
        let even_b = S::fma(g[2], S::splat(B2 / AT_B), S::mul(g[0], S::splat(1.0 / AT_B)));
        [
            S::mul(g[0], S::splat(1.0 / (A2 * B2))),
            S::fma(g[1], S::splat(A / AT_A), even_a),
            S::fma(g[1], S::splat(-A / AT_A), even_a),
            S::fma(g[1], S::splat(B / AT_B), even_b),
            S::fma(g[1], S::splat(-B / AT_B), even_b),
            g[2],
        ]
    }
}

/// Six sums of products, as the four results.
///
/// # Safety
/// The instruction set is available.
#[inline(always)]
unsafe fn to_results<S: Simd>(m: [S::V; SIDE]) -> [S::V; OUT] {
    // SAFETY: the caller's.
    unsafe {
        let (even_a, odd_a) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        let (even_b, odd_b) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        [
            S::add(m[0], S::add(even_a, even_b)),
            S::fma(odd_a, S::splat(A), S::mul(odd_b, S::splat(B))),
            S::fma(even_a, S::splat(A2), S::mul(even_b, S::splat(B2))),
            S::fma(odd_a, S::splat(A2 * A), S::fma(odd_b, S::splat(B2 * B), m[5])),
        ]
    }
}

/// Transforms some channels of a panel's tiles: for each place and channel the numbers of all tiles follow each other.
struct Tiles<'a> {
    plan: &'a Plan,
    input: Input<'a>,
    panel: Panel,
    channels: (usize, usize),
    v: Shared,
}

impl Task for Tiles<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { plan, input: Input { x, doubled }, panel, channels, v } = self;
        let Conv2d { in_channels, height, width, padding, .. } = plan.sizes;
        let (runs, count) = plan.runs(panel);
        let runs = &runs[..count];
        let shift = u32::from(doubled);
        let row_len = width >> shift;
        let plane = (height >> shift) * row_len;
        let tail = OUT * panel.width;
        let line_len = (tail + 2 * count).next_multiple_of(S::LANES);
        let place_len = plan.place_len(panel.width);
        let mut lines = [[0.0f32; LINE + 16]; SIDE];
        let mut phases = [[[0.0f32; PHASE]; SIDE]; SIDE];
        debug_assert!(line_len <= LINE + 16 && panel.width <= PANEL && S::LANES <= MAX_LANES);
        for channel in channels.0..channels.1 {
            // SAFETY: rows and columns are read where they lie inside the image; a line holds four pixels of every tile and two of every run,
            // a phase a number of every tile and a vector on either side; the panel has `place_len` numbers for each place.
            unsafe {
                for (r, line) in lines.iter_mut().enumerate() {
                    let line = line.as_mut_ptr();
                    for (index, run) in runs.iter().enumerate() {
                        let (dst, edge) = (line.add(OUT * run.at), line.add(tail + 2 * index));
                        let y = (OUT * run.y + r).wrapping_sub(padding);
                        if y >= height {
                            fill_zero::<S>(dst, OUT * run.len);
                            fill_zero::<S>(edge, 2);
                            continue;
                        }
                        let row = x.as_ptr().add((run.image * in_channels + channel) * plane + (y >> shift) * row_len);
                        let column = OUT * run.x;
                        if doubled {
                            double_row::<S>(row, width, column, padding, OUT * run.len, dst);
                            double_row::<S>(row, width, column + OUT * run.len, padding, 2, edge);
                        } else {
                            copy_row::<S>(row, width, column, padding, OUT * run.len, dst);
                            copy_row::<S>(row, width, column + OUT * run.len, padding, 2, edge);
                        }
                    }
                }
                for i in (0..line_len).step_by(S::LANES) {
                    let p: [*mut f32; SIDE] = std::array::from_fn(|r| lines.as_mut_ptr().add(r).cast::<f32>().add(i));
                    let transformed = of_tile::<S>(std::array::from_fn(|r| S::load(p[r])));
                    for r in 0..SIDE {
                        S::store(p[r], transformed[r]);
                    }
                }
                for (line, phases) in lines.iter().zip(&mut phases) {
                    let p: [*mut f32; SIDE] = std::array::from_fn(|j| phases.as_mut_ptr().add(j).cast::<f32>().add(16));
                    for i in (0..panel.width).step_by(S::LANES) {
                        let four = S::deinterleave4(line.as_ptr().add(OUT * i));
                        for j in 0..OUT {
                            S::store(p[j].add(i), four[j]);
                        }
                        // The last two numbers of a tile are the first two of its neighbour.
                        S::store(p[4].add(i).sub(1), four[0]);
                        S::store(p[5].add(i).sub(1), four[1]);
                    }
                    for (index, run) in runs.iter().enumerate() {
                        *p[4].add(run.at + run.len - 1) = line[tail + 2 * index];
                        *p[5].add(run.at + run.len - 1) = line[tail + 2 * index + 1];
                    }
                }
                let v = v.0.add(panel.at + channel * panel.width);
                for (r, phases) in phases.iter().enumerate() {
                    for i in (0..panel.width).step_by(S::LANES) {
                        let transformed = of_tile::<S>(std::array::from_fn(|j| S::load(phases[j].as_ptr().add(16 + i))));
                        for j in 0..SIDE {
                            S::store(v.add((r * SIDE + j) * place_len + i), transformed[j]);
                        }
                    }
                }
            }
        }
    }
}

/// Copies `len` numbers of a row from `column - padding` on; outside the row there are zeros.
///
/// # Safety
/// The row is valid for `width` numbers, `dst` for `len`.
#[inline(always)]
unsafe fn copy_row<S: Simd>(row: *const f32, width: usize, column: usize, padding: usize, len: usize, dst: *mut f32) {
    let low = padding.saturating_sub(column).min(len);
    let high = (width + padding).saturating_sub(column).clamp(low, len);
    // SAFETY: `low..high` are the numbers inside the row.
    unsafe {
        fill_zero::<S>(dst, low);
        let src = row.wrapping_add(column).wrapping_sub(padding);
        let mut i = low;
        while i + S::LANES <= high {
            S::store(dst.add(i), S::load(src.wrapping_add(i)));
            i += S::LANES;
        }
        while i < high {
            *dst.add(i) = *src.wrapping_add(i);
            i += 1;
        }
        fill_zero::<S>(dst.add(high), len - high);
    }
}

/// The same of a row of `width` numbers, of which each lies in memory once and is taken twice.
///
/// # Safety
/// The row is valid for half of `width` numbers, `dst` for `len`.
#[inline(always)]
unsafe fn double_row<S: Simd>(row: *const f32, width: usize, column: usize, padding: usize, len: usize, dst: *mut f32) {
    let low = padding.saturating_sub(column).min(len);
    let high = (width + padding).saturating_sub(column).clamp(low, len);
    // SAFETY: `low..high` are the numbers inside the row.
    unsafe {
        fill_zero::<S>(dst, low);
        let mut i = low;
        if i < high && (column + i - padding) % 2 == 1 {
            *dst.add(i) = *row.add((column + i - padding) / 2);
            i += 1;
        }
        while i + 2 <= high {
            let number = *row.add((column + i - padding) / 2);
            *dst.add(i) = number;
            *dst.add(i + 1) = number;
            i += 2;
        }
        if i < high {
            *dst.add(i) = *row.add((column + i - padding) / 2);
        }
        fill_zero::<S>(dst.add(high), len - high);
    }
}

/// # Safety
/// `dst` is valid for `len` numbers.
#[inline(always)]
unsafe fn fill_zero<S: Simd>(dst: *mut f32, len: usize) {
    let mut i = 0;
    // SAFETY: the caller's.
    unsafe {
        while i + S::LANES <= len {
            S::store(dst.add(i), S::zero());
            i += S::LANES;
        }
        while i < len {
            *dst.add(i) = 0.0;
            i += 1;
        }
    }
}

/// The products of some panels with two vectors of output channels, and the results.
struct Products<'a> {
    plan: &'a Plan,
    weight: Rows<'a>,
    added: Added<'a>,
    first: usize,
    end: usize,
    panels: (usize, usize),
    /// The first output channel.
    column: usize,
    v: Shared,
    out: Shared,
}

impl Task for Products<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let channels = self.plan.sizes.in_channels;
        let width = PANEL_VECTORS * S::LANES;
        let slices = channels.div_ceil(SLICE);
        let slice = channels.div_ceil(slices);
        // With one slice a panel's sums are used at once.
        let kept = if slices == 1 { 1 } else { self.panels.1 - self.panels.0 };
        let (kernels_len, sums_len, results_len) = (PLACES * (slice * width + GAP), PLACES * PANEL * width, OUT * OUT * WRITTEN * width);
        let mut scratch = Scratch::take(kernels_len + kept * sums_len + results_len.max(TURNED * KERNEL * width));
        let kernels = scratch.as_mut_ptr();
        // SAFETY: the parts of the scratch; the kernels of the channels `c0..c0 + kc` exist; the panels were transformed.
        unsafe {
            let (sums, buffer) = (kernels.add(kernels_len), kernels.add(kernels_len + kept * sums_len));
            for c0 in (0..channels).step_by(slice) {
                let kc = slice.min(channels - c0);
                let kernel_len = kc * width + GAP;
                self.transform::<S>(c0, kc, buffer, kernels, kernel_len);
                for index in self.panels.0..self.panels.1 {
                    let panel = self.plan.panel(self.first, self.end, index);
                    let place_len = self.plan.place_len(panel.width);
                    let sums = sums.add(if kept == 1 { 0 } else { (index - self.panels.0) * sums_len });
                    for place in 0..PLACES {
                        let a = self.v.0.cast_const().add(panel.at + place * place_len + c0 * panel.width);
                        let init = if c0 == 0 { Init::Zero } else { Init::Accumulate };
                        let target = Target { c: sums.add(place * PANEL * width), ldc: width, columns: width, init };
                        block::<S, true>(panel.count, kc, a, panel.width, kernels.add(place * kernel_len), target);
                    }
                    if c0 + kc == channels {
                        self.write::<S>(panel, sums, buffer);
                    }
                }
            }
        }
    }
}

impl Products<'_> {
    /// Output channels that there are.
    #[inline(always)]
    fn columns<S: Simd>(&self) -> usize {
        (PANEL_VECTORS * S::LANES).min(self.plan.sizes.out_channels - self.column)
    }

    /// Transforms the kernels of the input channels `c0..c0 + kc`.
    ///
    /// # Safety
    /// The instruction set is available, these kernels exist, and there is room for them.
    #[inline(always)]
    unsafe fn transform<S: Simd>(&self, c0: usize, kc: usize, turned: *mut f32, kernels: *mut f32, kernel_len: usize) {
        let width = PANEL_VECTORS * S::LANES;
        let columns = self.columns::<S>();
        let mut buffer = self.weight.room::<{ KERNELS_AT_ONCE * TURNED * KERNEL }>();
        for first in (0..kc).step_by(TURNED) {
            let count = TURNED.min(kc - first);
            // SAFETY: the rows of the weight that are read exist, as do the channels; the buffers have room for `TURNED` channels.
            unsafe {
                for column in (0..width).step_by(KERNELS_AT_ONCE) {
                    let rows = columns.saturating_sub(column).min(KERNELS_AT_ONCE);
                    // Where no channel is left, nothing is read.
                    let row = if rows > 0 { self.column + column } else { self.column };
                    let (k0, len) = ((c0 + first) * KERNEL, count * KERNEL);
                    let (src, ld) = self.weight.pieces::<S>(row, rows, k0, len, buffer.as_mut_ptr().cast());
                    pack_transposed::<S>(src, ld, rows, len, KERNELS_AT_ONCE, width, turned.add(column));
                }
                for channel in 0..count {
                    for at in (0..width).step_by(S::LANES) {
                        let g = turned.add(channel * KERNEL * width + at);
                        let mut half = [[S::zero(); SIDE]; 3];
                        for x in 0..3 {
                            half[x] = of_kernel::<S>(std::array::from_fn(|y| S::load(g.add((3 * y + x) * width))));
                        }
                        let u = kernels.add((first + channel) * width + at);
                        for y in 0..SIDE {
                            let whole = of_kernel::<S>(std::array::from_fn(|x| half[x][y]));
                            for x in 0..SIDE {
                                S::store(u.add((SIDE * y + x) * kernel_len), whole[x]);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Makes results of a panel's sums and writes them.
    ///
    /// # Safety
    /// The instruction set is available, the sums are complete, the buffer has room, and nobody else writes these results.
    #[inline(always)]
    unsafe fn write<S: Simd>(&self, panel: Panel, sums: *const f32, buffer: *mut f32) {
        let Plan { sizes, height, width: out_width, .. } = *self.plan;
        let width = PANEL_VECTORS * S::LANES;
        let columns = self.columns::<S>();
        let plane = height * out_width;
        let (runs, count) = self.plan.runs(panel);
        for run in &runs[..count] {
            let mut bias = [0.0f32; PANEL_VECTORS * MAX_LANES];
            for (added, at) in [(self.added.bias, 0), (self.added.per_image, run.image * sizes.out_channels)] {
                for (sum, more) in bias.iter_mut().zip(added.iter().flat_map(|added| &added[at + self.column..]).take(columns)) {
                    *sum += more;
                }
            }
            for start in (0..run.len).step_by(WRITTEN) {
                let tiles = WRITTEN.min(run.len - start);
                // SAFETY: the sums have `PANEL` tiles for each place; the results written lie inside the image.
                unsafe {
                    for tile in 0..tiles {
                        for at in (0..width).step_by(S::LANES) {
                            let m = sums.add((run.at + start + tile) * width + at);
                            let mut half = [[S::zero(); OUT]; SIDE];
                            for x in 0..SIDE {
                                half[x] = to_results::<S>(std::array::from_fn(|y| S::load(m.add((SIDE * y + x) * PANEL * width))));
                            }
                            let bias = S::load(bias.as_ptr().add(at));
                            for y in 0..OUT {
                                let whole = to_results::<S>(std::array::from_fn(|x| half[x][y]));
                                for x in 0..OUT {
                                    let to = ((y * WRITTEN + tile) * OUT + x) * width + at;
                                    S::store(buffer.add(to), S::add(whole[x], bias));
                                }
                            }
                        }
                    }
                    let x = OUT * (run.x + start);
                    let pixels = (OUT * tiles).min(out_width - x);
                    for row in 0..OUT.min(height - OUT * run.y) {
                        let y = OUT * run.y + row;
                        let to = (run.image * sizes.out_channels + self.column) * plane + y * out_width + x;
                        turn::<S>(buffer.add(row * WRITTEN * OUT * width), width, pixels, columns, self.out.0.add(to), plane);
                        if let Some(residual) = self.added.residual {
                            for at in (0..columns).map(|column| to + column * plane) {
                                add::<S>(residual.as_ptr().add(at), pixels, self.out.0.add(at));
                            }
                        }
                    }
                }
            }
        }
    }
}

/// # Safety
/// The instruction set is available; both pointers are valid for `len` numbers.
#[inline(always)]
unsafe fn add<S: Simd>(more: *const f32, len: usize, sum: *mut f32) {
    let mut i = 0;
    // SAFETY: `i + LANES <= len` in the first loop, `i < len` in the second.
    unsafe {
        while i + S::LANES <= len {
            S::store(sum.add(i), S::add(S::load(sum.add(i)), S::load(more.add(i))));
            i += S::LANES;
        }
        while i < len {
            *sum.add(i) += *more.add(i);
            i += 1;
        }
    }
}
