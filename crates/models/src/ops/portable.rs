//! The operations out of candle's own: for devices other than the CPU, for types other than F32, and to compare the CPU kernels with.

use candle_core::{D, DType, Tensor};
use comfyd_weights::Weight;

use super::Added;
use crate::error::{Error, Result};

pub(super) fn linear(x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
    let weight = weight.dense()?.to_dtype(x.dtype())?;
    let mut shape = x.dims().to_vec();
    let Some(last) = shape.pop() else { return Err(Error::msg("a single number has no last axis to multiply; pass a tensor with one")) };
    let mut y = x.reshape((shape.iter().product::<usize>(), last))?.matmul(&weight.t()?)?;
    if let Some(bias) = bias {
        y = y.broadcast_add(&bias.to_dtype(x.dtype())?)?;
    }
    shape.push(weight.dim(0)?);
    Ok(y.reshape(shape)?)
}

pub(super) fn conv2d(x: &Tensor, weight: &Weight, bias: Option<&Tensor>, stride: usize, padding: usize) -> Result<Tensor> {
    let y = x.conv2d(&weight.dense()?.to_dtype(x.dtype())?, padding, stride, 1, 1)?;
    match bias {
        Some(bias) => Ok(y.broadcast_add(&bias.to_dtype(x.dtype())?.reshape((1, bias.elem_count(), 1, 1))?)?),
        None => Ok(y),
    }
}

pub(super) fn conv2d_added(x: &Tensor, weight: &Weight, added: Added<'_>, stride: usize, padding: usize) -> Result<Tensor> {
    let mut sum = conv2d(x, weight, added.bias, stride, padding)?;
    if let Some(channels) = added.channels {
        sum = add_channels(&sum, channels)?;
    }
    match added.residual {
        Some(residual) => add(&sum, residual),
        None => Ok(sum),
    }
}

/// How many scores of an attention are there at once: 256 MiB of them in single precision.
const MOST_SCORES: usize = 64 << 20;

pub(super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, mask: Option<&Tensor>) -> Result<Tensor> {
    let (b, n, inner) = q.dims3()?;
    if heads == 0 || inner % heads != 0 {
        return Err(Error::msg(format!("queries of {inner} elements cannot be divided into {heads} heads")));
    }
    let d = inner / heads;
    let split = |t: &Tensor| -> Result<Tensor> { Ok(t.reshape((b, t.dim(1)?, heads, d))?.transpose(1, 2)?.contiguous()?) };
    let (q, k, v) = (split(q)?, split(k)?.t()?, split(v)?);
    let mask = mask.map(|mask| match mask.rank() {
        2 => mask.unsqueeze(0)?.unsqueeze(0),
        3 => mask.unsqueeze(1),
        _ => Ok(mask.clone()),
    });
    let mask = mask.transpose()?;
    let rows = (MOST_SCORES / (b * heads * k.dim(3)?).max(1)).max(1);
    let mut parts = Vec::new();
    for first in (0..n).step_by(rows) {
        let count = rows.min(n - first);
        let mut scores = (q.narrow(2, first, count)?.matmul(&k)? * (1.0 / (d as f64).sqrt()))?;
        if let Some(mask) = &mask {
            let mask = if mask.dim(2)? == n { mask.narrow(2, first, count)? } else { mask.clone() };
            scores = scores.broadcast_add(&mask)?;
        }
        parts.push(candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)?);
    }
    Ok(Tensor::cat(&parts, 2)?.transpose(1, 2)?.reshape((b, n, inner))?)
}

pub(super) fn group_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, eps: f64) -> Result<Tensor> {
    let dims = x.dims().to_vec();
    let &[b, c, ..] = &dims[..] else { return Err(Error::msg("a group normalisation needs a tensor with batch and channels")) };
    if groups == 0 || c % groups != 0 || x.elem_count() == 0 {
        return Err(Error::msg(format!("a tensor of the shape {dims:?} cannot be divided into {groups} groups of channels")));
    }
    let grouped = x.reshape((b, groups, x.elem_count() / b / groups))?;
    let centred = grouped.broadcast_sub(&grouped.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred.broadcast_div(&(variance + eps)?.sqrt()?)?.reshape((b, c, x.elem_count() / b / c))?;
    let (weight, bias) = (weight.to_dtype(x.dtype())?.reshape((1, c, 1))?, bias.to_dtype(x.dtype())?.reshape((1, c, 1))?);
    Ok(normed.broadcast_mul(&weight)?.broadcast_add(&bias)?.reshape(dims)?)
}

pub(super) fn group_norm_silu(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, eps: f64) -> Result<Tensor> {
    silu(&group_norm(x, weight, bias, groups, eps)?)
}

pub(super) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let (weight, bias) = (weight.to_dtype(x.dtype())?, bias.to_dtype(x.dtype())?);
    Ok(candle_nn::ops::layer_norm(&x.contiguous()?, &weight, &bias, eps as f32)?)
}

pub(super) fn silu(x: &Tensor) -> Result<Tensor> {
    Ok(x.silu()?)
}

pub(super) fn gelu(x: &Tensor) -> Result<Tensor> {
    Ok(x.gelu_erf()?)
}

pub(super) fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    Ok((x * candle_nn::ops::sigmoid(&(x * 1.702)?)?)?)
}

pub(super) fn geglu(x: &Tensor) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let (value, gate) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    Ok((value * gate.contiguous()?.gelu_erf()?)?)
}

pub(super) fn upsample_nearest_2x(x: &Tensor) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    Ok(x.upsample_nearest2d(2 * h, 2 * w)?)
}

pub(super) fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok((a + b)?)
}

pub(super) fn add_channels(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let mut shape = y.dims().to_vec();
    shape.resize(x.rank().max(shape.len()), 1);
    Ok(x.broadcast_add(&y.reshape(shape)?)?)
}

pub(super) fn embedding(ids: &Tensor, weight: &Weight) -> Result<Tensor> {
    let rows = weight.dense()?.index_select(&ids.flatten_all()?, 0)?.to_dtype(DType::F32)?;
    let width = rows.dim(1)?;
    Ok(rows.reshape([ids.dims(), &[width]].concat())?)
}
