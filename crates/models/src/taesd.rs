//! TAESD, the tiny autoencoder (<https://github.com/madebyollin/taesd>), for previews and as a fast stand-in for the large one.

use candle_core::{DType, Tensor};
use comfyd_weights::{StateDict, Weight};

use crate::error::{Error, Result};
use crate::ops;
use crate::vb::Vb;

/// What is known of a tiny autoencoder.
#[derive(Debug, Clone, PartialEq)]
pub struct TaesdConfig {
    /// Channels of its latents.
    pub latent_channels: usize,
    /// Factor from the latents of nodes to its own: 0.18215 for `taesd`, 0.13025 for `taesdxl`.
    pub scale: f64,
    /// Taken from latents of nodes before that.
    pub shift: f64,
}

impl TaesdConfig {
    /// Pixels along a side of a latent pixel: the layers are the same in every file.
    pub const COMPRESSION: usize = 8;

    /// Told from `taesd_decoder.1.weight`, and from `vae_scale` and `vae_shift` if they are there.
    pub fn detect(weights: &StateDict) -> Result<Self> {
        let name = "taesd_decoder.1.weight";
        let latent_channels = weights.shape(name).and_then(|shape| shape.get(1).copied()).ok_or_else(|| Error::Missing(name.into()))?;
        let number = |name: &str, default: f64| -> Result<f64> {
            let Some(tensor) = weights.get(name).filter(|tensor| tensor.size_bytes() <= 8) else { return Ok(default) };
            Ok(f64::from(tensor.read()?.to_dtype(DType::F32)?.flatten_all()?.get(0)?.to_scalar::<f32>()?))
        };
        Ok(Self { latent_channels, scale: number("vae_scale", 1.0)?, shift: number("vae_shift", 0.0)? })
    }

    /// For previews: latents are taken as samplers have them.
    pub fn preview(latent_channels: usize) -> Self {
        Self { latent_channels, scale: 1.0, shift: 0.0 }
    }
}

const WIDTH: usize = 64;

/// A step of one half; its number in the file is its place.
enum Step {
    Conv(Conv),
    Block(Box<Block>),
    Relu,
    Upsample,
    /// `3 * tanh(x / 3)`.
    Clamp,
}

struct Conv {
    weight: Weight,
    bias: Option<Tensor>,
    stride: usize,
}

impl Conv {
    fn new(input: usize, output: usize, bias: bool, stride: usize, vb: &Vb) -> Result<Self> {
        let bias = bias.then(|| vb.get(&[output], "bias")).transpose()?;
        Ok(Self { weight: vb.weight(&[output, input, 3, 3], "weight")?, bias, stride })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::conv2d(x, &self.weight, self.bias.as_ref(), self.stride, 1)
    }
}

struct Block {
    convs: [Conv; 3],
}

impl Block {
    fn new(vb: &Vb) -> Result<Self> {
        let conv = |index: usize| Conv::new(WIDTH, WIDTH, true, 1, &vb.pp("conv").pp(index));
        Ok(Self { convs: [conv(0)?, conv(2)?, conv(4)?] })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.convs[0].forward(x)?.relu()?;
        let h = self.convs[1].forward(&h)?.relu()?;
        Ok(ops::add(&self.convs[2].forward(&h)?, x)?.relu()?)
    }
}

impl Step {
    fn run(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Conv(conv) => conv.forward(x),
            Self::Block(block) => block.forward(x),
            Self::Relu => Ok(x.relu()?),
            Self::Upsample => ops::upsample_nearest_2x(x),
            Self::Clamp => Ok(((x / 3.0)?.tanh()? * 3.0)?),
        }
    }
}

fn run(steps: &[Step], x: &Tensor, check: &dyn Fn() -> Result<()>) -> Result<Tensor> {
    let mut x = x.clone();
    for step in steps {
        check()?;
        x = step.run(&x)?;
    }
    Ok(x)
}

fn encoder(latent_channels: usize, vb: &Vb) -> Result<Vec<Step>> {
    let mut steps = vec![Step::Conv(Conv::new(3, WIDTH, true, 1, &vb.pp(0))?), Step::Block(Box::new(Block::new(&vb.pp(1))?))];
    for _ in 0..3 {
        steps.push(Step::Conv(Conv::new(WIDTH, WIDTH, false, 2, &vb.pp(steps.len()))?));
        for _ in 0..3 {
            steps.push(Step::Block(Box::new(Block::new(&vb.pp(steps.len()))?)));
        }
    }
    steps.push(Step::Conv(Conv::new(WIDTH, latent_channels, true, 1, &vb.pp(steps.len()))?));
    Ok(steps)
}

fn decoder(latent_channels: usize, vb: &Vb) -> Result<Vec<Step>> {
    let mut steps = vec![Step::Clamp, Step::Conv(Conv::new(latent_channels, WIDTH, true, 1, &vb.pp(1))?), Step::Relu];
    for _ in 0..3 {
        for _ in 0..3 {
            steps.push(Step::Block(Box::new(Block::new(&vb.pp(steps.len()))?)));
        }
        steps.push(Step::Upsample);
        steps.push(Step::Conv(Conv::new(WIDTH, WIDTH, false, 1, &vb.pp(steps.len()))?));
    }
    steps.push(Step::Block(Box::new(Block::new(&vb.pp(steps.len()))?)));
    steps.push(Step::Conv(Conv::new(WIDTH, 3, true, 1, &vb.pp(steps.len()))?));
    Ok(steps)
}

/// The model; its halves may come from different files.
pub struct Taesd {
    config: TaesdConfig,
    encoder: Option<Vec<Step>>,
    decoder: Vec<Step>,
}

impl Taesd {
    /// Reads both halves, below `taesd_encoder` and `taesd_decoder`.
    pub fn new(config: &TaesdConfig, vb: &Vb) -> Result<Self> {
        Ok(Self {
            config: config.clone(),
            encoder: Some(encoder(config.latent_channels, &vb.pp("taesd_encoder"))?),
            decoder: decoder(config.latent_channels, &vb.pp("taesd_decoder"))?,
        })
    }

    /// Reads the decoder only, whose names in the file are `1.weight`, `3.conv.0.weight`, ….
    pub fn decoder_only(config: &TaesdConfig, vb: &Vb) -> Result<Self> {
        Ok(Self { config: config.clone(), encoder: None, decoder: decoder(config.latent_channels, vb)? })
    }

    /// Pixels `(B, 3, H, W)` in -1..1 to latents `(B, C, H / 8, W / 8)`.
    pub fn encode(&self, x: &Tensor, check: &dyn Fn() -> Result<()>) -> Result<Tensor> {
        let encoder = self.encoder.as_ref().ok_or_else(|| Error::msg("the tiny autoencoder was loaded without its encoder"))?;
        let z = run(encoder, &((x * 0.5)? + 0.5)?, check)?;
        Ok(((z / self.config.scale)? + self.config.shift)?)
    }

    /// Latents to pixels, about -1..1.
    pub fn decode(&self, z: &Tensor, check: &dyn Fn() -> Result<()>) -> Result<Tensor> {
        let x = run(&self.decoder, &((z - self.config.shift)? * self.config.scale)?, check)?;
        Ok(((x - 0.5)? * 2.0)?)
    }
}
