//! Scaled dot-product attention over blocks of keys with a running maximum and sum (Milakov and Gimelshein 2018, Dao et al. 2022), so that
//! the matrix of all scores never exists. Queries lie along vectors: keys and values are read where they are, a softmax is a maximum and a
//! sum of whole vectors, and a head of any size fills them.

use rayon::prelude::*;

use crate::gemm::Shared;
use crate::linear::{pack_transposed, turn};
use crate::math;
use crate::out::{Out, Written};
use crate::scratch::Scratch;
use crate::simd::{Level, Simd, Sixteen, Task, Task16, dispatch, dispatch16};
use crate::tile::{Init, PANEL_VECTORS, Target, block};
use crate::tile16::{Panel16, TALL_ROWS, block16, panel_words, round_panel, round_rows, round_turned, scale_of, words};
use crate::weight::{Error, Result, check_len, product};

/// Panels of queries in a task; they share what is read of keys and values.
const PANELS: usize = 3;
/// Keys in a block of scores.
const KEY_BLOCK: usize = 128;
/// From how many blocks of queries on a head's keys and values are first brought together.
const BLOCKS_TO_GATHER: usize = 4;

/// The sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    /// Independent sequences.
    pub batch: usize,
    /// Heads.
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Queries in a sequence.
    pub queries: usize,
    /// Keys in a sequence.
    pub keys: usize,
}

/// Numbers that are added to the scores before the softmax: for sequence `b`, head `h`, query `n` and key `m` the one at
/// `b * batch_stride + h * head_stride + n * query_stride + m`. A query all of whose keys have minus infinity gives zeros.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// The numbers.
    pub values: &'a [f32],
    /// From one sequence to the next.
    pub batch_stride: usize,
    /// From one head to the next.
    pub head_stride: usize,
    /// From one query to the next.
    pub query_stride: usize,
}

/// `softmax(q kᵀ / sqrt(head_dim) + mask) v`: `q` and `out` are `(batch, queries, heads * head_dim)`, `k` and `v` are
/// `(batch, keys, heads * head_dim)`.
pub fn attention(q: &[f32], k: &[f32], v: &[f32], sizes: &Attention, mask: Option<Mask<'_>>, out: Out<'_>) -> Result<Written> {
    attention_at(Level::best(), q, k, v, sizes, mask, out)
}

pub(crate) fn attention_at(
    level: Level,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    sizes: &Attention,
    mask: Option<Mask<'_>>,
    mut out: Out<'_>,
) -> Result<Written> {
    let Attention { batch, heads, head_dim, queries, keys } = *sizes;
    check_len("the queries", q.len(), &[batch, queries, heads, head_dim])?;
    check_len("the output", out.len(), &[batch, queries, heads, head_dim])?;
    check_len("the keys", k.len(), &[batch, keys, heads, head_dim])?;
    check_len("the values", v.len(), &[batch, keys, heads, head_dim])?;
    if out.is_empty() || keys == 0 {
        out.cleared();
        // SAFETY: zeros are.
        return Ok(unsafe { out.written() });
    }
    if let Some(mask) = &mask {
        let mut end = keys;
        for (count, stride) in [(batch, mask.batch_stride), (heads, mask.head_stride), (queries, mask.query_stride)] {
            end = end.saturating_add(product("the mask", &[count - 1, stride])?);
        }
        if end > mask.values.len() {
            return Err(Error(format!("the mask has {} elements where its strides need {end}", mask.values.len())));
        }
    }
    let (lanes, _) = level.geometry();
    let whole = Whole { q, k, v, sizes: *sizes, mask };
    let at_once = PANELS * PANEL_VECTORS * lanes;
    let blocks = queries.div_ceil(at_once);
    let to = out.shared();
    let count = batch * heads;
    if blocks < BLOCKS_TO_GATHER && !level.rounds() {
        (0..count * blocks).into_par_iter().with_max_len(1).for_each(|index| {
            let (head, first) = (index / blocks, index % blocks * at_once);
            dispatch(level, Queries { whole: &whole, head, first, gathered: None, out: to });
        });
        // SAFETY: all queries of all heads are.
        return Ok(unsafe { out.written() });
    }
    // Only the heads that are worked on at a time are gathered.
    let active = rayon::current_num_threads().clamp(1, count);
    let gathered_len = whole.gathered_len();
    let mut memory = Scratch::take(product("the gathered keys", &[active, gathered_len])?);
    let key_blocks = keys.div_ceil(KEY_BLOCK);
    for head in (0..count).step_by(active) {
        let active = active.min(count - head);
        let memory = Shared(memory.as_mut_ptr());
        (0..active * key_blocks).into_par_iter().for_each(|index| {
            let (slot, block) = (index / key_blocks, index % key_blocks);
            dispatch16(level, Gather { whole: &whole, head: head + slot, block, slot, memory });
        });
        (0..active * blocks).into_par_iter().with_max_len(1).for_each(|index| {
            let (slot, first) = (index / blocks, index % blocks * at_once);
            dispatch16(level, Queries { whole: &whole, head: head + slot, first, gathered: Some((slot, memory)), out: to });
        });
    }
    // SAFETY: all queries of all heads are.
    Ok(unsafe { out.written() })
}

