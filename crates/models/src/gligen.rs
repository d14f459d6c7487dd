//! GLIGEN (<https://arxiv.org/abs/2301.07093>): between the attentions of each transformer of a UNet, tokens look at texts that are tied to boxes.
//! Which UNet that is, is not known here.

use candle_core::{DType, Device, Tensor};
use comfyd_weights::StateDict;

use crate::backbone::{AttentionInputs, BlockInfo, Hooks};
use crate::error::{Error, Result};
use crate::ops;
use crate::unet::attention::{CrossAttention, FeedForward};
use crate::unet::layers::{LayerNorm, Linear};
use crate::vb::Vb;

/// Boxes at most.
pub const MAX_BOXES: usize = 30;

/// Width of the layers that boxes go through.
const HIDDEN: usize = 512;
/// Frequencies of a box's coordinates, and how far they reach.
const FREQUENCIES: usize = 8;
const TEMPERATURE: f32 = 100.0;
/// Numbers that a box becomes: sines and cosines of four coordinates.
const POSITION: usize = FREQUENCIES * 2 * 4;
/// Of texts this wide (SD1) attentions have eight heads; of others heads have 64 channels.
const WIDTH_SD1: usize = 768;

/// The shape of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GligenConfig {
    /// Width of texts.
    pub text: usize,
    /// Width of what boxes become.
    pub objects: usize,
    /// Where the parts stand in the file, and how wide they are, in the order of a UNet's transformers.
    pub parts: Vec<(String, usize)>,
}

impl GligenConfig {
    /// Told from names and shapes.
    pub fn detect(weights: &StateDict) -> Result<Self> {
        const BLOCKS: usize = 20;
        let mut parts = Vec::new();
        for stage in ["input_blocks", "middle_block", "output_blocks"] {
            for block in 0..BLOCKS {
                let marker = format!("{stage}.{block}.");
                let found = weights.iter().find_map(|(name, tensor)| {
                    let place = name.strip_suffix(".fuser.linear.weight").filter(|_| name.contains(&marker))?;
                    Some((format!("{place}.fuser"), *tensor.shape().first()?))
                });
                parts.extend(found);
            }
        }
        let first = |name: &str| weights.shape(name).and_then(|shape| shape.first().copied()).ok_or_else(|| Error::Missing(name.into()));
        let text = first("position_net.null_positive_feature")?;
        let objects = first("position_net.linears.4.weight")?;
        if parts.is_empty()
            || parts.iter().any(|(_, width)| *width == 0 || *width % head_width(text, *width).max(1) != 0 || head_width(text, *width) == 0)
        {
            return Err(Error::msg("it has no parts for a UNet's transformers; choose a GLIGEN model for text boxes"));
        }
        Ok(Self { text, objects, parts })
    }
}

/// Channels of an attention head.
fn head_width(text: usize, width: usize) -> usize {
    if text == WIDTH_SD1 { width / 8 } else { 64.min(width) }
}

/// A box: left, top, right and bottom in parts of the picture, and the pooled text (1, D) that belongs into it.
#[derive(Debug, Clone)]
pub struct TextBox {
    /// Its edges.
    pub edges: [f32; 4],
    /// Its text.
    pub text: Tensor,
}

/// The model.
pub struct Gligen {
    text: usize,
    device: Device,
    linears: [Linear; 3],
    no_text: Tensor,
    no_position: Tensor,
    parts: Vec<Part>,
}

impl Gligen {
    /// Reads the weights.
    pub fn new(config: &GligenConfig, vb: &Vb) -> Result<Self> {
        let net = vb.pp("position_net");
        let linears = net.pp("linears");
        let no_text = net.get(&[config.text], "null_positive_feature")?.to_dtype(DType::F32)?;
        Ok(Self {
            text: config.text,
            device: no_text.device().clone(),
            linears: [
                Linear::new(config.text + POSITION, HIDDEN, &linears.pp(0))?,
                Linear::new(HIDDEN, HIDDEN, &linears.pp(2))?,
                Linear::new(HIDDEN, config.objects, &linears.pp(4))?,
            ],
            no_text,
            no_position: net.get(&[POSITION], "null_position_feature")?.to_dtype(DType::F32)?,
            parts: config.parts.iter().map(|(place, width)| Part::new(config, *width, &vb.pp(place))).collect::<Result<_>>()?,
        })
    }

