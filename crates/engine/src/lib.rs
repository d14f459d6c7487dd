//! Devices, residency and memory budget, model loading and patching, conditioning and guidance: where models and samplers meet. Knows no
//! HTTP and no node class.
//!
//! Nodes hold the values of this crate ([`Model`], [`Clip`], [`Vae`], [`Conditioning`], …), which are cheap to clone, and change copies of
//! them (`model.with(patch)`). Work is done by the [`Engine`], to which the values' methods lead (`engine.sample(cx, …)`, `vae.decode(…)`).
//! Arrays cross the border as candle tensors on the CPU, F32: see [`tensor`] and [`values`].

mod array;
mod clip;
mod conditioning;
mod control;
mod device;
mod engine;
mod error;
mod extract;
mod families;
mod files;
mod gligen;
mod guider;
mod hooks;
mod latent_spec;
mod loading;
mod lora;
mod model;
mod options;
mod part;
pub mod patches;
mod picture_size;
mod precision;
mod residency;
mod sampling;
mod saving;
mod style;
mod told;
mod unclip;
mod upscale;
mod vae;
mod vision;

pub use candle_core::Tensor;
pub use comfyd_kernels::{Level as CpuLevel, Precision as ProductPrecision};

pub use crate::array::{tensor, values};
pub use crate::clip::{Clip, Tokens};
pub use crate::conditioning::{Area, CondEntry, Conditioning};
pub use crate::control::{AppliedControl, ControlNet, ControlSettings};
pub use crate::device::{cards, devices};
pub use crate::engine::{Engine, Memory};
pub use crate::error::{Error, Result};
pub use crate::extract::{LoraExtraction, save_lora};
pub use crate::families::{PLAYGROUND_LATENTS, SD_LATENTS, SDXL_LATENTS};
pub use crate::gligen::{Gligen, PlacedText, TextBoxes};
pub use crate::guider::{DualStyle, Guider};
pub use crate::hooks::{HookGroup, HookKeyframe, HookKeyframes};
pub use crate::latent_spec::{LatentSpec, Normal};
pub use crate::loading::Checkpoint;
pub use crate::model::Model;
pub use crate::options::{DeviceChoice, EngineOptions, PreviewMethod};
pub use crate::picture_size::PictureSize;
pub use crate::sampling::{KSampler, LatentInput, Noise, Sampled, Sampler};
pub use crate::saving::Output;
pub use crate::style::StyleModel;
pub use crate::told::{Tells, Told};
pub use crate::unclip::Unclip;
pub use crate::upscale::UpscaleModel;
pub use crate::vae::Vae;
pub use crate::vision::{ClipVision, VisionCrop, VisionOutput};
