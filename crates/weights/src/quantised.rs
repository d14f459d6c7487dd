//! Weights that count only together with companion tensors: eight-bit floats with a scale, under both sets of names that ComfyUI gave
//! them. This is the one place that knows companions. What is in few bits in another way is refused by name: read as plain numbers, it
//! would give a wrong picture without a word.
//!
//! - `NAME.scale_weight` beside a marker `scaled_fp8` at the model's root: `NAME.weight` times the scale. In a UNet the reference keeps every
//!   other matrix and its bias in the marker's type, too.
//! - `NAME.weight_scale` beside `NAME.comfy_quant`, whose bytes are a JSON text with the format, or beside that text for all layers in the
//!   file's metadata (`_quantization_metadata`).
//! - `NAME.scale_input` and `NAME.input_scale` are for multiplying in eight bits, which is not done here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use candle_core::DType;
use serde_json::Value as Json;

use crate::eight_bits::SmallFloat;
use crate::error::Result;
use crate::state_dict::{Form, LazyTensor, Source, StateDict};
use crate::weight::{Scaled8, Weight};

/// Ends of names that only weights in few bits have, and who writes such ones.
const UNKNOWN: [(&str, &str); 24] = [
    (".weight_scale_2", "NVFP4"),
    (".weight_global_scale", "NVFP4 of compressed-tensors"),
    (".weight_packed", "compressed-tensors"),
    (".weight_zero_point", "compressed-tensors"),
    (".weight_scale_inv", "eight-bit floats with a scale for each block"),
    (".pre_quant_scale", "AWQ of ModelOpt"),
    (".weight_s_rel", "ComfyUI's W4A8"),
    (".weight_s_channel", "ComfyUI's W4A8"),
    (".weight_codebook", "ComfyUI's W4A8"),
    (".absmax", "bitsandbytes"),
    (".quant_map", "bitsandbytes"),
    (".nested_absmax", "bitsandbytes"),
    (".nested_quant_map", "bitsandbytes"),
    (".SCB", "bitsandbytes in eight bits"),
    (".qweight", "GPTQ, AWQ or SVDQuant"),
    (".qzeros", "GPTQ or AWQ"),
    (".g_idx", "GPTQ"),
    (".wscales", "SVDQuant"),
    (".wtscale", "SVDQuant"),
    (".smooth_factor", "SVDQuant"),
    (".W_q", "HQQ"),
    (".weight._data", "quanto"),
    (".weight:qdata", "torchao"),
    ("._weight_qdata", "torchao"),
];

/// What stands in the middle of names of bitsandbytes' four bits, whose ends differ.
const BITSANDBYTES: &str = ".quant_state.bitsandbytes";

/// Bytes of a `comfy_quant` text.
const MAX_TEXT_BYTES: u64 = 65536;

const MARKER: &str = "scaled_fp8";
const TEXT: &str = ".comfy_quant";
const TEXTS: &str = "_quantization_metadata";

/// The tensors as they are meant, without companions.
pub(crate) fn resolve(mut dict: StateDict) -> Result<StateDict> {
    check_formats(&mut dict)?;
    refuse_unknown(&dict)?;
    let mut rounded = marked(&mut dict);
    for Companion { name, weight, is_scale } in companions(&dict) {
        let (Some(scale), Some(tensor)) = (dict.remove(&name), dict.get(&weight).cloned()) else { continue };
        // Values that are not known are refused when they are read.
        if !is_scale || tensor.form() == Form::Unknown {
            continue;
        }
        if !matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16) {
            return Err(dict.unknown(format!("'{weight}' is in integers with the scale '{name}', {REFUSED}")));
        }
        let shape = tensor.shape().to_vec();
        if !is_one(&scale) && (scale.shape().first() != shape.first() || scale.shape()[1..] != vec![1; shape.len() - 1]) {
            return Err(dict.unknown(format!("'{name}' has the shape {:?} for weights of {shape:?}, {REFUSED}", scale.shape())));
        }
        let round = rounded.remove(&weight);
        dict.insert(weight, LazyTensor::new(shape, DType::F32, Arc::new(EightBits { tensor, round, scale: Some(scale) })));
    }
    for (name, kind) in rounded {
        let Some(tensor) = dict.get(&name).cloned() else { continue };
        let (shape, source) = (tensor.shape().to_vec(), EightBits { tensor, round: Some(kind), scale: None });
        dict.insert(name, LazyTensor::new(shape, DType::F16, Arc::new(source)));
    }
    Ok(dict)
}

const REFUSED: &str = "which is not known here; choose a file whose weights are in 16 or 32 bits, in fp8 or GGUF";

/// Takes the texts about formats out. Fails on one of a format that is not known.
fn check_formats(dict: &mut StateDict) -> Result<()> {
    let mut texts = Vec::new();
    let names: Vec<String> = dict.names().filter(|name| name.ends_with(TEXT)).map(str::to_owned).collect();
    for name in names {
        let Some(tensor) = dict.remove(&name) else { continue };
        let bytes = if tensor.dtype() == DType::U8 && tensor.size_bytes() <= MAX_TEXT_BYTES {
            tensor.read()?.flatten_all()?.to_vec1::<u8>()?
        } else {
            Vec::new()
        };
        let text: Json = serde_json::from_slice(&bytes)
            .map_err(|e| dict.unknown(format!("'{name}' is no JSON text: {e}; choose a file that is whole")))?;
        texts.push((name, text));
    }
    if let Some(all) = dict.metadata.remove(TEXTS) {
        let all = match &all {
            Json::String(text) => serde_json::from_str(text)
                .map_err(|e| dict.unknown(format!("its {TEXTS} is no JSON text: {e}; choose a file that is whole")))?,
            other => other.clone(),
        };
        let layers = all.get("layers").and_then(Json::as_object);
        texts.extend(layers.into_iter().flatten().map(|(layer, text)| (format!("{layer}{TEXT}"), text.clone())));
    }
    for (name, text) in texts {
        let format = text.get("format").and_then(Json::as_str).unwrap_or("");
        if !matches!(format, "float8_e4m3fn" | "float8_e5m2") {
            return Err(dict.unknown(format!("'{name}' tells of weights in the format '{format}', {REFUSED}")));
        }
    }
    Ok(())
}

