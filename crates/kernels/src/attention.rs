//! Scaled dot-product attention over blocks of keys with a running maximum and sum (Milakov and Gimelshein 2018, Dao et al. 2022), so that
//! the matrix of all scores never exists. Keys and values are packed once for every head that is worked on; queries are read where they lie.

use rayon::prelude::*;

use crate::gemm::{Init, PANEL_VECTORS, Shared, Target, block};
use crate::linear::pack_transposed;
use crate::math;
use crate::scratch::Scratch;
use crate::simd::{Level, Simd, Task, dispatch};
use crate::weight::{Error, Result, check_len, product};

/// Queries in a task.
const QUERY_BLOCK: usize = 96;
/// Most keys in a block of scores; a multiple of every panel's width.
const KEY_BLOCK: usize = 256;
/// Numbers in the keys of a block, so that keys and values stay in the second-level cache.
const KEY_BLOCK_LEN: usize = 32 * 1024;
/// Distance of rows of scores, not a power of two.
const SCORES_LD: usize = KEY_BLOCK + 16;

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
    let width = PANEL_VECTORS * lanes;
    let layout = Layout {
        keys_len: keys.div_ceil(width) * width * head_dim,
        values_len: keys * head_dim.next_multiple_of(lanes),
        key_block: (KEY_BLOCK_LEN / head_dim / width * width).clamp(width, KEY_BLOCK),
        query_block: QUERY_BLOCK,
    };
    let whole = Whole { q, k, v, sizes: *sizes, mask, layout };
    let out = Shared(out.as_mut_ptr());
    let count = batch * heads;
    // Only the heads that are worked on at a time are packed.
    let at_once = rayon::current_num_threads().clamp(1, count);
    let slot_len = layout.keys_len + layout.values_len;
    let mut packed = Scratch::take(product("the packed keys", &[at_once, slot_len])?);
    for first in (0..count).step_by(at_once) {
        let active = at_once.min(count - first);
        packed[..active * slot_len].par_chunks_mut(slot_len).enumerate().for_each(|(slot, packed)| {
            dispatch(level, Pack { whole: &whole, head: first + slot, packed });
        });
        let packed = &packed[..active * slot_len];
        let blocks = queries.div_ceil(layout.query_block);
        (0..active * blocks).into_par_iter().with_max_len(1).for_each(|index| {
            let (slot, block) = (index / blocks, index % blocks);
            let packed = &packed[slot * slot_len..(slot + 1) * slot_len];
            dispatch(level, Queries { whole: &whole, head: first + slot, first: block * layout.query_block, packed, out });
        });
    }
    Ok(())
}

/// How keys and values are packed, and the blocks.
#[derive(Clone, Copy)]
struct Layout {
    keys_len: usize,
    values_len: usize,
    key_block: usize,
    query_block: usize,
}

struct Whole<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    sizes: Attention,
    mask: Option<Mask<'a>>,
    layout: Layout,
}

/// Packs keys and values of one head.
struct Pack<'a, 'b> {
    whole: &'a Whole<'b>,
    head: usize,
    packed: &'a mut [f32],
}

/// The widths in vectors of the panels of values, for `vectors` in all: pairs, and three or one to begin with if they are odd.
#[inline(always)]
fn next_panel(vectors_left: usize) -> usize {
    match vectors_left {
        1 => 1,
        left if left % 2 == 1 => 3,
        _ => 2,
    }
}

impl Task for Pack<'_, '_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Attention { heads, head_dim, keys, .. } = self.whole.sizes;
        let stride = heads * head_dim;
        let offset = self.head / heads * keys * stride + self.head % heads * head_dim;
        let width = PANEL_VECTORS * S::LANES;
        let packed = self.packed.as_mut_ptr();
        // SAFETY: the head's keys and values lie in `k` and `v`; `packed` has room for the panels of both.
        unsafe {
            let k = self.whole.k.as_ptr().add(offset);
            for panel in 0..keys.div_ceil(width) {
                let first = panel * width;
                let columns = width.min(keys - first);
                pack_transposed::<S>(k.add(first * stride), stride, columns, head_dim, width, width, packed.add(first * head_dim));
            }
            let v = self.whole.v.as_ptr().add(offset);
            let mut packed = packed.add(self.whole.layout.keys_len);
            let vectors = head_dim.div_ceil(S::LANES);
            let mut done = 0;
            while done < vectors {
                let panel = next_panel(vectors - done);
                for key in 0..keys {
                    for vector in done..done + panel {
                        let column = vector * S::LANES;
                        let src = v.add(key * stride + column);
                        if column + S::LANES <= head_dim {
                            S::store(packed, S::load(src));
                        } else {
                            for i in 0..S::LANES {
                                *packed.add(i) = if column + i < head_dim { *src.add(i) } else { 0.0 };
                            }
                        }
                        packed = packed.add(S::LANES);
                    }
                }
                done += panel;
            }
        }
    }
}

/// A block of queries of one head against all its keys.
struct Queries<'a, 'b> {
    whole: &'a Whole<'b>,
    head: usize,
    first: usize,
    packed: &'a [f32],
    out: Shared,
}