struct Whole<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    sizes: Attention,
    mask: Option<Mask<'a>>,
}

impl Whole<'_> {
    /// Where a key of a head is, numbered over all sequences.
    fn keys_at(&self, head: usize, key: usize) -> usize {
        let Attention { heads, head_dim, keys, .. } = self.sizes;
        (head / heads * keys + key) * heads * head_dim + head % heads * head_dim
    }

    /// The memory that a block's keys take, and so do its values: with tiles, numbers of two parts in whole tiles.
    fn block_len(&self) -> usize {
        KEY_BLOCK * self.sizes.head_dim.next_multiple_of(TALL_ROWS)
    }

    /// The memory that a head's gathered keys and values take, in whole cache lines: those of each block, and behind them what takes the
    /// blocks' scales back.
    fn gathered_len(&self) -> usize {
        let blocks = self.sizes.keys.div_ceil(KEY_BLOCK);
        (2 * blocks * (self.block_len() + 1)).next_multiple_of(16)
    }

    /// Where a block's keys, values and scales are.
    fn gathered(&self, slot: usize, block: usize) -> (usize, usize, usize) {
        let (start, blocks) = (slot * self.gathered_len(), self.sizes.keys.div_ceil(KEY_BLOCK));
        let len = self.block_len();
        (start + block * len, start + (blocks + block) * len, start + 2 * (blocks * len + block))
    }
}

/// Brings a block of a head's keys and values together, without those of other heads between them.
struct Gather<'a, 'b> {
    whole: &'a Whole<'b>,
    head: usize,
    block: usize,
    slot: usize,
    memory: Shared,
}

impl Gather<'_, '_> {
    /// The number of keys, and where they and the values are.
    fn from(&self) -> (usize, &[f32], &[f32]) {
        let first = self.block * KEY_BLOCK;
        let at = self.whole.keys_at(self.head, first);
        (KEY_BLOCK.min(self.whole.sizes.keys - first), &self.whole.k[at..], &self.whole.v[at..])
    }
}

impl Task for Gather<'_, '_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Attention { heads, head_dim, .. } = self.whole.sizes;
        let (count, k, v) = self.from();
        let (k_at, v_at, _) = self.whole.gathered(self.slot, self.block);
        for (from, at) in [(k, k_at), (v, v_at)] {
            // SAFETY: the memory has room for the block, and no other task writes it.
            let to = unsafe { std::slice::from_raw_parts_mut(self.memory.0.add(at), count * head_dim) };
            for (to, from) in to.chunks_exact_mut(head_dim).zip(from.chunks(heads * head_dim)) {
                to.copy_from_slice(&from[..head_dim]);
            }
        }
    }
}

impl Task16 for Gather<'_, '_> {
    /// Words of the keys' elements for all keys of the block, words of keys for all elements of the values; or, with tiles, a row of
    /// them for each key and for each element of the values.
    #[inline(always)]
    unsafe fn run16<S: Sixteen>(self) {
        let Attention { heads, head_dim, .. } = self.whole.sizes;
        let stride = heads * head_dim;
        let (count, k, v) = self.from();
        let (k_at, v_at, scales) = self.whole.gathered(self.slot, self.block);
        let mut turned = Scratch::take(count * head_dim);
        // SAFETY: the keys and values of this head exist; the memory has room for the block, and no other task writes it.
        unsafe {
            let memory = self.memory.0;
            let (keys, values) = (memory.add(k_at).cast(), memory.add(v_at).cast());
            if S::TILES.is_some() {
                round_rows::<S, _>(k.as_ptr(), (stride, 0), count, (head_dim, head_dim), 1.0, keys);
                turn::<S::F32>(v.as_ptr(), stride, count, head_dim, turned.as_mut_ptr(), count);
                round_rows::<S, _>(turned.as_ptr(), (count, 0), head_dim, (count, count), 1.0, values);
                (*memory.add(scales), *memory.add(scales + 1)) = (1.0, 1.0);
                return;
            }
            turn::<S::F32>(k.as_ptr(), stride, count, head_dim, turned.as_mut_ptr(), count);
            *memory.add(scales) = round_turned::<S>(turned.as_ptr(), count, head_dim, count, keys);
            *memory.add(scales + 1) = round_turned::<S>(v.as_ptr(), stride, count, head_dim, values);
        }
    }
}

