//! The operations that models are made of: a thin layer above the tensor library. Activations are F32; weights are
//! used as they are held, in whatever type or few bits, so that no second copy of them is kept. The kernels of `comfyd_kernels` do the work, and
//! candle's operations what they leave.

use candle_core::{DType, Device, StorageRef, Tensor};
use comfyd_kernels::Conv2d;
use comfyd_weights::Weight;

use crate::error::{Error, Result};

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod portable;
#[cfg(test)]
mod tests;

/// What the first kernels give that do it, else what follows.
macro_rules! kernels_or {
    ($operation:ident($($argument:expr),+), $else:expr) => {{
        if let Some(result) = cpu::$operation($($argument),+)? {
            return Ok(result);
        }
        #[cfg(feature = "cuda")]
        if let Some(result) = cuda::$operation($($argument),+)? {
            return Ok(result);
        }
        $else
    }};
}

/// `x (.., in) -> (.., out)` with `weight (out, in)` and `bias (out)`.
pub fn linear(x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
    kernels_or!(linear(x, weight, bias), portable::linear(x, weight, bias))
}

/// A linear layer's weight, and its bias if it has one.
pub type Layer<'a> = (&'a Weight, Option<&'a Tensor>);

/// Two linear layers around [`geglu`], plus `residual` if it is there: `x (.., C)` with weights `(2I, C)` and `(C, I)`.
pub fn feed_forward(x: &Tensor, wide: Layer<'_>, out: Layer<'_>, residual: Option<&Tensor>) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(result) = cuda::feed_forward(x, wide, out, residual)? {
        return Ok(result);
    }
    let result = linear(&geglu(&linear(x, wide.0, wide.1)?)?, out.0, out.1)?;
    residual.map_or(Ok(result.clone()), |residual| add(&result, residual))
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
    kernels_or!(conv2d(x, weight, added, stride, padding), portable::conv2d_added(x, weight, added, stride, padding))
}

/// [`conv2d`] of [`upsample_nearest_2x`] with a stride of one.
pub fn conv2d_of_doubled(x: &Tensor, weight: &Weight, bias: Option<&Tensor>, padding: usize) -> Result<Tensor> {
    kernels_or!(conv2d_of_doubled(x, weight, bias, padding), conv2d(&upsample_nearest_2x(x)?, weight, bias, 1, padding))
}

/// Scaled dot-product attention: `q (B, N, heads * D)`, `k` and `v (B, M, heads * D)` to `(B, N, heads * D)`, scale `1 / sqrt(D)`. `mask`
/// is added to the scores; it is `(N, M)`, `(B, N, M)` or `(B, heads, N, M)`, where axes of length one serve for all.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, mask: Option<&Tensor>) -> Result<Tensor> {
    kernels_or!(attention(q, k, v, heads, mask), portable::attention(q, k, v, heads, mask))
}

/// Normalises groups of channels of `x (B, C, ..)`; `weight` and `bias` are `(C)`.
pub fn group_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, eps: f64) -> Result<Tensor> {
    kernels_or!(group_norm(x, weight, bias, groups, eps, false), portable::group_norm(x, weight, bias, groups, eps))
}

/// [`group_norm`] followed by [`silu`].
pub fn group_norm_silu(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, eps: f64) -> Result<Tensor> {
    kernels_or!(group_norm(x, weight, bias, groups, eps, true), portable::group_norm_silu(x, weight, bias, groups, eps))
}

/// Normalises the last axis of `x (.., C)`; `weight` and `bias` are `(C)`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    kernels_or!(layer_norm(x, weight, bias, eps), portable::layer_norm(x, weight, bias, eps))
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
    kernels_or!(geglu(x), portable::geglu(x))
}

/// `(B, C, H, W) -> (B, C, 2H, 2W)`, each value four times.
pub fn upsample_nearest_2x(x: &Tensor) -> Result<Tensor> {
    cpu::upsample_nearest_2x(x)?.map_or_else(|| portable::upsample_nearest_2x(x), Ok)
}

