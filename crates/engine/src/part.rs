//! The weights of one model part (a UNet, a text encoder, …): the file they come from, the tensors that are loaded, and patches of them.
//! Patched tensors belong to the built model that asked for them; the others are shared by all models of the same part.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use comfyd_models::Provider;
use comfyd_node::{CancellationToken, actor};
use comfyd_weights::{Form, LazyTensor, StateDict, Weight};
use parking_lot::Mutex;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::precision::Precision;

/// A part's file, and what of it is loaded.
pub(crate) struct Part {
    pub(crate) weights: StateDict,
    pub(crate) device: Device,
    precision: Precision,
    loaded: Mutex<HashMap<String, Weight>>,
}

impl Part {
    pub(crate) fn new(weights: StateDict, device: Device, precision: Precision) -> Arc<Self> {
        Arc::new(Self { weights, device, precision, loaded: Mutex::default() })
    }

    /// Bytes of the tensors that are loaded.
    pub(crate) fn loaded_bytes(&self) -> u64 {
        self.loaded.lock().values().map(Weight::size_bytes).sum()
    }

    /// Bytes of all tensors, once they are loaded.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.weights.iter().map(|(_, tensor)| self.precision.size_bytes(tensor)).sum()
    }

    /// Forgets the loaded tensors. Models that were built of them keep theirs.
    pub(crate) fn unload(&self) {
        self.loaded.lock().clear();
    }

    fn weight(&self, name: &str) -> Result<Option<Weight>> {
        if let Some(weight) = self.loaded.lock().get(name) {
            return Ok(Some(weight.clone()));
        }
        let Some(lazy) = self.weights.get(name) else { return Ok(None) };
        let weight = self.read(lazy)?.to_device(&self.device)?;
        self.loaded.lock().insert(name.into(), weight.clone());
        Ok(Some(weight))
    }

    /// On the CPU, in the type in which it stays. What the file keeps in few bits is not rounded once more.
    fn read(&self, lazy: &LazyTensor) -> Result<Weight> {
        let weight = lazy.weight()?;
        match lazy.form() {
            Form::Dense | Form::Small(_) => self.precision.round(weight),
            Form::Scaled8 | Form::Scaled | Form::Quantised(_) | Form::Unknown => Ok(weight),
        }
    }

    /// A patched tensor in the type in which it stays. Patched weights keep full precision, except where the part keeps all of its weights as
    /// halves: eight bits would swallow most of a LoRA.
    fn round_patched(&self, tensor: Tensor) -> Result<Weight> {
        let precision = match self.precision {
            Precision::Half | Precision::Single => self.precision,
            Precision::Stored | Precision::Fp8E4m3 | Precision::Fp8E5m2 => Precision::Stored,
        };
        precision.round(tensor.into())
    }
}

/// A change of one tensor: `weight * model_strength`, then the patch at its strength.
#[derive(Clone)]
pub(crate) struct Patch {
    pub(crate) kind: PatchKind,
    pub(crate) strength: f64,
    pub(crate) model_strength: f64,
    /// Only these rows or columns: axis, first, count.
    pub(crate) slice: Option<(usize, usize, usize)>,
}

/// From the weight (F32, on the CPU) and the strength to the patched weight.
pub(crate) type Adapt = Arc<dyn Fn(&Tensor, f64) -> Result<Tensor> + Send + Sync>;

/// What is added.
#[derive(Clone)]
pub(crate) enum PatchKind {
    /// Nothing.
    Nothing,
    /// Nothing, but what came before is rounded as where it is kept.
    Kept,
    /// The tensor of the same name of other weights.
    Other(Weights),
    /// What an adapter makes of it.
    Adapter(Adapt),
}

impl Patch {
    fn apply(&self, name: &str, weight: Tensor) -> Result<Tensor> {
        if let Some((axis, first, count)) = self.slice {
            let part = self.apply_to(name, weight.narrow(axis, first, count)?.contiguous()?)?;
            let length = weight.dim(axis)?;
            let parts = [weight.narrow(axis, 0, first)?, part, weight.narrow(axis, first + count, length - first - count)?];
            let parts: Vec<&Tensor> = parts.iter().filter(|part| part.elem_count() > 0).collect();
            return Ok(Tensor::cat(&parts, axis)?);
        }
        self.apply_to(name, weight)
    }