/// Some queries of one head against all its keys.
struct Queries<'a, 'b> {
    whole: &'a Whole<'b>,
    head: usize,
    first: usize,
    /// Where the head's keys and values were gathered, if they were.
    gathered: Option<(usize, Shared)>,
    out: Shared,
}

/// Two vectors of queries on their way past the keys.
#[derive(Clone, Copy)]
struct Panel {
    /// The first query, and how many there are.
    first: usize,
    count: usize,
    /// The queries, turned and multiplied by the scale: a row for each of their elements, or a panel of rounded ones.
    queries: *mut f32,
    /// The sum of weighted values: a row for each element.
    values: *mut f32,
    maxima: *mut f32,
    sums: *mut f32,
}

impl Queries<'_, '_> {
    /// How many queries there are.
    fn count(&self, width: usize) -> usize {
        (PANELS * width).min(self.whole.sizes.queries - self.first)
    }

    /// The numbers of a panel.
    fn panel_len(&self, width: usize) -> usize {
        (2 * self.whole.sizes.head_dim + 2) * width
    }

    /// A panel of so many queries in this memory.
    ///
    /// # Safety
    /// The memory has room for all panels up to this one.
    #[inline(always)]
    unsafe fn panel(&self, index: usize, width: usize, memory: *mut f32) -> Panel {
        let Attention { head_dim, queries, .. } = self.whole.sizes;
        // SAFETY: the caller's.
        unsafe {
            let memory = memory.add(index * self.panel_len(width));
            let (values, maxima) = (memory.add(head_dim * width), memory.add(2 * head_dim * width));
            let first = self.first + index * width;
            Panel { first, count: width.min(queries - first), queries: memory, values, maxima, sums: maxima.add(width) }
        }
    }

    /// Where the elements of a query of this head are.
    fn row(&self, query: usize) -> usize {
        let Attention { heads, head_dim, queries, .. } = self.whole.sizes;
        (self.head / heads * queries + query) * heads * head_dim + self.head % heads * head_dim
    }

    /// Reads the queries of a panel, and clears the rest of it.
    ///
    /// # Safety
    /// The instruction set is available; the panel is valid.
    #[inline(always)]
    unsafe fn begin<S: Simd>(&self, panel: Panel) {
        let Attention { heads, head_dim, .. } = self.whole.sizes;
        let (width, stride) = (PANEL_VECTORS * S::LANES, heads * head_dim);
        // SAFETY: the caller's; the queries exist.
        unsafe {
            let scale = S::splat(std::f32::consts::LOG2_E / (head_dim as f32).sqrt());
            let q = self.whole.q.as_ptr().add(self.row(panel.first));
            pack_transposed::<S>(q, stride, panel.count, head_dim, width, width, panel.queries);
            for at in (0..head_dim * width).step_by(S::LANES) {
                S::store(panel.queries.add(at), S::mul(S::load(panel.queries.add(at)), scale));
                S::store(panel.values.add(at), S::zero());
            }
            for at in (0..width).step_by(S::LANES) {
                S::store(panel.maxima.add(at), S::splat(f32::NEG_INFINITY));
                S::store(panel.sums.add(at), S::zero());
            }
        }
    }

    /// Makes weights of the scores of `count` keys from `first` on.
    ///
    /// # Safety
    /// The instruction set is available; the panel and the scores are valid.
    #[inline(always)]
    unsafe fn weigh<S: Simd>(&self, panel: Panel, scores: *mut f32, first: usize, count: usize) {
        let Attention { heads, head_dim, .. } = self.whole.sizes;
        let (sequence, head, width) = (self.head / heads, self.head % heads, PANEL_VECTORS * S::LANES);
        // SAFETY: the caller's; the mask has these queries and keys.
        unsafe {
            if let Some(mask) = &self.whole.mask {
                let at = sequence * mask.batch_stride + head * mask.head_stride + panel.first * mask.query_stride + first;
                add_mask(mask.values.as_ptr().add(at), mask.query_stride, panel.count, scores, width, count);
            }
            for at in (0..width).step_by(S::LANES) {
                softmax_step::<S>(&panel, at, width, scores, count, head_dim);
            }
        }
    }

