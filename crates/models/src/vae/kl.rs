//! `AutoencoderKL`, the autoencoder of Stable Diffusion (latent-diffusion, `ldm/models/autoencoder.py`), with that code's names.

use std::ops::Range;

use candle_core::Tensor;
use comfyd_weights::{StateDict, Weight};

use crate::Check;
use crate::error::{Error, Result};
use crate::ops;
use crate::vb::Vb;

/// The shape of an autoencoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KlConfig {
    /// Channels of the full size level.
    pub channels: usize,
    /// Channels of each level as a multiple of `channels`.
    pub channel_mult: Vec<usize>,
    /// Residual blocks of each encoder level; a decoder level has one more.
    pub num_res_blocks: usize,
    /// Channels of the decoder's input.
    pub z_channels: usize,
    /// Channels of latents, if there are convolutions between latents and encoder or decoder.
    pub embed_dim: Option<usize>,
    /// Whether the file has an encoder.
    pub encoder: bool,
}

const GROUPS: usize = 32;
const EPS: f64 = 1e-6;
/// Levels and blocks that a file may have.
const MAX_COUNT: usize = 16;

impl KlConfig {
    /// Told from names and shapes.
    pub fn detect(weights: &StateDict) -> Result<Self> {
        let shape = |name: &str| match weights.shape(name) {
            Some([output, input, ..]) => Ok((*output, *input)),
            _ => Err(Error::Missing(name.into())),
        };
        let (_, z_channels) = shape("decoder.conv_in.weight")?;
        let has = |level: usize, block: usize| weights.contains(&format!("decoder.up.{level}.block.{block}.conv1.weight"));
        let levels = (0..MAX_COUNT).take_while(|level| has(*level, 0)).count();
        let blocks = (0..MAX_COUNT).take_while(|block| has(0, *block)).count();
        if levels == 0 || blocks < 2 {
            return Err(Error::Missing("decoder.up.0.block.1.conv1.weight".into()));
        }
        let widths = (0..levels).map(|level| Ok(shape(&format!("decoder.up.{level}.block.0.conv1.weight"))?.0));
        let widths = widths.collect::<Result<Vec<_>>>()?;
        let channels = widths[0];
        if channels == 0 || channels % GROUPS != 0 || widths.iter().any(|width| width % channels != 0) {
            return Err(Error::msg(format!("an autoencoder with levels of {widths:?} channels is not known; choose another file")));
        }
        Ok(Self {
            channels,
            channel_mult: widths.iter().map(|width| width / channels).collect(),
            num_res_blocks: blocks - 1,
            z_channels,
            embed_dim: weights.shape("post_quant_conv.weight").and_then(|shape| shape.get(1).copied()),
            encoder: weights.contains("encoder.conv_in.weight"),
        })
    }

    /// Channels of latents.
    pub fn latent_channels(&self) -> usize {
        self.embed_dim.unwrap_or(self.z_channels)
    }

    /// Pixels along a side of a latent pixel.
    pub fn compression(&self) -> usize {
        1 << (self.channel_mult.len() - 1)
    }

    fn width(&self, level: usize) -> usize {
        self.channels * self.channel_mult[level]
    }
}

/// The model.
pub struct AutoencoderKl {
    encoder: Option<Encoder>,
    quant: Option<Conv>,
    post_quant: Option<Conv>,
    decoder: Decoder,
}

impl AutoencoderKl {
    /// Reads the weights.
    pub fn new(config: &KlConfig, vb: &Vb) -> Result<Self> {
        let z = config.z_channels;
        let conv = |input, output, name: &str| Conv::new(input, output, 1, &vb.pp(name));
        let quant = config.embed_dim.filter(|_| config.encoder).map(|width| conv(2 * z, 2 * width, "quant_conv")).transpose()?;
        Ok(Self {
            encoder: config.encoder.then(|| Encoder::new(config, &vb.pp("encoder"))).transpose()?,
            quant,
            post_quant: config.embed_dim.map(|width| conv(width, z, "post_quant_conv")).transpose()?,
            decoder: Decoder::new(config, &vb.pp("decoder"))?,
        })
    }

    /// Pixels `(B, 3, H, W)` in -1..1 to the mean of the latents' distribution `(B, C, h, w)`.
    pub fn encode(&self, x: &Tensor, check: Check<'_>) -> Result<Tensor> {
        let encoder = self.encoder.as_ref().ok_or_else(|| Error::msg("the VAE has no encoder; choose a file that has one"))?;
        let mut moments = encoder.forward(x, check)?;
        if let Some(quant) = &self.quant {
            moments = quant.forward(&moments, check)?;
        }
        Ok(moments.narrow(1, 0, moments.dim(1)? / 2)?.contiguous()?)
    }