    fn apply_to(&self, name: &str, weight: Tensor) -> Result<Tensor> {
        let weight = if self.model_strength == 1.0 { weight } else { (weight * self.model_strength)? };
        match &self.kind {
            PatchKind::Nothing | PatchKind::Kept => Ok(weight),
            PatchKind::Adapter(adapter) => adapter(&weight, self.strength),
            PatchKind::Other(_) if self.strength == 0.0 => Ok(weight),
            PatchKind::Other(other) => {
                let Some(tensor) = other.full_precision(name)? else { return Ok(weight) };
                if tensor.dims() != weight.dims() {
                    tracing::warn!("'{name}' is not merged: its shapes {:?} and {:?} differ", weight.dims(), tensor.dims());
                    return Ok(weight);
                }
                Ok((weight + (tensor * self.strength)?)?)
            }
        }
    }
}

/// Weights of a part with patches: a cheap value.
#[derive(Clone)]
pub(crate) struct Weights {
    /// What clones have in common, and other weights have not. It tells whether any of them is left.
    pub(crate) id: Arc<()>,
    pub(crate) part: Arc<Part>,
    patches: Arc<HashMap<String, Vec<Patch>>>,
    /// Tensors that are patched already, for the model that is being built.
    ahead: Arc<Mutex<HashMap<String, Weight>>>,
}

/// Fails once this ends the prompt that runs.
fn go_on(interrupt: Option<&CancellationToken>) -> Result<()> {
    if interrupt.is_some_and(CancellationToken::is_cancelled) { Err(Error::Interrupted) } else { Ok(()) }
}

impl Weights {
    pub(crate) fn new(part: Arc<Part>) -> Self {
        Self { id: Arc::default(), part, patches: Arc::default(), ahead: Arc::default() }
    }

    /// A copy with more patches, applied after those that are there.
    pub(crate) fn with_patches(&self, patches: impl IntoIterator<Item = (String, Patch)>) -> Self {
        let mut all = self.patches.as_ref().clone();
        for (name, patch) in patches {
            all.entry(name).or_default().push(patch);
        }
        Self { patches: Arc::new(all), ..Self::new(Arc::clone(&self.part)) }
    }

    /// A copy whose patched tensors are rounded as where they are kept before further patches count.
    pub(crate) fn kept(&self) -> Self {
        if self.patches.is_empty() {
            return self.clone();
        }
        let patch = Patch { kind: PatchKind::Kept, strength: 0.0, model_strength: 1.0, slice: None };
        self.with_patches(self.patches.keys().map(|name| (name.clone(), patch.clone())))
    }

    /// A copy where `other` is added to each tensor of the same name, at strengths that `ratio` gives for a name: its own, the other's.
    pub(crate) fn merged(&self, other: &Self, ratio: impl Fn(&str) -> Option<(f64, f64)>) -> Self {
        let names = other.part.weights.names().filter(|name| self.part.weights.contains(name));
        let patches = names.filter_map(|name| {
            let (model_strength, strength) = ratio(name)?;
            Some((name.to_owned(), Patch { kind: PatchKind::Other(other.clone()), strength, model_strength, slice: None }))
        });
        self.with_patches(patches)
    }

    /// A copy where the difference between `other` and the file's own tensors is added, whatever patches there are.
    pub(crate) fn with_difference(&self, other: &Self, strength: f64) -> Self {
        let own = Self::new(Arc::clone(&self.part));
        let names: Vec<&str> = self.part.weights.names().filter(|name| other.part.weights.contains(name)).collect();
        let patch = |other: &Self, strength| Patch { kind: PatchKind::Other(other.clone()), strength, model_strength: 1.0, slice: None };
        let pairs = names.iter().flat_map(|name| [other, &own].into_iter().zip([strength, -strength]).map(move |pair| (*name, pair)));
        self.with_patches(pairs.map(|(name, (other, strength))| (name.to_owned(), patch(other, strength))))
    }

    /// A copy where tensors are multiplied by what `factor` gives for a name.
    pub(crate) fn multiplied(&self, factor: impl Fn(&str) -> Option<f64>) -> Self {
        let patches = self.part.weights.names().filter_map(|name| {
            let patch = Patch { kind: PatchKind::Nothing, strength: 0.0, model_strength: factor(name)?, slice: None };
            Some((name.to_owned(), patch))
        });
        self.with_patches(patches)
    }

