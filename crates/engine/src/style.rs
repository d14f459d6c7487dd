//! Style models on links.

use std::fmt;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use comfyd_models::Vb;
use comfyd_models::style::{self, StyleConfig};
use comfyd_node::{Context, Opaque};
use comfyd_weights::StateDict;

use crate::engine::cancel_check;
use crate::part::{Part, Weights};
use crate::precision::Precision;
use crate::vision::VisionOutput;
use crate::{Engine, Error, Result};

/// `STYLE_MODEL`.
#[derive(Clone)]
pub struct StyleModel {
    engine: Engine,
    config: Arc<StyleConfig>,
    weights: Weights,
}

impl StyleModel {
    pub(crate) fn new(engine: &Engine, weights: StateDict) -> Result<Self> {
        let config = Arc::new(StyleConfig::detect(&weights)?);
        let weights = Weights::new(Part::new(weights, engine.device().clone(), Precision::Stored));
        Ok(Self { engine: engine.clone(), config, weights })
    }

    /// Tokens (1, B N, D) for pictures as a vision encoder sees them, on the CPU.
    pub fn tokens(&self, cx: &Context<'_>, seen: &VisionOutput) -> Result<Tensor> {
        let Some(last) = &seen.last else {
            return Err(Error::msg("the encoded picture was joined of several and cannot be a style; use a single one"));
        };
        let (batch, tokens, width) = last.dims3()?;
        if width != self.config.width() {
            return Err(Error::msg(format!(
                "this style model takes pictures {} wide, the vision encoder gives {width}; load the encoder that belongs to it",
                self.config.width()
            )));
        }
        let _room = self.engine.room(self.config.memory_bytes(tokens).saturating_mul(batch as u64))?;
        let model = self
            .engine
            .residency()
            .get(&[&self.weights], || Ok(style::StyleModel::new(&self.config, &Vb::new(Arc::new(self.weights.clone())))?))?;
        let tokens = model.forward(&last.to_device(self.engine.device())?, &cancel_check(cx))?;
        Ok(tokens.reshape((1, (), self.config.text()))?.to_device(&Device::Cpu)?)
    }
}

impl fmt::Debug for StyleModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl Opaque for StyleModel {
    fn type_name(&self) -> &'static str {
        "STYLE_MODEL"
    }

    fn size_bytes(&self) -> usize {
        0
    }

    fn describe(&self) -> String {
        let kind = match *self.config {
            StyleConfig::Adapter { .. } => "a style adapter",
            StyleConfig::Redux { .. } => "a Redux model",
        };
        format!("{kind} from pictures {} wide to texts {} wide", self.config.width(), self.config.text())
    }
}
