//! Products of bfloat16 with AVX-512-BF16: two of them in each element of a vector, summed in single precision; and with AMX, where tiles of
//! 16 rows take the place of vectors in the largest products.

use std::arch::x86_64::*;

use super::amx::{self, Configured};
use super::avx512::Avx512;
use super::sixteen::{Sixteen, TILE_LEN, Task16, TileProduct};

/// bfloat16 in 512-bit vectors, or with `TILES` in those and in tiles, where a number may have two parts.
#[derive(Clone, Copy)]
pub(crate) struct Bf16<const TILES: bool, const PARTS: usize>;

/// Runs a task with these instructions.
///
/// # Safety
/// The processor must have them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
pub(crate) unsafe fn run<T: Task16>(task: T) {
    // SAFETY: this function has the instruction set.
    unsafe { task.run16::<Bf16<false, 1>>() }
}

/// Runs a task with these instructions and tiles.
///
/// # Safety
/// The processor must have them, and [`amx::is_available`] have said so.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
pub(crate) unsafe fn run_with_tiles<T: Task16, const PARTS: usize>(task: T) {
    // SAFETY: this function has the instruction set.
    unsafe {
        let _tiles = Configured::begin();
        task.run16::<Bf16<true, PARTS>>();
    }
}

// SAFETY of every block below: the trait's contract gives the instruction set and valid pointers.
impl<const TILES: bool, const PARTS: usize> Sixteen for Bf16<TILES, PARTS> {
    type F32 = Avx512;
    type Word = __m512i;
    type Row = [__m512i; 2];
    type Sums = [__m512; 2];
    const DEPTH: usize = 2;
    const ROW_WORDS: usize = 32;
    const PANELS: usize = 1;
    const TALL: usize = 12;
    const RUN: usize = usize::MAX;
    const SCALES: bool = false;
    const TILES: Option<TileProduct> = if TILES { Some(amx::product::<PARTS>) } else { None };
    const PARTS: usize = PARTS;

    /// bfloat16 reaches as far as single precision.
    #[inline(always)]
    fn scale(_: f32) -> f32 {
        1.0
    }
    #[inline(always)]
    unsafe fn splat(word: u32) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_set1_epi32(word as i32) }
    }
    #[inline(always)]
    unsafe fn load(p: *const u32) -> [__m512i; 2] {
        // SAFETY: see above.
        unsafe { [_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(16).cast())] }
    }
    #[inline(always)]
    unsafe fn zero() -> [__m512; 2] {
        // SAFETY: see above.
        unsafe { [_mm512_setzero_ps(); 2] }
    }
    #[inline(always)]
    unsafe fn multiply_add(a: __m512i, b: [__m512i; 2], sums: [__m512; 2]) -> [__m512; 2] {
        // SAFETY: see above; the types are vectors of the same bits.
        unsafe {
            let a: __m512bh = std::mem::transmute(a);
            let [b0, b1]: [__m512bh; 2] = std::mem::transmute(b);
            [_mm512_dpbf16_ps(sums[0], a, b0), _mm512_dpbf16_ps(sums[1], a, b1)]
        }
    }
    #[inline(always)]
    unsafe fn widen(sums: [__m512; 2]) -> [__m512; 2] {
        sums
    }
    #[inline(always)]
    unsafe fn along(mut numbers: [__m512; 2], _: f32, words: *mut u32) {
        // SAFETY: see above; the types are vectors of the same bits.
        unsafe {
            for part in 0..PARTS {
                let pairs: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(numbers[1], numbers[0]));
                _mm512_storeu_si512(words.add(part * TILE_LEN).cast(), pairs);
                let rounded = [_mm512_castsi512_si256(pairs), _mm512_extracti64x4_epi64::<1>(pairs)];
                numbers = [left(numbers[0], rounded[0]), left(numbers[1], rounded[1])];
            }
        }
    }
    #[inline(always)]
    unsafe fn across(rows: [*const f32; 2], _: f32, words: *mut u32) {
        // SAFETY: see above; the types are vectors of the same bits.
        unsafe {
            let mut numbers = [_mm512_loadu_ps(rows[0]), _mm512_loadu_ps(rows[1])];
            for part in 0..PARTS {
                let [low, high]: [__m256i; 2] = std::mem::transmute([_mm512_cvtneps_pbh(numbers[0]), _mm512_cvtneps_pbh(numbers[1])]);
                let pairs = _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high)));
                _mm512_storeu_si512(words.add(part * 2 * TILE_LEN).cast(), pairs);
                numbers = [left(numbers[0], low), left(numbers[1], high)];
            }
        }
    }
    #[inline(always)]
    unsafe fn row(rows: [*const f32; 2], scale: f32, words: *mut u32) {
        // SAFETY: see above.
        unsafe {
            Self::across(rows, scale, words);
            Self::across([rows[0].add(16), rows[1].add(16)], scale, words.add(16));
        }
    }
}

/// What numbers are more than these, to which they were rounded.
///
/// # Safety
/// The instruction set must be available.
#[inline(always)]
unsafe fn left(numbers: __m512, rounded: __m256i) -> __m512 {
    // SAFETY: see above.
    unsafe { _mm512_sub_ps(numbers, _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(rounded)))) }
}
