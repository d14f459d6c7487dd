//! Kernels for processors, those for NVIDIA cards as text for their driver, and torch-compatible random numbers. This crate knows neither
//! models nor nodes.
//!
//! The kernels work on slices, use all threads of rayon's pool, and choose AVX-512, AVX2, NEON or plain code at run time ([`Level`]). Weights
//! are used in the type in which they are stored. Every kernel checks the lengths of its slices and returns an [`Error`] if they do not fit.

pub mod random;

mod activation;
mod attention;
mod conv;
mod gemm;
mod linear;
mod math;
mod norm;
mod out;
mod packed;
mod rows;
mod scratch;
mod simd;
mod sizes;
#[cfg(test)]
mod tests;
mod tile;
// Only x86-64 has products of sixteen bits here.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod tile16;
mod tiles;
mod weight;
mod winograd;

/// The kernels of `cuda/models.cu`, in the language of the driver.
#[cfg(feature = "cuda")]
pub const CUDA_MODELS: &str = include_str!(concat!(env!("OUT_DIR"), "/models.ptx"));

pub use crate::activation::{add, add_planes, geglu, gelu, quick_gelu, silu, upsample_nearest};
pub use crate::attention::{Attention, Mask, attention};
pub use crate::conv::{conv2d, conv2d_of_doubled};
pub use crate::linear::{embedding, linear, transpose};
pub use crate::norm::{GroupNorm, group_norm, layer_norm};
pub use crate::out::{Out, Written, result};
pub use crate::packed::{Format, Packed};
pub use crate::simd::{Level, Precision};
pub use crate::sizes::{Added, Conv2d};
pub use crate::weight::{Error, Result, Weight};
