//! What is wrong with a prompt, and how the reference writes it: types, messages, details and `extra_info` as clients parse them.

use std::borrow::Cow;
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::{Map, Value as Json, json};

use crate::python;

/// Combos with more choices than this are named by their length only.
const LISTED_CHOICES_MAX: usize = 20;

/// Why no part of a prompt can run; `error` of the answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PromptProblem {
    /// The prompt is something other than an object of nodes.
    #[error("the prompt must be an object of nodes in API format: export the workflow with \"Export (API)\"")]
    NotAnObject,
    /// More nodes than the server takes.
    #[error("the prompt has {count} nodes, at most {max} are allowed: split it, or raise the limit")]
    TooManyNodes {
        /// Nodes sent.
        count: usize,
        /// Nodes allowed.
        max: usize,
    },
    /// A node has more inputs than the server takes.
    #[error("node '{node}' has {count} inputs, at most {max} are allowed")]
    TooManyInputs {
        /// The node's id.
        node: String,
        /// Inputs sent.
        count: usize,
        /// Inputs allowed.
        max: usize,
    },
    /// A value is nested deeper than the server takes.
    #[error("input '{input}' of node '{node}' is nested deeper than {max} levels: flatten the value")]
    TooDeep {
        /// The node's id.
        node: Box<str>,
        /// The input's name.
        input: Box<str>,
        /// Levels allowed.
        max: usize,
    },
    /// `inputs` of a node is something other than an object.
    #[error("the inputs of node '{node}' must be an object of names and values")]
    InputsNotAnObject {
        /// The node's id.
        node: String,
    },
    /// A node without `class_type`.
    #[error(
        "Node '{}' has no class_type. The workflow may be corrupted or a custom node is missing.",
        title.as_ref().map_or_else(|| format!("ID #{node}"), ToString::to_string)
    )]
    MissingClass {
        /// The node's id.
        node: Box<str>,
        /// Its title, if the client sent one.
        title: Option<Box<str>>,
    },
    /// A class that the catalog does not have.
    #[error("Node '{}' not found. The custom node may not be installed.", wanted.shown())]
    UnknownClass {
        /// The node's id.
        node: Box<str>,
        /// What is asked for.
        wanted: Box<Wanted>,
    },
    /// No output node, or none among the partial targets.
    #[error("Prompt has no outputs")]
    NoOutputs,
    /// Every output failed its validation.
    #[error("Prompt outputs failed validation")]
    OutputsFailed {
        /// The outputs' own errors, one a line.
        details: String,
    },
    /// Whoever checks a node's inputs cannot be reached now.
    #[error(transparent)]
    Unchecked(Box<Unchecked>),
    /// Linked classes that have no process in common.
    #[error(transparent)]
    Unplaceable(Box<Unplaceable>),
}

/// A class that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The class, as Python would print it.
    pub class: String,
    /// The node's title, if the client sent one.
    pub title: Option<String>,
}

impl Wanted {
    /// By which name people know it.
    fn shown(&self) -> &str {
        self.title.as_ref().unwrap_or(&self.class)
    }
}

/// A node whose inputs nobody can check now. Nothing is wrong with the prompt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the inputs of class '{class}' cannot be checked now: {reason}: try again later")]
pub struct Unchecked {
    /// The node's id.
    pub node: String,
    /// Its class.
    pub class: String,
    /// Why.
    pub reason: String,
}

/// Two linked nodes of which one process cannot run both, although what travels between them cannot leave the process that made it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "what class '{from_class}' gives class '{to_class}' ({ty}) cannot leave the process that made it, and no process runs both{}",
    reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default()
)]
pub struct Unplaceable {
    /// The node that gives.
    pub from: String,
    /// Its class.
    pub from_class: String,
    /// The node that takes.
    pub to: String,
    /// Its class.
    pub to_class: String,
    /// The type of what travels.
    pub ty: String,
    /// Why a class that this process has cannot be used here.
    pub reason: Option<String>,
}

