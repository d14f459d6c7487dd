//! The picture transformers of CLIP (<https://arxiv.org/abs/2103.00020>) and SigLIP (<https://arxiv.org/abs/2303.15343>) with the names of
//! Hugging Face's `CLIPVisionModelWithProjection` and `SiglipVisionModel`. How pixels are cut and scaled is not known here.

use candle_core::Tensor;
use comfyd_weights::{StateDict, Weight};

use crate::Check;
use crate::error::{Error, Result};
use crate::ops;
pub use crate::transformer::Activation;
use crate::transformer::Layer;
use crate::unet::layers::LayerNorm;
use crate::vb::Vb;

/// The shape of a picture transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Width.
    pub width: usize,
    /// Width inside the feed-forward part.
    pub intermediate: usize,
    /// Blocks.
    pub layers: usize,
    /// Pixels of a patch on each side.
    pub patch: usize,
    /// Tokens: the patches, and with CLIP the class before them.
    pub positions: usize,
    /// Pixels of a picture on each side.
    pub picture: usize,
    /// Between the linear layers of a block.
    pub activation: Activation,
    /// Which of the two it is.
    pub kind: VisionKind,
    /// Width of the projection, if there is one.
    pub projection: Option<usize>,
}

/// Whose transformer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VisionKind {
    /// CLIP's: a token for the class, which becomes the embedding.
    Clip,
    /// SigLIP's: patches only, all of which are the embedding.
    Siglip,
}

/// Attention heads of all of them.
const HEADS: usize = 16;
/// Blocks of ViT-L, which alone has the quick GELU.
const LAYERS_L: usize = 24;
const MAX_LAYERS: usize = 64;
impl VisionConfig {
    /// Told from the names `vision_model.…` and their shapes.
    pub fn detect(weights: &StateDict) -> Result<Self> {
        let shape = |name: &str| weights.shape(name).ok_or_else(|| Error::Missing(name.into()));
        let patches = shape("vision_model.embeddings.patch_embedding.weight")?;
        let &[width, _, patch, _] = patches else {
            return Err(Error::msg(
                "it cuts pictures of any shape into patches (SigLIP 2 NaFlex), which is not supported; choose CLIP or SigLIP",
            ));
        };
        let positions = shape("vision_model.embeddings.position_embedding.weight")?.first().copied().unwrap_or(0);
        let intermediate = shape("vision_model.encoder.layers.0.mlp.fc1.weight")?.first().copied().unwrap_or(0);
        let has = |layer: usize| weights.contains(&format!("vision_model.encoder.layers.{layer}.layer_norm1.weight"));
        let layers = (0..MAX_LAYERS).take_while(|layer| has(*layer)).count();
        let kind = if weights.contains("vision_model.embeddings.class_embedding") { VisionKind::Clip } else { VisionKind::Siglip };
        let grid = (positions - usize::from(kind == VisionKind::Clip && positions > 0)).isqrt();
        if width == 0 || width % HEADS != 0 || patch == 0 || grid == 0 || layers < 2 {
            return Err(Error::msg(format!(
                "a vision encoder of width {width}, patches of {patch} pixels, {positions} positions and {layers} layers is not known; \
                 choose CLIP's ViT-L, ViT-H, ViT-bigG or SigLIP"
            )));
        }
        let activation = match (kind, layers) {
            (VisionKind::Siglip, _) => Activation::GeluTanh,
            (VisionKind::Clip, LAYERS_L) => Activation::QuickGelu,
            (VisionKind::Clip, _) => Activation::Gelu,
        };
        // SigLIP's 27 patches of 14 pixels leave 6 of its 384 pixels out.
        let picture = if (kind, grid, patch) == (VisionKind::Siglip, 27, 14) { 384 } else { grid * patch };
        let projection = weights.shape("visual_projection.weight").and_then(|shape| shape.first().copied());
        Ok(Self { width, intermediate, layers, patch, positions, picture, activation, kind, projection })
    }

