//! Autoencoders on links: between pictures and latents, in tiles where memory is short.

use std::fmt;
use std::sync::Arc;

use candle_core::Tensor;
use comfyd_models::Vb;
use comfyd_models::tiles::Tile;
use comfyd_models::vae::{self, DECODE_TILE, ENCODE_TILE, VaeConfig};
use comfyd_node::{Context, Opaque};
use comfyd_weights::StateDict;

use crate::engine::{cancel_check, tile_progress};
use crate::part::{Part, Weights};
use crate::precision::Precision;
use crate::{Engine, Error, Result};

/// The reference's estimates of what an autoencoder takes have room to spare: one part of so many is what it takes at least.
const LEAST_PART: u64 = 2;
/// Pictures are joined, turned, and taken over.
const PICTURE_COPIES: u64 = 3;

/// `VAE`.
#[derive(Clone)]
pub struct Vae {
    engine: Engine,
    /// `None`: latents are pixels.
    config: Option<Arc<VaeConfig>>,
    pub(crate) weights: Weights,
}

impl Vae {
    pub(crate) fn new(engine: &Engine, weights: StateDict) -> Result<Self> {
        let config = Some(Arc::new(VaeConfig::detect(&weights)?));
        let weights = Weights::new(Part::new(weights, engine.device().clone(), Precision::of_pictures(engine.device())));
        Ok(Self { engine: engine.clone(), config, weights })
    }

    /// The one whose latents are pixels from -1 to 1.
    pub(crate) fn pixel_space(engine: &Engine) -> Self {
        let weights = Weights::new(Part::new(StateDict::default(), engine.device().clone(), Precision::Stored));
        Self { engine: engine.clone(), config: None, weights }
    }

    fn model(&self, config: &VaeConfig) -> Result<Arc<vae::Vae>> {
        self.engine.residency().get(&[&self.weights], || Ok(vae::Vae::new(config, &Vb::new(Arc::new(self.weights.clone())))?))
    }

    /// Pixels per cell of the latent, on each side.
    pub fn compression(&self) -> usize {
        self.config.as_ref().map_or(1, |config| config.compression())
    }

    /// Channels of its latents.
    pub fn channels(&self) -> usize {
        self.config.as_ref().map_or(3, |config| config.latent_channels())
    }

    /// `latent (B, C, h, w)` as on links to pictures `(B, H, W, 3)`, values 0..1.
    pub fn decode(&self, cx: &Context<'_>, latent: &Tensor) -> Result<Tensor> {
        let (batch, _, h, w) = latent.dims4().map_err(|_| wrong_latent(latent))?;
        let Some(config) = &self.config else { return pixels_of(latent) };
        let model = self.model(config)?;
        let _pictures = self.engine.account().reserve(self.pictures_bytes(batch, h, w))?;
        let _room = match self.engine.roomy(model.decode_memory_bytes(h, w)) {
            Ok(room) => room,
            Err(refused) => {
                tracing::warn!(%refused, "a latent is decoded in tiles");
                return self.decode_in(cx, latent, DECODE_TILE);
            }
        };
        let pixels =
            (0..batch).map(|i| Ok(model.decode(&self.here(&latent.narrow(0, i, 1)?)?, &cancel_check(cx))?)).collect::<Result<Vec<_>>>()?;
        to_pictures(&Tensor::cat(&pixels, 0)?)
    }

    /// [`Vae::decode`] in tiles of `tile` cells of the latent that overlap by `overlap` cells. Reports progress per tile.
    pub fn decode_tiled(&self, cx: &Context<'_>, latent: &Tensor, tile: usize, overlap: usize) -> Result<Tensor> {
        let (batch, _, h, w) = latent.dims4().map_err(|_| wrong_latent(latent))?;
        let _pictures = self.engine.account().reserve(self.pictures_bytes(batch, h, w))?;
        self.decode_in(cx, latent, Tile { x: tile, y: tile, overlap })
    }

    fn decode_in(&self, cx: &Context<'_>, latent: &Tensor, tile: Tile) -> Result<Tensor> {
        let Some(config) = &self.config else { return pixels_of(latent) };
        let model = self.model(config)?;
        let (_, _, h, w) = latent.dims4()?;
        let _room = self.engine.room(model.decode_memory_bytes(tile.y.min(h), tile.x.min(w)) / LEAST_PART)?;
        let pixels = model.decode_tiled(&self.here(latent)?, tile, &cancel_check(cx), &mut tile_progress(cx))?;
        to_pictures(&pixels)
    }

