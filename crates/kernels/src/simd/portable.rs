//! Vector operations in plain Rust, for processors without a set of our own; the compiler uses what the target has at least.

use half::{bf16, f16};

use super::vector::{Simd, Task};

/// Eight numbers at a time.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

const LANES: usize = 8;

#[inline(always)]
fn map2(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    type V = [f32; LANES];
    const LANES: usize = LANES;
    const TILE_ROWS: usize = 4;

    #[inline(never)]
    unsafe fn apart<T: Task>(task: T) {
        // SAFETY: see above.
        unsafe { task.run::<Self>() }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: the caller's pointer is valid for a vector; arrays of numbers have no invalid values.
        unsafe { p.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self::V {
        // SAFETY: as above.
        unsafe { p.cast::<[f16; LANES]>().read_unaligned() }.map(f16::to_f32)
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self::V {
        // SAFETY: as above.
        unsafe { p.cast::<[bf16; LANES]>().read_unaligned() }.map(bf16::to_f32)
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: the caller's pointer is valid for a vector.
        unsafe { p.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // A fused operation would be a call into the C library where the target has none.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn select_greater(a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] > b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        // At this magnitude the spacing of numbers is one, so the addition rounds.
        const MAGIC: f32 = 12_582_912.0;
        a.map(|x| (x + MAGIC) - MAGIC)
    }
    #[inline(always)]
    unsafe fn pow2(n: Self::V) -> Self::V {
        n.map(|n| f32::from_bits((((n as i32).wrapping_add(127)) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn round_f16(a: Self::V) -> Self::V {
        a.map(|x| f16::from_f32(x).to_f32())
    }
    #[inline(always)]
    unsafe fn sum(a: Self::V) -> f32 {
        ((a[0] + a[4]) + (a[1] + a[5])) + ((a[2] + a[6]) + (a[3] + a[7]))
    }
    #[inline(always)]
    unsafe fn max_of(a: Self::V) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, |m, x| if m > x { m } else { x })
    }
    #[inline(always)]
    unsafe fn transpose8(src: *const f32, ld: usize, dst: *mut f32, ldd: usize) {
        for row in 0..8 {
            for column in 0..8 {
                // SAFETY: the caller's pointers are valid for eight rows and columns with these distances.
                unsafe { *dst.add(column * ldd + row) = *src.add(row * ld + column) };
            }
        }
    }
    #[inline(always)]
    unsafe fn deinterleave4(p: *const f32) -> [Self::V; 4] {
        // SAFETY: the caller's pointer is valid for four vectors.
        std::array::from_fn(|j| std::array::from_fn(|i| unsafe { *p.add(4 * i + j) }))
    }
}
