//! The one error type of node code.

/// A node's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a node failed. The executor adds the node's id, class and inputs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The prompt was interrupted; not a failure of the node.
    #[error("interrupted")]
    Interrupted,
    /// An input that the node needs is absent.
    #[error("input '{0}' is missing: connect it or give it a value")]
    MissingInput(String),
    /// An input holds another type than the node takes.
    #[error("input '{name}' holds {got}, the node takes {wanted}")]
    WrongType {
        /// The input's name.
        name: String,
        /// What it holds.
        got: String,
        /// What the node takes.
        wanted: String,
    },
    /// Anything else, as a sentence that says what to do.
    #[error("{0}")]
    Failed(String),
    /// A failure of the reading or writing of a file.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A domain error of a crate below the nodes.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// An error with a sentence of its own.
    pub fn msg(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }

    /// Wraps a lower crate's error.
    pub fn other(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Other(Box::new(error))
    }

    /// The name under which clients see the error's kind (ComfyUI puts the exception's class there).
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Interrupted => "InterruptProcessingException",
            Self::MissingInput(_) => "TypeError",
            Self::WrongType { .. } => "ValueError",
            Self::Failed(_) | Self::Other(_) => "RuntimeError",
            Self::Io(_) => "OSError",
        }
    }
}
