//! ControlNet (Zhang et al. 2023, "Adding Conditional Control to Text-to-Image Diffusion Models") for Stable Diffusion 1.x, 2.x and XL, and
//! the union of several such (ControlNet++): a copy of a UNet's encoder that looks at a picture. When and how strongly it acts is not known
//! here.

use candle_core::{DType, Tensor};
use comfyd_weights::convert;
use comfyd_weights::detect::UNetConfig;

use crate::backbone::{BlockInfo, Hooks, Stage};
use crate::residuals::Residuals;
use crate::timestep::timestep_embedding;
use crate::unet::attention::Walk;
use crate::unet::blocks::{self, Block, Encoder};
use crate::unet::layers::{Conv2d, EmbeddingMlp, LayerNorm, Linear};
use crate::unet::{check_shapes, embed};
use crate::{Error, Result, Vb, ops};

/// Kinds of pictures that a union is told by number, as its training named them.
pub const UNION_TYPES: [&str; 8] =
    ["openpose", "depth", "hed/pidi/scribble/ted", "canny/lineart/anime_lineart/mlsd", "normal", "segment", "tile", "repaint"];

/// Most kinds that a union may have; it bounds what a file can ask for.
const MAX_UNION_TYPES: usize = 64;

/// The shape of a ControlNet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlNetConfig {
    /// Its encoder and middle; what describes a decoder is unused.
    pub unet: UNetConfig,
    /// Channels of the picture: 3.
    pub hint_channels: usize,
    /// How many kinds of pictures a union knows; `None` for others.
    pub union_types: Option<usize>,
}

impl From<&convert::ControlNet> for ControlNetConfig {
    fn from(file: &convert::ControlNet) -> Self {
        Self { unet: file.config.clone(), hint_channels: file.hint_channels, union_types: file.union_types }
    }
}

/// What a ControlNet is called with.
#[derive(Debug, Clone, Copy)]
pub struct ControlInput<'a> {
    /// The scaled latent (B, C, H, W), F32.
    pub x: &'a Tensor,
    /// The picture as [`ControlNet::prepare_hint`] left it.
    pub hint: &'a Tensor,
    /// The time step of each latent.
    pub timesteps: &'a [f32],
    /// The conditioning (B, T, context_dim).
    pub context: &'a Tensor,
    /// The vector conditioning (B, adm_in_channels); needed if the ControlNet takes one, else ignored.
    pub y: Option<&'a Tensor>,
    /// What the picture is, for a union: at most one of [`UNION_TYPES`].
    pub union_types: &'a [usize],
}

/// A ControlNet with its weights.
#[derive(Debug)]
pub struct ControlNet {
    config: ControlNetConfig,
    time_embed: EmbeddingMlp,
    label_emb: Option<EmbeddingMlp>,
    hint: Vec<Conv2d>,
    encoder: Encoder,
    zero_convs: Vec<Conv2d>,
    middle: Option<Block>,
    middle_out: Conv2d,
    union: Option<Union>,
}

/// Channels and strides of the convolutions that bring a picture to the latent's size; the last one's channels are the model's.
const HINT_LAYERS: [(usize, usize); 7] = [(16, 1), (16, 1), (32, 2), (32, 1), (96, 2), (96, 1), (256, 2)];

impl ControlNet {
    /// Builds it from `input_blocks…`, `middle_block…`, `zero_convs…`, `middle_block_out…`, `input_hint_block…` and the rest at `vb`.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape than `config` says.
    pub fn new(config: &ControlNetConfig, vb: &Vb) -> Result<Self> {
        let unet = &config.unet;
        let emb_channels = blocks::embedding_width(unet);
        let label_emb = match unet.adm_in_channels {
            Some(width) => Some(EmbeddingMlp::new(width, emb_channels, &vb.pp("label_emb.0"))?),
            None => None,
        };
        let mut hint = Vec::new();
        let mut channels = config.hint_channels;
        for (out, stride) in HINT_LAYERS.into_iter().chain([(unet.model_channels, 1)]) {
            hint.push(Conv2d::new(channels, out, 3, stride, &vb.pp("input_hint_block").pp(2 * hint.len()))?);
            channels = out;
        }
        let encoder = Encoder::new(unet, vb)?;
        let zero_conv = |(i, channels): (usize, &usize)| Conv2d::new(*channels, *channels, 1, 1, &vb.pp("zero_convs").pp(i).pp(0));
        let zero_convs = encoder.channels.iter().enumerate().map(zero_conv).collect::<Result<_>>()?;
        let last = encoder.out_channels();
        Ok(Self {
            time_embed: EmbeddingMlp::new(unet.model_channels, emb_channels, &vb.pp("time_embed"))?,
            label_emb,
            hint,
            middle: blocks::middle(unet, last, vb)?,
            middle_out: Conv2d::new(last, last, 1, 1, &vb.pp("middle_block_out.0"))?,
            union: config.union_types.map(|types| Union::new(types, unet.model_channels, emb_channels, vb)).transpose()?,
            encoder,
            zero_convs,
            config: config.clone(),
        })
    }