    /// Latents `(B, C, h, w)` to pixels `(B, 3, H, W)`, about -1..1.
    pub fn decode(&self, z: &Tensor, check: Check<'_>) -> Result<Tensor> {
        match &self.post_quant {
            Some(post_quant) => self.decoder.forward(&post_quant.forward(z, check)?, check),
            None => self.decoder.forward(z, check),
        }
    }
}

struct Conv {
    weight: Weight,
    bias: Tensor,
    padding: usize,
}

impl Conv {
    fn new(input: usize, output: usize, kernel: usize, vb: &Vb) -> Result<Self> {
        let weight = vb.weight(&[output, input, kernel, kernel], "weight")?;
        Ok(Self { weight, bias: vb.get(&[output], "bias")?, padding: kernel / 2 })
    }

    /// Asks whether to go on, in large pictures every few rows: a single layer takes seconds there.
    fn forward(&self, x: &Tensor, check: Check<'_>) -> Result<Tensor> {
        in_strips(x, self.strips(x, 1)?, (self.padding, 1), check, |x, _| ops::conv2d(x, &self.weight, Some(&self.bias), 1, self.padding))
    }

    /// Plus `residual`, which has the result's shape.
    fn forward_added(&self, x: &Tensor, residual: &Tensor, check: Check<'_>) -> Result<Tensor> {
        in_strips(x, self.strips(x, 1)?, (self.padding, 1), check, |x, rows| {
            let residual = rows_of(residual, rows)?;
            let added = ops::Added { bias: Some(&self.bias), residual: Some(&residual), ..ops::Added::default() };
            ops::conv2d_added(x, &self.weight, added, 1, self.padding)
        })
    }

    /// Of `x` with every pixel twice along both axes.
    fn forward_doubled(&self, x: &Tensor, check: Check<'_>) -> Result<Tensor> {
        let layer = |x: &Tensor, _: &Range<usize>| ops::conv2d_of_doubled(x, &self.weight, Some(&self.bias), self.padding);
        in_strips(x, self.strips(x, 2)?, (self.padding, 2), check, layer)
    }

    /// In how many parts a layer is done whose result has `scale` times the sides of `x`.
    fn strips(&self, x: &Tensor, scale: usize) -> Result<usize> {
        let outputs = scale * scale * x.dims().iter().product::<usize>() / x.dim(1)?.max(1);
        Ok(strips(self.weight.dims().iter().product::<usize>().saturating_mul(outputs), x))
    }

    /// Half the size: one row and column of zeros at the end, none at the begin.
    fn halve(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?;
        ops::conv2d(&x, &self.weight, Some(&self.bias), 2, 0)
    }
}

/// Multiplications after which it is asked whether to go on: a fraction of a second's work.
const MOST_WORK: usize = 40_000_000_000;

/// In how many parts work of so many multiplications is done. A card is asked for all at once.
fn strips(work: usize, x: &Tensor) -> usize {
    if x.device().is_cpu() { work.div_ceil(MOST_WORK).max(1) } else { 1 }
}

/// What `layer` makes of `x (B, C, H, W)`, some rows at a time, whose places it is told; its result has `scale` times the sides, and it looks at
/// `reach` rows above and below.
fn in_strips(
    x: &Tensor,
    strips: usize,
    (reach, scale): (usize, usize),
    check: Check<'_>,
    layer: impl Fn(&Tensor, &Range<usize>) -> Result<Tensor>,
) -> Result<Tensor> {
    check()?;
    let rows = x.dim(2)?;
    let height = rows.div_ceil(strips).max(reach).max(1);
    if height >= rows {
        return layer(x, &(0..rows));
    }
    let mut parts = Vec::new();
    for top in (0..rows).step_by(height) {
        check()?;
        let bottom = (top + height).min(rows);
        let seen = top.saturating_sub(reach)..(bottom + reach).min(rows);
        let part = layer(&rows_of(x, &seen)?, &seen)?;
        parts.push(part.narrow(2, scale * (top - seen.start), scale * (bottom - top))?);
    }
    Ok(Tensor::cat(&parts, 2)?)
}

/// Some rows of `x (B, C, H, W)`.
fn rows_of(x: &Tensor, rows: &Range<usize>) -> Result<Tensor> {
    Ok(x.narrow(2, rows.start, rows.len())?.contiguous()?)
}

struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    fn new(channels: usize, vb: &Vb) -> Result<Self> {
        Ok(Self { weight: vb.get(&[channels], "weight")?, bias: vb.get(&[channels], "bias")? })
    }

    fn silu(&self, x: &Tensor) -> Result<Tensor> {
        ops::group_norm_silu(x, &self.weight, &self.bias, GROUPS, EPS)
    }
}

