//! T2I-Adapter (Mou et al. 2023, "Learning Adapters to Dig out More Controllable Ability"): a small network that turns a picture into
//! additions to a UNet's encoder, once for a whole run. The full one, the one for SDXL and the light one.

use candle_core::Tensor;
use comfyd_weights::StateDict;

use crate::residuals::Residuals;
use crate::unet::layers::Conv2d;
use crate::{Error, Result, Vb, ops};

/// Levels of an adapter.
const LEVELS: usize = 4;

/// Residual blocks of a level of the full adapter.
const BLOCKS: usize = 2;

/// Most residual blocks of a level of the light adapter; it bounds what a file can ask for.
const MAX_BLOCKS: usize = 16;

/// The shape of an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum T2iAdapterConfig {
    /// For SD1.x and SD2.x, or for SDXL.
    Full {
        /// Channels after the picture's pixels were folded.
        in_channels: usize,
        /// Channels of the first level.
        channels: usize,
        /// Side of the second kernel of a block: 1 or 3.
        kernel: usize,
        /// Whether it shrinks by convolutions; else by means.
        down_conv: bool,
    },
    /// The light one.
    Light {
        /// Channels after the picture's pixels were folded.
        in_channels: usize,
        /// Channels of each level: inside, and of its result.
        channels: Vec<(usize, usize)>,
        /// Residual blocks of a level.
        blocks: usize,
    },
}

impl T2iAdapterConfig {
    /// The shape of the adapter with the original names (see `comfyd_weights::convert::control`); `None` if the tensors are not those of one.
    pub fn detect(dict: &StateDict) -> Option<Self> {
        let axis = |name: &str, axis: usize| dict.shape(name).and_then(|shape| shape.get(axis)).copied();
        if let Some(in_channels) = axis("body.0.in_conv.weight", 1).filter(|_| !dict.contains("conv_in.weight")) {
            let level = |i| Some((axis(&format!("body.{i}.in_conv.weight"), 0)?, axis(&format!("body.{i}.out_conv.weight"), 0)?));
            let blocks = (0..MAX_BLOCKS).take_while(|i| dict.contains(&format!("body.0.body.{i}.block1.weight"))).count();
            return Some(Self::Light { in_channels, channels: (0..LEVELS).map(level).collect::<Option<_>>()?, blocks });
        }
        Some(Self::Full {
            in_channels: axis("conv_in.weight", 1)?,
            channels: axis("conv_in.weight", 0)?,
            kernel: axis("body.0.block2.weight", 2)?,
            down_conv: dict.names().any(|name| name.ends_with("down_opt.op.weight")),
        })
    }

    fn in_channels(&self) -> usize {
        match self {
            Self::Full { in_channels, .. } | Self::Light { in_channels, .. } => *in_channels,
        }
    }

    /// Whether it is the full one for SDXL, which is told by its input.
    fn is_xl(&self) -> bool {
        matches!(self, Self::Full { in_channels: 256 | 768, .. })
    }

    /// The side of the squares of pixels that are folded into channels; the picture's sides must be multiples of it.
    pub fn unshuffle(&self) -> usize {
        if self.is_xl() { 16 } else { 8 }
    }

    /// Channels of the picture: 3, or 1 for grey ones.
    pub fn picture_channels(&self) -> usize {
        self.in_channels() / (self.unshuffle() * self.unshuffle())
    }
}

/// How a block halves what it gets.
#[derive(Debug)]
enum Down {
    Conv(Conv2d),
    Mean,
}

/// A block of the full adapter.
#[derive(Debug)]
struct ResnetBlock {
    down: Option<Down>,
    in_conv: Option<Conv2d>,
    pair: Pair,
}

impl ResnetBlock {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = match &self.down {
            Some(Down::Conv(conv)) => conv.forward(x)?,
            Some(Down::Mean) => halve(x)?,
            None => x.clone(),
        };
        if let Some(conv) = &self.in_conv {
            x = conv.forward(&x)?;
        }
        self.pair.forward(&x)
    }
}

/// Two convolutions with a ReLU between them, added to their input.
#[derive(Debug)]
struct Pair {
    block1: Conv2d,
    block2: Conv2d,
}

impl Pair {
    fn new(channels: usize, kernel: usize, vb: &Vb) -> Result<Self> {
        let block1 = Conv2d::new(channels, channels, 3, 1, &vb.pp("block1"))?;
        Ok(Self { block1, block2: Conv2d::new(channels, channels, kernel, 1, &vb.pp("block2"))? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::add(&self.block2.forward(&self.block1.forward(x)?.relu()?)?, x)
    }
}

/// Means of two by two; an odd side gets a row of zeros before and after, which the means count.
fn halve(x: &Tensor) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    Ok(x.pad_with_zeros(2, h % 2, h % 2)?.pad_with_zeros(3, w % 2, w % 2)?.avg_pool2d(2)?)
}

/// A level of the light adapter.
#[derive(Debug)]
struct Extractor {
    in_conv: Conv2d,
    body: Vec<Pair>,
    out_conv: Conv2d,
}

#[derive(Debug)]
enum Body {
    Full { conv_in: Conv2d, blocks: Vec<ResnetBlock> },
    Light(Vec<Extractor>),
}

/// An adapter with its weights.
#[derive(Debug)]
pub struct T2iAdapter {
    config: T2iAdapterConfig,
    body: Body,
}

impl T2iAdapter {
    /// Builds it from `conv_in` and `body…` at `vb`.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape than `config` says.
    pub fn new(config: &T2iAdapterConfig, vb: &Vb) -> Result<Self> {
        let square = config.unshuffle() * config.unshuffle();
        if config.in_channels() == 0 || !config.in_channels().is_multiple_of(square) {
            return Err(Error::msg(format!("an adapter with {} input channels is not known; choose another file", config.in_channels())));
        }
        let body = match config {
            T2iAdapterConfig::Full { in_channels, channels, kernel, down_conv } => Body::Full {
                conv_in: Conv2d::new(*in_channels, *channels, 3, 1, &vb.pp("conv_in"))?,
                blocks: full_body(*channels, *kernel, *down_conv, config.is_xl(), vb)?,
            },
            T2iAdapterConfig::Light { in_channels, channels, blocks } => Body::Light(light_body(*in_channels, channels, *blocks, vb)?),
        };
        Ok(Self { config: config.clone(), body })
    }

