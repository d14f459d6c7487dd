//! What a model's output means and which noise levels it was trained on (the reference's `model_sampling`).

use candle_core::Tensor;

use crate::Result;

/// What a model predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prediction {
    /// The noise.
    Eps,
    /// The velocity.
    V,
    /// EDM's preconditioned prediction.
    Edm,
    /// Flow matching: noise levels between 0 and 1.
    Flow,
    /// The clean latent (the reference's `X0`, which LCM uses).
    X0,
}

/// A model's noise levels and the meaning of its output. Immutable; values on links share it.
pub trait Schedule: Send + Sync + std::fmt::Debug {
    /// What the model predicts.
    fn prediction(&self) -> Prediction;

    /// The trained noise levels in ascending order, where they are discrete; else a table that the schedulers may index.
    fn sigmas(&self) -> &[f32];

    /// The lowest noise level.
    fn sigma_min(&self) -> f32;

    /// The highest noise level.
    fn sigma_max(&self) -> f32;

    /// The number that the model is told for a noise level.
    fn timestep(&self, sigma: f32) -> f32;

    /// The noise level for such a number.
    fn sigma(&self, timestep: f32) -> f32;

    /// The noise level when so much of the sampling is done: 0 gives one above all, 1 gives 0.
    fn percent_to_sigma(&self, percent: f64) -> f64;

    /// `x` as the model wants it.
    fn input(&self, x: &Tensor, sigma: f32) -> Result<Tensor>;

    /// The clean latent from the model's output for `x` (before [`Schedule::input`]).
    fn denoised(&self, output: &Tensor, x: &Tensor, sigma: f32) -> Result<Tensor>;

    /// The latent with noise of this level; `max_denoise` when it is as good as all noise.
    fn add_noise(&self, sigma: f32, noise: &Tensor, latent: &Tensor, max_denoise: bool) -> Result<Tensor>;

    /// Undoes the scaling of [`Schedule::add_noise`] after sampling.
    fn remove_scaling(&self, sigma: f32, latent: &Tensor) -> Result<Tensor>;
}
