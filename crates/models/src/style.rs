//! Style models, which turn a picture into tokens that stand behind a text's: the style adapter of T2I-Adapter
//! (<https://arxiv.org/abs/2302.08453>) and Flux Redux. Which vision encoder saw the picture is not known here.

use candle_core::{DType, Tensor};
use comfyd_weights::{StateDict, Weight};

use crate::Check;
use crate::error::{Error, Result};
use crate::ops;
use crate::unet::layers::{LayerNorm, Linear};
use crate::vb::Vb;

/// Attention heads of the adapter.
const HEADS: usize = 8;
const MAX_LAYERS: usize = 64;

/// The shape of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StyleConfig {
    /// Blocks that look at the picture, of which the last tokens stay.
    Adapter {
        /// Width of what the vision encoder gives.
        width: usize,
        /// Width of the text.
        text: usize,
        /// Blocks.
        layers: usize,
        /// Tokens that stay.
        tokens: usize,
    },
    /// Two linear layers for each token.
    Redux {
        /// Width of what the vision encoder gives.
        width: usize,
        /// Width between the layers.
        hidden: usize,
        /// Width of the text.
        text: usize,
    },
}

impl StyleConfig {
    /// Told from names and shapes.
    pub fn detect(weights: &StateDict) -> Result<Self> {
        let unknown = || Error::msg("it is no style model; choose T2I-Adapter's style adapter or Flux Redux");
        if let Some(tokens) = weights.shape("style_embedding") {
            let (&[1, tokens, width], Some(&[_, text])) = (tokens, weights.shape("proj")) else { return Err(unknown()) };
            let has = |layer: &usize| weights.contains(&format!("transformer_layes.{layer}.ln_1.weight"));
            let layers = (0..MAX_LAYERS).take_while(has).count();
            if width == 0 || width % HEADS != 0 || tokens == 0 {
                return Err(unknown());
            }
            return Ok(Self::Adapter { width, text, layers, tokens });
        }
        match (weights.shape("redux_up.weight"), weights.shape("redux_down.weight")) {
            (Some(&[hidden, width]), Some(&[text, _])) => Ok(Self::Redux { width, hidden, text }),
            _ => Err(unknown()),
        }
    }

    /// Width of what the vision encoder gives.
    pub fn width(&self) -> usize {
        match *self {
            Self::Adapter { width, .. } | Self::Redux { width, .. } => width,
        }
    }

    /// Width of the text.
    pub fn text(&self) -> usize {
        match *self {
            Self::Adapter { text, .. } | Self::Redux { text, .. } => text,
        }
    }

    /// Bytes that a pass over so many tokens takes.
    pub fn memory_bytes(&self, tokens: usize) -> u64 {
        let tokens = tokens as u64;
        match *self {
            Self::Adapter { width, tokens: more, .. } => {
                let all = tokens + more as u64;
                4 * (HEADS as u64 * all * all + 12 * all * width as u64)
            }
            Self::Redux { hidden, text, .. } => 4 * tokens * (2 * hidden + text) as u64,
        }
    }
}

/// The model.
pub struct StyleModel(Kind);

enum Kind {
    Adapter { tokens: Tensor, before: LayerNorm, layers: Vec<Layer>, after: LayerNorm, projection: Tensor },
    Redux { up: Linear, down: Linear },
}

impl StyleModel {
    /// Reads the weights.
    pub fn new(config: &StyleConfig, vb: &Vb) -> Result<Self> {
        Ok(Self(match *config {
            StyleConfig::Adapter { width, text, layers, tokens } => Kind::Adapter {
                tokens: vb.get(&[1, tokens, width], "style_embedding")?.to_dtype(DType::F32)?,
                before: LayerNorm::new(width, &vb.pp("ln_pre"))?,
                // The name is the file's.
                layers: (0..layers).map(|index| Layer::new(width, &vb.pp("transformer_layes").pp(index))).collect::<Result<_>>()?,
                after: LayerNorm::new(width, &vb.pp("ln_post"))?,
                projection: vb.get(&[width, text], "proj")?.to_dtype(DType::F32)?,
            },
            StyleConfig::Redux { width, hidden, text } => {
                Kind::Redux { up: Linear::new(width, hidden, &vb.pp("redux_up"))?, down: Linear::new(hidden, text, &vb.pp("redux_down"))? }
            }
        }))
    }

    /// Tokens (B, N, text) for a picture as the vision encoder sees it (B, T, width). `check` is called before each block.
    pub fn forward(&self, seen: &Tensor, check: Check<'_>) -> Result<Tensor> {
        check()?;
        match &self.0 {
            Kind::Redux { up, down } => down.forward(&ops::silu(&up.forward(seen)?)?),
            Kind::Adapter { tokens, before, layers, after, projection } => {
                let (batch, (_, count, width)) = (seen.dim(0)?, tokens.dims3()?);
                let own = tokens.broadcast_as((batch, count, width))?.contiguous()?;
                let mut x = before.forward(&Tensor::cat(&[seen, &own], 1)?)?;
                for layer in layers {
                    check()?;
                    x = layer.forward(&x)?;
                }
                let x = after.forward(&x.narrow(1, seen.dim(1)?, count)?.contiguous()?)?;
                Ok(x.broadcast_matmul(projection)?)
            }
        }
    }
}

/// A block of the adapter.
struct Layer {
    norm1: LayerNorm,
    qkv: Weight,
    qkv_bias: Tensor,
    out: Linear,
    norm2: LayerNorm,
    wide: Linear,
    narrow: Linear,
}

impl Layer {
    fn new(width: usize, vb: &Vb) -> Result<Self> {
        let (attention, mlp) = (vb.pp("attn"), vb.pp("mlp"));
        Ok(Self {
            norm1: LayerNorm::new(width, &vb.pp("ln_1"))?,
            qkv: attention.weight(&[3 * width, width], "in_proj_weight")?,
            qkv_bias: attention.get(&[3 * width], "in_proj_bias")?,
            out: Linear::new(width, width, &attention.pp("out_proj"))?,
            norm2: LayerNorm::new(width, &vb.pp("ln_2"))?,
            wide: Linear::new(width, 4 * width, &mlp.pp("c_fc"))?,
            narrow: Linear::new(4 * width, width, &mlp.pp("c_proj"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let qkv = ops::linear(&self.norm1.forward(x)?, &self.qkv, Some(&self.qkv_bias))?;
        let width = x.dim(2)?;
        let part = |index: usize| qkv.narrow(2, index * width, width)?.contiguous();
        let h = ops::attention(&part(0)?, &part(1)?, &part(2)?, HEADS, None)?;
        let x = ops::add(x, &self.out.forward(&h)?)?;
        let h = ops::quick_gelu(&self.wide.forward(&self.norm2.forward(&x)?)?)?;
        ops::add(&x, &self.narrow.forward(&h)?)
    }
}
