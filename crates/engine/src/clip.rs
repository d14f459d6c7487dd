//! Text encoders on links.

use std::fmt;
use std::path::Path;

use comfyd_node::{Context, Opaque};

use crate::model::AttentionScale;
use crate::{Conditioning, Error, Result};

/// Which text encoders a family has (the `type` of CLIPLoader and DualCLIPLoader).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClipKind {
    /// CLIP-L or OpenCLIP-H, told from the file (`stable_diffusion`).
    StableDiffusion,
    /// CLIP-L and OpenCLIP-bigG (`sdxl`), or bigG alone (the refiner).
    Sdxl,
}

/// A tokenised text: for each encoder its windows.
#[derive(Debug, Clone, Default)]
pub struct Tokens {
    /// For CLIP-L (or CLIP-H), where the family has it.
    pub(crate) l: Option<String>,
    /// For OpenCLIP-bigG, where the family has it.
    pub(crate) g: Option<String>,
}

/// `CLIP`.
#[derive(Clone)]
pub struct Clip {}

impl Clip {
    /// A copy that stops at a layer counted from the end: -1 is the last one (CLIPSetLastLayer).
    pub fn with_layer(&self, layer: i32) -> Self {
        let _ = layer;
        self.clone()
    }

    /// CLIPTextEncode.
    pub fn encode(&self, cx: &Context<'_>, text: &str) -> Result<Conditioning> {
        self.encode_tokens(cx, &Tokens { l: Some(text.into()), g: Some(text.into()) })
    }

    /// CLIPTextEncodeSDXL: one text for each encoder. The shorter one is padded to as many windows as the longer one.
    pub fn encode_pair(&self, cx: &Context<'_>, text_g: &str, text_l: &str) -> Result<Conditioning> {
        self.encode_tokens(cx, &Tokens { l: Some(text_l.into()), g: Some(text_g.into()) })
    }

    fn encode_tokens(&self, cx: &Context<'_>, tokens: &Tokens) -> Result<Conditioning> {
        let _ = (cx, tokens);
        Err(Error::msg("the text encoder is not built yet"))
    }

    /// A copy with a LoRA file's patches for the text encoder at a strength.
    pub fn with_lora(&self, path: &Path, strength: f64) -> Result<Self> {
        let _ = (path, strength);
        Err(Error::msg("LoRA files are not built yet"))
    }

    /// CLIPMergeSimple: `ratio` of `self`, the rest of `other`.
    pub fn merge(&self, other: &Self, ratio: f64) -> Result<Self> {
        let _ = (other, ratio);
        Err(Error::msg("merging is not built yet"))
    }

    /// CLIPMergeSubtract.
    pub fn subtract(&self, other: &Self, multiplier: f64) -> Result<Self> {
        let _ = (other, multiplier);
        Err(Error::msg("merging is not built yet"))
    }

    /// CLIPMergeAdd.
    pub fn add(&self, other: &Self) -> Result<Self> {
        let _ = other;
        Err(Error::msg("merging is not built yet"))
    }

    /// CLIPAttentionMultiply.
    pub fn attention_multiply(&self, scale: AttentionScale) -> Self {
        let _ = scale;
        self.clone()
    }

    /// The encoders that it has, by the names that CLIPSave puts into file names: `clip_l`, `clip_g`, `clip_h`.
    pub fn encoders(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// The safetensors file that CLIPSave writes for one of its encoders, with these metadata.
    pub fn save(&self, encoder: &str, path: &Path, metadata: &[(String, String)]) -> Result<()> {
        let _ = (encoder, path, metadata);
        Err(Error::msg("saving is not built yet"))
    }
}

impl fmt::Debug for Clip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl Opaque for Clip {
    fn type_name(&self) -> &'static str {
        "CLIP"
    }

    fn size_bytes(&self) -> usize {
        0
    }
}
