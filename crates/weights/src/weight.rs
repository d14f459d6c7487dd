//! Weights as they are held: number by number, or in the few bits in which their file has them. What multiplies them is not known here.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};
use half::f16;

use crate::eight_bits::SmallFloat;
use crate::error::Result;

/// A weight on a device. A clone shares the values.
#[derive(Debug, Clone)]
pub enum Weight {
    /// Number by number, in 16 bits or more.
    Dense(Tensor),
    /// Eight-bit floats, which may count times a scale.
    Scaled8(Scaled8),
    /// ggml's blocks of few bits.
    Quantized(Quantized),
}

/// Eight-bit floats.
#[derive(Debug, Clone)]
pub struct Scaled8 {
    /// Their kind.
    pub kind: SmallFloat,
    /// Their bytes (U8), in the weight's shape.
    pub bytes: Tensor,
    /// What the values are multiplied by (F32, one axis): one number, or one for each row. `None`: nothing.
    pub scale: Option<Tensor>,
}

/// Blocks of few bits.
#[derive(Debug, Clone)]
pub struct Quantized {
    /// The blocks of all values along one axis, since rows need not be whole blocks.
    pub blocks: Arc<QTensor>,
    /// The weight's shape.
    pub shape: Vec<usize>,
}

impl Scaled8 {
    /// The nearest eight-bit floats of these values.
    ///
    /// # Errors
    /// If the tensor's values are none that have a nearest float.
    pub fn round(kind: SmallFloat, tensor: &Tensor) -> Result<Self> {
        let values: Vec<f32> = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let bytes: Vec<u8> = values.into_iter().map(|value| kind.byte(f16::from_f32(kind.round(value)))).collect();
        Ok(Self { kind, bytes: Tensor::from_vec(bytes, tensor.dims(), tensor.device())?, scale: None })
    }

    fn dense(&self) -> Result<Tensor> {
        let device = self.bytes.device();
        let values: Vec<f16> = (0..=u8::MAX).map(|byte| self.kind.value(byte)).collect();
        let values = if device.is_cpu() {
            let bytes = self.bytes.flatten_all()?.to_vec1::<u8>()?;
            Tensor::from_vec(bytes.into_iter().map(|byte| values[usize::from(byte)]).collect(), self.bytes.dims(), device)?
        } else {
            Tensor::from_vec(values, 256, device)?.index_select(&self.bytes.flatten_all()?, 0)?.reshape(self.bytes.dims())?
        };
        match &self.scale {
            Some(scale) => times(&values, scale),
            None => Ok(values),
        }
    }
}

/// Values times one number or one for each row, as F32.
fn times(values: &Tensor, scale: &Tensor) -> Result<Tensor> {
    let mut axes = vec![1; values.rank()];
    if let Some(rows) = axes.first_mut() {
        *rows = scale.elem_count();
    }
    Ok(values.to_dtype(DType::F32)?.broadcast_mul(&scale.reshape(axes)?)?)
}

impl Quantized {
    /// The values in these bytes, which are as many as the shape needs, aligned as the kind's blocks are.
    pub fn new(kind: GgmlDType, bytes: &[u8], shape: Vec<usize>, device: &Device) -> Result<Self> {
        let storage = QStorage::from_data(Cow::Borrowed(bytes), device, kind)?;
        let count: usize = shape.iter().product();
        Ok(Self { blocks: Arc::new(QTensor::new(storage, count)?), shape })
    }
}

impl Weight {
    /// The values number by number: F16 out of few bits without a scale, F32 with one.
    pub fn dense(&self) -> Result<Tensor> {
        match self {
            Self::Dense(tensor) => Ok(tensor.clone()),
            Self::Scaled8(weight) => weight.dense(),
            Self::Quantized(weight) => {
                let values = weight.blocks.dequantize(&weight.blocks.device())?;
                Ok(values.to_dtype(DType::F16)?.reshape(weight.shape.as_slice())?)
            }
        }
    }

    /// The weight times this (F32, one axis): one number, or one for each row.
    pub(crate) fn scaled(self, scale: Tensor) -> Result<Self> {
        match self {
            Self::Scaled8(Scaled8 { kind, bytes, scale: None }) => Ok(Self::Scaled8(Scaled8 { kind, bytes, scale: Some(scale) })),
            other => Ok(Self::Dense(times(&other.dense()?, &scale)?)),
        }
    }

    /// Its axes.
    pub fn dims(&self) -> &[usize] {
        match self {
            Self::Dense(tensor) => tensor.dims(),
            Self::Scaled8(weight) => weight.bytes.dims(),
            Self::Quantized(weight) => &weight.shape,
        }
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        match self {
            Self::Dense(tensor) => tensor.device().clone(),
            Self::Scaled8(weight) => weight.bytes.device().clone(),
            Self::Quantized(weight) => weight.blocks.device(),
        }
    }

    /// The same weight there.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        Ok(match self {
            Self::Dense(tensor) => Self::Dense(tensor.to_device(device)?),
            Self::Scaled8(Scaled8 { kind, bytes, scale }) => {
                let scale = scale.as_ref().map(|scale| scale.to_device(device)).transpose()?;
                Self::Scaled8(Scaled8 { kind: *kind, bytes: bytes.to_device(device)?, scale })
            }
            Self::Quantized(weight) if weight.blocks.device().same_device(device) => self.clone(),
            Self::Quantized(Quantized { blocks, shape }) => {
                Self::Quantized(Quantized::new(blocks.dtype(), &blocks.data()?, shape.clone(), device)?)
            }
        })
    }

    /// The same values with other axes, the first of which stays.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        Ok(match self {
            Self::Dense(tensor) => Self::Dense(tensor.reshape(shape)?),
            Self::Scaled8(weight) => Self::Scaled8(Scaled8 { bytes: weight.bytes.reshape(shape)?, ..weight.clone() }),
            Self::Quantized(weight) => Self::Quantized(Quantized { shape: shape.to_vec(), ..weight.clone() }),
        })
    }

    /// Bytes that it takes.
    pub fn size_bytes(&self) -> u64 {
        let bytes_of = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        let bytes = match self {
            Self::Dense(tensor) => bytes_of(tensor),
            Self::Scaled8(weight) => bytes_of(&weight.bytes) + weight.scale.as_ref().map_or(0, bytes_of),
            Self::Quantized(weight) => weight.blocks.storage_size_in_bytes(),
        };
        bytes as u64
    }
}

impl From<Tensor> for Weight {
    fn from(tensor: Tensor) -> Self {
        Self::Dense(tensor)
    }
}
