//! Text encoders on links.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use comfyd_memory::Lease;
use comfyd_models::Vb;
use comfyd_models::clip::ClipConfig;
use comfyd_models::prompt::Embeddings;
use comfyd_models::text_encoding::{self, ClipOptions, TextEncoder, TextStack};
use comfyd_node::{Context, Opaque};
use comfyd_weights::{EncoderKind, StateDict};

use crate::hooks::HookGroup;
use crate::options::FileLookup;
use crate::part::Weights;
use crate::{CondEntry, Conditioning, Engine, Error, Result, lora};

pub use comfyd_models::text_encoding::Tokens;

/// What a text takes while it is cut into tokens, per byte of it.
const BYTES_PER_LETTER: u64 = 128;

/// `CLIP`.
#[derive(Clone)]
pub struct Clip {
    engine: Engine,
    stack: TextStack,
    pub(crate) parts: Arc<Vec<(EncoderKind, Weights)>>,
    layer: Option<i32>,
    hooks: Option<ClipHooks>,
}

/// What SetClipHooks sets.
#[derive(Clone)]
struct ClipHooks {
    group: HookGroup,
    /// Whether conditions that are made carry the hooks too.
    for_conds: bool,
    /// Whether the hooks' keyframes are followed, which makes a condition for each part of the sampling.
    scheduled: bool,
}

impl Clip {
    pub(crate) fn new(engine: &Engine, stack: TextStack, parts: Vec<(EncoderKind, Weights)>) -> Self {
        Self { engine: engine.clone(), stack, parts: Arc::new(parts), layer: None, hooks: None }
    }

    fn encoder(&self) -> Result<Arc<TextEncoder>> {
        let weights: Vec<&Weights> = self.parts.iter().map(|(_, weights)| weights).collect();
        self.engine.residency().get(&weights, || {
            let mut parts = Vec::new();
            for (kind, weights) in self.parts.iter() {
                parts.push((*kind, ClipConfig::detect(&weights.part.weights)?, Vb::new(Arc::new(weights.clone()))));
            }
            Ok(TextEncoder::new(self.stack, &parts)?)
        })
    }

    fn with_parts(&self, parts: Vec<(EncoderKind, Weights)>) -> Self {
        Self { parts: Arc::new(parts), ..self.clone() }
    }

    fn merged(&self, other: &Self, model_strength: f64, strength: f64) -> Self {
        let is_kept = |name: &str| name.ends_with(".position_ids") || name.ends_with(".logit_scale");
        let merged = |kind: &EncoderKind, weights: &Weights| match other.parts.iter().find(|(other, _)| other == kind) {
            Some((_, other)) => weights.merged(other, |name| (!is_kept(name)).then_some((model_strength, strength))),
            None => weights.clone(),
        };
        self.with_parts(self.parts.iter().map(|(kind, weights)| (*kind, merged(kind, weights))).collect())
    }

    /// A copy that stops at a layer counted from the end: -1 is the last one (CLIPSetLastLayer).
    pub fn with_layer(&self, layer: i32) -> Self {
        Self { layer: Some(layer), ..self.clone() }
    }

    /// A prompt's tokens.
    pub fn tokenize(&self, cx: &Context<'_>, text: &str) -> Result<Tokens> {
        let check = crate::engine::cancel_check(cx);
        let _room = self.room_for(text.len())?;
        Ok(text_encoding::tokenize(self.stack, text, &Finder(&self.engine.options().embeddings), &check)?)
    }

    /// Room for what the tokens of so many letters take.
    fn room_for(&self, letters: usize) -> Result<Lease> {
        Ok(self.engine.account().reserve((letters as u64).saturating_mul(BYTES_PER_LETTER))?)
    }

    /// CLIPTextEncode.
    pub fn encode(&self, cx: &Context<'_>, text: &str) -> Result<Conditioning> {
        self.encode_tokens(cx, &self.tokenize(cx, text)?)
    }

    /// CLIPTextEncodeSDXL: one text for each encoder. The shorter one is padded to as many windows as the longer one.
    pub fn encode_pair(&self, cx: &Context<'_>, text_g: &str, text_l: &str) -> Result<Conditioning> {
        let tokens = match self.stack {
            TextStack::Sdxl => {
                let check = crate::engine::cancel_check(cx);
                let _room = self.room_for(text_g.len() + text_l.len())?;
                text_encoding::tokenize_sdxl(text_g, text_l, &Finder(&self.engine.options().embeddings), &check)?
            }
            TextStack::SdxlRefiner => self.tokenize(cx, text_g)?,
            TextStack::Sd1 | TextStack::Sd2 => self.tokenize(cx, text_l)?,
        };
        self.encode_tokens(cx, &tokens)
    }

