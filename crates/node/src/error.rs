//! The one error type of node code.

use serde_json::Value as Json;

/// A node's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An exception of code in another process.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Raised {
    /// The exception's class, with its module.
    pub kind: String,
    /// What it says.
    pub message: String,
    /// Where it was raised, outermost first, as texts with line breaks.
    pub traceback: Vec<String>,
    /// What the class was given, as clients are shown it.
    pub inputs: Option<Json>,
    /// Whether a device's memory ran out.
    pub out_of_memory: bool,
}

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
    /// What another process raised, in its own words.
    #[error("{}", .0.message)]
    Raised(Box<Raised>),
    /// A value that another host made and that cannot leave it.
    #[error("{0}")]
    CannotCross(String),
    /// There is too little memory for it: a sentence that says how much.
    #[error("{0}")]
    OutOfMemory(String),
    /// Whoever could say or do it cannot be reached now: a sentence. Nothing is wrong with what was asked, and later it may work.
    #[error("{0}")]
    Unreachable(String),
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

    /// Of the refusal of an account of memory.
    pub fn out_of_memory(refused: impl std::fmt::Display) -> Self {
        Self::OutOfMemory(refused.to_string())
    }

    /// The name under which clients see the error's kind (ComfyUI puts the exception's class there).
    pub fn kind(&self) -> &str {
        match self {
            Self::Raised(raised) => &raised.kind,
            Self::Interrupted => "InterruptProcessingException",
            Self::MissingInput(_) => "TypeError",
            Self::WrongType { .. } => "ValueError",
            // PyTorch's, which clients know.
            Self::OutOfMemory(_) => "torch.OutOfMemoryError",
            Self::Failed(_) | Self::CannotCross(_) | Self::Unreachable(_) | Self::Other(_) => "RuntimeError",
            Self::Io(_) => "OSError",
        }
    }
}
