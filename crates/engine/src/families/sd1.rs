//! Stable Diffusion 1.x: CLIP-L, 768 wide.

use comfyd_models::text_encoding::TextStack;
use comfyd_weights::{EncoderKind, EncoderNames, EncoderPlace};

use super::family::Objective;
use super::unet::{UNetFamily, ends_without_transformers, is_like};
use crate::latent_spec::LatentSpec;

pub(super) const FAMILY: UNetFamily = UNetFamily {
    name: "SD1.x",
    is: |config| !config.use_linear_in_transformer && is_like(config, (320, 768, None), ends_without_transformers),
    edits: true,
    objective: |_| Ok(Objective::Eps),
    latents: |_| &LATENTS,
    vector: None,
    unclip: |_| None,
    text: TextStack::Sd1,
    encoders: &[EncoderPlace {
        kind: EncoderKind::ClipL,
        names: EncoderNames::Transformers { position_ids: false },
        prefixes: &["cond_stage_model.transformer."],
    }],
    architecture: None,
};

/// The latents of Stable Diffusion 1.x and 2.x.
pub const LATENTS: LatentSpec = LatentSpec {
    channels: 4,
    axes: 4,
    factor: 8,
    scale: 0.18215,
    normal: None,
    rgb_factors: &[[0.3512, 0.2297, 0.3227], [0.3250, 0.4974, 0.2350], [-0.2829, 0.1762, 0.2721], [-0.2120, -0.2616, -0.7177]],
    rgb_bias: [0.0; 3],
    black: &[0.8223, -0.6876, 0.6364, 0.1380],
    taesd_decoder: "taesd_decoder",
};
