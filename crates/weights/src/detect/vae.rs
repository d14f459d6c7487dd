//! Which autoencoder a file holds.

use crate::{Result, StateDict};

/// A kind of autoencoder, of the names that `convert::vae` gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VaeKind {
    /// The convolutional one of Stable Diffusion (`AutoencoderKL`): `encoder.…`, `decoder.…`.
    Kl {
        /// Channels of its latents.
        latent_channels: usize,
        /// How many times smaller latents are than pictures, along each axis: 8, or 4 for the x4 upscaler's.
        scale: usize,
    },
    /// The tiny one: `taesd_encoder.…`, `taesd_decoder.…`.
    Taesd {
        /// Channels of its latents.
        latent_channels: usize,
    },
    /// None: pictures are their own latents (`pixel_space_vae`).
    PixelSpace,
}

/// The kind of the autoencoder in `dict`, which has the names that `convert::vae` gives.
pub fn vae_kind(dict: &StateDict) -> Result<VaeKind> {
    let axis = |name: &str| dict.shape(name).and_then(|shape| shape.get(1)).copied();
    if dict.contains("decoder.mid.block_1.mix_factor") {
        return Err(dict.unknown("its autoencoder is one for videos; choose one for pictures"));
    }
    if let Some(latent_channels) = axis("taesd_decoder.1.weight") {
        return Ok(VaeKind::Taesd { latent_channels });
    }
    if let Some(latent_channels) = axis("decoder.conv_in.weight").filter(|channels| *channels < 32) {
        let deep = dict.contains("encoder.down.2.downsample.conv.weight") || dict.contains("decoder.up.3.upsample.conv.weight");
        return Ok(VaeKind::Kl { latent_channels, scale: if deep { 8 } else { 4 } });
    }
    if dict.contains("pixel_space_vae") {
        return Ok(VaeKind::PixelSpace);
    }
    Err(dict
        .unknown("it has no autoencoder that is known; looked for decoder.conv_in.weight (Stable Diffusion's) and taesd_decoder.1.weight"))
}
