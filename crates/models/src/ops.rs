//! The operations that models are made of: a thin layer above the tensor library. Activations are F32 on the CPU; weights may be F32, F16
//! or BF16 and are used as they are stored, so that no second copy of them is kept.

use candle_core::{D, DType, Tensor};

use crate::Result;

/// `x (.., in) -> (.., out)` with `weight (out, in)` and `bias (out)`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let weight = weight.to_dtype(x.dtype())?;
    let dims = x.dims();
    let (last, rows) = (dims[dims.len() - 1], dims[..dims.len() - 1].iter().product::<usize>());
    let mut y = x.reshape((rows, last))?.matmul(&weight.t()?)?;
    if let Some(bias) = bias {
        y = y.broadcast_add(&bias.to_dtype(x.dtype())?)?;
    }
    let mut shape = dims.to_vec();
    shape[dims.len() - 1] = weight.dim(0)?;
    Ok(y.reshape(shape)?)
}

/// `x (B, I, H, W) -> (B, O, H', W')` with `weight (O, I, kh, kw)`, `bias (O)`; `padding` on all sides.
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, stride: usize, padding: usize) -> Result<Tensor> {
    let y = x.conv2d(&weight.to_dtype(x.dtype())?, padding, stride, 1, 1)?;
    match bias {
        Some(bias) => Ok(y.broadcast_add(&bias.to_dtype(x.dtype())?.reshape((1, bias.elem_count(), 1, 1))?)?),
        None => Ok(y),
    }
}

/// Scaled dot-product attention: `q (B, N, heads * D)`, `k` and `v (B, M, heads * D)` to `(B, N, heads * D)`, scale `1 / sqrt(D)`. `mask`
/// is added to the scores; it is `(N, M)`, `(B, N, M)` or `(B, heads, N, M)`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, mask: Option<&Tensor>) -> Result<Tensor> {
    let (b, n, inner) = q.dims3()?;
    let d = inner / heads;
    let split = |t: &Tensor| -> Result<Tensor> { Ok(t.reshape((b, t.dim(1)?, heads, d))?.transpose(1, 2)?.contiguous()?) };
    let (q, k, v) = (split(q)?, split(k)?, split(v)?);
    let mut scores = (q.matmul(&k.t()?)? * (1.0 / (d as f64).sqrt()))?;
    if let Some(mask) = mask {
        let mask = match mask.rank() {
            2 => mask.unsqueeze(0)?.unsqueeze(0)?,
            3 => mask.unsqueeze(1)?,
            _ => mask.clone(),
        };
        scores = scores.broadcast_add(&mask)?;
    }
    let out = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)?;
    Ok(out.transpose(1, 2)?.reshape((b, n, inner))?)
}

/// Normalises groups of channels of `x (B, C, ..)`; `weight` and `bias` are `(C)`.
pub fn group_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, eps: f64) -> Result<Tensor> {
    let dims = x.dims().to_vec();
    let (b, c) = (dims[0], dims[1]);
    let grouped = x.reshape((b, groups, x.elem_count() / b / groups))?;
    let centred = grouped.broadcast_sub(&grouped.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred.broadcast_div(&(variance + eps)?.sqrt()?)?.reshape((b, c, x.elem_count() / b / c))?;
    let (weight, bias) = (weight.to_dtype(x.dtype())?.reshape((1, c, 1))?, bias.to_dtype(x.dtype())?.reshape((1, c, 1))?);
    Ok(normed.broadcast_mul(&weight)?.broadcast_add(&bias)?.reshape(dims)?)
}

/// [`group_norm`] followed by [`silu`].
pub fn group_norm_silu(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, eps: f64) -> Result<Tensor> {
    silu(&group_norm(x, weight, bias, groups, eps)?)
}

/// Normalises the last axis of `x (.., C)`; `weight` and `bias` are `(C)`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let (weight, bias) = (weight.to_dtype(x.dtype())?, bias.to_dtype(x.dtype())?);
    Ok(candle_nn::ops::layer_norm(&x.contiguous()?, &weight, &bias, eps as f32)?)
}

/// `x * sigmoid(x)`.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    Ok(x.silu()?)
}

/// The exact GELU (with the error function).
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    Ok(x.gelu_erf()?)
}

/// `x * sigmoid(1.702 * x)`.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    Ok((x * candle_nn::ops::sigmoid(&(x * 1.702)?)?)?)
}

/// `(.., 2C) -> (.., C)`: the first half times the exact GELU of the second.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let (value, gate) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    Ok((value * gate.contiguous()?.gelu_erf()?)?)
}

/// `(B, C, H, W) -> (B, C, 2H, 2W)`, each value four times.
pub fn upsample_nearest_2x(x: &Tensor) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    Ok(x.upsample_nearest2d(2 * h, 2 * w)?)
}

/// The sum of two tensors of one shape.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok((a + b)?)
}

/// Rows of `weight (vocabulary, width)`: `ids (..) -> (.., width)`, as F32.
pub fn embedding(ids: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let rows = weight.index_select(&ids.flatten_all()?, 0)?.to_dtype(DType::F32)?;
    let mut shape = ids.dims().to_vec();
    shape.push(weight.dim(1)?);
    Ok(rows.reshape(shape)?)
}