    /// Encodes tokens.
    pub fn encode_tokens(&self, cx: &Context<'_>, tokens: &Tokens) -> Result<Conditioning> {
        for warning in &tokens.warnings {
            tracing::warn!("{warning}");
        }
        let Some(hooks) = &self.hooks else { return Ok(Conditioning::new(vec![self.encode_plain(cx, tokens)?])) };
        // The reference patches the weights that are loaded, other patches and the rounding after them included.
        let loaded: Vec<_> = self.parts.iter().map(|(kind, weights)| (*kind, weights.kept())).collect();
        let hooked = |factors: &[f64]| {
            let parts = hooks.group.on_encoders(&self.engine, &loaded, factors)?;
            Ok::<_, Error>(Self { hooks: None, ..self.with_parts(parts) })
        };
        let mut entries = Vec::new();
        if hooks.scheduled {
            for (range, factors) in hooks.group.parts_of_sampling() {
                let entry = hooked(&factors)?.encode_plain(cx, tokens)?;
                entries.push(CondEntry { text_range: Some(range), ..entry });
            }
        } else {
            entries.push(hooked(&vec![1.0; hooks.group.keyframes().len()])?.encode_plain(cx, tokens)?);
        }
        if hooks.for_conds {
            entries.iter_mut().for_each(|entry| entry.hooks = Some(hooks.group.clone()));
        }
        Ok(Conditioning::new(entries))
    }

    fn encode_plain(&self, cx: &Context<'_>, tokens: &Tokens) -> Result<CondEntry> {
        let check = crate::engine::cancel_check(cx);
        let _room = self.engine.account().reserve(encoded_bytes(tokens))?;
        let options = ClipOptions { clip_layer: self.layer, ..ClipOptions::default() };
        let encoded = self.encoder()?.encode(tokens, &options, &check)?;
        if encoded.left_out > 0 {
            tracing::warn!("{} rows of embeddings are of another width than the text encoder and are skipped", encoded.left_out);
        }
        Ok(CondEntry { cross_attn: Some(encoded.cross_attn), pooled: encoded.pooled, ..CondEntry::default() })
    }

    /// The pooled text (1, D) of a prompt without the projection (GLIGENTextBoxApply).
    pub fn encode_pooled(&self, cx: &Context<'_>, text: &str) -> Result<Tensor> {
        let tokens = self.tokenize(cx, text)?;
        let _room = self.engine.account().reserve(encoded_bytes(&tokens))?;
        let options = ClipOptions { clip_layer: self.layer, unprojected: true };
        let encoded = self.encoder()?.encode(&tokens, &options, &crate::engine::cancel_check(cx))?;
        encoded.pooled.ok_or_else(|| Error::msg("the text encoder gives no pooled text; load another one"))
    }

    /// A copy that encodes with hooks (SetClipHooks). With `for_conds` what it encodes carries them too; with `scheduled` keyframes count for
    /// the text, which then becomes a condition for each part of the sampling.
    pub fn with_hooks(&self, group: &HookGroup, for_conds: bool, scheduled: bool) -> Self {
        Self { hooks: Some(ClipHooks { group: group.clone(), for_conds, scheduled }), ..self.clone() }
    }

    /// A copy with a LoRA file's patches for the text encoder at a strength.
    pub fn with_lora(&self, path: &Path, strength: f64) -> Result<Self> {
        Ok(self.with_parts(lora::on_encoders(&self.engine, path, &self.parts, strength)?))
    }

    /// CLIPMergeSimple: `ratio` of `self`, the rest of `other`.
    pub fn merge(&self, other: &Self, ratio: f64) -> Self {
        self.merged(other, ratio, 1.0 - ratio)
    }

    /// CLIPMergeSubtract.
    pub fn subtract(&self, other: &Self, multiplier: f64) -> Self {
        self.merged(other, multiplier, -multiplier)
    }

    /// CLIPMergeAdd.
    pub fn add(&self, other: &Self) -> Self {
        self.merged(other, 1.0, 1.0)
    }

    /// A copy whose tensors are multiplied by what `factor` gives for a name (CLIPAttentionMultiply).
    pub fn multiplied(&self, factor: impl Fn(&str) -> Option<f64>) -> Self {
        self.with_parts(self.parts.iter().map(|(kind, weights)| (*kind, weights.multiplied(&factor))).collect())
    }

    /// The encoders that it has, by the names that CLIPSave puts into file names: `clip_l`, `clip_g`, `clip_h`.
    pub fn encoders(&self) -> Vec<&'static str> {
        self.parts.iter().map(|(kind, _)| kind.name()).collect()
    }
}

/// What encoded tokens take, at the widths of the largest encoders: as single windows, joined, and beside those of another encoder.
fn encoded_bytes(tokens: &Tokens) -> u64 {
    let count = [&tokens.l, &tokens.h, &tokens.g].into_iter().flatten().map(Vec::len).sum::<usize>();
    (count as u64).saturating_mul(3 * 1280 * 4)
}

/// Finds the files of embeddings through the options' callback.
struct Finder<'a>(&'a FileLookup);

impl Embeddings for Finder<'_> {
    fn find(&self, name: &str) -> comfyd_models::Result<Option<StateDict>> {
        Ok((self.0)(name).map(|path| StateDict::open(&path)).transpose()?)
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

    fn describe(&self) -> String {
        format!("text encoders ({})", self.encoders().join(", "))
    }
}
