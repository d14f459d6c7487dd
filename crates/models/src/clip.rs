//! The text transformer of CLIP (<https://arxiv.org/abs/2103.00020>) with the names of Hugging Face's `CLIPTextModel`. Prompts are not
//! known here.

use candle_core::{DType, Device, Tensor};
use comfyd_weights::{StateDict, Weight};

use crate::error::{Error, Result};
use crate::ops;
use crate::transformer::{Activation, Layer};
use crate::unet::layers::LayerNorm;
use crate::vb::Vb;

/// The shape of a text transformer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClipConfig {
    /// Word pieces.
    pub vocabulary: usize,
    /// Tokens at once.
    pub positions: usize,
    /// Width.
    pub width: usize,
    /// Width inside the feed-forward part.
    pub intermediate: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads, of 64 channels each.
    pub heads: usize,
    /// Whether the activation is `x * sigmoid(1.702 x)` (OpenAI's CLIP); else GELU (OpenCLIP).
    pub quick_gelu: bool,
}

/// Channels of an attention head in every CLIP.
const HEAD_CHANNELS: usize = 64;
/// The width of OpenAI's ViT-L, the only one here with the quick GELU.
const WIDTH_L: usize = 768;
/// Blocks that a file may have.
const MAX_LAYERS: usize = 128;
impl ClipConfig {
    /// Told from the names `text_model.…` and their shapes.
    pub fn detect(weights: &StateDict) -> Result<Self> {
        let shape = |name: &str| -> Result<(usize, usize)> {
            match weights.shape(name) {
                Some([rows, columns]) => Ok((*rows, *columns)),
                Some(other) => Err(Error::Shape { name: name.into(), got: other.to_vec(), wanted: vec![0, 0] }),
                None => Err(Error::Missing(name.into())),
            }
        };
        let (vocabulary, width) = shape("text_model.embeddings.token_embedding.weight")?;
        let (positions, _) = shape("text_model.embeddings.position_embedding.weight")?;
        let (intermediate, _) = shape("text_model.encoder.layers.0.mlp.fc1.weight")?;
        let has = |layer: usize| weights.contains(&format!("text_model.encoder.layers.{layer}.mlp.fc1.weight"));
        let layers = (0..MAX_LAYERS).take_while(|layer| has(*layer)).count();
        if width == 0 || width % HEAD_CHANNELS != 0 {
            return Err(Error::msg(format!("a text encoder of width {width} cannot be divided into heads of {HEAD_CHANNELS} channels")));
        }
        let heads = width / HEAD_CHANNELS;
        Ok(Self { vocabulary, positions, width, intermediate, layers, heads, quick_gelu: width == WIDTH_L })
    }
}

/// What a pass gives.
#[derive(Debug)]
pub struct ClipOutput {
    /// The last block's output, normalised, `(B, T, D)`; `None` if it was not asked for.
    pub last: Option<Tensor>,
    /// The output of the block that was asked for, not normalised, `(B, T, D)`.
    pub hidden: Option<Tensor>,
}

/// The model.
pub struct ClipTextModel {
    config: ClipConfig,
    token_embedding: Weight,
    position_embedding: Tensor,
    layers: Vec<Layer>,
    final_norm: LayerNorm,
    projection: Option<Weight>,
}

impl ClipTextModel {
    /// Reads the weights; `text_model.…` and `text_projection.weight` lie directly below `vb`.
    pub fn new(config: &ClipConfig, vb: &Vb) -> Result<Self> {
        let text = vb.pp("text_model");
        let embeddings = text.pp("embeddings");
        let width = config.width;
        let layers = (0..config.layers).map(|index| Layer::new(config.width, config.intermediate, &text.pp("encoder.layers").pp(index)));
        Ok(Self {
            token_embedding: embeddings.weight(&[config.vocabulary, width], "token_embedding.weight")?,
            position_embedding: embeddings.get(&[config.positions, width], "position_embedding.weight")?,
            layers: layers.collect::<Result<_>>()?,
            final_norm: LayerNorm::new(width, &text.pp("final_layer_norm"))?,
            projection: vb.weight_opt(&[width, width], "text_projection.weight")?,
            config: config.clone(),
        })
    }

    /// Its shape.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// Where its weights are.
    pub fn device(&self) -> &Device {
        self.position_embedding.device()
    }

    /// The rows of word pieces: `ids` to `(ids.len(), D)`, F32.
    pub fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.config.vocabulary) {
            return Err(Error::msg(format!("the text encoder knows {} word pieces, {id} is not among them", self.config.vocabulary)));
        }
        ops::embedding(&Tensor::new(ids, self.device())?, &self.token_embedding)
    }

    /// Rows of tokens `(B, T, D)`, T as the config says, through the blocks. `hidden` is the index of a block whose output is wanted;
    /// blocks behind it run only if `last` is wanted as well. `check` is called before each block; its error stops.
    pub fn forward(&self, rows: &Tensor, hidden: Option<usize>, last: bool, check: &dyn Fn() -> Result<()>) -> Result<ClipOutput> {
        let (_, tokens, _) = rows.dims3()?;
        if tokens != self.config.positions {
            return Err(Error::msg(format!("the text encoder takes {} tokens at once, not {tokens}", self.config.positions)));
        }
        let mask = causal_mask(tokens, rows.device())?;
        let mut x = rows.broadcast_add(&self.position_embedding.to_dtype(rows.dtype())?)?;
        let mut output = ClipOutput { last: None, hidden: None };
        let activation = if self.config.quick_gelu { Activation::QuickGelu } else { Activation::Gelu };
        for (index, layer) in self.layers.iter().enumerate() {
            check()?;
            x = layer.forward(&x, self.config.heads, activation, Some(&mask))?;
            if hidden == Some(index) {
                output.hidden = Some(x.clone());
                if !last {
                    return Ok(output);
                }
            }
        }
        output.last = Some(self.normalise(&x)?);
        Ok(output)
    }

    /// The norm behind the last block.
    pub fn normalise(&self, x: &Tensor) -> Result<Tensor> {
        self.final_norm.forward(x)
    }

    /// The projection of pooled outputs `(B, D)`; none in the file: as they are.
    pub fn project(&self, pooled: &Tensor) -> Result<Tensor> {
        match &self.projection {
            Some(weight) => ops::linear(pooled, weight, None),
            None => Ok(pooled.clone()),
        }
    }
}

/// Minus infinity, as good as, for tokens that come later.
fn causal_mask(tokens: usize, device: &Device) -> Result<Tensor> {
    let values = (0..tokens * tokens).map(|place| if place % tokens > place / tokens { f32::MIN } else { 0.0 }).collect::<Vec<_>>();
    Ok(Tensor::from_vec(values, (tokens, tokens), device)?.to_dtype(DType::F32)?)
}
