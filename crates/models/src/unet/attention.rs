//! The spatial transformer of the denoisers: self-attention, cross-attention to the conditioning, and a gated feed-forward layer. Hooks may
//! reach into every attention; what they do is not known here.

use candle_core::Tensor;

use super::layers::{GroupNorm, LayerNorm, Linear};
use crate::backbone::{AttentionInputs, BlockInfo, Hooks};
use crate::{Error, Result, Vb, ops};

/// A pass on its way through the blocks: the hooks, and where it is.
pub(crate) struct Walk<'a> {
    pub hooks: &'a mut dyn Hooks,
    pub at: BlockInfo<'a>,
}

/// Projections around an attention.
#[derive(Debug)]
pub(crate) struct CrossAttention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
}

impl CrossAttention {
    pub(crate) fn new(query_dim: usize, context_dim: usize, heads: usize, head_dim: usize, vb: &Vb) -> Result<Self> {
        let inner = heads * head_dim;
        Ok(Self {
            to_q: Linear::no_bias(query_dim, inner, &vb.pp("to_q"))?,
            to_k: Linear::no_bias(context_dim, inner, &vb.pp("to_k"))?,
            to_v: Linear::no_bias(context_dim, inner, &vb.pp("to_v"))?,
            to_out: Linear::new(inner, query_dim, &vb.pp("to_out.0"))?,
            heads,
        })
    }

    /// `replace` may compute the attention itself.
    pub(crate) fn forward(
        &self,
        inputs: &AttentionInputs,
        replace: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Result<Option<Tensor>>,
    ) -> Result<Tensor> {
        let q = self.to_q.forward(&inputs.query)?;
        let k = self.to_k.forward(&inputs.key)?;
        let v = self.to_v.forward(&inputs.value)?;
        let out = match replace(&q, &k, &v)? {
            Some(out) => out,
            None => ops::attention(&q, &cut(k, q.dim(0)?)?, &cut(v, q.dim(0)?)?, self.heads, None)?,
        };
        self.to_out.forward(&out)
    }
}

/// Tokens `(B, N, C)` cut into `batch` equal parts, in the order in which they lie in memory, if a hook has given the query more of them.
fn cut(tokens: Tensor, batch: usize) -> Result<Tensor> {
    let (b, n, c) = tokens.dims3()?;
    if b == batch {
        return Ok(tokens);
    }
    if batch == 0 || !(b * n).is_multiple_of(batch) {
        return Err(Error::msg(format!(
            "an attention's {b} x {n} keys cannot be shared among {batch} queries; remove the patch that made them"
        )));
    }
    Ok(tokens.reshape((batch, b * n / batch, c))?)
}

/// Two linear layers around a gated GELU.
#[derive(Debug)]
pub(crate) struct FeedForward {
    proj: Linear,
    out: Linear,
}

impl FeedForward {
    pub(crate) fn new(dim: usize, vb: &Vb) -> Result<Self> {
        let inner = dim * 4;
        Ok(Self { proj: Linear::new(dim, inner * 2, &vb.pp("net.0.proj"))?, out: Linear::new(inner, dim, &vb.pp("net.2"))? })
    }

    /// The layers of `x (.., dim)`, plus `residual` if it is there.
    pub(crate) fn forward(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        ops::feed_forward(x, self.proj.layer(), self.out.layer(), residual)
    }
}

