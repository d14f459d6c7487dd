//! RRDBNet, the network of ESRGAN (<https://arxiv.org/abs/1809.00219>), BSRGAN and Real-ESRGAN (<https://arxiv.org/abs/2107.10833>). Its
//! tensors have three schemes of names.

use candle_core::Tensor;
use comfyd_weights::{StateDict, Weight};

use super::layers::{Conv, enlarge, leaky_relu, pad_reflect, pixel_unshuffle};
use crate::error::{Error, Result};
use crate::ops;
use crate::vb::Vb;

/// Blocks, and enlargements by two, that a file may have.
const MAX_BLOCKS: usize = 256;
const MAX_STEPS: usize = 4;

/// Where tensors are in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// `model.0`, `model.1.sub.0.RDB1.conv1.0`: ESRGAN.
    Sequential,
    /// `conv_first`, `RRDB_trunk.0.RDB1.conv1`: BSRGAN, Real-SR.
    Trunk,
    /// `conv_first`, `body.0.rdb1.conv1`: Real-ESRGAN.
    Body,
}

#[derive(Debug, Clone)]
pub(super) struct EsrganConfig {
    names: Names,
    /// Channels of the first convolution's input and of the last one's output.
    inputs: usize,
    outputs: usize,
    width: usize,
    growth: usize,
    blocks: usize,
    /// Enlargements by two.
    steps: usize,
    /// Whether blocks have the further path of ESRGAN+.
    plus: bool,
    /// By how much the picture is folded into channels first.
    unshuffle: usize,
}

impl Names {
    fn block(self, block: usize, dense: usize) -> String {
        match self {
            Self::Sequential => format!("model.1.sub.{block}.RDB{dense}"),
            Self::Trunk => format!("RRDB_trunk.{block}.RDB{dense}"),
            Self::Body => format!("body.{block}.rdb{dense}"),
        }
    }

    fn conv(self, conv: usize) -> String {
        match self {
            Self::Sequential => format!("conv{conv}.0"),
            Self::Trunk | Self::Body => format!("conv{conv}"),
        }
    }

    fn first(self) -> &'static str {
        if self == Self::Sequential { "model.0" } else { "conv_first" }
    }

    fn body_end(self, blocks: usize) -> String {
        match self {
            Self::Sequential => format!("model.1.sub.{blocks}"),
            Self::Trunk => "trunk_conv".into(),
            Self::Body => "conv_body".into(),
        }
    }

    /// The convolution behind the enlargement `step`, from 1.
    fn step(self, step: usize) -> String {
        match self {
            Self::Sequential => format!("model.{}", 3 * step),
            Self::Trunk => format!("upconv{step}"),
            Self::Body => format!("conv_up{step}"),
        }
    }

    fn high(self, steps: usize) -> String {
        match self {
            Self::Sequential => format!("model.{}", 3 * steps + 2),
            Self::Trunk => "HRconv".into(),
            Self::Body => "conv_hr".into(),
        }
    }

    fn last(self, steps: usize) -> String {
        match self {
            Self::Sequential => format!("model.{}", 3 * steps + 4),
            Self::Trunk | Self::Body => "conv_last".into(),
        }
    }
}

impl EsrganConfig {
    /// `None` if the tensors are another network's.
    pub(super) fn detect(weights: &StateDict) -> Result<Option<Self>> {
        let weight = |name: &str| weights.shape(&format!("{name}.weight"));
        let begins = |names: &Names| {
            let dense = names.block(0, 1);
            weight(names.first()).is_some() && weight(&format!("{dense}.{}", names.conv(1))).is_some()
        };
        let Some(names) = [Names::Sequential, Names::Trunk, Names::Body].into_iter().find(begins) else { return Ok(None) };
        let dense = names.block(0, 1);
        let two = |name: &str| match weight(name) {
            Some([output, input, ..]) => Ok((*output, *input)),
            _ => Err(Error::Missing(format!("{name}.weight"))),
        };
        let (width, inputs) = two(names.first())?;
        let (growth, _) = two(&format!("{dense}.{}", names.conv(1)))?;
        let has_block = |block: usize| weight(&format!("{}.{}", names.block(block, 1), names.conv(1))).is_some();
        let blocks = (0..MAX_BLOCKS).take_while(|block| has_block(*block)).count();
        let steps = (1..=MAX_STEPS).take_while(|step| weight(&names.step(*step)).is_some()).count();
        let (outputs, _) = two(&names.last(steps))?;
        let unshuffle = match inputs {
            inputs if inputs == outputs * 4 => 2,
            inputs if inputs == outputs * 16 => 4,
            _ => 1,
        };
        if outputs == 0 || inputs / unshuffle / unshuffle != outputs || (1 << steps) % unshuffle != 0 {
            return Err(Error::msg(format!(
                "an ESRGAN model with {inputs} inputs, {outputs} outputs and {steps} enlargements is not known"
            )));
        }
        let plus = weight(&format!("{dense}.conv1x1")).is_some();
        Ok(Some(Self { names, inputs, outputs, width, growth, blocks, steps, plus, unshuffle }))
    }

