//! What a sampler is, and what it knows of the model: a function that denoises.

use candle_core::Tensor;

use crate::{Result, Schedule};

/// The model as samplers see it, guidance included.
pub trait Denoiser {
    /// The clean latent that the model expects behind `x (B, C, H, W)` at this noise level.
    fn denoise(&mut self, x: &Tensor, sigma: f32) -> Result<Tensor>;

    /// [`Denoiser::denoise`], and the prediction without the prompt, which the CFG++ samplers step along. They call this at every step, so
    /// the prediction without the prompt is made even where the guidance would not need it (a scale of 1).
    fn denoise_with_uncond(&mut self, x: &Tensor, sigma: f32) -> Result<(Tensor, Tensor)>;

    /// The model's noise levels.
    fn schedule(&self) -> &dyn Schedule;
}

/// One step that is about to be taken.
#[derive(Debug)]
pub struct Step<'a> {
    /// Its index, from 0.
    pub index: usize,
    /// Its noise level.
    pub sigma: f32,
    /// The latent before it.
    pub x: &'a Tensor,
    /// The clean latent expected.
    pub denoised: &'a Tensor,
}

/// Told of each step; an error ends the sampling (interruption).
pub trait Observer {
    /// A step is about to be taken.
    fn step(&mut self, step: &Step<'_>) -> Result<()>;
}

/// Drops every report.
impl Observer for () {
    fn step(&mut self, _step: &Step<'_>) -> Result<()> {
        Ok(())
    }
}

/// A way from noise to a latent, with its options. Values on links, hence shared.
pub trait Sampler: Send + Sync + std::fmt::Debug {
    /// From `x` at `sigmas[0]` to the latent at the last sigma. `x` is already scaled to the first noise level. The reference keeps
    /// noise levels in single precision, so they are here. `seed` seeds the noise that the sampler adds itself.
    /// Fewer than two noise levels leave `x` as it is.
    fn sample(&self, model: &mut dyn Denoiser, x: Tensor, sigmas: &[f32], seed: u64, observer: &mut dyn Observer) -> Result<Tensor>;

    /// Whether masked areas get noise of their own ([`crate::noise::inpaint`]) instead of the latent's initial noise.
    fn fresh_inpaint_noise(&self) -> bool {
        false
    }
}
