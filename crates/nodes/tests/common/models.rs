//! The model files of `conformance/diffusion/reduced/models.json`, made by the rule that `make_models.py` follows.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor};
use comfyd_weights::{LazyTensor, Source, StateDict, synthetic, write};
use indexmap::IndexMap;
use serde::Deserialize;

use super::conformance;

#[derive(Deserialize)]
struct Model {
    tensors: IndexMap<String, Vec<usize>>,
    like: Option<String>,
    #[serde(default)]
    prefix: String,
    dtype: Option<String>,
    #[serde(default)]
    values: IndexMap<String, f64>,
    #[serde(default)]
    near_one: Vec<String>,
}

/// A tensor that is made when it is read.
struct Made {
    name: String,
    shape: Vec<usize>,
    value: Option<f64>,
    near_one: bool,
    dtype: DType,
}

impl Source for Made {
    fn read(&self) -> comfyd_weights::Result<Tensor> {
        let tensor = match self.value {
            Some(value) => Tensor::full(value as f32, self.shape.as_slice(), &Device::Cpu)?,
            // As the weight of a norm.
            None if self.near_one => synthetic::tensor(&format!("{}.weight", self.name), &[self.shape.iter().product()])?,
            None => synthetic::tensor(&self.name, &self.shape)?,
        };
        Ok(tensor.reshape(self.shape.as_slice())?.to_dtype(self.dtype)?)
    }
}

/// A folder whose folder `models` holds all of them. They are made once and stay in the build's folder for temporary files.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let text = std::fs::read_to_string(conformance().join("diffusion/reduced/models.json")).unwrap();
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("reduced-models-{:016x}", hasher.finish()));
        let models: IndexMap<String, Model> = serde_json::from_str(&text).unwrap();
        for (file, model) in &models {
            let path = base.join("models").join(file);
            if path.is_file() {
                continue;
            }
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let like = model.like.iter().flat_map(|like| &models[like].tensors);
            let tensors: IndexMap<&String, &Vec<usize>> = like.chain(&model.tensors).collect();
            write::write(&path, &dict(model, tensors), &write::Options::default()).unwrap();
        }
        base
    })
}

fn dict(model: &Model, tensors: IndexMap<&String, &Vec<usize>>) -> StateDict {
    let dtype = if model.dtype.as_deref() == Some("f32") { DType::F32 } else { DType::F16 };
    let mut dict = StateDict::default();
    for (name, shape) in tensors {
        let made = Made {
            name: format!("{}{name}", model.prefix),
            shape: shape.clone(),
            value: model.values.iter().find(|(end, _)| name.ends_with(end.as_str())).map(|(_, value)| *value),
            near_one: model.near_one.iter().any(|end| name.ends_with(end.as_str())),
            dtype,
        };
        dict.insert(name.as_str(), LazyTensor::new(shape.clone(), dtype, Arc::new(made)));
    }
    dict
}
