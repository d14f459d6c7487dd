//! Exponential and error function over vectors, accurate to a few units in the last place.

use crate::simd::Simd;

/// `c[0] + c[1] x + c[2] x² …`
#[inline(always)]
unsafe fn polynomial<S: Simd, const N: usize>(x: S::V, coefficients: [f32; N]) -> S::V {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let mut y = S::splat(coefficients[N - 1]);
        for i in (0..N - 1).rev() {
            y = S::fma(y, x, S::splat(coefficients[i]));
        }
        y
    }
}

/// `2^x` of numbers that are not positive: zero below -160, not a number for what is none. The polynomial is the one of its degree that is
/// nowhere off by more than 1e-7 of the value.
///
/// # Safety
/// The instruction set is available.
#[inline(always)]
pub(crate) unsafe fn exp2_of_negative<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller has the instruction set.
    unsafe {
        // The operands' order lets what is not a number pass.
        let x = S::max(S::splat(-160.0), x);
        let whole = S::round(x);
        // Nearly the logarithm of two, but the polynomial is exact with this.
        #[allow(clippy::approx_constant)]
        let coefficients = [1.0, 6.931_47e-1, 2.402_224_3e-1, 5.550_733_6e-2, 9.671_513e-3, 1.326_472_7e-3];
        S::times_pow2(polynomial::<S, 6>(S::sub(x, whole), coefficients), whole)
    }
}

/// `e^x`: zero below -88, infinity above 88.3. The polynomial is that of `expf` in the Cephes library.
///
/// # Safety
/// The instruction set is available.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let x = S::min(S::splat(89.0), S::max(S::splat(-88.0), x));
        let whole = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        // The logarithm of two in two parts, so that the product is exact.
        let r = S::fma(whole, S::splat(-0.693_359_4), x);
        let r = S::fma(whole, S::splat(2.121_944_4e-4), r);
        let y = polynomial::<S, 6>(r, [0.5, 1.666_666_5e-1, 4.166_579_6e-2, 8.333_452e-3, 1.398_2e-3, 1.987_569_1e-4]);
        let y = S::add(S::fma(y, S::mul(r, r), r), S::splat(1.0));
        S::mul(y, S::pow2(whole))
    }
}

/// The error function, as a quotient of polynomials (that of Eigen) up to where it is one in single precision.
///
/// # Safety
/// The instruction set is available.
#[inline(always)]
pub(crate) unsafe fn erf<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller has the instruction set.
    unsafe {
        // From 3.8 on 1 is off by less than 8e-8; the quotient would drift by up to 4.5e-7 there.
        let (end, one) = (3.8, 1.0);
        let square = S::mul(x, x);
        let above = polynomial::<S, 7>(
            square,
            [-1.609_603_3e-2, -2.954_6e-3, -7.349_906e-4, -5.692_506_4e-5, -2.101_024e-6, 2.770_681_4e-8, -2.726_142_3e-10],
        );
        let below = polynomial::<S, 5>(square, [-1.426_473_9e-2, -7.373_329e-3, -1.682_827e-3, -2.133_740_5e-4, -1.456_607_2e-5]);
        let y = S::div(S::mul(x, above), below);
        let y = S::select_greater(x, S::splat(end), S::splat(one), y);
        S::select_greater(S::splat(-end), x, S::splat(-one), y)
    }
}
