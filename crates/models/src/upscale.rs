//! Networks that enlarge pictures: ESRGAN (RRDBNet, all its schemes of names) and Real-ESRGAN's compact one.

use std::sync::Arc;

use candle_core::Tensor;
use comfyd_weights::StateDict;

use crate::tiles::{Progress, Tile};
use crate::{Error, Provider, Result};

/// The tiles of the reference's upscaling, in pixels of the input.
pub const TILE: Tile = Tile { x: 512, y: 512, overlap: 32 };

/// What kind of network a file holds.
#[derive(Debug, Clone)]
pub struct UpscaleConfig {
    /// How many times larger the result is.
    pub scale: usize,
}

/// A network that enlarges pictures.
pub struct UpscaleModel {
    _config: UpscaleConfig,
}

impl UpscaleModel {
    /// Tells the kind from names and shapes. Wrappers around the names (`params_ema.`, `module.`, …) are known.
    pub fn detect(_weights: &StateDict) -> Result<UpscaleConfig> {
        Err(Error::msg("not there yet"))
    }

    /// Reads the weights, by the names of the file.
    pub fn new(_config: &UpscaleConfig, _provider: Arc<dyn Provider>) -> Result<Self> {
        Err(Error::msg("not there yet"))
    }

    /// How many times larger the result is.
    pub fn scale(&self) -> usize {
        1
    }

    /// `(B, 3, H, W)` in 0..1 to `(B, 3, H * scale, W * scale)` in 0..1. `check` is called between blocks.
    pub fn forward(&self, _x: &Tensor, _check: &dyn Fn() -> Result<()>) -> Result<Tensor> {
        Err(Error::msg("not there yet"))
    }

    /// [`UpscaleModel::forward`] in tiles; after running out of memory, again with tiles of half the size, down to 128. F32 on the CPU.
    pub fn upscale(&self, _x: &Tensor, _tile: Tile, _check: &dyn Fn() -> Result<()>, _progress: Progress<'_>) -> Result<Tensor> {
        Err(Error::msg("not there yet"))
    }
}
