//! What the websocket sends, by name: when each event comes and what its data holds, and how each binary frame is laid out. The OpenAPI
//! document tells it, and the pages of the API are written from that. Knows nothing of who is told.

use comfyd_jobs::Message;
use comfyd_wire::BinaryEvent;
use serde_json::{Value, json};

/// An event of the server's own; custom nodes have names of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Status,
    Start,
    Cached,
    Executing,
    Progress,
    ProgressState,
    Executed,
    Success,
    Failed,
    Interrupted,
    FeatureFlags,
    Download,
    Logs,
    ScanStarted,
    ScanProgress,
    ScanFound,
    ScanEnriched,
    ScanCompleted,
    ScanCancelled,
    ScanPaused,
    ScanResumed,
    ScanFailed,
}

impl Told {
    /// All of them, in the order in which they are described.
    pub(crate) const ALL: [Self; 22] = [
        Self::Status,
        Self::Start,
        Self::Cached,
        Self::Executing,
        Self::Progress,
        Self::ProgressState,
        Self::Executed,
        Self::Success,
        Self::Failed,
        Self::Interrupted,
        Self::FeatureFlags,
        Self::Download,
        Self::Logs,
        Self::ScanStarted,
        Self::ScanProgress,
        Self::ScanFound,
        Self::ScanEnriched,
        Self::ScanCompleted,
        Self::ScanCancelled,
        Self::ScanPaused,
        Self::ScanResumed,
        Self::ScanFailed,
    ];

    /// Its name on the wire.
    pub(crate) fn name(self) -> &'static str {
        self.described().0
    }

    /// Its name, when it comes, and the fields of its data, those in objects behind a point and those of any key behind a `*`.
    fn described(self) -> (&'static str, &'static str, &'static [&'static str]) {
        match self {
            Self::Status => (
                "status",
                "at the connection, which alone tells sid, the client's id; and when the queue changes",
                &[
                    "status.exec_info.queue_remaining",
                    "status.exec_info.queue_running",
                    "status.exec_info.queue_pending",
                    "status.exec_info.running_prompt_id",
                    "sid",
                ],
            ),
            Self::Start => ("execution_start", "a prompt begins", &["prompt_id", "timestamp"]),
            Self::Cached => {
                ("execution_cached", "behind it: the nodes whose results are there already", &["nodes", "prompt_id", "timestamp"])
            }
            Self::Executing => (
                "executing",
                "a node begins; with nothing but node, which is null, and prompt_id the prompt is over",
                &["node", "display_node", "prompt_id", "class_type", "title"],
            ),
            Self::Progress => ("progress", "a node goes on", &["value", "max", "prompt_id", "node"]),
            Self::ProgressState => (
                "progress_state",
                "the same of all nodes, by their ids; a state is running, finished or error",
                &[
                    "prompt_id",
                    "nodes.*.value",
                    "nodes.*.max",
                    "nodes.*.state",
                    "nodes.*.node_id",
                    "nodes.*.prompt_id",
                    "nodes.*.display_node_id",
                    "nodes.*.parent_node_id",
                    "nodes.*.real_node_id",
                ],
            ),
            Self::Executed => ("executed", "a node has something to show", &["node", "display_node", "output", "prompt_id"]),
            Self::Success => ("execution_success", "a prompt has ended well", &["prompt_id", "timestamp"]),
            Self::Failed => (
                "execution_error",
                "a node has failed",
                &[
                    "prompt_id",
                    "node_id",
                    "node_type",
                    "executed",
                    "exception_message",
                    "exception_type",
                    "traceback",
                    "current_inputs",
                    "current_outputs",
                    "timestamp",
                ],
            ),
            Self::Interrupted => {
                ("execution_interrupted", "a prompt was interrupted", &["prompt_id", "node_id", "node_type", "executed", "timestamp"])
            }
            Self::FeatureFlags => (
                "feature_flags",
                "the answer to a client that says what it can do: as GET /features",
                &[
                    "supports_preview_metadata",
                    "supports_raw_previews",
                    "supports_model_type_tags",
                    "max_upload_size",
                    "extension",
                    "node_replacements",
                    "assets",
                ],
            ),
            Self::Download => (
                "download_progress",
                "a model is downloaded",
                &["filename", "progress_percentage", "speed", "downloaded", "total", "status"],
            ),
            Self::Logs => ("logs", "the log has new lines, to those who follow it", &["entries.*.t", "entries.*.m", "size"]),
            Self::ScanStarted => (
                "assets.seed.started",
                "a scan for assets begins to find files (phase fast, with total) or to look into them (phase enrich)",
                &["roots", "total", "phase"],
            ),
            Self::ScanProgress => (
                "assets.seed.progress",
                "a scan goes on; enriched in the phase enrich alone",
                &["phase", "scanned", "total", "created", "enriched"],
            ),
            Self::ScanFound => ("assets.seed.fast_complete", "a scan has found all files", &["roots", "created", "skipped", "total"]),
            Self::ScanEnriched => ("assets.seed.enrich_complete", "a scan has looked into all files", &["roots", "enriched"]),
            Self::ScanCompleted => {
                ("assets.seed.completed", "a scan is over", &["phase", "total", "created", "enriched", "skipped", "elapsed"])
            }
            Self::ScanCancelled => ("assets.seed.cancelled", "a scan was given up", &["scanned", "total", "created"]),
            Self::ScanPaused => ("assets.seed.paused", "a scan waits while prompts run", &[]),
            Self::ScanResumed => ("assets.seed.resumed", "a scan goes on", &[]),
            Self::ScanFailed => ("assets.seed.error", "a scan has failed", &["message"]),
        }
    }
}

impl From<&Message> for Told {
    fn from(message: &Message) -> Self {
        match message {
            Message::Start { .. } => Self::Start,
            Message::Cached { .. } => Self::Cached,
            Message::Success { .. } => Self::Success,
            Message::Failed(_) => Self::Failed,
            Message::Interrupted(_) => Self::Interrupted,
        }
    }
}

/// What the document says of all events.
pub(crate) fn events() -> Value {
    Told::ALL
        .map(|event| {
            let (name, when, data) = event.described();
            json!({"name": name, "when": when, "data": data})
        })
        .into()
}

/// What the document says of all binary frames. Numbers are `u32`, big-endian.
pub(crate) fn frames() -> Value {
    BinaryEvent::ALL
        .map(|frame| {
            let (what, layout, documented) = layout(frame);
            json!({"number": frame as u32, "what": what, "layout": layout, "documented": documented})
        })
        .into()
}

/// What a frame is, what stands behind its number, and what the API document's shape has besides.
fn layout(frame: BinaryEvent) -> (&'static str, &'static [&'static str], &'static str) {
    match frame {
        BinaryEvent::PreviewImage => (
            "a preview or a result as a picture",
            &["u32: type, 1 JPEG or 2 PNG", "the file"],
            "u32 behind the file: the largest size, 0 without one",
        ),
        BinaryEvent::UnencodedPreviewImage => (
            "a preview as pixels, for clients that ask for it (?preview=raw)",
            &["u32: channels", "u32: width", "u32: height", "pixels: rows from the top, 8 bits a channel"],
            "u32 behind the pixels: the type that they would be sent in",
        ),
        BinaryEvent::Text => ("a text below a node", &["u32: length of the node's id", "the id", "the text"], ""),
        BinaryEvent::PreviewImageWithMetadata => (
            "a picture with its place, for clients that say supports_preview_metadata",
            &["u32: length of the JSON", "JSON: node_id, display_node_id, parent_node_id, real_node_id, prompt_id, image_type", "the file"],
            "max_size in the JSON",
        ),
    }
}
