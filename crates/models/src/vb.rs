//! Hands a model its weights by name. Where they come from (a file, a patched copy, a test) is the provider's business.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use comfyd_weights::{StateDict, Weight};

use crate::error::{Error, Result};

/// Gives the weight of a full name on the device where the model will run, in the type in which weights are kept there; `None` if there
/// is none.
pub trait Provider: Send + Sync {
    /// The weight.
    fn weight(&self, name: &str) -> Result<Option<Weight>>;
}

impl Provider for StateDict {
    fn weight(&self, name: &str) -> Result<Option<Weight>> {
        Ok(self.get(name).map(|tensor| tensor.weight()).transpose()?)
    }
}

/// A provider and the path inside it, as in candle's `VarBuilder`: a block is made with `Block::new(config, &vb.pp("norm1"))`.
#[derive(Clone)]
pub struct Vb {
    provider: Arc<dyn Provider>,
    path: String,
}

impl Vb {
    /// The root.
    pub fn new(provider: Arc<dyn Provider>) -> Self {
        Self { provider, path: String::new() }
    }

    /// One level down.
    pub fn pp(&self, name: impl std::fmt::Display) -> Self {
        let path = if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) };
        Self { provider: Arc::clone(&self.provider), path }
    }

    /// The full name of a tensor here.
    pub fn name(&self, name: &str) -> String {
        if self.path.is_empty() { name.into() } else { format!("{}.{name}", self.path) }
    }

    /// The weight that a product takes, as it is held. It must be there with these axes.
    pub fn weight(&self, shape: &[usize], name: &str) -> Result<Weight> {
        self.weight_opt(shape, name)?.ok_or_else(|| Error::Missing(self.name(name)))
    }

    /// The same if it is there.
    pub fn weight_opt(&self, shape: &[usize], name: &str) -> Result<Option<Weight>> {
        let name = self.name(name);
        let Some(weight) = self.provider.weight(&name)? else { return Ok(None) };
        if weight.dims() != shape {
            return Err(Error::Shape { name, got: weight.dims().to_vec(), wanted: shape.to_vec() });
        }
        Ok(Some(weight))
    }

    /// A tensor of whose numbers each is used by itself, such as a bias. It must be there with these axes.
    pub fn get(&self, shape: &[usize], name: &str) -> Result<Tensor> {
        numbers(&self.weight(shape, name)?)
    }

    /// The same if it is there.
    pub fn get_opt(&self, shape: &[usize], name: &str) -> Result<Option<Tensor>> {
        self.weight_opt(shape, name)?.map(|weight| numbers(&weight)).transpose()
    }
}

/// A weight number by number. On a card in single precision: that costs little, and every use of it one kernel less.
fn numbers(weight: &Weight) -> Result<Tensor> {
    let dense = weight.dense()?;
    if dense.device().is_cpu() || !dense.dtype().is_float() { Ok(dense) } else { Ok(dense.to_dtype(DType::F32)?) }
}
