//! Named tensors that are read when asked. What a name means is not known here.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Tensor};
use indexmap::IndexMap;
use serde_json::{Map, Value as Json};

use crate::eight_bits::SmallFloat;
use crate::error::{Error, Result};
use crate::weight::Weight;

/// How the values of a tensor are kept in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One by one, in 16 bits or more.
    Dense,
    /// One by one, as eight-bit floats.
    Small(SmallFloat),
    /// As eight-bit floats that count together with their companions (`quantised`). Not to be rounded once more.
    Scaled8,
    /// In another way, times a scale. Not to be rounded once more.
    Scaled,
    /// In blocks of few bits (GGUF). Not to be rounded once more.
    Quantised(GgmlDType),
    /// In a way that is not known: reading it is an error.
    Unknown,
}

/// Reads one tensor to the CPU. F32, F16, BF16, 8-bit floats and blocks come as they are stored, F64 as F32, integers as I64 or U8.
pub trait Source: Send + Sync {
    /// Reads it.
    fn read(&self) -> Result<Weight>;

    /// How the file keeps them.
    fn form(&self) -> Form {
        Form::Dense
    }

    /// A source for some rows (places along the first axis) alone, if they can be read without the others.
    fn rows(&self, _start: usize, _count: usize) -> Option<Arc<dyn Source>> {
        None
    }
}

/// A tensor whose shape is known and whose values are read when asked.
#[derive(Clone)]
pub struct LazyTensor {
    shape: Vec<usize>,
    dtype: DType,
    source: Arc<dyn Source>,
}

impl LazyTensor {
    /// A tensor that `source` reads. `dtype` is the type that it reads as.
    pub fn new(shape: Vec<usize>, dtype: DType, source: Arc<dyn Source>) -> Self {
        Self { shape, dtype, source }
    }

    /// Its axes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The type that [`LazyTensor::read`] gives.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// How its file keeps it; what is made of other tensors counts as dense.
    pub fn form(&self) -> Form {
        self.source.form()
    }

    /// Bytes that [`LazyTensor::weight`] takes; none if it cannot be read.
    pub fn size_bytes(&self) -> u64 {
        let count = self.shape.iter().fold(1u64, |count, axis| count.saturating_mul(*axis as u64));
        match self.form() {
            Form::Dense | Form::Scaled => count.saturating_mul(self.dtype.size_in_bytes() as u64),
            Form::Small(_) | Form::Scaled8 => count,
            Form::Quantised(kind) => (count / kind.block_size() as u64).saturating_mul(kind.type_size() as u64),
            Form::Unknown => 0,
        }
    }

    /// Reads the values to the CPU, number by number.
    pub fn read(&self) -> Result<Tensor> {
        self.weight()?.dense()
    }

    /// Reads the values to the CPU, in the few bits in which they are kept.
    pub fn weight(&self) -> Result<Weight> {
        self.source.read()
    }

    /// Some of its rows, the places along the first axis; `None` if it has not as many.
    pub fn rows(&self, start: usize, count: usize) -> Option<Self> {
        let rows = *self.shape.first()?;
        if start.checked_add(count)? > rows {
            return None;
        }
        let mut shape = self.shape.clone();
        shape[0] = count;
        Some(match self.source.rows(start, count) {
            Some(source) => Self { shape, dtype: self.dtype, source },
            None => self.map(shape, move |t| t.narrow(0, start, count)?.contiguous()),
        })
    }

    /// These tensors one after the other along the first axis. They must agree in everything but their number of rows, and there must be
    /// one at least; reading fails otherwise.
    pub fn concat_rows(parts: Vec<Self>) -> Self {
        let mut shape = parts.first().map(|part| part.shape.clone()).unwrap_or_default();
        if let Some(rows) = shape.first_mut() {
            *rows = parts.iter().filter_map(|part| part.shape.first()).sum();
        }
        let dtype = parts.first().map_or(DType::F32, |part| part.dtype);
        Self { shape, dtype, source: Arc::new(Concat(parts)) }
    }

