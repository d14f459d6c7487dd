//! From noise to a latent: what nodes ask for, and the values on links that say how.

use std::sync::Arc;

use candle_core::Tensor;
use comfyd_node::{Context, Opaque};

use crate::{Conditioning, Engine, Error, Guider, Model, Result};

/// `SAMPLER`: a way from noise to a latent.
#[derive(Debug, Clone)]
pub struct Sampler {
    pub(crate) sampler: Arc<dyn comfyd_samplers::Sampler>,
    /// Whether the kept part of an inpainted picture gets noise of its own (ddim).
    pub(crate) inpaint_random: bool,
}

impl Sampler {
    /// A sampler with its options, made by `comfyd_samplers`.
    pub fn new(sampler: Arc<dyn comfyd_samplers::Sampler>) -> Self {
        Self { sampler, inpaint_random: false }
    }

    /// The sampler of a name that KSampler lists, with its defaults.
    pub fn by_name(name: &str) -> Result<Self> {
        Err(Error::msg(format!("there is no sampler '{name}'; take one of the listed ones")))
    }
}

impl Opaque for Sampler {
    fn type_name(&self) -> &'static str {
        "SAMPLER"
    }

    fn size_bytes(&self) -> usize {
        0
    }
}

/// `SIGMAS`: noise levels, falling.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sigmas(pub Arc<Vec<f32>>);

impl Sigmas {
    /// These levels.
    pub fn new(levels: Vec<f32>) -> Self {
        Self(Arc::new(levels))
    }

    /// BasicScheduler: the levels of a scheduler that KSampler lists; with `denoise` below 1 only the last ones of a longer way.
    pub fn of_scheduler(model: &Model, scheduler: &str, steps: usize, denoise: f64) -> Result<Self> {
        let _ = (model, scheduler, steps, denoise);
        Err(Error::msg("schedulers are not built yet"))
    }
}

impl Opaque for Sigmas {
    fn type_name(&self) -> &'static str {
        "SIGMAS"
    }

    fn size_bytes(&self) -> usize {
        self.0.len() * 4
    }
}

/// `NOISE`: where noise comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noise {
    /// None (DisableNoise).
    Disabled,
    /// From a seed (RandomNoise).
    Random(u64),
}

impl Noise {
    /// The noise for a latent, as torch makes it on the CPU.
    pub fn generate(&self, latent: &LatentInput) -> Result<Tensor> {
        let _ = latent;
        Err(Error::msg("noise is not built yet"))
    }

    /// The seed that the sampler gets for noise of its own.
    pub fn seed(&self) -> u64 {
        match self {
            Self::Disabled => 0,
            Self::Random(seed) => *seed,
        }
    }
}

impl Opaque for Noise {
    fn type_name(&self) -> &'static str {
        "NOISE"
    }

    fn size_bytes(&self) -> usize {
        0
    }
}

/// A latent as nodes hold it: CPU tensors, F32.
#[derive(Debug, Clone)]
pub struct LatentInput {
    /// (B, C, H, W), as on links.
    pub samples: Tensor,
    /// Where to sample: 1 renews, 0 keeps; (B, H, W) or (B, 1, H, W), of any resolution.
    pub noise_mask: Option<Tensor>,
    /// Which place in the noise sequence each sample takes.
    pub batch_index: Option<Vec<i64>>,
}

/// KSampler's and KSamplerAdvanced's settings.
#[derive(Debug, Clone)]
pub struct KSampler {
    /// Seeds the noise.
    pub seed: u64,
    /// Steps of the whole way.
    pub steps: usize,
    /// Guidance.
    pub cfg: f64,
    /// A name that KSampler lists.
    pub sampler: String,
    /// A name that KSampler lists.
    pub scheduler: String,
    /// How much of the way is gone (0..1); 1 for KSamplerAdvanced.
    pub denoise: f64,
    /// Starts from the latent as it is (KSamplerAdvanced, `add_noise` disabled).
    pub disable_noise: bool,
    /// The first step.
    pub start_step: Option<usize>,
    /// The step before which to stop.
    pub last_step: Option<usize>,
    /// Ends without noise where it stops early (KSamplerAdvanced, `return_with_leftover_noise` disabled).
    pub force_full_denoise: bool,
}

/// What sampling gives.
#[derive(Debug, Clone)]
pub struct Sampled {
    /// The latent (B, C, H, W), as on links.
    pub output: Tensor,
    /// The clean latent expected at the last step; the output where there was no step.
    pub denoised: Tensor,
}

impl Engine {
    /// KSampler and KSamplerAdvanced. Reports progress and previews at every step.
    pub fn ksampler(
        &self,
        cx: &Context<'_>,
        model: &Model,
        positive: &Conditioning,
        negative: &Conditioning,
        latent: &LatentInput,
        settings: &KSampler,
    ) -> Result<Tensor> {
        let _ = (cx, model, positive, negative, latent, settings);
        Err(Error::msg("sampling is not built yet"))
    }

    /// SamplerCustomAdvanced; SamplerCustom with [`Guider::cfg`]. Reports progress and previews at every step.
    pub fn sample(
        &self,
        cx: &Context<'_>,
        guider: &Guider,
        noise: Noise,
        sampler: &Sampler,
        sigmas: &Sigmas,
        latent: &LatentInput,
    ) -> Result<Sampled> {
        let _ = (cx, guider, noise, sampler, sigmas, latent);
        Err(Error::msg("sampling is not built yet"))
    }
}
