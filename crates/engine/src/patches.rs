//! Patches of how a model is used, one file for each; nodes may have further ones of their own.

mod apg;
mod cfg_norm;
mod cfg_override;
mod cfg_zero_star;
mod contract;
mod differential;
mod epsilon;
mod fresca;
mod mahiro;
mod over_batch;
mod perp_neg;
mod perturbed_attention;
mod renorm;
mod rescale;
mod self_attention;
mod tangential;

pub use self::apg::Apg;
pub use self::cfg_norm::CfgNorm;
pub use self::cfg_override::CfgOverride;
pub use self::cfg_zero_star::CfgZeroStar;
pub(crate) use self::contract::Passes;
pub use self::contract::{Call, Hooked, ModelPatch, Sampling, Side};
pub use self::differential::DifferentialDiffusion;
pub use self::epsilon::EpsilonScaling;
pub use self::fresca::FreSca;
pub use self::mahiro::Mahiro;
pub use self::over_batch::CfgOverBatch;
pub use self::perp_neg::PerpNeg;
pub(crate) use self::perp_neg::perpendicular;
pub use self::perturbed_attention::PerturbedAttentionGuidance;
pub use self::renorm::RenormCfg;
pub use self::rescale::RescaleCfg;
pub use self::self_attention::SelfAttentionGuidance;
pub use self::tangential::TangentialDamping;