    /// What is taken from pixels of 0 to 1, and what they are divided by, by colour.
    pub fn normal(&self) -> ([f32; 3], [f32; 3]) {
        match self.kind {
            VisionKind::Clip => ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]),
            VisionKind::Siglip => ([0.5; 3], [0.5; 3]),
        }
    }

    /// Bytes that a pass over one picture takes: scores, and the widest layer beside the tokens.
    pub fn memory_bytes(&self) -> u64 {
        let (tokens, width) = (self.positions as u64, (self.intermediate + 6 * self.width) as u64);
        4 * (HEADS as u64 * tokens * tokens + tokens * width)
    }
}

/// What a pass gives.
#[derive(Debug, Clone)]
pub struct VisionOutput {
    /// The last block's output (B, T, D); SigLIP's is normalised.
    pub last: Tensor,
    /// The output of the block before it (B, T, D).
    pub penultimate: Tensor,
    /// The embedding (B, P); SigLIP's is (B, T, D).
    pub embeds: Tensor,
}

/// The model.
pub struct VisionModel {
    config: VisionConfig,
    class: Option<Tensor>,
    patch: Weight,
    patch_bias: Option<Tensor>,
    position: Tensor,
    pre: Option<LayerNorm>,
    layers: Vec<Layer>,
    post: LayerNorm,
    projection: Option<Weight>,
}

impl VisionModel {
    /// Reads the weights.
    pub fn new(config: &VisionConfig, vb: &Vb) -> Result<Self> {
        let vision = vb.pp("vision_model");
        let embeddings = vision.pp("embeddings");
        let (width, is_clip) = (config.width, config.kind == VisionKind::Clip);
        let layers = (0..config.layers).map(|index| Layer::new(config.width, config.intermediate, &vision.pp("encoder.layers").pp(index)));
        Ok(Self {
            class: is_clip.then(|| embeddings.get(&[width], "class_embedding")).transpose()?,
            patch: embeddings.weight(&[width, 3, config.patch, config.patch], "patch_embedding.weight")?,
            patch_bias: (!is_clip).then(|| embeddings.get(&[width], "patch_embedding.bias")).transpose()?,
            position: embeddings.get(&[config.positions, width], "position_embedding.weight")?,
            pre: is_clip.then(|| LayerNorm::new(width, &vision.pp("pre_layrnorm"))).transpose()?,
            layers: layers.collect::<Result<_>>()?,
            post: LayerNorm::new(width, &vision.pp("post_layernorm"))?,
            projection: config.projection.map(|to| vb.weight(&[to, width], "visual_projection.weight")).transpose()?,
            config: config.clone(),
        })
    }

    /// Normalised pixels (B, 3, P, P), P as the config says. `check` is called before each block; its error stops.
    pub fn forward(&self, pixels: &Tensor, check: Check<'_>) -> Result<VisionOutput> {
        let batch = pixels.dim(0)?;
        let patches = ops::conv2d(pixels, &self.patch, self.patch_bias.as_ref(), self.config.patch, 0)?;
        let mut x = patches.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        if let Some(class) = &self.class {
            let class = class.to_dtype(x.dtype())?.reshape((1, 1, self.config.width))?.broadcast_as((batch, 1, self.config.width))?;
            x = Tensor::cat(&[&class.contiguous()?, &x], 1)?;
        }
        x = x.broadcast_add(&self.position.to_dtype(x.dtype())?)?;
        if let Some(pre) = &self.pre {
            x = pre.forward(&x)?;
        }
        let mut penultimate = x.clone();
        for (index, layer) in self.layers.iter().enumerate() {
            check()?;
            x = layer.forward(&x, HEADS, self.config.activation, None)?;
            if index + 2 == self.layers.len() {
                penultimate = x.clone();
            }
        }
        let pooled = match self.config.kind {
            VisionKind::Clip => self.post.forward(&x.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?)?,
            VisionKind::Siglip => {
                x = self.post.forward(&x)?;
                x.clone()
            }
        };
        let embeds = match &self.projection {
            Some(projection) => ops::linear(&pooled, projection, None)?,
            None => pooled,
        };
        Ok(VisionOutput { last: x, penultimate, embeds })
    }
}
