//! What kind of model a file holds, told from names and shapes (and, for the meaning of SD2's and SDXL's output, from one small tensor).

mod family;
mod unet;

pub use self::family::{Family, Model, Prediction, Variant, detect};
pub(crate) use self::unet::count;
pub use self::unet::{unet_config, unet_prefix};

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
