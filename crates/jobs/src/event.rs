//! What happens while prompts run, as told to clients.

use std::sync::Arc;

use comfyd_node::PreviewImage;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::message::{Message, NodeRef};
use crate::store::Counts;

/// One event of one prompt.
#[derive(Debug, Clone)]
pub struct Event {
    /// The prompt.
    pub prompt_id: Arc<str>,
    /// Whose it is; empty where nobody is told apart.
    pub owner: Arc<str>,
    /// The client that submitted it, if it gave an id: events go there only, unless [`EventKind::broadcast`] says otherwise.
    pub client_id: Option<Arc<str>>,
    /// What happened.
    pub kind: EventKind,
}

/// A node's place in `progress_state`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeProgress {
    /// The node.
    pub node: NodeRef,
    /// What it does.
    pub state: NodeState,
    /// Steps done.
    pub value: f64,
    /// Steps in all.
    pub max: f64,
}

/// A node's state in `progress_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Not begun.
    Pending,
    /// At work.
    Running,
    /// Done.
    Finished,
    /// Failed.
    Error,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum EventKind {
    /// What the history tells too: how it begins and how it ends.
    Message(Message),
    /// A node begins.
    Executing(NodeRef),
    /// The prompt is over and its history entry is stored; `executing` with `node: null` on the wire.
    Idle,
    /// A node made a step.
    Progress {
        /// The node.
        node: NodeRef,
        /// Steps done.
        value: f64,
        /// Steps in all.
        max: f64,
    },
    /// Where all nodes that began stand.
    ProgressState(Vec<NodeProgress>),
    /// A node with something to show is done, or its result was cached.
    Executed {
        /// The node.
        node: NodeRef,
        /// What it shows; null for a cached node that shows nothing.
        output: Json,
    },
    /// A picture: a preview (droppable) or a result (lossless).
    Image {
        /// The node.
        node: NodeRef,
        /// The picture.
        image: PreviewImage,
    },
    /// The queue's figures as this prompt changed them: emitted after it was claimed and after it was stored as finished, so that every
    /// client sees them in their place among the prompt's events.
    Queue {
        /// [`crate::Versions::queue`], read before the figures were: older figures must not be told after newer ones.
        version: u64,
        /// The figures.
        counts: Counts,
    },
    /// A text under a node.
    Text {
        /// The node.
        node: NodeRef,
        /// The text.
        text: String,
    },
}

impl Event {
    /// Whether it goes to all clients that get to see its owner's prompts, not only to the one that submitted the prompt. Of a prompt without a client everybody sees the
    /// progress and the pictures, as in the reference.
    pub fn broadcast(&self) -> bool {
        match &self.kind {
            EventKind::Message(Message::Interrupted(_)) | EventKind::Queue { .. } => true,
            EventKind::Progress { .. } | EventKind::ProgressState(_) | EventKind::Image { .. } => self.client_id.is_none(),
            EventKind::Message(_) | EventKind::Executing(_) | EventKind::Idle | EventKind::Executed { .. } | EventKind::Text { .. } => {
                false
            }
        }
    }

    /// Whether it is still of use to a client that comes when the prompt is over.
    pub fn lasting(&self) -> bool {
        !(self.kind.droppable() || matches!(self.kind, EventKind::Progress { .. } | EventKind::ProgressState(_) | EventKind::Queue { .. }))
    }
}

impl EventKind {
    /// Whether it may be dropped for a client that is slow.
    pub fn droppable(&self) -> bool {
        matches!(self, Self::Image { image, .. } if !image.lossless)
    }
}

/// Where events go. Called from device threads; must return at once and never block on a client. What is not
/// [`EventKind::droppable`] reaches whom it is for, or they lose their connection.
///
/// Implementations run `contract::sink::run` in their tests.
pub trait EventSink: Send + Sync + 'static {
    /// Takes an event. Events of one prompt arrive in order.
    fn emit(&self, event: Event);
}

/// Drops every event.
#[derive(Debug, Clone, Copy, Default)]
pub struct NullSink;

impl EventSink for NullSink {
    fn emit(&self, _event: Event) {}
}
