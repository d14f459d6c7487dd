//! What the networks that enlarge pictures have in common.

use candle_core::{D, Tensor};
use comfyd_weights::Weight;

use crate::error::Result;
use crate::ops;
use crate::vb::Vb;

/// A 3x3 convolution.
pub(super) struct Conv {
    weight: Weight,
    bias: Option<Tensor>,
}

impl Conv {
    pub(super) fn new(input: usize, output: usize, vb: &Vb) -> Result<Self> {
        Ok(Self { weight: vb.weight(&[output, input, 3, 3], "weight")?, bias: vb.get_opt(&[output], "bias")? })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::conv2d(x, &self.weight, self.bias.as_ref(), 1, 1)
    }
}

/// `max(x, 0.2 x)`.
pub(super) fn leaky_relu(x: &Tensor) -> Result<Tensor> {
    Ok(x.maximum(&(x * 0.2)?)?)
}

/// Lengthens an axis at its end by mirroring, without the last value; what is missing then repeats the last value.
pub(super) fn pad_reflect(x: &Tensor, axis: usize, wanted: usize) -> Result<Tensor> {
    let length = x.dim(axis)?;
    if wanted <= length {
        return Ok(x.clone());
    }
    let mirrored = (wanted - length).min(length - 1);
    let mut places = (0..length as u32).collect::<Vec<_>>();
    places.extend((0..mirrored).map(|place| (length - 2 - place) as u32));
    let last = places.last().copied().unwrap_or(0);
    places.resize(wanted, last);
    Ok(x.index_select(&Tensor::new(places, x.device())?, axis)?)
}

/// `(B, C * f * f, H, W) -> (B, C, H * f, W * f)`.
pub(super) fn pixel_shuffle(x: &Tensor, factor: usize) -> Result<Tensor> {
    if factor == 1 {
        return Ok(x.clone());
    }
    let (b, c, h, w) = x.dims4()?;
    let channels = c / factor / factor;
    let x = x.reshape(&[b, channels, factor, factor, h, w][..])?.permute(vec![0, 1, 4, 2, 5, 3])?.contiguous()?;
    Ok(x.reshape((b, channels, h * factor, w * factor))?)
}

/// `(B, C, H, W) -> (B, C * f * f, H / f, W / f)`.
pub(super) fn pixel_unshuffle(x: &Tensor, factor: usize) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let x = x.reshape(&[b, c, h / factor, factor, w / factor, factor][..])?.permute(vec![0, 1, 3, 5, 2, 4])?.contiguous()?;
    Ok(x.reshape((b, c * factor * factor, h / factor, w / factor))?)
}

/// Each pixel `factor * factor` times.
pub(super) fn enlarge(x: &Tensor, factor: usize) -> Result<Tensor> {
    match factor {
        1 => Ok(x.clone()),
        2 => ops::upsample_nearest_2x(x),
        _ => Ok(x.upsample_nearest2d(x.dim(D::Minus2)? * factor, x.dim(D::Minus1)? * factor)?),
    }
}
