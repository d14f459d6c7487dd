//! Autoencoders on links: between pictures and latents, in tiles where memory is short.

use std::fmt;

use candle_core::Tensor;
use comfyd_node::{Context, Opaque};

use crate::{Error, Result};

/// `VAE`.
#[derive(Clone)]
pub struct Vae {}

impl Vae {
    /// Pixels per cell of the latent, on each side.
    pub fn compression(&self) -> usize {
        8
    }

    /// `latent (B, 4, H, W)` as on links to pictures `(B, 8H, 8W, 3)`, values 0..1.
    pub fn decode(&self, cx: &Context<'_>, latent: &Tensor) -> Result<Tensor> {
        let _ = (cx, latent);
        Err(Error::msg("the autoencoder is not built yet"))
    }

    /// [`Vae::decode`] in tiles of `tile` cells of the latent that overlap by `overlap` cells. Reports progress per tile.
    pub fn decode_tiled(&self, cx: &Context<'_>, latent: &Tensor, tile: usize, overlap: usize) -> Result<Tensor> {
        let _ = (cx, latent, tile, overlap);
        Err(Error::msg("the autoencoder is not built yet"))
    }

    /// Pictures `(B, H, W, >= 3)` to latents `(B, 4, H / 8, W / 8)` as on links. Sides are cut to multiples of 8.
    pub fn encode(&self, cx: &Context<'_>, pixels: &Tensor) -> Result<Tensor> {
        let _ = (cx, pixels);
        Err(Error::msg("the autoencoder is not built yet"))
    }

    /// [`Vae::encode`] in tiles of `tile` pixels that overlap by `overlap` pixels. Reports progress per tile.
    pub fn encode_tiled(&self, cx: &Context<'_>, pixels: &Tensor, tile: usize, overlap: usize) -> Result<Tensor> {
        let _ = (cx, pixels, tile, overlap);
        Err(Error::msg("the autoencoder is not built yet"))
    }

    /// The safetensors file that VAESave writes, with these metadata.
    pub fn save(&self, path: &std::path::Path, metadata: &[(String, String)]) -> Result<()> {
        let _ = (path, metadata);
        Err(Error::msg("the autoencoder is not built yet"))
    }
}

impl fmt::Debug for Vae {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl Opaque for Vae {
    fn type_name(&self) -> &'static str {
        "VAE"
    }

    fn size_bytes(&self) -> usize {
        0
    }
}
