//! The nodes of the menu `loaders`.

mod adapters;
mod checkpoint;
pub(crate) mod files;
mod foreign;

use crate::class::Class;

pub(crate) fn families() -> Vec<&'static [Class]> {
    vec![checkpoint::CLASSES, adapters::CLASSES, foreign::CLASSES]
}
