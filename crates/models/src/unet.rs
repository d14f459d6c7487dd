//! The UNet of Stable Diffusion 1.x, 2.x and XL (`UNetModel` of the latent-diffusion code), built from a checkpoint's own names. It predicts
//! from a scaled latent and a time step; noise levels and guidance are not known here.

use candle_core::Tensor;
use comfyd_weights::detect::UNetConfig;

use self::attention::Pass;
use self::blocks::{Block, Encoder};
use self::layers::{Conv2d, EmbeddingMlp, GroupNorm};
use crate::timestep::timestep_embedding;
use crate::{Error, Result, Vb, ops};

pub mod control;
pub mod hooks;

pub(crate) mod attention;
pub(crate) mod blocks;
pub(crate) mod layers;
mod resblock;

pub use self::control::Control;
pub use self::hooks::{AttentionInputs, BlockInfo, HookList, Hooks, Part};

/// What a UNet is called with.
#[derive(Debug, Clone, Copy)]
pub struct UNetInput<'a> {
    /// The scaled latent (B, C, H, W), F32; concatenated channels included.
    pub x: &'a Tensor,
    /// The time step of each latent (B), F32; fractions are fine.
    pub timesteps: &'a Tensor,
    /// The conditioning (B, T, context_dim).
    pub context: &'a Tensor,
    /// The vector conditioning (B, adm_in_channels); given if and only if the model takes one.
    pub y: Option<&'a Tensor>,
    /// What ControlNets and adapters add.
    pub control: Option<&'a Control>,
    /// Passed on to hooks: see [`BlockInfo::sigmas`].
    pub sigmas: &'a [f64],
    /// Passed on to hooks: see [`BlockInfo::cond_or_uncond`].
    pub cond_or_uncond: &'a [usize],
}

/// A UNet with its weights, in the type in which they are stored.
#[derive(Debug)]
pub struct UNet {
    config: UNetConfig,
    time_embed: EmbeddingMlp,
    label_emb: Option<EmbeddingMlp>,
    encoder: Encoder,
    middle: Option<Block>,
    output_blocks: Vec<Block>,
    out_norm: GroupNorm,
    out_conv: Conv2d,
}

impl UNet {
    /// Builds it from `input_blocks…`, `middle_block…`, `output_blocks…`, `time_embed…`, `label_emb…` and `out…` at `vb`.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape than `config` says.
    pub fn new(config: &UNetConfig, vb: &Vb) -> Result<Self> {
        let emb_channels = blocks::embedding_width(config);
        let label_emb = match config.adm_in_channels {
            Some(width) => Some(EmbeddingMlp::new(width, emb_channels, &vb.pp("label_emb.0"))?),
            None => None,
        };
        let encoder = Encoder::new(config, vb)?;
        let middle = blocks::middle(config, encoder.out_channels(), vb)?;
        let (output_blocks, channels) = blocks::decoder(config, &encoder, vb)?;
        Ok(Self {
            time_embed: EmbeddingMlp::new(config.model_channels, emb_channels, &vb.pp("time_embed"))?,
            label_emb,
            encoder,
            middle,
            output_blocks,
            out_norm: GroupNorm::new(channels, 1e-5, &vb.pp("out.0"))?,
            out_conv: Conv2d::new(channels, config.out_channels, 3, 1, &vb.pp("out.2"))?,
            config: config.clone(),
        })
    }

