//! ControlNets and adapters for control: the file's kind, told from names, and ldm's names for diffusers' ones.

use candle_core::{DType, Tensor};

use super::unet;
use crate::detect::{Heads, UNetConfig, count, unet_config};
use crate::error::Result;
use crate::state_dict::{LazyTensor, StateDict};

/// A file that steers a diffusion model with a picture.
#[derive(Debug, Clone)]
pub enum ControlFile {
    /// A copy of the encoder half of a UNet.
    ControlNet(Box<ControlNet>),
    /// A ControlNet in narrow matrices, by which it differs from the model's UNet (`lora_controlnet`).
    ControlLora(ControlLora),
    /// A T2I-Adapter, `body.…` without a prefix.
    T2iAdapter(StateDict),
}

/// A ControlNet of Stable Diffusion.
#[derive(Debug, Clone)]
pub struct ControlNet {
    /// Its weights: ldm's names without a prefix (`input_blocks.…`, `zero_convs.N.0`, `middle_block_out.0`, `input_hint_block.N`).
    pub weights: StateDict,
    /// The shape of the UNet that it is a copy of; the decoder's part is empty.
    pub config: UNetConfig,
    /// Channels of the picture.
    pub hint_channels: usize,
    /// The kinds of control that a union model knows (`task_embedding`, `control_add_embedding`).
    pub union_types: Option<usize>,
    /// Whether the weights are differences to the model's UNet, to be added to it (names that are there too).
    pub is_difference: bool,
}

impl ControlNet {
    /// The sum of a ControlNet of differences and its UNet `base`, whose names are ldm's too; made when the tensors are read.
    pub fn with_base(&self, base: &StateDict) -> StateDict {
        let mut out = self.weights.clone();
        for (name, tensor) in self.weights.iter() {
            let Some(base) = base.get(name).filter(|base| base.shape() == tensor.shape()).cloned() else { continue };
            let sum = tensor.map(tensor.shape().to_vec(), move |difference| {
                let base = base.read().map_err(candle_core::Error::wrap)?;
                base.to_dtype(DType::F32)?.add(&difference.to_dtype(DType::F32)?)?.to_dtype(difference.dtype())
            });
            out.insert(name, sum);
        }
        out
    }
}

/// A ControlNet as its difference from the encoder of a UNet; it takes its shape from that.
#[derive(Debug, Clone)]
pub struct ControlLora {
    /// What it has of its own, in ldm's names without a prefix: the picture's layers, the zero convolutions, norms, biases.
    pub weights: StateDict,
    /// What is added to weights of the UNet, by their names.
    pub differences: Vec<(String, LowRank)>,
    /// Channels of the picture.
    pub hint_channels: usize,
}

/// The product of two narrow matrices.
#[derive(Debug, Clone)]
pub struct LowRank {
    up: LazyTensor,
    down: LazyTensor,
}

impl LowRank {
    /// The product in the shape of a weight, F32.
    ///
    /// # Errors
    /// If the matrices do not fit to one another or to the shape, or cannot be read.
    pub fn product(&self, shape: &[usize]) -> candle_core::Result<Tensor> {
        let narrow = |tensor: &LazyTensor| tensor.read().map_err(candle_core::Error::wrap)?.to_dtype(DType::F32)?.flatten_from(1);
        narrow(&self.up)?.matmul(&narrow(&self.down)?)?.reshape(shape)
    }
}

/// What a file for control is.
pub fn control(dict: &StateDict) -> Result<ControlFile> {
    if dict.contains("lora_controlnet") {
        return Ok(ControlFile::ControlLora(control_lora(dict)?));
    }
    if dict.contains("controlnet_cond_embedding.conv_in.weight") {
        return Ok(ControlFile::ControlNet(Box::new(diffusers(dict)?)));
    }
    for prefix in ["control_model.", ""] {
        if dict.contains(&format!("{prefix}zero_convs.0.0.weight")) {
            let weights = dict.with_prefix(prefix, "");
            let mut config = unet_config(&weights, "").ok_or_else(|| dict.unknown(UNKNOWN))?;
            config.heads = heads(&config);
            let is_difference = !prefix.is_empty() && dict.contains("difference");
            return Ok(ControlFile::ControlNet(Box::new(finish(dict, weights, config, is_difference)?)));
        }
    }
    if let Some(weights) = t2i_adapter(dict) {
        return Ok(ControlFile::T2iAdapter(weights));
    }
    Err(dict.unknown(UNKNOWN))
}

const UNKNOWN: &str = "it is no ControlNet for SD1.x, SD2.x or SDXL and no T2I-Adapter; looked for zero_convs.0.0.weight, \
    controlnet_cond_embedding.conv_in.weight, lora_controlnet and body.0.";

/// What only a union of ControlNets has.
const UNION_MARK: &str = "control_add_embedding.linear_1.bias";

