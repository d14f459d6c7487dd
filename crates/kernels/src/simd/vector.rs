//! The vocabulary: vectors, the types that they are read from, and pieces of work written in them.

use half::{bf16, f16};

/// Most elements of a vector.
pub(crate) const MAX_LANES: usize = 16;

/// Has the processor fetch a line to its second-level cache, whatever instruction set is used. The line need not be there.
#[inline(always)]
pub(crate) fn prefetch<T>(line: *const T) {
    // SAFETY: every such processor has the instruction, which reads nothing that a program could see.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(line.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = line;
}

/// Vectors of `f32` of one instruction set.
///
/// # Safety
/// Every method may only be called where the instruction set is available; pointers must be valid for `LANES` elements and need no
/// alignment.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// A vector register.
    type V: Copy;
    /// Its number of elements.
    const LANES: usize;
    /// Rows of a tile of the matrix product that is two vectors wide.
    const TILE_ROWS: usize;
    /// Does a task in a function of its own.
    unsafe fn apart<T: Task>(task: T);
    /// A zero vector.
    unsafe fn zero() -> Self::V {
        // SAFETY: the caller has the instruction set.
        unsafe { Self::splat(0.0) }
    }
    /// The same number in every element.
    unsafe fn splat(x: f32) -> Self::V;
    /// Reads a vector.
    unsafe fn load(p: *const f32) -> Self::V;
    /// Reads a vector of half precision numbers.
    unsafe fn load_f16(p: *const f16) -> Self::V;
    /// Reads a vector of bfloat16 numbers.
    unsafe fn load_bf16(p: *const bf16) -> Self::V;
    /// Writes a vector.
    unsafe fn store(p: *mut f32, v: Self::V);
    /// `a + b`
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The greater one; `b` if one of them is not a number.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller one; `b` if one of them is not a number.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// `x` where `a > b`, else `y`.
    unsafe fn select_greater(a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// The nearest integers, for magnitudes below 2^22.
    unsafe fn round(a: Self::V) -> Self::V;
    /// Two to the power of whole numbers from -127 (which gives zero) to 128 (infinity).
    unsafe fn pow2(n: Self::V) -> Self::V;
    /// `a` times two to the power of whole numbers from -160 to 128: zero below the normal numbers, or what they continue in.
    unsafe fn times_pow2(a: Self::V, n: Self::V) -> Self::V {
        // SAFETY: the caller has the instruction set.
        unsafe { Self::mul(a, Self::pow2(Self::max(Self::splat(-127.0), n))) }
    }
    /// Every element rounded to half precision.
    unsafe fn round_f16(a: Self::V) -> Self::V;
    /// The sum of the elements.
    unsafe fn sum(a: Self::V) -> f32;
    /// The greatest element.
    unsafe fn max_of(a: Self::V) -> f32;
    /// Reads eight rows of eight elements, `ld` elements apart, and writes them transposed, `ldd` elements apart.
    unsafe fn transpose8(src: *const f32, ld: usize, dst: *mut f32, ldd: usize);
    /// Reads four vectors of numbers: the first of them and every fourth after it, those after these, and so on.
    unsafe fn deinterleave4(p: *const f32) -> [Self::V; 4];
}

/// A type in which weights are stored.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    /// The number.
    fn to_f32(self) -> f32;
    /// Reads `S::LANES` elements.
    ///
    /// # Safety
    /// As for [`Simd::load`].
    unsafe fn load<S: Simd>(p: *const Self) -> S::V;
}

impl Element for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::load(p) }
    }
}

impl Element for f16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::load_f16(p) }
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::load_bf16(p) }
    }
}

/// A piece of work for one core, written for any instruction set.
pub(crate) trait Task {
    /// Does it. Implementations are `#[inline(always)]`.
    ///
    /// # Safety
    /// The instruction set must be available.
    unsafe fn run<S: Simd>(self);
}
