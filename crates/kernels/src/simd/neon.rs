//! Vector operations with NEON, two registers to a vector. Half precision is converted by the `half` crate.

use std::arch::aarch64::*;

use half::{bf16, f16};

use super::vector::{Simd, Task};

/// Eight numbers in two registers.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

type V = [float32x4_t; 2];

/// Two vectors from a function of two registers each.
#[inline(always)]
fn both(a: V, b: V, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> V {
    [f(a[0], b[0]), f(a[1], b[1])]
}

/// Four rows of four numbers, transposed.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn transpose4(r: [float32x4_t; 4]) -> [float32x4_t; 4] {
    // SAFETY: the caller's.
    unsafe {
        let (a, b) = (vtrn1q_f32(r[0], r[1]), vtrn2q_f32(r[0], r[1]));
        let (c, d) = (vtrn1q_f32(r[2], r[3]), vtrn2q_f32(r[2], r[3]));
        let low = |x, y| vreinterpretq_f32_f64(vtrn1q_f64(vreinterpretq_f64_f32(x), vreinterpretq_f64_f32(y)));
        let high = |x, y| vreinterpretq_f32_f64(vtrn2q_f64(vreinterpretq_f64_f32(x), vreinterpretq_f64_f32(y)));
        [low(a, c), low(b, d), high(a, c), high(b, d)]
    }
}

// SAFETY of every block below: the trait's contract gives the instruction set and valid pointers.
impl Simd for Neon {
    type V = V;
    const LANES: usize = 8;
    const TILE_ROWS: usize = 6;

    #[inline(never)]
    unsafe fn apart<T: Task>(task: T) {
        // SAFETY: see above.
        unsafe { task.run::<Self>() }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> V {
        // SAFETY: see above.
        unsafe { [vdupq_n_f32(x); 2] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> V {
        // SAFETY: see above.
        unsafe { [vld1q_f32(p), vld1q_f32(p.add(4))] }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> V {
        // SAFETY: see above.
        unsafe { Self::load(p.cast::<[f16; 8]>().read_unaligned().map(f16::to_f32).as_ptr()) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> V {
        // SAFETY: see above.
        unsafe {
            let halves = vld1q_u16(p.cast());
            let wide = |x| vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(x)));
            [wide(vget_low_u16(halves)), wide(vget_high_u16(halves))]
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: V) {
        // SAFETY: see above.
        unsafe {
            vst1q_f32(p, v[0]);
            vst1q_f32(p.add(4), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn add(a: V, b: V) -> V {
        // SAFETY: see above.
        both(a, b, |a, b| unsafe { vaddq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        // SAFETY: see above.
        both(a, b, |a, b| unsafe { vsubq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn mul(a: V, b: V) -> V {
        // SAFETY: see above.
        both(a, b, |a, b| unsafe { vmulq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn div(a: V, b: V) -> V {
        // SAFETY: see above.
        both(a, b, |a, b| unsafe { vdivq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn fma(a: V, b: V, c: V) -> V {
        // SAFETY: see above.
        unsafe { [vfmaq_f32(c[0], a[0], b[0]), vfmaq_f32(c[1], a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        // SAFETY: see above.
        both(a, b, |a, b| unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) })
    }
    #[inline(always)]
    unsafe fn min(a: V, b: V) -> V {
        // SAFETY: see above.
        both(a, b, |a, b| unsafe { vbslq_f32(vcltq_f32(a, b), a, b) })
    }
    #[inline(always)]
    unsafe fn select_greater(a: V, b: V, x: V, y: V) -> V {
        // SAFETY: see above.
        unsafe { [vbslq_f32(vcgtq_f32(a[0], b[0]), x[0], y[0]), vbslq_f32(vcgtq_f32(a[1], b[1]), x[1], y[1])] }
    }
    #[inline(always)]
    unsafe fn round(a: V) -> V {
        // SAFETY: see above.
        both(a, a, |a, _| unsafe { vrndnq_f32(a) })
    }
    #[inline(always)]
    unsafe fn pow2(n: V) -> V {
        // SAFETY: see above.
        both(n, n, |n, _| unsafe { vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)))) })
    }
    #[inline(always)]
    unsafe fn round_f16(a: V) -> V {
        let mut numbers = [0.0f32; 8];
        // SAFETY: see above.
        unsafe {
            Self::store(numbers.as_mut_ptr(), a);
            Self::load(numbers.map(|x| f16::from_f32(x).to_f32()).as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn sum(a: V) -> f32 {
        // SAFETY: see above.
        unsafe { vaddvq_f32(vaddq_f32(a[0], a[1])) }
    }
    #[inline(always)]
    unsafe fn max_of(a: V) -> f32 {
        // SAFETY: see above.
        unsafe { vmaxvq_f32(vmaxq_f32(a[0], a[1])) }
    }
    #[inline(always)]
    unsafe fn transpose8(src: *const f32, ld: usize, dst: *mut f32, ldd: usize) {
        // SAFETY: see above; the pointers are valid for eight rows of eight elements with these distances.
        unsafe {
            for (row, column) in [(0, 0), (0, 4), (4, 0), (4, 4)] {
                let src = src.add(row * ld + column);
                let turned = transpose4([vld1q_f32(src), vld1q_f32(src.add(ld)), vld1q_f32(src.add(2 * ld)), vld1q_f32(src.add(3 * ld))]);
                for (i, numbers) in turned.into_iter().enumerate() {
                    vst1q_f32(dst.add((column + i) * ldd + row), numbers);
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn deinterleave4(p: *const f32) -> [V; 4] {
        // SAFETY: see above; the pointer is valid for four vectors.
        unsafe {
            let (a, b) = (vld4q_f32(p), vld4q_f32(p.add(16)));
            [[a.0, b.0], [a.1, b.1], [a.2, b.2], [a.3, b.3]]
        }
    }
}
