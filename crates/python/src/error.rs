//! Why a worker cannot be had, and what becomes of that in a prompt.

/// Why a worker cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The folder or the interpreter cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// It did not start: why, with the last lines that it wrote.
    #[error("{0}")]
    NotStarted(String),
    /// It ended while it was needed.
    #[error("{0}")]
    Ended(String),
    /// It raised an exception.
    #[error("{0}")]
    Raised(String),
}

impl From<Error> for comfyd_node::Error {
    fn from(error: Error) -> Self {
        Self::Failed(error.to_string())
    }
}