    pub(super) fn scale(&self) -> usize {
        (1 << self.steps) / self.unshuffle
    }

    pub(super) fn channels(&self) -> usize {
        self.outputs
    }
}

/// Five convolutions, each with the results of all before it.
struct Dense {
    convs: Vec<Conv>,
    /// ESRGAN+'s path from the input, a 1x1 convolution.
    plus: Option<Weight>,
}

impl Dense {
    fn new(config: &EsrganConfig, vb: &Vb) -> Result<Self> {
        let mut convs = Vec::new();
        for index in 1..=5 {
            let output = if index == 5 { config.width } else { config.growth };
            convs.push(Conv::new(config.width + (index - 1) * config.growth, output, &vb.pp(config.names.conv(index)))?);
        }
        let plus = config.plus.then(|| vb.weight(&[config.growth, config.width, 1, 1], "conv1x1.weight")).transpose()?;
        Ok(Self { convs, plus })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut parts = vec![x.clone()];
        for (index, conv) in self.convs.iter().enumerate() {
            let mut y = conv.forward(&Tensor::cat(&parts, 1)?)?;
            if index == 4 {
                return ops::add(&(y * 0.2)?, x);
            }
            y = leaky_relu(&y)?;
            match (&self.plus, index) {
                (Some(plus), 1) => y = ops::add(&y, &ops::conv2d(x, plus, None, 1, 0)?)?,
                (Some(_), 3) => y = ops::add(&y, &parts[2])?,
                _ => {}
            }
            parts.push(y);
        }
        Ok(x.clone())
    }
}

pub(super) struct Esrgan {
    first: Conv,
    blocks: Vec<[Dense; 3]>,
    body_end: Conv,
    steps: Vec<Conv>,
    high: Conv,
    last: Conv,
    unshuffle: usize,
}

impl Esrgan {
    pub(super) fn new(config: &EsrganConfig, vb: &Vb) -> Result<Self> {
        let (names, width) = (config.names, config.width);
        let dense = |block: usize, index: usize| Dense::new(config, &vb.pp(names.block(block, index)));
        let blocks = (0..config.blocks).map(|block| Ok([dense(block, 1)?, dense(block, 2)?, dense(block, 3)?]));
        let conv = |name: String| Conv::new(width, width, &vb.pp(name));
        Ok(Self {
            first: Conv::new(config.inputs, width, &vb.pp(names.first()))?,
            blocks: blocks.collect::<Result<_>>()?,
            body_end: conv(names.body_end(config.blocks))?,
            steps: (1..=config.steps).map(|step| conv(names.step(step))).collect::<Result<_>>()?,
            high: conv(names.high(config.steps))?,
            last: Conv::new(width, config.outputs, &vb.pp(names.last(config.steps)))?,
            unshuffle: config.unshuffle,
        })
    }

    /// The result may be larger than `scale` times the input, because folding needs even sides.
    pub(super) fn forward(&self, x: &Tensor, check: &dyn Fn() -> Result<()>) -> Result<Tensor> {
        let (_, _, height, width) = x.dims4()?;
        // Sides are at least 2, and multiples of 4 for folding.
        let unit = if self.unshuffle > 1 { 4 } else { 1 };
        let wanted = |length: usize| length.max(2).next_multiple_of(unit);
        let mut x = pad_reflect(&pad_reflect(x, 2, wanted(height))?, 3, wanted(width))?;
        if self.unshuffle > 1 {
            x = pixel_unshuffle(&x, self.unshuffle)?;
        }
        let first = self.first.forward(&x)?;
        let mut h = first.clone();
        for block in &self.blocks {
            let mut inner = h.clone();
            for dense in block {
                check()?;
                inner = dense.forward(&inner)?;
            }
            h = ops::add(&(inner * 0.2)?, &h)?;
        }
        h = ops::add(&first, &self.body_end.forward(&h)?)?;
        for step in &self.steps {
            check()?;
            h = leaky_relu(&step.forward(&enlarge(&h, 2)?)?)?;
        }
        check()?;
        self.last.forward(&leaky_relu(&self.high.forward(&h)?)?)
    }
}
