//! Models back to files: the names of a checkpoint, and the metadata that tell its kind.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use comfyd_weights::detect::{Family, Variant};
use comfyd_weights::{StateDict, convert, write};

use crate::{Clip, Model, Result, Vae};

/// Writes a denoiser, with the encoders and the autoencoder if given, as a checkpoint.
pub(crate) fn save_model(
    model: &Model,
    path: &Path,
    clip: Option<&Clip>,
    vae: Option<&Vae>,
    title: &str,
    metadata: &[(String, String)],
) -> Result<()> {
    let family = model.info.family;
    let mut dict = StateDict::default();
    let mut add = |part: StateDict, prefix: &str| {
        for (name, tensor) in part.iter() {
            dict.insert(format!("{prefix}{name}"), tensor.clone());
        }
    };
    add(model.weights.for_saving(), "model.diffusion_model.");
    for (kind, weights) in clip.map(Clip::parts).unwrap_or_default() {
        let (prefix, open_clip) = encoder_prefix(family, kind);
        let weights = weights.for_saving();
        add(if open_clip { convert::clip::to_open_clip(&weights) } else { weights }, prefix);
    }
    if let Some(vae) = vae {
        add(vae.weights().for_saving(), "first_stage_model.");
    }
    let empty = || Tensor::zeros(0, DType::F32, &Device::Cpu);
    let mut texts = architecture(model, title);
    let schedule = model.schedule()?;
    match schedule.prediction() {
        comfyd_samplers::Prediction::Eps => texts.push(("modelspec.predict_key".into(), "epsilon".into())),
        comfyd_samplers::Prediction::V => {
            texts.push(("modelspec.predict_key".into(), "v".into()));
            dict.insert("v_pred", empty()?);
        }
        comfyd_samplers::Prediction::Edm
        | comfyd_samplers::Prediction::Flow
        | comfyd_samplers::Prediction::X0
        | comfyd_samplers::Prediction::ImageToImage
        | comfyd_samplers::Prediction::Lcm
        | comfyd_samplers::Prediction::CosmosFlow => {}
    }
    if matches!(model.info.prediction, comfyd_weights::detect::Prediction::V { zsnr: true }) {
        dict.insert("ztsnr", empty()?);
    }
    if let comfyd_weights::detect::Prediction::VContinuous { sigma_min, sigma_max } = model.info.prediction {
        dict.insert("edm_vpred.sigma_max", Tensor::new(sigma_max as f32, &Device::Cpu)?);
        dict.insert("edm_vpred.sigma_min", Tensor::new(sigma_min as f32, &Device::Cpu)?);
    }
    texts.extend_from_slice(metadata);
    write::write(path, &dict, &write::Options { metadata: texts, ..write::Options::default() })?;
    Ok(())
}

/// Writes one part alone, by its own names.
pub(crate) fn save_part(dict: &StateDict, path: &Path, metadata: &[(String, String)]) -> Result<()> {
    write::write(path, dict, &write::Options { metadata: metadata.to_vec(), ..write::Options::default() })?;
    Ok(())
}

/// Where a checkpoint of that family keeps an encoder, and whether by OpenCLIP's names.
fn encoder_prefix(family: Family, kind: convert::EncoderKind) -> (&'static str, bool) {
    match (family, kind) {
        (Family::Sd15, _) => ("cond_stage_model.transformer.", false),
        (Family::Sd20, _) => ("cond_stage_model.model.", true),
        (Family::Sdxl, convert::EncoderKind::ClipL) => ("conditioner.embedders.0.transformer.", false),
        (Family::Sdxl, _) => ("conditioner.embedders.1.model.", true),
        (Family::SdxlRefiner, _) => ("conditioner.embedders.0.model.", true),
    }
}

fn architecture(model: &Model, title: &str) -> Vec<(String, String)> {
    let name = match (model.info.family, model.info.variant) {
        (Family::Sdxl, Variant::InstructPix2Pix) => "stable-diffusion-xl-v1-edit",
        (Family::Sdxl, Variant::Base | Variant::Inpaint) => "stable-diffusion-xl-v1-base",
        (Family::SdxlRefiner, _) => "stable-diffusion-xl-v1-refiner",
        (Family::Sd15 | Family::Sd20, _) => return Vec::new(),
    };
    let text = |key: &str, value: &str| (format!("modelspec.{key}"), value.to_owned());
    vec![text("architecture", name), text("sai_model_spec", "1.0.0"), text("implementation", "sgm"), text("title", title)]
}
