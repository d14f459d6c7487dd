//! The text transformer of CLIP (<https://arxiv.org/abs/2103.00020>) with the names of Hugging Face's `CLIPTextModel`. Prompts are not
//! known here.

use comfyd_weights::StateDict;

use crate::{Error, Result, Vb};

/// The shape of a text transformer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClipConfig {
    /// Word pieces.
    pub vocabulary: usize,
    /// Tokens at once.
    pub positions: usize,
    /// Width.
    pub width: usize,
    /// Width inside the feed-forward part.
    pub intermediate: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Whether the activation is `x * sigmoid(1.702 x)` (OpenAI's CLIP); else GELU (OpenCLIP).
    pub quick_gelu: bool,
}

impl ClipConfig {
    /// Told from the names `text_model.…` and their shapes.
    pub fn detect(_weights: &StateDict) -> Result<Self> {
        Err(Error::msg("not there yet"))
    }
}

/// The model.
pub struct ClipTextModel {}

impl ClipTextModel {
    /// Reads the weights.
    pub fn new(_config: &ClipConfig, _vb: &Vb) -> Result<Self> {
        Err(Error::msg("not there yet"))
    }
}
