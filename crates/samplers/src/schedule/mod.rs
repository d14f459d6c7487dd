//! What a model's output means and which noise levels it was trained on (the reference's `model_sampling`). Knows no model.

mod cascade;
mod continuous;
mod discrete;
mod flow;
mod prediction;

use candle_core::Tensor;

use crate::Result;

pub use cascade::Cascade;
pub use continuous::{Continuous, ContinuousSettings};
pub use discrete::{BetaSchedule, Discrete, DiscreteSettings};
pub use flow::{DiscreteFlow, DiscreteFlowSettings, ShiftedFlow};
pub use prediction::Prediction;

/// The noise level of [`Schedule::percent_to_sigma`] at 0: above all others.
pub const ABOVE_ALL: f64 = 999_999_999.9;

/// A model's noise levels and the meaning of its output. Immutable; values on links share it.
pub trait Schedule: Send + Sync + std::fmt::Debug {
    /// What the model predicts.
    fn prediction(&self) -> Prediction;

    /// The trained noise levels in ascending order, where they are discrete; else a table that the schedulers may index.
    fn sigmas(&self) -> &[f32];

    /// The lowest noise level.
    fn sigma_min(&self) -> f32 {
        self.sigmas().first().copied().unwrap_or(0.0)
    }

    /// The highest noise level.
    fn sigma_max(&self) -> f32 {
        self.sigmas().last().copied().unwrap_or(0.0)
    }

    /// The standard deviation of the training data, which scales the model's input and output.
    fn sigma_data(&self) -> f32 {
        1.0
    }

    /// Whether the last of discrete levels is all noise (zero terminal SNR); a saved model is marked so.
    fn is_zsnr(&self) -> bool {
        false
    }

    /// Whether the levels are continuous and told to the model as EDM does; a saved model that predicts the velocity keeps their limits.
    fn is_continuous_edm(&self) -> bool {
        false
    }

    /// The number that the model is told for a noise level.
    fn timestep(&self, sigma: f32) -> f32;

    /// The noise level for such a number.
    fn sigma(&self, timestep: f32) -> f32;

    /// The noise level when so much of the sampling is done: 0 gives one above all, 1 gives 0.
    fn percent_to_sigma(&self, percent: f64) -> f64;

    /// `x` as the model wants it.
    fn input(&self, x: &Tensor, sigma: f32) -> Result<Tensor> {
        prediction::input(self.prediction(), self.sigma_data(), x, sigma)
    }

    /// The clean latent from the model's output for `x` (before [`Schedule::input`]).
    fn denoised(&self, output: &Tensor, x: &Tensor, sigma: f32) -> Result<Tensor> {
        prediction::denoised(self.prediction(), self.sigma_data(), self.timestep(sigma), output, x, sigma)
    }

    /// The latent with noise of this level; `max_denoise` when it is as good as all noise.
    fn add_noise(&self, sigma: f32, noise: &Tensor, latent: &Tensor, max_denoise: bool) -> Result<Tensor> {
        prediction::add_noise(self.prediction(), sigma, noise, latent, max_denoise)
    }

    /// Undoes the scaling of [`Schedule::add_noise`] after sampling.
    fn remove_scaling(&self, sigma: f32, latent: &Tensor) -> Result<Tensor> {
        prediction::remove_scaling(self.prediction(), sigma, latent)
    }
}

/// Whether sampling that begins at this noise level begins with pure noise, for [`Schedule::add_noise`].
pub fn is_max_denoise(schedule: &dyn Schedule, first_sigma: f32) -> bool {
    let (max, sigma) = (f64::from(schedule.sigma_max()), f64::from(first_sigma));
    (max - sigma).abs() <= 1e-5 * max.abs().max(sigma.abs()) || sigma > max
}
