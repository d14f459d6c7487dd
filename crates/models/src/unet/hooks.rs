//! The hooks that ComfyUI's patches of a UNet need. Where hooks are called is `backbone`'s business.

mod downscale;
mod freeu;
mod guidance;
mod hypertile;
mod tome;

pub use self::downscale::Downscale;
pub use self::freeu::{FreeU, Version as FreeUVersion};
pub use self::guidance::{AttentionScores, PerturbedAttention};
pub use self::hypertile::HyperTile;
pub use self::tome::TokenMerging;
