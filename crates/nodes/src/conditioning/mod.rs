//! The nodes of the menu `conditioning`.

mod control;
mod entries;
mod hooks;
mod pairs;
mod text;

use crate::class::Class;

pub(crate) fn families() -> Vec<&'static [Class]> {
    vec![text::CLASSES, entries::CLASSES, control::CLASSES, pairs::CLASSES, hooks::CLASSES]
}
