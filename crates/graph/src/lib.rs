//! Workflow graphs: parsing prompts in API format, validating them with every error at once, ordering nodes for execution, and
//! signatures under which results are cached. Pure: this crate does no I/O, runs no node and does not know what a tensor is.

mod check;
mod graph;
mod order;
mod prompt;
mod python;
pub mod report;
mod signature;
mod validate;

pub use crate::graph::{Error, Graph, GraphInput, GraphNode, InputSource, Link, NodeIndex};
pub use crate::order::{Cycle, ExecutionList, Surroundings};
pub use crate::prompt::{Limits, Prompt, as_link};
pub use crate::report::{NodeErrors, NodeReport, Problem, PromptProblem, Rejected};
pub use crate::signature::{Signature, Signatures};
pub use crate::validate::{Validated, validate};
