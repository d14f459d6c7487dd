//! TAESD, the tiny autoencoder (<https://github.com/madebyollin/taesd>), for previews and as a fast stand-in for the large one.

use candle_core::Tensor;
use comfyd_weights::StateDict;

use crate::{Error, Result, Vb};

/// What is known of a tiny autoencoder.
#[derive(Debug, Clone, PartialEq)]
pub struct TaesdConfig {
    /// Channels of its latents.
    pub latent_channels: usize,
    /// Factor between the latents of nodes and its own.
    pub scale: f64,
    /// Added to its own latents to get those of nodes.
    pub shift: f64,
}

impl TaesdConfig {
    /// Told from `taesd_decoder.1.weight`, and from `vae_scale` and `vae_shift` if they are there.
    pub fn detect(_weights: &StateDict) -> Result<Self> {
        Err(Error::msg("not there yet"))
    }

    /// For previews: latents are taken as samplers have them.
    pub fn preview(latent_channels: usize) -> Self {
        Self { latent_channels, scale: 1.0, shift: 0.0 }
    }
}

/// The model; its halves may come from different files.
pub struct Taesd {}

impl Taesd {
    /// Reads both halves, below `taesd_encoder` and `taesd_decoder`.
    pub fn new(_config: &TaesdConfig, _vb: &Vb) -> Result<Self> {
        Err(Error::msg("not there yet"))
    }

    /// Reads the decoder only, whose names in the file are `1.weight`, `3.conv.0.weight`, ….
    pub fn decoder_only(_config: &TaesdConfig, _vb: &Vb) -> Result<Self> {
        Err(Error::msg("not there yet"))
    }

    /// Pixels `(B, 3, H, W)` in -1..1 to latents `(B, C, H / 8, W / 8)`.
    pub fn encode(&self, _x: &Tensor, _check: &dyn Fn() -> Result<()>) -> Result<Tensor> {
        Err(Error::msg("not there yet"))
    }

    /// Latents to pixels, about -1..1.
    pub fn decode(&self, _z: &Tensor, _check: &dyn Fn() -> Result<()>) -> Result<Tensor> {
        Err(Error::msg("not there yet"))
    }
}
