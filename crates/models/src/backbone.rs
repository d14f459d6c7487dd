//! What a denoiser is to those who call it: a [`Backbone`] that makes a [`Pass`], and what may reach into one: the [`Hooks`] of a patched
//! model. How a backbone is built, and what hooks do, is not known here.

use candle_core::Tensor;

use crate::Result;
use crate::residuals::Residuals;

/// A denoiser with its weights.
pub trait Backbone: Send + Sync {
    /// The prediction (B, out_channels, H, W).
    ///
    /// # Errors
    /// If a shape does not fit, or a hook says so ([`crate::Error::Interrupted`] from [`Hooks::check`]).
    fn forward(&self, pass: &Pass<'_>, hooks: &mut dyn Hooks) -> Result<Tensor>;
}

/// What a denoiser is called with.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// The scaled latent (B, C, H, W), F32; concatenated channels included.
    pub x: &'a Tensor,
    /// The time step of each latent; fractions are fine.
    pub timesteps: &'a [f32],
    /// The conditioning (B, T, context_dim).
    pub context: &'a Tensor,
    /// The vector conditioning (B, adm_in_channels); given if and only if the model takes one.
    pub y: Option<&'a Tensor>,
    /// What ControlNets and adapters add.
    pub residuals: Option<&'a Residuals>,
    /// Passed on to hooks: see [`BlockInfo::sigmas`].
    pub sigmas: &'a [f64],
    /// Passed on to hooks: see [`BlockInfo::cond_or_uncond`].
    pub cond_or_uncond: &'a [usize],
}

/// One of a UNet's three stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The encoder.
    Input,
    /// The blocks at the smallest size.
    Middle,
    /// The decoder.
    Output,
}

/// Where in the pass a hook is called.
#[derive(Debug, Clone, Copy)]
pub struct BlockInfo<'a> {
    /// The stage.
    pub stage: Stage,
    /// The block in that stage, from 0, as in `input_blocks.N`; 0 in the middle.
    pub index: usize,
    /// The block inside its spatial transformer, from 0.
    pub transformer: usize,
    /// Spatial transformers that the pass has gone through already.
    pub transformer_index: usize,
    /// Attention heads; 0 outside transformers.
    pub heads: usize,
    /// Channels of one head; 0 outside transformers.
    pub head_dim: usize,
    /// Channels of the UNet's first level.
    pub model_channels: usize,
    /// The latent's (B, C, H, W), as the UNet was called.
    pub latent: [usize; 4],
    /// The noise level of each part of the batch.
    pub sigmas: &'a [f64],
    /// What each equal chunk of the batch is: 0 conditional, 1 unconditional, more for further conditionings.
    pub cond_or_uncond: &'a [usize],
}

/// What an attention is about to project: each (B, N, channels). `key` and `value` have the same N. If a hook gives `query` more batches
/// than them, they are cut into as many equal parts, in the order in which they lie in memory, as the reference does.
#[derive(Debug, Clone)]
pub struct AttentionInputs {
    /// Projected by `to_q`.
    pub query: Tensor,
    /// Projected by `to_k`.
    pub key: Tensor,
    /// Projected by `to_v`.
    pub value: Tensor,
}

/// Functions called inside one pass. Each does nothing unless it is written; an error ends the pass.
pub trait Hooks: Send {
    /// Called before every residual block and every transformer block; [`crate::Error::Interrupted`] from here ends the pass.
    fn check(&mut self) -> Result<()> {
        Ok(())
    }

    /// An encoder block's result `(B, C, H, W)`, control included, before it is kept for the decoder.
    fn input_block(&mut self, h: Tensor, _at: &BlockInfo<'_>) -> Result<Tensor> {
        Ok(h)
    }

    /// The same after it was kept: what the next block gets.
    fn input_block_after_skip(&mut self, h: Tensor, _at: &BlockInfo<'_>) -> Result<Tensor> {
        Ok(h)
    }

    /// A decoder block's two inputs before they are joined: what comes from below and what the encoder kept, control included.
    fn output_block(&mut self, h: Tensor, skip: Tensor, _at: &BlockInfo<'_>) -> Result<(Tensor, Tensor)> {
        Ok((h, skip))
    }

    /// The inputs of a self-attention.
    fn attn1_inputs(&mut self, inputs: AttentionInputs, _at: &BlockInfo<'_>) -> Result<AttentionInputs> {
        Ok(inputs)
    }

