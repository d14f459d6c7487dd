//! Denoising models on links: a file's weights, patches of them, and options of their use. Nodes change copies.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use comfyd_models::Vb;
use comfyd_models::backbone::Backbone;
use comfyd_node::Opaque;
use comfyd_samplers::Schedule;

use crate::array::is_zero;
use crate::families::{Found, ModelKind};
use crate::latent_spec::LatentSpec;
use crate::part::{Part, Weights};
use crate::patches::ModelPatch;
use crate::precision::Precision;
use crate::{Engine, Result, lora};

/// Makes a patch ready for one sampling.
type NewPatch = Arc<dyn Fn() -> Box<dyn ModelPatch> + Send + Sync>;

/// How a model is used: what nodes change beside the weights.
#[derive(Clone)]
pub(crate) struct ModelOptions {
    pub(crate) schedule: Arc<dyn Schedule>,
    pub(crate) latents: &'static LatentSpec,
    pub(crate) patches: Vec<NewPatch>,
}

/// `MODEL`.
#[derive(Clone)]
pub struct Model {
    pub(crate) engine: Engine,
    pub(crate) kind: Arc<dyn ModelKind>,
    pub(crate) weights: Weights,
    pub(crate) options: Arc<ModelOptions>,
}

impl Model {
    /// A model of a family as a file holds it.
    pub(crate) fn new(engine: &Engine, Found { kind, weights }: Found, precision: Precision) -> Result<Self> {
        let options = ModelOptions { schedule: kind.objective().schedule()?, latents: kind.latents(), patches: Vec::new() };
        let weights = Weights::new(Part::new(weights, engine.device().clone(), precision));
        Ok(Self { engine: engine.clone(), kind, weights, options: Arc::new(options) })
    }

    /// The built denoiser, loaded if it is not in memory.
    pub(crate) fn backbone(&self) -> Result<Arc<Box<dyn Backbone>>> {
        self.engine.residency().get(&[&self.weights], || self.kind.backbone(&Vb::new(Arc::new(self.weights.clone()))))
    }

    fn with_options(&self, change: impl FnOnce(&mut ModelOptions)) -> Self {
        let mut options = self.options.as_ref().clone();
        change(&mut options);
        Self { options: Arc::new(options), ..self.clone() }
    }

    pub(crate) fn with_weights(&self, weights: Weights) -> Self {
        Self { weights, ..self.clone() }
    }

    /// Its noise levels.
    pub fn schedule(&self) -> Arc<dyn Schedule> {
        Arc::clone(&self.options.schedule)
    }

    /// Its latents.
    pub fn latents(&self) -> &'static LatentSpec {
        self.options.latents
    }

    /// A copy with other noise levels (ModelSamplingContinuousEDM, ModelSamplingContinuousV, …).
    pub fn with_schedule(&self, schedule: Arc<dyn Schedule>) -> Self {
        self.with_options(|options| options.schedule = schedule)
    }

    /// A copy with other latents (edm_playground_v2.5).
    pub fn with_latents(&self, latents: &'static LatentSpec) -> Self {
        self.with_options(|options| options.latents = latents)
    }

    /// A copy with a LoRA file's patches at a strength (LoraLoaderModelOnly; LoraLoader calls [`crate::Clip::with_lora`] as well).
    pub fn with_lora(&self, path: &Path, strength: f64) -> Result<Self> {
        Ok(self.with_weights(lora::on_denoiser(&self.engine, path, self.kind.as_ref(), &self.weights, strength)?))
    }

    /// ModelMergeSimple: `ratio` of `self`, the rest of `other`.
    pub fn merge(&self, other: &Self, ratio: f64) -> Self {
        self.merge_blocks(other, ratio, &[])
    }

    /// ModelMergeBlocks and its kin: the ratio of the longest prefix that a weight's name begins with (`input_blocks.3.`, `middle_block.`,
    /// `out.`, `time_embed.`; ModelMergeBlocks: `input`, `middle`, `out`), else the default.
    pub fn merge_blocks(&self, other: &Self, default_ratio: f64, ratios: &[(String, f64)]) -> Self {
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
        self.with_weights(self.weights.merged(&other.weights, ratio))
    }

    /// ModelMergeSubtract.
    pub fn subtract(&self, other: &Self, multiplier: f64) -> Self {
        self.with_weights(self.weights.merged(&other.weights, |_| Some((multiplier, -multiplier))))
    }

    /// ModelMergeAdd.
    pub fn add(&self, other: &Self) -> Self {
        self.with_weights(self.weights.merged(&other.weights, |_| Some((1.0, 1.0))))
    }

    /// A copy whose tensors are multiplied by what `factor` gives for a name (UNetSelfAttentionMultiply and its kin).
    pub fn multiplied(&self, factor: impl Fn(&str) -> Option<f64>) -> Self {
        self.with_weights(self.weights.multiplied(factor))
    }

    /// A copy that is used with a patch, after those that it has.
    pub fn with(&self, patch: impl ModelPatch + Clone + Sync + 'static) -> Self {
        self.with_options(|options| options.patches.push(Arc::new(move || Box::new(patch.clone()))))
    }

    /// AddNoise: `latent (B, C, H, W)` with `noise` of the level that `sigmas` span.
    pub fn add_noise(&self, noise: &Tensor, sigmas: &[f32], latent: &Tensor) -> Result<Tensor> {
        let (Some(first), Some(last)) = (sigmas.first(), sigmas.last()) else { return Ok(latent.clone()) };
        let level = if sigmas.len() > 1 { (first - last).abs() } else { *first };
        let latent = if is_zero(latent)? { latent.clone() } else { self.options.latents.process_in(latent)? };
        let noisy = self.options.schedule.add_noise(level, noise, &latent, false)?;
        let (shape, mut data) = crate::values(&self.options.latents.process_out(&noisy)?)?;
        data.iter_mut().filter(|value| !value.is_finite()).for_each(|value| *value = 0.0);
        crate::tensor(&shape, data)
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
        format!("a model ({:?})", self.kind)
    }
}
