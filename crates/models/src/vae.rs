//! Autoencoders between pixels and latents, as nodes use them: pixels are `(B, 3, H, W)` in 0..1, latents `(B, C, H / 8, W / 8)` as the
//! model file has them (not scaled for the denoiser). Files are not known here.

use candle_core::Tensor;
use comfyd_weights::StateDict;

use crate::tiles::{Progress, Tile};
use crate::{Error, Result, Vb};

pub use crate::taesd::{Taesd, TaesdConfig};

mod kl;

pub use self::kl::{AutoencoderKl, KlConfig};

/// What kind of autoencoder a state dict holds.
#[derive(Debug, Clone, PartialEq)]
pub enum VaeConfig {
    /// The autoencoder of Stable Diffusion.
    Kl(KlConfig),
    /// The tiny one.
    Taesd(TaesdConfig),
}

impl VaeConfig {
    /// Told from names and shapes: `encoder.…` / `decoder.…`, or `taesd_encoder.…` / `taesd_decoder.…`.
    pub fn detect(weights: &StateDict) -> Result<Self> {
        if weights.contains("taesd_decoder.1.weight") {
            return Ok(Self::Taesd(TaesdConfig::detect(weights)?));
        }
        Ok(Self::Kl(KlConfig::detect(weights)?))
    }
}

/// An autoencoder.
pub struct Vae {
    _model: Model,
}

enum Model {
    _Kl(AutoencoderKl),
    _Taesd(Taesd),
}

/// The tiles that the reference decodes with when memory does not suffice, in latent pixels.
pub const DECODE_TILE: Tile = Tile { x: 64, y: 64, overlap: 16 };
/// The tiles that the reference encodes with when memory does not suffice, in pixels.
pub const ENCODE_TILE: Tile = Tile { x: 512, y: 512, overlap: 64 };

impl Vae {
    /// Reads the weights.
    pub fn new(_config: &VaeConfig, _vb: &Vb) -> Result<Self> {
        Err(Error::msg("not there yet"))
    }

    /// Channels of its latents.
    pub fn latent_channels(&self) -> usize {
        4
    }

    /// Pixels along a side of a latent pixel.
    pub fn compression(&self) -> usize {
        8
    }

    /// Latents `(B, C, h, w)` to pixels `(B, 3, 8h, 8w)` in 0..1, F32 on the CPU. `check` is called between blocks; its error stops.
    pub fn decode(&self, _latents: &Tensor, _check: &dyn Fn() -> Result<()>) -> Result<Tensor> {
        Err(Error::msg("not there yet"))
    }

    /// Pixels `(B, 3, H, W)` in 0..1 to latents (the distribution's mean), F32 on the CPU. The middle is taken of sides that are no
    /// multiple of 8.
    pub fn encode(&self, _pixels: &Tensor, _check: &dyn Fn() -> Result<()>) -> Result<Tensor> {
        Err(Error::msg("not there yet"))
    }

    /// [`Vae::decode`] in three passes of tiles (square, high, wide) that are averaged. `tile` is in latent pixels.
    pub fn decode_tiled(&self, _latents: &Tensor, _tile: Tile, _check: &dyn Fn() -> Result<()>, _progress: Progress<'_>) -> Result<Tensor> {
        Err(Error::msg("not there yet"))
    }

    /// [`Vae::encode`] in three passes of tiles that are averaged. `tile` is in pixels.
    pub fn encode_tiled(&self, _pixels: &Tensor, _tile: Tile, _check: &dyn Fn() -> Result<()>, _progress: Progress<'_>) -> Result<Tensor> {
        Err(Error::msg("not there yet"))
    }

    /// Bytes of working memory that decoding one latent of this size takes (the reference's estimate, F32).
    pub fn decode_memory_bytes(&self, _latent_height: usize, _latent_width: usize) -> u64 {
        0
    }

    /// Bytes of working memory that encoding one image of this size takes.
    pub fn encode_memory_bytes(&self, _height: usize, _width: usize) -> u64 {
        0
    }
}
