//! Why a prompt ends early, from the error of a step to what is reported of its node.

use std::borrow::Cow;
use std::sync::Arc;

use comfyd_graph::Unplaceable;
use comfyd_node::Error as NodeError;
use serde_json::Value as Json;

/// Why a prompt ended early.
pub(crate) struct Halt {
    /// The node's id; of the prompt's node if it failed inside an expansion.
    pub node_id: Arc<str>,
    /// Its class.
    pub node_type: Arc<str>,
    /// What happened.
    pub stop: Stop,
}

/// A failed step.
pub(crate) enum Stop {
    Interrupted,
    Failed(Box<Failed>),
}

/// What is told of a failure.
pub(crate) struct Failed {
    pub kind: Cow<'static, str>,
    pub message: String,
    /// Where it was raised, or the causes below, outermost first.
    pub traceback: Vec<String>,
    /// What the node was given, if the error itself tells.
    pub inputs: Option<Json>,
    /// A device's memory ran out.
    pub out_of_memory: bool,
    /// A value would have had to leave its host: with the nodes elsewhere it might not.
    pub cannot_cross: bool,
}

impl Failed {
    pub fn new(kind: impl Into<Cow<'static, str>>, message: String) -> Box<Self> {
        Box::new(Self { kind: kind.into(), message, traceback: Vec::new(), inputs: None, out_of_memory: false, cannot_cross: false })
    }
}

impl From<NodeError> for Stop {
    fn from(error: NodeError) -> Self {
        let error = match error {
            NodeError::Interrupted => return Self::Interrupted,
            NodeError::Raised(raised) => {
                let comfyd_node::Raised { kind, message, traceback, inputs, out_of_memory } = *raised;
                let failed = Failed { kind: kind.into(), message, traceback, inputs, out_of_memory, cannot_cross: false };
                return Self::Failed(Box::new(failed));
            }
            NodeError::MissingInput(_)
            | NodeError::WrongType { .. }
            | NodeError::CannotCross(_)
            | NodeError::OutOfMemory(_)
            | NodeError::Unreachable(_)
            | NodeError::Failed(_)
            | NodeError::Io(_)
            | NodeError::Other(_) => error,
        };
        let mut failed = Failed::new(error.kind().to_owned(), error.to_string());
        failed.cannot_cross = matches!(error, NodeError::CannotCross(_));
        failed.out_of_memory = matches!(error, NodeError::OutOfMemory(_));
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            failed.traceback.push(format!("caused by: {cause}\n"));
            source = cause.source();
        }
        Self::Failed(failed)
    }
}

impl From<Box<Unplaceable>> for Stop {
    fn from(error: Box<Unplaceable>) -> Self {
        let mut failed = Failed::new("RuntimeError", error.to_string());
        failed.cannot_cross = true;
        Self::Failed(failed)
    }
}

impl From<comfyd_graph::Error> for Stop {
    fn from(error: comfyd_graph::Error) -> Self {
        use comfyd_graph::Error;
        let kind = match &error {
            Error::DuplicateNode(_) => "DuplicateNodeError",
            Error::UnknownClass { .. } | Error::DanglingLink { .. } => "NodeNotFoundError",
            Error::NotAGraph => "ValueError",
            Error::TooManyNodes { .. } | Error::TooDeep { .. } => "RecursionError",
        };
        Self::Failed(Failed::new(kind, error.to_string()))
    }
}
