//! Checks a prompt against the catalog and tells everything that is wrong with it.

use comfyd_node::{Catalog, OptionSource};

use crate::prompt::Prompt;
use crate::report::{NodeErrors, PromptProblem, Rejected};

/// A prompt of which at least one output can run.
#[derive(Debug, Clone, PartialEq)]
pub struct Validated {
    /// The output nodes to run, in order.
    pub outputs: Vec<String>,
    /// What is wrong with the outputs that are left out, node by node.
    pub node_errors: NodeErrors,
    /// The prompt with its widget values converted to the types that the classes declare.
    pub prompt: Prompt,
}

/// Checks the outputs of a prompt (with `partial_targets`, only those named there) and all nodes that they use.
pub fn validate(
    _catalog: &Catalog,
    _options: &dyn OptionSource,
    prompt: Prompt,
    _partial_targets: Option<&[String]>,
) -> Result<Validated, Rejected> {
    let _ = prompt;
    Err(PromptProblem::NoOutputs.into())
}