    /// Writes the results of a panel.
    ///
    /// # Safety
    /// The instruction set is available; the panel is valid, and no other task writes these results.
    #[inline(always)]
    unsafe fn end<S: Simd>(&self, panel: Panel) {
        let Attention { heads, head_dim, .. } = self.whole.sizes;
        let (width, stride) = (PANEL_VECTORS * S::LANES, heads * head_dim);
        // SAFETY: the caller's; the results exist.
        unsafe {
            for i in 0..width {
                let sum = panel.sums.add(i);
                // Nothing was added up where every key is masked out.
                *sum = if *sum == 0.0 { 0.0 } else { 1.0 / *sum };
            }
            for element in 0..head_dim {
                for at in (0..width).step_by(S::LANES) {
                    let value = panel.values.add(element * width + at);
                    S::store(value, S::mul(S::load(value), S::load(panel.sums.add(at))));
                }
            }
            turn::<S>(panel.values, width, head_dim, panel.count, self.out.0.add(self.row(panel.first)), stride);
        }
    }
}

impl Task for Queries<'_, '_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Attention { heads, head_dim, keys, .. } = self.whole.sizes;
        let width = PANEL_VECTORS * S::LANES;
        let panels = self.count(width).div_ceil(width);
        let mut scratch = Scratch::take(panels * self.panel_len(width) + KEY_BLOCK * width);
        let memory = scratch.as_mut_ptr();
        // SAFETY: the parts of the scratch; the queries, keys, values and results of this head exist; no other task writes these results.
        unsafe {
            let panel = |index: usize| self.panel(index, width, memory);
            for index in 0..panels {
                self.begin::<S>(panel(index));
            }
            let scores = memory.add(panels * self.panel_len(width));
            for first in (0..keys).step_by(KEY_BLOCK) {
                let count = KEY_BLOCK.min(keys - first);
                let (k, v, ld) = match self.gathered {
                    Some((slot, memory)) => {
                        let (k, v, _) = self.whole.gathered(slot, first / KEY_BLOCK);
                        (memory.0.add(k).cast_const(), memory.0.add(v).cast_const(), head_dim)
                    }
                    None => {
                        let at = self.whole.keys_at(self.head, first);
                        (self.whole.k.as_ptr().add(at), self.whole.v.as_ptr().add(at), heads * head_dim)
                    }
                };
                for index in 0..panels {
                    let panel = panel(index);
                    let target = Target { c: scores, ldc: width, columns: width, init: Init::Zero };
                    block::<S, false>(count, head_dim, k, ld, panel.queries, target);
                    self.weigh::<S>(panel, scores, first, count);
                    let target = Target { c: panel.values, ldc: width, columns: width, init: Init::Accumulate };
                    block::<S, true>(head_dim, count, v, ld, scores, target);
                }
            }
            for index in 0..panels {
                self.end::<S>(panel(index));
            }
        }
    }
}

