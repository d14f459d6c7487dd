//! The UNet of Stable Diffusion 1.x, 2.x and XL (`UNetModel` of the latent-diffusion code), built from a checkpoint's own names. It predicts
//! from a scaled latent and a time step; noise levels and guidance are not known here.

use candle_core::{Device, Tensor};
use comfyd_weights::detect::UNetConfig;

use self::attention::Walk;
use self::blocks::{Block, Encoder};
use self::layers::{Conv2d, EmbeddingMlp, GroupNorm};
use crate::backbone::{Backbone, BlockInfo, Hooks, Pass, Stage};
use crate::residuals::Residuals;
use crate::timestep::timestep_embedding;
use crate::{Error, Result, Vb, ops};

pub mod hooks;

pub(crate) mod attention;
pub(crate) mod blocks;
pub(crate) mod layers;
mod resblock;

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
}

impl Backbone for UNet {
    fn forward(&self, input: &Pass<'_>, hooks: &mut dyn Hooks) -> Result<Tensor> {
        check_shapes(&self.config, input.x, input.timesteps, input.context, input.y)?;
        let (b, c, height, width) = input.x.dims4()?;
        let emb_silu = embed(&self.config, &self.time_embed, self.label_emb.as_ref(), input.timesteps, input.y, None, input.x.device())?;
        let at = BlockInfo {
            stage: Stage::Input,
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
        let mut walk = Walk { hooks, at };
        let none = Residuals::default();
        let added = input.residuals.unwrap_or(&none);
        let (mut to_input, mut to_middle, mut to_output) = (added.input.iter().rev(), added.middle.iter().rev(), added.output.iter().rev());

        let mut h = input.x.clone();
        let mut skips = Vec::with_capacity(self.encoder.blocks.len());
        for (index, block) in self.encoder.blocks.iter().enumerate() {
            walk.at.index = index;
            h = block.forward(&h, &emb_silu, input.context, None, &mut walk)?;
            h = add_residual(h, to_input.next(), &mut walk)?;
            h = walk.hooks.input_block(h, &walk.at)?;
            skips.push(h.clone());
            h = walk.hooks.input_block_after_skip(h, &walk.at)?;
        }

        (walk.at.stage, walk.at.index) = (Stage::Middle, 0);
        if let Some(block) = &self.middle {
            h = block.forward(&h, &emb_silu, input.context, None, &mut walk)?;
        }
        h = add_residual(h, to_middle.next(), &mut walk)?;

        walk.at.stage = Stage::Output;
        for (index, block) in self.output_blocks.iter().enumerate() {
            walk.at.index = index;
            let skip = skips.pop().ok_or_else(|| Error::msg("the decoder has more blocks than the encoder; choose another file"))?;
            let skip = add_residual(skip, to_output.next(), &mut walk)?;
            let (joined, skip) = walk.hooks.output_block(h, skip, &walk.at)?;
            let joined = Tensor::cat(&[&joined, &skip], 1)?;
            let size = skips.last().map(|next| Ok::<_, Error>((next.dim(2)?, next.dim(3)?))).transpose()?;
            h = block.forward(&joined, &emb_silu, input.context, size, &mut walk)?;
        }
        walk.hooks.check()?;
        self.out_conv.forward(&self.out_norm.forward_silu(&h)?)
    }
}

/// SiLU of the embedding of time step and vector conditioning, and of `more (1, 4 · model_channels)`: (B, 4 · model_channels).
pub(crate) fn embed(
    config: &UNetConfig,
    time_embed: &EmbeddingMlp,
    label_emb: Option<&EmbeddingMlp>,
    timesteps: &[f32],
    y: Option<&Tensor>,
    more: Option<&Tensor>,
    device: &Device,
) -> Result<Tensor> {
    let mut emb = time_embed.forward(&timestep_embedding(timesteps, config.model_channels, device)?)?;
    if let Some(more) = more {
        emb = emb.broadcast_add(more)?;
    }
    if let (Some(label_emb), Some(y)) = (label_emb, y) {
        emb = ops::add(&emb, &label_emb.forward(y)?)?;
    }
    ops::silu(&emb)
}

/// What does not fit, as a sentence.
pub(crate) fn check_shapes(config: &UNetConfig, x: &Tensor, timesteps: &[f32], context: &Tensor, y: Option<&Tensor>) -> Result<()> {
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
    if context_b != b || timesteps.len() != b {
        return Err(Error::msg(format!("{b} latents came with {context_b} conditionings and {} time steps", timesteps.len())));
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

/// Adds what a ControlNet or an adapter says. A tensor that does not fit is left out, as in the reference, and the hooks are told.
fn add_residual(h: Tensor, residual: Option<&Option<Tensor>>, walk: &mut Walk<'_>) -> Result<Tensor> {
    let Some(Some(residual)) = residual else { return Ok(h) };
    if h.dims() == residual.dims() {
        return ops::add(&h, residual);
    }
    let fits = h.rank() == residual.rank() && h.dims().iter().zip(residual.dims()).all(|(h, r)| h == r || *r == 1);
    if !fits {
        walk.hooks.control_skipped(h.dims(), residual.dims());
        return Ok(h);
    }
    Ok(h.broadcast_add(residual)?)
}
