//! Text encoders on links.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use comfyd_models::Vb;
use comfyd_models::clip::ClipConfig;
use comfyd_models::prompt::Embeddings;
use comfyd_models::text_encoding::{self, ClipOptions, Family, TextEncoder};
use comfyd_node::{Context, Opaque};
use comfyd_weights::{EncoderKind, StateDict};

use crate::hooks::HookGroup;
use crate::options::FileLookup;
use crate::part::Weights;
use crate::{CondEntry, Conditioning, Engine, Error, Result};

pub use comfyd_models::text_encoding::Tokens;

/// `CLIP`.
#[derive(Clone)]
pub struct Clip {
    engine: Engine,
    family: Family,
    parts: Arc<Vec<(EncoderKind, Weights)>>,
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
    pub(crate) fn new(engine: &Engine, family: Family, parts: Vec<(EncoderKind, Weights)>) -> Self {
        Self { engine: engine.clone(), family, parts: Arc::new(parts), layer: None, hooks: None }
    }

    /// The family that encoders of these kinds make.
    pub(crate) fn family_of(kinds: &[EncoderKind]) -> Result<Family> {
        let has = |kind| kinds.contains(&kind);
        match (has(EncoderKind::ClipL), has(EncoderKind::ClipH), has(EncoderKind::ClipG)) {
            (true, false, false) => Ok(Family::Sd1),
            (false, true, false) => Ok(Family::Sd2),
            (true, false, true) => Ok(Family::Sdxl),
            (false, false, true) => Ok(Family::SdxlRefiner),
            _ => Err(Error::msg("these text encoders do not belong together; take CLIP-L, CLIP-H, bigG, or CLIP-L with bigG")),
        }
    }

    pub(crate) fn parts(&self) -> Vec<(EncoderKind, Weights)> {
        self.parts.as_ref().clone()
    }

    fn encoder(&self) -> Result<Arc<TextEncoder>> {
        let weights: Vec<&Weights> = self.parts.iter().map(|(_, weights)| weights).collect();
        self.engine.residency().get(&weights, || {
            let mut parts = Vec::new();
            for (kind, weights) in self.parts.iter() {
                parts.push((*kind, ClipConfig::detect(&weights.part.weights)?, Vb::new(Arc::new(weights.clone()))));
            }
            Ok(TextEncoder::new(self.family, &parts)?)
        })
    }

    fn with_parts(&self, change: impl Fn(EncoderKind, &Weights) -> Result<Weights>) -> Result<Self> {
        let parts = self.parts.iter().map(|(kind, weights)| Ok((*kind, change(*kind, weights)?)));
        Ok(Self { parts: Arc::new(parts.collect::<Result<_>>()?), ..self.clone() })
    }

    fn merged(&self, other: &Self, model_strength: f64, strength: f64) -> Result<Self> {
        self.with_parts(|kind, weights| {
            let Some((_, other)) = other.parts.iter().find(|(other, _)| *other == kind) else { return Ok(weights.clone()) };
            let is_kept = |name: &str| name.ends_with(".position_ids") || name.ends_with(".logit_scale");
            Ok(weights.merged(other, |name| (!is_kept(name)).then_some((model_strength, strength))))
        })
    }

    /// A copy that stops at a layer counted from the end: -1 is the last one (CLIPSetLastLayer).
    pub fn with_layer(&self, layer: i32) -> Self {
        Self { layer: Some(layer), ..self.clone() }
    }

    /// A prompt's tokens.
    pub fn tokenize(&self, text: &str) -> Result<Tokens> {
        Ok(text_encoding::tokenize(self.family, text, &Finder(&self.engine.options().embeddings))?)
    }

    /// CLIPTextEncode.
    pub fn encode(&self, cx: &Context<'_>, text: &str) -> Result<Conditioning> {
        self.encode_tokens(cx, &self.tokenize(text)?)
    }

