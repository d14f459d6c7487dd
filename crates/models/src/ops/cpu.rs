//! The operations by the kernels of `comfyd_kernels`, on the storage of CPU tensors. Each gives `None` for what the kernels do not do:
//! another device, another type, or axes that do not fit; the portable operations then do it, or find the words for the error.

use candle_core::quantized::GgmlDType;
use candle_core::{CpuStorage, D, DType, Storage, Tensor};
use comfyd_kernels::{Attention, Format, GroupNorm, Mask, Out, Packed, Written};
use comfyd_weights::{Quantized, Scaled8, SmallFloat, Weight};

use super::{Added, Layer, Numbers, conv2d_sizes, four_axes, mask_strides, planes_of};
use crate::error::{Error, Result};

/// Whether a tensor holds F32 numbers on the CPU.
fn is_ours(t: &Tensor) -> bool {
    t.device().is_cpu() && t.dtype() == DType::F32
}

/// Whether the kernels read such a weight.
fn is_weight(weight: &Weight) -> bool {
    weight.device().is_cpu()
        && match weight {
            Weight::Dense(t) => matches!(t.dtype(), DType::F32 | DType::F16 | DType::BF16),
            Weight::Scaled8(_) => true,
            Weight::Quantized(weight) => format(weight).is_some(),
        }
}

/// How the kernels call the blocks' kind, if they read it.
fn format(weight: &Quantized) -> Option<Format> {
    match weight.blocks.dtype() {
        GgmlDType::Q4_0 => Some(Format::Q4_0),
        GgmlDType::Q4_1 => Some(Format::Q4_1),
        GgmlDType::Q5_0 => Some(Format::Q5_0),
        GgmlDType::Q5_1 => Some(Format::Q5_1),
        GgmlDType::Q8_0 => Some(Format::Q8_0),
        GgmlDType::Q2K => Some(Format::Q2K),
        GgmlDType::Q3K => Some(Format::Q3K),
        GgmlDType::Q4K => Some(Format::Q4K),
        GgmlDType::Q5K => Some(Format::Q5K),
        GgmlDType::Q6K => Some(Format::Q6K),
        GgmlDType::Q8K => Some(Format::Q8K),
        GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 | GgmlDType::Q8_1 => None,
    }
}

impl Numbers<'_> {
    fn weight(&self) -> Result<comfyd_kernels::Weight<'_>> {
        let range = self.range.clone();
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(numbers)) => Ok(comfyd_kernels::Weight::F32(&numbers[range])),
            Storage::Cpu(CpuStorage::F16(numbers)) => Ok(comfyd_kernels::Weight::F16(&numbers[range])),
            Storage::Cpu(CpuStorage::BF16(numbers)) => Ok(comfyd_kernels::Weight::BF16(&numbers[range])),
            _ => Err(Error::msg("a tensor for the CPU kernels is of another type or on another device")),
        }
    }

    fn f32(&self) -> Result<&[f32]> {
        match self.weight()? {
            comfyd_kernels::Weight::F32(numbers) => Ok(numbers),
            _ => Err(Error::msg("a tensor for the CPU kernels is not F32")),
        }
    }

    fn bytes(&self) -> Result<&[u8]> {
        match &*self.storage {
            Storage::Cpu(CpuStorage::U8(bytes)) => Ok(&bytes[self.range.clone()]),
            _ => Err(Error::msg("eight-bit floats for the CPU kernels are no bytes")),
        }
    }
}

