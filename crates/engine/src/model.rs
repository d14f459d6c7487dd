//! Denoising models on links: a file's weights, patches of them, and options of their use. Nodes change copies.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use comfyd_imaging::resize::Method;
use comfyd_models::Vb;
use comfyd_models::unet::UNet;
use comfyd_node::Opaque;
use comfyd_samplers::schedule::{Continuous, ContinuousSettings, Discrete, DiscreteSettings};
use comfyd_samplers::{Prediction, Schedule};
use comfyd_weights::detect::{self, Family, Variant};

use crate::array::is_zero;
use crate::part::{Part, Weights};
use crate::precision::Precision;
use crate::sampling::{CfgFunction, PostCfg, PreCfg};
use crate::{Conditioning, Engine, Error, LatentFormat, Result};

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

/// What an SDXL model is told beside the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Adm {
    None,
    Sdxl,
    SdxlRefiner,
}

/// What a model gets beside the latent's channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Concat {
    None,
    /// The mask, and the masked picture's latent.
    Inpaint,
    /// The latent of the picture to edit; scaled as the model's own latents or not.
    Image {
        scaled: bool,
    },
}

/// A patch of how the model is used, which reaches into its passes.
#[derive(Debug, Clone)]
pub(crate) enum HookKind {
    FreeU {
        b1: f64,
        b2: f64,
        s1: f64,
        s2: f64,
        second_version: bool,
    },
    HyperTile {
        tile_size: usize,
        swap_size: usize,
        max_depth: usize,
        scale_depth: bool,
    },
    TokenMerging {
        ratio: f64,
    },
    Downscale(Downscale),
    /// Keeps the middle's attention scores of the side without the prompt.
    KeepScores,
}

/// How a model is used: what patch nodes change beside the weights.
#[derive(Clone)]
pub(crate) struct ModelOptions {
    pub(crate) schedule: Arc<dyn Schedule>,
    pub(crate) format: LatentFormat,
    pub(crate) cfg_function: Option<CfgFunction>,
    pub(crate) pre: Vec<PreCfg>,
    pub(crate) post: Vec<PostCfg>,
    pub(crate) disable_cfg1: bool,
    pub(crate) hooks: Vec<HookKind>,
    /// DifferentialDiffusion's strength.
    pub(crate) differential: Option<f64>,
}

/// `MODEL`.
#[derive(Clone)]
pub struct Model {
    pub(crate) engine: Engine,
    pub(crate) info: Arc<comfyd_weights::detect::Model>,
    pub(crate) weights: Weights,
    pub(crate) options: Arc<ModelOptions>,
}

impl Model {
    /// A model as a file holds it.
    pub(crate) fn new(engine: &Engine, unet: &comfyd_weights::Unet, precision: Precision) -> Result<Self> {
        let schedule = default_schedule(&unet.model)?;
        let format = match (unet.model.family, unet.model.prediction) {
            (_, detect::Prediction::Edm) => LatentFormat::Playground,
            (Family::Sd15 | Family::Sd20, _) => LatentFormat::Sd15,
            (Family::Sdxl | Family::SdxlRefiner, _) => LatentFormat::Sdxl,
        };
        let options = ModelOptions {
            schedule,
            format,
            cfg_function: None,
            pre: Vec::new(),
            post: Vec::new(),
            disable_cfg1: false,
            hooks: Vec::new(),
            differential: None,
        };
        Ok(Self {
            engine: engine.clone(),
            info: Arc::new(unet.model.clone()),
            weights: Weights::new(Part::new(unet.weights.clone(), engine.device().clone(), precision)),
            options: Arc::new(options),
        })
    }

    /// The built UNet, loaded if it is not in memory.
    pub(crate) fn unet(&self) -> Result<Arc<UNet>> {
        self.engine.residency().get(&[&self.weights], || Ok(UNet::new(&self.info.config, &Vb::new(Arc::new(self.weights.clone())))?))
    }

    pub(crate) fn adm(&self) -> Adm {
        match self.info.family {
            Family::Sd15 | Family::Sd20 => Adm::None,
            Family::Sdxl => Adm::Sdxl,
            Family::SdxlRefiner => Adm::SdxlRefiner,
        }
    }

    pub(crate) fn concat(&self) -> Concat {
        match self.info.variant {
            Variant::Base => Concat::None,
            Variant::Inpaint => Concat::Inpaint,
            Variant::InstructPix2Pix => Concat::Image { scaled: matches!(self.info.prediction, detect::Prediction::VContinuous { .. }) },
        }
    }

