//! Workflow graphs: parsing prompts in API format, validating them with every error at once, ordering nodes for execution, and
//! signatures under which results are cached. Pure: this crate does no I/O, runs no node and does not know what a tensor is.

mod check;
#[cfg(test)]
mod double;
mod dynamic;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod graph;
mod order;
mod place;
mod placement;
mod prompt;
mod python;
mod replace;
pub mod report;
mod signature;
mod validate;

pub use crate::graph::{Error, Graph, GraphInput, GraphNode, InputSource, Link, NodeIndex};
pub use crate::order::{Cycle, ExecutionList, Surroundings};
pub use crate::place::{place, place_expansion};
pub use crate::placement::{Placement, PlacementMode, Placing};
pub use crate::prompt::{Limits, Prompt, as_link};
pub use crate::replace::replace;
pub use crate::report::{NodeErrors, NodeReport, Problem, PromptProblem, Rejected, Unchecked, Unplaceable};
pub use crate::signature::{Signature, Signatures};
pub use crate::validate::{Validated, validate};
