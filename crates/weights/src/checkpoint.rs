//! A checkpoint's parts: the UNet, the text encoders, the autoencoder, each under its canonical names.

use crate::convert::{EncoderKind, clip, unet, vae};
use crate::detect::{self, Family, Model, UNetConfig};
use crate::error::Result;
use crate::state_dict::StateDict;

/// A diffusion model's weights and what they are.
#[derive(Debug, Clone)]
pub struct Unet {
    /// The weights, under ldm's names without a prefix.
    pub weights: StateDict,
    /// What they are.
    pub model: Model,
}

impl Unet {
    /// Its family.
    pub fn family(&self) -> Family {
        self.model.family
    }

    /// Its shape.
    pub fn config(&self) -> &UNetConfig {
        &self.model.config
    }

    /// The diffusion model of a file: of a checkpoint, or alone with ldm's or diffusers' names.
    pub fn find(dict: &StateDict) -> Result<Self> {
        let prefix = detect::unet_prefix(dict);
        if let Some(model) = detect::detect(dict, prefix)? {
            return Ok(Self { weights: dict.with_prefix(prefix, ""), model });
        }
        for prefix in ["", "unet.", "model.", "diffusion_model."] {
            let inner = dict.with_prefix(prefix, "");
            if let Some(model) = detect::detect(&inner, "")? {
                return Ok(Self { weights: inner, model });
            }
            if let Some(weights) = unet::from_diffusers(&inner)
                && let Some(model) = detect::detect(&weights, "")?
            {
                return Ok(Self { weights, model });
            }
        }
        Err(dict.unknown(
            "it has no diffusion model that is known; looked for the UNets of SD1.x, SD2.x and SDXL with ldm's names \
             (input_blocks.0.0.weight, also below model.diffusion_model.) and diffusers' (conv_in.weight, down_blocks.0.)",
        ))
    }
}

/// The parts of a checkpoint.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The diffusion model.
    pub unet: Unet,
    /// Its text encoders, under transformers' names; none if the file has none.
    pub clips: Vec<(EncoderKind, StateDict)>,
    /// The autoencoder, under ldm's names.
    pub vae: Option<StateDict>,
}

impl Checkpoint {
    /// Splits a file. One that holds only a diffusion model is a checkpoint without the rest.
    pub fn split(dict: &StateDict) -> Result<Self> {
        let unet = Unet::find(dict)?;
        let clips = match unet.family() {
            Family::Sd15 => vec![(EncoderKind::ClipL, clip::from_transformers(dict, "cond_stage_model.transformer."))],
            Family::Sd20 => vec![(EncoderKind::ClipH, first(dict, &["cond_stage_model.model.", "conditioner.embedders.0.model."]))],
            Family::SdxlRefiner => vec![(EncoderKind::ClipG, first(dict, &["conditioner.embedders.0.model."]))],
            Family::Sdxl => vec![
                (EncoderKind::ClipL, clip::from_transformers(dict, "conditioner.embedders.0.transformer.")),
                (EncoderKind::ClipG, first(dict, &["conditioner.embedders.1.model."])),
            ],
        };
        let clips = if clips.iter().all(|(_, weights)| weights.is_empty()) { Vec::new() } else { clips };
        let vae = vae::from_any(dict, "first_stage_model.");
        Ok(Self { unet, clips, vae: (!vae.is_empty()).then_some(vae) })
    }
}

/// The encoder with OpenCLIP's names below the first of these prefixes that has one.
fn first(dict: &StateDict, prefixes: &[&str]) -> StateDict {
    let found = prefixes.iter().map(|prefix| clip::from_open_clip(dict, prefix)).find(|weights| !weights.is_empty());
    found.unwrap_or_else(|| dict.empty_like())
}
