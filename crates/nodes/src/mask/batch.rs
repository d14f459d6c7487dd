//! Masks put together.

use comfyd_imaging::resize::{Crop, Method};
use comfyd_node::{Error, Grow, Input, NodeOutput, Result, Schema};
use comfyd_values::{Image, Mask};
use ndarray::{Axis, concatenate};

use crate::class::{Call, Class};
use crate::resize;

pub(crate) const CLASSES: &[Class] = &[Class::new(
    || {
        let mask = Input::link("mask", "MASK").tooltip("Masks.");
        Schema::new("BatchMasksNode")
            .display("Batch Masks")
            .category("image/mask")
            .module("comfy_extras.nodes_post_processing")
            .schema_generation()
            .description("Puts masks behind each other into one batch. All get the size of the first.")
            .aliases(["join masks", "collect", "combine"])
            .input(Input::grow("masks", Grow::numbered(mask, "mask").max(50)))
            .output("MASK")
    },
    batch_all,
)];

fn batch_all(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut masks = call.each("masks", Call::mask)?;
    let Some((width, height)) = masks.first().map(|mask| (mask.width(), mask.height())) else {
        return Err(Error::MissingInput("masks".into()));
    };
    for mask in &mut masks {
        if (mask.width(), mask.height()) != (width, height) {
            let grey = Image(mask.0.clone().insert_axis(Axis(3)));
            *mask = Mask(resize::image(call, &grey, width, height, Method::Bilinear, Crop::Center)?.0.remove_axis(Axis(3)));
        }
    }
    let batch: usize = masks.iter().map(Mask::batch).sum();
    call.reserve(&[batch, height, width])?;
    let joined = call.aside(batch * height * width, move || {
        let views: Vec<_> = masks.iter().map(|mask| mask.0.view()).collect();
        concatenate(Axis(0), &views)
    })?;
    Ok(NodeOutput::one(Mask::new(joined.map_err(Error::other)?)))
}
