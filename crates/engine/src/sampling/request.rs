//! What nodes ask for when they sample: the values on links that say how.

use std::sync::Arc;

use candle_core::Tensor;
use comfyd_node::Opaque;
use comfyd_samplers::noise;

use crate::{Error, Result};

/// `SAMPLER`: a way from noise to a latent.
#[derive(Debug, Clone)]
pub struct Sampler {
    pub(crate) sampler: Arc<dyn comfyd_samplers::Sampler>,
}

impl Sampler {
    /// A sampler with its options, made by `comfyd_samplers`.
    pub fn new(sampler: Arc<dyn comfyd_samplers::Sampler>) -> Self {
        Self { sampler }
    }

    /// The sampler of a name that KSampler lists, with its defaults.
    pub fn by_name(name: &str) -> Result<Self> {
        let sampler = comfyd_samplers::by_name(name);
        Ok(Self::new(sampler.ok_or_else(|| Error::msg(format!("there is no sampler '{name}'; take one of the listed ones")))?))
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

/// `NOISE`: where noise comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noise {
    /// None (DisableNoise: with the seed 0; SamplerCustom without noise: with its own).
    Disabled {
        /// What the sampler gets for noise of its own.
        seed: u64,
    },
    /// From a seed (RandomNoise).
    Random(u64),
}

impl Noise {
    /// The noise for a latent, as torch makes it on the CPU.
    pub fn generate(&self, latent: &LatentInput) -> Result<Tensor> {
        let shape = latent.samples.dims();
        match self {
            Self::Disabled { .. } => Ok(latent.samples.zeros_like()?),
            Self::Random(seed) => Ok(noise::latent(*seed, shape, latent.batch_index.as_deref())?),
        }
    }

    /// The seed that the sampler gets for noise of its own.
    pub fn seed(&self) -> u64 {
        match self {
            Self::Disabled { seed } | Self::Random(seed) => *seed,
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
