//! The shape of a UNet, told from names and shapes. Which family it is of is not known here.

use crate::StateDict;

/// Blocks that are counted at most, whatever a file names.
const MAX_BLOCKS: usize = 256;

/// The shape of a Stable Diffusion UNet (the reference's `unet_config`). Level 0 is the one of the full latent size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UNetConfig {
    /// Channels of the input: 4; 9 for inpainting, 8 for instruct-pix2pix.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Channels of level 0.
    pub model_channels: usize,
    /// Residual blocks of each level (a decoder level has one more).
    pub num_res_blocks: Vec<usize>,
    /// Channels of each level as a multiple of `model_channels`.
    pub channel_mult: Vec<usize>,
    /// Transformer blocks after each residual block of the encoder, in order; 0: none.
    pub transformer_depth: Vec<usize>,
    /// Transformer blocks after each residual block of the decoder, in the order of the levels (not of the pass), as the reference
    /// keeps it: taken from the end while the decoder is built.
    pub transformer_depth_output: Vec<usize>,
    /// Transformer blocks of the middle; `None`: the middle has no transformer and only its first residual block.
    pub transformer_depth_middle: Option<usize>,
    /// Whether there is a middle at all; KOALA-700M has none.
    pub middle_block: bool,
    /// Width of the conditioning; 0 if no block looks at it.
    pub context_dim: usize,
    /// Whether transformers project with matrices; else with 1x1 convolutions.
    pub use_linear_in_transformer: bool,
    /// Width of the vector conditioning (`y`), if it takes one.
    pub adm_in_channels: Option<usize>,
    /// How channels are divided among attention heads.
    pub heads: Heads,
}

/// How channels are divided among attention heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heads {
    /// So many heads.
    Count(usize),
    /// So many channels each.
    Channels(usize),
}

/// The prefix of the UNet in a checkpoint: `model.diffusion_model.` where enough names begin so, else none.
pub fn unet_prefix(dict: &StateDict) -> &'static str {
    const LDM: &str = "model.diffusion_model.";
    if dict.names().filter(|name| name.starts_with(LDM)).count() > 5 { LDM } else { "" }
}

/// The shape of the UNet whose names begin with `prefix`; `None` if they are not those of an ldm UNet. `heads` is a guess from
/// convolutions or matrices: 8 heads for the former, 64 channels each for the latter.
pub fn unet_config(dict: &StateDict, prefix: &str) -> Option<UNetConfig> {
    let shape = |name: &str| dict.shape(&format!("{prefix}{name}"));
    let contains = |name: &str| dict.contains(&format!("{prefix}{name}"));
    let axis = |name: &str, axis: usize| shape(name).and_then(|shape| shape.get(axis)).copied();

    let (model_channels, in_channels) = (axis("input_blocks.0.0.weight", 0)?, axis("input_blocks.0.0.weight", 1)?);
    if model_channels == 0 {
        return None;
    }
    let blocks = count(dict, |i| format!("{prefix}input_blocks.{i}."));
    let mut levels = Levels::default();
    let (mut transformer_depth, mut transformer_depth_output) = (Vec::new(), Vec::new());
    let mut transformer: Option<Transformer> = None;
    for block in 0..blocks {
        let (input, output) = (format!("input_blocks.{block}."), format!("output_blocks.{}.", blocks - block - 1));
        if contains(&format!("{input}0.op.weight")) {
            levels.close();
            transformer_depth_output.push(depth(dict, &format!("{prefix}{output}")).map_or(0, |found| found.depth));
            continue;
        }
        if contains(&format!("{input}0.in_layers.0.weight")) {
            levels.residual += 1;
            levels.multiple = axis(&format!("{input}0.out_layers.3.weight"), 0)? / model_channels;
            let found = depth(dict, &format!("{prefix}{input}"));
            transformer_depth.push(found.as_ref().map_or(0, |found| found.depth));
            transformer = transformer.or(found);
        }
        if contains(&format!("{output}0.in_layers.0.weight")) {
            transformer_depth_output.push(depth(dict, &format!("{prefix}{output}")).map_or(0, |found| found.depth));
        }
    }
    levels.close();
    let middle =
        contains("middle_block.1.proj_in.weight").then(|| count(dict, |i| format!("{prefix}middle_block.1.transformer_blocks.{i}")));
    let use_linear = transformer.as_ref().is_some_and(|found| found.linear);
    Some(UNetConfig {
        in_channels,
        out_channels: axis("out.2.weight", 0).unwrap_or(4),
        model_channels,
        num_res_blocks: levels.num_res_blocks,
        channel_mult: levels.channel_mult,
        transformer_depth,
        transformer_depth_output,
        transformer_depth_middle: middle,
        middle_block: middle.is_some() || contains("middle_block.0.in_layers.0.weight"),
        context_dim: transformer.map_or(0, |found| found.context_dim),
        use_linear_in_transformer: use_linear,
        adm_in_channels: axis("label_emb.0.0.weight", 1),
        heads: if use_linear { Heads::Channels(64) } else { Heads::Count(8) },
    })
}

/// Whether the UNet has blocks over time, as video models do.
pub(crate) fn is_video(dict: &StateDict, prefix: &str) -> bool {
    dict.names().any(|name| name.starts_with(prefix) && (name.contains(".1.time_stack.") || name.contains(".1.time_mix_blocks.")))
}

#[derive(Default)]
struct Levels {
    num_res_blocks: Vec<usize>,
    channel_mult: Vec<usize>,
    residual: usize,
    multiple: usize,
}

impl Levels {
    fn close(&mut self) {
        self.num_res_blocks.push(std::mem::take(&mut self.residual));
        self.channel_mult.push(std::mem::take(&mut self.multiple));
    }
}

struct Transformer {
    depth: usize,
    context_dim: usize,
    linear: bool,
}

/// The transformer of the block whose names begin so.
fn depth(dict: &StateDict, block: &str) -> Option<Transformer> {
    let blocks = format!("{block}1.transformer_blocks.");
    let context_dim = *dict.shape(&format!("{blocks}0.attn2.to_k.weight"))?.get(1)?;
    let linear = dict.shape(&format!("{block}1.proj_in.weight"))?.len() == 2;
    Some(Transformer { depth: count(dict, |i| format!("{blocks}{i}.")), context_dim, linear })
}

/// How many of the prefixes that `f` makes for 0, 1, … some name begins with.
pub(crate) fn count(dict: &StateDict, f: impl Fn(usize) -> String) -> usize {
    (0..MAX_BLOCKS).take_while(|i| dict.has_prefix(&f(*i))).count()
}