impl PromptProblem {
    /// The error's type on the wire.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotAnObject
            | Self::TooManyNodes { .. }
            | Self::TooManyInputs { .. }
            | Self::TooDeep { .. }
            | Self::InputsNotAnObject { .. } => "invalid_prompt",
            Self::MissingClass { .. } | Self::UnknownClass { .. } => "missing_node_type",
            Self::NoOutputs => "prompt_no_outputs",
            Self::OutputsFailed { .. } => "prompt_outputs_failed_validation",
            Self::Unchecked(_) => "worker_unavailable",
            Self::Unplaceable(_) => "prompt_cannot_be_placed",
        }
    }

    /// Where it is.
    pub fn details(&self) -> String {
        match self {
            Self::NotAnObject | Self::TooManyNodes { .. } | Self::NoOutputs => String::new(),
            Self::TooDeep { node, .. } => format!("Node ID '#{node}'"),
            Self::MissingClass { node, .. } | Self::UnknownClass { node, .. } => format!("Node ID '#{node}'"),
            Self::Unchecked(unchecked) => format!("Node ID '#{}'", unchecked.node),
            Self::TooManyInputs { node, .. } | Self::InputsNotAnObject { node } => format!("Node ID '#{node}'"),
            Self::OutputsFailed { details } => details.clone(),
            Self::Unplaceable(between) => format!("Node ID '#{}' -> Node ID '#{}'", between.from, between.to),
        }
    }

    /// What programs read of it.
    pub fn extra_info(&self) -> Json {
        match self {
            Self::MissingClass { node, title } => json!({"node_id": node, "class_type": null, "node_title": title}),
            Self::UnknownClass { node, wanted } => {
                json!({"node_id": node, "class_type": wanted.class, "node_title": wanted.shown()})
            }
            Self::NotAnObject
            | Self::TooManyNodes { .. }
            | Self::TooManyInputs { .. }
            | Self::TooDeep { .. }
            | Self::InputsNotAnObject { .. }
            | Self::NoOutputs
            | Self::OutputsFailed { .. }
            | Self::Unchecked(_)
            | Self::Unplaceable(_) => json!({}),
        }
    }

    /// `{type, message, details, extra_info}`.
    pub fn to_json(&self) -> Json {
        wire(self.kind(), &self.to_string(), &self.details(), self.extra_info())
    }
}

/// A prompt that is refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejected {
    /// Why.
    pub error: PromptProblem,
    /// What is wrong with each node.
    pub node_errors: NodeErrors,
}

impl Rejected {
    /// `{error, node_errors}`, the body of the answer.
    pub fn to_json(&self) -> Json {
        json!({"error": self.error.to_json(), "node_errors": self.node_errors.to_json()})
    }
}

impl From<PromptProblem> for Rejected {
    fn from(error: PromptProblem) -> Self {
        Self { error, node_errors: NodeErrors::default() }
    }
}

/// Node id → what is wrong with it, in the order of discovery.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeErrors {
    /// The nodes.
    pub nodes: IndexMap<String, NodeReport>,
}

impl NodeErrors {
    /// Whether no node has errors.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// `node_errors` of the answer.
    pub fn to_json(&self) -> Json {
        Json::Object(self.nodes.iter().map(|(id, report)| (id.clone(), report.to_json())).collect())
    }
}

/// What is wrong with one node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeReport {
    /// All its problems.
    pub problems: Vec<Problem>,
    /// The outputs that cannot run because of it.
    pub dependent_outputs: Vec<String>,
    /// Its class.
    pub class_type: String,
}

impl NodeReport {
    /// `{errors, dependent_outputs, class_type}`.
    pub fn to_json(&self) -> Json {
        let errors: Vec<Json> = self.problems.iter().map(Problem::to_json).collect();
        json!({"errors": errors, "dependent_outputs": self.dependent_outputs, "class_type": self.class_type})
    }
}

/// A failure that the reference knows only as a Python exception.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    /// The exception's class, such as `KeyError`.
    pub kind: Cow<'static, str>,
    /// Its text.
    pub text: String,
    /// Where it was raised, outermost first, where another process raised it.
    pub traceback: Vec<String>,
}

impl Exception {
    pub(crate) fn new(kind: &'static str, text: impl Into<String>) -> Self {
        Self { kind: kind.into(), text: text.into(), traceback: Vec::new() }
    }
}

impl From<comfyd_node::Error> for Exception {
    fn from(error: comfyd_node::Error) -> Self {
        let (kind, text) = (error.kind().to_owned().into(), error.to_string());
        let traceback = if let comfyd_node::Error::Raised(raised) = error { raised.traceback } else { Vec::new() };
        Self { kind, text, traceback }
    }
}

