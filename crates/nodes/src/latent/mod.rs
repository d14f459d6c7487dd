//! The nodes of the menu `latent`.

mod advanced;
mod arrays;
mod batch;
mod composite;
mod empty;
mod files;
mod operations;
mod scale;
mod transform;

use crate::class::Class;

pub(crate) fn families() -> Vec<&'static [Class]> {
    vec![
        empty::CLASSES,
        scale::CLASSES,
        batch::CLASSES,
        transform::CLASSES,
        composite::CLASSES,
        advanced::CLASSES,
        operations::CLASSES,
        files::CLASSES,
    ]
}
