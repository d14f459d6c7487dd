//! Stable Diffusion XL, and its smaller offspring (SSD-1B, Segmind Vega, KOALA): CLIP-L and OpenCLIP-bigG, 2048 wide.

use comfyd_models::text_encoding::TextStack;
use comfyd_weights::detect::UNetConfig;
use comfyd_weights::{EncoderKind, EncoderNames, EncoderPlace, Unet};

use super::family::{Objective, SIZE_EMBEDDING};
use super::unet::{UNetFamily, is_like, values};
use crate::Result;
use crate::latent_spec::{LatentSpec, Normal};
use crate::unclip::UnclipPlace;

/// Numbers that a model is told beside the pooled text.
const NUMBERS: usize = 6;

/// Embeddings of pictures are as wide as the pooled text, which is what is left of the vector beside the numbers.
pub(super) fn pooled(config: &UNetConfig, numbers: usize) -> Option<UnclipPlace> {
    config.adm_in_channels.and_then(|width| width.checked_sub(numbers * SIZE_EMBEDDING)).map(UnclipPlace::Pooled)
}

pub(super) const FAMILY: UNetFamily = UNetFamily {
    name: "SDXL",
    is: |config| config.use_linear_in_transformer && is_like(config, (320, 2048, Some(2816)), ends_with_transformers),
    edits: true,
    objective,
    latents: |objective| if objective == Objective::Edm { &PLAYGROUND_LATENTS } else { &LATENTS },
    vector: Some(|size, height, width, _| {
        let (crop_w, crop_h) = (size.crop_w.unwrap_or(0.0), size.crop_h.unwrap_or(0.0));
        vec![height, width, crop_h, crop_w, size.target_height.unwrap_or(height), size.target_width.unwrap_or(width)]
    }),
    unclip: |config| pooled(config, NUMBERS),
    text: TextStack::Sdxl,
    encoders: &[
        EncoderPlace {
            kind: EncoderKind::ClipL,
            names: EncoderNames::Transformers { position_ids: true },
            prefixes: &["conditioner.embedders.0.transformer."],
        },
        EncoderPlace { kind: EncoderKind::ClipG, names: EncoderNames::OpenClip, prefixes: &["conditioner.embedders.1.model."] },
    ],
    architecture: Some(["stable-diffusion-xl-v1-base", "stable-diffusion-xl-v1-edit"]),
};

/// Transformers begin after the first level and stand in the last.
fn ends_with_transformers(config: &UNetConfig) -> bool {
    let depths = &config.transformer_depth;
    depths.first() == Some(&0) && depths.last().is_some_and(|depth| *depth > 0)
}

/// Marker tensors tell.
fn objective(found: &Unet) -> Result<Objective> {
    let file = &found.file;
    if file.contains("edm_mean") && file.contains("edm_std") {
        return Ok(Objective::Edm);
    }
    let level = |name: &str| -> Result<Option<f64>> {
        let Some(tensor) = file.get(name).filter(|tensor| tensor.size_bytes() <= 64) else { return Ok(None) };
        Ok(values(tensor)?.first().copied())
    };
    if let Some(sigma_max) = level("edm_vpred.sigma_max")? {
        return Ok(Objective::VContinuous { sigma_min: level("edm_vpred.sigma_min")?.unwrap_or(0.002), sigma_max });
    }
    if file.contains("v_pred") {
        return Ok(Objective::V { zsnr: file.contains("ztsnr") });
    }
    Ok(Objective::Eps)
}

/// The latents of Stable Diffusion XL, base and refiner.
pub const LATENTS: LatentSpec = LatentSpec {
    scale: 0.13025,
    rgb_factors: &[[0.3651, 0.4232, 0.4341], [-0.2533, -0.0042, 0.1068], [0.1076, 0.1111, -0.0362], [-0.3165, -0.2492, -0.2188]],
    rgb_bias: [0.1084, -0.0175, -0.0011],
    taesd_decoder: "taesdxl_decoder",
    ..super::sd1::LATENTS
};

/// The latents of Playground 2.5, an SDXL with latents of its own.
pub const PLAYGROUND_LATENTS: LatentSpec = LatentSpec {
    scale: 0.5,
    normal: Some(Normal { mean: &[-1.6574, 1.886, -1.383, 2.5155], std: &[8.4927, 5.9022, 6.5498, 5.2299] }),
    rgb_factors: &[[0.3920, 0.4054, 0.4549], [-0.2634, -0.0196, 0.0653], [0.0568, 0.1687, -0.0755], [-0.3112, -0.2359, -0.2076]],
    rgb_bias: [0.0; 3],
    ..LATENTS
};
