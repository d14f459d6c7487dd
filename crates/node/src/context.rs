//! What a running node may ask of the world: cancellation, progress, previews, the prompt it is part of.

use std::sync::Arc;

use serde_json::Value as Json;
use tokio_util::sync::CancellationToken;

use crate::{Error, Result};

/// A picture for the client while the node runs: 8-bit RGB or RGBA pixels, rows top to bottom without padding.
#[derive(Debug, Clone)]
pub struct PreviewImage {
    /// Pixels wide.
    pub width: u32,
    /// Pixels high.
    pub height: u32,
    /// Bytes per pixel: 3 or 4.
    pub channels: u8,
    /// `width * height * channels` bytes.
    pub pixels: Arc<Vec<u8>>,
    /// Sent as PNG and never dropped (SaveImageWebsocket's results); otherwise a preview, small and lossy, which a slow client may miss.
    pub lossless: bool,
    /// The longer side is reduced to this many pixels before sending; `None` keeps the size.
    pub max_size: Option<u32>,
}

/// Where a node's reports go; implemented by the executor. Calls never block.
pub trait Reporter: Send + Sync {
    /// `value` of `max` steps are done; `node` is the running node's id.
    fn progress(&self, node: &str, value: f64, max: f64);
    /// A picture to show. Previews may be dropped when the client is slow, PNG results may not.
    fn image(&self, node: &str, image: PreviewImage);
    /// A text to show under the node.
    fn text(&self, node: &str, text: &str);
}

/// Drops every report (tests, validation).
#[derive(Debug, Clone, Copy, Default)]
pub struct SilentReporter;

impl Reporter for SilentReporter {
    fn progress(&self, _node: &str, _value: f64, _max: f64) {}
    fn image(&self, _node: &str, _image: PreviewImage) {}
    fn text(&self, _node: &str, _text: &str) {}
}

/// What ComfyUI calls hidden inputs: facts about the prompt around the node.
#[derive(Clone, Default)]
pub struct Hidden {
    /// The prompt's id.
    pub prompt_id: Arc<str>,
    /// The graph in API format, as validated.
    pub prompt: Arc<Json>,
    /// `extra_data` of the request; its `extra_pnginfo` goes into saved pictures.
    pub extra_data: Arc<Json>,
    /// Keys and tokens that came with the prompt (ComfyUI's `AUTH_TOKEN_COMFY_ORG` and `API_KEY_COMFY_ORG`), under their names in
    /// `extra_data`. They are nowhere but here: a node must not write, show or log them.
    pub secrets: Arc<serde_json::Map<String, Json>>,
}

impl Hidden {
    /// `extra_data.extra_pnginfo`, if the client sent it.
    pub fn extra_pnginfo(&self) -> Option<&serde_json::Map<String, Json>> {
        self.extra_data.get("extra_pnginfo")?.as_object()
    }
}

/// One call of a node.
pub struct Context<'a> {
    /// The node's id in the graph (ComfyUI's `UNIQUE_ID`).
    pub node_id: &'a str,
    /// The prompt around it.
    pub hidden: &'a Hidden,
    cancel: &'a CancellationToken,
    reporter: &'a dyn Reporter,
    call_index: usize,
    expansion_count: usize,
}

impl<'a> Context<'a> {
    /// A context for one call; `call_index` counts the calls that list inputs cause.
    pub fn new(node_id: &'a str, hidden: &'a Hidden, cancel: &'a CancellationToken, reporter: &'a dyn Reporter, call_index: usize) -> Self {
        Self { node_id, hidden, cancel, reporter, call_index, expansion_count: 0 }
    }

    /// Fails with [`Error::Interrupted`] once the prompt was interrupted.
    pub fn check_cancelled(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// The token itself, for work that a lower crate does.
    pub fn cancel_token(&self) -> &CancellationToken {
        self.cancel
    }

    /// Reports that `value` of `max` steps are done, and stops the node if it was interrupted.
    pub fn progress(&self, value: f64, max: f64) -> Result<()> {
        self.check_cancelled()?;
        self.reporter.progress(self.node_id, value, max);
        Ok(())
    }

    /// Sends a picture to the client.
    pub fn image(&self, image: PreviewImage) {
        self.reporter.image(self.node_id, image);
    }

    /// Shows a text under the node.
    pub fn text(&self, text: &str) {
        self.reporter.text(self.node_id, text);
    }

    /// A new id for a node of an expansion: unique in the graph, and the same when the same node expands again, so that results can be
    /// cached.
    pub fn expansion_id(&mut self) -> String {
        self.expansion_count += 1;
        format!("{}.{}.{}", self.node_id, self.call_index, self.expansion_count)
    }
}
