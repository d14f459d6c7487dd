//! What a family's latents look like: how the model scales them, and the linear map from their channels to colours that previews use. The
//! numbers are the reference's.

use candle_core::{Device, Tensor};

use crate::Result;

/// The latents of a model family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LatentFormat {
    /// Stable Diffusion 1.x and 2.x.
    Sd15,
    /// Stable Diffusion XL, base and refiner.
    Sdxl,
    /// Playground 2.5, an SDXL with latents of its own.
    Playground,
}

const PLAYGROUND_MEAN: [f32; 4] = [-1.6574, 1.886, -1.383, 2.5155];
const PLAYGROUND_STD: [f32; 4] = [8.4927, 5.9022, 6.5498, 5.2299];

impl LatentFormat {
    /// Channels of a latent.
    pub fn channels(self) -> usize {
        4
    }

    /// The one factor of the families that need no more: what [`LatentFormat::process_in`] multiplies with, and what the tiny autoencoder,
    /// which knows only the model's latents, has to be told.
    pub(crate) fn scale(self) -> f32 {
        match self {
            Self::Sd15 => 0.18215,
            Self::Sdxl | Self::Playground => 0.13025,
        }
    }

    /// From the latents on links to those that the model works on.
    pub fn process_in(self, latent: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Sd15 | Self::Sdxl => (latent * f64::from(self.scale()))?,
            Self::Playground => {
                let (mean, std) = playground(latent.device())?;
                (latent.broadcast_sub(&mean)? * 0.5)?.broadcast_div(&std)?
            }
        })
    }

    /// Undoes [`LatentFormat::process_in`].
    pub fn process_out(self, latent: &Tensor) -> Result<Tensor> {
        Ok(match self {
            // Not `latent / scale`, which the tensor library turns into a product with the inverse.
            Self::Sd15 | Self::Sdxl => latent.broadcast_div(&Tensor::new(self.scale(), latent.device())?)?,
            Self::Playground => {
                let (mean, std) = playground(latent.device())?;
                (latent.broadcast_mul(&std)? / 0.5)?.broadcast_add(&mean)?
            }
        })
    }

    /// Red, green and blue for each channel, and what is added to them.
    pub(crate) fn rgb_factors(self) -> ([[f32; 3]; 4], [f32; 3]) {
        match self {
            Self::Sd15 => {
                ([[0.3512, 0.2297, 0.3227], [0.3250, 0.4974, 0.2350], [-0.2829, 0.1762, 0.2721], [-0.2120, -0.2616, -0.7177]], [0.0; 3])
            }
            Self::Sdxl => (
                [[0.3651, 0.4232, 0.4341], [-0.2533, -0.0042, 0.1068], [0.1076, 0.1111, -0.0362], [-0.3165, -0.2492, -0.2188]],
                [0.1084, -0.0175, -0.0011],
            ),
            Self::Playground => {
                ([[0.3920, 0.4054, 0.4549], [-0.2634, -0.0196, 0.0653], [0.0568, 0.1687, -0.0755], [-0.3112, -0.2359, -0.2076]], [0.0; 3])
            }
        }
    }

    /// How the file of the tiny decoder's name begins.
    pub(crate) fn taesd_decoder(self) -> &'static str {
        match self {
            Self::Sd15 => "taesd_decoder",
            Self::Sdxl | Self::Playground => "taesdxl_decoder",
        }
    }
}

fn playground(device: &Device) -> Result<(Tensor, Tensor)> {
    let row = |values: [f32; 4]| Tensor::from_vec(values.to_vec(), (1, 4, 1, 1), device);
    Ok((row(PLAYGROUND_MEAN)?, row(PLAYGROUND_STD)?))
}
