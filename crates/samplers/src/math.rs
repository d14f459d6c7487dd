//! Arithmetic in single precision, rounded as the reference rounds it: it keeps noise levels in single precision, and where a formula
//! cancels the rounding is visible in the picture. Knows nothing of sampling.
//!
//! Transcendental functions are computed in double precision and rounded once. The reference's library is up to one unit in the last
//! place off that, and not equally on all processors.

use candle_core::Tensor;

use crate::Result;

/// e to the power of x.
pub(crate) fn exp(x: f32) -> f32 {
    f64::from(x).exp() as f32
}

/// exp(x) - 1, exact near 0.
pub(crate) fn expm1(x: f32) -> f32 {
    f64::from(x).exp_m1() as f32
}

/// The natural logarithm.
pub(crate) fn log(x: f32) -> f32 {
    f64::from(x).ln() as f32
}

/// x to the power of y.
pub(crate) fn pow(x: f32, y: f32) -> f32 {
    f64::from(x).powf(f64::from(y)) as f32
}

/// 1 / (1 + exp(-x)).
pub(crate) fn sigmoid(x: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(x)).exp())) as f32
}

/// Linear interpolation as torch rounds it: from the nearer end.
pub(crate) fn lerp(a: f32, b: f32, weight: f32) -> f32 {
    if weight < 0.5 { weight.mul_add(b - a, a) } else { (b - a).mul_add(weight - 1.0, b) }
}

/// `n` numbers from `start` to `end`, each counted from the nearer end, as torch does.
pub(crate) fn linspace(start: f32, end: f32, n: usize) -> Vec<f32> {
    if n == 1 {
        return vec![start];
    }
    let step = (end - start) / (n.saturating_sub(1)) as f32;
    let from_start = |i: usize| start + step * i as f32;
    let from_end = |i: usize| end - step * (n - 1 - i) as f32;
    (0..n).map(|i| if i < n / 2 { from_start(i) } else { from_end(i) }).collect()
}

/// [`linspace`] in double precision.
pub(crate) fn linspace_f64(start: f64, end: f64, n: usize) -> Vec<f64> {
    if n == 1 {
        return vec![start];
    }
    let step = (end - start) / (n.saturating_sub(1)) as f64;
    let from_start = |i: usize| start + step * i as f64;
    let from_end = |i: usize| end - step * (n - 1 - i) as f64;
    (0..n).map(|i| if i < n / 2 { from_start(i) } else { from_end(i) }).collect()
}

/// The weighted sum of tensors of one shape, added from left to right. At least one term.
pub(crate) fn sum<const N: usize>(terms: [(f32, &Tensor); N]) -> Result<Tensor> {
    let mut total: Option<Tensor> = None;
    for (weight, tensor) in terms {
        let term = scale(tensor, weight)?;
        total = Some(match total {
            Some(total) => (total + term)?,
            None => term,
        });
    }
    total.ok_or_else(|| crate::Error::msg("a sum of tensors needs at least one term"))
}

/// A tensor times a number in single precision.
pub(crate) fn scale(tensor: &Tensor, factor: f32) -> Result<Tensor> {
    if factor == 1.0 {
        return Ok(tensor.clone());
    }
    Ok(tensor.affine(f64::from(factor), 0.0)?)
}

/// A tensor divided by a number: a true division, which rounds differently from a product with the inverse.
pub(crate) fn divide(tensor: &Tensor, divisor: f32) -> Result<Tensor> {
    let divisor = Tensor::new(divisor, tensor.device())?.to_dtype(tensor.dtype())?;
    Ok(tensor.broadcast_div(&divisor)?)
}
