//! The nodes of the menu `mask`.

mod batch;
mod compositing;
mod convert;
mod edit;

use crate::class::Class;

pub(crate) fn families() -> Vec<&'static [Class]> {
    vec![convert::CLASSES, edit::CLASSES, compositing::CLASSES, batch::CLASSES]
}
