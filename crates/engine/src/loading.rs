//! From files to models: what the loader nodes ask the engine for.

use std::path::Path;

use candle_core::{Device, Tensor};
use comfyd_weights::{EncoderKind, StateDict, convert};

use crate::part::{Part, Weights};
use crate::precision::Precision;
use crate::{Clip, ClipVision, ControlNet, Engine, Gligen, HookGroup, LatentSpec, Model, Result, StyleModel, UpscaleModel, Vae, families};

/// What a checkpoint file holds.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The denoiser.
    pub model: Model,
    /// The text encoders, if they are in it.
    pub clip: Option<Clip>,
    /// The autoencoder, if it is in it.
    pub vae: Option<Vae>,
}

impl Checkpoint {
    /// The difference to its models as a hook (CreateHookModelAsLora).
    pub fn as_hook(&self, strength_model: f64, strength_clip: f64) -> HookGroup {
        let encoders = self.clip.as_ref().map(|clip| clip.parts.as_ref().clone()).unwrap_or_default();
        HookGroup::weights(self.model.weights.clone(), encoders, strength_model, strength_clip)
    }
}

impl Engine {
    /// CheckpointLoaderSimple.
    pub fn load_checkpoint(&self, path: &Path) -> Result<Checkpoint> {
        self.files().get("checkpoint", &[path], || {
            let dict = StateDict::open(path)?;
            let found = families::find(&dict)?;
            let places = found.kind.family().encoders().iter();
            let encoders: Vec<(EncoderKind, StateDict)> = places.map(|place| (place.kind, place.read(&dict))).collect();
            let clip = match encoders.iter().all(|(_, weights)| weights.is_empty()) {
                true => None,
                false => Some(self.clip_of(encoders)?),
            };
            // The others are of use without it; nodes that need it say that there is none.
            let vae = Some(convert::vae::from_any(&dict, "first_stage_model.")).filter(|weights| !weights.is_empty()).and_then(|weights| {
                let vae = Vae::new(self, weights);
                vae.inspect_err(|error| tracing::warn!("{}: its autoencoder is left out: {error}", path.display())).ok()
            });
            Ok(Checkpoint { model: Model::new(self, found, Precision::Stored)?, clip, vae })
        })
    }

    /// UNETLoader. `dtype` is the widget's text: `default` keeps weights as they are stored, `fp8_e4m3fn`, `fp8_e4m3fn_fast` and
    /// `fp8_e5m2` round them to eight bits.
    pub fn load_unet(&self, path: &Path, dtype: &str) -> Result<Model> {
        let precision = Precision::of_widget(dtype)?;
        let kind = match precision {
            Precision::Stored => "unet",
            Precision::Half => "unet in half precision",
            Precision::Single => "unet in single precision",
            Precision::Fp8E4m3 => "unet in e4m3",
            Precision::Fp8E5m2 => "unet in e5m2",
        };
        self.files().get(kind, &[path], || Model::new(self, families::find(&StateDict::open(path)?)?, precision))
    }

    /// CLIPLoader (one path) and DualCLIPLoader (two). Which encoders they are, and the family that they belong to, is told from the files.
    pub fn load_clip(&self, paths: &[&Path]) -> Result<Clip> {
        self.files().get("clip", paths, || {
            let parts = paths.iter().map(|path| Ok(convert::clip::standalone(&StateDict::open(path)?)?));
            self.clip_of(parts.collect::<Result<_>>()?)
        })
    }

    fn clip_of(&self, mut parts: Vec<(EncoderKind, StateDict)>) -> Result<Clip> {
        parts.sort_by_key(|(kind, _)| matches!(kind, EncoderKind::ClipG));
        let kinds: Vec<EncoderKind> = parts.iter().map(|(kind, _)| *kind).collect();
        let stack = families::text_stack(&kinds)?;
        // The reference keeps text encoders in half precision.
        let weights = |dict| Weights::new(Part::new(dict, self.device().clone(), Precision::Half));
        Ok(Clip::new(self, stack, parts.into_iter().map(|(kind, dict)| (kind, weights(dict))).collect()))
    }

    /// VAELoader.
    pub fn load_vae(&self, path: &Path) -> Result<Vae> {
        self.files().get("vae", &[path], || {
            let dict = StateDict::open(path)?;
            let prefix = if dict.has_prefix("first_stage_model.") { "first_stage_model." } else { "" };
            Vae::new(self, convert::vae::from_any(&dict, prefix))
        })
    }

    /// VAELoader's `pixel_space`: latents are the pixels themselves.
    pub fn pixel_space_vae(&self) -> Vae {
        Vae::pixel_space(self)
    }

    /// VAELoader's `taesd` (`latents` are [`crate::SD_LATENTS`]) and `taesdxl` ([`crate::SDXL_LATENTS`]): a tiny autoencoder from two files.
    pub fn load_taesd(&self, latents: &LatentSpec, encoder: &Path, decoder: &Path) -> Result<Vae> {
        self.files().get("taesd", &[encoder, decoder], || {
            let mut dict = StateDict::open(encoder)?.with_prefix("", "taesd_encoder.");
            for (name, tensor) in StateDict::open(decoder)?.with_prefix("", "taesd_decoder.").iter() {
                dict.insert(name, tensor.clone());
            }
            // The files do not tell by how much latents on links differ from the model's.
            dict.insert("vae_scale", Tensor::new(latents.scale, &Device::Cpu)?);
            dict.insert("vae_shift", Tensor::new(0f32, &Device::Cpu)?);
            Vae::new(self, dict)
        })
    }

    /// CLIPVisionLoader.
    pub fn load_clip_vision(&self, path: &Path) -> Result<ClipVision> {
        self.files().get("clip vision", &[path], || ClipVision::new(self, convert::vision::standalone(&StateDict::open(path)?)))
    }

    /// unCLIPCheckpointLoader: a checkpoint and its vision encoder, if it has one.
    pub fn load_unclip_checkpoint(&self, path: &Path) -> Result<(Checkpoint, Option<ClipVision>)> {
        let vision = self.files().get("vision encoder of a checkpoint", &[path], || {
            let weights = convert::vision::of_checkpoint(&StateDict::open(path)?);
            if weights.is_empty() { Ok(None) } else { ClipVision::new(self, weights).map(Some) }
        })?;
        Ok((self.load_checkpoint(path)?, vision))
    }

    /// GLIGENLoader.
    pub fn load_gligen(&self, path: &Path) -> Result<Gligen> {
        self.files().get("gligen", &[path], || Gligen::new(self, StateDict::open(path)?))
    }

    /// StyleModelLoader.
    pub fn load_style_model(&self, path: &Path) -> Result<StyleModel> {
        self.files().get("style model", &[path], || StyleModel::new(self, StateDict::open(path)?))
    }

    /// ControlNetLoader; DiffControlNetLoader with the model whose weights are added to those in the file.
    pub fn load_controlnet(&self, path: &Path, model: Option<&Model>) -> Result<ControlNet> {
        let open = || ControlNet::open(self, path, model.map(|model| &model.weights));
        match model {
            // What it gets depends on the model.
            Some(_) => open().map_err(|error| error.in_file(path)),
            None => self.files().get("controlnet", &[path], open),
        }
    }

    /// UpscaleModelLoader.
    pub fn load_upscale_model(&self, path: &Path) -> Result<UpscaleModel> {
        self.files().get("upscale", &[path], || UpscaleModel::new(self, StateDict::open(path)?))
    }
}
