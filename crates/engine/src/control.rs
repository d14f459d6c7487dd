//! ControlNets as they travel along links, and the chain of them that a condition carries.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Weak};

use candle_core::Tensor;
use comfyd_imaging::resize::{Crop, Method};
use comfyd_models::controlnet::{self, ControlNetConfig};
use comfyd_models::t2i_adapter::{T2iAdapter, T2iAdapterConfig};
use comfyd_models::{Provider, Vb};
use comfyd_node::Opaque;
use comfyd_weights::convert::{self, LowRank};
use comfyd_weights::{StateDict, Weight};
use parking_lot::Mutex;

use crate::array::{repeat_to_batch, resize};
use crate::families::ModelKind;
use crate::part::{Adapt, Part, Patch, PatchKind, Weights};
use crate::precision::Precision;
use crate::{Engine, Error, Result};

/// The networks that steer.
#[derive(Debug)]
enum Kind {
    ControlNet(ControlNetConfig),
    ControlLora(ControlLora),
    /// T2I-Adapter.
    Adapter(T2iAdapterConfig),
}

/// What turns a model's own encoder into a ControlNet.
#[derive(Debug)]
struct ControlLora {
    differences: Vec<(String, LowRank)>,
    hint_channels: usize,
    /// The encoder of the model that was steered last, and which model that was: the patched tensors stay loaded between samplings.
    encoder: Mutex<Option<(Weak<()>, Weights)>>,
}

impl ControlLora {
    /// The model's weights with the differences added, whatever patches they have.
    fn encoder(&self, model: &Weights) -> Weights {
        let mut encoder = self.encoder.lock();
        let id = Arc::downgrade(&model.id);
        if let Some((of, weights)) = encoder.as_ref()
            && of.ptr_eq(&id)
        {
            return weights.clone();
        }
        let weights = model.with_patches(self.differences.iter().map(|(name, difference)| {
            let difference = difference.clone();
            let add: Adapt = Arc::new(move |weight, _| Ok((weight + difference.product(weight.dims())?)?));
            (name.clone(), Patch { kind: PatchKind::Adapter(add), strength: 1.0, model_strength: 1.0, slice: None })
        }));
        *encoder = Some((id, weights.clone()));
        weights
    }
}

/// The tensors of one, and of the other those that the first has not.
struct Layered(Weights, Weights);

impl Provider for Layered {
    fn weight(&self, name: &str) -> comfyd_models::Result<Option<Weight>> {
        match self.0.weight(name)? {
            Some(weight) => Ok(Some(weight)),
            None => self.1.weight(name),
        }
    }
}

/// `CONTROL_NET`: a loaded ControlNet, control-LoRA or T2I-Adapter.
#[derive(Clone)]
pub struct ControlNet {
    engine: Engine,
    kind: Arc<Kind>,
    weights: Weights,
    pub(crate) union_types: Vec<usize>,
    /// Whether what it says holds for the whole picture, its mean taken.
    pub(crate) is_averaged: bool,
}

impl ControlNet {
    pub(crate) fn open(engine: &Engine, path: &Path, base: Option<&Weights>) -> Result<Self> {
        let new = |dict, kind| {
            let weights = Weights::new(Part::new(dict, engine.device().clone(), Precision::Stored));
            Self { engine: engine.clone(), kind: Arc::new(kind), weights, union_types: Vec::new(), is_averaged: false }
        };
        match convert::control(&StateDict::open(path)?)? {
            convert::ControlFile::ControlNet(net) => {
                let config = ControlNetConfig::from(&*net);
                let weights = match base {
                    Some(base) if net.is_difference => net.with_base(&base.for_saving()),
                    None if net.is_difference => {
                        tracing::warn!("this ControlNet keeps differences to a model; load it with the model that they belong to");
                        net.weights
                    }
                    Some(_) | None => net.weights,
                };
                Ok(Self { is_averaged: is_shuffle(path), ..new(weights, Kind::ControlNet(config)) })
            }
            convert::ControlFile::T2iAdapter(dict) => {
                let config = T2iAdapterConfig::detect(&dict);
                let config = config.ok_or_else(|| Error::msg("it is a T2I-Adapter of a kind that is not known; choose another file"))?;
                Ok(new(dict, Kind::Adapter(config)))
            }
            convert::ControlFile::ControlLora(convert::ControlLora { weights, differences, hint_channels }) => {
                Ok(new(weights, Kind::ControlLora(ControlLora { differences, hint_channels, encoder: Mutex::default() })))
            }
        }
    }

