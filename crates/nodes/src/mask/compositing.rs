//! Pictures with transparency.

use comfyd_imaging::blend::{self, PorterDuff};
use comfyd_node::{Error, Input, NodeOutput, Result, Schema};

use crate::class::{Call, Class};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("PorterDuffImageComposite")
                .display("Porter-Duff Image Composite")
                .category("image/compositing")
                .module("comfy_extras.nodes_compositing")
                .schema_generation()
                .description("Lays one picture with transparency over another, by one of the Porter-Duff rules.")
                .aliases(["layers", "over", "multiply", "screen"])
                .input(Input::link("source", "IMAGE").tooltip("The upper picture."))
                .input(Input::link("source_alpha", "MASK").tooltip("What of it is transparent."))
                .input(Input::link("destination", "IMAGE").tooltip("The lower picture."))
                .input(Input::link("destination_alpha", "MASK").tooltip("What of it is transparent."))
                .input(
                    Input::combo(
                        "mode",
                        [
                            "ADD", "CLEAR", "DARKEN", "DST", "DST_ATOP", "DST_IN", "DST_OUT", "DST_OVER", "LIGHTEN", "MULTIPLY", "OVERLAY",
                            "SCREEN", "SRC", "SRC_ATOP", "SRC_IN", "SRC_OUT", "SRC_OVER", "XOR",
                        ],
                    )
                    .default("DST")
                    .tooltip("The rule."),
                )
                .output("IMAGE")
                .output("MASK")
        },
        porter_duff,
    ),
    Class::new(
        || {
            Schema::new("SplitImageWithAlpha")
                .display("Split Image with Alpha")
                .category("image/compositing")
                .module("comfy_extras.nodes_compositing")
                .schema_generation()
                .description("Splits pictures with transparency into colours and a mask of what is transparent.")
                .aliases(["transparency", "rgb and alpha"])
                .input(Input::link("image", "IMAGE").tooltip("The pictures."))
                .output("IMAGE")
                .output("MASK")
        },
        split_alpha,
    ),
    Class::new(
        || {
            Schema::new("JoinImageWithAlpha")
                .display("Join Image with Alpha")
                .category("image/compositing")
                .module("comfy_extras.nodes_compositing")
                .schema_generation()
                .description("Gives pictures a transparency from a mask.")
                .aliases(["make transparent", "add alpha"])
                .input(Input::link("image", "IMAGE").tooltip("The pictures."))
                .input(Input::link("alpha", "MASK").tooltip("What becomes transparent; resized to the pictures."))
                .output("IMAGE")
        },
        join_alpha,
    ),
];

fn porter_duff(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (source, source_alpha) = (call.image("source")?, call.mask("source_alpha")?);
    let (destination, destination_alpha) = (call.image("destination")?, call.mask("destination_alpha")?);
    let mode: PorterDuff = call.text("mode")?.parse().map_err(Error::other)?;
    let values = 2 * (source.0.len() + destination.0.len());
    let compose = move || blend::porter_duff(&source, &source_alpha, &destination, &destination_alpha, mode);
    let (image, mask) = call.apart(values, compose)?;
    Ok(NodeOutput::values([image.into(), mask.into()]))
}

fn split_alpha(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let image = call.image("image")?;
    let (image, mask) = call.aside(image.0.len(), move || blend::split_alpha(&image))?;
    Ok(NodeOutput::values([image.into(), mask.into()]))
}

fn join_alpha(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (image, alpha) = (call.image("image")?, call.mask("alpha")?);
    let batch = image.batch().max(alpha.batch());
    // The repeated pictures and masks, and the result, which has the four channels of both.
    call.reserve(&[batch, image.height(), image.width(), 2 * 4])?;
    Ok(NodeOutput::one(call.apart(batch * image.height() * image.width() * 4, move || blend::join_alpha(&image, &alpha))?))
}
