//! The parts of a model under the names with which the reference saves them.

use candle_core::{DType, Device, Tensor};

use crate::convert::{EncoderKind, clip};
use crate::error::Result;
use crate::state_dict::{LazyTensor, StateDict};
use crate::{EncoderNames, EncoderPlace};

/// What goes into a checkpoint; `write::write` writes it.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The UNet, under ldm's names.
    pub unet: &'a StateDict,
    /// Where the family's checkpoints keep text encoders. Others than its own go to the first place.
    pub places: &'a [EncoderPlace],
    /// The text encoders, under transformers' names; none to leave them out (ModelSave).
    pub clips: &'a [(EncoderKind, StateDict)],
    /// The autoencoder, under ldm's names.
    pub vae: Option<&'a StateDict>,
    /// The names of empty tensors that tell what the model predicts (`v_pred`, `ztsnr`).
    pub markers: &'a [&'a str],
}

/// A checkpoint (CheckpointSave and ModelSave): `model.diffusion_model.…`, `first_stage_model.…`, and the text encoders where the family's
/// original checkpoints have them.
pub fn checkpoint(parts: &Parts<'_>) -> Result<StateDict> {
    let mut out = parts.unet.with_prefix("", "model.diffusion_model.");
    out.metadata.clear();
    for (kind, weights) in parts.clips {
        let Some(place) = parts.places.iter().find(|place| place.kind == *kind).or(parts.places.first()) else { continue };
        for (name, tensor) in encoder(place, weights)?.iter() {
            out.insert(name, tensor.clone());
        }
    }
    if let Some(vae) = parts.vae {
        for (name, tensor) in vae.iter() {
            out.insert(format!("first_stage_model.{name}"), tensor.clone());
        }
    }
    for marker in parts.markers {
        out.insert(*marker, Tensor::zeros(0, DType::F32, &Device::Cpu)?);
    }
    Ok(out)
}

/// A text encoder's names at its place in a checkpoint.
fn encoder(place: &EncoderPlace, weights: &StateDict) -> Result<StateDict> {
    let prefix = place.prefixes.first().copied().unwrap_or_default();
    Ok(match place.names {
        EncoderNames::OpenClip => clip::to_open_clip(&complete(weights)?).with_prefix("", prefix),
        EncoderNames::Transformers { position_ids } => {
            // Without what CLIP-L does not use: the projection and the scale.
            let mut out = weights.with_prefix("text_model.", &format!("{prefix}text_model."));
            if position_ids {
                let ids = Tensor::arange(0i64, 77, &Device::Cpu)?.reshape((1, 77))?;
                out.insert(format!("{prefix}text_model.embeddings.position_ids"), ids);
            }
            out
        }
    })
}

/// With the projection and the scale that the reference gives an encoder that has none.
fn complete(weights: &StateDict) -> Result<StateDict> {
    let mut weights = weights.clone();
    let width = weights.shape("text_model.final_layer_norm.weight").and_then(|shape| shape.first()).copied();
    if let (false, Some(width)) = (weights.contains("text_projection.weight"), width) {
        weights.insert("text_projection.weight", LazyTensor::from(clip::identity_projection(width)?));
    }
    if !weights.contains("logit_scale") {
        weights.insert("logit_scale", Tensor::new(4.6055f32, &Device::Cpu)?);
    }
    Ok(weights)
}

/// A text encoder alone (CLIPSave writes one file for each, with `_clip_l` and the like behind the prefix of the file's name): the names of
/// transformers, the projection as a matrix of a linear layer, the scale.
pub fn clip(weights: &StateDict) -> Result<StateDict> {
    let mut out = complete(weights)?;
    out.metadata.clear();
    Ok(out)
}

/// An autoencoder alone (VAESave): ldm's names.
pub fn vae(weights: &StateDict) -> StateDict {
    let mut out = weights.clone();
    out.metadata.clear();
    out
}