impl Task for Queries<'_, '_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Attention { heads, head_dim, queries, keys, .. } = self.whole.sizes;
        let Layout { keys_len, key_block, query_block, .. } = self.whole.layout;
        let rows = query_block.min(queries - self.first);
        let stride = heads * head_dim;
        let (sequence, head) = (self.head / heads, self.head % heads);
        let offset = (sequence * queries + self.first) * stride + head * head_dim;
        let width = PANEL_VECTORS * S::LANES;
        let out_ld = head_dim.next_multiple_of(S::LANES);
        let mut scratch = Scratch::take(rows * (SCORES_LD + out_ld + 2));
        let (scores, rest) = scratch.split_at_mut(rows * SCORES_LD);
        let (sums_of_values, rest) = rest.split_at_mut(rows * out_ld);
        let (maxima, sums) = rest.split_at_mut(rows);
        sums_of_values.fill(0.0);
        maxima.fill(f32::NEG_INFINITY);
        sums.fill(0.0);
        let scale = std::f32::consts::LOG2_E / (head_dim as f32).sqrt();
        // SAFETY: the block's queries and outputs exist and belong to this task; the packed panels cover all keys, their widths rounded up
        // to whole panels as the rows of scores are; the mask's strides were checked.
        unsafe {
            let q = self.whole.q.as_ptr().add(offset);
            let (packed_keys, packed_values) = (self.packed.as_ptr(), self.packed.as_ptr().add(keys_len));
            for first_key in (0..keys).step_by(key_block) {
                let columns = key_block.min(keys - first_key);
                for panel in 0..columns.div_ceil(width) {
                    let c = scores.as_mut_ptr().add(panel * width);
                    let target = Target { c, ldc: SCORES_LD, columns: width, init: Init::Zero };
                    let packed = packed_keys.add((first_key + panel * width) * head_dim);
                    block::<S, PANEL_VECTORS, false>(rows, head_dim, q, stride, packed, target);
                }
                for row in 0..rows {
                    let mask = match &self.whole.mask {
                        Some(mask) => {
                            let query = sequence * mask.batch_stride + head * mask.head_stride + (self.first + row) * mask.query_stride;
                            mask.values.as_ptr().add(query + first_key)
                        }
                        None => std::ptr::null(),
                    };
                    let scores = scores.as_mut_ptr().add(row * SCORES_LD);
                    let shrink = softmax_step::<S>(scores, columns, scale, mask, &mut maxima[row], &mut sums[row]);
                    if shrink != 1.0 {
                        let shrink = S::splat(shrink);
                        for at in (0..out_ld).step_by(S::LANES) {
                            let p = sums_of_values.as_mut_ptr().add(row * out_ld + at);
                            S::store(p, S::mul(S::load(p), shrink));
                        }
                    }
                }
                let vectors = head_dim.div_ceil(S::LANES);
                let mut done = 0;
                while done < vectors {
                    let panel = next_panel(vectors - done);
                    let at = done * S::LANES;
                    let packed = packed_values.add(keys * at + first_key * panel * S::LANES);
                    let c = sums_of_values.as_mut_ptr().add(at);
                    let target = Target { c, ldc: out_ld, columns: panel * S::LANES, init: Init::Accumulate };
                    match panel {
                        3 => block::<S, 3, false>(rows, columns, scores.as_ptr(), SCORES_LD, packed, target),
                        2 => block::<S, 2, false>(rows, columns, scores.as_ptr(), SCORES_LD, packed, target),
                        _ => block::<S, 1, false>(rows, columns, scores.as_ptr(), SCORES_LD, packed, target),
                    }
                    done += panel;
                }
            }
            for row in 0..rows {
                // Nothing was added up where every key is masked out.
                let factor = if sums[row] == 0.0 { 0.0 } else { 1.0 / sums[row] };
                let out = self.out.0.add(offset + row * stride);
                for i in 0..head_dim {
                    *out.add(i) = sums_of_values[row * out_ld + i] * factor;
                }
            }
        }
    }
}

/// Turns a row of scores into weights relative to the greatest score so far, adds them to the sum, and returns what earlier results
/// have to be multiplied with.
///
/// # Safety
/// The instruction set is available; the row is valid up to the next whole vector, the mask, if there is one, for `columns` numbers.
#[inline(always)]
unsafe fn softmax_step<S: Simd>(row: *mut f32, columns: usize, scale: f32, mask: *const f32, maximum: &mut f32, sum: &mut f32) -> f32 {
    // SAFETY: all accesses lie below `columns` rounded up to a whole vector.
    unsafe {
        if !mask.is_null() {
            // The mask is added to scores in natural units, which `scale` turns into powers of two.
            let ratio = std::f32::consts::LOG2_E / scale;
            for i in 0..columns {
                *row.add(i) += *mask.add(i) * ratio;
            }
        }
        let end = columns.next_multiple_of(S::LANES);
        for i in columns..end {
            *row.add(i) = f32::NEG_INFINITY;
        }
        let mut greatest = [S::splat(f32::NEG_INFINITY); 2];
        for (index, i) in (0..end).step_by(S::LANES).enumerate() {
            greatest[index % 2] = S::max(greatest[index % 2], S::load(row.add(i)));
        }
        let before = *maximum;
        let greatest = S::max_of(S::max(greatest[0], greatest[1])) * scale;
        // Comparisons let what is not a number pass or hide it; if it is hidden, the weights below show it.
        let mut now = if before > greatest { before } else { greatest };
        if now == f32::NEG_INFINITY && (0..columns).any(|i| (*row.add(i)).is_nan()) {
            now = f32::NAN;
        }
        if now == f32::NEG_INFINITY {
            for i in 0..end {
                *row.add(i) = 0.0;
            }
            return 1.0;
        }
        let (scales, shift) = (S::splat(scale), S::splat(-now));
        let mut sums = [S::zero(); 2];
        for (index, i) in (0..end).step_by(S::LANES).enumerate() {
            let p = row.add(i);
            let weight = math::exp2::<S>(S::fma(S::load(p), scales, shift));
            S::store(p, weight);
            sums[index % 2] = S::add(sums[index % 2], weight);
        }
        let shrink = (before - now).exp2();
        *maximum = now;
        *sum = *sum * shrink + S::sum(S::add(sums[0], sums[1]));
        shrink
    }
}
