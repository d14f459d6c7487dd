//! ControlNets as they travel along links, the chain of them that a condition carries, and what they add in one sampling.

use std::fmt;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use comfyd_imaging::resize::{Crop, Method};
use comfyd_models::Vb;
use comfyd_models::controlnet::{self, ControlInput, ControlNetConfig};
use comfyd_models::t2i_adapter::{T2iAdapter, T2iAdapterConfig};
use comfyd_models::unet::{Control as ControlTensors, Hooks};
use comfyd_node::Opaque;
use comfyd_samplers::Schedule;
use comfyd_weights::{StateDict, convert};

use crate::array::{repeat_to_batch, resize};
use crate::part::{Part, Weights};
use crate::precision::Precision;
use crate::sampling::Cond;
use crate::{Engine, Error, Model, Result};

/// The networks that steer.
#[derive(Debug)]
enum Kind {
    ControlNet(ControlNetConfig),
    /// T2I-Adapter.
    Adapter(T2iAdapterConfig),
}

/// One of them, built.
enum Steering {
    ControlNet(Arc<controlnet::ControlNet>),
    Adapter(Arc<T2iAdapter>),
}

/// `CONTROL_NET`: a loaded ControlNet or T2I-Adapter.
#[derive(Clone)]
pub struct ControlNet {
    engine: Engine,
    kind: Arc<Kind>,
    weights: Weights,
    union_types: Vec<usize>,
}

impl ControlNet {
    pub(crate) fn open(engine: &Engine, file: &StateDict, model: Option<&Model>) -> Result<Self> {
        let new = |dict, kind| {
            let weights = Weights::new(Part::new(dict, engine.device().clone(), Precision::Stored));
            Self { engine: engine.clone(), kind: Arc::new(kind), weights, union_types: Vec::new() }
        };
        match convert::control(file)? {
            convert::Control::ControlNet(net) => {
                let config = ControlNetConfig::from(&*net);
                let weights = match model {
                    Some(model) if net.is_difference => net.with_base(&model.weights.for_saving()),
                    None if net.is_difference => {
                        tracing::warn!("this ControlNet keeps differences to a model; load it with the model that they belong to");
                        net.weights
                    }
                    Some(_) | None => net.weights,
                };
                Ok(new(weights, Kind::ControlNet(config)))
            }
            convert::Control::T2iAdapter(dict) => {
                let config = T2iAdapterConfig::detect(&dict);
                let config = config.ok_or_else(|| Error::msg("it is a T2I-Adapter of a kind that is not known; choose another file"))?;
                Ok(new(dict, Kind::Adapter(config)))
            }
            convert::Control::ControlLora(_) => {
                Err(Error::msg("it is a control-LoRA, which is not supported; choose a whole ControlNet for the same purpose"))
            }
        }
    }

