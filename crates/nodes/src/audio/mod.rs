//! The nodes of the menu `audio`.

mod edit;
mod effects;
mod given;
mod load;
mod save;

use crate::class::Class;

pub(crate) fn families() -> Vec<&'static [Class]> {
    vec![load::CLASSES, save::CLASSES, edit::CLASSES, effects::CLASSES]
}