/// One problem of one node. `config` is the input's declaration as clients know it: `[type, options]`.
#[derive(Debug, Clone, PartialEq)]
pub enum Problem {
    /// A required input is absent.
    RequiredInputMissing {
        /// The input's name.
        input: String,
        /// Its name where it is shown: without those of the inputs that it belongs to.
        shown: String,
    },
    /// An array that is no `[node, slot]`.
    BadLinkedInput {
        /// The input's name.
        input: String,
        /// Its declaration.
        config: Json,
        /// What was sent.
        received: Json,
    },
    /// The linked output has another type.
    ReturnTypeMismatch {
        /// The input's name.
        input: String,
        /// Its declaration.
        config: Json,
        /// The output's type.
        received_type: String,
        /// The input's type as Python prints it.
        input_type: String,
        /// The link.
        link: Json,
    },
    /// A value that cannot become the input's type.
    InvalidInputType {
        /// The input's name.
        input: String,
        /// Its declaration.
        config: Json,
        /// `INT`, `FLOAT`, `STRING` or `BOOLEAN`.
        wanted: &'static str,
        /// What was sent.
        received: Json,
        /// Python's sentence about it.
        reason: String,
    },
    /// Below the smallest value.
    ValueSmallerThanMin {
        /// The input's name.
        input: String,
        /// Its declaration.
        config: Json,
        /// What was sent, converted.
        received: Json,
        /// The smallest value.
        min: Json,
    },
    /// Above the largest value.
    ValueBiggerThanMax {
        /// The input's name.
        input: String,
        /// Its declaration.
        config: Json,
        /// What was sent, converted.
        received: Json,
        /// The largest value.
        max: Json,
    },
    /// [`comfyd_node::Node::validate`] refused the values.
    CustomValidationFailed {
        /// The input's name.
        input: String,
        /// The node's sentence, if it gave one.
        reason: Option<String>,
    },
    /// Not one of a combo's choices.
    ValueNotInList {
        /// The input's name.
        input: String,
        /// Its declaration.
        config: Json,
        /// What was sent.
        received: Json,
        /// What of it is no choice, where several may be chosen.
        refused: Vec<Json>,
        /// The choices.
        choices: Vec<Json>,
    },
    /// A node could not be checked (its own link leads nowhere); found when the node that uses it was checked.
    InnerException {
        /// The using node's input.
        input: String,
        /// Its declaration.
        config: Json,
        /// Its link to this node.
        link: Json,
        /// What happened.
        exception: Exception,
    },
    /// An output node could not be checked.
    Exception {
        /// What happened.
        exception: Exception,
    },
    /// Links make a circle that this node is in.
    DependencyCycle {
        /// The node's id.
        node: String,
        /// The nodes in the circle and their classes, each using the next one.
        circle: Arc<[(String, String)]>,
    },
}

