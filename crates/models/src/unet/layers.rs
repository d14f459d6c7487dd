//! The smallest parts of the denoisers: a layer's weights with its call. Shapes come from the caller, names from the checkpoint.

use candle_core::Tensor;
use comfyd_weights::Weight;

use crate::error::{Error, Result};
use crate::ops::{self, Added};
use crate::vb::Vb;

/// `y = x W^T + b`.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
}

impl Linear {
    /// `weight (out, in)` and `bias (out)`.
    pub fn new(input: usize, output: usize, vb: &Vb) -> Result<Self> {
        Ok(Self { weight: vb.weight(&[output, input], "weight")?, bias: Some(vb.get(&[output], "bias")?) })
    }

    /// Without a bias.
    pub fn no_bias(input: usize, output: usize, vb: &Vb) -> Result<Self> {
        Ok(Self { weight: vb.weight(&[output, input], "weight")?, bias: None })
    }

    /// A 1x1 convolution's weights, applied to tokens.
    pub fn from_conv(input: usize, output: usize, vb: &Vb) -> Result<Self> {
        let weight = vb.weight(&[output, input, 1, 1], "weight")?.reshape(&[output, input])?;
        Ok(Self { weight, bias: Some(vb.get(&[output], "bias")?) })
    }

    pub fn layer(&self) -> ops::Layer<'_> {
        (&self.weight, self.bias.as_ref())
    }

    /// `(.., in) -> (.., out)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::linear(x, &self.weight, self.bias.as_ref())
    }
}

/// A convolution with a square kernel.
#[derive(Debug)]
pub(crate) struct Conv2d {
    weight: Weight,
    bias: Tensor,
    stride: usize,
    padding: usize,
}

impl Conv2d {
    /// `weight (out, in, kernel, kernel)` and `bias (out)`, padded so that a stride of 1 keeps the size.
    pub fn new(input: usize, output: usize, kernel: usize, stride: usize, vb: &Vb) -> Result<Self> {
        let weight = vb.weight(&[output, input, kernel, kernel], "weight")?;
        Ok(Self { weight, bias: vb.get(&[output], "bias")?, stride, padding: kernel / 2 })
    }

    /// `(B, in, H, W) -> (B, out, H / stride, W / stride)`, rounded up.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::conv2d(x, &self.weight, Some(&self.bias), self.stride, self.padding)
    }

    /// The same, plus `channels (B, out)` at every place and `residual` of the result's shape.
    pub fn forward_added(&self, x: &Tensor, channels: Option<&Tensor>, residual: Option<&Tensor>) -> Result<Tensor> {
        ops::conv2d_added(x, &self.weight, Added { bias: Some(&self.bias), channels, residual }, self.stride, self.padding)
    }

    /// Of `x` with every pixel twice along both axes.
    pub fn forward_doubled(&self, x: &Tensor) -> Result<Tensor> {
        ops::conv2d_of_doubled(x, &self.weight, Some(&self.bias), self.padding)
    }
}

/// Normalisation over 32 groups of channels.
#[derive(Debug)]
pub(crate) struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

/// The denoisers know no other number of groups.
const GROUPS: usize = 32;

impl GroupNorm {
    /// `weight` and `bias` are `(channels)`.
    pub fn new(channels: usize, eps: f64, vb: &Vb) -> Result<Self> {
        if channels == 0 || !channels.is_multiple_of(GROUPS) {
            return Err(Error::msg(format!(
                "'{}' has {channels} channels, which {GROUPS} groups cannot share; choose a file of the right kind",
                vb.name("weight")
            )));
        }
        Ok(Self { weight: vb.get(&[channels], "weight")?, bias: vb.get(&[channels], "bias")?, eps })
    }

    /// `(B, C, H, W)` in its shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::group_norm(x, &self.weight, &self.bias, GROUPS, self.eps)
    }

    /// The same with SiLU after it.
    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        ops::group_norm_silu(x, &self.weight, &self.bias, GROUPS, self.eps)
    }
}

/// Normalisation of the last axis, with the usual epsilon of 1e-5.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    /// `weight` and `bias` are `(width)`.
    pub fn new(width: usize, vb: &Vb) -> Result<Self> {
        Ok(Self { weight: vb.get(&[width], "weight")?, bias: vb.get(&[width], "bias")? })
    }

    /// `(.., width)` in its shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight, &self.bias, 1e-5)
    }
}

/// Two linear layers with SiLU between them: `0` and `2` at `vb`.
#[derive(Debug)]
pub(crate) struct EmbeddingMlp {
    first: Linear,
    second: Linear,
}

impl EmbeddingMlp {
    /// `input -> output -> output`.
    pub fn new(input: usize, output: usize, vb: &Vb) -> Result<Self> {
        Ok(Self { first: Linear::new(input, output, &vb.pp(0))?, second: Linear::new(output, output, &vb.pp(2))? })
    }

    /// `(B, input) -> (B, output)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.second.forward(&ops::silu(&self.first.forward(x)?)?)
    }
}