    /// Pixels of a picture per cell of the latent, on each side.
    pub const FACTOR: usize = 8;

    /// Brings a picture `(B, hint_channels, H · FACTOR, W · FACTOR)` from 0 to 1 to the latent's size: `(B, model_channels, H, W)`. It
    /// depends on no time step, so it is worth keeping during a run.
    pub fn prepare_hint(&self, picture: &Tensor, union_types: &[usize]) -> Result<Tensor> {
        let channels = picture.dims4()?.1;
        if channels != self.config.hint_channels {
            return Err(Error::msg(format!("the ControlNet takes pictures of {} channels, not {channels}", self.config.hint_channels)));
        }
        let mut h = picture.clone();
        for (i, conv) in self.hint.iter().enumerate() {
            h = conv.forward(&if i == 0 { h } else { ops::silu(&h)? })?;
        }
        match (&self.union, union_types) {
            (Some(union), [kind]) => union.mark(&h, *kind),
            (Some(_), [_, _, ..]) => Err(Error::msg("the union ControlNet takes one kind of picture at a time; choose one")),
            _ => Ok(h),
        }
    }

    /// What it adds to a UNet: `output` for each block of the encoder, and `middle`. Of `hooks`, only [`Hooks::check`] is called.
    ///
    /// # Errors
    /// If a shape does not fit, or `hooks` says so.
    pub fn forward(&self, input: &ControlInput<'_>, hooks: &mut dyn Hooks) -> Result<Residuals> {
        let y = input.y.filter(|_| self.label_emb.is_some());
        check_shapes(&self.config.unet, input.x, input.timesteps, input.context, y)?;
        let (b, c, height, width) = input.x.dims4()?;
        let (hint_b, _, hint_height, hint_width) = input.hint.dims4()?;
        if (hint_height, hint_width) != (height, width) || ![1, b].contains(&hint_b) {
            return Err(Error::msg(format!(
                "{hint_b} pictures for latents of {hint_width} x {hint_height} came with {b} of {width} x {height}; scale them to the same size"
            )));
        }
        let kinds = self.union.as_ref().map(|union| union.embedding(input.union_types, input.x)).transpose()?;
        let emb_silu =
            embed(&self.config.unet, &self.time_embed, self.label_emb.as_ref(), input.timesteps, y, kinds.as_ref(), input.x.device())?;
        let at = BlockInfo {
            stage: Stage::Input,
            index: 0,
            transformer: 0,
            transformer_index: 0,
            heads: 0,
            head_dim: 0,
            model_channels: self.config.unet.model_channels,
            latent: [b, c, height, width],
            sigmas: &[],
            cond_or_uncond: &[],
        };
        let mut only_check = OnlyCheck(hooks);
        let mut walk = Walk { hooks: &mut only_check, at };
        let mut h = input.x.clone();
        let mut control = Residuals::default();
        for (index, (block, zero_conv)) in self.encoder.blocks.iter().zip(&self.zero_convs).enumerate() {
            h = block.forward(&h, &emb_silu, input.context, None, &mut walk)?;
            if index == 0 {
                h = h.broadcast_add(input.hint)?;
            }
            control.output.push(Some(zero_conv.forward(&h)?));
        }
        if let Some(block) = &self.middle {
            h = block.forward(&h, &emb_silu, input.context, None, &mut walk)?;
        }
        control.middle.push(Some(self.middle_out.forward(&h)?));
        Ok(control)
    }
}

/// Model patches do not reach into ControlNets; interruption does.
struct OnlyCheck<'a>(&'a mut dyn Hooks);