impl Problem {
    /// The error's type on the wire.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RequiredInputMissing { .. } => "required_input_missing",
            Self::BadLinkedInput { .. } => "bad_linked_input",
            Self::ReturnTypeMismatch { .. } => "return_type_mismatch",
            Self::InvalidInputType { .. } => "invalid_input_type",
            Self::ValueSmallerThanMin { .. } => "value_smaller_than_min",
            Self::ValueBiggerThanMax { .. } => "value_bigger_than_max",
            Self::CustomValidationFailed { .. } => "custom_validation_failed",
            Self::ValueNotInList { .. } => "value_not_in_list",
            Self::InnerException { .. } => "exception_during_inner_validation",
            Self::Exception { .. } => "exception_during_validation",
            Self::DependencyCycle { .. } => "dependency_cycle",
        }
    }

    /// The sentence shown to the user.
    pub fn message(&self) -> String {
        match self {
            Self::RequiredInputMissing { .. } => "Required input is missing".into(),
            Self::BadLinkedInput { .. } => "Bad linked input, must be a length-2 list of [node_id, slot_index]".into(),
            Self::ReturnTypeMismatch { .. } => "Return type mismatch between linked nodes".into(),
            Self::InvalidInputType { wanted, .. } => format!("Failed to convert an input value to a {wanted} value"),
            Self::ValueSmallerThanMin { received, min, .. } => {
                format!("Value {} smaller than min of {}", python::str(received), python::str(min))
            }
            Self::ValueBiggerThanMax { received, max, .. } => {
                format!("Value {} bigger than max of {}", python::str(received), python::str(max))
            }
            Self::CustomValidationFailed { .. } => "Custom validation failed for node".into(),
            Self::ValueNotInList { .. } => "Value not in list".into(),
            Self::InnerException { .. } => "Exception when validating inner node".into(),
            Self::Exception { .. } => "Exception when validating node".into(),
            Self::DependencyCycle { .. } => "Dependency cycle detected".into(),
        }
    }

    /// Where it is, and what was found there.
    pub fn details(&self) -> String {
        match self {
            Self::RequiredInputMissing { shown, .. } => shown.clone(),
            Self::BadLinkedInput { input, .. } | Self::ValueSmallerThanMin { input, .. } | Self::ValueBiggerThanMax { input, .. } => {
                input.clone()
            }
            Self::ReturnTypeMismatch { input, received_type, input_type, .. } => {
                format!("{input}, received_type({received_type}) mismatch input_type({input_type})")
            }
            Self::InvalidInputType { input, received, reason, .. } => format!("{input}, {}, {reason}", python::str(received)),
            Self::CustomValidationFailed { input, reason: None } => input.clone(),
            Self::CustomValidationFailed { input, reason: Some(reason) } => format!("{input} - {reason}"),
            Self::ValueNotInList { input, received, refused, choices, .. } => {
                let list = if choices.len() > LISTED_CHOICES_MAX {
                    format!("(list of length {})", choices.len())
                } else {
                    python::repr_list(choices)
                };
                let refused: Vec<String> = refused.iter().map(python::repr).collect();
                let refused = if refused.is_empty() { format!("'{}'", python::str(received)) } else { refused.join(", ") };
                format!("{input}: {refused} not in {list}")
            }
            Self::InnerException { exception, .. } | Self::Exception { exception } => exception.text.clone(),
            Self::DependencyCycle { circle, .. } => {
                let closed = circle.iter().chain(circle.first());
                closed.map(|(node, class)| format!("{node} ({class})")).collect::<Vec<_>>().join(" -> ")
            }
        }
    }

    /// `{type, message, details, extra_info}`.
    pub fn to_json(&self) -> Json {
        wire(self.kind(), &self.message(), &self.details(), self.extra_info())
    }

    fn extra_info(&self) -> Json {
        match self {
            Self::RequiredInputMissing { input, .. } | Self::CustomValidationFailed { input, .. } => json!({"input_name": input}),
            Self::BadLinkedInput { input, config, received } => {
                json!({"input_name": input, "input_config": config, "received_value": received})
            }
            Self::ValueSmallerThanMin { input, config, received, .. } | Self::ValueBiggerThanMax { input, config, received, .. } => {
                json!({"input_name": input, "input_config": config, "received_value": python::nearest(received)})
            }
            Self::ReturnTypeMismatch { input, config, received_type, link, .. } => {
                json!({"input_name": input, "input_config": config, "received_type": received_type, "linked_node": link})
            }
            Self::InvalidInputType { input, config, received, reason, .. } => {
                json!({"input_name": input, "input_config": config, "received_value": received, "exception_message": reason})
            }
            Self::ValueNotInList { input, config, received, choices, .. } => {
                let config = if choices.len() > LISTED_CHOICES_MAX { &Json::Null } else { config };
                json!({"input_name": input, "input_config": config, "received_value": received})
            }
            Self::InnerException { input, config, link, exception } => json!({
                "input_name": input,
                "input_config": config,
                "exception_message": exception.text,
                "exception_type": exception.kind,
                "traceback": exception.traceback,
                "linked_node": link,
            }),
            Self::Exception { exception } => json!({"exception_type": exception.kind, "traceback": exception.traceback}),
            Self::DependencyCycle { node, circle } => {
                let nodes: Vec<&str> = circle.iter().map(|(node, _)| node.as_str()).collect();
                json!({"node_id": node, "cycle_nodes": nodes})
            }
        }
    }
}

fn wire(kind: &str, message: &str, details: &str, extra_info: Json) -> Json {
    let mut error = Map::new();
    error.insert("type".into(), kind.into());
    error.insert("message".into(), message.into());
    error.insert("details".into(), details.into());
    error.insert("extra_info".into(), extra_info);
    Json::Object(error)
}
