//! LoRA files as patches of a model's weights. The adapters themselves are `weights`' business.

use std::path::Path;
use std::sync::Arc;

use comfyd_weights::lora::{self, Adapter, KeyMap, Lora};
use comfyd_weights::{EncoderKind, StateDict};

use crate::families::ModelKind;
use crate::part::{Patch, PatchKind, Weights};
use crate::{Engine, Error, Result};

/// A denoiser's weights with a file's patches at a strength.
pub(crate) fn on_denoiser(engine: &Engine, path: &Path, kind: &dyn ModelKind, weights: &Weights, strength: f64) -> Result<Weights> {
    if strength == 0.0 {
        return Ok(weights.clone());
    }
    let file = open(engine, path)?;
    let lora = load(&file, &kind.lora_keys(&weights.part.weights), path)?;
    if lora.adapters.is_empty() {
        tracing::warn!("{}: none of its {} names is of this model, which stays as it is", path.display(), file.len());
    }
    Ok(weights.with_patches(lora.adapters.into_iter().map(|(name, adapter)| patch(name, adapter, strength))))
}

/// Text encoders with a file's patches at a strength.
pub(crate) fn on_encoders(
    engine: &Engine,
    path: &Path,
    parts: &[(EncoderKind, Weights)],
    strength: f64,
) -> Result<Vec<(EncoderKind, Weights)>> {
    if strength == 0.0 {
        return Ok(parts.to_vec());
    }
    let file = open(engine, path)?;
    let encoders: Vec<(EncoderKind, StateDict)> = parts.iter().map(|(kind, weights)| (*kind, weights.part.weights.clone())).collect();
    let lora = load(&file, &lora::clip_keys(&encoders), path)?;
    let patched = |(kind, weights): &(EncoderKind, Weights)| {
        let adapters = lora.adapters.iter().filter_map(|(target, adapter)| {
            let name = target.strip_prefix(kind.name())?.strip_prefix('.')?;
            Some(patch(name.to_owned(), adapter.clone(), strength))
        });
        let patches: Vec<(String, Patch)> = adapters.collect();
        (*kind, if patches.is_empty() { weights.clone() } else { weights.with_patches(patches) })
    };
    Ok(parts.iter().map(patched).collect())
}

fn open(engine: &Engine, path: &Path) -> Result<StateDict> {
    engine.files().get("lora", &[path], || Ok(StateDict::open(path)?))
}

fn load(file: &StateDict, keys: &KeyMap, path: &Path) -> Result<Lora> {
    let lora = lora::load(file, keys).map_err(|error| Error::from(error).in_file(path))?;
    tracing::debug!("{}: {} weights change, {} names are not of this model", path.display(), lora.adapters.len(), lora.unused.len());
    Ok(lora)
}

fn patch(name: String, adapter: Adapter, strength: f64) -> (String, Patch) {
    let label = name.clone();
    // An adapter that does not fit leaves the weight as it is, as in the reference.
    let apply = move |weight: &candle_core::Tensor, strength: f64| match adapter.apply(weight, strength) {
        Ok(patched) => Ok(patched),
        Err(error) => {
            tracing::warn!("'{label}' is left as it is: {error}");
            Ok(weight.clone())
        }
    };
    (name, Patch { kind: PatchKind::Adapter(Arc::new(apply)), strength, model_strength: 1.0, slice: None })
}