    /// Bytes of the patched tensors once they are computed (F32), which no other model shares.
    pub(crate) fn patched_bytes(&self) -> u64 {
        let size = |name: &String| self.part.weights.get(name).map_or(0, |tensor| tensor.shape().iter().product::<usize>() as u64 * 4);
        self.patches.keys().map(size).sum()
    }

    /// Reads what the file has, and applies the patches, with all threads: a model asks for one tensor after the other. Not for a card, to which
    /// they go one after the other, so that there are never many copies. Whoever asks for a tensor that cannot be read is told why.
    ///
    /// # Errors
    /// The prompt was interrupted.
    pub(crate) fn read_ahead(&self) -> Result<()> {
        if !self.part.device.is_cpu() {
            return Ok(());
        }
        let (names, interrupt): (Vec<&str>, _) = (self.part.weights.names().collect(), actor().patient);
        names.par_iter().with_max_len(1).try_for_each(|name| {
            go_on(interrupt.as_ref())?;
            if !self.patches.contains_key(*name) {
                drop(self.part.weight(name));
            } else if let Ok(Some(weight)) = self.patched(name) {
                self.ahead.lock().insert((*name).to_owned(), weight);
            }
            Ok(())
        })
    }

    /// Forgets what was patched ahead: the model has what it asked for.
    pub(crate) fn forget_patched(&self) {
        self.ahead.lock().clear();
    }

    /// A patched tensor where it is used, in the type in which it stays.
    fn patched(&self, name: &str) -> Result<Option<Weight>> {
        let Some(tensor) = self.full_precision(name)? else { return Ok(None) };
        Ok(Some(self.part.round_patched(tensor)?.to_device(&self.part.device)?))
    }

    /// The tensor as F32 on the CPU, patches applied.
    pub(crate) fn full_precision(&self, name: &str) -> Result<Option<Tensor>> {
        let Some(lazy) = self.part.weights.get(name) else { return Ok(None) };
        let mut tensor = self.part.read(lazy)?.dense()?.to_dtype(DType::F32)?;
        for patch in self.patches.get(name).into_iter().flatten() {
            tensor = match patch.kind {
                PatchKind::Kept => self.part.round_patched(tensor)?.dense()?.to_dtype(DType::F32)?,
                PatchKind::Nothing | PatchKind::Other(_) | PatchKind::Adapter(_) => patch.apply(name, tensor)?,
            };
        }
        Ok(Some(tensor))
    }

    /// All tensors for a file, patches applied when they are read.
    pub(crate) fn for_saving(&self) -> StateDict {
        let mut dict = StateDict::default();
        for (name, lazy) in self.part.weights.iter() {
            if lazy.form() == Form::Unknown {
                tracing::warn!("'{name}' is not saved, its type is not known");
                continue;
            }
            if !self.patches.contains_key(name) {
                dict.insert(name, lazy.clone());
                continue;
            }
            let source = Saved { weights: self.clone(), name: name.to_owned(), dtype: lazy.dtype() };
            dict.insert(name, LazyTensor::new(lazy.shape().to_vec(), lazy.dtype(), Arc::new(source)));
        }
        dict
    }
}

struct Saved {
    weights: Weights,
    name: String,
    dtype: DType,
}

impl comfyd_weights::Source for Saved {
    fn read(&self) -> comfyd_weights::Result<Weight> {
        let tensor = self.weights.full_precision(&self.name).map_err(|e| candle_core::Error::Msg(e.to_string()))?;
        let tensor = tensor.ok_or_else(|| candle_core::Error::Msg(format!("the tensor '{}' is gone", self.name)))?;
        Ok(tensor.to_dtype(self.dtype)?.into())
    }
}

impl Provider for Weights {
    fn weight(&self, name: &str) -> comfyd_models::Result<Option<Weight>> {
        let weight = go_on(actor().patient.as_ref()).and_then(|()| {
            if !self.patches.contains_key(name) {
                return self.part.weight(name);
            }
            let ahead = self.ahead.lock().remove(name);
            ahead.map_or_else(|| self.patched(name), |weight| Ok(Some(weight)))
        });
        weight.map_err(|error| match error {
            Error::Interrupted => comfyd_models::Error::Interrupted,
            Error::Model(error) => error,
            Error::Weights(error) => error.into(),
            Error::Tensor(error) => error.into(),
            error => comfyd_models::Error::msg(error.to_string()),
        })
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tensors, {} of them patched", self.part.weights.len(), self.patches.len())
    }
}
