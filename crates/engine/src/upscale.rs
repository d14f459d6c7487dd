//! Upscaling models on links.

use std::fmt;
use std::sync::Arc;

use candle_core::Tensor;
use comfyd_memory::Lease;
use comfyd_models::tiles::Tile;
use comfyd_models::upscale::{self, MIN_TILE, TILE, UpscaleConfig};
use comfyd_node::{Context, Opaque};

use crate::engine::{cancel_check, tile_progress};
use crate::part::{Part, Weights};
use crate::precision::Precision;
use crate::{Engine, Error, Result};

/// What a pixel of a result takes while it is made: two layers of 64 channels.
const BYTES_PER_PIXEL: u64 = 2 * 64 * 4;

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
        let weights = Weights::new(Part::new(weights, engine.device().clone(), Precision::of_pictures(engine.device())));
        Ok(Self { engine: engine.clone(), config, weights })
    }

    /// How many times larger its results are.
    pub fn scale(&self) -> usize {
        self.config.scale
    }

    /// The largest tiles for which there is room.
    fn tile(&self) -> Result<(Tile, Lease)> {
        let mut tile = TILE;
        loop {
            let pixels = (tile.x * tile.y * self.config.scale * self.config.scale) as u64;
            match self.engine.room(pixels * BYTES_PER_PIXEL) {
                Ok(room) => return Ok((tile, room)),
                Err(refused) if tile.x.min(tile.y) / 2 < MIN_TILE => return Err(refused.into()),
                Err(_) => tile = Tile { x: tile.x / 2, y: tile.y / 2, overlap: tile.overlap },
            }
        }
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
        let (tile, _room) = self.tile()?;
        let larger = model.upscale(&pixels, tile, &cancel_check(cx), &mut tile_progress(cx))?;
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