impl Task16 for Queries<'_, '_> {
    #[inline(always)]
    unsafe fn run16<S: Sixteen>(self) {
        let Attention { head_dim, keys, .. } = self.whole.sizes;
        // Without gathered keys there is nothing rounded.
        let Some((slot, gathered)) = self.gathered else { return };
        let width = PANEL_VECTORS * S::F32::LANES;
        let panels = self.count(width).div_ceil(width);
        let (scores_len, weights_len) = (KEY_BLOCK * width, panel_words::<S>(KEY_BLOCK));
        let rounded_len = panel_words::<S>(head_dim);
        let mut scratch = Scratch::take(panels * (self.panel_len(width) + rounded_len) + scores_len + weights_len);
        let memory = scratch.as_mut_ptr();
        let mut scales = [0.0f32; PANELS];
        // SAFETY: the parts of the scratch; the queries and results of this head exist, and what was gathered; no other task writes these
        // results. Words are as long as numbers.
        unsafe {
            let panel = |index: usize| self.panel(index, width, memory);
            let scores = memory.add(panels * self.panel_len(width));
            let weights = scores.add(scores_len).cast::<u32>();
            let queries = |index: usize| weights.add(weights_len + index * rounded_len);
            for (index, scale) in scales.iter_mut().enumerate().take(panels) {
                let panel = panel(index);
                self.begin::<S::F32>(panel);
                let of_queries = scale_of::<S>(panel.queries, width, head_dim, width);
                *scale = round_panel::<S>(panel.queries, head_dim, of_queries, queries(index));
            }
            for first in (0..keys).step_by(KEY_BLOCK) {
                let count = KEY_BLOCK.min(keys - first);
                let (k, v, scales_at) = self.whole.gathered(slot, first / KEY_BLOCK);
                let (k, v) = (gathered.0.add(k).cast::<u32>(), gathered.0.add(v).cast::<u32>());
                let (k_scale, v_scale) = (*gathered.0.add(scales_at), *gathered.0.add(scales_at + 1));
                for (index, q_scale) in scales.iter().enumerate().take(panels) {
                    let panel = panel(index);
                    let target = Target { c: scores, ldc: width, columns: width, init: Init::Zero };
                    let of_queries = Panel16 { b: queries(index), target, scale: k_scale * q_scale };
                    of_gathered::<S>(count, head_dim, k, of_queries);
                    self.weigh::<S::F32>(panel, scores, first, count);
                    let scale = round_panel::<S>(scores, count, S::scale(1.0), weights);
                    let target = Target { c: panel.values, ldc: width, columns: width, init: Init::Accumulate };
                    let of_weights = Panel16 { b: weights, target, scale: v_scale * scale };
                    of_gathered::<S>(head_dim, count, v, of_weights);
                }
            }
            for index in 0..panels {
                self.end::<S::F32>(panel(index));
            }
        }
    }
}

/// The product of gathered keys or values, `rows` of this depth, and a panel.
///
/// # Safety
/// As for `block16`.
#[inline(always)]
unsafe fn of_gathered<S: Sixteen>(rows: usize, depth: usize, gathered: *const u32, panel: Panel16) {
    // SAFETY: the caller's.
    unsafe {
        if S::TILES.is_some() {
            block16::<S, false>(rows, words::<S>(depth), gathered, 0, &[panel]);
        } else {
            block16::<S, true>(rows, words::<S>(depth), gathered, rows, &[panel]);
        }
    }
}

/// Adds the mask of some queries and keys to their scores, which are in powers of two.
///
/// # Safety
/// The mask is valid for these queries and keys, the scores for a row of `width` queries for every key.
#[inline(always)]
unsafe fn add_mask(mask: *const f32, query_stride: usize, queries: usize, scores: *mut f32, width: usize, keys: usize) {
    for key in 0..keys {
        for query in 0..queries {
            // SAFETY: the caller's.
            unsafe { *scores.add(key * width + query) += *mask.add(query * query_stride + key) * std::f32::consts::LOG2_E };
        }
    }
}

/// Turns the scores of a vector of queries into weights relative to the greatest score so far, adds them to the sums, and multiplies the
/// values so far by what that changes.
///
/// # Safety
/// The instruction set is available; the scores have a row of `width` for every key, the panel is valid.
#[inline(always)]
unsafe fn softmax_step<S: Simd>(panel: &Panel, at: usize, width: usize, scores: *mut f32, keys: usize, head_dim: usize) {
    // SAFETY: the caller's.
    unsafe {
        let scores = scores.add(at);
        let before = S::load(panel.maxima.add(at));
        let mut greatest = [before; 4];
        for key in 0..keys {
            greatest[key % 4] = S::max(greatest[key % 4], S::load(scores.add(key * width)));
        }
        let now = S::max(S::max(greatest[0], greatest[1]), S::max(greatest[2], greatest[3]));
        // Without a finite score there is nothing to be relative to. What is not a number shows in the weights.
        let shift = S::select_greater(now, S::splat(f32::NEG_INFINITY), now, S::zero());
        let mut sums = [S::zero(); 4];
        for key in 0..keys {
            let score = scores.add(key * width);
            let weight = math::exp2_of_negative::<S>(S::sub(S::load(score), shift));
            S::store(score, weight);
            sums[key % 4] = S::add(sums[key % 4], weight);
        }
        let sum = S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3]));
        let shrink = math::exp2_of_negative::<S>(S::sub(before, shift));
        S::store(panel.maxima.add(at), now);
        S::store(panel.sums.add(at), S::fma(S::load(panel.sums.add(at)), shrink, sum));
        if S::max_of(S::sub(S::splat(1.0), shrink)) == 0.0 {
            return;
        }
        for element in 0..head_dim {
            let value = panel.values.add(element * width + at);
            S::store(value, S::mul(S::load(value), shrink));
        }
    }
}
