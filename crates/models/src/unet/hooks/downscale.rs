//! Deep Shrink (Kohya): the activations shrink after an early block and grow again where the decoder meets a larger skip, so that large
//! pictures get the composition of small ones. Resizing happens in CPU memory, as ComfyUI resizes.

use candle_core::{Device, Tensor};
use comfyd_imaging::resize::{self, Crop, Method};
use ndarray::{ArcArray, IxDyn};

use crate::backbone::{BlockInfo, Hooks};
use crate::{Error, Result};

/// ComfyUI's `PatchModelAddDownscale`.
#[derive(Debug, Clone)]
pub struct Downscale {
    /// The encoder's block behind which the activations shrink.
    pub block: usize,
    /// By how much.
    pub factor: f64,
    /// Active from this noise level …
    pub sigma_start: f64,
    /// … down to this one.
    pub sigma_end: f64,
    /// Whether the skip keeps the full size.
    pub after_skip: bool,
    /// How they shrink.
    pub shrink: Method,
    /// How they grow.
    pub grow: Method,
}

impl Downscale {
    fn apply(&self, h: Tensor, at: &BlockInfo<'_>) -> Result<Tensor> {
        let Some(&sigma) = at.sigmas.first() else { return Ok(h) };
        if at.index != self.block || sigma > self.sigma_start || sigma < self.sigma_end {
            return Ok(h);
        }
        let (_, _, height, width) = h.dims4()?;
        let scaled = |side: usize| (side as f64 * (1.0 / self.factor)).round_ties_even() as usize;
        resized(&h, scaled(width), scaled(height), self.shrink)
    }
}

impl Hooks for Downscale {
    fn input_block(&mut self, h: Tensor, at: &BlockInfo<'_>) -> Result<Tensor> {
        if self.after_skip { Ok(h) } else { self.apply(h, at) }
    }

    fn input_block_after_skip(&mut self, h: Tensor, at: &BlockInfo<'_>) -> Result<Tensor> {
        if self.after_skip { self.apply(h, at) } else { Ok(h) }
    }

    fn output_block(&mut self, h: Tensor, skip: Tensor, _at: &BlockInfo<'_>) -> Result<(Tensor, Tensor)> {
        let (_, _, height, width) = skip.dims4()?;
        if h.dim(2)? == height {
            return Ok((h, skip));
        }
        Ok((resized(&h, width, height, self.grow)?, skip))
    }
}

/// `h (B, C, H, W)` in another size.
fn resized(h: &Tensor, width: usize, height: usize, method: Method) -> Result<Tensor> {
    let values = h.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
    let failed = |reason: String| Error::msg(format!("activations of {:?} cannot be scaled to {width} x {height}: {reason}", h.dims()));
    let array = ArcArray::from_shape_vec(IxDyn(h.dims()), values).map_err(|e| failed(e.to_string()))?;
    let out = resize::latent(&array, width, height, method, Crop::Disabled).map_err(|e| failed(e.to_string()))?;
    let shape = out.shape().to_vec();
    Ok(Tensor::from_vec(out.into_owned().into_raw_vec_and_offset().0, shape, h.device())?)
}
