//! The sizes of a convolution, and what is added to its result. Knows no way to compute one.

use crate::weight::{Error, Result};

/// The sizes of a convolution. The kernel has the same stride and the same zero padding on both axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Images.
    pub batch: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Height of the input in pixels.
    pub height: usize,
    /// Width of the input in pixels.
    pub width: usize,
    /// Height of the kernel.
    pub kernel_height: usize,
    /// Width of the kernel.
    pub kernel_width: usize,
    /// Pixels from one output to the next.
    pub stride: usize,
    /// Rows and columns of zeros on every side.
    pub padding: usize,
}

impl Conv2d {
    /// Height and width of the output, or an error if the kernel does not fit.
    pub fn output_size(&self) -> Result<(usize, usize)> {
        let along = |size: usize, kernel: usize| {
            let padded = size.checked_add(self.padding.checked_mul(2)?)?;
            if kernel == 0 || self.stride == 0 { None } else { Some(padded.checked_sub(kernel)? / self.stride + 1) }
        };
        match (along(self.height, self.kernel_height), along(self.width, self.kernel_width)) {
            (Some(height), Some(width)) => Ok((height, width)),
            _ => Err(Error(format!("the kernel does not fit the padded image: {self:?}"))),
        }
    }
}

/// What is added to the result of a convolution.
#[derive(Clone, Copy, Debug, Default)]
pub struct Added<'a> {
    /// A number for every channel of the result.
    pub bias: Option<&'a [f32]>,
    /// A number for every image and channel of the result, as the embedding of a time step.
    pub per_image: Option<&'a [f32]>,
    /// A number for every number of the result.
    pub residual: Option<&'a [f32]>,
}
