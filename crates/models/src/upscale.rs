//! Networks that enlarge pictures: ESRGAN (RRDBNet, all its schemes of names) and Real-ESRGAN's compact one.

use std::sync::Arc;

use candle_core::{D, Device, Tensor};
use comfyd_weights::{StateDict, Weight};

use crate::tiles::{self, Progress, Scale, Tile};
use crate::{Error, Provider, Result, Vb, ops};

mod compact;
mod esrgan;

use self::compact::{Compact, CompactConfig};
use self::esrgan::{Esrgan, EsrganConfig};

/// The tiles of the reference's upscaling, in pixels of the input.
pub const TILE: Tile = Tile { x: 512, y: 512, overlap: 32 };
/// Smaller tiles are not tried when memory runs out.
const MIN_TILE: usize = 128;

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
                Err(error) if is_out_of_memory(&error) && tile.x.min(tile.y) / 2 >= MIN_TILE => {
                    tile = Tile { x: tile.x / 2, y: tile.y / 2, overlap: tile.overlap };
                }
                result => return Ok(result?.clamp(0f32, 1f32)?.to_device(&Device::Cpu)?),
            }
        }
    }
}

/// Whether the tensor library's error says that the device's memory is used up.
fn is_out_of_memory(error: &Error) -> bool {
    match error {
        Error::Tensor(error) => {
            let text = error.to_string().to_ascii_lowercase();
            text.contains("out_of_memory") || text.contains("out of memory")
        }
        Error::Missing(_) | Error::Shape { .. } | Error::Interrupted | Error::Message(_) | Error::Weights(_) => false,
    }
}

/// A 3x3 convolution.
struct Conv {
    weight: Weight,
    bias: Option<Tensor>,
}

impl Conv {
    fn new(input: usize, output: usize, vb: &Vb) -> Result<Self> {
        Ok(Self { weight: vb.weight(&[output, input, 3, 3], "weight")?, bias: vb.get_opt(&[output], "bias")? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::conv2d(x, &self.weight, self.bias.as_ref(), 1, 1)
    }
}

/// `max(x, 0.2 x)`.
fn leaky_relu(x: &Tensor) -> Result<Tensor> {
    Ok(x.maximum(&(x * 0.2)?)?)
}

/// Lengthens an axis at its end by mirroring, without the last value; what is missing then repeats the last value.
fn pad_reflect(x: &Tensor, axis: usize, wanted: usize) -> Result<Tensor> {
    let length = x.dim(axis)?;
    if wanted <= length {
        return Ok(x.clone());
    }
    let mirrored = (wanted - length).min(length - 1);
    let mut places = (0..length as u32).collect::<Vec<_>>();
    places.extend((0..mirrored).map(|place| (length - 2 - place) as u32));
    let last = places.last().copied().unwrap_or(0);
    places.resize(wanted, last);
    Ok(x.index_select(&Tensor::new(places, x.device())?, axis)?)
}

/// `(B, C * f * f, H, W) -> (B, C, H * f, W * f)`.
fn pixel_shuffle(x: &Tensor, factor: usize) -> Result<Tensor> {
    if factor == 1 {
        return Ok(x.clone());
    }
    let (b, c, h, w) = x.dims4()?;
    let channels = c / factor / factor;
    let x = x.reshape(&[b, channels, factor, factor, h, w][..])?.permute(vec![0, 1, 4, 2, 5, 3])?.contiguous()?;
    Ok(x.reshape((b, channels, h * factor, w * factor))?)
}

/// `(B, C, H, W) -> (B, C * f * f, H / f, W / f)`.
fn pixel_unshuffle(x: &Tensor, factor: usize) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let x = x.reshape(&[b, c, h / factor, factor, w / factor, factor][..])?.permute(vec![0, 1, 3, 5, 2, 4])?.contiguous()?;
    Ok(x.reshape((b, c * factor * factor, h / factor, w / factor))?)
}

/// Each pixel `factor * factor` times.
fn enlarge(x: &Tensor, factor: usize) -> Result<Tensor> {
    match factor {
        1 => Ok(x.clone()),
        2 => ops::upsample_nearest_2x(x),
        _ => Ok(x.upsample_nearest2d(x.dim(D::Minus2)? * factor, x.dim(D::Minus1)? * factor)?),
    }
}
