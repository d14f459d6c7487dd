//! Denoising models on links: a file's weights, patches of them, and options of their use. Nodes change copies.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use comfyd_imaging::resize::Method;
use comfyd_node::Opaque;
use comfyd_samplers::Schedule;

use crate::{Conditioning, Error, LatentFormat, Result};

/// Something done to a latent `(B, C, H, W)`, such as a LATENT_OPERATION: shape and values to values of the same shape.
pub type LatentFunction = Arc<dyn Fn(&[usize], Vec<f32>) -> comfyd_node::Result<Vec<f32>> + Send + Sync>;

/// What the projections of attention layers are multiplied by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionScale {
    /// The queries' projection.
    pub q: f64,
    /// The keys' projection.
    pub k: f64,
    /// The values' projection.
    pub v: f64,
    /// The projection of the result.
    pub out: f64,
}

/// PatchModelAddDownscale's settings.
#[derive(Debug, Clone, Copy)]
pub struct Downscale {
    /// The input block after which the picture shrinks.
    pub block_number: usize,
    /// By how much.
    pub factor: f64,
    /// From which part of the sampling on (0..1).
    pub start_percent: f64,
    /// Up to which part of the sampling (0..1).
    pub end_percent: f64,
    /// Keeps the skip connection at full size.
    pub after_skip: bool,
    /// How to shrink.
    pub downscale_method: Method,
    /// How to grow again.
    pub upscale_method: Method,
}

/// `MODEL`.
#[derive(Clone)]
pub struct Model {}

impl Model {
    /// Its noise levels.
    pub fn schedule(&self) -> Result<Arc<dyn Schedule>> {
        Err(Error::msg("models are not built yet"))
    }

    /// Its latents.
    pub fn latent_format(&self) -> LatentFormat {
        LatentFormat::Sd15
    }

    /// A copy with other noise levels (ModelSamplingContinuousEDM, ModelSamplingContinuousV, …).
    pub fn with_schedule(&self, schedule: Arc<dyn Schedule>) -> Self {
        let _ = schedule;
        self.clone()
    }

    /// A copy with other latents (edm_playground_v2.5).
    pub fn with_latent_format(&self, format: LatentFormat) -> Self {
        let _ = format;
        self.clone()
    }

    /// A copy with a LoRA file's patches at a strength (LoraLoaderModelOnly; LoraLoader calls [`crate::Clip::with_lora`] as well).
    pub fn with_lora(&self, path: &Path, strength: f64) -> Result<Self> {
        let _ = (path, strength);
        Err(Error::msg("LoRA files are not built yet"))
    }

    /// ModelMergeSimple: `ratio` of `self`, the rest of `other`.
    pub fn merge(&self, other: &Self, ratio: f64) -> Result<Self> {
        self.merge_blocks(other, ratio, &[])
    }

    /// ModelMergeBlocks and its kin: the ratio of the longest prefix that a weight's name begins with (`input_blocks.3.`, `middle_block.`,
    /// `out.`, `time_embed.`; ModelMergeBlocks: `input`, `middle`, `out`), else the default.
    pub fn merge_blocks(&self, other: &Self, default_ratio: f64, ratios: &[(String, f64)]) -> Result<Self> {
        let _ = (other, default_ratio, ratios);
        Err(Error::msg("merging is not built yet"))
    }

    /// ModelMergeSubtract.
    pub fn subtract(&self, other: &Self, multiplier: f64) -> Result<Self> {
        let _ = (other, multiplier);
        Err(Error::msg("merging is not built yet"))
    }

    /// ModelMergeAdd.
    pub fn add(&self, other: &Self) -> Result<Self> {
        let _ = other;
        Err(Error::msg("merging is not built yet"))
    }

    /// UNetSelfAttentionMultiply.
    pub fn self_attention_multiply(&self, scale: AttentionScale) -> Self {
        let _ = scale;
        self.clone()
    }

    /// UNetCrossAttentionMultiply.
    pub fn cross_attention_multiply(&self, scale: AttentionScale) -> Self {
        let _ = scale;
        self.clone()
    }

    /// UNetTemporalAttentionMultiply: what the results of self- and cross-attention are multiplied by (there are no temporal layers here).
    pub fn temporal_attention_multiply(&self, self_structural: f64, cross_structural: f64) -> Self {
        let _ = (self_structural, cross_structural);
        self.clone()
    }

