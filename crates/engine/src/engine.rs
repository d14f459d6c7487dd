//! The engine: one device, the files that were opened, the models that are loaded.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use comfyd_node::Context;
use comfyd_weights::{EncoderKind, StateDict};

use crate::files::Files;
use crate::part::{Part, Weights};
use crate::precision::Precision;
use crate::residency::Residency;
use crate::{Clip, ControlNet, EngineOptions, LatentFormat, Model, Result, UpscaleModel, Vae, device};

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

/// Memory of the device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What there is.
    pub total: u64,
    /// What is free.
    pub free: u64,
    /// What loaded models take.
    pub held: u64,
}

/// Loads models and runs them. A cheap handle; clones share everything.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    options: EngineOptions,
    device: Device,
    residency: Residency,
    files: Files,
}

/// Of the device's memory, what models may take if the options say nothing.
const DEFAULT_BUDGET: f64 = 0.8;

impl Engine {
    /// An engine; fails if the device that the options name is not there.
    pub fn new(options: EngineOptions) -> Result<Self> {
        let device = device::open(options.device)?;
        let (total, _) = device::memory(&device);
        let budget = options.memory_budget_bytes.unwrap_or((total as f64 * DEFAULT_BUDGET) as u64);
        let of = device.clone();
        let residency = Residency::new(budget, move || device::memory(&of).1);
        Ok(Self { inner: Arc::new(Inner { options, device, residency, files: Files::default() }) })
    }

    /// The options.
    pub fn options(&self) -> &EngineOptions {
        &self.inner.options
    }

    pub(crate) fn device(&self) -> &Device {
        &self.inner.device
    }

    pub(crate) fn residency(&self) -> &Residency {
        &self.inner.residency
    }

    pub(crate) fn files(&self) -> &Files {
        &self.inner.files
    }

    /// The device's name for people and for `system_stats`: `cpu`, `cuda:0`.
    pub fn device_name(&self) -> String {
        device::name(&self.inner.device)
    }

    /// The device's memory.
    pub fn memory(&self) -> Memory {
        let (total, free) = device::memory(&self.inner.device);
        Memory { total, free, held: self.inner.residency.held_bytes() }
    }

    /// `/free`: unloads every model; with `free_memory` forgets opened files as well.
    pub fn free(&self, unload_models: bool, free_memory: bool) {
        if unload_models || free_memory {
            self.inner.residency.clear();
        }
        if free_memory {
            self.inner.files.clear();
        }
    }

    /// CheckpointLoaderSimple.
    pub fn load_checkpoint(&self, path: &Path) -> Result<Checkpoint> {
        self.inner.files.get("checkpoint", &[path], || {
            let parts = comfyd_weights::Checkpoint::split(&StateDict::open(path)?)?;
            let clip = match parts.clips.is_empty() {
                true => None,
                false => Some(self.clip_of(parts.clips)?),
            };
            // The others are of use without it; nodes that need it say that there is none.
            let vae = parts.vae.and_then(|weights| {
                let vae = Vae::new(self, weights);
                vae.inspect_err(|error| tracing::warn!("{}: its autoencoder is left out: {error}", path.display())).ok()
            });
            Ok(Checkpoint { model: Model::new(self, &parts.unet, Precision::Stored)?, clip, vae })
        })
    }

    /// UNETLoader. `dtype` is the widget's text: `default` keeps weights as they are stored, `fp8_e4m3fn`, `fp8_e4m3fn_fast` and
    /// `fp8_e5m2` round them to eight bits.
    pub fn load_unet(&self, path: &Path, dtype: &str) -> Result<Model> {
        let precision = Precision::of_widget(dtype)?;
        let kind = match precision {
            Precision::Stored => "unet",
            Precision::Half => "unet in half precision",
            Precision::Fp8E4m3 => "unet in e4m3",
            Precision::Fp8E5m2 => "unet in e5m2",
        };
        self.inner.files.get(kind, &[path], || Model::new(self, &comfyd_weights::Unet::find(&StateDict::open(path)?)?, precision))
    }

