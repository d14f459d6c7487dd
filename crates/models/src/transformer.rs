//! The blocks of CLIP's transformers, of texts and of pictures, with Hugging Face's names.

use candle_core::Tensor;

use crate::error::Result;
use crate::ops;
use crate::unet::layers::{LayerNorm, Linear};
use crate::vb::Vb;

/// The activation of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`: OpenAI's CLIP.
    QuickGelu,
    /// With the error function: OpenCLIP.
    Gelu,
    /// With the hyperbolic tangent: SigLIP.
    GeluTanh,
}

/// A block: attention, then the feed-forward part, each behind a norm and beside a skip.
pub(crate) struct Layer {
    norm1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl Layer {
    /// Of so many features, and so many between its two last layers.
    pub(crate) fn new(width: usize, intermediate: usize, vb: &Vb) -> Result<Self> {
        let (attention, mlp) = (vb.pp("self_attn"), vb.pp("mlp"));
        Ok(Self {
            norm1: LayerNorm::new(width, &vb.pp("layer_norm1"))?,
            q: Linear::new(width, width, &attention.pp("q_proj"))?,
            k: Linear::new(width, width, &attention.pp("k_proj"))?,
            v: Linear::new(width, width, &attention.pp("v_proj"))?,
            out: Linear::new(width, width, &attention.pp("out_proj"))?,
            norm2: LayerNorm::new(width, &vb.pp("layer_norm2"))?,
            fc1: Linear::new(width, intermediate, &mlp.pp("fc1"))?,
            fc2: Linear::new(intermediate, width, &mlp.pp("fc2"))?,
        })
    }

    /// `x (B, N, D)`; `mask` as `ops::attention` takes it.
    pub(crate) fn forward(&self, x: &Tensor, heads: usize, activation: Activation, mask: Option<&Tensor>) -> Result<Tensor> {
        let h = self.norm1.forward(x)?;
        let h = ops::attention(&self.q.forward(&h)?, &self.k.forward(&h)?, &self.v.forward(&h)?, heads, mask)?;
        let x = ops::add(x, &self.out.forward(&h)?)?;
        let h = self.fc1.forward(&self.norm2.forward(&x)?)?;
        let h = match activation {
            Activation::QuickGelu => ops::quick_gelu(&h)?,
            Activation::Gelu => ops::gelu(&h)?,
            // The tensor library's is the one with the hyperbolic tangent.
            Activation::GeluTanh => h.gelu()?,
        };
        ops::add(&x, &self.fc2.forward(&h)?)
    }
}