    /// CLIPTextEncodeSDXL: one text for each encoder. The shorter one is padded to as many windows as the longer one.
    pub fn encode_pair(&self, cx: &Context<'_>, text_g: &str, text_l: &str) -> Result<Conditioning> {
        let tokens = match self.family {
            Family::Sdxl => text_encoding::tokenize_sdxl(text_g, text_l, &Finder(&self.engine.options().embeddings))?,
            Family::SdxlRefiner => self.tokenize(text_g)?,
            Family::Sd1 | Family::Sd2 => self.tokenize(text_l)?,
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
        let loaded = self.with_parts(|_, weights| Ok(weights.kept()))?;
        let hooked = |factors: &[f64]| Ok::<_, Error>(Self { hooks: None, ..hooks.group.on_clip(&loaded, factors)? });
        let mut entries = Vec::new();
        if hooks.scheduled {
            for (range, factors) in hooks.group.parts_of_sampling() {
                let entry = hooked(&factors)?.encode_plain(cx, tokens)?;
                entries.push(CondEntry { text_range: Some(range), ..entry });
            }
        } else {
            entries.push(hooked(&vec![1.0; hooks.group.len()])?.encode_plain(cx, tokens)?);
        }
        if hooks.for_conds {
            entries.iter_mut().for_each(|entry| entry.hooks = Some(hooks.group.clone()));
        }
        Ok(Conditioning::new(entries))
    }

    fn encode_plain(&self, cx: &Context<'_>, tokens: &Tokens) -> Result<CondEntry> {
        let check = crate::engine::cancel_check(cx);
        let options = ClipOptions { clip_layer: self.layer, ..ClipOptions::default() };
        let encoded = self.encoder()?.encode(tokens, &options, &check)?;
        if encoded.left_out > 0 {
            tracing::warn!("{} rows of embeddings are of another width than the text encoder and are skipped", encoded.left_out);
        }
        Ok(CondEntry { cross_attn: Some(encoded.cross_attn), pooled: encoded.pooled, ..CondEntry::default() })
    }

    /// A copy that encodes with hooks (SetClipHooks). With `for_conds` what it encodes carries them too; with `scheduled` keyframes count for
    /// the text, which then becomes a condition for each part of the sampling.
    pub fn with_hooks(&self, group: &HookGroup, for_conds: bool, scheduled: bool) -> Self {
        Self { hooks: Some(ClipHooks { group: group.clone(), for_conds, scheduled }), ..self.clone() }
    }

    /// A copy where the differences between `other` and these encoders' files are added (CreateHookModelAsLora).
    pub(crate) fn with_difference(&self, other: &Self, strength: f64) -> Result<Self> {
        self.with_parts(|kind, weights| {
            let other = other.parts.iter().find(|(other, _)| *other == kind);
            Ok(other.map_or_else(|| weights.clone(), |(_, other)| weights.with_difference(other, strength)))
        })
    }

    /// A copy with a LoRA file's patches for the text encoder at a strength.
    pub fn with_lora(&self, path: &Path, strength: f64) -> Result<Self> {
        if strength == 0.0 {
            return Ok(self.clone());
        }
        let patches = crate::lora::clip_patches(&self.engine, path, &self.parts, strength)?;
        let parts =
            self.parts.iter().zip(patches).map(|((kind, weights), patches)| {
                (*kind, if patches.is_empty() { weights.clone() } else { weights.with_patches(patches) })
            });
        Ok(Self { parts: Arc::new(parts.collect()), ..self.clone() })
    }

    /// CLIPMergeSimple: `ratio` of `self`, the rest of `other`.
    pub fn merge(&self, other: &Self, ratio: f64) -> Result<Self> {
        self.merged(other, ratio, 1.0 - ratio)
    }

    /// CLIPMergeSubtract.
    pub fn subtract(&self, other: &Self, multiplier: f64) -> Result<Self> {
        self.merged(other, multiplier, -multiplier)
    }

    /// CLIPMergeAdd.
    pub fn add(&self, other: &Self) -> Result<Self> {
        self.merged(other, 1.0, 1.0)
    }

    /// A copy whose tensors are multiplied by what `factor` gives for a name (CLIPAttentionMultiply).
    pub fn multiplied(&self, factor: impl Fn(&str) -> Option<f64>) -> Self {
        let parts = self.parts.iter().map(|(kind, weights)| (*kind, weights.multiplied(&factor))).collect();
        Self { parts: Arc::new(parts), ..self.clone() }
    }

    /// The encoders that it has, by the names that CLIPSave puts into file names: `clip_l`, `clip_g`, `clip_h`.
    pub fn encoders(&self) -> Vec<&'static str> {
        self.parts.iter().map(|(kind, _)| kind.name()).collect()
    }

    /// The safetensors file that CLIPSave writes for one of its encoders, with these metadata.
    pub fn save(&self, encoder: &str, output: crate::Output<'_>, metadata: &[(String, String)]) -> Result<()> {
        let (_, weights) =
            self.parts.iter().find(|(kind, _)| kind.name() == encoder).ok_or_else(|| {
                Error::msg(format!("there is no text encoder '{encoder}' here; take one of {}", self.encoders().join(", ")))
            })?;
        crate::saving::write(output, &comfyd_weights::save::clip(&weights.for_saving())?, metadata.to_vec())
    }
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