    /// CLIPLoader (one path) and DualCLIPLoader (two). Which encoders they are, and the family that they belong to, is told from the files.
    pub fn load_clip(&self, paths: &[&Path]) -> Result<Clip> {
        self.inner.files.get("clip", paths, || {
            let parts = paths.iter().map(|path| Ok(comfyd_weights::convert::clip::standalone(&StateDict::open(path)?)?));
            self.clip_of(parts.collect::<Result<_>>()?)
        })
    }

    fn clip_of(&self, mut parts: Vec<(EncoderKind, StateDict)>) -> Result<Clip> {
        parts.sort_by_key(|(kind, _)| matches!(kind, EncoderKind::ClipG));
        let kinds: Vec<EncoderKind> = parts.iter().map(|(kind, _)| *kind).collect();
        let family = Clip::family_of(&kinds)?;
        // The reference keeps text encoders in half precision.
        let weights = |dict| Weights::new(Part::new(dict, self.inner.device.clone(), Precision::Half));
        Ok(Clip::new(self, family, parts.into_iter().map(|(kind, dict)| (kind, weights(dict))).collect()))
    }

    /// VAELoader.
    pub fn load_vae(&self, path: &Path) -> Result<Vae> {
        self.inner.files.get("vae", &[path], || {
            let dict = StateDict::open(path)?;
            let prefix = if dict.has_prefix("first_stage_model.") { "first_stage_model." } else { "" };
            Vae::new(self, comfyd_weights::convert::vae::from_any(&dict, prefix))
        })
    }

    /// VAELoader's `pixel_space`: latents are the pixels themselves.
    pub fn pixel_space_vae(&self) -> Vae {
        Vae::pixel_space(self)
    }

    /// VAELoader's `taesd` (`format` is [`LatentFormat::Sd15`]) and `taesdxl` ([`LatentFormat::Sdxl`]): a tiny autoencoder from two files.
    pub fn load_taesd(&self, format: LatentFormat, encoder: &Path, decoder: &Path) -> Result<Vae> {
        self.inner.files.get("taesd", &[encoder, decoder], || {
            let mut dict = StateDict::open(encoder)?.with_prefix("", "taesd_encoder.");
            for (name, tensor) in StateDict::open(decoder)?.with_prefix("", "taesd_decoder.").iter() {
                dict.insert(name, tensor.clone());
            }
            // The files do not tell by how much latents on links differ from the model's.
            dict.insert("vae_scale", Tensor::new(format.scale(), &Device::Cpu)?);
            dict.insert("vae_shift", Tensor::new(0f32, &Device::Cpu)?);
            Vae::new(self, dict)
        })
    }

    /// ControlNetLoader; DiffControlNetLoader with the model whose weights are added to those in the file.
    pub fn load_controlnet(&self, path: &Path, model: Option<&Model>) -> Result<ControlNet> {
        let open = || ControlNet::open(self, path, model);
        match model {
            // What it gets depends on the model.
            Some(_) => open().map_err(|error| error.in_file(path)),
            None => self.inner.files.get("controlnet", &[path], open),
        }
    }

    /// UpscaleModelLoader.
    pub fn load_upscale_model(&self, path: &Path) -> Result<UpscaleModel> {
        self.inner.files.get("upscale", &[path], || UpscaleModel::new(self, StateDict::open(path)?))
    }
}

/// Fails once the prompt was interrupted; for models, between their blocks.
pub(crate) fn cancel_check<'a>(cx: &'a Context<'_>) -> impl Fn() -> comfyd_models::Result<()> + 'a {
    let token = cx.cancel_token();
    move || if token.is_cancelled() { Err(comfyd_models::Error::Interrupted) } else { Ok(()) }
}

/// Reports tiles that are done.
pub(crate) fn tile_progress<'a>(cx: &'a Context<'_>) -> impl FnMut(usize, usize) -> comfyd_models::Result<()> + 'a {
    move |done, all| cx.progress(done as f64, all as f64).map_err(|_| comfyd_models::Error::Interrupted)
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("options", &self.inner.options).finish_non_exhaustive()
    }
}
