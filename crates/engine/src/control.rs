//! ControlNets as they travel along links, the chain of them that a condition carries, and what they add in one sampling.

use std::fmt;
use std::sync::Arc;

use candle_core::Tensor;
use comfyd_imaging::resize::{Crop, Method};
use comfyd_models::Vb;
use comfyd_models::controlnet::{self, ControlInput, ControlNetConfig};
use comfyd_models::unet::{Control as ControlTensors, Hooks};
use comfyd_node::Opaque;
use comfyd_samplers::Schedule;
use comfyd_weights::StateDict;

use crate::array::{repeat_to_batch, resize};
use crate::part::{Part, Weights};
use crate::sampling::Cond;
use crate::{Engine, Error, Model, Result};

/// `CONTROL_NET`: a loaded ControlNet.
#[derive(Clone)]
pub struct ControlNet {
    engine: Engine,
    config: Arc<ControlNetConfig>,
    weights: Weights,
    union_types: Vec<usize>,
}

impl ControlNet {
    pub(crate) fn open(engine: &Engine, file: &StateDict, model: Option<&Model>) -> Result<Self> {
        let unknown = || Error::msg("it is no ControlNet that is known; choose one for SD1.x, SD2.x or SDXL");
        let mut dict = controlnet::canonical(file).ok_or_else(unknown)?;
        if controlnet::is_difference(file) {
            match model {
                Some(model) => dict = controlnet::add_base(&dict, &model.weights.for_saving()),
                None => tracing::warn!("this ControlNet keeps differences to a model; load it with the model that they belong to"),
            }
        }
        let config = Arc::new(ControlNetConfig::detect(&dict).ok_or_else(unknown)?);
        let weights = Weights::new(Part::new(dict, engine.device().clone(), None));
        Ok(Self { engine: engine.clone(), config, weights, union_types: Vec::new() })
    }

    fn model(&self) -> Result<Arc<controlnet::ControlNet>> {
        let build = || Ok(controlnet::ControlNet::new(&self.config, &Vb::new(Arc::new(self.weights.clone())))?);
        self.engine.residency().get(&[&self.weights], build)
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
    model: Arc<controlnet::ControlNet>,
    from_sigma: f32,
    to_sigma: f32,
    /// The prepared hint, and the size (h, w) of the latent that it was prepared for.
    hint: Option<(usize, usize, Tensor)>,
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
        let types = &control.net.union_types;
        let hint = match &active.hint {
            Some((height, width, hint)) if (*height, *width) == (h, w) => hint.clone(),
            Some(_) | None => {
                let picture = resize(&control.hint, w * 8, h * 8, Method::NearestExact, Crop::Center)?;
                let mut parts = vec![picture];
                for extra in &control.settings.extra_concat {
                    let extra = resize(extra, w * 8, h * 8, Method::NearestExact, Crop::Center)?;
                    parts.push(repeat_to_batch(&extra, parts[0].dim(0)?)?);
                }
                let picture = Tensor::cat(&parts, 1)?.to_device(call.x.device())?;
                let hint = active.model.prepare_hint(&picture, types)?;
                active.hint = Some((h, w, hint.clone()));
                hint
            }
        };
        let hint = for_batch(&hint, batch, call.chunks)?;
        let input =
            ControlInput { x: call.x, hint: &hint, timesteps: call.timesteps, context: call.context, y: call.y, union_types: types };
        let own = active.model.forward(&input, hooks)?.scaled(control.settings.strength)?;
        Ok(Some(match previous {
            Some(previous) => own.merged(&previous)?,
            None => own,
        }))
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
