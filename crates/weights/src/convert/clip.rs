//! CLIP's text encoders: OpenCLIP's names, those of transformers with and without `text_model.`, and back to OpenCLIP for saving.

use candle_core::Tensor;

use crate::detect::count;
use crate::error::Result;
use crate::state_dict::{LazyTensor, StateDict};

/// A text encoder of the CLIP kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EncoderKind {
    /// OpenAI's ViT-L/14: 12 layers, 768 wide, quick GELU.
    ClipL,
    /// OpenCLIP's ViT-H/14: 24 layers, 1024 wide.
    ClipH,
    /// OpenCLIP's ViT-bigG/14: 32 layers, 1280 wide.
    ClipG,
}

impl EncoderKind {
    /// The name that the reference gives it: `clip_l`, `clip_h`, `clip_g`.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClipL => "clip_l",
            Self::ClipH => "clip_h",
            Self::ClipG => "clip_g",
        }
    }
}

/// OpenCLIP's names of a layer's parts, and transformers'.
const LAYER_PARTS: [(&str, &str); 5] = [
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
    ("attn.out_proj", "self_attn.out_proj"),
];

/// OpenCLIP's names outside layers, and transformers'.
const OTHER_PARTS: [(&str, &str); 4] = [
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    ("ln_final.weight", "text_model.final_layer_norm.weight"),
    ("ln_final.bias", "text_model.final_layer_norm.bias"),
];

const PROJECTIONS: [&str; 3] = ["q_proj", "k_proj", "v_proj"];

/// The text encoder whose OpenCLIP names begin with `prefix`, under transformers' names: `in_proj` is split into queries, keys and values,
/// the text projection turned into the matrix of a linear layer. `logit_scale` is kept; a picture encoder beside it is left out.
pub fn from_open_clip(dict: &StateDict, prefix: &str) -> StateDict {
    let mut out = dict.empty_like();
    for (name, tensor) in dict.iter() {
        let Some(name) = name.strip_prefix(prefix) else { continue };
        if let Some((_, to)) = OTHER_PARTS.iter().find(|(from, _)| *from == name) {
            out.insert(*to, tensor.clone());
        } else if let Some(rest) = name.strip_prefix("transformer.resblocks.") {
            insert_layer_part(&mut out, "text_model", rest, tensor);
        } else if name == "text_projection" && tensor.shape().len() == 2 {
            out.insert("text_projection.weight", transposed(tensor));
        } else if matches!(name, "text_projection.weight" | "logit_scale") {
            out.insert(name, tensor.clone());
        }
    }
    out
}

/// A part of a layer under its name of transformers, below `model`.
pub(super) fn insert_layer_part(out: &mut StateDict, model: &str, rest: &str, tensor: &LazyTensor) {
    let Some((layer, part)) = rest.split_once('.') else { return };
    let layer = format!("{model}.encoder.layers.{layer}");
    if let Some(kind) = part.strip_prefix("attn.in_proj_") {
        let rows = tensor.shape().first().map_or(0, |rows| rows / 3);
        for (i, projection) in PROJECTIONS.iter().enumerate() {
            if let Some(part) = tensor.rows(i * rows, rows) {
                out.insert(format!("{layer}.self_attn.{projection}.{kind}"), part);
            }
        }
        return;
    }
    let Some((part, kind)) = part.rsplit_once('.') else { return };
    if let Some((_, to)) = LAYER_PARTS.iter().find(|(from, _)| *from == part) {
        out.insert(format!("{layer}.{to}.{kind}"), tensor.clone());
    }
}

pub(super) fn transposed(tensor: &LazyTensor) -> LazyTensor {
    let shape = tensor.shape().iter().rev().copied().collect();
    tensor.map(shape, |t| t.t()?.contiguous())
}