    /// Pictures `(B, H, W, >= 3)` to latents `(B, C, h, w)` as on links. Sides are cut to multiples of [`Vae::compression`].
    pub fn encode(&self, cx: &Context<'_>, pixels: &Tensor) -> Result<Tensor> {
        let pixels = from_pictures(pixels)?;
        let (batch, _, h, w) = pixels.dims4()?;
        let Some(config) = &self.config else { return Ok(pixels.affine(2.0, -1.0)?) };
        let model = self.model(config)?;
        let _room = match self.engine.roomy(model.encode_memory_bytes(h, w)) {
            Ok(room) => room,
            Err(refused) => {
                tracing::warn!(%refused, "a picture is encoded in tiles");
                return self.encode_in(cx, &pixels, ENCODE_TILE);
            }
        };
        let latents =
            (0..batch).map(|i| Ok(model.encode(&self.here(&pixels.narrow(0, i, 1)?)?, &cancel_check(cx))?)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&latents, 0)?)
    }

    /// [`Vae::encode`] in tiles of `tile` pixels that overlap by `overlap` pixels. Reports progress per tile.
    pub fn encode_tiled(&self, cx: &Context<'_>, pixels: &Tensor, tile: usize, overlap: usize) -> Result<Tensor> {
        self.encode_in(cx, &from_pictures(pixels)?, Tile { x: tile, y: tile, overlap })
    }

    fn encode_in(&self, cx: &Context<'_>, pixels: &Tensor, tile: Tile) -> Result<Tensor> {
        let Some(config) = &self.config else { return Ok(pixels.affine(2.0, -1.0)?) };
        let model = self.model(config)?;
        let (_, _, h, w) = pixels.dims4()?;
        let _room = self.engine.room(model.encode_memory_bytes(tile.y.min(h), tile.x.min(w)) / LEAST_PART)?;
        Ok(model.encode_tiled(&self.here(pixels)?, tile, &cancel_check(cx), &mut tile_progress(cx))?)
    }

    /// Bytes of the pictures that latents of this size become, as often as they are there before the last of them is whole.
    fn pictures_bytes(&self, batch: usize, height: usize, width: usize) -> u64 {
        let cell = self.compression();
        [batch, height, width, cell, cell, 3].iter().fold(4 * PICTURE_COPIES, |bytes, axis| bytes.saturating_mul(*axis as u64))
    }

    fn here(&self, tensor: &Tensor) -> Result<Tensor> {
        Ok(tensor.contiguous()?.to_device(self.engine.device())?)
    }
}

/// Pixels from -1 to 1 `(B, 3, H, W)` as pictures.
fn pixels_of(latent: &Tensor) -> Result<Tensor> {
    let channels = latent.dim(1)?;
    if channels != 3 {
        return Err(Error::msg(format!("a latent of {channels} channels holds no pixels; decode it with the model's own VAE")));
    }
    to_pictures(&latent.affine(0.5, 0.5)?.clamp(0f32, 1f32)?)
}

fn wrong_latent(latent: &Tensor) -> Error {
    Error::msg(format!("a latent of the shape {:?} cannot be decoded; the autoencoder takes four axes", latent.dims()))
}

/// `(B, 3, H, W)` to `(B, H, W, 3)`.
fn to_pictures(pixels: &Tensor) -> Result<Tensor> {
    Ok(pixels.permute((0, 2, 3, 1))?.contiguous()?)
}

/// `(B, H, W, >= 3)` to `(B, 3, H, W)`.
fn from_pictures(pixels: &Tensor) -> Result<Tensor> {
    let channels = pixels.dims4().map_or(0, |(_, _, _, channels)| channels);
    if channels < 3 {
        return Err(Error::msg(format!("pictures of the shape {:?} cannot be encoded; they need three colours", pixels.dims())));
    }
    Ok(pixels.narrow(3, 0, 3)?.permute((0, 3, 1, 2))?.contiguous()?)
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

    fn describe(&self) -> String {
        "an autoencoder".into()
    }
}