    /// Its shape.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// The prediction (B, out_channels, H, W).
    ///
    /// # Errors
    /// If a shape does not fit, or a hook says so ([`Error::Interrupted`] from [`Hooks::check`]).
    pub fn forward(&self, input: &UNetInput<'_>, hooks: &mut dyn Hooks) -> Result<Tensor> {
        check_shapes(&self.config, input.x, input.timesteps, input.context, input.y)?;
        let (b, c, height, width) = input.x.dims4()?;
        let emb_silu = embed(&self.config, &self.time_embed, self.label_emb.as_ref(), input.timesteps, input.y, None)?;
        let at = BlockInfo {
            part: Part::Input,
            index: 0,
            transformer: 0,
            transformer_index: 0,
            heads: 0,
            head_dim: 0,
            model_channels: self.config.model_channels,
            latent: [b, c, height, width],
            sigmas: input.sigmas,
            cond_or_uncond: input.cond_or_uncond,
        };
        let mut pass = Pass { hooks, at };
        let none = Control::default();
        let control = input.control.unwrap_or(&none);
        let (mut input_control, mut middle_control, mut output_control) =
            (control.input.iter().rev(), control.middle.iter().rev(), control.output.iter().rev());

        let mut h = input.x.clone();
        let mut skips = Vec::with_capacity(self.encoder.blocks.len());
        for (index, block) in self.encoder.blocks.iter().enumerate() {
            pass.at.index = index;
            h = block.forward(&h, &emb_silu, input.context, None, &mut pass)?;
            h = add_control(h, input_control.next(), &mut pass)?;
            h = pass.hooks.input_block(h, &pass.at)?;
            skips.push(h.clone());
            h = pass.hooks.input_block_after_skip(h, &pass.at)?;
        }

        (pass.at.part, pass.at.index) = (Part::Middle, 0);
        if let Some(block) = &self.middle {
            h = block.forward(&h, &emb_silu, input.context, None, &mut pass)?;
        }
        h = add_control(h, middle_control.next(), &mut pass)?;

        pass.at.part = Part::Output;
        for (index, block) in self.output_blocks.iter().enumerate() {
            pass.at.index = index;
            let skip = skips.pop().ok_or_else(|| Error::msg("the decoder has more blocks than the encoder; choose another file"))?;
            let skip = add_control(skip, output_control.next(), &mut pass)?;
            let (joined, skip) = pass.hooks.output_block(h, skip, &pass.at)?;
            let joined = Tensor::cat(&[&joined, &skip], 1)?;
            let size = skips.last().map(|next| Ok::<_, Error>((next.dim(2)?, next.dim(3)?))).transpose()?;
            h = block.forward(&joined, &emb_silu, input.context, size, &mut pass)?;
        }
        pass.hooks.check()?;
        self.out_conv.forward(&self.out_norm.forward_silu(&h)?)
    }
}

/// SiLU of the embedding of time step and vector conditioning, and of `more (1, 4 · model_channels)`: (B, 4 · model_channels).
pub(crate) fn embed(
    config: &UNetConfig,
    time_embed: &EmbeddingMlp,
    label_emb: Option<&EmbeddingMlp>,
    timesteps: &Tensor,
    y: Option<&Tensor>,
    more: Option<&Tensor>,
) -> Result<Tensor> {
    let mut emb = time_embed.forward(&timestep_embedding(timesteps, config.model_channels)?)?;
    if let Some(more) = more {
        emb = emb.broadcast_add(more)?;
    }
    if let (Some(label_emb), Some(y)) = (label_emb, y) {
        emb = ops::add(&emb, &label_emb.forward(y)?)?;
    }
    ops::silu(&emb)
}

/// What does not fit, as a sentence.
pub(crate) fn check_shapes(config: &UNetConfig, x: &Tensor, timesteps: &Tensor, context: &Tensor, y: Option<&Tensor>) -> Result<()> {
    let (b, c, _, _) = x.dims4()?;
    if c != config.in_channels {
        return Err(Error::msg(format!(
            "the model takes latents of {} channels, these have {c}; choose a model of this kind",
            config.in_channels
        )));
    }
    let (context_b, _, width) = context.dims3()?;
    if width != config.context_dim && config.context_dim > 0 {
        return Err(Error::msg(format!(
            "the model takes conditioning of width {}, this has {width}; use the text encoder that belongs to it",
            config.context_dim
        )));
    }
    if context_b != b || timesteps.dims1()? != b {
        return Err(Error::msg(format!("{b} latents came with {context_b} conditionings and {} time steps", timesteps.elem_count())));
    }
    match (config.adm_in_channels, y) {
        (None, None) => Ok(()),
        (Some(width), Some(y)) if y.dims() == [b, width] => Ok(()),
        (wanted, y) => Err(Error::msg(format!(
            "the model takes vector conditioning of width {wanted:?}, this has the shape {:?}; use the text encoder that belongs to it",
            y.map(Tensor::dims)
        ))),
    }
}

/// Adds a control tensor. One that does not fit is left out, as in the reference, and the hooks are told.
fn add_control(h: Tensor, control: Option<&Option<Tensor>>, pass: &mut Pass<'_>) -> Result<Tensor> {
    let Some(Some(control)) = control else { return Ok(h) };
    if h.dims() == control.dims() {
        return ops::add(&h, control);
    }
    let fits = h.rank() == control.rank() && h.dims().iter().zip(control.dims()).all(|(h, c)| h == c || *c == 1);
    if !fits {
        pass.hooks.control_skipped(h.dims(), control.dims());
        return Ok(h);
    }
    Ok(h.broadcast_add(control)?)
}
