//! What the engine is told at its construction. It reads no environment and no configuration itself.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use comfyd_kernels::{Level as CpuLevel, Precision as ProductPrecision};
use comfyd_memory::Account;

/// Which previews are shown while sampling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PreviewMethod {
    /// None.
    #[default]
    None,
    /// The cheap one.
    Auto,
    /// A linear map from the latent's channels to colours.
    Latent2Rgb,
    /// A tiny autoencoder, where its file is in `vae_approx`; else the linear map.
    Taesd,
}

impl PreviewMethod {
    /// The one that a prompt's `extra_data` calls so.
    pub fn named(name: &str) -> Option<Self> {
        let all = [("none", Self::None), ("auto", Self::Auto), ("latent2rgb", Self::Latent2Rgb), ("taesd", Self::Taesd)];
        all.into_iter().find(|(known, _)| *known == name).map(|(_, method)| method)
    }
}

/// Where models run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// A CUDA device where this build has one and one is there, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of this index.
    Cuda(usize),
}

/// Finds a file by what a prompt or a latent format calls it.
pub type FileLookup = Arc<dyn Fn(&str) -> Option<PathBuf> + Send + Sync>;

/// The engine's settings.
#[derive(Clone)]
pub struct EngineOptions {
    /// Where models run.
    pub device: DeviceChoice,
    /// The best instruction set of the processor that kernels use, in the whole process; `None`: the best there is.
    pub cpu_level: Option<CpuLevel>,
    /// What products round their factors to, in the whole process.
    pub precision: ProductPrecision,
    /// Bytes that loaded models may take together on a card; `None`: four fifths of its memory.
    pub memory_budget_bytes: Option<u64>,
    /// The memory of this process, of which models on the CPU are a part.
    pub account: Account,
    /// Which previews are shown.
    pub preview: PreviewMethod,
    /// Longer side of a preview in pixels.
    pub preview_size: u32,
    /// The file of a textual-inversion embedding, by the name after `embedding:`.
    pub embeddings: FileLookup,
    /// The first file in `vae_approx` whose name begins so, such as `taesd_decoder`.
    pub approximate_vae: FileLookup,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            device: DeviceChoice::Auto,
            cpu_level: None,
            precision: ProductPrecision::Auto,
            memory_budget_bytes: None,
            account: Account::unbounded(),
            preview: PreviewMethod::None,
            preview_size: 512,
            embeddings: Arc::new(|_| None),
            approximate_vae: Arc::new(|_| None),
        }
    }
}

impl fmt::Debug for EngineOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineOptions")
            .field("device", &self.device)
            .field("cpu_level", &self.cpu_level)
            .field("precision", &self.precision)
            .field("memory_budget_bytes", &self.memory_budget_bytes)
            .field("preview", &self.preview)
            .field("preview_size", &self.preview_size)
            .finish_non_exhaustive()
    }
}
