//! Noise schedules, samplers and noise sources. A sampler knows only `denoise(x, sigma)`: no model, no conditioning, no device policy.
//!
//! - [`schedule`]: a model's noise levels and the meaning of its output ([`Schedule`]).
//! - [`scheduler`]: the noise levels that a sampling visits, by the names of node inputs.
//! - [`ksampler`]: what the settings of the KSampler nodes mean.
//! - [`sampler`]: the samplers, by name ([`by_name`]) or with options.
//! - [`noise`]: a latent's initial noise, and the noise that samplers add.

mod error;
pub mod ksampler;
mod math;
mod model;
pub mod noise;
pub mod sampler;
pub mod schedule;
pub mod scheduler;

pub use crate::error::{Error, Result};
pub use crate::model::{Denoiser, Observer, Sampler, Step};
pub use crate::sampler::{NAMES, by_name};
pub use crate::schedule::{Prediction, Schedule};
