//! The refiner of Stable Diffusion XL: OpenCLIP-bigG, 1280 wide.

use comfyd_models::text_encoding::TextStack;
use comfyd_weights::detect::UNetConfig;
use comfyd_weights::{EncoderKind, EncoderNames, EncoderPlace};

use super::family::Objective;
use super::sdxl::{self, pooled};
use super::unet::{UNetFamily, ends_without_transformers, is_like};

/// The aesthetic scores of the prompt and of the negative prompt, unless a condition has its own.
const SCORES: [f64; 2] = [6.0, 2.5];

/// Numbers that it is told beside the pooled text.
const NUMBERS: usize = 5;

pub(super) const FAMILY: UNetFamily = UNetFamily {
    name: "SDXL's refiner",
    is: |config| config.use_linear_in_transformer && is_like(config, (384, 1280, Some(2560)), has_transformers_between),
    edits: false,
    objective: |_| Ok(Objective::Eps),
    latents: |_| &sdxl::LATENTS,
    vector: Some(|size, height, width, is_negative| {
        let score = size.aesthetic_score.unwrap_or(SCORES[usize::from(is_negative)]);
        vec![height, width, size.crop_h.unwrap_or(0.0), size.crop_w.unwrap_or(0.0), score]
    }),
    unclip: |config| pooled(config, NUMBERS),
    text: TextStack::SdxlRefiner,
    encoders: &[EncoderPlace { kind: EncoderKind::ClipG, names: EncoderNames::OpenClip, prefixes: &["conditioner.embedders.0.model."] }],
    architecture: Some(["stable-diffusion-xl-v1-refiner"; 2]),
};

/// Transformers stand between the first level and the last.
fn has_transformers_between(config: &UNetConfig) -> bool {
    config.transformer_depth.first() == Some(&0) && ends_without_transformers(config)
}