    /// Its shape.
    pub fn config(&self) -> &T2iAdapterConfig {
        &self.config
    }

    /// What a picture `(B, picture_channels, H, W)` from 0 to 1 adds to a UNet's encoder, and for SDXL to its middle. `check` is called
    /// before every level.
    ///
    /// # Errors
    /// If a side is no multiple of [`T2iAdapterConfig::unshuffle`], or `check` says so.
    pub fn forward(&self, picture: &Tensor, check: &mut dyn FnMut() -> Result<()>) -> Result<Residuals> {
        let (_, c, h, w) = picture.dims4()?;
        let side = self.config.unshuffle();
        if c != self.config.picture_channels() || h == 0 || w == 0 || h % side != 0 || w % side != 0 {
            return Err(Error::msg(format!(
                "the adapter takes pictures of {} channels with sides that are multiples of {side}, this has {c} channels and {w} x {h} pixels",
                self.config.picture_channels()
            )));
        }
        let mut x = candle_nn::ops::pixel_unshuffle(picture, side)?;
        let mut levels = Vec::with_capacity(LEVELS);
        match &self.body {
            Body::Full { conv_in, blocks } => {
                x = conv_in.forward(&x)?;
                for level in blocks.chunks(BLOCKS) {
                    check()?;
                    for block in level {
                        x = block.forward(&x)?;
                    }
                    levels.push(x.clone());
                }
            }
            Body::Light(extractors) => {
                for (i, extractor) in extractors.iter().enumerate() {
                    check()?;
                    x = extractor.in_conv.forward(&if i > 0 { halve(&x)? } else { x })?;
                    for pair in &extractor.body {
                        x = pair.forward(&x)?;
                    }
                    x = extractor.out_conv.forward(&x)?;
                    levels.push(x.clone());
                }
            }
        }
        Ok(if self.config.is_xl() { place_xl(levels) } else { place(levels) })
    }
}

/// Levels 1 to 3 halve; for SDXL, level 2 alone.
fn full_body(channels: usize, kernel: usize, down_conv: bool, xl: bool, vb: &Vb) -> Result<Vec<ResnetBlock>> {
    if kernel != 1 && kernel != 3 {
        return Err(Error::msg(format!("an adapter with kernels of side {kernel} is not known; choose another file")));
    }
    let mut blocks = Vec::new();
    let mut width = channels;
    for (level, out) in [channels, channels * 2, channels * 4, channels * 4].into_iter().enumerate() {
        for block in 0..BLOCKS {
            let here = vb.pp("body").pp(blocks.len());
            let halves = block == 0 && if xl { level == 2 } else { level > 0 };
            let down = match (halves, down_conv) {
                (false, _) => None,
                (true, true) => Some(Down::Conv(Conv2d::new(width, width, 3, 2, &here.pp("down_opt.op"))?)),
                (true, false) => Some(Down::Mean),
            };
            let in_conv = if width == out { None } else { Some(Conv2d::new(width, out, kernel, 1, &here.pp("in_conv"))?) };
            width = out;
            blocks.push(ResnetBlock { down, in_conv, pair: Pair::new(out, kernel, &here)? });
        }
    }
    Ok(blocks)
}

fn light_body(in_channels: usize, channels: &[(usize, usize)], blocks: usize, vb: &Vb) -> Result<Vec<Extractor>> {
    let mut extractors = Vec::new();
    let mut width = in_channels;
    for &(inner, out) in channels {
        let here = vb.pp("body").pp(extractors.len());
        extractors.push(Extractor {
            in_conv: Conv2d::new(width, inner, 1, 1, &here.pp("in_conv"))?,
            body: (0..blocks).map(|i| Pair::new(inner, 3, &here.pp("body").pp(i))).collect::<Result<_>>()?,
            out_conv: Conv2d::new(inner, out, 1, 1, &here.pp("out_conv"))?,
        });
        width = out;
    }
    Ok(extractors)
}

/// The last block of each level of the encoder takes a result; lists are used up from their ends.
fn place(levels: Vec<Tensor>) -> Residuals {
    let input = levels.into_iter().rev().flat_map(|level| [Some(level), None, None]).collect();
    Residuals { input, ..Residuals::default() }
}

/// SDXL's encoder takes three of the results, its middle the last.
fn place_xl(mut levels: Vec<Tensor>) -> Residuals {
    let middle = vec![levels.pop()];
    let before = [3, 1, 2];
    let mut input = vec![None];
    for (level, nothing) in levels.into_iter().zip(before).rev() {
        input.push(Some(level));
        input.extend(std::iter::repeat_n(None, nothing));
    }
    Residuals { input, middle, output: Vec::new() }
}
