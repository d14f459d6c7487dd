//! Text encoders, denoisers, autoencoders and adapters, one file per architecture. A model knows its weights and its forward pass; it
//! knows no noise schedule, no sampler and no file.

pub mod backbone;
pub mod clip;
pub mod clip_vision;
pub mod controlnet;
pub mod gligen;
pub mod ops;
pub mod prompt;
pub mod residuals;
pub mod style;
pub mod t2i_adapter;
pub mod taesd;
pub mod text_encoding;
pub mod tiles;
pub mod timestep;
pub mod tokenizer;
pub mod unet;
pub mod upscale;
pub mod vae;

mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod transformer;
mod vb;

pub use crate::error::{Error, Result, is_out_of_memory};
pub use crate::vb::{Provider, Vb};

/// Asked now and then whether to go on.
pub type Check<'a> = &'a dyn Fn() -> Result<()>;