/// The text encoder whose names of transformers begin with `prefix`. Names without `text_model.` get it; what a text encoder does not
/// have is left out.
pub fn from_transformers(dict: &StateDict, prefix: &str) -> StateDict {
    dict.rename(|name| {
        let name = name.strip_prefix(prefix)?;
        if name.ends_with("position_ids") {
            return None;
        }
        if ["text_model.", "text_projection", "logit_scale"].iter().any(|start| name.starts_with(start)) {
            return Some(name.to_owned());
        }
        ["embeddings.", "encoder.", "final_layer_norm."].iter().any(|start| name.starts_with(start)).then(|| format!("text_model.{name}"))
    })
}

/// The text encoder of a file that holds only one, in whatever scheme, and which one it is.
pub fn standalone(dict: &StateDict) -> Result<(EncoderKind, StateDict)> {
    const PREFIXES: [&str; 5] = ["", "transformer.", "cond_stage_model.transformer.", "cond_stage_model.model.", "model."];
    let has = |name: String| dict.contains(&name);
    for prefix in PREFIXES {
        let weights = if has(format!("{prefix}transformer.resblocks.0.ln_1.weight")) {
            from_open_clip(dict, prefix)
        } else if has(format!("{prefix}text_model.encoder.layers.0.mlp.fc1.weight"))
            || has(format!("{prefix}encoder.layers.0.mlp.fc1.weight"))
        {
            let mut weights = from_transformers(dict, prefix);
            // Written so by early versions of the reference's CLIPSave.
            if let Some(projection) = weights.remove("text_projection").filter(|tensor| tensor.shape().len() == 2) {
                weights.insert("text_projection.weight", transposed(&projection));
            }
            weights
        } else {
            continue;
        };
        return Ok((kind(&weights), weights));
    }
    Err(dict.unknown("it has no text encoder that is known; looked for CLIP with the names of transformers or OpenCLIP"))
}

/// Told by the number of layers, as the reference does.
fn kind(weights: &StateDict) -> EncoderKind {
    match count(weights, |i| format!("text_model.encoder.layers.{i}.")) {
        31.. => EncoderKind::ClipG,
        23.. => EncoderKind::ClipH,
        _ => EncoderKind::ClipL,
    }
}

/// The inverse of [`from_open_clip`], for saving.
pub fn to_open_clip(weights: &StateDict) -> StateDict {
    let mut out = weights.empty_like();
    for (name, tensor) in weights.iter() {
        if let Some((to, _)) = OTHER_PARTS.iter().find(|(_, from)| *from == name) {
            out.insert(*to, tensor.clone());
        } else if name == "text_projection.weight" {
            out.insert("text_projection", transposed(tensor));
        } else if let Some(rest) = name.strip_prefix("text_model.encoder.layers.") {
            insert_open_clip_part(&mut out, weights, rest, tensor);
        } else if name == "logit_scale" {
            out.insert(name, tensor.clone());
        }
    }
    out
}

fn insert_open_clip_part(out: &mut StateDict, weights: &StateDict, rest: &str, tensor: &LazyTensor) {
    let Some((layer, part)) = rest.split_once('.') else { return };
    let Some((part, kind)) = part.rsplit_once('.') else { return };
    if let Some((to, _)) = LAYER_PARTS.iter().find(|(_, from)| *from == part) {
        out.insert(format!("transformer.resblocks.{layer}.{to}.{kind}"), tensor.clone());
        return;
    }
    if part != "self_attn.q_proj" {
        return;
    }
    let others: Option<Vec<LazyTensor>> = PROJECTIONS
        .iter()
        .map(|projection| weights.get(&format!("text_model.encoder.layers.{layer}.self_attn.{projection}.{kind}")).cloned())
        .collect();
    if let Some(others) = others {
        out.insert(format!("transformer.resblocks.{layer}.attn.in_proj_{kind}"), LazyTensor::concat_rows(others));
    }
}

/// The projection that an encoder without one is given: it changes nothing.
pub fn identity_projection(width: usize) -> Result<Tensor> {
    Ok(Tensor::eye(width, candle_core::DType::F32, &candle_core::Device::Cpu)?)
}
