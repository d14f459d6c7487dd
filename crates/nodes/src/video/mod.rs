//! The nodes of the menu `video`. A film is a file, or a part of one, until somebody wants its pictures.

mod edit;
mod given;
mod load;
mod save;
mod sets;

use crate::class::Class;

pub(crate) fn families() -> Vec<&'static [Class]> {
    vec![load::CLASSES, save::CLASSES, edit::CLASSES, sets::CLASSES]
}
