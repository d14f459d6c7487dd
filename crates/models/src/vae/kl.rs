//! `AutoencoderKL`, the autoencoder of Stable Diffusion (latent-diffusion, `autoencoder.py`).

use candle_core::Tensor;
use comfyd_weights::StateDict;

use crate::{Error, Result, Vb};

/// The shape of an autoencoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KlConfig {
    /// Channels of the full size level.
    pub channels: usize,
    /// Channels of each level as a multiple of `channels`.
    pub channel_mult: Vec<usize>,
    /// Residual blocks of each encoder level.
    pub num_res_blocks: usize,
    /// Channels of the decoder's input.
    pub z_channels: usize,
    /// Channels of latents, if there are convolutions between latents and encoder or decoder.
    pub embed_dim: Option<usize>,
}

impl KlConfig {
    /// Told from names and shapes.
    pub fn detect(_weights: &StateDict) -> Result<Self> {
        Err(Error::msg("not there yet"))
    }
}

/// The model.
pub struct AutoencoderKl {}

impl AutoencoderKl {
    /// Reads the weights.
    pub fn new(_config: &KlConfig, _vb: &Vb) -> Result<Self> {
        Err(Error::msg("not there yet"))
    }

    /// Pixels `(B, 3, H, W)` in -1..1 to the mean of the latents' distribution `(B, C, H / 8, W / 8)`.
    pub fn encode(&self, _x: &Tensor, _check: &dyn Fn() -> Result<()>) -> Result<Tensor> {
        Err(Error::msg("not there yet"))
    }

    /// Latents `(B, C, h, w)` to pixels `(B, 3, 8h, 8w)`, about -1..1.
    pub fn decode(&self, _z: &Tensor, _check: &dyn Fn() -> Result<()>) -> Result<Tensor> {
        Err(Error::msg("not there yet"))
    }
}
