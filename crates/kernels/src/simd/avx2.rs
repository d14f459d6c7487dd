//! Vector operations with AVX2, FMA and F16C.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::vector::{Simd, Task};

/// 256-bit vectors.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// Runs a task with these instructions.
///
/// # Safety
/// The processor must have them.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn run<T: Task>(task: T) {
    // SAFETY: this function has the instruction set.
    unsafe { task.run::<Avx2>() }
}

// SAFETY of every block below: the trait's contract gives the instruction set and valid pointers.
impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    unsafe fn apart<T: Task>(task: T) {
        // SAFETY: see above.
        unsafe { run(task) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())))) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m256) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn select_greater(a: __m256, b: __m256, x: __m256, y: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) }
    }
    #[inline(always)]
    unsafe fn round(a: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn pow2(n: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)))) }
    }
    #[inline(always)]
    unsafe fn round_f16(a: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a)) }
    }
    #[inline(always)]
    unsafe fn sum(a: __m256) -> f32 {
        // SAFETY: see above.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    unsafe fn max_of(a: __m256) -> f32 {
        // SAFETY: see above.
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    unsafe fn transpose8(src: *const f32, ld: usize, dst: *mut f32, ldd: usize) {
        // SAFETY: see above; the pointers are valid for eight rows of eight elements with these distances.
        unsafe {
            let r: [__m256; 8] = [
                _mm256_loadu_ps(src),
                _mm256_loadu_ps(src.add(ld)),
                _mm256_loadu_ps(src.add(2 * ld)),
                _mm256_loadu_ps(src.add(3 * ld)),
                _mm256_loadu_ps(src.add(4 * ld)),
                _mm256_loadu_ps(src.add(5 * ld)),
                _mm256_loadu_ps(src.add(6 * ld)),
                _mm256_loadu_ps(src.add(7 * ld)),
            ];
            let (a0, a1) = (_mm256_unpacklo_ps(r[0], r[1]), _mm256_unpackhi_ps(r[0], r[1]));
            let (a2, a3) = (_mm256_unpacklo_ps(r[2], r[3]), _mm256_unpackhi_ps(r[2], r[3]));
            let (a4, a5) = (_mm256_unpacklo_ps(r[4], r[5]), _mm256_unpackhi_ps(r[4], r[5]));
            let (a6, a7) = (_mm256_unpacklo_ps(r[6], r[7]), _mm256_unpackhi_ps(r[6], r[7]));
            let (b0, b1) = (_mm256_shuffle_ps::<0x44>(a0, a2), _mm256_shuffle_ps::<0xEE>(a0, a2));
            let (b2, b3) = (_mm256_shuffle_ps::<0x44>(a1, a3), _mm256_shuffle_ps::<0xEE>(a1, a3));
            let (b4, b5) = (_mm256_shuffle_ps::<0x44>(a4, a6), _mm256_shuffle_ps::<0xEE>(a4, a6));
            let (b6, b7) = (_mm256_shuffle_ps::<0x44>(a5, a7), _mm256_shuffle_ps::<0xEE>(a5, a7));
            _mm256_storeu_ps(dst, _mm256_permute2f128_ps::<0x20>(b0, b4));
            _mm256_storeu_ps(dst.add(ldd), _mm256_permute2f128_ps::<0x20>(b1, b5));
            _mm256_storeu_ps(dst.add(2 * ldd), _mm256_permute2f128_ps::<0x20>(b2, b6));
            _mm256_storeu_ps(dst.add(3 * ldd), _mm256_permute2f128_ps::<0x20>(b3, b7));
            _mm256_storeu_ps(dst.add(4 * ldd), _mm256_permute2f128_ps::<0x31>(b0, b4));
            _mm256_storeu_ps(dst.add(5 * ldd), _mm256_permute2f128_ps::<0x31>(b1, b5));
            _mm256_storeu_ps(dst.add(6 * ldd), _mm256_permute2f128_ps::<0x31>(b2, b6));
            _mm256_storeu_ps(dst.add(7 * ldd), _mm256_permute2f128_ps::<0x31>(b3, b7));
        }
    }
    #[inline(always)]
    unsafe fn deinterleave4(p: *const f32) -> [__m256; 4] {
        // SAFETY: see above; the pointer is valid for four vectors.
        unsafe {
            let v: [__m256; 4] = std::array::from_fn(|i| _mm256_loadu_ps(p.add(8 * i)));
            let (a, b) = (_mm256_permute2f128_ps::<0x20>(v[0], v[2]), _mm256_permute2f128_ps::<0x31>(v[0], v[2]));
            let (c, d) = (_mm256_permute2f128_ps::<0x20>(v[1], v[3]), _mm256_permute2f128_ps::<0x31>(v[1], v[3]));
            let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (low_2, high_2) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            [
                _mm256_shuffle_ps::<0x44>(low, low_2),
                _mm256_shuffle_ps::<0xEE>(low, low_2),
                _mm256_shuffle_ps::<0x44>(high, high_2),
                _mm256_shuffle_ps::<0xEE>(high, high_2),
            ]
        }
    }
}
