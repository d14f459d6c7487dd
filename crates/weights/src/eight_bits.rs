//! The two floats of eight bits that weights are kept in, and rounding to them. Which weights are kept so is not known here.

use candle_core::{DType, Tensor};
use half::f16;

use crate::Result;

/// A kind of eight-bit float. It has no kernels; binary16 holds each of its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SmallFloat {
    /// Three bits of mantissa, no infinity (`float8_e4m3fn`).
    E4m3,
    /// Two bits of mantissa (`float8_e5m2`).
    E5m2,
}

impl SmallFloat {
    /// The values rounded, as F16.
    ///
    /// # Errors
    /// If the tensor's values are none that have a nearest float.
    pub fn round_all(self, tensor: &Tensor) -> Result<Tensor> {
        let values: Vec<f32> = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let rounded: Vec<f16> = values.into_iter().map(|value| f16::from_f32(self.round(value))).collect();
        Ok(Tensor::from_vec(rounded, tensor.dims(), tensor.device())?)
    }

    /// The nearest number; of two that are equally near, the one whose mantissa is even. Beyond the largest one: none, or infinity.
    pub fn round(self, value: f32) -> f32 {
        let (mantissa, min_exponent, max, overflow) = match self {
            Self::E4m3 => (3, -6, 448.0, f32::NAN),
            Self::E5m2 => (2, -14, 57344.0, f32::INFINITY),
        };
        if value == 0.0 || !value.is_finite() {
            return value;
        }
        // The exponent, of a number that is not subnormal in single precision or else far below all small floats.
        let exponent = ((value.to_bits() >> 23) & 0xff) as i32 - 127;
        let step = 2f32.powi(exponent.max(min_exponent) - mantissa);
        let rounded = (value / step).round_ties_even() * step;
        if rounded.abs() > max { overflow.copysign(value) } else { rounded }
    }

    /// The byte of a number that this kind holds.
    pub(crate) fn byte(self, value: f16) -> u8 {
        let bits = value.to_bits();
        let (sign, exponent, mantissa) = ((bits >> 8) as u8 & 0x80, (bits >> 10) & 0x1f, bits & 0x3ff);
        match self {
            Self::E5m2 => (bits >> 8) as u8,
            Self::E4m3 if value.is_nan() => sign | 0x7f,
            // The exponents' biases are 7 and 15; below the normal range the mantissa counts 2^-9.
            Self::E4m3 if exponent > 8 => sign | ((exponent - 8) << 3 | mantissa >> 7) as u8,
            Self::E4m3 => sign | (value.to_f32().abs() * 512.0) as u8,
        }
    }
}
