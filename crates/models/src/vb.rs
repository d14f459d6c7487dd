//! Hands a model its weights by name. Where they come from (a file, a patched copy, a test) is the provider's business.

use std::sync::Arc;

use candle_core::Tensor;
use comfyd_weights::StateDict;

use crate::{Error, Result};

/// Gives the tensor of a full name on the device where the model will run, in the type in which weights are kept there; `None` if there
/// is none.
pub trait Provider: Send + Sync {
    /// The tensor.
    fn tensor(&self, name: &str) -> Result<Option<Tensor>>;
}

impl Provider for StateDict {
    fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        Ok(self.get(name).map(|tensor| tensor.read()).transpose()?)
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

    /// The tensor, which must be there with these axes.
    pub fn get(&self, shape: &[usize], name: &str) -> Result<Tensor> {
        self.get_opt(shape, name)?.ok_or_else(|| Error::Missing(self.name(name)))
    }

    /// The tensor if it is there; its axes must be these.
    pub fn get_opt(&self, shape: &[usize], name: &str) -> Result<Option<Tensor>> {
        let name = self.name(name);
        let Some(tensor) = self.provider.tensor(&name)? else { return Ok(None) };
        if tensor.dims() != shape {
            return Err(Error::Shape { name, got: tensor.dims().to_vec(), wanted: shape.to_vec() });
        }
        Ok(Some(tensor))
    }
}
