//! Test weights: numbers that are a pure function of a tensor's name and a value's place, so that every language can make the same
//! checkpoint from a layout of names and shapes. `conformance/diffusion/make_checkpoint.py` makes the same ones in Python. Not for use
//! outside tests: a model of such weights paints noise.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use indexmap::IndexMap;
use serde::Deserialize;

use crate::eight_bits::SmallFloat;
use crate::error::{Error, Result};
use crate::state_dict::{Form, LazyTensor, Source, StateDict};
use crate::weight::{Scaled8, Weight};

/// The tensor of that name and shape, F32 on the CPU, as the Python script makes it to the bit. Uniformly distributed: two or more axes
/// with the variance of one over the number of inputs (embeddings up to 0.05), weights of norms around 1, biases up to 0.02, a single
/// number 2.6592.
pub fn tensor(name: &str, shape: &[usize]) -> Result<Tensor> {
    if shape.is_empty() {
        return Ok(Tensor::new(2.6592f32, &Device::Cpu)?);
    }
    let count: usize = shape.iter().product();
    let seed = fnv1a64(name.as_bytes());
    let centred = (0..count as u64).map(|i| 2.0 * unit(seed, i) - 1.0);
    let values: Vec<f32> = if shape.len() >= 2 {
        let inputs: usize = shape[1..].iter().product();
        let is_embedding = name.contains("embedding") || name.contains("positional");
        let amplitude = if is_embedding { 0.05 } else { (3.0 / inputs as f64).sqrt() } as f32;
        centred.map(|c| c * amplitude).collect()
    } else if name.ends_with("weight") {
        centred.map(|c| 1.0 + 0.1f32 * c).collect()
    } else {
        centred.map(|c| 0.02f32 * c).collect()
    };
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// All tensors of a layout, `{"name": [axes], …}`, of this type, made when they are read.
pub fn state_dict(layout: &str, dtype: DType) -> Result<StateDict> {
    let layout: IndexMap<String, Vec<usize>> =
        serde_json::from_str(layout).map_err(|e| Error::Invalid { path: "layout".into(), format: "layout", reason: e.to_string() })?;
    Ok(from_shapes(layout, dtype))
}

/// All tensors of these names and shapes, of this type, made when they are read.
pub fn from_shapes(shapes: impl IntoIterator<Item = (String, Vec<usize>)>, dtype: DType) -> StateDict {
    let mut dict = StateDict::from_file(Path::new("synthetic weights"));
    for (name, shape) in shapes {
        let source = Synthetic { name: name.clone(), shape: shape.clone(), dtype, kind: Kind::ByRule };
        dict.insert(name, LazyTensor::new(shape, dtype, std::sync::Arc::new(source)));
    }
    dict
}

struct Synthetic {
    name: String,
    shape: Vec<usize>,
    dtype: DType,
    kind: Kind,
}

/// What values a tensor has.
enum Kind {
    /// Those of [`tensor`].
    ByRule,
    /// Those that the weight of a norm has, in another shape.
    NearOne,
    /// This one everywhere.
    Filled(f32),
    /// Those of [`tensor`] times this one, rounded to the file's type before and after.
    Scaled(f64),
}

impl Source for Synthetic {
    fn read(&self) -> Result<Weight> {
        let values = match self.kind {
            Kind::ByRule => tensor(&self.name, &self.shape)?,
            Kind::NearOne => {
                let count = self.shape.iter().product();
                tensor(&format!("{}.weight", self.name), &[count])?.reshape(self.shape.as_slice())?
            }
            Kind::Scaled(factor) => (tensor(&self.name, &self.shape)?.to_dtype(self.dtype)?.to_dtype(DType::F32)? * factor)?,
            Kind::Filled(value) => Tensor::full(value, self.shape.as_slice(), &Device::Cpu)?,
        };
        Ok(values.to_dtype(self.dtype)?.into())
    }
}

/// One file of a description of model files, such as `conformance/diffusion/reduced/models.json`; the keys are explained in
/// `conformance/diffusion/make_models.py`.
#[derive(Deserialize)]
struct ModelFile {
    tensors: IndexMap<String, Vec<usize>>,
    /// Files, beginnings of names there, and other beginnings for here.
    #[serde(default)]
    like: Vec<(String, String, String)>,
    #[serde(default)]
    prefix: String,
    dtype: Option<String>,
    #[serde(default)]
    values: IndexMap<String, f64>,
    #[serde(default)]
    near_one: Vec<String>,
    #[serde(default)]
    scaled: IndexMap<String, f64>,
    eight_bits: Option<EightBits>,
}

/// Which matrices are kept as eight-bit floats with a scale, and how that is told.
#[derive(Deserialize)]
struct EightBits {
    /// The beginning of their names, and of the marker's.
    root: String,
    /// Parts of names of which each has one at least.
    parts: Vec<String>,
    /// The end of the scales' names: `scale_weight` or `weight_scale`.
    names: String,
}

/// A matrix as eight-bit floats, such that the largest is as large as can be.
struct Eighth(LazyTensor);

impl Eighth {
    /// The values by which the matrix is divided, F32.
    fn scale(&self) -> Result<Tensor> {
        let largest = self.0.read()?.to_dtype(DType::F32)?.abs()?.max_all()?.to_scalar::<f32>()?;
        Ok(Tensor::new(largest / 448.0, &Device::Cpu)?)
    }
}

impl Source for Eighth {
    fn read(&self) -> Result<Weight> {
        let divided = self.0.read()?.to_dtype(DType::F32)?.broadcast_div(&self.scale()?)?;
        Ok(Weight::Scaled8(Scaled8::round(SmallFloat::E4m3, &divided)?))
    }

    fn form(&self) -> Form {
        Form::Small(SmallFloat::E4m3)
    }
}

impl EightBits {
    /// Exchanges the matrices, and adds their companions.
    fn apply(&self, dict: &mut StateDict) -> Result<()> {
        let is_one = |name: &str| name.starts_with(&self.root) && self.parts.iter().any(|part| name.contains(part.as_str()));
        let layers = dict.iter().filter(|(name, tensor)| tensor.shape().len() == 2 && is_one(name));
        let layers: Vec<String> = layers.filter_map(|(name, _)| Some(name.strip_suffix(".weight")?.to_owned())).collect();
        let one = |value: f32| Tensor::new(value, &Device::Cpu);
        let is_marked = self.names == "scale_weight";
        for layer in layers {
            let name = format!("{layer}.weight");
            let Some(tensor) = dict.get(&name).cloned() else { continue };
            let (shape, eighth) = (tensor.shape().to_vec(), Eighth(tensor));
            dict.insert(format!("{layer}.{}", self.names), eighth.scale()?);
            dict.insert(format!("{layer}.{}", if is_marked { "scale_input" } else { "input_scale" }), one(0.5)?);
            if !is_marked {
                let text = br#"{"format": "float8_e4m3fn"}"#;
                dict.insert(format!("{layer}.comfy_quant"), Tensor::new(&text[..], &Device::Cpu)?);
            }
            dict.insert(name, LazyTensor::new(shape, DType::F16, std::sync::Arc::new(eighth)));
        }
        if is_marked {
            // One value, not two: two would tell that products are taken in full precision, as they are here in any case.
            let marker = Eighth(Tensor::ones(1, DType::F32, &Device::Cpu)?.into());
            dict.insert(format!("{}scaled_fp8", self.root), LazyTensor::new(vec![1], DType::F16, std::sync::Arc::new(marker)));
        }
        Ok(())
    }
}

/// Writes those model files of a description into a folder that are not there, as `make_models.py` does.
pub fn write_models(description: &str, folder: &Path) -> Result<()> {
    let invalid = |reason: String| Error::Invalid { path: "models".into(), format: "description of models", reason };
    let models: IndexMap<String, ModelFile> = serde_json::from_str(description).map_err(|e| invalid(e.to_string()))?;
    for (file, model) in &models {
        let path = folder.join(file);
        if path.is_file() {
            continue;
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(Error::Write)?;
        }
        let mut tensors = IndexMap::new();
        for (like, from, to) in &model.like {
            let like = models.get(like).ok_or_else(|| invalid(format!("there is no file '{like}' for '{file}' to be like")))?;
            let named = like.tensors.iter().filter_map(|(name, shape)| Some((format!("{to}{}", name.strip_prefix(from.as_str())?), shape)));
            tensors.extend(named.map(|(name, shape)| (name, shape.clone())));
        }
        tensors.extend(model.tensors.iter().map(|(name, shape)| (name.clone(), shape.clone())));
        let mut dict = model.dict(tensors);
        if let Some(eight_bits) = &model.eight_bits {
            eight_bits.apply(&mut dict)?;
        }
        crate::write::write(&path, &dict, &crate::write::Options::default())?;
    }
    Ok(())
}

impl ModelFile {
    fn dict(&self, tensors: IndexMap<String, Vec<usize>>) -> StateDict {
        let dtype = if self.dtype.as_deref() == Some("f32") { DType::F32 } else { DType::F16 };
        let mut dict = StateDict::from_file(Path::new("synthetic weights"));
        for (name, shape) in tensors {
            let kind = match self.values.iter().find(|(end, _)| name.ends_with(end.as_str())) {
                Some((_, value)) => Kind::Filled(*value as f32),
                None if self.near_one.iter().any(|end| name.ends_with(end.as_str())) => Kind::NearOne,
                None => self.scaled.get(&name).map_or(Kind::ByRule, |factor| Kind::Scaled(*factor)),
            };
            let source = Synthetic { name: format!("{}{name}", self.prefix), shape: shape.clone(), dtype, kind };
            dict.insert(name, LazyTensor::new(shape, dtype, std::sync::Arc::new(source)));
        }
        dict
    }
}

/// The hash of Fowler, Noll and Vo, 64 bits.
fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// A number in [0, 1) of 24 bits: splitmix64's finaliser of the seed and the place.
fn unit(seed: u64, i: u64) -> f32 {
    let s = seed.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let z = (s ^ (s >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 40) as f32 * 2f32.powi(-24)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    /// The bits that the Python script gives for the first three values and the last.
    #[test]
    fn values_equal_those_of_the_script() {
        let cases: [(&str, &[usize], [u32; 4]); 5] = [
            ("a.weight", &[3], [0x3f768ba4, 0x3f845d99, 0x3f72222b, 0x3f72222b]),
            ("a.bias", &[3], [0x3c72fc30, 0x3c275e99, 0x3c2c7c59, 0x3c2c7c59]),
            ("conv.weight", &[2, 3, 3, 3], [0xbd5837eb, 0xbe54662b, 0x3dda8ffb, 0xbe8e86df]),
            ("token_embedding.weight", &[2, 4], [0xbb5ead00, 0xbb860a8d, 0xbc93fc1a, 0x3c99b88a]),
            ("model.diffusion_model.out.2.weight", &[4, 320, 3, 3], [0x3caf09e7, 0xbccf39fb, 0x3cb530ee, 0x3bd85fbb]),
        ];
        for (name, shape, wanted) in cases {
            let values = tensor(name, shape).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let got = [values[0], values[1], values[2], values[values.len() - 1]].map(f32::to_bits);
            assert_eq!(got, wanted, "{name}");
        }
    }
}
