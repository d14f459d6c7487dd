//! Stable Diffusion 2.x: OpenCLIP-H, 1024 wide.

use comfyd_models::text_encoding::TextStack;
use comfyd_weights::{EncoderKind, EncoderNames, EncoderPlace, Unet};

use super::family::Objective;
use super::sd1;
use super::unet::{UNetFamily, ends_without_transformers, is_like, values};
use crate::Result;

pub(super) const FAMILY: UNetFamily = UNetFamily {
    name: "SD2.x",
    is: |config| config.use_linear_in_transformer && is_like(config, (320, 1024, None), ends_without_transformers),
    edits: false,
    objective,
    latents: |_| &sd1::LATENTS,
    vector: None,
    unclip: |_| None,
    text: TextStack::Sd2,
    encoders: &[EncoderPlace {
        kind: EncoderKind::ClipH,
        names: EncoderNames::OpenClip,
        prefixes: &["cond_stage_model.model.", "conditioner.embedders.0.model."],
    }],
    architecture: None,
};

/// Models trained on the velocity have a far wider spread of this bias than those trained on the noise. Inpainting ones are all of the
/// latter kind.
fn objective(found: &Unet) -> Result<Objective> {
    let bias = found.weights.get("output_blocks.11.1.transformer_blocks.0.norm1.bias");
    let Some(bias) = bias.filter(|_| found.config.in_channels == sd1::LATENTS.channels) else { return Ok(Objective::Eps) };
    let values = values(bias)?;
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
    Ok(if variance.sqrt() > 0.09 { Objective::V { zsnr: false } } else { Objective::Eps })
}
