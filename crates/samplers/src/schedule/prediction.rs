//! What a model predicts: how its input is scaled and its output read for each kind. Knows no noise levels.

use candle_core::Tensor;

use crate::Result;
use crate::math::{divide, scale, sum};

/// What a model predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Prediction {
    /// The noise.
    Eps,
    /// The velocity.
    V,
    /// EDM's preconditioned prediction.
    Edm,
    /// Flow matching: noise levels between 0 and 1.
    Flow,
    /// The clean latent (the reference's `X0`).
    X0,
    /// The clean latent from an input that is not scaled (the reference's `IMG_TO_IMG`).
    ImageToImage,
    /// The noise, of a latent consistency model: the boundary condition of consistency models is applied (Luo et al. 2023).
    Lcm,
    /// Cosmos' rectified flow, with noise levels above 1.
    CosmosFlow,
}

/// `x` as the model wants it: preconditioning of Karras et al. (2022), `x / sqrt(sigma² + sigma_data²)`.
pub(super) fn input(prediction: Prediction, sigma_data: f32, x: &Tensor, sigma: f32) -> Result<Tensor> {
    match prediction {
        Prediction::Eps | Prediction::V | Prediction::Edm | Prediction::X0 | Prediction::Lcm => {
            divide(x, (sigma * sigma + sigma_data * sigma_data).sqrt())
        }
        Prediction::Flow | Prediction::ImageToImage => Ok(x.clone()),
        Prediction::CosmosFlow => scale(x, 1.0 - cosmos_time(sigma)),
    }
}

/// The clean latent from the model's output for the unscaled `x`.
pub(super) fn denoised(prediction: Prediction, sigma_data: f32, timestep: f32, output: &Tensor, x: &Tensor, sigma: f32) -> Result<Tensor> {
    let variance = sigma_data * sigma_data;
    let total = sigma * sigma + variance;
    match prediction {
        Prediction::Eps | Prediction::Flow => sum([(1.0, x), (-sigma, output)]),
        Prediction::V | Prediction::Edm => {
            let kept = divide(&scale(x, variance)?, total)?;
            let predicted = divide(&scale(&scale(output, sigma)?, sigma_data)?, total.sqrt())?;
            Ok(if prediction == Prediction::V { (kept - predicted)? } else { (kept + predicted)? })
        }
        Prediction::X0 | Prediction::ImageToImage => Ok(output.clone()),
        Prediction::Lcm => {
            // The boundary condition of consistency models, with the scaling of timesteps that LCMs are distilled with.
            const SIGMA_DATA: f32 = 0.5;
            const TIMESTEP_SCALING: f32 = 10.0;
            let scaled = timestep * TIMESTEP_SCALING;
            let total = scaled * scaled + SIGMA_DATA * SIGMA_DATA;
            let (c_skip, c_out) = (SIGMA_DATA * SIGMA_DATA / total, scaled / total.sqrt());
            let x0 = sum([(1.0, x), (-sigma, output)])?;
            sum([(c_out, &x0), (c_skip, x)])
        }
        Prediction::CosmosFlow => {
            let time = cosmos_time(sigma);
            sum([(1.0 - time, x), (-time, output)])
        }
    }
}

/// The latent with noise of this level.
pub(super) fn add_noise(prediction: Prediction, sigma: f32, noise: &Tensor, latent: &Tensor, max_denoise: bool) -> Result<Tensor> {
    match prediction {
        Prediction::Flow => sum([(sigma, noise), (1.0 - sigma, latent)]),
        Prediction::CosmosFlow => sum([(sigma, noise), (1.0, latent)]),
        Prediction::Eps | Prediction::V | Prediction::Edm | Prediction::X0 | Prediction::ImageToImage | Prediction::Lcm => {
            let factor = if max_denoise { (1.0 + sigma * sigma).sqrt() } else { sigma };
            sum([(factor, noise), (1.0, latent)])
        }
    }
}

/// What sampling leaves of a latent's scale is undone.
pub(super) fn remove_scaling(prediction: Prediction, sigma: f32, latent: &Tensor) -> Result<Tensor> {
    match prediction {
        Prediction::Flow => divide(latent, 1.0 - sigma),
        Prediction::Eps
        | Prediction::V
        | Prediction::Edm
        | Prediction::X0
        | Prediction::ImageToImage
        | Prediction::Lcm
        | Prediction::CosmosFlow => Ok(latent.clone()),
    }
}

fn cosmos_time(sigma: f32) -> f32 {
    sigma / (sigma + 1.0)
}