    /// Takes the place of a self-attention if it answers: `q`, `k`, `v (B, N, heads * head_dim)`, the result likewise, before `to_out`.
    fn attn1(&mut self, _q: &Tensor, _k: &Tensor, _v: &Tensor, _at: &BlockInfo<'_>) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// The result of a self-attention `(B, N, channels)`, before it is added.
    fn attn1_output(&mut self, out: Tensor, _at: &BlockInfo<'_>) -> Result<Tensor> {
        Ok(out)
    }

    /// The tokens `(B, N, channels)` between self- and cross-attention.
    fn between_attentions(&mut self, x: Tensor, _at: &BlockInfo<'_>) -> Result<Tensor> {
        Ok(x)
    }

    /// The inputs of a cross-attention; `key` and `value` are the conditioning.
    fn attn2_inputs(&mut self, inputs: AttentionInputs, _at: &BlockInfo<'_>) -> Result<AttentionInputs> {
        Ok(inputs)
    }

    /// Takes the place of a cross-attention if it answers.
    fn attn2(&mut self, _q: &Tensor, _k: &Tensor, _v: &Tensor, _at: &BlockInfo<'_>) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// The result of a cross-attention `(B, N, channels)`, before it is added.
    fn attn2_output(&mut self, out: Tensor, _at: &BlockInfo<'_>) -> Result<Tensor> {
        Ok(out)
    }

    /// A control tensor does not fit the activations (a patch has resized them) and was left out; a place for a warning.
    fn control_skipped(&mut self, _activations: &[usize], _control: &[usize]) {}
}

/// No hooks at all.
impl Hooks for () {}

/// Several hooks, called one after another; of those that replace an attention, the last that answers wins.
#[derive(Default)]
pub struct HookList(pub Vec<Box<dyn Hooks>>);

impl HookList {
    /// Adds one at the end.
    pub fn push(&mut self, hooks: impl Hooks + 'static) {
        self.0.push(Box::new(hooks));
    }
}

impl std::fmt::Debug for HookList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} hooks", self.0.len())
    }
}

impl Hooks for HookList {
    fn check(&mut self) -> Result<()> {
        self.0.iter_mut().try_for_each(|hooks| hooks.check())
    }

    fn input_block(&mut self, h: Tensor, at: &BlockInfo<'_>) -> Result<Tensor> {
        self.0.iter_mut().try_fold(h, |h, hooks| hooks.input_block(h, at))
    }

    fn input_block_after_skip(&mut self, h: Tensor, at: &BlockInfo<'_>) -> Result<Tensor> {
        self.0.iter_mut().try_fold(h, |h, hooks| hooks.input_block_after_skip(h, at))
    }

    fn output_block(&mut self, h: Tensor, skip: Tensor, at: &BlockInfo<'_>) -> Result<(Tensor, Tensor)> {
        self.0.iter_mut().try_fold((h, skip), |(h, skip), hooks| hooks.output_block(h, skip, at))
    }

    fn attn1_inputs(&mut self, inputs: AttentionInputs, at: &BlockInfo<'_>) -> Result<AttentionInputs> {
        self.0.iter_mut().try_fold(inputs, |inputs, hooks| hooks.attn1_inputs(inputs, at))
    }

    fn attn1(&mut self, q: &Tensor, k: &Tensor, v: &Tensor, at: &BlockInfo<'_>) -> Result<Option<Tensor>> {
        for hooks in self.0.iter_mut().rev() {
            if let Some(out) = hooks.attn1(q, k, v, at)? {
                return Ok(Some(out));
            }
        }
        Ok(None)
    }

    fn attn1_output(&mut self, out: Tensor, at: &BlockInfo<'_>) -> Result<Tensor> {
        self.0.iter_mut().try_fold(out, |out, hooks| hooks.attn1_output(out, at))
    }

    fn between_attentions(&mut self, x: Tensor, at: &BlockInfo<'_>) -> Result<Tensor> {
        self.0.iter_mut().try_fold(x, |x, hooks| hooks.between_attentions(x, at))
    }

    fn attn2_inputs(&mut self, inputs: AttentionInputs, at: &BlockInfo<'_>) -> Result<AttentionInputs> {
        self.0.iter_mut().try_fold(inputs, |inputs, hooks| hooks.attn2_inputs(inputs, at))
    }

    fn attn2(&mut self, q: &Tensor, k: &Tensor, v: &Tensor, at: &BlockInfo<'_>) -> Result<Option<Tensor>> {
        for hooks in self.0.iter_mut().rev() {
            if let Some(out) = hooks.attn2(q, k, v, at)? {
                return Ok(Some(out));
            }
        }
        Ok(None)
    }

    fn attn2_output(&mut self, out: Tensor, at: &BlockInfo<'_>) -> Result<Tensor> {
        self.0.iter_mut().try_fold(out, |out, hooks| hooks.attn2_output(out, at))
    }

    fn control_skipped(&mut self, activations: &[usize], control: &[usize]) {
        self.0.iter_mut().for_each(|hooks| hooks.control_skipped(activations, control));
    }
}
