//! Noise schedules, samplers and noise sources. A sampler knows only `denoise(x, sigma)`: no model, no conditioning, no device policy.

mod error;
mod model;
mod schedule;

pub use crate::error::{Error, Result};
pub use crate::model::{Denoiser, Observer, Sampler, Step};
pub use crate::schedule::{Prediction, Schedule};
