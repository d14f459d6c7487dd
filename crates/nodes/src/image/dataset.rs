//! Folders of pictures.

use std::path::PathBuf;

use comfyd_folders::{Kind, extension};
use comfyd_imaging::resample::{self, Filter};
use comfyd_imaging::{Raster, decode};
use comfyd_node::{CancellationToken, Error, FileSource, Fingerprint, Input, Inputs, NodeOutput, Result, Schema};
use comfyd_values::Image;
use ndarray::{Array4, s};

use crate::class::{Call, Class, unknown_choice};
use crate::loaders::files::contents;
use crate::services::State;

/// The files that are read.
pub(super) const EXTENSIONS: [&str; 4] = [".png", ".jpg", ".jpeg", ".webp"];

pub(crate) const CLASSES: &[Class] = &[Class::new(
    || {
        Schema::new("LoadImageSetFromFolderNode")
            .display("Load Image Dataset from Folder")
            .category("loaders")
            .module("comfy_extras.nodes_train")
            .experimental()
            .description("Reads all pictures of a folder as one batch, in the order of their names.")
            .input(Input::files("folder", FileSource::InputFolders).tooltip("A folder inside the input folder."))
            .input(
                Input::combo("resize_method", ["None", "Stretch", "Crop", "Pad"])
                    .default("None")
                    .tooltip("What to do with a picture that has not the size of the first one.")
                    .optional(),
            )
            .output("IMAGE")
    },
    load_folder,
)
.fingerprint(fingerprint)];

fn load_folder(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let folder = call.text("folder")?;
    let method = call.inputs.optional("resize_method").map_or(Ok("None"), |_| call.text("resize_method"))?;
    let (path, names) = pictures(call.state, folder)?;
    let mut out: Option<Array4<f32>> = None;
    for (index, name) in names.iter().enumerate() {
        call.cx.check_cancelled()?;
        let bytes = call.state.read(&path.join(name))?;
        let decoded = call.decoded(bytes, |bytes, limits| decode::raster(bytes, limits).map(|raster| raster.to_rgb()));
        let picture = decoded.map_err(|error| match error {
            Error::Other(reason) => Error::msg(format!("{name}: {reason}")),
            error => error,
        })?;
        if out.is_none() {
            let shape = [names.len(), picture.height(), picture.width(), 3];
            call.reserve(&shape)?;
            out = Some(Array4::zeros(shape));
        }
        let Some(out) = &mut out else { continue };
        let (_, height, width, _) = out.dim();
        let picture = fit(picture, width, height, method, name)?.to_image();
        // What is smaller than the first picture leaves black.
        let (rows, columns) = (picture.height().min(height), picture.width().min(width));
        out.slice_mut(s![index, ..rows, ..columns, ..]).assign(&picture.0.slice(s![0, ..rows, ..columns, ..]));
    }
    let empty = || Error::msg(format!("there are no pictures in the folder '{folder}'; upload some or choose another one"));
    Ok(NodeOutput::one(Image::new(out.ok_or_else(empty)?)))
}

/// The folder's path, and the names of the pictures in it in their order.
fn pictures(state: &State, folder: &str) -> Result<(PathBuf, Vec<String>)> {
    let path = state.services.folders.found(Kind::Input, folder.as_ref()).map_err(Error::other)?;
    state.services.folders.all_here(&path)?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&path)? {
        names.extend(entry?.file_name().into_string().ok().filter(|name| EXTENSIONS.contains(&extension(name).as_str())));
    }
    names.sort_unstable();
    Ok((path, names))
}

/// The pictures' content in their order decides the result.
fn fingerprint(state: &State, inputs: &Inputs, cancel: &CancellationToken) -> Result<Fingerprint> {
    // A linked name is not known yet; the node is run again then.
    if inputs.optional("folder").is_none() {
        return Ok(Fingerprint::Always);
    }
    let (path, names) = pictures(state, inputs.text("folder")?)?;
    contents(state, cancel, &names.iter().map(|name| path.join(name)).collect::<Vec<_>>())
}

/// The picture in the first one's size, or, for `Crop`, as it is.
fn fit(picture: Raster, width: usize, height: usize, method: &str, name: &str) -> Result<Raster> {
    if (picture.width(), picture.height()) == (width, height) {
        return Ok(picture);
    }
    match method {
        // The reference does the same for both.
        "Stretch" | "Pad" => resample::resize(&picture, width, height, Filter::Lanczos).map_err(Error::other),
        "Crop" => Ok(picture),
        "None" => Err(Error::msg(format!(
            "{name} has {} x {} pixels, the first picture {width} x {height}; choose a resize_method or make them equal",
            picture.width(),
            picture.height()
        ))),
        other => Err(unknown_choice("resize_method", other)),
    }
}
