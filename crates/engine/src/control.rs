//! ControlNets as they travel along links, the chain of them that a condition carries, and what they add in one sampling.

use std::fmt;
use std::sync::Arc;

use candle_core::Tensor;
use comfyd_models::unet::{Control as ControlTensors, Hooks};
use comfyd_node::Opaque;
use comfyd_samplers::Schedule;
use comfyd_weights::StateDict;

use crate::part::Weights;
use crate::sampling::Cond;
use crate::{Engine, Error, Model, Result};

/// `CONTROL_NET`: a loaded ControlNet.
#[derive(Clone)]
pub struct ControlNet {
    weights: Weights,
}

impl ControlNet {
    pub(crate) fn open(engine: &Engine, file: &StateDict, model: Option<&Model>) -> Result<Self> {
        let _ = (engine, file, model);
        Err(Error::msg("ControlNets cannot be loaded"))
    }

    /// SetUnionControlNetType: which kinds of hint a union ControlNet is told of, by index; empty: it finds out itself.
    pub fn with_union_types(&self, types: Vec<usize>) -> Self {
        let _ = types;
        self.clone()
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

/// The ControlNets of one sampling, loaded, with their hints in the latent's size.
pub(crate) struct ControlRun {}

impl ControlRun {
    pub(crate) fn new(engine: &Engine, lists: &[Vec<Cond>], schedule: &dyn Schedule) -> Result<Self> {
        let _ = (engine, lists, schedule);
        Ok(Self {})
    }

    /// What a chain of ControlNets adds to this pass; `None` if none is active at its noise level.
    pub(crate) fn run(&mut self, control: &Arc<Control>, call: &ControlCall<'_>, hooks: &mut dyn Hooks) -> Result<Option<ControlTensors>> {
        let _ = (control, call.x, call.timesteps, call.context, call.y, call.sigma, call.chunks, hooks);
        let _ = (&control.hint, &control.settings, &control.previous, &control.net);
        Err(Error::msg("ControlNets cannot be run"))
    }
}