/// As in the UNets that ControlNets are copies of.
fn heads(config: &UNetConfig) -> Heads {
    if config.use_linear_in_transformer || config.context_dim == 0 { Heads::Channels(64) } else { Heads::Count(8) }
}

fn finish(dict: &StateDict, weights: StateDict, config: UNetConfig, is_difference: bool) -> Result<ControlNet> {
    let axis = |name: &str, axis: usize| weights.shape(name).and_then(|shape| shape.get(axis)).copied();
    let hint_channels = axis("input_hint_block.0.weight", 1);
    let hint_channels = hint_channels.ok_or_else(|| dict.unknown("it has no input_hint_block.0.weight, which every ControlNet has"))?;
    let union_types = if weights.contains(UNION_MARK) { axis("task_embedding", 0) } else { None };
    Ok(ControlNet { weights, config, hint_channels, union_types, is_difference })
}

fn control_lora(dict: &StateDict) -> Result<ControlLora> {
    let hint_channels = dict.shape("input_hint_block.0.weight").and_then(|shape| shape.get(1)).copied();
    let hint_channels = hint_channels.ok_or_else(|| dict.unknown("it has no input_hint_block.0.weight, which every control-LoRA has"))?;
    let mut weights = dict.empty_like();
    let mut differences = Vec::new();
    for (name, tensor) in dict.iter() {
        if name.ends_with(".weight") || name.ends_with(".bias") {
            weights.insert(name, tensor.clone());
        } else if let Some(layer) = name.strip_suffix(".up") {
            let down = format!("{layer}.down");
            let down = dict.get(&down).cloned().ok_or_else(|| dict.unknown(format!("it has {name}, but no {down}")))?;
            differences.push((format!("{layer}.weight"), LowRank { up: tensor.clone(), down }));
        }
    }
    Ok(ControlLora { weights, differences, hint_channels })
}

fn diffusers(dict: &StateDict) -> Result<ControlNet> {
    let mut config = unet::diffusers_config(dict).ok_or_else(|| dict.unknown(UNKNOWN))?;
    config.heads = heads(&config);
    let mut names = unet::names(&config);
    let mut both = |diffusers: String, ldm: String| {
        for kind in ["weight", "bias"] {
            names.push((format!("{diffusers}.{kind}"), format!("{ldm}.{kind}")));
        }
    };
    both("controlnet_mid_block".into(), "middle_block_out.0".into());
    for i in 0..count(dict, |i| format!("controlnet_down_blocks.{i}.")) {
        both(format!("controlnet_down_blocks.{i}"), format!("zero_convs.{i}.0"));
    }
    // The picture's convolutions stand in a row with activations between, hence every second number.
    let blocks = count(dict, |i| format!("controlnet_cond_embedding.blocks.{i}."));
    both("controlnet_cond_embedding.conv_in".into(), "input_hint_block.0".into());
    for i in 0..blocks {
        both(format!("controlnet_cond_embedding.blocks.{i}"), format!("input_hint_block.{}", 2 * (i + 1)));
    }
    both("controlnet_cond_embedding.conv_out".into(), format!("input_hint_block.{}", 2 * (blocks + 1)));

    let mut weights = dict.empty_like();
    let mut known = std::collections::HashSet::new();
    for (from, to) in names {
        if let Some(tensor) = dict.get(&from) {
            weights.insert(to, tensor.clone());
            known.insert(from);
        }
    }
    if dict.contains(UNION_MARK) {
        for (name, tensor) in dict.iter().filter(|(name, _)| !known.contains(*name)) {
            weights.insert(name.replace(".attn.in_proj_", ".attn.in_proj."), tensor.clone());
        }
    }
    finish(dict, weights, config, false)
}

/// A T2I-Adapter without the prefixes that it is saved with.
fn t2i_adapter(dict: &StateDict) -> Option<StateDict> {
    let dict = if dict.contains("adapter.body.0.resnets.0.block1.weight") {
        dict.rename(|name| {
            let name = name.strip_prefix("adapter.")?;
            let Some((i, rest)) = name.strip_prefix("body.").and_then(|rest| rest.split_once('.')) else { return Some(name.to_owned()) };
            let first = i.parse::<usize>().ok()?.checked_mul(2)?;
            Some(match rest.strip_prefix("resnets.").and_then(|rest| rest.split_once('.')) {
                Some((j, rest)) => format!("body.{}.{rest}", first.checked_add(j.parse::<usize>().ok()?)?),
                None => format!("body.{first}.{rest}"),
            })
        })
    } else if dict.has_prefix("adapter.body.") {
        dict.with_prefix("adapter.", "")
    } else {
        dict.clone()
    };
    (dict.contains("body.0.in_conv.weight") || dict.contains("conv_in.weight") && dict.has_prefix("body.0.")).then_some(dict)
}
