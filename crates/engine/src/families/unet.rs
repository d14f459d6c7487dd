//! What the families of Stable Diffusion have in common: a UNet that its shape tells apart, and variants with more input channels.

use std::fmt;
use std::sync::Arc;

use candle_core::DType;
use comfyd_models::Vb;
use comfyd_models::backbone::Backbone;
use comfyd_models::text_encoding::TextStack;
use comfyd_models::unet::UNet;
use comfyd_weights::detect::UNetConfig;
use comfyd_weights::lora::{self, KeyMap};
use comfyd_weights::{EncoderPlace, StateDict, Unet};

use super::family::{Concat, Family, Found, ModelKind, Objective};
use crate::latent_spec::LatentSpec;
use crate::unclip::UnclipPlace;
use crate::{PictureSize, Result};

/// What a model takes beside the noisy latent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    /// Nothing.
    Base,
    /// A mask and the latent of the masked picture.
    Inpaint,
    /// The latent of the picture to edit.
    InstructPix2Pix,
}

/// See [`ModelKind::vector`]: of sizes, height, width, whether for the negative prompt.
type Numbers = fn(&PictureSize, f64, f64, bool) -> Vec<f64>;

/// A family whose denoiser is a UNet.
pub(super) struct UNetFamily {
    pub(super) name: &'static str,
    /// Whether a UNet of this shape is of the family.
    pub(super) is: fn(&UNetConfig) -> bool,
    /// Whether there are models that edit by instruction: those of eight channels.
    pub(super) edits: bool,
    pub(super) objective: fn(&Unet) -> Result<Objective>,
    pub(super) latents: fn(Objective) -> &'static LatentSpec,
    pub(super) vector: Option<Numbers>,
    /// Where a UNet of this shape takes embeddings of pictures.
    pub(super) unclip: fn(&UNetConfig) -> Option<UnclipPlace>,
    pub(super) text: TextStack,
    pub(super) encoders: &'static [EncoderPlace],
    /// What the metadata of saved files call a model, and one that edits.
    pub(super) architecture: Option<[&'static str; 2]>,
}

/// A UNet of a family.
struct UNetKind {
    family: &'static UNetFamily,
    config: UNetConfig,
    variant: Variant,
    objective: Objective,
}

impl Family for UNetFamily {
    fn name(&self) -> &'static str {
        self.name
    }

    fn detect(&'static self, _file: &StateDict, unet: Option<&Unet>) -> Result<Option<Found>> {
        let Some(unet) = unet.filter(|unet| (self.is)(&unet.config)) else { return Ok(None) };
        let variant = match unet.config.in_channels {
            8 if self.edits => Variant::InstructPix2Pix,
            5.. => Variant::Inpaint,
            _ => Variant::Base,
        };
        let kind = UNetKind { family: self, config: unet.config.clone(), variant, objective: (self.objective)(unet)? };
        Ok(Some(Found { kind: Arc::new(kind), weights: unet.weights.clone() }))
    }

    fn text(&self) -> TextStack {
        self.text
    }

    fn encoders(&self) -> &'static [EncoderPlace] {
        self.encoders
    }
}

impl ModelKind for UNetKind {
    fn family(&self) -> &'static dyn Family {
        self.family
    }

    fn objective(&self) -> Objective {
        self.objective
    }

    fn latents(&self) -> &'static LatentSpec {
        (self.family.latents)(self.objective)
    }

    fn concat(&self) -> Concat {
        match self.variant {
            Variant::Base => Concat::None,
            Variant::Inpaint => Concat::Inpaint,
            Variant::InstructPix2Pix => Concat::Image { scaled: matches!(self.objective, Objective::VContinuous { .. }) },
        }
    }

    fn vector(&self, size: &PictureSize, (height, width): (f64, f64), is_negative: bool) -> Option<Vec<f64>> {
        self.family.vector.map(|numbers| numbers(size, height, width, is_negative))
    }

    fn unclip(&self) -> Option<UnclipPlace> {
        (self.family.unclip)(&self.config)
    }

    fn backbone(&self, vb: &Vb) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(UNet::new(&self.config, vb)?))
    }

    fn unet(&self) -> Option<&UNetConfig> {
        Some(&self.config)
    }

    fn lora_keys(&self, weights: &StateDict) -> KeyMap {
        lora::unet_keys(weights, &self.config)
    }

    fn architecture(&self) -> Option<&'static str> {
        self.family.architecture.map(|[base, edit]| if self.variant == Variant::InstructPix2Pix { edit } else { base })
    }
}

impl fmt::Debug for UNetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {:?}", self.family.name, self.variant)
    }
}

/// Whether transformers stand in all blocks of a level but not in the last one's, which is the smallest: SD1.x, SD2.x and the refiner.
pub(super) fn ends_without_transformers(config: &UNetConfig) -> bool {
    config.transformer_depth.iter().any(|depth| *depth > 0) && config.transformer_depth.last() == Some(&0)
}

/// The widths of the first level, of the conditioning, and of the vector if there is one.
type Widths = (usize, usize, Option<usize>);

/// Whether the UNet has the widths of the family's own models, or else is narrower, as smaller ones made from them are, and has its blocks made
/// as theirs. A UNet of full width that differs in the others belongs to a family that is not known here.
pub(super) fn is_like(config: &UNetConfig, own: Widths, is_made_so: fn(&UNetConfig) -> bool) -> bool {
    let is_narrower = config.model_channels < own.0 && config.adm_in_channels.is_some() == own.2.is_some();
    (config.model_channels, config.context_dim, config.adm_in_channels) == own || (is_narrower && is_made_so(config))
}

/// A small tensor's values.
pub(super) fn values(tensor: &comfyd_weights::LazyTensor) -> Result<Vec<f64>> {
    Ok(tensor.read()?.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}
