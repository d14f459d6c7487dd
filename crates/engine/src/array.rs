//! Arrays at the engine's border, and small tensor helpers that the reference's code leans on.

use candle_core::{DType, Device, Tensor};

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
