//! The types of values in files, under safetensors' names. How values are read is not known here.

/// Axes that a tensor may have.
pub(crate) const MAX_AXES: usize = 16;

/// More values than any machine holds.
const TOO_MANY_VALUES: u64 = 1 << 48;

/// The values of a tensor with these axes, if there can be such a one. Where one axis is zero there are none, and yet the product of the others
/// is to be a number: steps are made of it.
pub(crate) fn count(axes: impl IntoIterator<Item = u64>) -> Option<u64> {
    let mut is_empty = false;
    let mut count = 1u64;
    for axis in axes {
        is_empty |= axis == 0;
        count = count.checked_mul(axis.max(1)).filter(|count| *count < TOO_MANY_VALUES)?;
    }
    Some(if is_empty { 0 } else { count })
}

/// Bytes of a tensor's name in any file; messages tell it.
pub(crate) const MAX_NAME_BYTES: usize = 65536;

/// The types of values that a file may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Dtype {
    Bool,
    U8,
    I8,
    F8E5M2,
    F8E4M3,
    I16,
    U16,
    F16,
    Bf16,
    I32,
    U32,
    F32,
    F64,
    I64,
    U64,
}

impl Dtype {
    const ALL: [Self; 15] = [
        Self::Bool,
        Self::U8,
        Self::I8,
        Self::F8E5M2,
        Self::F8E4M3,
        Self::I16,
        Self::U16,
        Self::F16,
        Self::Bf16,
        Self::I32,
        Self::U32,
        Self::F32,
        Self::F64,
        Self::I64,
        Self::U64,
    ];

    /// The name in safetensors headers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::F8E5M2 => "F8_E5M2",
            Self::F8E4M3 => "F8_E4M3",
            Self::I16 => "I16",
            Self::U16 => "U16",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::I32 => "I32",
            Self::U32 => "U32",
            Self::F32 => "F32",
            Self::F64 => "F64",
            Self::I64 => "I64",
            Self::U64 => "U64",
        }
    }

    /// Bytes per value.
    pub fn size(self) -> u64 {
        match self {
            Self::Bool | Self::U8 | Self::I8 | Self::F8E5M2 | Self::F8E4M3 => 1,
            Self::I16 | Self::U16 | Self::F16 | Self::Bf16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    /// The type of that name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }
}
