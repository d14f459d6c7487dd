//! What the saving nodes share: the workflow that goes into files, and pictures written as PNG.

use std::sync::Arc;

use comfyd_folders::Kind;
use comfyd_imaging::{Raster, png};
use comfyd_node::{Error, NodeOutput, Result};
use comfyd_values::Image;
use serde_json::Value as Json;

use crate::class::Call;
use crate::python;

/// zlib's level for pictures to keep.
pub(crate) const SAVE_COMPRESSION: u8 = 4;

/// zlib's level for previews.
pub(crate) const PREVIEW_COMPRESSION: u8 = 1;

/// The key of the graph in a file's metadata.
pub(crate) const PROMPT: &str = "prompt";

/// The graph and each entry of `extra_pnginfo`; nothing if the server was told to save without.
pub(crate) fn metadata_json(call: &Call<'_, '_>) -> Vec<(String, Json)> {
    if call.state.services.disable_metadata {
        return Vec::new();
    }
    let mut metadata = Vec::new();
    if !call.cx.hidden.prompt.is_null() {
        metadata.push((PROMPT.to_owned(), call.cx.hidden.prompt.as_ref().clone()));
    }
    if let Some(extra) = call.cx.hidden.extra_pnginfo() {
        metadata.extend(extra.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    metadata
}

/// The same as texts, each as `json.dumps` writes it.
pub(crate) fn metadata(call: &Call<'_, '_>) -> Vec<(String, String)> {
    metadata_json(call).into_iter().map(|(key, value)| (key, python::dumps(&value))).collect()
}

/// Saves each picture of a batch as PNG tells the client where, and hands the pictures on.
pub(crate) fn save_png(call: &Call<'_, '_>, images: &Image, kind: Kind, prefix: &str, compression: u8) -> Result<NodeOutput> {
    Ok(NodeOutput::one(images.clone()).with_ui("images", saved_png(call, images, kind, prefix, compression)?))
}

/// Saves each picture of a batch as PNG, and gives what clients are told of the files.
pub(crate) fn saved_png(call: &Call<'_, '_>, images: &Image, kind: Kind, prefix: &str, compression: u8) -> Result<Vec<Json>> {
    let target = call.state.services.folders.save_target(kind, prefix, images.width(), images.height()).map_err(Error::other)?;
    let options = Arc::new(png::Options { compression, text: metadata(call) });
    let mut saved = Vec::with_capacity(images.batch());
    for index in 0..images.batch() {
        let (images, options) = (images.clone(), Arc::clone(&options));
        let bytes = call.apart(images.width() * images.height() * images.channels(), move || {
            png::encode(&Raster::from_image(&images, index)?, &options)
        })?;
        saved.push(target.save(index, "png", &bytes).map_err(Error::other)?.to_json());
    }
    Ok(saved)
}
