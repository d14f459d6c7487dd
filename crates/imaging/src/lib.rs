//! Pictures, masks and latents as plain arrays: reading and writing image files, resizing, filters, masks and compositing. This crate
//! knows neither nodes nor models; it reproduces the numbers of PIL, torch, kornia and scipy where ComfyUI's nodes rely on them.

mod error;
mod types;

pub use crate::error::{Error, Result};
pub use crate::types::{Image, Latent, Mask};
