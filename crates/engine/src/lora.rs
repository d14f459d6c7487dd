//! LoRA files as patches of a model's weights.

use std::path::Path;

use comfyd_weights::detect::Model;

use crate::part::{Patch, Weights};
use crate::{Engine, Error, Result};

/// The patches of a denoiser that a file holds.
pub(crate) fn model_patches(engine: &Engine, path: &Path, info: &Model, weights: &Weights, strength: f64) -> Result<Vec<(String, Patch)>> {
    let _ = (engine, info, weights, strength);
    Err(Error::msg(format!("{} cannot be applied", path.display())))
}

/// The patches of one of the text encoders `kinds` that a file holds.
pub(crate) fn clip_patches(
    engine: &Engine,
    path: &Path,
    kinds: &[comfyd_weights::EncoderKind],
    kind: comfyd_weights::EncoderKind,
    weights: &Weights,
    strength: f64,
) -> Result<Vec<(String, Patch)>> {
    let _ = (engine, kinds, kind, weights, strength);
    Err(Error::msg(format!("{} cannot be applied", path.display())))
}
