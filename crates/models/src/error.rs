//! The one error type of this crate.

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in a model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor that the architecture needs is not there.
    #[error("the model has no tensor '{0}'; choose a file of the right kind")]
    Missing(String),
    /// A tensor has other axes than the architecture needs.
    #[error("the tensor '{name}' has the shape {got:?}, the model needs {wanted:?}; choose a file of the right kind")]
    Shape {
        /// The tensor.
        name: String,
        /// Its axes.
        got: Vec<usize>,
        /// The axes needed.
        wanted: Vec<usize>,
    },
    /// The caller's hook asked to stop.
    #[error("the work was interrupted")]
    Interrupted,
    /// Any other reason, as a sentence.
    #[error("{0}")]
    Message(String),
    /// The file's tensors cannot be read.
    #[error(transparent)]
    Weights(#[from] comfyd_weights::Error),
    /// The tensor library failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// An error with a sentence of its own.
    pub fn msg(message: impl Into<String>) -> Self {
        Self::Message(message.into())
    }

    /// Whether a card said that its memory is used up.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::Tensor(error) | Self::Weights(comfyd_weights::Error::Tensor(error)) => is_out_of_memory(error),
            Self::Missing(_) | Self::Shape { .. } | Self::Interrupted | Self::Message(_) | Self::Weights(_) => false,
        }
    }
}

/// Whether the tensor library's error says that a card's memory is used up. Only its words tell: they are the driver's, or cuBLAS'.
pub fn is_out_of_memory(error: &candle_core::Error) -> bool {
    let text = error.to_string().to_ascii_lowercase();
    ["out_of_memory", "out of memory", "alloc_failed"].iter().any(|words| text.contains(words))
}