    fn with_options(&self, change: impl FnOnce(&mut ModelOptions)) -> Self {
        let mut options = self.options.as_ref().clone();
        change(&mut options);
        Self { options: Arc::new(options), ..self.clone() }
    }

    fn with_weights(&self, weights: Weights) -> Self {
        Self { weights, ..self.clone() }
    }

    /// Its noise levels.
    pub fn schedule(&self) -> Result<Arc<dyn Schedule>> {
        Ok(Arc::clone(&self.options.schedule))
    }

    /// Its latents.
    pub fn latent_format(&self) -> LatentFormat {
        self.options.format
    }

    /// A copy with other noise levels (ModelSamplingContinuousEDM, ModelSamplingContinuousV, …).
    pub fn with_schedule(&self, schedule: Arc<dyn Schedule>) -> Self {
        self.with_options(|options| options.schedule = schedule)
    }

    /// A copy with other latents (edm_playground_v2.5).
    pub fn with_latent_format(&self, format: LatentFormat) -> Self {
        self.with_options(|options| options.format = format)
    }

    /// A copy with a LoRA file's patches at a strength (LoraLoaderModelOnly; LoraLoader calls [`crate::Clip::with_lora`] as well).
    pub fn with_lora(&self, path: &Path, strength: f64) -> Result<Self> {
        if strength == 0.0 {
            return Ok(self.clone());
        }
        let patches = crate::lora::model_patches(&self.engine, path, &self.info, &self.weights, strength)?;
        Ok(self.with_weights(self.weights.with_patches(patches)))
    }

    /// ModelMergeSimple: `ratio` of `self`, the rest of `other`.
    pub fn merge(&self, other: &Self, ratio: f64) -> Result<Self> {
        self.merge_blocks(other, ratio, &[])
    }

    /// ModelMergeBlocks and its kin: the ratio of the longest prefix that a weight's name begins with (`input_blocks.3.`, `middle_block.`,
    /// `out.`, `time_embed.`; ModelMergeBlocks: `input`, `middle`, `out`), else the default.
    pub fn merge_blocks(&self, other: &Self, default_ratio: f64, ratios: &[(String, f64)]) -> Result<Self> {
        let ratio = |name: &str| {
            let named = ratios.iter().filter(|(prefix, _)| name.starts_with(prefix.as_str()));
            // Of prefixes of one length the first counts.
            let longest = named.fold(None, |best: Option<&(String, f64)>, next| match best {
                Some(best) if best.0.len() >= next.0.len() => Some(best),
                Some(_) | None => Some(next),
            });
            let ratio = longest.map_or(default_ratio, |(_, ratio)| *ratio);
            Some((ratio, 1.0 - ratio))
        };
        Ok(self.with_weights(self.weights.merged(&other.weights, ratio)))
    }

    /// ModelMergeSubtract.
    pub fn subtract(&self, other: &Self, multiplier: f64) -> Result<Self> {
        Ok(self.with_weights(self.weights.merged(&other.weights, |_| Some((multiplier, -multiplier)))))
    }

    /// ModelMergeAdd.
    pub fn add(&self, other: &Self) -> Result<Self> {
        Ok(self.with_weights(self.weights.merged(&other.weights, |_| Some((1.0, 1.0)))))
    }

    /// A copy where the difference between `other` and this model's file is added (CreateHookModelAsLora).
    pub(crate) fn with_difference(&self, other: &Self, strength: f64) -> Self {
        self.with_weights(self.weights.with_difference(&other.weights, strength))
    }

    /// UNetSelfAttentionMultiply.
    pub fn self_attention_multiply(&self, scale: AttentionScale) -> Self {
        self.attention_multiply("attn1", scale)
    }

    /// UNetCrossAttentionMultiply.
    pub fn cross_attention_multiply(&self, scale: AttentionScale) -> Self {
        self.attention_multiply("attn2", scale)
    }

    fn attention_multiply(&self, layer: &str, scale: AttentionScale) -> Self {
        let parts = [("to_q", scale.q), ("to_k", scale.k), ("to_v", scale.v), ("to_out.0", scale.out)];
        let ends: Vec<(String, f64)> = parts
            .iter()
            .flat_map(|(part, factor)| [(format!("{layer}.{part}.bias"), *factor), (format!("{layer}.{part}.weight"), *factor)])
            .collect();
        self.with_weights(
            self.weights.multiplied(|name| ends.iter().find(|(end, _)| name.ends_with(end.as_str())).map(|(_, factor)| *factor)),
        )
    }

