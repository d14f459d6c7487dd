//! The nodes of the menu `loaders`.

pub(crate) mod adapters;
pub(crate) mod checkpoint;
pub(crate) mod files;
mod vision;

use crate::class::Class;

pub(crate) fn families() -> Vec<&'static [Class]> {
    vec![checkpoint::CLASSES, adapters::CLASSES, vision::CLASSES]
}
