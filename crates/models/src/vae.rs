//! Autoencoders between pixels and latents, as nodes use them: pixels are `(B, 3, H, W)` in 0..1, latents `(B, C, h, w)` as the model
//! file has them (not scaled for the denoiser). Files are not known here.

use candle_core::{DType, Device, Tensor};
use comfyd_weights::StateDict;

use crate::Check;
use crate::error::{Error, Result};
use crate::tiles::{self, Progress, Scale, Tile};
use crate::vb::Vb;

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
        if weights.contains("decoder.mid.block_1.mix_factor") {
            return Err(Error::msg("its autoencoder is one for videos; choose one for pictures"));
        }
        Ok(Self::Kl(KlConfig::detect(weights)?))
    }

    /// Channels of its latents.
    pub fn latent_channels(&self) -> usize {
        match self {
            Self::Kl(config) => config.latent_channels(),
            Self::Taesd(config) => config.latent_channels,
        }
    }

    /// Pixels along a side of a latent pixel.
    pub fn compression(&self) -> usize {
        match self {
            Self::Kl(config) => config.compression(),
            Self::Taesd(_) => TaesdConfig::COMPRESSION,
        }
    }
}

/// An autoencoder.
pub struct Vae {
    model: Model,
    latent_channels: usize,
    compression: usize,
}

enum Model {
    Kl(Box<AutoencoderKl>),
    Taesd(Taesd),
}

/// The tiles that the reference decodes with when memory does not suffice, in latent pixels.
pub const DECODE_TILE: Tile = Tile { x: 64, y: 64, overlap: 16 };
/// The tiles that the reference encodes with when memory does not suffice, in pixels.
pub const ENCODE_TILE: Tile = Tile { x: 512, y: 512, overlap: 64 };

impl Vae {
    /// Reads the weights.
    pub fn new(config: &VaeConfig, vb: &Vb) -> Result<Self> {
        let model = match config {
            VaeConfig::Kl(config) => Model::Kl(Box::new(AutoencoderKl::new(config, vb)?)),
            VaeConfig::Taesd(config) => Model::Taesd(Taesd::new(config, vb)?),
        };
        Ok(Self { model, latent_channels: config.latent_channels(), compression: config.compression() })
    }

    /// Latents `(B, C, h, w)` to pixels `(B, 3, H, W)` in 0..1, F32 on the CPU; one after the other. `check` is called between blocks;
    /// its error stops.
    pub fn decode(&self, latents: &Tensor, check: Check<'_>) -> Result<Tensor> {
        let latents = self.checked_latents(latents)?;
        let mut images = Vec::new();
        for index in 0..latents.dim(0)? {
            let image = self.decode_raw(&latents.narrow(0, index, 1)?.contiguous()?, check)?;
            images.push(picture_to_cpu(&to_unit(&image)?)?);
        }
        Ok(Tensor::cat(&images, 0)?)
    }

    /// Pixels `(B, 3, H, W)` in 0..1 to latents (the distribution's mean), F32 on the CPU. The middle is taken of sides that are no
    /// multiple of the compression.
    pub fn encode(&self, pixels: &Tensor, check: Check<'_>) -> Result<Tensor> {
        let pixels = self.cropped(pixels)?;
        let mut latents = Vec::new();
        for index in 0..pixels.dim(0)? {
            let pixels = pixels.narrow(0, index, 1)?.contiguous()?;
            latents.push(self.encode_raw(&pixels, check)?.to_device(&Device::Cpu)?);
        }
        Ok(Tensor::cat(&latents, 0)?)
    }

    /// [`Vae::decode`] in three passes of tiles (high, wide, square) that are averaged. `tile` is in latent pixels.
    pub fn decode_tiled(&self, latents: &Tensor, tile: Tile, check: Check<'_>, progress: Progress<'_>) -> Result<Tensor> {
        let latents = self.checked_latents(latents)?;
        let [square, wide, high] = passes(tile);
        let mut f = |part: &Tensor| self.decode_raw(part, check);
        let sum = averaged(&latents, [high, wide, square], Scale::Up(self.compression), 3, &mut f, progress)?;
        to_unit(&sum)
    }

    /// [`Vae::encode`] in three passes of tiles that are averaged. `tile` is in pixels.
    pub fn encode_tiled(&self, pixels: &Tensor, tile: Tile, check: Check<'_>, progress: Progress<'_>) -> Result<Tensor> {
        let pixels = self.cropped(pixels)?;
        let [square, wide, high] = passes(tile);
        let mut f = |part: &Tensor| self.encode_raw(part, check);
        averaged(&pixels, [square, wide, high], Scale::Down(self.compression), self.latent_channels, &mut f, progress)
    }