    /// UNetTemporalAttentionMultiply: what the results of self- and cross-attention are multiplied by (there are no temporal layers here).
    pub fn temporal_attention_multiply(&self, self_structural: f64, cross_structural: f64) -> Self {
        let is_part = |name: &str, layer: &str| {
            name.ends_with(&format!("{layer}.to_out.0.bias")) || name.ends_with(&format!("{layer}.to_out.0.weight"))
        };
        self.with_weights(self.weights.multiplied(|name| match (is_part(name, "attn1"), is_part(name, "attn2")) {
            (true, _) => Some(self_structural),
            (false, true) => Some(cross_structural),
            (false, false) => None,
        }))
    }

    /// RescaleCFG.
    pub fn rescale_cfg(&self, multiplier: f64) -> Self {
        self.with_options(|options| options.cfg_function = Some(CfgFunction::Rescale(multiplier)))
    }

    /// PerpNeg (deprecated; the guider replaces it).
    pub fn perp_neg(&self, empty: &Conditioning, neg_scale: f64) -> Self {
        let function = CfgFunction::PerpNeg { empty: empty.clone(), neg_scale };
        self.with_options(|options| options.cfg_function = Some(function))
    }

    /// RenormCFG.
    pub fn renorm_cfg(&self, truncation: f64, limit: f64) -> Self {
        self.with_options(|options| options.cfg_function = Some(CfgFunction::Renorm { truncation, limit }))
    }

    /// VideoLinearCFGGuidance.
    pub fn linear_cfg(&self, min: f64) -> Self {
        self.with_options(|options| options.cfg_function = Some(CfgFunction::Linear { min }))
    }

    /// VideoTriangleCFGGuidance.
    pub fn triangle_cfg(&self, min: f64) -> Self {
        self.with_options(|options| options.cfg_function = Some(CfgFunction::Triangle { min }))
    }

    /// FreeU.
    pub fn freeu(&self, b1: f64, b2: f64, s1: f64, s2: f64) -> Self {
        self.with_hook(HookKind::FreeU { b1, b2, s1, s2, second_version: false })
    }

    /// FreeU_V2.
    pub fn freeu_v2(&self, b1: f64, b2: f64, s1: f64, s2: f64) -> Self {
        self.with_hook(HookKind::FreeU { b1, b2, s1, s2, second_version: true })
    }

    /// HyperTile.
    pub fn hypertile(&self, tile_size: usize, swap_size: usize, max_depth: usize, scale_depth: bool) -> Self {
        self.with_hook(HookKind::HyperTile { tile_size, swap_size, max_depth, scale_depth })
    }

    /// TomePatchModel.
    pub fn token_merging(&self, ratio: f64) -> Self {
        self.with_hook(HookKind::TokenMerging { ratio })
    }

    /// SelfAttentionGuidance.
    pub fn self_attention_guidance(&self, scale: f64, blur_sigma: f64) -> Self {
        self.with_options(|options| {
            options.post.push(PostCfg::SelfAttention { scale, blur_sigma });
            options.disable_cfg1 = true;
            options.hooks.push(HookKind::KeepScores);
        })
    }

    /// PerturbedAttentionGuidance.
    pub fn perturbed_attention_guidance(&self, scale: f64) -> Self {
        self.with_post(PostCfg::PerturbedAttention { scale })
    }

    /// PatchModelAddDownscale.
    pub fn downscale(&self, settings: Downscale) -> Result<Self> {
        if !(settings.factor.is_finite() && settings.factor > 0.0) {
            return Err(Error::msg(format!("a downscale factor of {} cannot be used; choose one above 0", settings.factor)));
        }
        Ok(self.with_hook(HookKind::Downscale(settings)))
    }

    /// DifferentialDiffusion.
    pub fn differential_diffusion(&self, strength: f64) -> Self {
        self.with_options(|options| options.differential = Some(strength))
    }

    /// Mahiro.
    pub fn mahiro(&self) -> Self {
        self.with_post(PostCfg::Mahiro)
    }

