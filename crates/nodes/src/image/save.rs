//! Pictures for people: saved, shown, sent.

use std::sync::Arc;

use comfyd_folders::Kind;
use comfyd_imaging::Raster;
use comfyd_node::{Error, Fingerprint, Input, NodeOutput, Result, Schema};
use comfyd_values::Image;
use ndarray::Axis;

use crate::class::{Call, Class};
use crate::saving;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("SaveImage")
                .display("Save Image")
                .category("image")
                .essentials("Basics")
                .description(
                    "Saves pictures as PNG in the output folder, with the workflow inside so that the picture can \
                     be opened as a workflow again.",
                )
                .aliases(["png", "write file", "store", "result"])
                .input(Input::link("images", "IMAGE").tooltip("What to save."))
                .input(Input::text("filename_prefix").default("ComfyUI").tooltip(
                    "Start of the file names. A slash makes folders; %width%, %height%, %year%, %month%, %day%, \
                     %hour%, %minute%, %second% and %batch_num% are filled in.",
                ))
                .hidden_metadata()
                .output_named("IMAGE", "images")
                .output_node()
        },
        save_image,
    ),
    Class::new(
        || {
            Schema::new("PreviewImage")
                .display("Preview Image")
                .category("image")
                .essentials("Basics")
                .description("Shows pictures without keeping them: they go to the temp folder.")
                .aliases(["look at", "temporary", "picture on the node"])
                .input(Input::link("images", "IMAGE"))
                .hidden_metadata()
                .output_named("IMAGE", "images")
                .output_node()
        },
        preview_image,
    ),
    Class::new(
        || {
            Schema::new("SaveImageWebsocket")
                .display("Save Image (Websocket)")
                .category("image")
                .module("custom_nodes.websocket_image_save")
                .description("Sends pictures losslessly over the websocket and writes no file.")
                .input(Input::link("images", "IMAGE"))
                .output_node()
        },
        send_images,
    )
    .fingerprint(|_, _, _| Ok(Fingerprint::Always)),
];

/// What is to be saved. Nodes whose output is of any type may give masks, which are saved as pictures in grey.
pub(super) fn pictures(call: &Call<'_, '_>) -> Result<Image> {
    call.mask("images").map_or_else(|_| call.image("images"), |mask| Ok(Image(mask.0.insert_axis(Axis(3)))))
}

fn save_image(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let images = pictures(call)?;
    saving::save_png(call, &images, Kind::Output, call.text("filename_prefix")?, saving::SAVE_COMPRESSION)
}

fn preview_image(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let images = pictures(call)?;
    saving::save_png(call, &images, Kind::Temp, &call.state.preview_prefix, saving::PREVIEW_COMPRESSION)
}

fn send_images(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let images = call.image("images")?;
    for index in 0..images.batch() {
        let raster = Raster::from_image(&images, index).map_err(Error::other)?;
        let raster = if raster.channels() < 3 { raster.to_rgb() } else { raster };
        call.cx.progress(index as f64, images.batch() as f64)?;
        call.cx.image(comfyd_node::PreviewImage {
            width: images.width() as u32,
            height: images.height() as u32,
            channels: raster.channels() as u8,
            pixels: Arc::new(raster.into_data()),
            lossless: true,
            max_size: None,
        });
    }
    Ok(NodeOutput::default())
}