/// `BasicTransformerBlock` of the latent-diffusion code.
#[derive(Debug)]
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: CrossAttention,
    norm2: LayerNorm,
    attn2: CrossAttention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl TransformerBlock {
    fn new(dim: usize, context_dim: usize, heads: usize, head_dim: usize, vb: &Vb) -> Result<Self> {
        Ok(Self {
            norm1: LayerNorm::new(dim, &vb.pp("norm1"))?,
            attn1: CrossAttention::new(dim, dim, heads, head_dim, &vb.pp("attn1"))?,
            norm2: LayerNorm::new(dim, &vb.pp("norm2"))?,
            attn2: CrossAttention::new(dim, context_dim, heads, head_dim, &vb.pp("attn2"))?,
            norm3: LayerNorm::new(dim, &vb.pp("norm3"))?,
            ff: FeedForward::new(dim, &vb.pp("ff"))?,
        })
    }

    /// Tokens `x (B, N, dim)`.
    fn forward(&self, x: &Tensor, context: &Tensor, walk: &mut Walk<'_>) -> Result<Tensor> {
        let at = walk.at;
        walk.hooks.check()?;

        let n = self.norm1.forward(x)?;
        let inputs = walk.hooks.attn1_inputs(AttentionInputs { query: n.clone(), key: n.clone(), value: n }, &at)?;
        let out = self.attn1.forward(&inputs, |q, k, v| walk.hooks.attn1(q, k, v, &at))?;
        let out = walk.hooks.attn1_output(out, &at)?;
        let x = walk.hooks.between_attentions(ops::add(&out, x)?, &at)?;

        let query = self.norm2.forward(&x)?;
        let inputs = walk.hooks.attn2_inputs(AttentionInputs { query, key: context.clone(), value: context.clone() }, &at)?;
        let out = self.attn2.forward(&inputs, |q, k, v| walk.hooks.attn2(q, k, v, &at))?;
        let out = walk.hooks.attn2_output(out, &at)?;
        let x = ops::add(&out, &x)?;

        self.ff.forward(&self.norm3.forward(&x)?, Some(&x))
    }
}

/// What a spatial transformer is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TransformerConfig {
    pub channels: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub depth: usize,
    pub context_dim: usize,
    pub use_linear: bool,
}

/// `SpatialTransformer` of the latent-diffusion code: a picture as tokens through transformer blocks and back.
#[derive(Debug)]
pub(crate) struct SpatialTransformer {
    norm: GroupNorm,
    proj_in: Linear,
    blocks: Vec<TransformerBlock>,
    proj_out: Linear,
    heads: usize,
    head_dim: usize,
}

impl SpatialTransformer {
    /// `proj_in` and `proj_out` are matrices or 1x1 convolutions in the file; here they are always applied to tokens.
    pub fn new(config: &TransformerConfig, vb: &Vb) -> Result<Self> {
        let TransformerConfig { channels, heads, head_dim, depth, context_dim, use_linear } = *config;
        let inner = heads * head_dim;
        let project = if use_linear { Linear::new } else { Linear::from_conv };
        let block = |i| TransformerBlock::new(inner, context_dim, heads, head_dim, &vb.pp("transformer_blocks").pp(i));
        Ok(Self {
            norm: GroupNorm::new(channels, 1e-6, &vb.pp("norm"))?,
            proj_in: project(channels, inner, &vb.pp("proj_in"))?,
            blocks: (0..depth).map(block).collect::<Result<_>>()?,
            proj_out: project(inner, channels, &vb.pp("proj_out"))?,
            heads,
            head_dim,
        })
    }

    /// `x (B, C, H, W)` in its shape; `context (B, T, context_dim)`.
    pub fn forward(&self, x: &Tensor, context: &Tensor, walk: &mut Walk<'_>) -> Result<Tensor> {
        let (b, c, h, w) = x.dims4()?;
        let tokens = self.norm.forward(x)?.reshape((b, c, h * w))?.transpose(1, 2)?;
        let mut tokens = self.proj_in.forward(&tokens)?;
        walk.at.heads = self.heads;
        walk.at.head_dim = self.head_dim;
        for (i, block) in self.blocks.iter().enumerate() {
            walk.at.transformer = i;
            tokens = block.forward(&tokens, context, walk)?;
        }
        walk.at.transformer = 0;
        walk.at.heads = 0;
        walk.at.head_dim = 0;
        walk.at.transformer_index += 1;
        ops::linear_to_planes(&tokens, self.proj_out.layer(), x)
    }
}
