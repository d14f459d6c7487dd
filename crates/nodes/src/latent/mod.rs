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
pub(crate) mod vae;

use crate::class::Class;
pub(crate) use crate::latent::batch::first_int;
pub(crate) use crate::latent::composite::paste;

pub(crate) fn families() -> Vec<&'static [Class]> {
    vec![
        empty::CLASSES,
        vae::CLASSES,
        scale::CLASSES,
        batch::CLASSES,
        transform::CLASSES,
        composite::CLASSES,
        advanced::CLASSES,
        operations::CLASSES,
        files::CLASSES,
    ]
}
