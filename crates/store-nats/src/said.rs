//! What processes of a cluster say besides the events of prompts. Does not know how that is sent.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// What a process says besides the events of prompts.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// What a custom node has clients told: one, or all; where a prompt ran, whose that was.
    Event {
        /// The event's name.
        name: String,
        /// What is told.
        data: Json,
        /// The client.
        client: Option<String>,
        /// The user.
        owner: Option<String>,
    },
    /// The same as bytes. They are pictures as a rule, and left out first.
    Bytes {
        /// The number of the binary event.
        kind: u32,
        /// What is told.
        bytes: Arc<Vec<u8>>,
        /// The client.
        client: Option<String>,
        /// The user.
        owner: Option<String>,
    },
    /// How long nodes took.
    Ran(Vec<Ran>),
}

/// How long a node took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ran {
    /// Its class.
    pub class: String,
    /// The device, with the name of its process.
    pub device: String,
    /// How long.
    pub seconds: f64,
}

/// Hears what other processes say.
pub type Ears = Arc<dyn Fn(Said) + Send + Sync>;
