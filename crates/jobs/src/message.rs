//! What the history tells of a prompt's run, and where the nodes that show something belong. The serde forms here are those of stored
//! histories. They never change: every database has them, and lists of the history are put together from their text without reading it.

use std::borrow::Cow;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value as Json;

/// A node as events and the history name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRef {
    /// Its id in the graph; for a node of an expansion, an id that the client does not know.
    pub id: Arc<str>,
    /// The id under which clients show it.
    pub display_id: Arc<str>,
    /// The node of the submitted graph from which it comes.
    pub real_id: Arc<str>,
    /// The node that it expanded from.
    pub parent_id: Option<Arc<str>>,
    /// Its class.
    pub class_type: Arc<str>,
    /// Its title, if the client sent one (`_meta.title`).
    pub title: Option<Arc<str>>,
}

/// One message of the history; its serde form is its data. All are told as events too, and the last one ends the prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Message {
    /// The prompt begins.
    Start {
        /// The prompt.
        prompt_id: Arc<str>,
        /// Milliseconds since 1970.
        #[serde(rename = "timestamp")]
        timestamp_ms: i64,
    },
    /// These nodes need not run; told of every prompt.
    Cached {
        /// Node ids.
        nodes: Vec<Arc<str>>,
        /// The prompt.
        prompt_id: Arc<str>,
        /// Milliseconds since 1970.
        #[serde(rename = "timestamp")]
        timestamp_ms: i64,
    },
    /// All outputs ran.
    Success {
        /// The prompt.
        prompt_id: Arc<str>,
        /// Milliseconds since 1970.
        #[serde(rename = "timestamp")]
        timestamp_ms: i64,
    },
    /// A node failed. Told of a node that was blocked too, which ends nothing and is not kept.
    Failed(Box<Failure>),
    /// The user interrupted.
    Interrupted(Interruption),
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// The prompt.
    pub prompt_id: Arc<str>,
    /// The node of the submitted graph that failed; empty when the reason lies in no node.
    pub node_id: Arc<str>,
    /// Its class.
    pub node_type: Arc<str>,
    /// The nodes that ran before, in order.
    pub executed: Vec<Arc<str>>,
    /// What the node said.
    pub exception_message: String,
    /// Its kind, by the name of a Python exception where there is one.
    pub exception_type: Cow<'static, str>,
    /// The causes below, outermost first.
    pub traceback: Vec<String>,
    /// What the node was given: name of the input → its values.
    pub current_inputs: Json,
    /// All nodes of the prompt, as the reference has them under this name.
    pub current_outputs: Vec<Arc<str>>,
    /// Milliseconds since 1970; none if the prompt goes on.
    #[serde(rename = "timestamp", default, skip_serializing_if = "Option::is_none")]
    pub timestamp_ms: Option<i64>,
}

/// Where the user stopped it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Interruption {
    /// The prompt.
    pub prompt_id: Arc<str>,
    /// The node of the submitted graph that ran; empty when none did.
    pub node_id: Arc<str>,
    /// Its class.
    pub node_type: Arc<str>,
    /// The nodes that ran before, in order.
    pub executed: Vec<Arc<str>>,
    /// Milliseconds since 1970.
    #[serde(rename = "timestamp")]
    pub timestamp_ms: i64,
}

impl Message {
    /// Its name in stored histories, which is ComfyUI's.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Start { .. } => "execution_start",
            Self::Cached { .. } => "execution_cached",
            Self::Success { .. } => "execution_success",
            Self::Failed(_) => "execution_error",
            Self::Interrupted(_) => "execution_interrupted",
        }
    }
}

/// A message that came from another process: its name and its data.
impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Times {
            prompt_id: Arc<str>,
            #[serde(rename = "timestamp")]
            timestamp_ms: i64,
            #[serde(default)]
            nodes: Vec<Arc<str>>,
        }
        let (name, data): (String, Json) = Deserialize::deserialize(deserializer)?;
        let times = |data| serde_json::from_value::<Times>(data).map_err(D::Error::custom);
        match name.as_str() {
            "execution_start" => times(data).map(|Times { prompt_id, timestamp_ms, .. }| Self::Start { prompt_id, timestamp_ms }),
            "execution_success" => times(data).map(|Times { prompt_id, timestamp_ms, .. }| Self::Success { prompt_id, timestamp_ms }),
            "execution_cached" => {
                times(data).map(|Times { prompt_id, timestamp_ms, nodes }| Self::Cached { nodes, prompt_id, timestamp_ms })
            }
            "execution_error" => serde_json::from_value(data).map(Self::Failed).map_err(D::Error::custom),
            "execution_interrupted" => serde_json::from_value(data).map(Self::Interrupted).map_err(D::Error::custom),
            other => Err(D::Error::custom(format!("'{other}' is no message that is known"))),
        }
    }
}

/// Messages as the history stores them: an array of `[name, data]`.
pub(crate) struct StoredMessages<'a>(pub(crate) &'a [Message]);

impl Serialize for StoredMessages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|message| (message.name(), message)))
    }
}

/// Nodes as the history stores them: an object of their ids and where they belong.
pub(crate) struct StoredPlaces<'a>(pub(crate) &'a [NodeRef]);

impl Serialize for StoredPlaces<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Place<'a> {
            node_id: &'a str,
            display_node: &'a str,
            parent_node: Option<&'a str>,
            real_node_id: &'a str,
        }
        serializer.collect_map(self.0.iter().map(|node| {
            let NodeRef { id, display_id, real_id, parent_id, .. } = node;
            (id, Place { node_id: id, display_node: display_id, parent_node: parent_id.as_deref(), real_node_id: real_id })
        }))
    }
}
