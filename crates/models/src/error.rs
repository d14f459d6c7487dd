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
}
