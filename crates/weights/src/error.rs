//! The one error type of this crate.

use std::io;
use std::path::{Path, PathBuf};

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with a file of weights.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is damaged, or none of this format.
    #[error("{} is not a valid {format} file: {reason}; download or save it again", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The format that it was taken for.
        format: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The file has no tensor of that name.
    #[error("{} has no tensor '{name}'; choose a file of the right kind", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// The tensor's values are of a type that cannot be read, or not as floating-point numbers.
    #[error("the tensor '{name}' in {} holds {dtype} values; save it as F32, F16 or BF16", path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The type's name.
        dtype: String,
    },
    /// The tensor is larger than the caller allows.
    #[error("the tensor '{name}' in {} would need {bytes} bytes, the limit is {limit}; take a smaller one or raise the limit", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Bytes as 32-bit numbers.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A tensor to be written whose shape does not fit its values.
    #[error("the tensor '{name}' has {values} values, its shape says {expected}")]
    Shape {
        /// The tensor.
        name: String,
        /// How many values there are.
        values: usize,
        /// How many the shape asks for.
        expected: usize,
    },
    /// The file is whole, and no model that is known.
    #[error("cannot use {}: {reason}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What was looked for, and what to do.
        reason: String,
    },
    /// The file cannot be written.
    #[error("the file cannot be written: {0}; check the folder's permissions and free space")]
    Write(io::Error),
    /// An adapter that does not fit the weight that it is for.
    #[error("the adapter does not fit its weight: {0}; choose a LoRA made for this model")]
    Adapter(String),
    /// The caller asked to stop.
    #[error("the work was interrupted")]
    Interrupted,
    /// The tensor library failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// The file that the error names.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Read { path, .. }
            | Self::Invalid { path, .. }
            | Self::Missing { path, .. }
            | Self::Dtype { path, .. }
            | Self::TooLarge { path, .. }
            | Self::Unknown { path, .. } => Some(path),
            Self::Write(_) | Self::Shape { .. } | Self::Adapter(_) | Self::Interrupted | Self::Tensor(_) => None,
        }
    }
}
