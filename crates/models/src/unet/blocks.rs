//! A UNet's blocks and how they are put together from a [`UNetConfig`]: the encoder and the middle, which ControlNets share, and the
//! decoder.

use candle_core::Tensor;
use comfyd_weights::detect::{Heads, UNetConfig};

use super::attention::{SpatialTransformer, TransformerConfig, Walk};
use super::layers::Conv2d;
use super::resblock::ResBlock;
use crate::{Error, Result, Vb};

/// One layer of a block.
#[derive(Debug)]
enum Layer {
    Conv(Conv2d),
    Res(ResBlock),
    Transformer(SpatialTransformer),
    Up(Conv2d),
}

/// Layers in a row (`TimestepEmbedSequential`).
#[derive(Debug, Default)]
pub(crate) struct Block {
    layers: Vec<Layer>,
}

impl Block {
    /// `h (B, C, H, W)` through all layers. `size` is what an upsampling layer makes of height and width; without it, it doubles them.
    pub fn forward(
        &self,
        h: &Tensor,
        emb_silu: &Tensor,
        context: &Tensor,
        size: Option<(usize, usize)>,
        walk: &mut Walk<'_>,
    ) -> Result<Tensor> {
        let mut h = h.clone();
        for layer in &self.layers {
            h = match layer {
                Layer::Conv(conv) => conv.forward(&h)?,
                Layer::Res(block) => {
                    walk.hooks.check()?;
                    block.forward(&h, emb_silu)?
                }
                Layer::Transformer(transformer) => transformer.forward(&h, context, walk)?,
                Layer::Up(conv) => upsample(conv, &h, size)?,
            };
        }
        Ok(h)
    }
}

/// Nearest neighbours, to twice the size or to `size`, and the convolution.
fn upsample(conv: &Conv2d, h: &Tensor, size: Option<(usize, usize)>) -> Result<Tensor> {
    let (_, _, height, width) = h.dims4()?;
    match size {
        Some(size) if size != (2 * height, 2 * width) => conv.forward(&h.upsample_nearest2d(size.0, size.1)?),
        _ => conv.forward_doubled(h),
    }
}

/// The encoder.
#[derive(Debug)]
pub(crate) struct Encoder {
    /// `input_blocks`.
    pub blocks: Vec<Block>,
    /// Channels of each block's result.
    pub channels: Vec<usize>,
}

/// The width of the time step's embedding.
pub(crate) fn embedding_width(config: &UNetConfig) -> usize {
    config.model_channels * 4
}

/// The transformer after a residual block with `channels` channels.
fn transformer(config: &UNetConfig, channels: usize, depth: usize, vb: &Vb) -> Result<Layer> {
    let (heads, head_dim) = match config.heads {
        Heads::Count(count) => (count, channels.checked_div(count).unwrap_or(0)),
        Heads::Channels(width) => (channels.checked_div(width).unwrap_or(0), width),
    };
    if heads == 0 || head_dim == 0 {
        return Err(Error::msg(format!("{channels} channels cannot be divided among attention heads; choose a file of the right kind")));
    }
    let context_dim = config.context_dim;
    let use_linear = config.use_linear_in_transformer;
    Ok(Layer::Transformer(SpatialTransformer::new(&TransformerConfig { channels, heads, head_dim, depth, context_dim, use_linear }, vb)?))
}

/// Levels, with their residual blocks and channels.
fn levels(config: &UNetConfig) -> Result<Vec<(usize, usize)>> {
    let (blocks, mults) = (&config.num_res_blocks, &config.channel_mult);
    if blocks.len() != mults.len() || blocks.is_empty() {
        return Err(Error::msg(format!("a UNet of {} levels has {} counts of blocks; choose another file", mults.len(), blocks.len())));
    }
    Ok(blocks.iter().copied().zip(mults.iter().map(|mult| mult * config.model_channels)).collect())
}

impl Encoder {
    /// `input_blocks.…` at `vb`.
    pub fn new(config: &UNetConfig, vb: &Vb) -> Result<Self> {
        let vb = vb.pp("input_blocks");
        let levels = levels(config)?;
        let mut ch = config.model_channels;
        let mut blocks = vec![Block { layers: vec![Layer::Conv(Conv2d::new(config.in_channels, ch, 3, 1, &vb.pp(0).pp(0))?)] }];
        let mut channels = vec![ch];
        let mut depths = config.transformer_depth.iter().copied();
        for (level, &(count, level_channels)) in levels.iter().enumerate() {
            for _ in 0..count {
                let here = vb.pp(blocks.len());
                let mut layers = vec![Layer::Res(ResBlock::new(ch, embedding_width(config), level_channels, &here.pp(0))?)];
                ch = level_channels;
                let depth = depths.next().unwrap_or(0);
                if depth > 0 {
                    layers.push(transformer(config, ch, depth, &here.pp(1))?);
                }
                blocks.push(Block { layers });
                channels.push(ch);
            }
            if level + 1 < levels.len() {
                let here = vb.pp(blocks.len());
                blocks.push(Block { layers: vec![Layer::Conv(Conv2d::new(ch, ch, 3, 2, &here.pp("0.op"))?)] });
                channels.push(ch);
            }
        }
        Ok(Self { blocks, channels })
    }

    /// Channels of the last block's result.
    pub fn out_channels(&self) -> usize {
        self.channels.last().copied().unwrap_or(0)
    }
}

/// `middle_block.…` at `vb`; `None` if the model has none, as the smallest distilled ones.
pub(crate) fn middle(config: &UNetConfig, channels: usize, vb: &Vb) -> Result<Option<Block>> {
    let vb = vb.pp("middle_block");
    let res = |name| Ok::<_, Error>(Layer::Res(ResBlock::new(channels, embedding_width(config), channels, &vb.pp(name))?));
    match config.transformer_depth_middle {
        Some(depth) => Ok(Some(Block { layers: vec![res("0")?, transformer(config, channels, depth, &vb.pp(1))?, res("2")?] })),
        None if config.middle_block => Ok(Some(Block { layers: vec![res("0")?] })),
        None => Ok(None),
    }
}

/// `output_blocks.…` at `vb`, and the channels of the last one's result.
pub(crate) fn decoder(config: &UNetConfig, encoder: &Encoder, vb: &Vb) -> Result<(Vec<Block>, usize)> {
    let vb = vb.pp("output_blocks");
    let mut skips = encoder.channels.clone();
    let mut ch = encoder.out_channels();
    let mut blocks: Vec<Block> = Vec::new();
    let mut depths = config.transformer_depth_output.iter().rev().copied();
    for (level, &(count, level_channels)) in levels(config)?.iter().enumerate().rev() {
        for i in 0..=count {
            let here = vb.pp(blocks.len());
            let skip = skips.pop().unwrap_or(0);
            let mut layers = vec![Layer::Res(ResBlock::new(ch + skip, embedding_width(config), level_channels, &here.pp(0))?)];
            ch = level_channels;
            let depth = depths.next().unwrap_or(0);
            if depth > 0 {
                layers.push(transformer(config, ch, depth, &here.pp(1))?);
            }
            if level > 0 && i == count {
                layers.push(Layer::Up(Conv2d::new(ch, ch, 3, 1, &here.pp(layers.len()).pp("conv"))?));
            }
            blocks.push(Block { layers });
        }
    }
    Ok((blocks, ch))
}
