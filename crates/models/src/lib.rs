//! Text encoders, denoisers, autoencoders and adapters, one file per architecture. A model knows its weights and its forward pass; it
//! knows no noise schedule, no sampler and no file.

pub mod ops;
pub mod unet;

mod error;
mod vb;

pub use crate::error::{Error, Result};
pub use crate::vb::{Provider, Vb};