    /// The network that steers a denoiser.
    pub(crate) fn network(&self, kind: &dyn ModelKind, denoiser: &Weights) -> Result<Network> {
        let residency = self.engine.residency();
        let vb = || Vb::new(Arc::new(self.weights.clone()));
        Ok(match self.kind.as_ref() {
            Kind::ControlNet(config) => {
                Network::ControlNet(residency.get(&[&self.weights], || Ok(controlnet::ControlNet::new(config, &vb())?))?)
            }
            Kind::ControlLora(lora) => {
                let unet = kind.unet().cloned();
                let unet = unet.ok_or_else(|| Error::msg("a control-LoRA steers UNets alone; choose a ControlNet for this model"))?;
                let encoder = lora.encoder(denoiser);
                let config = ControlNetConfig { unet, hint_channels: lora.hint_channels, union_types: None };
                let build = || {
                    let vb = Vb::new(Arc::new(Layered(self.weights.clone(), encoder.clone())));
                    controlnet::ControlNet::new(&config, &vb).map_err(|error| match Error::from(error) {
                        Error::Interrupted => Error::Interrupted,
                        error => Error::msg(format!("the control-LoRA does not fit to the model, is it for another family? {error}")),
                    })
                };
                Network::ControlNet(residency.get(&[&self.weights, &encoder], build)?)
            }
            Kind::Adapter(config) => Network::Adapter(residency.get(&[&self.weights], || Ok(T2iAdapter::new(config, &vb())?))?),
        })
    }

    /// SetUnionControlNetType: which kinds of hint a union ControlNet is told of, by index; empty: it finds out itself.
    pub fn with_union_types(&self, types: Vec<usize>) -> Self {
        Self { union_types: types, ..self.clone() }
    }
}

impl fmt::Debug for ControlNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a ControlNet of {:?}", self.weights)
    }
}

impl Opaque for ControlNet {
    fn type_name(&self) -> &'static str {
        "CONTROL_NET"
    }

    fn size_bytes(&self) -> usize {
        0
    }

    fn describe(&self) -> String {
        "a ControlNet".into()
    }
}

/// A network that steers, loaded.
pub(crate) enum Network {
    ControlNet(Arc<controlnet::ControlNet>),
    /// The hint is all that the denoiser gets.
    Adapter(Arc<T2iAdapter>),
}

/// How a hint is applied.
#[derive(Debug, Clone)]
pub struct ControlSettings {
    /// What the ControlNet's output is multiplied by.
    pub strength: f64,
    /// From which part of the sampling on (0..1).
    pub start_percent: f64,
    /// Up to which part of the sampling (0..1).
    pub end_percent: f64,
    /// Beside the hint, concatenated to it (ControlNetInpaintingAliMamaApply): (B, 1, H, W).
    pub extra_concat: Vec<Tensor>,
}

impl Default for ControlSettings {
    fn default() -> Self {
        Self { strength: 1.0, start_percent: 0.0, end_percent: 1.0, extra_concat: Vec::new() }
    }
}

/// A ControlNet with its hint, and those applied before it.
#[derive(Debug)]
pub struct AppliedControl {
    pub(crate) net: ControlNet,
    /// (B, 3, H, W).
    pub(crate) hint: Tensor,
    pub(crate) settings: ControlSettings,
    pub(crate) previous: Option<Arc<AppliedControl>>,
}

impl AppliedControl {
    /// `hint (B, H, W, 3)` for a net.
    pub(crate) fn new(net: &ControlNet, hint: &Tensor, settings: ControlSettings, previous: Option<Arc<Self>>) -> Result<Self> {
        let channels = hint.dims4().map_or(0, |(_, _, _, channels)| channels);
        if channels == 0 {
            return Err(Error::msg(format!("a picture of the shape {:?} cannot be a ControlNet's hint", hint.dims())));
        }
        Ok(Self { net: net.clone(), hint: hint.permute((0, 3, 1, 2))?.contiguous()?, settings, previous })
    }

    /// The hint as a ControlNet takes it with latents of the height `h` and the width `w`.
    pub(crate) fn picture_for_net(&self, h: usize, w: usize) -> Result<Tensor> {
        let (width, height) = (w * controlnet::ControlNet::FACTOR, h * controlnet::ControlNet::FACTOR);
        let mut parts = vec![resize(&self.hint, width, height, Method::NearestExact, Crop::Center)?];
        for extra in &self.settings.extra_concat {
            let extra = resize(extra, width, height, Method::NearestExact, Crop::Center)?;
            parts.push(repeat_to_batch(&extra, parts[0].dim(0)?)?);
        }
        Ok(Tensor::cat(&parts, 1)?)
    }

    /// The hint as an adapter takes it, at least `height` and `width` pixels.
    pub(crate) fn picture_for_adapter(&self, config: &T2iAdapterConfig, height: usize, width: usize) -> Result<Tensor> {
        let side = config.unshuffle();
        let (width, height) = (width.next_multiple_of(side), height.next_multiple_of(side));
        let picture = resize(&self.hint, width, height, Method::NearestExact, Crop::Center)?;
        Ok(if config.picture_channels() == 1 && picture.dim(1)? > 1 { picture.mean_keepdim(1)? } else { picture })
    }
}

/// Whether a ControlNet was trained to take a picture's style and no places of it. Nothing in a file tells, so the name does, as in the reference.
fn is_shuffle(path: &Path) -> bool {
    path.file_stem().and_then(OsStr::to_str).is_some_and(|name| name.ends_with("_shuffle") || name.ends_with("_shuffle_fp16"))
}
