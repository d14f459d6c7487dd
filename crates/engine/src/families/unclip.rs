//! Stable Diffusion 2.1 unCLIP: Stable Diffusion 2 with a picture's embedding in its vector.

use super::sd2;
use super::unet::{UNetFamily, ends_without_transformers, is_like};
use crate::unclip::UnclipPlace;

/// The widths of the vectors of the two that there are: an embedding of ViT-L or ViT-H, and how much noise it has.
const VECTORS: [usize; 2] = [2 * 768, 2 * 1024];

pub(super) const FAMILY: UNetFamily = UNetFamily {
    name: "SD2.1 unCLIP",
    is: |config| {
        config.use_linear_in_transformer
            && config.transformer_depth.first().is_some_and(|depth| *depth > 0)
            && VECTORS.iter().any(|width| is_like(config, (320, 1024, Some(*width)), ends_without_transformers))
    },
    unclip: |config| config.adm_in_channels.map(|width| UnclipPlace::Vector(width / 2)),
    architecture: None,
    ..sd2::FAMILY
};
