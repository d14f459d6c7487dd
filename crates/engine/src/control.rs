//! ControlNets as they travel along links, and the chain of them that a condition carries.

use std::fmt;
use std::sync::Arc;

use candle_core::Tensor;
use comfyd_node::Opaque;

use crate::Result;

/// `CONTROL_NET`: a loaded ControlNet.
#[derive(Clone)]
pub struct ControlNet {}

impl ControlNet {
    /// SetUnionControlNetType: which kinds of hint a union ControlNet is told of, by index; empty: it finds out itself.
    pub fn with_union_types(&self, types: Vec<usize>) -> Self {
        let _ = types;
        self.clone()
    }
}

impl fmt::Debug for ControlNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
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
        Ok(Self { net: net.clone(), hint: hint.permute((0, 3, 1, 2))?.contiguous()?, settings, previous })
    }
}
