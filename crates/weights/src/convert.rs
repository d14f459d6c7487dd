//! Converts the many schemes of names to the canonical ones: ldm's for UNets, ControlNets and autoencoders, those of Hugging Face's
//! transformers for text encoders. Knows names and layouts only.

pub mod clip;
pub mod control;
pub mod unet;
pub mod vae;
pub mod vision;

pub use self::clip::EncoderKind;
pub use self::control::{ControlFile, ControlLora, ControlNet, LowRank, control};
