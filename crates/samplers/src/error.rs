//! The one error type of this crate.

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong while sampling.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The prompt was interrupted.
    #[error("the work was interrupted")]
    Interrupted,
    /// Any other reason, as a sentence that says what to do.
    #[error("{0}")]
    Message(String),
    /// What the denoiser reports.
    #[error(transparent)]
    Denoiser(Box<dyn std::error::Error + Send + Sync>),
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