/// The sum of two tensors of one shape.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    kernels_or!(add(a, b), portable::add(a, b))
}

/// `x (B, C, ..)` plus `y (B, C)` at every place, as a time embedding is added.
pub fn add_channels(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    cpu::add_channels(x, y)?.map_or_else(|| portable::add_channels(x, y), Ok)
}

/// [`linear`] of tokens `(B, H * W, C)`, as planes, plus `planes (B, out, H, W)`.
pub fn linear_to_planes(x: &Tensor, layer: Layer<'_>, planes: &Tensor) -> Result<Tensor> {
    kernels_or!(linear_to_planes(x, layer, planes), {
        let (batch, _, height, width) = planes.dims4()?;
        let columns = linear(x, layer.0, layer.1)?.transpose(1, 2)?.contiguous()?;
        add(&columns.reshape((batch, columns.dim(1)?, height, width))?, planes)
    })
}

/// Rows of `weight (vocabulary, width)`: `ids (..) -> (.., width)`, as F32.
pub fn embedding(ids: &Tensor, weight: &Weight) -> Result<Tensor> {
    cpu::embedding(ids, weight)?.map_or_else(|| portable::embedding(ids, weight), Ok)
}

/// The sizes of a convolution of a picture of this shape, and the shape of its result.
fn conv2d_sizes(
    (batch, channels, height, width): (usize, usize, usize, usize),
    weight: &Weight,
    stride: usize,
    padding: usize,
) -> Option<(Conv2d, [usize; 4])> {
    let &[out_channels, in_channels, kernel_height, kernel_width] = weight.dims() else { return None };
    let sizes = Conv2d { batch, in_channels, out_channels, height, width, kernel_height, kernel_width, stride, padding };
    let (out_height, out_width) = sizes.output_size().ok()?;
    (in_channels == channels).then_some((sizes, [batch, out_channels, out_height, out_width]))
}

/// The storage of a contiguous tensor while it is used.
struct Numbers<'a> {
    storage: StorageRef<'a>,
    range: std::ops::Range<usize>,
}

impl<'a> Numbers<'a> {
    /// The tensor must be contiguous.
    fn of(t: &'a Tensor) -> Result<Self> {
        let (storage, layout) = t.storage_and_layout();
        let (start, end) = layout.contiguous_offsets().ok_or_else(|| Error::msg("a tensor for the kernels is not contiguous"))?;
        Ok(Self { storage, range: start..end })
    }
}

/// The contiguous planes `(B, C, N)` that tokens `(B, N, C)` are another view of, if they are one.
fn planes_of(tokens: &Tensor) -> Result<Option<Tensor>> {
    let planes = if tokens.rank() == 3 && !tokens.is_contiguous() { Some(tokens.transpose(1, 2)?) } else { None };
    Ok(planes.filter(Tensor::is_contiguous))
}

/// A mask on this device as contiguous F32 with four axes, each one or whole, the last whole.
fn four_axes(mask: &Tensor, device: &Device, whole: [usize; 4]) -> Result<Option<Tensor>> {
    if !mask.device().same_device(device) {
        return Ok(None);
    }
    let mask = match mask.rank() {
        2 => mask.unsqueeze(0)?.unsqueeze(0)?,
        3 => mask.unsqueeze(1)?,
        4 => mask.clone(),
        _ => return Ok(None),
    };
    if mask.dims().iter().zip(whole).any(|(&have, whole)| have != 1 && have != whole) {
        return Ok(None);
    }
    let (b, h, n, _) = mask.dims4()?;
    Ok(Some(mask.broadcast_as((b, h, n, whole[3]))?.to_dtype(DType::F32)?.contiguous()?))
}

/// How far apart a mask's batches, heads and queries lie; an axis of length one serves for all.
fn mask_strides(mask: &Tensor) -> Result<[usize; 3]> {
    let (b, h, n, m) = mask.dims4()?;
    let stride = |len: usize, stride: usize| if len == 1 { 0 } else { stride };
    Ok([stride(b, h * n * m), stride(h, n * m), stride(n, m)])
}
