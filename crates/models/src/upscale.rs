//! Networks that enlarge pictures: ESRGAN (RRDBNet, all its schemes of names) and Real-ESRGAN's compact one.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use comfyd_weights::StateDict;

use crate::error::{Error, Result};
use crate::tiles::{self, Progress, Scale, Tile};
use crate::vb::{Provider, Vb};

mod compact;
mod esrgan;
mod layers;

use self::compact::{Compact, CompactConfig};
use self::esrgan::{Esrgan, EsrganConfig};

/// The tiles of the reference's upscaling, in pixels of the input.
pub const TILE: Tile = Tile { x: 512, y: 512, overlap: 32 };
/// Smaller tiles are not tried when memory runs out.
pub const MIN_TILE: usize = 128;

/// What kind of network a file holds.
#[derive(Debug, Clone)]
pub struct UpscaleConfig {
    /// How many times larger the result is.
    pub scale: usize,
    /// Channels of pictures, usually 3.
    pub channels: usize,
    /// What stands before all names in the file, such as `params_ema.`.
    prefix: String,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Esrgan(EsrganConfig),
    Compact(CompactConfig),
}

/// A network that enlarges pictures.
pub struct UpscaleModel {
    config: UpscaleConfig,
    network: Network,
}

enum Network {
    Esrgan(Esrgan),
    Compact(Compact),
}

/// Wrappers that training code puts around the tensors, the preferred one first.
const WRAPPERS: [&str; 9] = ["model_state_dict", "state_dict", "params_ema", "params-ema", "params", "model", "net", "module", "netG"];

impl UpscaleModel {
    /// Tells the kind from names and shapes. Wrappers around the names (`params_ema.`, `module.`, …) are known.
    pub fn detect(weights: &StateDict) -> Result<UpscaleConfig> {
        let mut prefix = String::new();
        // A wrapper may stand in a wrapper.
        for _ in 0..4 {
            let inner = weights.with_prefix(&prefix, "");
            if let Some(kind) = EsrganConfig::detect(&inner)? {
                return Ok(UpscaleConfig { scale: kind.scale(), channels: kind.channels(), prefix, kind: Kind::Esrgan(kind) });
            }
            if let Some(kind) = CompactConfig::detect(&inner)? {
                return Ok(UpscaleConfig { scale: kind.scale, channels: kind.channels, prefix, kind: Kind::Compact(kind) });
            }
            let wrapper = WRAPPERS.iter().find(|wrapper| inner.has_prefix(&format!("{wrapper}.")));
            match wrapper {
                Some(wrapper) => prefix = format!("{prefix}{wrapper}."),
                None => break,
            }
        }
        Err(Error::msg("the file holds no upscaling network that is known; choose an ESRGAN, Real-ESRGAN or compact model"))
    }

    /// Reads the weights, by the names of the file.
    pub fn new(config: &UpscaleConfig, provider: Arc<dyn Provider>) -> Result<Self> {
        let mut vb = Vb::new(provider);
        let prefix = config.prefix.trim_end_matches('.');
        if !prefix.is_empty() {
            vb = vb.pp(prefix);
        }
        let network = match &config.kind {
            Kind::Esrgan(kind) => Network::Esrgan(Esrgan::new(kind, &vb)?),
            Kind::Compact(kind) => Network::Compact(Compact::new(kind, &vb)?),
        };
        Ok(Self { config: config.clone(), network })
    }

    /// How many times larger the result is.
    pub fn scale(&self) -> usize {
        self.config.scale
    }

    /// `(B, 3, H, W)` in 0..1 to `(B, 3, H * scale, W * scale)` in 0..1. `check` is called between blocks; its error stops.
    pub fn forward(&self, x: &Tensor, check: &dyn Fn() -> Result<()>) -> Result<Tensor> {
        let (_, channels, height, width) = x.dims4()?;
        if channels != self.config.channels {
            return Err(Error::msg(format!("the upscaling model takes pictures of {} channels, not {channels}", self.config.channels)));
        }
        let y = match &self.network {
            Network::Esrgan(network) => network.forward(x, check)?,
            Network::Compact(network) => network.forward(x, check)?,
        };
        let y = y.narrow(2, 0, height * self.config.scale)?.narrow(3, 0, width * self.config.scale)?;
        Ok(y.clamp(0f32, 1f32)?)
    }

    /// [`UpscaleModel::forward`] in tiles; after running out of memory, again with tiles of half the size, down to 128. F32 on the CPU.
    pub fn upscale(&self, x: &Tensor, tile: Tile, check: &dyn Fn() -> Result<()>, progress: Progress<'_>) -> Result<Tensor> {
        let (batch, _, height, width) = x.dims4()?;
        let mut tile = tile;
        loop {
            let total = batch * tiles::steps(width, height, tile);
            let mut done = 0;
            let mut after = || {
                done += 1;
                progress(done.min(total), total)
            };
            let mut f = |part: &Tensor| {
                check()?;
                self.forward(part, check)
            };
            match tiles::tiled_scale(x, tile, Scale::Up(self.config.scale), self.config.channels, &mut f, &mut after) {
                Err(error) if error.is_out_of_memory() && tile.x.min(tile.y) / 2 >= MIN_TILE => {
                    tile = Tile { x: tile.x / 2, y: tile.y / 2, overlap: tile.overlap };
                }
                result => return Ok(result?.clamp(0f32, 1f32)?.to_device(&Device::Cpu)?),
            }
        }
    }
}