    /// RescaleCFG.
    pub fn rescale_cfg(&self, multiplier: f64) -> Self {
        let _ = multiplier;
        self.clone()
    }

    /// PerpNeg (deprecated; the guider replaces it).
    pub fn perp_neg(&self, empty: &Conditioning, neg_scale: f64) -> Self {
        let _ = (empty, neg_scale);
        self.clone()
    }

    /// FreeU.
    pub fn freeu(&self, b1: f64, b2: f64, s1: f64, s2: f64) -> Self {
        let _ = (b1, b2, s1, s2);
        self.clone()
    }

    /// FreeU_V2.
    pub fn freeu_v2(&self, b1: f64, b2: f64, s1: f64, s2: f64) -> Self {
        let _ = (b1, b2, s1, s2);
        self.clone()
    }

    /// HyperTile.
    pub fn hypertile(&self, tile_size: usize, swap_size: usize, max_depth: usize, scale_depth: bool) -> Self {
        let _ = (tile_size, swap_size, max_depth, scale_depth);
        self.clone()
    }

    /// TomePatchModel.
    pub fn token_merging(&self, ratio: f64) -> Self {
        let _ = ratio;
        self.clone()
    }

    /// SelfAttentionGuidance.
    pub fn self_attention_guidance(&self, scale: f64, blur_sigma: f64) -> Self {
        let _ = (scale, blur_sigma);
        self.clone()
    }

    /// PerturbedAttentionGuidance.
    pub fn perturbed_attention_guidance(&self, scale: f64) -> Self {
        let _ = scale;
        self.clone()
    }

    /// PatchModelAddDownscale.
    pub fn downscale(&self, settings: Downscale) -> Result<Self> {
        let _ = settings;
        Ok(self.clone())
    }

    /// DifferentialDiffusion.
    pub fn differential_diffusion(&self, strength: f64) -> Self {
        let _ = strength;
        self.clone()
    }

    /// Mahiro.
    pub fn mahiro(&self) -> Self {
        self.clone()
    }

    /// APG.
    pub fn adaptive_projected_guidance(&self, eta: f64, norm_threshold: f64, momentum: f64) -> Self {
        let _ = (eta, norm_threshold, momentum);
        self.clone()
    }

    /// CFGZeroStar.
    pub fn cfg_zero_star(&self) -> Self {
        self.clone()
    }

    /// CFGNorm.
    pub fn cfg_norm(&self, strength: f64) -> Self {
        let _ = strength;
        self.clone()
    }

    /// TCFG.
    pub fn tangential_damping(&self) -> Self {
        self.clone()
    }

    /// FreSca.
    pub fn fresca(&self, scale_low: f64, scale_high: f64, freq_cutoff: usize) -> Self {
        let _ = (scale_low, scale_high, freq_cutoff);
        self.clone()
    }

    /// Epsilon Scaling.
    pub fn epsilon_scaling(&self, factor: f64) -> Self {
        let _ = factor;
        self.clone()
    }

    /// LatentApplyOperationCFG: the operation is applied to the guidance (or to the one prediction where there is no negative prompt).
    pub fn latent_operation_cfg(&self, operation: LatentFunction) -> Self {
        let _ = operation;
        self.clone()
    }

    /// The safetensors file that ModelSave (no encoder, no autoencoder) and CheckpointSave write, with these metadata beside those that
    /// tell the model's kind. `title` becomes the title in the metadata.
    pub fn save(
        &self,
        path: &Path,
        clip: Option<&crate::Clip>,
        vae: Option<&crate::Vae>,
        title: &str,
        metadata: &[(String, String)],
    ) -> Result<()> {
        let _ = (path, clip, vae, title, metadata);
        Err(Error::msg("saving is not built yet"))
    }

    /// AddNoise: `latent (B, 4, H, W)` with `noise` of the level that `sigmas` spans.
    pub fn add_noise(&self, noise: &Tensor, sigmas: &crate::Sigmas, latent: &Tensor) -> Result<Tensor> {
        let _ = (noise, sigmas, latent);
        Err(Error::msg("models are not built yet"))
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl Opaque for Model {
    fn type_name(&self) -> &'static str {
        "MODEL"
    }

    fn size_bytes(&self) -> usize {
        0
    }
}