    fn model(&self) -> Result<Steering> {
        let vb = || Vb::new(Arc::new(self.weights.clone()));
        let residency = self.engine.residency();
        Ok(match self.kind.as_ref() {
            Kind::ControlNet(config) => {
                Steering::ControlNet(residency.get(&[&self.weights], || Ok(controlnet::ControlNet::new(config, &vb())?))?)
            }
            Kind::Adapter(config) => Steering::Adapter(residency.get(&[&self.weights], || Ok(T2iAdapter::new(config, &vb())?))?),
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
pub struct Control {
    pub(crate) net: ControlNet,
    /// (B, 3, H, W).
    pub(crate) hint: Tensor,
    pub(crate) settings: ControlSettings,
    pub(crate) previous: Option<Arc<Control>>,
}

impl Control {
    /// `hint (B, H, W, 3)` for a net.
    pub(crate) fn new(net: &ControlNet, hint: &Tensor, settings: ControlSettings, previous: Option<Arc<Self>>) -> Result<Self> {
        let channels = hint.dims4().map_or(0, |(_, _, _, channels)| channels);
        if channels == 0 {
            return Err(Error::msg(format!("a picture of the shape {:?} cannot be a ControlNet's hint", hint.dims())));
        }
        Ok(Self { net: net.clone(), hint: hint.permute((0, 3, 1, 2))?.contiguous()?, settings, previous })
    }
}

/// One pass that ControlNets are to steer.
pub(crate) struct ControlCall<'a> {
    /// The scaled latent (B, 4, h, w).
    pub(crate) x: &'a Tensor,
    pub(crate) timesteps: &'a Tensor,
    pub(crate) context: &'a Tensor,
    pub(crate) y: Option<&'a Tensor>,
    pub(crate) sigma: f32,
    /// How many conditions the batch is made of.
    pub(crate) chunks: usize,
}

/// A ControlNet of one sampling.
struct Active {
    control: Arc<Control>,
    model: Steering,
    from_sigma: f32,
    to_sigma: f32,
    /// What was made of the hint, and the size (h, w) of the latent that it was made for.
    hint: Option<(usize, usize, Hint)>,
}

/// A hint made ready for a network.
#[derive(Clone)]
enum Hint {
    /// What a ControlNet adds to its first block.
    Prepared(Tensor),
    /// All that an adapter adds to the denoiser.
    Done(ControlTensors),
}

/// The ControlNets of one sampling, loaded, with their hints in the latent's size.
pub(crate) struct ControlRun {
    active: Vec<Active>,
}

impl ControlRun {
    pub(crate) fn new(lists: &[Vec<Cond>], schedule: &dyn Schedule) -> Result<Self> {
        let mut active: Vec<Active> = Vec::new();
        for cond in lists.iter().flatten() {
            let mut next = cond.control.as_ref();
            while let Some(control) = next {
                if !active.iter().any(|known| Arc::ptr_eq(&known.control, control)) {
                    active.push(Active {
                        control: Arc::clone(control),
                        model: control.net.model()?,
                        from_sigma: schedule.percent_to_sigma(control.settings.start_percent) as f32,
                        to_sigma: schedule.percent_to_sigma(control.settings.end_percent) as f32,
                        hint: None,
                    });
                }
                next = control.previous.as_ref();
            }
        }
        Ok(Self { active })
    }

    /// What a chain of ControlNets adds to this pass; `None` if none is active at its noise level.
    pub(crate) fn run(&mut self, control: &Arc<Control>, call: &ControlCall<'_>, hooks: &mut dyn Hooks) -> Result<Option<ControlTensors>> {
        let previous = match &control.previous {
            Some(previous) => self.run(previous, call, hooks)?,
            None => None,
        };
        let Some(active) = self.active.iter_mut().find(|active| Arc::ptr_eq(&active.control, control)) else { return Ok(previous) };
        if call.sigma > active.from_sigma || call.sigma < active.to_sigma {
            return Ok(previous);
        }
        let (batch, _, h, w) = call.x.dims4()?;
        let hint = match &active.hint {
            Some((height, width, hint)) if (*height, *width) == (h, w) => hint.clone(),
            Some(_) | None => {
                let hint = active.prepare(h, w, call.x.device(), hooks)?;
                active.hint = Some((h, w, hint.clone()));
                hint
            }
        };
        let own = match (&active.model, hint) {
            (Steering::ControlNet(model), Hint::Prepared(hint)) => {
                let hint = for_batch(&hint, batch, call.chunks)?;
                let union_types = &control.net.union_types;
                let ControlCall { x, timesteps, context, y, .. } = *call;
                model.forward(&ControlInput { x, hint: &hint, timesteps, context, y, union_types }, hooks)?
            }
            (_, Hint::Prepared(_)) => return Ok(previous),
            (_, Hint::Done(tensors)) => tensors
                .map(|tensor, _, _| for_batch(tensor, batch, call.chunks).map_err(|error| comfyd_models::Error::msg(error.to_string())))?,
        };
        let own = own.scaled(control.settings.strength)?;
        Ok(Some(match previous {
            Some(previous) => own.merged(&previous)?,
            None => own,
        }))
    }
}

impl Active {
    /// The hint for a latent of this size.
    fn prepare(&self, h: usize, w: usize, device: &Device, hooks: &mut dyn Hooks) -> Result<Hint> {
        let control = &self.control;
        let adapter = match &self.model {
            Steering::ControlNet(model) => {
                let mut parts = vec![resize(&control.hint, w * 8, h * 8, Method::NearestExact, Crop::Center)?];
                for extra in &control.settings.extra_concat {
                    let extra = resize(extra, w * 8, h * 8, Method::NearestExact, Crop::Center)?;
                    parts.push(repeat_to_batch(&extra, parts[0].dim(0)?)?);
                }
                let picture = Tensor::cat(&parts, 1)?.to_device(device)?;
                return Ok(Hint::Prepared(model.prepare_hint(&picture, &control.net.union_types)?));
            }
            Steering::Adapter(adapter) => adapter,
        };
        let side = adapter.config().unshuffle();
        let (width, height) = ((w * 8).next_multiple_of(side), (h * 8).next_multiple_of(side));
        let mut picture = resize(&control.hint, width, height, Method::NearestExact, Crop::Center)?;
        if adapter.config().picture_channels() == 1 && picture.dim(1)? > 1 {
            picture = picture.mean_keepdim(1)?;
        }
        Ok(Hint::Done(adapter.forward(&picture.to_device(device)?, &mut || hooks.check())?))
    }
}

/// The hints of a batch that is made of `chunks` conditions, each of the same latents.
fn for_batch(hint: &Tensor, batch: usize, chunks: usize) -> Result<Tensor> {
    if hint.dim(0)? == batch {
        return Ok(hint.clone());
    }
    let one = repeat_to_batch(hint, batch / chunks.max(1))?;
    Ok(Tensor::cat(&vec![one; chunks.max(1)], 0)?)
}