    /// The tensor that `f` makes of this one's values each time it is read; `shape` is the result's.
    pub fn map(&self, shape: Vec<usize>, f: impl Fn(Tensor) -> candle_core::Result<Tensor> + Send + Sync + 'static) -> Self {
        Self { shape, dtype: self.dtype, source: Arc::new(Mapped { inner: Arc::clone(&self.source), f }) }
    }
}

impl fmt::Debug for LazyTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.dtype, self.shape)
    }
}

impl From<Tensor> for LazyTensor {
    fn from(tensor: Tensor) -> Self {
        Self { shape: tensor.dims().to_vec(), dtype: tensor.dtype(), source: Arc::new(InMemory(tensor)) }
    }
}

struct InMemory(Tensor);

impl Source for InMemory {
    fn read(&self) -> Result<Weight> {
        Ok(self.0.clone().into())
    }
}

struct Concat(Vec<LazyTensor>);

impl Source for Concat {
    fn read(&self) -> Result<Weight> {
        let parts = self.0.iter().map(LazyTensor::read).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&parts, 0)?.into())
    }
}

struct Mapped<F> {
    inner: Arc<dyn Source>,
    f: F,
}

impl<F: Fn(Tensor) -> candle_core::Result<Tensor> + Send + Sync> Source for Mapped<F> {
    fn read(&self) -> Result<Weight> {
        Ok((self.f)(self.inner.read()?.dense()?)?.into())
    }
}

/// Tensors by name, in the file's order. A clone shares the values.
#[derive(Debug, Clone, Default)]
pub struct StateDict {
    tensors: IndexMap<String, LazyTensor>,
    origin: Option<PathBuf>,
    /// The texts that the file carries beside the tensors.
    pub metadata: Map<String, Json>,
}

impl StateDict {
    /// An empty one that is said to come from this file.
    pub(crate) fn from_file(path: &Path) -> Self {
        Self { origin: Some(path.to_owned()), ..Self::default() }
    }

    /// The file that the tensors come from, for errors; empty if they were made.
    pub fn origin(&self) -> &Path {
        self.origin.as_deref().unwrap_or(Path::new(""))
    }

    /// The same tensors and metadata under another origin.
    pub fn with_origin(mut self, path: impl Into<PathBuf>) -> Self {
        self.origin = Some(path.into());
        self
    }

    /// An empty one with this one's origin and metadata.
    pub(crate) fn empty_like(&self) -> Self {
        Self { tensors: IndexMap::new(), origin: self.origin.clone(), metadata: self.metadata.clone() }
    }

    /// An error that says that this file is no model that can be used.
    pub fn unknown(&self, reason: impl Into<String>) -> Error {
        Error::Unknown { path: self.origin().to_owned(), reason: reason.into() }
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&LazyTensor> {
        self.tensors.get(name)
    }

    /// Whether there is one.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The axes of the tensor of that name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.get(name).map(LazyTensor::shape)
    }

    /// Adds or replaces a tensor.
    pub fn insert(&mut self, name: impl Into<String>, tensor: impl Into<LazyTensor>) {
        self.tensors.insert(name.into(), tensor.into());
    }

    /// Takes a tensor out.
    pub fn remove(&mut self, name: &str) -> Option<LazyTensor> {
        self.tensors.shift_remove(name)
    }

    /// All names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// All tensors in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &LazyTensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Whether some name begins so.
    pub fn has_prefix(&self, prefix: &str) -> bool {
        self.names().any(|name| name.starts_with(prefix))
    }

    /// The tensors whose names begin with `from`, renamed to begin with `to` instead.
    pub fn with_prefix(&self, from: &str, to: &str) -> Self {
        self.rename(|name| name.strip_prefix(from).map(|rest| format!("{to}{rest}")))
    }

    /// The tensors for which `f` gives a new name, under that name.
    pub fn rename(&self, f: impl Fn(&str) -> Option<String>) -> Self {
        let tensors = self.tensors.iter().filter_map(|(name, tensor)| Some((f(name)?, tensor.clone()))).collect();
        Self { tensors, ..self.empty_like() }
    }
}
