//! Weights as they are stored, the error of this crate, and checks of lengths that all kernels share.

use half::{bf16, f16};

use crate::packed::Packed;

/// A weight in the type in which it is stored.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Half precision.
    F16(&'a [f16]),
    /// bfloat16.
    BF16(&'a [bf16]),
    /// Few bits.
    Packed(Packed<'a>),
}

impl Weight<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(w) => w.len(),
            Self::F16(w) => w.len(),
            Self::BF16(w) => w.len(),
            Self::Packed(w) => {
                let (numbers, bytes) = w.format.block();
                w.bytes.len() / bytes * numbers
            }
        }
    }

    /// Checks that it has these sizes, the first of which is the number of its rows.
    pub(crate) fn check(&self, sizes: &[usize]) -> Result<()> {
        check_len("the weight", self.len(), sizes)?;
        match self {
            Self::Packed(w) if w.scales.len() > 1 => check_len("the scales", w.scales.len(), &sizes[..1]),
            _ => Ok(()),
        }
    }
}

/// A kernel was given slices whose lengths do not fit the sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(pub(crate) String);

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The product of sizes, or an error if it is more than memory can hold.
pub(crate) fn product(what: &str, sizes: &[usize]) -> Result<usize> {
    let mut product = 1usize;
    for &size in sizes {
        product = product.checked_mul(size).ok_or_else(|| Error(format!("the sizes {sizes:?} of {what} are too large")))?;
    }
    // Offsets in bytes must fit a signed size.
    if product > isize::MAX as usize / 16 {
        return Err(Error(format!("the sizes {sizes:?} of {what} are too large")));
    }
    Ok(product)
}

/// Checks that a slice has the length that the sizes give.
pub(crate) fn check_len(what: &str, len: usize, sizes: &[usize]) -> Result<()> {
    let wanted = product(what, sizes)?;
    if len == wanted { Ok(()) } else { Err(Error(format!("{what} has {len} elements where the sizes {sizes:?} need {wanted}"))) }
}
