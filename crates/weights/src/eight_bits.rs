//! The two floats of eight bits that weights are kept in, and rounding to them. Which weights are kept so is not known here.

use half::f16;

/// A kind of eight-bit float; binary16 holds each of its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SmallFloat {
    /// Three bits of mantissa, no infinity (`float8_e4m3fn`).
    E4m3,
    /// Two bits of mantissa (`float8_e5m2`).
    E5m2,
}

impl SmallFloat {
    /// The nearest number; of two that are equally near, the one whose mantissa is even. Beyond the largest one: none, or infinity.
    pub(crate) fn round(self, value: f32) -> f32 {
        let (mantissa, min_exponent, max, overflow) = match self {
            Self::E4m3 => (3, -6, 448.0, f32::NAN),
            Self::E5m2 => (2, -14, 57344.0, f32::INFINITY),
        };
        if value == 0.0 || value.is_nan() {
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

    /// The number of a byte.
    pub(crate) fn value(self, byte: u8) -> f16 {
        let sign = u16::from(byte & 0x80) << 8;
        let (exponent, mantissa) = (u16::from(byte >> 3 & 0xf), u16::from(byte & 7));
        let bits = match (self, exponent, mantissa) {
            (Self::E5m2, ..) => u16::from(byte & 0x7f) << 8,
            (Self::E4m3, 0xf, 7) => 0x7e00,
            // Below the normal range: the mantissa counts 2^-9, which binary16 holds as a normal number.
            (Self::E4m3, 0, m) => f16::from_f32(f32::from(m) / 512.0).to_bits(),
            // The exponents' biases are 7 and 15.
            (Self::E4m3, e, m) => (e + 8) << 10 | m << 7,
        };
        f16::from_bits(sign | bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_the_number_that_gives_it() {
        let values = |kind: SmallFloat, bytes: [u8; 4]| bytes.map(|byte| kind.value(byte).to_f32());
        assert_eq!(values(SmallFloat::E4m3, [0x38, 0xb8, 0x7e, 0x01]), [1.0, -1.0, 448.0, 2f32.powi(-9)]);
        assert_eq!(values(SmallFloat::E4m3, [0x07, 0x08, 0x40, 0x49]), [7.0 / 512.0, 2f32.powi(-6), 2.0, 4.5]);
        assert_eq!(values(SmallFloat::E5m2, [0x3c, 0xc1, 0x7c, 0x01]), [1.0, -2.5, f32::INFINITY, 2f32.powi(-16)]);
        assert!(SmallFloat::E4m3.value(0x7f).is_nan() && SmallFloat::E4m3.value(0xff).is_nan());
        assert_eq!(SmallFloat::E4m3.value(0x80).to_bits(), 0x8000);
        for byte in 0..=u8::MAX {
            let bytes = [SmallFloat::E4m3, SmallFloat::E5m2].map(|kind| kind.byte(kind.value(byte)));
            assert_eq!(bytes, [byte, byte]);
        }
    }
}
