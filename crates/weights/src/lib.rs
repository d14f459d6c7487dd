//! Files of weights: safetensors. This crate does not know what the tensors are for.

pub mod safetensors;

mod error;

pub use crate::error::{Error, Result};
