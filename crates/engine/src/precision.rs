//! The type that a part's weights are rounded to when they are loaded. The eight-bit floats have no kernels: their values, all of which
//! binary16 can hold, are kept as such. What a part is used for is not known here.

use candle_core::{DType, Tensor};
use comfyd_weights::SmallFloat;

use crate::{Error, Result};

/// How weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Precision {
    /// As the file stores them.
    #[default]
    Stored,
    /// In half precision (text encoders, as in the reference).
    Half,
    /// Rounded to the eight-bit float with three bits of mantissa (`float8_e4m3fn`).
    Fp8E4m3,
    /// Rounded to the eight-bit float with two bits of mantissa (`float8_e5m2`).
    Fp8E5m2,
}

impl Precision {
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

    /// The tensor rounded; tensors of integers stay as they are.
    pub(crate) fn round(self, tensor: Tensor) -> Result<Tensor> {
        if !matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16 | DType::F64) {
            return Ok(tensor);
        }
        match self {
            Self::Stored => Ok(tensor),
            Self::Half if tensor.dtype() == DType::F16 => Ok(tensor),
            Self::Half => Ok(tensor.to_dtype(DType::F16)?),
            Self::Fp8E4m3 => Ok(SmallFloat::E4m3.round_all(&tensor)?),
            Self::Fp8E5m2 => Ok(SmallFloat::E5m2.round_all(&tensor)?),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use candle_core::Device;

    use super::*;

    fn rounded(precision: Precision, values: &[f32]) -> Vec<f32> {
        let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
        precision.round(tensor).unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap()
    }

    /// python: torch.tensor(values).to(torch.float8_e4m3fn).float(), and e5m2
    #[test]
    fn small_floats_round_as_torch_does() {
        let values = [0.3, -0.07, 1.0625, 1.1875, 0.0009765625, 0.0029296875, -448.0, 464.0];
        assert_eq!(rounded(Precision::Fp8E4m3, &values), [0.3125, -0.0703125, 1.0, 1.25, 0.0, 0.00390625, -448.0, 448.0]);
        let values = [0.3, -0.07, 1.125, 1.375, 7.629_394_5e-6, 2.5e-5, -57344.0, 61440.0];
        let wanted = [0.3125, -0.0625, 1.0, 1.5, 0.0, 3.051_757_8e-5, -57344.0, f32::INFINITY];
        assert_eq!(rounded(Precision::Fp8E5m2, &values), wanted);
        assert!(rounded(Precision::Fp8E4m3, &[480.0])[0].is_nan());
        assert!(Precision::of_widget("fp4").unwrap_err().to_string().contains("'fp4'"));
    }
}
