//! A checkpoint's parts: the UNet and the text encoders, each under its canonical names. Which family they are of is not known here.

use crate::convert::{EncoderKind, clip, unet};
use crate::detect::{self, UNetConfig};
use crate::error::Result;
use crate::state_dict::StateDict;

/// A diffusion model's weights and their shape.
#[derive(Debug, Clone)]
pub struct Unet {
    /// The weights, under ldm's names without a prefix.
    pub weights: StateDict,
    /// Their shape.
    pub config: UNetConfig,
    /// Where they were found, marker tensors that tell their kind beside them.
    pub file: StateDict,
}

impl Unet {
    /// The diffusion model of a file: of a checkpoint, or alone with ldm's or diffusers' names.
    ///
    /// # Errors
    /// If there is none, or one that cannot be used.
    pub fn find(dict: &StateDict) -> Result<Self> {
        let prefix = detect::unet_prefix(dict);
        if let Some(found) = Self::below(dict, prefix)? {
            return Ok(found);
        }
        for prefix in ["", "unet.", "model.", "diffusion_model."] {
            let inner = dict.with_prefix(prefix, "");
            if let Some(found) = Self::below(&inner, "")? {
                return Ok(found);
            }
            if let Some(weights) = unet::from_diffusers(&inner)
                && let Some(found) = Self::below(&weights, "")?
            {
                return Ok(found);
            }
        }
        Err(dict.unknown(
            "it has no diffusion model that is known; looked for the UNets of SD1.x, SD2.x and SDXL with ldm's names \
             (input_blocks.0.0.weight, also below model.diffusion_model.) and diffusers' (conv_in.weight, down_blocks.0.)",
        ))
    }

    /// The one with ldm's names below a prefix, if there is one.
    fn below(dict: &StateDict, prefix: &str) -> Result<Option<Self>> {
        let Some(config) = detect::unet_config(dict, prefix) else { return Ok(None) };
        if detect::is_video(dict, prefix) {
            return Err(dict.unknown("it is a video model (its UNet has blocks over time); choose a model for pictures"));
        }
        if dict.contains("cc_projection.weight") {
            return Err(dict.unknown("it is Stable Zero123, which is not supported; choose SD1.x, SD2.x or SDXL"));
        }
        Ok(Some(Self { weights: dict.with_prefix(prefix, ""), config, file: dict.clone() }))
    }
}

/// Where checkpoints of a family keep one of their text encoders.
#[derive(Debug, Clone, Copy)]
pub struct EncoderPlace {
    /// Which one it is.
    pub kind: EncoderKind,
    /// Whose names its tensors have.
    pub names: EncoderNames,
    /// What may stand before them; the first when they are saved.
    pub prefixes: &'static [&'static str],
}

/// Whose names a text encoder's tensors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncoderNames {
    /// Those of transformers.
    Transformers {
        /// Whether the numbers of positions are saved with them.
        position_ids: bool,
    },
    /// Those of OpenCLIP.
    OpenClip,
}

impl EncoderPlace {
    /// The encoder in a checkpoint, under transformers' names; empty if there is none.
    pub fn read(&self, dict: &StateDict) -> StateDict {
        let below = |prefix: &&str| match self.names {
            EncoderNames::Transformers { .. } => clip::from_transformers(dict, prefix),
            EncoderNames::OpenClip => clip::from_open_clip(dict, prefix),
        };
        self.prefixes.iter().map(below).find(|weights| !weights.is_empty()).unwrap_or_else(|| dict.empty_like())
    }
}
