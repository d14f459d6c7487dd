//! Scaled dot-product attention over blocks of keys with a running maximum and sum (Milakov and Gimelshein 2018, Dao et al. 2022), so that
//! the matrix of all scores never exists. Queries lie along vectors: keys and values are read where they are, a softmax is a maximum and a
//! sum of whole vectors, and a head of any size fills them.

use rayon::prelude::*;

use crate::gemm::{PANEL_VECTORS, Shared};
use crate::linear::{pack_transposed, turn};
use crate::math;
use crate::scratch::Scratch;
use crate::simd::{Level, Simd, Task, dispatch};
use crate::tile::{Init, Target, block};
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
pub fn attention(q: &[f32], k: &[f32], v: &[f32], sizes: &Attention, mask: Option<Mask<'_>>, out: &mut [f32]) -> Result<()> {
    attention_at(Level::best(), q, k, v, sizes, mask, out)
}

pub(crate) fn attention_at(
    level: Level,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    sizes: &Attention,
    mask: Option<Mask<'_>>,
    out: &mut [f32],
) -> Result<()> {
    let Attention { batch, heads, head_dim, queries, keys } = *sizes;
    check_len("the queries", q.len(), &[batch, queries, heads, head_dim])?;
    check_len("the output", out.len(), &[batch, queries, heads, head_dim])?;
    check_len("the keys", k.len(), &[batch, keys, heads, head_dim])?;
    check_len("the values", v.len(), &[batch, keys, heads, head_dim])?;
    if out.is_empty() {
        return Ok(());
    }
    if keys == 0 {
        out.fill(0.0);
        return Ok(());
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
    let out = Shared(out.as_mut_ptr());
    let count = batch * heads;
    if blocks < BLOCKS_TO_GATHER {
        (0..count * blocks).into_par_iter().with_max_len(1).for_each(|index| {
            let (head, first) = (index / blocks, index % blocks * at_once);
            dispatch(level, Queries { whole: &whole, head, first, gathered: None, out });
        });
        return Ok(());
    }
    // Only the heads that are worked on at a time are gathered.
    let active = rayon::current_num_threads().clamp(1, count);
    let len = keys * head_dim;
    let mut memory = Scratch::take(product("the gathered keys", &[active, 2, len])?);
    for head in (0..count).step_by(active) {
        let active = active.min(count - head);
        memory[..2 * active * len].par_chunks_mut(len.max(1)).enumerate().for_each(|(index, to)| {
            let from = if index % 2 == 0 { k } else { v };
            let start = whole.keys_at(head + index / 2, 0);
            for (to, from) in to.chunks_exact_mut(head_dim).zip(from[start..].chunks(heads * head_dim)) {
                to.copy_from_slice(&from[..head_dim]);
            }
        });
        let memory = &memory[..2 * active * len];
        (0..active * blocks).into_par_iter().with_max_len(1).for_each(|index| {
            let (slot, first) = (index / blocks, index % blocks * at_once);
            let gathered = memory[2 * slot * len..2 * (slot + 1) * len].split_at(len);
            dispatch(level, Queries { whole: &whole, head: head + slot, first, gathered: Some(gathered), out });
        });
    }
    Ok(())
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
}

/// Some queries of one head against all its keys.
struct Queries<'a, 'b> {
    whole: &'a Whole<'b>,
    head: usize,
    first: usize,
    /// The head's keys and values without those of other heads between them.
    gathered: Option<(&'a [f32], &'a [f32])>,
    out: Shared,
}

/// Two vectors of queries on their way past the keys.
struct Panel {
    /// The first query, and how many there are.
    first: usize,
    count: usize,
    /// The queries, turned and multiplied by the scale: a row for each of their elements.
    queries: *const f32,
    /// The sum of weighted values: a row for each element.
    values: *mut f32,
    maxima: *mut f32,
    sums: *mut f32,
}

impl Task for Queries<'_, '_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Attention { heads, head_dim, queries, keys, .. } = self.whole.sizes;
        let width = PANEL_VECTORS * S::LANES;
        let stride = heads * head_dim;
        let (sequence, head) = (self.head / heads, self.head % heads);
        let count = (PANELS * width).min(queries - self.first);
        let panels = count.div_ceil(width);
        let panel_len = (2 * head_dim + 2) * width;
        let mut scratch = Scratch::take(panels * panel_len + KEY_BLOCK * width);
        let memory = scratch.as_mut_ptr();
        // SAFETY: the parts of the scratch; the queries, keys, values and results of this head exist; no other task writes these results.
        unsafe {
            let scale = S::splat(std::f32::consts::LOG2_E / (head_dim as f32).sqrt());
            let panel = |index: usize| {
                let memory = memory.add(index * panel_len);
                let (values, maxima) = (memory.add(head_dim * width), memory.add(2 * head_dim * width));
                let first = self.first + index * width;
                let count = width.min(queries - first);
                Panel { first, count, queries: memory, values, maxima, sums: maxima.add(width) }
            };
            let row = |index: usize| (sequence * queries + index) * stride + head * head_dim;
            for index in 0..panels {
                let panel = panel(index);
                let turned = panel.queries.cast_mut();
                let q = self.whole.q.as_ptr().add(row(panel.first));
                pack_transposed::<S>(q, stride, panel.count, head_dim, width, width, turned);
                for at in (0..head_dim * width).step_by(S::LANES) {
                    S::store(turned.add(at), S::mul(S::load(turned.add(at)), scale));
                    S::store(panel.values.add(at), S::zero());
                }
                for at in (0..width).step_by(S::LANES) {
                    S::store(panel.maxima.add(at), S::splat(f32::NEG_INFINITY));
                    S::store(panel.sums.add(at), S::zero());
                }
            }
            let scores = memory.add(panels * panel_len);
            let (k, v, ld) = match self.gathered {
                Some((k, v)) => (k.as_ptr(), v.as_ptr(), head_dim),
                None => {
                    let at = self.whole.keys_at(self.head, 0);
                    (self.whole.k.as_ptr().add(at), self.whole.v.as_ptr().add(at), stride)
                }
            };
            for first in (0..keys).step_by(KEY_BLOCK) {
                let count = KEY_BLOCK.min(keys - first);
                let (k, v) = (k.add(first * ld), v.add(first * ld));
                for index in 0..panels {
                    let panel = panel(index);
                    let target = Target { c: scores, ldc: width, columns: width, init: Init::Zero };
                    block::<S, PANEL_VECTORS, false>(count, head_dim, k, ld, panel.queries, target);
                    if let Some(mask) = &self.whole.mask {
                        let at = sequence * mask.batch_stride + head * mask.head_stride + panel.first * mask.query_stride + first;
                        add_mask(mask.values.as_ptr().add(at), mask.query_stride, panel.count, scores, width, count);
                    }
                    for at in (0..width).step_by(S::LANES) {
                        softmax_step::<S>(&panel, at, width, scores, count, head_dim);
                    }
                    let target = Target { c: panel.values, ldc: width, columns: width, init: Init::Accumulate };
                    block::<S, PANEL_VECTORS, true>(head_dim, count, v, ld, scores, target);
                }
            }
            for index in 0..panels {
                let panel = panel(index);
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
                turn::<S>(panel.values, width, head_dim, panel.count, self.out.0.add(row(panel.first)), stride);
            }
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
