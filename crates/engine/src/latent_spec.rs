//! What a family's latents look like: their axes, how the model scales them, and the linear map from their channels to colours that previews
//! use. The numbers stand with the families.

use candle_core::{Device, Tensor};

use crate::Result;

/// The latents of a model family.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatentSpec {
    /// Channels.
    pub channels: usize,
    /// Axes, those of the batch and of the channels included.
    pub axes: usize,
    /// Pixels per cell, on each side.
    pub factor: usize,
    /// What the model's latents are multiplied with: how those on links differ from them, for the families whose latents are not normalised.
    pub scale: f32,
    /// How they are normalised before that.
    pub normal: Option<Normal>,
    /// Red, green and blue for each channel.
    pub rgb_factors: &'static [[f32; 3]],
    /// What is added to the colours.
    pub rgb_bias: [f32; 3],
    /// Black, by channel.
    pub black: &'static [f32],
    /// How the name of the tiny decoder's file begins.
    pub taesd_decoder: &'static str,
}

/// The distribution of latents, by channel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normal {
    /// The mean.
    pub mean: &'static [f32],
    /// The standard deviation.
    pub std: &'static [f32],
}

impl LatentSpec {
    /// From the latents on links to those that the model works on.
    pub fn process_in(&self, latent: &Tensor) -> Result<Tensor> {
        let Some(Normal { mean, std }) = self.normal else { return Ok((latent * f64::from(self.scale))?) };
        let centred = latent.broadcast_sub(&self.by_channel(mean, latent.device())?)?;
        Ok((centred * f64::from(self.scale))?.broadcast_div(&self.by_channel(std, latent.device())?)?)
    }

    /// Undoes [`LatentSpec::process_in`].
    pub fn process_out(&self, latent: &Tensor) -> Result<Tensor> {
        // Not `latent / scale`, which the tensor library turns into a product with the inverse.
        let scale = Tensor::new(self.scale, latent.device())?;
        let Some(Normal { mean, std }) = self.normal else { return Ok(latent.broadcast_div(&scale)?) };
        let scaled = latent.broadcast_mul(&self.by_channel(std, latent.device())?)?.broadcast_div(&scale)?;
        Ok(scaled.broadcast_add(&self.by_channel(mean, latent.device())?)?)
    }

    /// A number for each channel, such that it counts for all cells.
    pub(crate) fn by_channel(&self, values: &[f32], device: &Device) -> Result<Tensor> {
        let mut shape = vec![1; self.axes];
        shape[1] = self.channels;
        Ok(Tensor::from_slice(values, shape, device)?)
    }
}
