//! Classes whose code runs in another process: what the executor tells such a host, and what it is told.

use std::any::Any;
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::{Map, Value as Json};

use crate::{CancellationToken, Fingerprint, Hidden, NodeOutput, Reporter, Result, Value};

/// A prompt as a host is told of it.
pub struct HostedPrompt<'a> {
    /// What hidden inputs show of it.
    pub hidden: &'a Hidden,
    /// Its number in the queue.
    pub number: f64,
    /// The client that sent it.
    pub client_id: Option<&'a str>,
    /// The output nodes to run.
    pub outputs: &'a [String],
}

/// A process beside this one in which classes run. Objects that they make stay there.
pub trait Host: Any + Send + Sync {
    /// Its name, for people and for signatures.
    fn name(&self) -> &str;

    /// Changes with the code that its classes run: results of other code are not used again.
    fn version(&self) -> String;

    /// A prompt begins that has classes of this host. Waits until it is up; what its classes report while the prompt runs goes to `reporter`.
    /// Told once a prompt, before anything else of this prompt is asked of its classes.
    fn begin(&self, prompt: &HostedPrompt<'_>, reporter: Arc<dyn Reporter>, cancel: &CancellationToken) -> Result<()>;

    /// The prompt is over: calls that still run are given up.
    fn end(&self);

    /// The prompt is to stop: calls that run end with [`crate::Error::Interrupted`], or with the host.
    fn interrupt(&self);

    /// Unloads models, or drops all that is kept.
    fn free(&self, unload_models: bool, free_memory: bool);
}

/// Where an input of a hosted class comes from.
#[derive(Debug, Clone)]
pub enum Argument {
    /// A constant of the graph.
    Constant(Value),
    /// A link.
    Link {
        /// The node's id.
        node: Arc<str>,
        /// The output's index.
        slot: usize,
        /// All values that came along it; `None` where its node was not evaluated, or where only constants are told.
        values: Option<Arc<Vec<Value>>>,
    },
}

/// The inputs of a node as they stand in the graph, those that its class does not declare included, in the prompt's order.
pub type Arguments = IndexMap<Arc<str>, Argument>;

/// One node of the graph, to be called.
#[derive(Debug, Clone)]
pub struct HostedCall {
    /// The node's id.
    pub node: Arc<str>,
    /// The id under which clients show it.
    pub display: Arc<str>,
    /// Its inputs.
    pub arguments: Arguments,
}

/// What a hosted class gave.
#[derive(Debug)]
pub struct HostedOutput {
    /// The outputs.
    pub returned: Returned,
    /// What the client is shown, all calls joined.
    pub ui: Option<Map<String, Json>>,
    /// The messages of execution blockers that kept it from being called, to be told to the client.
    pub blocked: Vec<String>,
}

/// The outputs of a hosted class.
#[derive(Debug)]
pub enum Returned {
    /// Output slot → its values, all calls joined.
    Values(Vec<Arc<Vec<Value>>>),
    /// Call by call, with what some of them expanded into.
    Calls(Vec<NodeOutput>),
}

/// An input that a class refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The input's name.
    pub input: String,
    /// Why; `None` where the class only said no.
    pub reason: Option<String>,
}

/// What a class makes of an input that its schema does not declare.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inspected {
    /// It waits until the class asks for it.
    pub lazy: bool,
    /// The class gets the link itself.
    pub raw_link: bool,
}

/// Takes a call's result, on any thread.
pub type Done = Box<dyn FnOnce(Result<HostedOutput>) + Send>;

/// A class whose code runs in a [`Host`]. All calls over lists are one call here: the host makes them.
pub trait HostedNode: Send + Sync {
    /// Where it runs.
    fn host(&self) -> Arc<dyn Host>;

    /// The class's own check. `types` gives the types of linked inputs. No prompt needs to have begun.
    fn validate(&self, node: &str, arguments: &Arguments, types: &Map<String, Json>) -> Result<Vec<Refusal>>;

    /// What the class makes of links under names that its schema does not declare, by name.
    fn inspect(&self, arguments: &Arguments) -> Result<IndexMap<String, Inspected>>;

    /// Whether [`HostedNode::fingerprint`] must be asked at all. Where it need not be, a prompt whose results are all cached never waits for
    /// the host.
    fn fingerprints(&self) -> bool {
        true
    }

    /// Whether the result depends on more than the inputs. Only constants are told.
    fn fingerprint(&self, call: &HostedCall, cancel: &CancellationToken) -> Result<Fingerprint>;

    /// The inputs that are needed now. Asked before each run; a class that never asks for any answers at once.
    fn needed(&self, call: &HostedCall, cancel: &CancellationToken) -> Result<Vec<String>>;

    /// A value at one of its links could not leave its process: from now on its schema says so.
    fn stay(&self) {}

    /// Begins a call, and returns at once. The result goes to `done`, whatever happens: also when the host ends.
    fn run(&self, call: HostedCall, done: Done);
}
