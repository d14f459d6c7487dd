//! Upscaling models on links.

use std::fmt;
use std::sync::Arc;

use candle_core::Tensor;
use comfyd_models::upscale::{self, TILE, UpscaleConfig};
use comfyd_node::{Context, Opaque};

use crate::engine::{cancel_check, tile_progress};
use crate::part::{Part, Weights};
use crate::precision::Precision;
use crate::{Engine, Error, Result};

/// `UPSCALE_MODEL`.
#[derive(Clone)]
pub struct UpscaleModel {
    engine: Engine,
    config: Arc<UpscaleConfig>,
    weights: Weights,
}

impl UpscaleModel {
    pub(crate) fn new(engine: &Engine, weights: comfyd_weights::StateDict) -> Result<Self> {
        let config = Arc::new(upscale::UpscaleModel::detect(&weights)?);
        let weights = Weights::new(Part::new(weights, engine.device().clone(), Precision::Stored));
        Ok(Self { engine: engine.clone(), config, weights })
    }

    /// How many times larger its results are.
    pub fn scale(&self) -> usize {
        self.config.scale
    }

    /// `image (B, H, W, 3)` in tiles to `(B, H * scale, W * scale, 3)`, values 0..1. Reports progress per tile.
    pub fn upscale(&self, cx: &Context<'_>, image: &Tensor) -> Result<Tensor> {
        let (_, _, _, channels) = image.dims4()?;
        if channels < 3 {
            return Err(Error::msg(format!("pictures with {channels} channels cannot be upscaled; they need three colours")));
        }
        let pixels = image.narrow(3, 0, 3)?.permute((0, 3, 1, 2))?.contiguous()?.to_device(self.engine.device())?;
        let model = self
            .engine
            .residency()
            .get(&[&self.weights], || Ok(upscale::UpscaleModel::new(&self.config, Arc::new(self.weights.clone()))?))?;
        let larger = model.upscale(&pixels, TILE, &cancel_check(cx), &mut tile_progress(cx))?;
        Ok(larger.permute((0, 2, 3, 1))?.contiguous()?.clamp(0f32, 1f32)?)
    }
}

impl fmt::Debug for UpscaleModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl Opaque for UpscaleModel {
    fn type_name(&self) -> &'static str {
        "UPSCALE_MODEL"
    }

    fn size_bytes(&self) -> usize {
        0
    }

    fn describe(&self) -> String {
        format!("an upscaling model of factor {}", self.scale())
    }
}
