//! Files of weights: safetensors, and what their tensors are: named tensors that are read when asked, the parts and shapes that names tell.
//! This crate knows no family of models and not how a model runs.

pub mod convert;
pub mod detect;
pub mod lora;
pub mod safetensors;
pub mod save;
pub mod synthetic;
pub mod write;

mod checkpoint;
mod dtype;
mod eight_bits;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gguf;
mod mapped;
mod open;
mod pickle;
mod quantised;
mod state_dict;
mod torch;
mod weight;

pub use crate::checkpoint::{EncoderNames, EncoderPlace, Unet};
pub use crate::convert::EncoderKind;
pub use crate::dtype::Dtype;
pub use crate::eight_bits::SmallFloat;
pub use crate::error::{Error, Result};
pub use crate::state_dict::{Form, LazyTensor, Source, StateDict};
pub use crate::weight::{Quantized, Scaled8, Weight};
