//! From noise to a latent.

mod batch;
mod conds;
mod control;
mod guidance;
mod hooks;
mod inputs;
mod preview;
mod request;
mod run;

pub use self::request::{KSampler, LatentInput, Noise, Sampled, Sampler};
