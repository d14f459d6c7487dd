//! The type that a part's weights are rounded to when they are loaded. What a part is used for is not known here.

use candle_core::{DType, Device};
use comfyd_weights::{Form, LazyTensor, Scaled8, SmallFloat, Weight};

use crate::error::{Error, Result};

/// How weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Precision {
    /// As the file stores them.
    #[default]
    Stored,
    /// In half precision (text encoders, as in the reference).
    Half,
    /// In single precision: models that work on pictures, on a card, where products are as exact as the weight is held.
    Single,
    /// Rounded to the eight-bit float with three bits of mantissa (`float8_e4m3fn`).
    Fp8E4m3,
    /// Rounded to the eight-bit float with two bits of mantissa (`float8_e5m2`).
    Fp8E5m2,
}

impl Precision {
    /// For models that work on pictures. Halves would end where some of their numbers go on.
    pub(crate) fn of_pictures(device: &Device) -> Self {
        if device.is_cpu() { Self::Stored } else { Self::Single }
    }

    /// UNETLoader's choice.
    pub(crate) fn of_widget(dtype: &str) -> Result<Self> {
        match dtype {
            "default" => Ok(Self::Stored),
            // The fast one differs in how products are computed on devices that multiply such numbers.
            "fp8_e4m3fn" | "fp8_e4m3fn_fast" => Ok(Self::Fp8E4m3),
            "fp8_e5m2" => Ok(Self::Fp8E5m2),
            other => Err(Error::msg(format!("weights of the type '{other}' are not known; take one of the listed types"))),
        }
    }

    /// The eight-bit float that weights are rounded to.
    fn small_float(self) -> Option<SmallFloat> {
        match self {
            Self::Stored | Self::Half | Self::Single => None,
            Self::Fp8E4m3 => Some(SmallFloat::E4m3),
            Self::Fp8E5m2 => Some(SmallFloat::E5m2),
        }
    }

    /// The weight rounded; integers stay as they are.
    pub(crate) fn round(self, weight: Weight) -> Result<Weight> {
        match (self.small_float(), weight) {
            (_, Weight::Dense(tensor)) if !tensor.dtype().is_float() => Ok(tensor.into()),
            (Some(kind), Weight::Scaled8(weight)) if weight.kind == kind => Ok(Weight::Scaled8(weight)),
            (Some(kind), weight) => Ok(Weight::Scaled8(Scaled8::round(kind, &weight.dense()?)?)),
            (None, Weight::Dense(tensor)) if self == Self::Half => Ok(tensor.to_dtype(DType::F16)?.into()),
            (None, weight) if self == Self::Single => Ok(weight.dense()?.to_dtype(DType::F32)?.into()),
            (None, weight) => Ok(weight),
        }
    }

    /// Bytes of a tensor of a file once it is rounded.
    pub(crate) fn size_bytes(self, lazy: &LazyTensor) -> u64 {
        let bytes_each = match lazy.form() {
            Form::Dense | Form::Small(_) if self.small_float().is_some() && lazy.dtype().is_float() => 1,
            Form::Dense if self == Self::Half && lazy.dtype().is_float() => 2,
            Form::Dense | Form::Small(_) if self == Self::Single && lazy.dtype().is_float() => 4,
            Form::Dense | Form::Small(_) | Form::Scaled8 | Form::Scaled | Form::Quantised(_) | Form::Unknown => return lazy.size_bytes(),
        };
        lazy.shape().iter().fold(bytes_each, |bytes, axis| bytes.saturating_mul(*axis as u64))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use candle_core::{Device, Tensor};

    use super::*;

    fn rounded(precision: Precision, values: &[f32]) -> Vec<f32> {
        let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
        let weight = precision.round(tensor.clone().into()).unwrap();
        assert_eq!((weight.size_bytes(), precision.size_bytes(&tensor.into())), (values.len() as u64, values.len() as u64));
        weight.dense().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap()
    }

    /// python: torch.tensor(values).to(torch.float8_e4m3fn).float(), and e5m2
    #[test]
    fn small_floats_round_as_torch_does() {
        let values = [0.3, -0.07, 1.0625, 1.1875, 0.0009765625, 0.0029296875, -448.0, 464.0];
        assert_eq!(rounded(Precision::Fp8E4m3, &values), [0.3125, -0.0703125, 1.0, 1.25, 0.0, 0.00390625, -448.0, 448.0]);
        let values = [0.3, -0.07, 1.125, 1.375, 7.629_394_5e-6, 2.5e-5, -57344.0, 61440.0];
        let wanted = [0.3125, -0.0625, 1.0, 1.5, 0.0, 3.051_757_8e-5, -57344.0, f32::INFINITY];
        assert_eq!(rounded(Precision::Fp8E5m2, &values), wanted);
        assert!(rounded(Precision::Fp8E4m3, &[480.0, f32::NEG_INFINITY]).iter().all(|value| value.is_nan()));
        assert_eq!(rounded(Precision::Fp8E5m2, &[f32::NEG_INFINITY]), [f32::NEG_INFINITY]);
        assert!(Precision::of_widget("fp4").unwrap_err().to_string().contains("'fp4'"));
    }
}
