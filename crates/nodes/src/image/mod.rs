//! The nodes of the menu `image`.

mod animation;
mod basic;
mod batch;
mod compare;
mod dataset;
pub(crate) mod load;
mod postprocessing;
mod resize_mask;
mod save;
mod scale;
mod sets;
mod svg;
mod tiles;
pub(crate) mod transform;
mod upscale_model;

use crate::class::Class;

pub(crate) fn families() -> Vec<&'static [Class]> {
    vec![
        load::CLASSES,
        save::CLASSES,
        basic::CLASSES,
        scale::CLASSES,
        resize_mask::CLASSES,
        batch::CLASSES,
        transform::CLASSES,
        postprocessing::CLASSES,
        animation::CLASSES,
        svg::CLASSES,
        dataset::CLASSES,
        tiles::CLASSES,
        sets::CLASSES,
        compare::CLASSES,
        upscale_model::CLASSES,
    ]
}
