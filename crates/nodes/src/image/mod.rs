//! The nodes of the menu `image`.

mod animation;
mod basic;
mod batch;
mod bounding_boxes;
mod boxes;
mod color_transfer;
mod compare;
mod compositor;
mod crop_to_mask;
mod dataset;
mod folders;
pub(crate) mod load;
mod painter;
mod postprocessing;
mod resize_mask;
mod save;
mod save_advanced;
mod scale;
mod sets;
mod svg;
mod text_overlay;
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
        save_advanced::CLASSES,
        color_transfer::CLASSES,
        crop_to_mask::CLASSES,
        folders::CLASSES,
        painter::CLASSES,
        compositor::CLASSES,
        text_overlay::CLASSES,
        bounding_boxes::CLASSES,
    ]
}