impl Hooks for OnlyCheck<'_> {
    fn check(&mut self) -> Result<()> {
        self.0.check()
    }
}

/// What tells a union which kind of picture it looks at.
#[derive(Debug)]
struct Union {
    task_embedding: Tensor,
    attn_in: Linear,
    attn_out: Linear,
    ln_1: LayerNorm,
    mlp_in: Linear,
    mlp_out: Linear,
    ln_2: LayerNorm,
    spatial: Linear,
    add_1: Linear,
    add_2: Linear,
}

/// Width of one kind's sinusoids.
const KIND_WIDTH: usize = 256;

/// Heads of the union's attention.
const UNION_HEADS: usize = 8;

impl Union {
    fn new(types: usize, channels: usize, emb_channels: usize, vb: &Vb) -> Result<Self> {
        if types == 0 || types > MAX_UNION_TYPES || !channels.is_multiple_of(UNION_HEADS) {
            return Err(Error::msg(format!(
                "a union ControlNet of {types} kinds and {channels} channels is not known; choose another file"
            )));
        }
        let block = vb.pp("transformer_layes.0");
        let add = vb.pp("control_add_embedding");
        Ok(Self {
            task_embedding: vb.get(&[types, channels], "task_embedding")?,
            attn_in: Linear::new(channels, channels * 3, &block.pp("attn.in_proj"))?,
            attn_out: Linear::new(channels, channels, &block.pp("attn.out_proj"))?,
            ln_1: LayerNorm::new(channels, &block.pp("ln_1"))?,
            mlp_in: Linear::new(channels, channels * 4, &block.pp("mlp.c_fc"))?,
            mlp_out: Linear::new(channels * 4, channels, &block.pp("mlp.c_proj"))?,
            ln_2: LayerNorm::new(channels, &block.pp("ln_2"))?,
            spatial: Linear::new(channels, channels, &vb.pp("spatial_ch_projs"))?,
            add_1: Linear::new(KIND_WIDTH * types, emb_channels, &add.pp("linear_1"))?,
            add_2: Linear::new(emb_channels, emb_channels, &add.pp("linear_2"))?,
        })
    }

    fn check(&self, kind: usize) -> Result<()> {
        let types = self.task_embedding.dim(0)?;
        if kind < types {
            return Ok(());
        }
        let name = UNION_TYPES.get(kind).copied().unwrap_or("unknown");
        Err(Error::msg(format!(
            "the union ControlNet knows {types} kinds of pictures, not number {kind} ({name}); use one that was trained on it"
        )))
    }

    /// The prepared picture `(B, C, H, W)` with a vector added that depends on its kind and on its mean.
    fn mark(&self, h: &Tensor, kind: usize) -> Result<Tensor> {
        self.check(kind)?;
        let (b, c, _, _) = h.dims4()?;
        let task = self.task_embedding.get(kind)?.to_dtype(DType::F32)?;
        let x = h.mean((2, 3))?.broadcast_add(&task)?.reshape((b, 1, c))?;
        let qkv = self.attn_in.forward(&self.ln_1.forward(&x)?)?;
        let part = |i: usize| -> Result<Tensor> { Ok(qkv.narrow(2, i * c, c)?.contiguous()?) };
        let attended = ops::attention(&part(0)?, &part(1)?, &part(2)?, UNION_HEADS, None)?;
        let x = ops::add(&x, &self.attn_out.forward(&attended)?)?;
        let inner = ops::quick_gelu(&self.mlp_in.forward(&self.ln_2.forward(&x)?)?)?;
        let x = ops::add(&x, &self.mlp_out.forward(&inner)?)?;
        Ok(h.broadcast_add(&self.spatial.forward(&x)?.reshape((b, c, 1, 1))?)?)
    }

    /// What the kinds add to the time step's embedding: `(1, emb_channels)`.
    fn embedding(&self, kinds: &[usize], like: &Tensor) -> Result<Tensor> {
        let mut flags = vec![0f32; self.task_embedding.dim(0)?];
        for kind in kinds {
            self.check(*kind)?;
            flags[*kind] = 1.0;
        }
        let width = KIND_WIDTH * flags.len();
        let sinusoids = timestep_embedding(&flags, KIND_WIDTH, like.device())?.reshape((1, width))?;
        self.add_2.forward(&ops::silu(&self.add_1.forward(&sinusoids)?)?)
    }
}
