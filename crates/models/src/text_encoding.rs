//! Text encoders as the model families compose them: which CLIP, which of its layers, how weights act, what is concatenated.

use candle_core::Tensor;

use crate::clip::{ClipConfig, ClipTextModel};
use crate::prompt::{Embeddings, Window};
use crate::{Error, Result, Vb};

/// A text transformer by its place in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClipKind {
    /// CLIP ViT-L (OpenAI).
    L,
    /// OpenCLIP ViT-H.
    H,
    /// OpenCLIP ViT-bigG.
    G,
}

impl ClipKind {
    /// `clip_l`, `clip_h`, `clip_g`.
    pub fn name(self) -> &'static str {
        match self {
            Self::L => "clip_l",
            Self::H => "clip_h",
            Self::G => "clip_g",
        }
    }
}

/// A family's way to encode texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// L: the last layer, normalised; pooled without projection.
    Sd1,
    /// H: the last but one layer, normalised; pooled and projected.
    Sd2,
    /// L and G: the last but one layer of both, not normalised, side by side; pooled of G.
    Sdxl,
    /// G alone, as in [`Family::Sdxl`].
    SdxlRefiner,
}

impl Family {
    /// The transformers that it needs.
    pub fn kinds(self) -> &'static [ClipKind] {
        match self {
            Self::Sd1 => &[ClipKind::L],
            Self::Sd2 => &[ClipKind::H],
            Self::Sdxl => &[ClipKind::L, ClipKind::G],
            Self::SdxlRefiner => &[ClipKind::G],
        }
    }
}

/// A tokenised prompt: the windows of each transformer of the family.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tokens {
    /// For CLIP L.
    pub l: Vec<Window>,
    /// For OpenCLIP H.
    pub h: Vec<Window>,
    /// For OpenCLIP bigG.
    pub g: Vec<Window>,
    /// What the user should know, such as embeddings that do not exist.
    pub warnings: Vec<String>,
}

/// Tokenises a prompt for a family. Needs no model.
pub fn tokenize(_family: Family, _text: &str, _embeddings: &dyn Embeddings) -> Result<Tokens> {
    Err(Error::msg("not there yet"))
}

/// Different texts for G and L (CLIPTextEncodeSDXL): the shorter one is padded with empty windows.
pub fn tokenize_sdxl(_text_g: &str, _text_l: &str, _embeddings: &dyn Embeddings) -> Result<Tokens> {
    Err(Error::msg("not there yet"))
}

/// How tokens are encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClipOptions {
    /// The layer that the nodes set (CLIPSetLastLayer): -1 is the last. `None`: the family's own.
    pub clip_layer: Option<i32>,
    /// Whether pooled outputs come without projection, whatever the family's own way is.
    pub unprojected: bool,
}

/// An encoded prompt.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// `(1, T, D)`, T = 77 times the number of windows; F32 on the CPU.
    pub cross_attn: Tensor,
    /// `(1, P)`, of the first window.
    pub pooled: Option<Tensor>,
}

/// The text encoder of a family.
pub struct TextEncoder {
    family: Family,
    _models: Vec<(ClipKind, ClipTextModel)>,
}

impl TextEncoder {
    /// Puts a family's transformers together; each has its config and the root of its weights (`text_model.…` lies directly below).
    pub fn new(family: Family, _parts: &[(ClipKind, ClipConfig, Vb)]) -> Result<Self> {
        let _ = family;
        Err(Error::msg("not there yet"))
    }

    /// Its family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Encodes a tokenised prompt. `check` is called between blocks; its error stops.
    pub fn encode(&self, _tokens: &Tokens, _options: &ClipOptions, _check: &dyn Fn() -> Result<()>) -> Result<Encoded> {
        Err(Error::msg("not there yet"))
    }
}