struct ResBlock {
    norm1: Norm,
    conv1: Conv,
    norm2: Norm,
    conv2: Conv,
    shortcut: Option<Conv>,
}

impl ResBlock {
    fn new(input: usize, output: usize, vb: &Vb) -> Result<Self> {
        Ok(Self {
            norm1: Norm::new(input, &vb.pp("norm1"))?,
            conv1: Conv::new(input, output, 3, &vb.pp("conv1"))?,
            norm2: Norm::new(output, &vb.pp("norm2"))?,
            conv2: Conv::new(output, output, 3, &vb.pp("conv2"))?,
            shortcut: (input != output).then(|| Conv::new(input, output, 1, &vb.pp("nin_shortcut"))).transpose()?,
        })
    }

    fn forward(&self, x: &Tensor, check: Check<'_>) -> Result<Tensor> {
        let h = self.conv1.forward(&self.norm1.silu(x)?, check)?;
        let h = self.norm2.silu(&h)?;
        let shortcut = self.shortcut.as_ref().map(|shortcut| shortcut.forward(x, check)).transpose()?;
        self.conv2.forward_added(&h, shortcut.as_ref().unwrap_or(x), check)
    }
}

/// Attention of one head over all pixels.
struct AttnBlock {
    norm: Norm,
    q: Conv,
    k: Conv,
    v: Conv,
    out: Conv,
}

impl AttnBlock {
    fn new(channels: usize, vb: &Vb) -> Result<Self> {
        let conv = |name: &str| Conv::new(channels, channels, 1, &vb.pp(name));
        Ok(Self { norm: Norm::new(channels, &vb.pp("norm"))?, q: conv("q")?, k: conv("k")?, v: conv("v")?, out: conv("proj_out")? })
    }

    fn forward(&self, x: &Tensor, check: Check<'_>) -> Result<Tensor> {
        let h = ops::group_norm(x, &self.norm.weight, &self.norm.bias, GROUPS, EPS)?;
        let rows = |conv: &Conv| -> Result<Tensor> { Ok(conv.forward(&h, check)?.flatten_from(2)?.transpose(1, 2)?.contiguous()?) };
        let (q, k, v) = (rows(&self.q)?, rows(&self.k)?, rows(&self.v)?);
        let (batch, pixels, channels) = q.dims3()?;
        let work = (2 * batch * channels).saturating_mul(pixels).saturating_mul(pixels);
        let height = pixels.div_ceil(strips(work, x)).max(1);
        let mut parts = Vec::new();
        for first in (0..pixels).step_by(height) {
            check()?;
            let queries = q.narrow(1, first, height.min(pixels - first))?.contiguous()?;
            parts.push(ops::attention(&queries, &k, &v, 1, None)?);
        }
        let h = Tensor::cat(&parts, 1)?.transpose(1, 2)?.contiguous()?.reshape(x.shape())?;
        self.out.forward_added(&h, x, check)
    }
}

struct Middle {
    block1: ResBlock,
    attention: AttnBlock,
    block2: ResBlock,
}

impl Middle {
    fn new(channels: usize, vb: &Vb) -> Result<Self> {
        Ok(Self {
            block1: ResBlock::new(channels, channels, &vb.pp("block_1"))?,
            attention: AttnBlock::new(channels, &vb.pp("attn_1"))?,
            block2: ResBlock::new(channels, channels, &vb.pp("block_2"))?,
        })
    }

    fn forward(&self, x: &Tensor, check: Check<'_>) -> Result<Tensor> {
        let x = self.block1.forward(x, check)?;
        let x = self.attention.forward(&x, check)?;
        self.block2.forward(&x, check)
    }
}

struct Level {
    blocks: Vec<ResBlock>,
    resample: Option<Conv>,
}

struct Encoder {
    conv_in: Conv,
    levels: Vec<Level>,
    middle: Middle,
    norm_out: Norm,
    conv_out: Conv,
}

impl Encoder {
    fn new(config: &KlConfig, vb: &Vb) -> Result<Self> {
        let mut width = config.channels;
        let mut levels = Vec::new();
        for level in 0..config.channel_mult.len() {
            let vb = vb.pp("down").pp(level);
            let mut blocks = Vec::new();
            for block in 0..config.num_res_blocks {
                blocks.push(ResBlock::new(width, config.width(level), &vb.pp("block").pp(block))?);
                width = config.width(level);
            }
            let halves = level + 1 < config.channel_mult.len();
            let resample = halves.then(|| Conv::new(width, width, 3, &vb.pp("downsample.conv"))).transpose()?;
            levels.push(Level { blocks, resample });
        }
        Ok(Self {
            conv_in: Conv::new(3, config.channels, 3, &vb.pp("conv_in"))?,
            levels,
            middle: Middle::new(width, &vb.pp("mid"))?,
            norm_out: Norm::new(width, &vb.pp("norm_out"))?,
            conv_out: Conv::new(width, 2 * config.z_channels, 3, &vb.pp("conv_out"))?,
        })
    }

