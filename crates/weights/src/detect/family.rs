//! The families of Stable Diffusion, and what tells them apart: the shape of the UNet, and marker tensors for the meaning of its output.

use super::{Heads, UNetConfig, unet};
use crate::{Result, StateDict};

/// A family of models: which text encoders condition it, how its latents are scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Stable Diffusion 1.x: CLIP-L, 768 wide.
    Sd15,
    /// Stable Diffusion 2.x: OpenCLIP-H, 1024 wide.
    Sd20,
    /// Stable Diffusion XL, and its smaller offspring (SSD-1B, Segmind Vega, KOALA): CLIP-L and OpenCLIP-bigG, 2048 wide.
    Sdxl,
    /// The refiner of Stable Diffusion XL: OpenCLIP-bigG, 1280 wide.
    SdxlRefiner,
}

/// What a model takes beside the noisy latent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Nothing.
    Base,
    /// A mask and the latent of the masked picture.
    Inpaint,
    /// The latent of the picture to edit.
    InstructPix2Pix,
}

/// What a model predicts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Prediction {
    /// The noise.
    Eps,
    /// The velocity, on the discrete noise levels of training.
    V {
        /// Whether the noise levels are to be rescaled to end without signal.
        zsnr: bool,
    },
    /// The velocity, on continuous noise levels.
    VContinuous {
        /// The lowest noise level; the reference's default is 0.002.
        sigma_min: f64,
        /// The highest noise level; the reference's default is 120.
        sigma_max: f64,
    },
    /// EDM's preconditioned prediction (Playground v2.5, whose latents are normalised as well): sigma data 0.5, levels 0.002 to 80.
    Edm,
}

/// A diffusion model: what it is, and how it is built.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Its family.
    pub family: Family,
    /// What it takes.
    pub variant: Variant,
    /// What it predicts.
    pub prediction: Prediction,
    /// The shape of its UNet.
    pub config: UNetConfig,
}

/// What the UNet with ldm names below `prefix` is. `None` if there is none; an error if it is one that cannot be used. Marker tensors
/// are looked for in the whole file.
pub fn detect(dict: &StateDict, prefix: &str) -> Result<Option<Model>> {
    let Some(mut config) = unet::unet_config(dict, prefix) else { return Ok(None) };
    if unet::is_video(dict, prefix) {
        return Err(dict.unknown("it is a video model (its UNet has blocks over time); choose a model for pictures"));
    }
    if dict.contains("cc_projection.weight") {
        return Err(dict.unknown("it is Stable Zero123, which is not supported; choose SD1.x, SD2.x or SDXL"));
    }
    let Some(family) = family(&config) else {
        return Err(dict.unknown(format!(
            "its UNet is of no known family (width {}, conditioning {} wide, vector conditioning {:?}, transformers {:?}); looked for \
             SD1.x, SD2.x, SDXL, its refiner and SDXL's smaller offspring",
            config.model_channels, config.context_dim, config.adm_in_channels, config.transformer_depth
        )));
    };
    config.heads = match family {
        Family::Sd15 => Heads::Count(8),
        Family::Sd20 | Family::Sdxl | Family::SdxlRefiner => Heads::Channels(64),
    };
    let prediction = match family {
        Family::Sd15 | Family::SdxlRefiner => Prediction::Eps,
        Family::Sd20 => sd20_prediction(dict, prefix, &config)?,
        Family::Sdxl => sdxl_prediction(dict)?,
    };
    Ok(Some(Model { family, variant: variant(family, &config), prediction, config }))
}

fn family(config: &UNetConfig) -> Option<Family> {
    let UNetConfig { model_channels, context_dim, use_linear_in_transformer, adm_in_channels, transformer_depth, .. } = config;
    match (model_channels, context_dim, use_linear_in_transformer, adm_in_channels, transformer_depth.as_slice()) {
        (320, 768, false, None, _) => Some(Family::Sd15),
        (320, 1024, true, None, _) => Some(Family::Sd20),
        (384, 1280, true, Some(2560), [0, 0, 4, 4, 4, 4, 0, 0]) => Some(Family::SdxlRefiner),
        (320, 2048, true, Some(2816), [0, 0, 2, 2, 10, 10] | [0, 0, 2, 2, 4, 4] | [0, 0, 1, 1, 2, 2] | [0, 2, 5] | [0, 2, 6]) => {
            Some(Family::Sdxl)
        }
        // No model in use is so narrow, but reduced ones for tests are: the shape of the rest tells what they stand for.
        (..256, _, false, None, _) => Some(Family::Sd15),
        (..256, _, true, None, _) if config.in_channels != 7 => Some(Family::Sd20),
        (..256, _, true, Some(_), [0, .., 0]) => Some(Family::SdxlRefiner),
        (..256, _, true, Some(_), [0, ..]) => Some(Family::Sdxl),
        _ => None,
    }
}

fn variant(family: Family, config: &UNetConfig) -> Variant {
    match (family, config.in_channels) {
        (Family::Sd15 | Family::Sdxl, 8) => Variant::InstructPix2Pix,
        (_, 5..) => Variant::Inpaint,
        _ => Variant::Base,
    }
}

/// Models trained on the velocity have a far wider spread of this bias than those trained on the noise. Inpainting ones are all of the
/// latter kind.
fn sd20_prediction(dict: &StateDict, prefix: &str, config: &UNetConfig) -> Result<Prediction> {
    let bias = dict.get(&format!("{prefix}output_blocks.11.1.transformer_blocks.0.norm1.bias"));
    let Some(bias) = bias.filter(|_| config.in_channels == 4) else { return Ok(Prediction::Eps) };
    let values = f64s(&bias.read()?)?;
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
    Ok(if variance.sqrt() > 0.09 { Prediction::V { zsnr: false } } else { Prediction::Eps })
}

fn sdxl_prediction(dict: &StateDict) -> Result<Prediction> {
    if dict.contains("edm_mean") && dict.contains("edm_std") {
        return Ok(Prediction::Edm);
    }
    let level = |name: &str| -> Result<Option<f64>> {
        let Some(tensor) = dict.get(name).filter(|tensor| tensor.size_bytes() <= 64) else { return Ok(None) };
        Ok(f64s(&tensor.read()?)?.first().copied())
    };
    if let Some(sigma_max) = level("edm_vpred.sigma_max")? {
        return Ok(Prediction::VContinuous { sigma_min: level("edm_vpred.sigma_min")?.unwrap_or(0.002), sigma_max });
    }
    if dict.contains("v_pred") {
        return Ok(Prediction::V { zsnr: dict.contains("ztsnr") });
    }
    Ok(Prediction::Eps)
}

fn f64s(tensor: &candle_core::Tensor) -> Result<Vec<f64>> {
    Ok(tensor.flatten_all()?.to_dtype(candle_core::DType::F64)?.to_vec1()?)
}
