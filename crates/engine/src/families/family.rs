//! What is asked of a family of models, and of a denoiser of one. Which families there are is not known here.

use std::fmt;
use std::sync::Arc;

use comfyd_models::Vb;
use comfyd_models::backbone::Backbone;
use comfyd_models::text_encoding::TextStack;
use comfyd_samplers::schedule::{Continuous, ContinuousSettings, Discrete, DiscreteSettings};
use comfyd_samplers::{Prediction, Schedule};
use comfyd_weights::detect::UNetConfig;
use comfyd_weights::lora::KeyMap;
use comfyd_weights::{EncoderPlace, StateDict, Unet};

use crate::latent_spec::LatentSpec;
use crate::unclip::UnclipPlace;
use crate::{PictureSize, Result};

/// The width of the sinusoidal embedding of each number that a model is told beside the pooled text.
pub(crate) const SIZE_EMBEDDING: usize = 256;

/// A family of models.
pub(crate) trait Family: Sync {
    /// For people.
    fn name(&self) -> &'static str;

    /// The denoiser of a file if it is of this family. `unet` is the one that the file holds, if it is one.
    fn detect(&'static self, file: &StateDict, unet: Option<&Unet>) -> Result<Option<Found>>;

    /// How its text encoders work together.
    fn text(&self) -> TextStack;

    /// Where its checkpoints keep them.
    fn encoders(&self) -> &'static [EncoderPlace];
}

/// A file's denoiser.
pub(crate) struct Found {
    pub(crate) kind: Arc<dyn ModelKind>,
    /// Its weights, under the names with which it is built.
    pub(crate) weights: StateDict,
}

/// A denoiser of a family, as its file tells.
pub(crate) trait ModelKind: fmt::Debug + Send + Sync {
    /// Its family.
    fn family(&self) -> &'static dyn Family;

    /// What it was trained to predict, and on which noise levels.
    fn objective(&self) -> Objective;

    /// Its latents.
    fn latents(&self) -> &'static LatentSpec;

    /// What it gets beside the latent's channels.
    fn concat(&self) -> Concat;

    /// The numbers that it is told beside the pooled text, of a picture of this height and width; `None` if it takes neither.
    fn vector(&self, size: &PictureSize, picture: (f64, f64), is_negative: bool) -> Option<Vec<f64>>;

    /// Where it takes embeddings of pictures.
    fn unclip(&self) -> Option<UnclipPlace>;

    /// Builds it.
    fn backbone(&self, vb: &Vb) -> Result<Box<dyn Backbone>>;

    /// The shape of its UNet, whose encoder control-LoRAs turn into a ControlNet; `None` if it is none.
    fn unet(&self) -> Option<&UNetConfig>;

    /// The names that LoRA files have for its weights.
    fn lora_keys(&self, weights: &StateDict) -> KeyMap;

    /// What the metadata of saved files call it; `None` where the reference says nothing.
    fn architecture(&self) -> Option<&'static str>;
}

/// What a model gets beside the latent's channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Concat {
    None,
    /// The mask, and the masked picture's latent.
    Inpaint,
    /// The latent of the picture to edit; scaled as the model's own latents or not.
    Image {
        scaled: bool,
    },
}

/// What a model was trained to predict.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Objective {
    /// The noise.
    Eps,
    /// The velocity, on the discrete noise levels of training.
    V {
        /// Whether the noise levels are to be rescaled to end without signal.
        zsnr: bool,
    },
    /// The velocity, on continuous noise levels.
    VContinuous {
        /// The lowest noise level; the reference's default is 0.002.
        sigma_min: f64,
        /// The highest noise level; the reference's default is 120.
        sigma_max: f64,
    },
    /// EDM's preconditioned prediction (Playground v2.5, whose latents are normalised as well): sigma data 0.5, levels 0.002 to 80.
    Edm,
}

impl Objective {
    /// The noise levels of the training.
    pub(crate) fn schedule(self) -> Result<Arc<dyn Schedule>> {
        let discrete = |prediction, zsnr| Discrete::new(&DiscreteSettings { prediction, zsnr, ..DiscreteSettings::default() });
        Ok(match self {
            Self::Eps => Arc::new(discrete(Prediction::Eps, false)?),
            Self::V { zsnr } => Arc::new(discrete(Prediction::V, zsnr)?),
            Self::VContinuous { sigma_min, sigma_max } => {
                Arc::new(Continuous::edm(&ContinuousSettings { prediction: Prediction::V, sigma_min, sigma_max, sigma_data: 1.0 })?)
            }
            Self::Edm => {
                let (sigma_min, sigma_max) = (0.002, 80.0);
                Arc::new(Continuous::edm(&ContinuousSettings { prediction: Prediction::Edm, sigma_min, sigma_max, sigma_data: 0.5 })?)
            }
        })
    }
}