    fn forward(&self, x: &Tensor, check: Check<'_>) -> Result<Tensor> {
        let mut x = self.conv_in.forward(x, check)?;
        for level in &self.levels {
            for block in &level.blocks {
                x = block.forward(&x, check)?;
            }
            if let Some(downsample) = &level.resample {
                check()?;
                x = downsample.halve(&x)?;
            }
        }
        x = self.middle.forward(&x, check)?;
        self.conv_out.forward(&self.norm_out.silu(&x)?, check)
    }
}

struct Decoder {
    conv_in: Conv,
    middle: Middle,
    /// From the smallest to the full size.
    levels: Vec<Level>,
    norm_out: Norm,
    conv_out: Conv,
}

impl Decoder {
    fn new(config: &KlConfig, vb: &Vb) -> Result<Self> {
        let last = config.channel_mult.len() - 1;
        let mut width = config.width(last);
        let (conv_in, middle) = (Conv::new(config.z_channels, width, 3, &vb.pp("conv_in"))?, Middle::new(width, &vb.pp("mid"))?);
        let mut levels = Vec::new();
        for level in (0..=last).rev() {
            let vb = vb.pp("up").pp(level);
            let mut blocks = Vec::new();
            for block in 0..=config.num_res_blocks {
                blocks.push(ResBlock::new(width, config.width(level), &vb.pp("block").pp(block))?);
                width = config.width(level);
            }
            let resample = (level != 0).then(|| Conv::new(width, width, 3, &vb.pp("upsample.conv"))).transpose()?;
            levels.push(Level { blocks, resample });
        }
        let (norm_out, conv_out) = (Norm::new(width, &vb.pp("norm_out"))?, Conv::new(width, 3, 3, &vb.pp("conv_out"))?);
        Ok(Self { conv_in, middle, levels, norm_out, conv_out })
    }

    fn forward(&self, z: &Tensor, check: Check<'_>) -> Result<Tensor> {
        let mut x = self.middle.forward(&self.conv_in.forward(z, check)?, check)?;
        for level in &self.levels {
            for block in &level.blocks {
                x = block.forward(&x, check)?;
            }
            if let Some(upsample) = &level.resample {
                x = upsample.forward_doubled(&x, check)?;
            }
        }
        self.conv_out.forward(&self.norm_out.silu(&x)?, check)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::cell::Cell;

    use candle_core::Device;

    use super::*;

    #[test]
    fn strips_make_the_same_picture_and_ask_in_between() {
        let noise = |shape: &[usize]| Tensor::randn(0f32, 1f32, shape, &Device::Cpu).unwrap();
        let (x, weight, bias) = (noise(&[1, 4, 21, 9]), Weight::from(noise(&[5, 4, 3, 3])), noise(&[5]));
        let residual = noise(&[1, 5, 21, 9]);
        let layer = |x: &Tensor, _: &Range<usize>| ops::conv2d(x, &weight, Some(&bias), 1, 1);
        let added = |x: &Tensor, rows: &Range<usize>| {
            let residual = rows_of(&residual, rows)?;
            ops::conv2d_added(x, &weight, ops::Added { bias: Some(&bias), residual: Some(&residual), ..ops::Added::default() }, 1, 1)
        };
        let doubled = |x: &Tensor, _: &Range<usize>| ops::conv2d_of_doubled(x, &weight, Some(&bias), 1);
        type Layer<'a> = &'a dyn Fn(&Tensor, &Range<usize>) -> Result<Tensor>;
        let layers: [(Layer<'_>, usize); 3] = [(&layer, 1), (&added, 1), (&doubled, 2)];
        for ((layer, scale), strips) in layers.into_iter().flat_map(|layer| [1, 2, 5, 21, 100].map(|strips| (layer, strips))) {
            let asked = Cell::new(0);
            let check = || {
                asked.set(asked.get() + 1);
                Ok(())
            };
            let whole = layer(&x, &(0..21)).unwrap();
            let parts = in_strips(&x, strips, (1, scale), &check, layer).unwrap();
            let off = (&parts - &whole).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(parts.dims() == whole.dims() && off < 1e-5, "{strips} strips: {off}");
            assert!(asked.get() >= strips.min(21), "{strips} strips asked {} times", asked.get());
        }
        let stop = || Err(Error::Interrupted);
        assert!(matches!(in_strips(&x, 3, (1, 1), &stop, layer), Err(Error::Interrupted)));
    }
}
