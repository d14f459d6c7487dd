//! Pictures, masks and latents as plain arrays: reading and writing image files, resizing, filters, masks and compositing. This crate
//! knows neither nodes nor models; it reproduces the numbers of PIL, torch, kornia and scipy where ComfyUI's nodes rely on them.

pub mod apng;
mod avif;
pub mod blend;
pub mod canny;
pub mod color;
pub mod decode;
mod error;
pub mod exr;
pub mod filter;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod jpeg;
pub mod layers;
pub mod mask;
pub mod morphology;
pub mod png;
pub mod quantize;
mod raster;
pub mod resample;
pub mod resize;
pub mod text;
mod tiff;
pub mod transfer;
pub mod transform;
pub mod webp;

pub use crate::error::{Error, Result};
pub use crate::raster::Raster;
