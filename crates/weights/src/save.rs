//! The parts of a model under the names with which the reference saves them.

use candle_core::{DType, Device, Tensor};

use crate::convert::{EncoderKind, clip};
use crate::detect::{Family, Prediction};
use crate::error::Result;
use crate::state_dict::{LazyTensor, StateDict};

/// What goes into a checkpoint; `write::write` writes it.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The family, which decides the names of text encoders.
    pub family: Family,
    /// What the model predicts, for the markers of SDXL and SD2 models that predict the velocity.
    pub prediction: Prediction,
    /// The UNet, under ldm's names.
    pub unet: &'a StateDict,
    /// The text encoders, under transformers' names; none to leave them out (ModelSave).
    pub clips: &'a [(EncoderKind, StateDict)],
    /// The autoencoder, under ldm's names.
    pub vae: Option<&'a StateDict>,
}

/// A checkpoint (CheckpointSave and ModelSave): `model.diffusion_model.…`, `first_stage_model.…`, and the text encoders where the family's
/// original checkpoints have them.
pub fn checkpoint(parts: &Parts<'_>) -> Result<StateDict> {
    let mut out = parts.unet.with_prefix("", "model.diffusion_model.");
    out.metadata.clear();
    for (kind, weights) in parts.clips {
        for (name, tensor) in encoder(parts.family, *kind, weights)?.iter() {
            out.insert(name, tensor.clone());
        }
    }
    if let Some(vae) = parts.vae {
        for (name, tensor) in vae.iter() {
            out.insert(format!("first_stage_model.{name}"), tensor.clone());
        }
    }
    let empty = || Tensor::zeros(0, DType::F32, &Device::Cpu);
    match parts.prediction {
        Prediction::Eps | Prediction::Edm => {}
        Prediction::V { zsnr } => {
            out.insert("v_pred", empty()?);
            if zsnr {
                out.insert("ztsnr", empty()?);
            }
        }
        Prediction::VContinuous { sigma_min, sigma_max } => {
            out.insert("edm_vpred.sigma_max", Tensor::new(sigma_max as f32, &Device::Cpu)?);
            out.insert("edm_vpred.sigma_min", Tensor::new(sigma_min as f32, &Device::Cpu)?);
        }
    }
    Ok(out)
}

/// A text encoder's names in a checkpoint of this family.
fn encoder(family: Family, kind: EncoderKind, weights: &StateDict) -> Result<StateDict> {
    Ok(match (family, kind) {
        (Family::Sd15, _) => text_model(weights).with_prefix("", "cond_stage_model.transformer."),
        (Family::Sdxl, EncoderKind::ClipL | EncoderKind::ClipH) => {
            let mut out = text_model(weights).with_prefix("", "conditioner.embedders.0.transformer.");
            let ids = Tensor::arange(0i64, 77, &Device::Cpu)?.reshape((1, 77))?;
            out.insert("conditioner.embedders.0.transformer.text_model.embeddings.position_ids", ids);
            out
        }
        (Family::Sdxl, EncoderKind::ClipG) => open_clip(weights)?.with_prefix("", "conditioner.embedders.1.model."),
        (Family::SdxlRefiner, _) => open_clip(weights)?.with_prefix("", "conditioner.embedders.0.model."),
        (Family::Sd20, _) => open_clip(weights)?.with_prefix("", "cond_stage_model.model."),
    })
}

/// Without what CLIP-L does not use: the projection and the scale.
fn text_model(weights: &StateDict) -> StateDict {
    weights.with_prefix("text_model.", "text_model.")
}

fn open_clip(weights: &StateDict) -> Result<StateDict> {
    Ok(clip::to_open_clip(&complete(weights)?))
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
