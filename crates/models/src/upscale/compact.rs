//! SRVGGNetCompact, the small network of Real-ESRGAN (<https://github.com/xinntao/Real-ESRGAN>): convolutions at the small size, the
//! enlarged picture added at the end.

use candle_core::Tensor;
use comfyd_weights::StateDict;

use super::layers::{Conv, enlarge, pixel_shuffle};
use crate::error::{Error, Result};
use crate::ops;
use crate::vb::Vb;

/// Convolutions that a file may have.
const MAX_LAYERS: usize = 1024;

#[derive(Debug, Clone)]
pub(super) struct CompactConfig {
    pub(super) scale: usize,
    pub(super) channels: usize,
    width: usize,
    /// Convolutions between the first and the last.
    hidden: usize,
}

impl CompactConfig {
    /// `None` if the tensors are another network's.
    pub(super) fn detect(weights: &StateDict) -> Result<Option<Self>> {
        let (Some([width, channels, ..]), Some(_)) = (weights.shape("body.0.weight"), weights.shape("body.1.weight")) else {
            return Ok(None);
        };
        let last = (0..MAX_LAYERS).take_while(|index| weights.contains(&format!("body.{index}.weight"))).count() - 1;
        let Some([outputs]) = weights.shape(&format!("body.{last}.bias")) else { return Ok(None) };
        let scale = (1..=16).find(|scale| scale * scale * channels == *outputs);
        let Some(scale) = scale else {
            return Err(Error::msg(format!("a compact upscaling model with {outputs} outputs for {channels} channels is not known")));
        };
        Ok(Some(Self { scale, channels: *channels, width: *width, hidden: last.saturating_sub(2) / 2 }))
    }
}

pub(super) struct Compact {
    convs: Vec<Conv>,
    /// The slopes below zero behind each convolution but the last.
    slopes: Vec<Tensor>,
    scale: usize,
}

impl Compact {
    pub(super) fn new(config: &CompactConfig, vb: &Vb) -> Result<Self> {
        let vb = vb.pp("body");
        let width = config.width;
        let mut convs = vec![Conv::new(config.channels, width, &vb.pp(0))?];
        let mut slopes = vec![vb.pp(1).get(&[width], "weight")?];
        for index in 1..=config.hidden {
            convs.push(Conv::new(width, width, &vb.pp(2 * index))?);
            slopes.push(vb.pp(2 * index + 1).get(&[width], "weight")?);
        }
        convs.push(Conv::new(width, config.channels * config.scale * config.scale, &vb.pp(2 * config.hidden + 2))?);
        Ok(Self { convs, slopes, scale: config.scale })
    }

    pub(super) fn forward(&self, x: &Tensor, check: &dyn Fn() -> Result<()>) -> Result<Tensor> {
        let mut h = x.clone();
        for (index, conv) in self.convs.iter().enumerate() {
            check()?;
            h = conv.forward(&h)?;
            if let Some(slope) = self.slopes.get(index) {
                let slope = slope.to_dtype(h.dtype())?.reshape((1, slope.elem_count(), 1, 1))?;
                let below = h.minimum(&h.zeros_like()?)?.broadcast_mul(&slope)?;
                h = ops::add(&h.relu()?, &below)?;
            }
        }
        ops::add(&pixel_shuffle(&h, self.scale)?, &enlarge(x, self.scale)?)
    }
}
