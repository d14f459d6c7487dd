//! The engine: one device, the files that were opened, the models that are loaded.

use std::path::Path;
use std::sync::Arc;

use crate::{Clip, ClipKind, ControlNet, EngineOptions, Error, Model, Result, UpscaleModel, Vae};

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
}

impl Engine {
    /// An engine; fails if the device that the options name is not there.
    pub fn new(options: EngineOptions) -> Result<Self> {
        Ok(Self { inner: Arc::new(Inner { options }) })
    }

    /// The options.
    pub fn options(&self) -> &EngineOptions {
        &self.inner.options
    }

    /// The device's name for people and for `system_stats`: `cpu`, `cuda:0 NVIDIA …`.
    pub fn device_name(&self) -> String {
        "cpu".into()
    }

    /// The device's memory.
    pub fn memory(&self) -> Memory {
        Memory { total: 0, free: 0, held: 0 }
    }

    /// `/free`: unloads every model; with `free_memory` forgets opened files as well.
    pub fn free(&self, unload_models: bool, free_memory: bool) {
        let _ = (unload_models, free_memory);
    }

    /// CheckpointLoaderSimple.
    pub fn load_checkpoint(&self, path: &Path) -> Result<Checkpoint> {
        Err(Error::msg(format!("cannot load {} yet", path.display())))
    }

    /// UNETLoader. `dtype` is the widget's text (`default`, `fp8_e4m3fn`, …); weights are kept as they are stored.
    pub fn load_unet(&self, path: &Path, dtype: &str) -> Result<Model> {
        let _ = dtype;
        Err(Error::msg(format!("cannot load {} yet", path.display())))
    }

    /// CLIPLoader (one path) and DualCLIPLoader (two).
    pub fn load_clip(&self, paths: &[&Path], kind: ClipKind) -> Result<Clip> {
        let _ = kind;
        Err(Error::msg(format!("cannot load {paths:?} yet")))
    }

    /// VAELoader.
    pub fn load_vae(&self, path: &Path) -> Result<Vae> {
        Err(Error::msg(format!("cannot load {} yet", path.display())))
    }

    /// VAELoader's `taesd` and `taesdxl`: a tiny autoencoder from two files.
    pub fn load_taesd(&self, encoder: &Path, decoder: &Path) -> Result<Vae> {
        Err(Error::msg(format!("cannot load {} and {} yet", encoder.display(), decoder.display())))
    }

    /// ControlNetLoader; DiffControlNetLoader with the model whose weights are added to those in the file.
    pub fn load_controlnet(&self, path: &Path, model: Option<&Model>) -> Result<ControlNet> {
        let _ = model;
        Err(Error::msg(format!("cannot load {} yet", path.display())))
    }

    /// UpscaleModelLoader.
    pub fn load_upscale_model(&self, path: &Path) -> Result<UpscaleModel> {
        Err(Error::msg(format!("cannot load {} yet", path.display())))
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("options", &self.inner.options).finish_non_exhaustive()
    }
}
