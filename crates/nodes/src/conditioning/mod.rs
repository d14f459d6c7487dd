//! The nodes of the menu `conditioning`.

mod control;
mod entries;
mod text;

use crate::class::Class;

pub(crate) fn families() -> Vec<&'static [Class]> {
    vec![text::CLASSES, entries::CLASSES, control::CLASSES]
}