    /// Bytes of working memory that decoding one latent of this size takes (the reference's estimate for F32).
    pub fn decode_memory_bytes(&self, latent_height: usize, latent_width: usize) -> u64 {
        let area = (latent_height as u64).saturating_mul(latent_width as u64);
        area.saturating_mul(2178 * 64 * 4)
    }

    /// Bytes of working memory that encoding one image of this size takes (the reference's estimate for F32).
    pub fn encode_memory_bytes(&self, height: usize, width: usize) -> u64 {
        (height as u64).saturating_mul(width as u64).saturating_mul(1767 * 4)
    }

    fn decode_raw(&self, latents: &Tensor, check: Check<'_>) -> Result<Tensor> {
        check()?;
        match &self.model {
            Model::Kl(model) => model.decode(latents, check),
            Model::Taesd(model) => model.decode(latents, check),
        }
    }

    fn encode_raw(&self, pixels: &Tensor, check: Check<'_>) -> Result<Tensor> {
        check()?;
        let pixels = ((pixels * 2.0)? - 1.0)?;
        match &self.model {
            Model::Kl(model) => model.encode(&pixels, check),
            Model::Taesd(model) => model.encode(&pixels, check),
        }
    }

    fn checked_latents(&self, latents: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = latents.dims4()?;
        if channels != self.latent_channels {
            return Err(Error::msg(format!(
                "the latent has {channels} channels, the VAE decodes {}; choose the VAE that belongs to the model",
                self.latent_channels
            )));
        }
        not_empty(batch, height, width)?;
        Ok(latents.to_dtype(DType::F32)?)
    }

    /// The middle, with sides that are multiples of the compression.
    fn cropped(&self, pixels: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = pixels.dims4()?;
        if channels != 3 {
            return Err(Error::msg(format!("the VAE encodes pictures of 3 channels, this one has {channels}")));
        }
        let mut pixels = pixels.to_dtype(DType::F32)?;
        let unit = self.compression;
        for (axis, length) in [(2, height), (3, width)] {
            let kept = length / unit * unit;
            if kept != length && kept > 0 {
                pixels = pixels.narrow(axis, length % unit / 2, kept)?;
            }
        }
        not_empty(batch, height / unit, width / unit)?;
        Ok(pixels)
    }
}

fn not_empty(batch: usize, height: usize, width: usize) -> Result<()> {
    if batch * height * width == 0 {
        return Err(Error::msg("the picture is smaller than one latent pixel; choose a larger one"));
    }
    Ok(())
}

/// Pixels `(1, 3, H, W)` to the CPU, as pictures lie: a card is the faster one to turn them.
fn picture_to_cpu(image: &Tensor) -> Result<Tensor> {
    if image.device().is_cpu() {
        return Ok(image.clone());
    }
    Ok(image.permute((0, 2, 3, 1))?.contiguous()?.to_device(&Device::Cpu)?.permute((0, 3, 1, 2))?)
}

/// -1..1 to 0..1, cut off outside.
fn to_unit(image: &Tensor) -> Result<Tensor> {
    Ok(((image + 1.0)? / 2.0)?.clamp(0f32, 1f32)?)
}

/// The tiles of the three passes: as asked for, wide, high.
fn passes(tile: Tile) -> [Tile; 3] {
    let Tile { x, y, overlap } = tile;
    [tile, Tile { x: x * 2, y: y / 2, overlap }, Tile { x: x / 2, y: y * 2, overlap }]
}

/// The mean of three passes, summed in their order.
fn averaged(
    samples: &Tensor,
    tiles: [Tile; 3],
    scale: Scale,
    channels: usize,
    f: &mut dyn FnMut(&Tensor) -> Result<Tensor>,
    progress: Progress<'_>,
) -> Result<Tensor> {
    let (batch, _, height, width) = samples.dims4()?;
    let total = batch * tiles.iter().map(|tile| tiles::steps(width, height, *tile)).sum::<usize>();
    let mut done = 0;
    let mut after = || {
        done += 1;
        progress(done.min(total), total)
    };
    let mut sum: Option<Tensor> = None;
    for tile in tiles {
        let pass = tiles::tiled_scale(samples, tile, scale, channels, f, &mut after)?;
        sum = Some(match sum {
            Some(sum) => (sum + pass)?,
            None => pass,
        });
    }
    let sum = sum.ok_or_else(|| Error::msg("there are no passes"))?;
    Ok((sum / 3.0)?)
}