fn refuse_unknown(dict: &StateDict) -> Result<()> {
    for name in dict.names() {
        let known = UNKNOWN.iter().find(|(end, _)| name.ends_with(end)).map(|(_, writer)| *writer);
        if let Some(writer) = known.or_else(|| name.contains(BITSANDBYTES).then_some("bitsandbytes")) {
            return Err(dict.unknown(format!("'{name}' belongs to weights in few bits ({writer}), {REFUSED}")));
        }
    }
    Ok(())
}

/// Takes the markers out. Gives the matrices of UNets below them, and their biases: what the reference rounds to the marker's type.
fn marked(dict: &mut StateDict) -> HashMap<String, SmallFloat> {
    let is_marker = |name: &&str| name.strip_suffix(MARKER).is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('.'));
    let markers: Vec<String> = dict.names().filter(is_marker).map(str::to_owned).collect();
    let mut rounded = HashMap::new();
    for marker in markers {
        let Some(tensor) = dict.remove(&marker) else { continue };
        let kind = match (tensor.form(), tensor.dtype()) {
            (Form::Small(kind), _) => kind,
            (Form::Dense, DType::F32) => SmallFloat::E4m3,
            (Form::Dense | Form::Scaled8 | Form::Scaled | Form::Quantised(_) | Form::Unknown, _) => continue,
        };
        let prefix = marker.strip_suffix(MARKER).unwrap_or_default();
        if !dict.contains(&format!("{prefix}input_blocks.0.0.weight")) {
            continue;
        }
        for (name, tensor) in dict.iter().filter(|(name, _)| name.starts_with(prefix)) {
            if let (Some(layer), 2) = (name.strip_suffix(".weight"), tensor.shape().len()) {
                rounded.insert(format!("{layer}.bias"), kind);
                rounded.insert(name.to_owned(), kind);
            }
        }
    }
    rounded.retain(|name, _| dict.get(name).is_some_and(|tensor| tensor.form() == Form::Dense));
    rounded
}

/// A tensor that belongs to a weight.
struct Companion {
    name: String,
    weight: String,
    /// Whether the weight is multiplied by it.
    is_scale: bool,
}

/// Those that are there; of two scales of one weight, the first.
fn companions(dict: &StateDict) -> Vec<Companion> {
    const ENDS: [(&str, bool); 4] = [(".scale_weight", true), (".weight_scale", true), (".scale_input", false), (".input_scale", false)];
    let mut scaled = HashSet::new();
    let mut found = Vec::new();
    for name in dict.names() {
        let end = ENDS.iter().find_map(|(end, is_scale)| Some((name.strip_suffix(end)?, *is_scale)));
        let (candidates, is_scale) = match (end, name.strip_suffix("_weight_scale")) {
            (Some((layer, is_scale)), _) => (vec![format!("{layer}.weight"), format!("{layer}_weight")], is_scale),
            // OpenCLIP's matrices of three projections are no layer's of their own.
            (None, Some(layer)) => (vec![format!("{layer}_weight")], true),
            (None, None) => continue,
        };
        let Some(weight) = candidates.into_iter().find(|weight| dict.contains(weight)) else { continue };
        if !is_scale || scaled.insert(weight.clone()) {
            found.push(Companion { name: name.to_owned(), weight, is_scale });
        }
    }
    found
}

/// Whether it is one number, on however many axes.
fn is_one(scale: &LazyTensor) -> bool {
    scale.shape().iter().all(|length| *length == 1)
}

/// Eight-bit floats as they are meant: rounded first, if the file has more bits than the reference keeps, then times the scale.
struct EightBits {
    tensor: LazyTensor,
    round: Option<SmallFloat>,
    /// One number, or one for each row.
    scale: Option<LazyTensor>,
}

impl Source for EightBits {
    fn read(&self) -> Result<Weight> {
        let weight = match self.round {
            Some(kind) => Weight::Scaled8(Scaled8::round(kind, &self.tensor.read()?)?),
            None => self.tensor.weight()?,
        };
        match &self.scale {
            Some(scale) => weight.scaled(scale.read()?.to_dtype(DType::F32)?.flatten_all()?),
            None => Ok(weight),
        }
    }

    fn form(&self) -> Form {
        match (self.round, self.tensor.form()) {
            (Some(_), _) | (None, Form::Small(_)) => Form::Scaled8,
            (None, Form::Dense | Form::Scaled8 | Form::Scaled | Form::Quantised(_) | Form::Unknown) => Form::Scaled,
        }
    }

    fn rows(&self, start: usize, count: usize) -> Option<Arc<dyn Source>> {
        let scale = match &self.scale {
            Some(scale) if !is_one(scale) => Some(scale.rows(start, count)?),
            other => other.clone(),
        };
        Some(Arc::new(Self { tensor: self.tensor.rows(start, count)?, round: self.round, scale }))
    }
}