    /// What tokens look at: the boxes, filled up to [`MAX_BOXES`] with what stands for none (1, 30, D).
    pub fn objects(&self, boxes: &[TextBox]) -> Result<Tensor> {
        if boxes.len() > MAX_BOXES {
            return Err(Error::msg(format!("{} text boxes are more than the {MAX_BOXES} that GLIGEN takes; leave some out", boxes.len())));
        }
        let none = Tensor::cat(&[&self.no_text, &self.no_position], 0)?.reshape((1, self.text + POSITION))?;
        let mut rows = Vec::with_capacity(MAX_BOXES);
        for TextBox { edges, text } in boxes {
            if text.dims() != [1, self.text] {
                return Err(Error::msg(format!(
                    "this GLIGEN model takes texts {} wide, the text encoder gives {:?}; load the one for the diffusion model",
                    self.text,
                    text.dims()
                )));
            }
            let position = Tensor::from_vec(frequencies(edges), (1, POSITION), &self.device)?;
            rows.push(Tensor::cat(&[&text.to_device(&self.device)?, &position], 1)?);
        }
        rows.resize(MAX_BOXES, none);
        let [first, second, third] = &self.linears;
        let h = ops::silu(&first.forward(&Tensor::cat(&rows, 0)?)?)?;
        let h = ops::silu(&second.forward(&h)?)?;
        Ok(third.forward(&h)?.unsqueeze(0)?)
    }
}

/// Sines and cosines of the edges at rising frequencies.
fn frequencies(edges: &[f32; 4]) -> Vec<f32> {
    let frequency = |index: usize| TEMPERATURE.powf(index as f32 / FREQUENCIES as f32);
    let waves = (0..FREQUENCIES).map(frequency).flat_map(|frequency| {
        let sines = edges.map(|edge| (frequency * edge).sin());
        sines.into_iter().chain(edges.map(|edge| (frequency * edge).cos()))
    });
    waves.collect()
}

/// What stands in one transformer (`GatedSelfAttentionDense`).
struct Part {
    linear: Linear,
    attention: CrossAttention,
    forward: FeedForward,
    norm1: LayerNorm,
    norm2: LayerNorm,
    attention_gate: f64,
    forward_gate: f64,
}

impl Part {
    fn new(config: &GligenConfig, width: usize, vb: &Vb) -> Result<Self> {
        let head = head_width(config.text, width);
        let gate = |name: &str| -> Result<f64> {
            let value = vb.get(&[], name)?.to_dtype(DType::F32)?.to_scalar::<f32>()?;
            Ok(f64::from(value.tanh()))
        };
        Ok(Self {
            linear: Linear::new(config.objects, width, &vb.pp("linear"))?,
            attention: CrossAttention::new(width, width, width / head, head, &vb.pp("attn"))?,
            forward: FeedForward::new(width, &vb.pp("ff"))?,
            norm1: LayerNorm::new(width, &vb.pp("norm1"))?,
            norm2: LayerNorm::new(width, &vb.pp("norm2"))?,
            attention_gate: gate("alpha_attn")?,
            forward_gate: gate("alpha_dense")?,
        })
    }

    /// Tokens `x (B, N, C)` and objects (1, 30, D).
    fn apply(&self, x: &Tensor, objects: &Tensor) -> Result<Tensor> {
        let (batch, tokens, _) = x.dims3()?;
        let objects = self.linear.forward(objects)?.repeat((batch, 1, 1))?;
        let seen = self.norm1.forward(&Tensor::cat(&[x, &objects], 1)?)?;
        let inputs = AttentionInputs { query: seen.clone(), key: seen.clone(), value: seen };
        let out = self.attention.forward(&inputs, |_, _, _| Ok(None))?.narrow(1, 0, tokens)?.contiguous()?;
        let x = ops::add(x, &(out * self.attention_gate)?)?;
        let out = self.forward.forward(&self.norm2.forward(&x)?, None)?;
        ops::add(&x, &(out * self.forward_gate)?)
    }
}

/// The model inside one pass.
pub struct Grounded {
    model: std::sync::Arc<Gligen>,
    objects: Tensor,
}

impl Grounded {
    /// With what [`Gligen::objects`] gave.
    pub fn new(model: std::sync::Arc<Gligen>, objects: Tensor) -> Self {
        Self { model, objects }
    }
}

impl Hooks for Grounded {
    fn between_attentions(&mut self, x: Tensor, at: &BlockInfo<'_>) -> Result<Tensor> {
        let Some(part) = self.model.parts.get(at.transformer_index) else {
            return Err(Error::msg(format!(
                "this GLIGEN model has {} parts, the diffusion model more transformers; load the one for the diffusion model",
                self.model.parts.len()
            )));
        };
        part.apply(&x, &self.objects)
    }
}
