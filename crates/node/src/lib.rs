//! What a node is: the [`Node`] trait, input and output schemas, the opaque [`Value`] that travels along links, and the [`Catalog`] of
//! node classes. This crate does not know what a tensor means, how a graph is ordered, or that HTTP exists.

mod acting;
mod catalog;
mod context;
mod error;
mod hosted;
mod input;
pub mod replacement;
mod schema;
mod shared;
mod value;

/// Tells running work that its prompt was interrupted.
pub use tokio_util::sync::CancellationToken;

pub use crate::acting::{Acting, Actor, acting_for, actor};
pub use crate::catalog::{Catalog, Code, Entry, Provider};
pub use crate::context::{Context, Hidden, PreviewImage, Reporter, SilentReporter};
pub use crate::error::{Error, Raised, Result};
pub use crate::hosted::{
    Argument, Arguments, Done, Host, HostedCall, HostedNode, HostedOutput, HostedPrompt, Inspected, Refusal, Returned,
};
pub use crate::input::{
    BRANCHES, Branch, ChoicePart, Choices, FileSource, GROWS, Generation, Grow, GrowNames, Input, InputKind, MATCH_TYPE, OptionSource,
    SLOT, StaticOptions,
};
pub use crate::replacement::{Replacement, Replacements};
pub use crate::schema::{HiddenKind, Hosted, Output, Schema};
pub use crate::shared::SharedCatalog;
pub use crate::value::{Expansion, ExpansionNode, Inputs, NodeOutput, Opaque, Source, Value};

/// How a node tells the cache that its inputs alone do not decide its result (ComfyUI's `IS_CHANGED`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fingerprint {
    /// Equal inputs give an equal result.
    Inputs,
    /// Besides the inputs, this text decides the result (the hash of a file's content).
    Text(String),
    /// Run every time.
    Always,
}

/// One node class. An implementation is shared by all prompts and runs on a device thread; it holds what it needs (folders, an engine)
/// from its construction.
///
/// A panic in any of these methods fails the prompt and is reported as the node's error.
pub trait Node: Send + Sync {
    /// The class's declaration: names, inputs, outputs. Called once, when the class enters the catalog.
    fn schema(&self) -> Schema;

    /// Why this implementation cannot run with these constants where another one may (a checkpoint of a family that the engine lacks); asked
    /// only where there is another.
    fn declines(&self, _inputs: &Inputs) -> Option<String> {
        None
    }

    /// Checks input values beyond what the schema says (ComfyUI's `VALIDATE_INPUTS`). `inputs` holds the widget values only: linked
    /// inputs are absent. The checks that the schema implies (range, choices) are skipped for the inputs that
    /// [`Schema::validates`] names. The error is the sentence shown to the user.
    fn validate(&self, _inputs: &Inputs) -> std::result::Result<(), String> {
        Ok(())
    }

    /// Whether the result depends on more than the inputs. `inputs` holds the widget values only. What takes long, such as the hash of a
    /// large file, ends with [`Error::Interrupted`] once `cancel` says so.
    fn fingerprint(&self, _inputs: &Inputs, _cancel: &CancellationToken) -> Result<Fingerprint> {
        Ok(Fingerprint::Inputs)
    }

    /// Which of the inputs declared lazy are needed now (ComfyUI's `check_lazy_status`). `inputs` holds what has been evaluated; a lazy
    /// input that has not is absent. Called again after those were evaluated, until it names no input that is absent.
    fn needed(&self, inputs: &Inputs) -> Result<Vec<String>> {
        Ok(self.schema().lazy_inputs(inputs))
    }

    /// Computes the outputs. Long work calls [`Context::check_cancelled`] at least once a step and reports with [`Context::progress`].
    fn run(&self, cx: &mut Context<'_>, inputs: Inputs) -> Result<NodeOutput>;
}
