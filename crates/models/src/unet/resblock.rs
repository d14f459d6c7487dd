//! The residual block of the denoisers, which the time step's embedding enters.

use candle_core::Tensor;

use super::layers::{Conv2d, GroupNorm, Linear};
use crate::{Result, Vb};

/// `ResBlock` of the latent-diffusion code, without resampling.
#[derive(Debug)]
pub(crate) struct ResBlock {
    in_norm: GroupNorm,
    in_conv: Conv2d,
    emb: Linear,
    out_norm: GroupNorm,
    out_conv: Conv2d,
    skip: Option<Conv2d>,
}

impl ResBlock {
    /// From `channels` to `out_channels`, with an embedding of `emb_channels`.
    pub fn new(channels: usize, emb_channels: usize, out_channels: usize, vb: &Vb) -> Result<Self> {
        let skip =
            if channels == out_channels { None } else { Some(Conv2d::new(channels, out_channels, 1, 1, &vb.pp("skip_connection"))?) };
        Ok(Self {
            in_norm: GroupNorm::new(channels, 1e-5, &vb.pp("in_layers.0"))?,
            in_conv: Conv2d::new(channels, out_channels, 3, 1, &vb.pp("in_layers.2"))?,
            emb: Linear::new(emb_channels, out_channels, &vb.pp("emb_layers.1"))?,
            out_norm: GroupNorm::new(out_channels, 1e-5, &vb.pp("out_layers.0"))?,
            out_conv: Conv2d::new(out_channels, out_channels, 3, 1, &vb.pp("out_layers.3"))?,
            skip,
        })
    }

    /// `x (B, channels, H, W) -> (B, out_channels, H, W)`; `emb_silu (B, emb_channels)` has gone through SiLU already, once for all blocks.
    pub fn forward(&self, x: &Tensor, emb_silu: &Tensor) -> Result<Tensor> {
        let emb = self.emb.forward(emb_silu)?;
        let h = self.in_conv.forward_added(&self.in_norm.forward_silu(x)?, Some(&emb), None)?;
        let h = self.out_norm.forward_silu(&h)?;
        let skip = self.skip.as_ref().map(|skip| skip.forward(x)).transpose()?;
        self.out_conv.forward_added(&h, None, Some(skip.as_ref().unwrap_or(x)))
    }
}