/// Hands a weight to a kernel, for which [`is_weight`] was asked.
fn with_weight<T>(weight: &Weight, kernel: impl FnOnce(comfyd_kernels::Weight<'_>) -> Result<T>) -> Result<T> {
    match weight {
        Weight::Dense(tensor) => {
            let tensor = tensor.contiguous()?;
            kernel(Numbers::of(&tensor)?.weight()?)
        }
        Weight::Scaled8(_) | Weight::Quantized(_) => with_packed(weight, |packed| kernel(comfyd_kernels::Weight::Packed(packed))),
    }
}

fn with_packed<T>(weight: &Weight, kernel: impl FnOnce(Packed<'_>) -> Result<T>) -> Result<T> {
    match weight {
        Weight::Scaled8(Scaled8 { kind, bytes, scale }) => {
            let format = match kind {
                SmallFloat::E4m3 => Format::E4m3,
                SmallFloat::E5m2 => Format::E5m2,
            };
            let scales = scale.as_ref().map(parameter).transpose()?.unwrap_or_default();
            let bytes = bytes.contiguous()?;
            kernel(Packed { format, bytes: Numbers::of(&bytes)?.bytes()?, scales: &scales })
        }
        Weight::Quantized(weight) => {
            let format = format(weight).ok_or_else(|| Error::msg("the CPU kernels do not know the kind of a weight's blocks"))?;
            kernel(Packed { format, bytes: &weight.blocks.data()?, scales: &[] })
        }
        Weight::Dense(_) => Err(Error::msg("a weight for the CPU kernels is not in few bits")),
    }
}

/// A small parameter, such as a bias, as F32.
fn parameter(t: &Tensor) -> Result<Vec<f32>> {
    Ok(t.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?)
}

/// Lets a kernel fill a new tensor.
fn filled<S: Into<candle_core::Shape>>(
    like: &Tensor,
    shape: S,
    fill: impl FnOnce(Out<'_>) -> comfyd_kernels::Result<Written>,
) -> Result<Option<Tensor>> {
    let shape = shape.into();
    let numbers = comfyd_kernels::result(shape.elem_count(), fill).map_err(|error| Error::msg(error.to_string()))?;
    Ok(Some(Tensor::from_vec(numbers, shape, like.device())?))
}

/// A kernel that makes of one tensor another one.
fn mapped<S: Into<candle_core::Shape>>(
    x: &Tensor,
    shape: S,
    kernel: impl FnOnce(&[f32], Out<'_>) -> comfyd_kernels::Result<Written>,
) -> Result<Option<Tensor>> {
    let x = laid_out(x)?;
    let numbers = Numbers::of(&x)?;
    let slice = numbers.f32()?;
    filled(&x, shape, |out| kernel(slice, out))
}

/// As [`Tensor::contiguous`], by all threads where planes are seen as tokens.
fn laid_out(x: &Tensor) -> Result<Tensor> {
    let tokens = planes_of(x)?.map(|planes| transpose(&planes, None)).transpose()?;
    tokens.flatten().map_or_else(|| Ok(x.contiguous()?), Ok)
}

/// Contiguous `x (batch, rows, columns)` as `(batch, columns, rows)`, plus `residual` of that many numbers.
fn transpose(x: &Tensor, residual: Option<&Tensor>) -> Result<Option<Tensor>> {
    let (batch, rows, columns) = x.dims3()?;
    let residual = residual.map(Tensor::contiguous).transpose()?;
    let residual = residual.as_ref().map(Numbers::of).transpose()?;
    let residual = residual.as_ref().map(Numbers::f32).transpose()?;
    let numbers = Numbers::of(x)?;
    let slice = numbers.f32()?;
    filled(x, (batch, columns, rows), |out| comfyd_kernels::transpose(slice, [batch, rows, columns], residual, out))
}

pub(super) fn linear_to_planes(x: &Tensor, (weight, bias): Layer<'_>, planes: &Tensor) -> Result<Option<Tensor>> {
    if !is_ours(planes) || x.rank() != 3 {
        return Ok(None);
    }
    let Some(tokens) = linear(x, weight, bias)? else { return Ok(None) };
    if planes.rank() < 2 || planes.elem_count() != tokens.elem_count() || planes.dims()[..2] != [tokens.dim(0)?, tokens.dim(2)?] {
        return Ok(None);
    }
    Ok(transpose(&tokens, Some(planes))?.map(|sum| sum.reshape(planes.shape())).transpose()?)
}

pub(super) fn linear(x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Option<Tensor>> {
    let &[columns, depth] = weight.dims() else { return Ok(None) };
    if !is_ours(x) || !is_weight(weight) || x.rank() == 0 || x.dim(D::Minus1)? != depth {
        return Ok(None);
    }
    if bias.is_some_and(|bias| bias.elem_count() != columns) {
        return Ok(None);
    }
    let bias = bias.map(parameter).transpose()?;
    let mut shape = x.dims().to_vec();
    shape.pop();
    let rows = shape.iter().product();
    shape.push(columns);
    with_weight(weight, |weight| mapped(x, shape, |x, out| comfyd_kernels::linear(x, weight, bias.as_deref(), rows, depth, columns, out)))
}

pub(super) fn conv2d(x: &Tensor, weight: &Weight, added: Added<'_>, stride: usize, padding: usize) -> Result<Option<Tensor>> {
    if !is_ours(x) || !is_weight(weight) || x.rank() != 4 {
        return Ok(None);
    }
    let Some((sizes, shape)) = conv2d_sizes(x.dims4()?, weight, stride, padding) else { return Ok(None) };
    let [batch, out_channels, ..] = shape;
    let fits = added.bias.is_none_or(|bias| bias.elem_count() == out_channels)
        && added.channels.is_none_or(|more| is_ours(more) && more.dims() == [batch, out_channels])
        && added.residual.is_none_or(|more| is_ours(more) && more.dims() == shape);
    if !fits {
        return Ok(None);
    }
    let (bias, channels) = (added.bias.map(parameter).transpose()?, added.channels.map(parameter).transpose()?);
    let residual = added.residual.map(Tensor::contiguous).transpose()?;
    let residual = residual.as_ref().map(Numbers::of).transpose()?;
    let residual = residual.as_ref().map(Numbers::f32).transpose()?;
    let added = comfyd_kernels::Added { bias: bias.as_deref(), per_image: channels.as_deref(), residual };
    with_weight(weight, |weight| mapped(x, &shape, |x, out| comfyd_kernels::conv2d(x, weight, added, &sizes, out)))
}

pub(super) fn conv2d_of_doubled(x: &Tensor, weight: &Weight, bias: Option<&Tensor>, padding: usize) -> Result<Option<Tensor>> {
    if !is_ours(x) || !is_weight(weight) || x.rank() != 4 {
        return Ok(None);
    }
    let (batch, channels, height, width) = x.dims4()?;
    let Some((sizes, shape)) = conv2d_sizes((batch, channels, 2 * height, 2 * width), weight, 1, padding) else { return Ok(None) };
    if bias.is_some_and(|bias| bias.elem_count() != shape[1]) {
        return Ok(None);
    }
    let bias = bias.map(parameter).transpose()?;
    let added = comfyd_kernels::Added { bias: bias.as_deref(), ..Default::default() };
    with_weight(weight, |weight| mapped(x, &shape, |x, out| comfyd_kernels::conv2d_of_doubled(x, weight, added, &sizes, out)))
}

pub(super) fn embedding(ids: &Tensor, weight: &Weight) -> Result<Option<Tensor>> {
    let &[rows, width] = weight.dims() else { return Ok(None) };
    if matches!(weight, Weight::Dense(_)) || !is_weight(weight) {
        return Ok(None);
    }
    let shape = [ids.dims(), &[width]].concat();
    let numbers = ids.flatten_all()?.to_dtype(DType::U32)?.to_vec1::<u32>()?;
    with_packed(weight, |weight| filled(ids, shape, |out| comfyd_kernels::embedding(&numbers, weight, rows, width, out)))
}

pub(super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, mask: Option<&Tensor>) -> Result<Option<Tensor>> {
    if ![q, k, v].into_iter().all(|t| is_ours(t) && t.rank() == 3) || heads == 0 {
        return Ok(None);
    }
    let (batch, queries, inner) = q.dims3()?;
    let keys = k.dim(1)?;
    if inner % heads != 0 || k.dims() != [batch, keys, inner] || v.dims() != k.dims() {
        return Ok(None);
    }
    let mask = match mask {
        Some(mask) => {
            let Some(mask) = four_axes(mask, q.device(), [batch, heads, queries, keys])? else { return Ok(None) };
            Some(mask)
        }
        None => None,
    };
    let mask_numbers = mask.as_ref().map(Numbers::of).transpose()?;
    let mask = match (&mask, &mask_numbers) {
        (Some(mask), Some(numbers)) => {
            let [batch_stride, head_stride, query_stride] = mask_strides(mask)?;
            Some(Mask { values: numbers.f32()?, batch_stride, head_stride, query_stride })
        }
        _ => None,
    };
    let (k, v) = (k.contiguous()?, v.contiguous()?);
    let (k, v) = (Numbers::of(&k)?, Numbers::of(&v)?);
    let (k, v) = (k.f32()?, v.f32()?);
    let sizes = Attention { batch, heads, head_dim: inner / heads, queries, keys };
    mapped(q, q.shape(), |q, out| comfyd_kernels::attention(q, k, v, &sizes, mask, out))
}

pub(super) fn group_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, eps: f64, silu: bool) -> Result<Option<Tensor>> {
    if !is_ours(x) || x.rank() < 2 || groups == 0 {
        return Ok(None);
    }
    let (batch, channels) = (x.dim(0)?, x.dim(1)?);
    if channels % groups != 0 || weight.elem_count() != channels || bias.elem_count() != channels {
        return Ok(None);
    }
    let pixels = x.dims()[2..].iter().product();
    let (weight, bias) = (parameter(weight)?, parameter(bias)?);
    let sizes = GroupNorm { batch, channels, pixels, groups, eps, silu };
    mapped(x, x.shape(), |x, out| comfyd_kernels::group_norm(x, &weight, &bias, &sizes, out))
}

pub(super) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Option<Tensor>> {
    if !is_ours(x) || x.rank() == 0 {
        return Ok(None);
    }
    let columns = x.dim(D::Minus1)?;
    if columns == 0 || weight.elem_count() != columns || bias.elem_count() != columns {
        return Ok(None);
    }
    let (weight, bias) = (parameter(weight)?, parameter(bias)?);
    mapped(x, x.shape(), |x, out| comfyd_kernels::layer_norm(x, Some(&weight), Some(&bias), columns, eps, out))
}

/// A function of every single number.
pub(super) fn elementwise(x: &Tensor, kernel: fn(&[f32], Out<'_>) -> comfyd_kernels::Result<Written>) -> Result<Option<Tensor>> {
    if is_ours(x) { mapped(x, x.shape(), kernel) } else { Ok(None) }
}

pub(super) fn geglu(x: &Tensor) -> Result<Option<Tensor>> {
    if !is_ours(x) || x.rank() == 0 || x.elem_count() == 0 || x.dim(D::Minus1)? % 2 != 0 {
        return Ok(None);
    }
    let columns = x.dim(D::Minus1)? / 2;
    let mut shape = x.dims().to_vec();
    shape.pop();
    shape.push(columns);
    mapped(x, shape, |x, out| comfyd_kernels::geglu(x, columns, out))
}

pub(super) fn upsample_nearest_2x(x: &Tensor) -> Result<Option<Tensor>> {
    if !is_ours(x) || x.rank() != 4 {
        return Ok(None);
    }
    let (b, c, h, w) = x.dims4()?;
    mapped(x, (b, c, 2 * h, 2 * w), |x, out| comfyd_kernels::upsample_nearest(x, b * c, h, w, 2, out))
}

pub(super) fn add(a: &Tensor, b: &Tensor) -> Result<Option<Tensor>> {
    if !is_ours(a) || !is_ours(b) || a.dims() != b.dims() {
        return Ok(None);
    }
    let b = b.contiguous()?;
    let b = Numbers::of(&b)?;
    let b = b.f32()?;
    mapped(a, a.shape(), |a, out| comfyd_kernels::add(a, b, out))
}

pub(super) fn add_channels(x: &Tensor, y: &Tensor) -> Result<Option<Tensor>> {
    if !is_ours(x) || !is_ours(y) || x.rank() < 2 || y.dims() != &x.dims()[..2] || x.elem_count() == 0 {
        return Ok(None);
    }
    let y = parameter(y)?;
    mapped(x, x.shape(), |x, out| comfyd_kernels::add_planes(x, &y, out))
}