    /// APG.
    pub fn adaptive_projected_guidance(&self, eta: f64, norm_threshold: f64, momentum: f64) -> Self {
        self.with_pre(PreCfg::Projected { eta, norm_threshold, momentum })
    }

    /// CFGZeroStar.
    pub fn cfg_zero_star(&self) -> Self {
        self.with_post(PostCfg::ZeroStar)
    }

    /// CFGNorm.
    pub fn cfg_norm(&self, strength: f64) -> Self {
        self.with_post(PostCfg::Norm { strength })
    }

    /// TCFG.
    pub fn tangential_damping(&self) -> Self {
        self.with_pre(PreCfg::Tangential)
    }

    /// FreSca.
    pub fn fresca(&self, scale_low: f64, scale_high: f64, freq_cutoff: usize) -> Self {
        self.with_pre(PreCfg::Frequencies { low: scale_low, high: scale_high, cutoff: freq_cutoff })
    }

    /// Epsilon Scaling.
    pub fn epsilon_scaling(&self, factor: f64) -> Self {
        self.with_post(PostCfg::Epsilon { factor })
    }

    /// LatentApplyOperationCFG: the operation is applied to the guidance (or to the one prediction where there is no negative prompt).
    pub fn latent_operation_cfg(&self, operation: LatentFunction) -> Self {
        self.with_pre(PreCfg::Operation(operation))
    }

    fn with_hook(&self, hook: HookKind) -> Self {
        self.with_options(|options| options.hooks.push(hook))
    }

    fn with_pre(&self, function: PreCfg) -> Self {
        self.with_options(|options| options.pre.push(function))
    }

    fn with_post(&self, function: PostCfg) -> Self {
        self.with_options(|options| options.post.push(function))
    }

    /// The safetensors file that ModelSave (no encoder, no autoencoder) and CheckpointSave write, with these metadata beside those that
    /// tell the model's kind. `title` becomes the title in the metadata.
    pub fn save(
        &self,
        output: crate::Output<'_>,
        clip: Option<&crate::Clip>,
        vae: Option<&crate::Vae>,
        title: &str,
        metadata: &[(String, String)],
    ) -> Result<()> {
        crate::saving::save_model(self, output, clip, vae, title, metadata)
    }

    /// AddNoise: `latent (B, 4, H, W)` with `noise` of the level that `sigmas` spans.
    pub fn add_noise(&self, noise: &Tensor, sigmas: &crate::Sigmas, latent: &Tensor) -> Result<Tensor> {
        let (Some(first), Some(last)) = (sigmas.0.first(), sigmas.0.last()) else { return Ok(latent.clone()) };
        let level = if sigmas.0.len() > 1 { (first - last).abs() } else { *first };
        let latent = if is_zero(latent)? { latent.clone() } else { self.options.format.process_in(latent)? };
        let noisy = self.options.schedule.add_noise(level, noise, &latent, false)?;
        let (shape, mut data) = crate::values(&self.options.format.process_out(&noisy)?)?;
        data.iter_mut().filter(|value| !value.is_finite()).for_each(|value| *value = 0.0);
        crate::tensor(&shape, data)
    }
}

/// The noise levels that a model was trained with.
fn default_schedule(model: &detect::Model) -> Result<Arc<dyn Schedule>> {
    let discrete = |settings: DiscreteSettings| -> Result<Arc<dyn Schedule>> { Ok(Arc::new(Discrete::new(&settings)?)) };
    match model.prediction {
        detect::Prediction::Eps => discrete(DiscreteSettings { prediction: Prediction::Eps, ..DiscreteSettings::default() }),
        detect::Prediction::V { zsnr } => discrete(DiscreteSettings { prediction: Prediction::V, zsnr, ..DiscreteSettings::default() }),
        detect::Prediction::VContinuous { sigma_min, sigma_max } => {
            let settings = ContinuousSettings { prediction: Prediction::V, sigma_min, sigma_max, sigma_data: 1.0 };
            Ok(Arc::new(Continuous::edm(&settings)?))
        }
        detect::Prediction::Edm => {
            let settings = ContinuousSettings { prediction: Prediction::Edm, sigma_min: 0.002, sigma_max: 80.0, sigma_data: 0.5 };
            Ok(Arc::new(Continuous::edm(&settings)?))
        }
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

    fn describe(&self) -> String {
        format!("a model ({:?}, {:?})", self.info.family, self.info.variant)
    }
}
