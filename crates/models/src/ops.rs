//! The operations that models are made of: a thin layer above the tensor library. Activations are F32 on the CPU; weights are
//! used as they are held, in whatever type or few bits, so that no second copy of them is kept. On the CPU the kernels of `comfyd_kernels` do the work,
//! elsewhere candle's operations.

use candle_core::Tensor;
use comfyd_weights::Weight;

use crate::error::Result;

mod cpu;
mod portable;
#[cfg(test)]
mod tests;

/// `x (.., in) -> (.., out)` with `weight (out, in)` and `bias (out)`.
pub fn linear(x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
    cpu::linear(x, weight, bias)?.map_or_else(|| portable::linear(x, weight, bias), Ok)
}

/// What is added to the result of a convolution, in the same go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Added<'a> {
    /// `(O)`.
    pub bias: Option<&'a Tensor>,
    /// `(B, O)`, at every place, as a time embedding is.
    pub channels: Option<&'a Tensor>,
    /// Of the result's shape.
    pub residual: Option<&'a Tensor>,
}

/// `x (B, I, H, W) -> (B, O, H', W')` with `weight (O, I, kh, kw)`, `bias (O)`; `padding` on all sides.
pub fn conv2d(x: &Tensor, weight: &Weight, bias: Option<&Tensor>, stride: usize, padding: usize) -> Result<Tensor> {
    conv2d_added(x, weight, Added { bias, ..Added::default() }, stride, padding)
}

/// [`conv2d`] and more sums.
pub fn conv2d_added(x: &Tensor, weight: &Weight, added: Added<'_>, stride: usize, padding: usize) -> Result<Tensor> {
    cpu::conv2d(x, weight, added, stride, padding)?.map_or_else(|| portable::conv2d_added(x, weight, added, stride, padding), Ok)
}

/// [`conv2d`] of [`upsample_nearest_2x`] with a stride of one.
pub fn conv2d_of_doubled(x: &Tensor, weight: &Weight, bias: Option<&Tensor>, padding: usize) -> Result<Tensor> {
    match cpu::conv2d_of_doubled(x, weight, bias, padding)? {
        Some(result) => Ok(result),
        None => conv2d(&upsample_nearest_2x(x)?, weight, bias, 1, padding),
    }
}

/// Scaled dot-product attention: `q (B, N, heads * D)`, `k` and `v (B, M, heads * D)` to `(B, N, heads * D)`, scale `1 / sqrt(D)`. `mask`
/// is added to the scores; it is `(N, M)`, `(B, N, M)` or `(B, heads, N, M)`, where axes of length one serve for all.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, mask: Option<&Tensor>) -> Result<Tensor> {
    cpu::attention(q, k, v, heads, mask)?.map_or_else(|| portable::attention(q, k, v, heads, mask), Ok)
}

/// Normalises groups of channels of `x (B, C, ..)`; `weight` and `bias` are `(C)`.
pub fn group_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, eps: f64) -> Result<Tensor> {
    cpu::group_norm(x, weight, bias, groups, eps, false)?.map_or_else(|| portable::group_norm(x, weight, bias, groups, eps), Ok)
}

/// [`group_norm`] followed by [`silu`].
pub fn group_norm_silu(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, eps: f64) -> Result<Tensor> {
    cpu::group_norm(x, weight, bias, groups, eps, true)?.map_or_else(|| portable::group_norm_silu(x, weight, bias, groups, eps), Ok)
}

/// Normalises the last axis of `x (.., C)`; `weight` and `bias` are `(C)`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    cpu::layer_norm(x, weight, bias, eps)?.map_or_else(|| portable::layer_norm(x, weight, bias, eps), Ok)
}

/// `x * sigmoid(x)`.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    cpu::elementwise(x, comfyd_kernels::silu)?.map_or_else(|| portable::silu(x), Ok)
}

/// The exact GELU (with the error function).
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    cpu::elementwise(x, comfyd_kernels::gelu)?.map_or_else(|| portable::gelu(x), Ok)
}

/// `x * sigmoid(1.702 * x)`.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    cpu::elementwise(x, comfyd_kernels::quick_gelu)?.map_or_else(|| portable::quick_gelu(x), Ok)
}

/// `(.., 2C) -> (.., C)`: the first half times the exact GELU of the second.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    cpu::geglu(x)?.map_or_else(|| portable::geglu(x), Ok)
}

/// `(B, C, H, W) -> (B, C, 2H, 2W)`, each value four times.
pub fn upsample_nearest_2x(x: &Tensor) -> Result<Tensor> {
    cpu::upsample_nearest_2x(x)?.map_or_else(|| portable::upsample_nearest_2x(x), Ok)
}

/// The sum of two tensors of one shape.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    cpu::add(a, b)?.map_or_else(|| portable::add(a, b), Ok)
}

/// `x (B, C, ..)` plus `y (B, C)` at every place, as a time embedding is added.
pub fn add_channels(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    cpu::add_channels(x, y)?.map_or_else(|| portable::add_channels(x, y), Ok)
}

/// Rows of `weight (vocabulary, width)`: `ids (..) -> (.., width)`, as F32.
pub fn embedding(ids: &Tensor, weight: &Weight) -> Result<Tensor> {
    cpu::embedding(ids, weight)?.map_or_else(|| portable::embedding(ids, weight), Ok)
}
