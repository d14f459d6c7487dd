//! What conditions tell models beyond the fields of an entry, under the names of the reference: Flux's guidance, latents to refer to, frames
//! for videos. Carried for the families that read it; nothing here knows which do.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;

use crate::vision::VisionOutput;

/// One value.
#[derive(Debug, Clone)]
pub enum Told {
    /// The reference's None: as if it were not told, whatever a model's own value is.
    Nothing,
    /// A number.
    Number(f64),
    /// A text.
    Text(Arc<str>),
    /// An array, on the CPU.
    Tensor(Tensor),
    /// Several, to which nodes add.
    List(Vec<Self>),
    /// A picture as a vision encoder sees it.
    Vision(Arc<VisionOutput>),
}

impl Told {
    /// Bytes that it holds.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Nothing | Self::Number(_) => 0,
            Self::Text(text) => text.len(),
            Self::Tensor(tensor) => tensor.elem_count() * 4,
            Self::List(list) => list.iter().map(Self::size_bytes).sum(),
            Self::Vision(vision) => vision.bytes(),
        }
    }
}

impl From<f64> for Told {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Told {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<Tensor> for Told {
    fn from(tensor: Tensor) -> Self {
        Self::Tensor(tensor)
    }
}

impl From<Arc<VisionOutput>> for Told {
    fn from(vision: Arc<VisionOutput>) -> Self {
        Self::Vision(vision)
    }
}

/// Values by their names.
#[derive(Debug, Clone, Default)]
pub struct Tells(BTreeMap<&'static str, Told>);

impl Tells {
    /// Sets a value.
    pub fn set(&mut self, name: &'static str, value: impl Into<Told>) {
        self.0.insert(name, value.into());
    }

    /// Adds values behind those that are there.
    pub fn add(&mut self, name: &'static str, values: impl IntoIterator<Item = Told>) {
        let values: Vec<Told> = values.into_iter().collect();
        match self.0.get_mut(name) {
            _ if values.is_empty() => {}
            Some(Told::List(list)) => list.extend(values),
            _ => drop(self.0.insert(name, Told::List(values))),
        }
    }

    /// A value.
    pub fn get(&self, name: &str) -> Option<&Told> {
        self.0.get(name)
    }

    /// All values, by their names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Told)> {
        self.0.iter().map(|(name, value)| (*name, value))
    }

    /// Bytes that they hold.
    pub fn size_bytes(&self) -> usize {
        self.0.values().map(Told::size_bytes).sum()
    }
}
