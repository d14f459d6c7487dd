//! Arrays at the engine's border, and small tensor helpers that the reference's code leans on.

use candle_core::{DType, Device, Tensor};
use comfyd_imaging::resize::{Crop, Method};
use ndarray::{ArcArray, IxDyn};

use crate::{Error, Result};

/// A tensor on the CPU with these axes, the last one running fastest.
pub fn tensor(shape: &[usize], values: Vec<f32>) -> Result<Tensor> {
    if shape.iter().product::<usize>() != values.len() {
        return Err(Error::msg(format!("an array of the shape {shape:?} cannot hold {} values", values.len())));
    }
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// A tensor's axes and its values, the last axis running fastest.
pub fn values(tensor: &Tensor) -> Result<(Vec<usize>, Vec<f32>)> {
    let flat = tensor.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?;
    Ok((tensor.dims().to_vec(), flat.to_vec1()?))
}

/// Resizes the last two axes of `(B, C, H, W)` (the reference's `common_upscale`). The result is on the CPU.
pub(crate) fn resize(tensor: &Tensor, width: usize, height: usize, method: Method, crop: Crop) -> Result<Tensor> {
    let (shape, data) = values(tensor)?;
    let array = ArcArray::from_shape_vec(IxDyn(&shape), data).map_err(|e| Error::msg(e.to_string()))?;
    let resized = comfyd_imaging::resize::latent(&array, width, height, method, crop)?;
    let shape = resized.shape().to_vec();
    let data = resized.as_standard_layout().iter().copied().collect();
    self::tensor(&shape, data)
}

/// Repeats along the first axis, then cuts, to this length.
pub(crate) fn repeat_to_batch(tensor: &Tensor, batch: usize) -> Result<Tensor> {
    let own = tensor.dim(0)?;
    if own == batch {
        return Ok(tensor.clone());
    }
    if own == 0 {
        return Err(Error::msg("an array without elements cannot be repeated"));
    }
    if own > batch {
        return Ok(tensor.narrow(0, 0, batch)?);
    }
    let copies = vec![tensor; batch.div_ceil(own)];
    Ok(Tensor::cat(&copies, 0)?.narrow(0, 0, batch)?)
}

/// Takes this many elements of the first axis, spread evenly.
pub(crate) fn spread_to_batch(tensor: &Tensor, batch: usize) -> Result<Tensor> {
    let own = tensor.dim(0)?;
    if own == batch {
        return Ok(tensor.clone());
    }
    if batch <= 1 {
        return Ok(tensor.narrow(0, 0, batch)?);
    }
    let pick = |i: usize| -> usize {
        let at = if batch < own {
            (i as f64 * ((own - 1) as f64 / (batch - 1) as f64)).round_ties_even() as usize
        } else {
            ((i as f64 + 0.5) * (own as f64 / batch as f64)).floor() as usize
        };
        at.min(own.saturating_sub(1))
    };
    let rows: Vec<Tensor> = (0..batch).map(|i| tensor.narrow(0, pick(i), 1)).collect::<candle_core::Result<_>>()?;
    Ok(Tensor::cat(&rows, 0)?)
}

/// Whether every value is zero.
pub(crate) fn is_zero(tensor: &Tensor) -> Result<bool> {
    Ok(values(tensor)?.1.iter().all(|v| *v == 0.0))
}

/// Whether two numbers differ by rounding alone (Python's `math.isclose`).
pub(crate) fn is_close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

/// The sum over everything but the batch, (B, 1, 1, 1).
pub(crate) fn total(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.sum_keepdim((1, 2, 3))?)
}

/// A mask `(.., H, W)` as a factor for latents of this shape (the reference's `reshape_mask`).
pub(crate) fn latent_mask(mask: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let dims = mask.dims();
    if dims.len() < 2 || shape.len() != 4 {
        return Err(Error::msg(format!("a mask of the shape {dims:?} does not fit a latent of the shape {shape:?}")));
    }
    let (h, w) = (dims[dims.len() - 2], dims[dims.len() - 1]);
    let planes = mask.reshape((mask.elem_count() / (h * w).max(1), 1, h, w))?;
    let scaled = resize(&planes, shape[3], shape[2], Method::Bilinear, Crop::Disabled)?;
    let channels = scaled.repeat((1, shape[1], 1, 1))?;
    repeat_to_batch(&channels, shape[0])
}
