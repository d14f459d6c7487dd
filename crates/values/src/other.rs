//! What travels between nodes and is no picture: noise levels, vector pictures, things to do with a latent.

use std::fmt;
use std::sync::Arc;

use comfyd_node::{Opaque, Result};

use crate::arrays::counted;

/// Noise levels on a link, falling: `SIGMAS`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sigmas(pub Arc<Vec<f32>>);

impl Sigmas {
    /// These levels.
    pub fn new(levels: Vec<f32>) -> Self {
        Self(Arc::new(levels))
    }
}

/// Vector pictures on a link, as the texts of SVG files: `SVG`.
#[derive(Debug, Clone)]
pub struct Svg(pub Vec<Arc<str>>);

type Samples = ndarray::ArcArray<f32, ndarray::IxDyn>;

type Operation = dyn Fn(&Samples) -> Result<Samples> + Send + Sync;

/// Something to do with the samples of a latent, handed on as a value: `LATENT_OPERATION`. The shape (B, C, H, W) stays.
#[derive(Clone)]
pub struct LatentOperation {
    name: &'static str,
    apply: Arc<Operation>,
}

impl LatentOperation {
    /// An operation with a name for people.
    pub fn new(name: &'static str, apply: impl Fn(&Samples) -> Result<Samples> + Send + Sync + 'static) -> Self {
        Self { name, apply: Arc::new(apply) }
    }

    /// Does it.
    pub fn apply(&self, samples: &Samples) -> Result<Samples> {
        (self.apply)(samples)
    }
}

impl fmt::Debug for LatentOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl Opaque for Sigmas {
    fn type_name(&self) -> &'static str {
        "SIGMAS"
    }

    fn size_bytes(&self) -> usize {
        self.0.len() * size_of::<f32>()
    }
}

impl Opaque for Svg {
    fn type_name(&self) -> &'static str {
        "SVG"
    }

    fn size_bytes(&self) -> usize {
        self.0.iter().map(|svg| svg.len()).sum()
    }

    fn describe(&self) -> String {
        counted(self.0.len(), "vector picture")
    }
}

impl Opaque for LatentOperation {
    fn type_name(&self) -> &'static str {
        "LATENT_OPERATION"
    }

    fn size_bytes(&self) -> usize {
        0
    }

    fn describe(&self) -> String {
        format!("the latent operation '{}'", self.name)
    }
}
