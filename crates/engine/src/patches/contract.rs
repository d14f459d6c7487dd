//! What a patch of a model's use is, other than of its weights: [`ModelPatch`], and what it is shown and may ask for. How a sampling goes is
//! not known here.

use std::sync::{Arc, Mutex};

use candle_core::Tensor;
use comfyd_kernels::random::Generator;
use comfyd_models::backbone::Hooks;
use comfyd_samplers::Schedule;

use crate::{Conditioning, LatentSpec, Result};

/// A change of how a model is used. What a patch does not write stays as it is. Each sampling gets its own clone of it, so that a patch may
/// keep what it needs from one step to the next. Patches are asked in the order in which they were added; where one alone can answer, the
/// last one that does counts.
pub trait ModelPatch: Send {
    /// What it does inside every pass of a sampling that begins.
    fn hooks(&mut self, _sampling: &Sampling<'_>) -> Option<Box<dyn Hooks>> {
        None
    }

    /// Whether it needs the prediction without the prompt even where guidance has the strength 1.
    fn needs_uncond(&self) -> bool {
        false
    }

    /// The strength of guidance at a noise level, if it sets it.
    fn scale(&self, _sigma: f32) -> Option<f64> {
        None
    }

    /// Changes the predictions before guidance: with the prompt, without it, and what else the guider wants.
    fn before(&mut self, _call: &Call<'_>, _predictions: &mut [Tensor]) -> Result<()> {
        Ok(())
    }

    /// Takes the place of the usual guidance if it answers.
    fn guide(&mut self, _call: &mut Call<'_>, _cond: &Tensor, _uncond: &Tensor) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// Changes the guided prediction.
    fn after(&mut self, _call: &mut Call<'_>, denoised: Tensor, _cond: &Tensor, _uncond: &Tensor) -> Result<Tensor> {
        Ok(denoised)
    }

    /// Takes the place of the mask `(B, C, H, W)` of what is sampled (1) and what is kept (0) if it answers.
    fn mask(&mut self, _sampling: &Sampling<'_>, _mask: &Tensor, _sigma: f32) -> Result<Option<Tensor>> {
        Ok(None)
    }
}

/// A sampling that patches are to take part in.
pub struct Sampling<'a> {
    /// The model's noise levels.
    pub schedule: &'a dyn Schedule,
    /// The noise levels of the steps.
    pub sigmas: &'a [f32],
    /// The model's latents.
    pub latents: &'static LatentSpec,
    /// Seeds the sampling's noise.
    pub seed: u64,
    /// Numbers of the latent.
    pub numbers: usize,
}

impl Sampling<'_> {
    /// Random numbers where the reference's global generator stands after the latent's noise.
    pub fn random(&self) -> Arc<Mutex<Generator>> {
        let mut generator = Generator::new(self.seed);
        generator.randn(self.numbers);
        Arc::new(Mutex::new(generator))
    }
}

/// One guided prediction, and the means of making further ones.
pub struct Call<'c> {
    /// The noisy latent (B, C, H, W).
    pub x: &'c Tensor,
    /// Its noise level.
    pub sigma: f32,
    /// The strength of guidance.
    pub scale: f64,
    /// Whether there is a prediction without the prompt.
    pub has_uncond: bool,
    pub(crate) passes: &'c mut dyn Passes,
}

/// Which conditions a further prediction is made with.
pub enum Side<'a> {
    /// Those of the prompt.
    Cond,
    /// Those without it.
    Uncond,
    /// These, as a negative prompt.
    Other(&'a Conditioning),
}

/// Makes the passes of one guided prediction.
pub(crate) trait Passes {
    /// The clean latent behind `x`; `hooks` count for this pass alone.
    fn predict(&mut self, side: Side<'_>, x: &Tensor, sigma: f32, hooks: Option<Box<dyn Hooks>>) -> Result<Tensor>;
}

impl Call<'_> {
    /// The clean latent behind `x`, a latent of this call's noise level.
    pub fn predict(&mut self, side: Side<'_>, x: &Tensor) -> Result<Tensor> {
        self.passes.predict(side, x, self.sigma, None)
    }

    /// The clean latent behind the call's own, with something more done inside the pass.
    pub fn predict_hooked(&mut self, side: Side<'_>, hooks: impl Hooks + 'static) -> Result<Tensor> {
        self.passes.predict(side, self.x, self.sigma, Some(Box::new(hooks)))
    }
}

/// A patch that does something inside passes and no more: makes the hooks of a sampling.
#[derive(Clone)]
pub struct Hooked<F>(pub F);

impl<H: Hooks + 'static, F: Fn(&Sampling<'_>) -> H + Send> ModelPatch for Hooked<F> {
    fn hooks(&mut self, sampling: &Sampling<'_>) -> Option<Box<dyn Hooks>> {
        Some(Box::new((self.0)(sampling)))
    }
}
