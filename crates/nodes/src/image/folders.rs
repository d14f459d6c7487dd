//! Folders of pictures with texts beside them: read as lists, saved, shuffled.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use comfyd_folders::whole::{self, Replace};
use comfyd_folders::{Kind, extension};
use comfyd_imaging::{Raster, decode, png};
use comfyd_kernels::random::Generator;
use comfyd_node::{CancellationToken, Error, FileSource, Fingerprint, Input, Inputs, NodeOutput, Result, Schema, Value};
use comfyd_values::Image;

use super::dataset::EXTENSIONS;
use super::sets::{SEEDS, below};
use crate::class::{Call, Class, unknown_choice};
use crate::loaders::files::contents;
use crate::saving;
use crate::services::State;

/// Files that one folder may hold; what is read with a number before it counts as often.
const MAX_FILES: usize = 100_000;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("LoadImageDataSetFromFolder")
                .display("Load Image (from Folder)")
                .category("image")
                .module("comfy_extras.nodes_dataset")
                .schema_generation()
                .experimental()
                .description("Reads all pictures of a folder as a list, in the order of their names.")
                .aliases(["directory", "many files"])
                .input(Input::files("folder", FileSource::InputFolders).tooltip("A folder inside the input folder."))
                .output_list_named("IMAGE", "images")
        },
        load,
    )
    .fingerprint(fingerprint),
    Class::new(
        || {
            Schema::new("LoadImageTextDataSetFromFolder")
                .display("Load Image-Text (from Folder)")
                .category("image")
                .module("comfy_extras.nodes_dataset")
                .schema_generation()
                .experimental()
                .description("Reads all pictures of a folder as a list, with their texts. Folders in it such as 3_cats count so often.")
                .aliases(["captions", "directory"])
                .input(Input::files("folder", FileSource::InputFolders).tooltip("A folder inside the input folder."))
                .output_list_named("IMAGE", "images")
                .output_list_named("STRING", "texts")
        },
        load_with_texts,
    )
    .fingerprint(fingerprint),
    Class::new(
        || {
            Schema::new("SaveImageDataSetToFolder")
                .display("Save Image (to Folder) (DEPRECATED)")
                .category("image")
                .module("comfy_extras.nodes_dataset")
                .schema_generation()
                .experimental()
                .deprecated()
                .description("Saves a list of pictures as PNG in a folder.")
                .aliases(["directory", "export"])
                .input(Input::link("images", "IMAGE").tooltip("The pictures."))
                .input(Input::text("folder_name").default("dataset").tooltip("The folder inside the output folder."))
                .input(
                    Input::text("filename_prefix")
                        .default("image")
                        .advanced()
                        .tooltip("What the names of the files begin with; folders are allowed."),
                )
                .input(
                    Input::combo("mode", ["overwrite", "increment"])
                        .default("overwrite")
                        .tooltip("Whether files of earlier runs are replaced, or kept and numbered on."),
                )
                .hidden_metadata()
                .input_is_list()
                .output_node()
        },
        save,
    ),
    Class::new(
        || {
            Schema::new("SaveImageTextDataSetToFolder")
                .display("Save Image-Text (to Folder)")
                .category("image")
                .module("comfy_extras.nodes_dataset")
                .schema_generation()
                .experimental()
                .description("Saves a list of pictures as PNG in a folder, and a text file beside each of them.")
                .aliases(["captions", "directory", "export"])
                .input(Input::link("images", "IMAGE").tooltip("The pictures."))
                .input(Input::text("folder_name").default("dataset").tooltip("The folder inside the output folder."))
                .input(
                    Input::text("filename_prefix")
                        .default("image")
                        .advanced()
                        .tooltip("What the names of the files begin with; folders are allowed."),
                )
                .input(
                    Input::combo("mode", ["overwrite", "increment"])
                        .default("overwrite")
                        .tooltip("Whether files of earlier runs are replaced, or kept and numbered on."),
                )
                .input(Input::text("texts").option("forceInput", true).tooltip("A text for each picture.").optional())
                .hidden_metadata()
                .input_is_list()
                .output_node()
        },
        save,
    ),
    Class::new(
        || {
            Schema::new("ShuffleImageTextDataset")
                .display("Shuffle Pairs of Image-Text")
                .category("image/batch")
                .module("comfy_extras.nodes_dataset")
                .schema_generation()
                .experimental()
                .description("Brings a list of pictures and their texts into an order that the seed decides.")
                .aliases(["random order", "captions"])
                .input(Input::link("images", "IMAGE").tooltip("The pictures."))
                .input(Input::text("texts").option("forceInput", true).tooltip("A text for each picture."))
                .input(Input::int("seed").default(0).min(0).max(u64::MAX).tooltip("Decides the random numbers."))
                .input_is_list()
                .output_list_named("IMAGE", "images")
                .output_list_named("STRING", "texts")
        },
        shuffle,
    ),
];

/// The pictures of a folder in the order of their names, and, with `inner`, of those in it, as often as their names say.
fn files(state: &State, folder: &str, inner: bool) -> Result<Vec<PathBuf>> {
    let path = state.services.folders.found(Kind::Input, folder.as_ref()).map_err(Error::other)?;
    let mut found = Vec::new();
    for entry in sorted(&path)? {
        if is_picture(&entry) {
            found.push(entry);
        } else if inner && entry.is_dir() {
            let name = entry.file_name().and_then(OsStr::to_str).unwrap_or_default();
            let times = name.split('_').next().and_then(|number| number.parse::<usize>().ok()).unwrap_or(1);
            let pictures: Vec<PathBuf> = sorted(&entry)?.into_iter().filter(|file| is_picture(file)).collect();
            if pictures.len().saturating_mul(times) > MAX_FILES {
                return Err(too_many(folder));
            }
            found.extend((0..times).flat_map(|_| pictures.iter().cloned()));
        }
        if found.len() > MAX_FILES {
            return Err(too_many(folder));
        }
    }
    Ok(found)
}

fn too_many(folder: &str) -> Error {
    Error::msg(format!("the folder '{folder}' holds more than {MAX_FILES} pictures; divide it"))
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut entries = std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_unstable();
    Ok(entries)
}

fn is_picture(path: &Path) -> bool {
    path.file_name().and_then(OsStr::to_str).is_some_and(|name| EXTENSIONS.contains(&extension(name).as_str()))
}

fn read(call: &Call<'_, '_>, files: &[PathBuf]) -> Result<Value> {
    let mut pictures = Vec::new();
    for file in files {
        call.cx.check_cancelled()?;
        let bytes = call.state.read(file)?;
        let decoded = call.decoded(bytes, |bytes, limits| decode::raster(bytes, limits).map(|raster| raster.to_rgb().to_image()));
        let picture = decoded.map_err(|error| match error {
            Error::Other(reason) => Error::msg(format!("{}: {reason}", file.display())),
            error => error,
        })?;
        call.reserve(picture.0.shape())?;
        pictures.push(Value::from(picture));
    }
    Ok(Value::list(pictures))
}

/// The files of the input's folder; fails if there are none.
fn chosen(call: &Call<'_, '_>, inner: bool) -> Result<Vec<PathBuf>> {
    let folder = call.text("folder")?;
    let files = files(call.state, folder, inner)?;
    if files.is_empty() {
        return Err(Error::msg(format!("there are no pictures in the folder '{folder}'; upload some or choose another one")));
    }
    Ok(files)
}

fn load(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let files = chosen(call, false)?;
    Ok(NodeOutput::one(read(call, &files)?))
}

fn load_with_texts(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let files = chosen(call, true)?;
    let mut texts = Vec::new();
    for file in &files {
        texts.push(Value::from(text_beside(call.state, file)?));
    }
    Ok(NodeOutput::values([read(call, &files)?, Value::list(texts)]))
}

/// The text of a picture: that of the file of its name with another ending; none if there is no such file.
fn text_beside(state: &State, picture: &Path) -> Result<String> {
    let path = picture.with_extension("txt");
    if !path.is_file() {
        return Ok(String::new());
    }
    let text = String::from_utf8(state.read(&path)?);
    let text = text.map_err(|_| Error::msg(format!("{} is no text in UTF-8; save it as such", path.display())))?;
    Ok(text.trim_matches(crate::string::case::is_space).to_owned())
}

/// The pictures and the texts beside them decide the result.
fn fingerprint(state: &State, inputs: &Inputs, cancel: &CancellationToken) -> Result<Fingerprint> {
    if inputs.optional("folder").is_none() {
        return Ok(Fingerprint::Always);
    }
    let mut files = files(state, inputs.text("folder")?, true)?;
    files.dedup();
    let texts: Vec<PathBuf> = files.iter().map(|file| file.with_extension("txt")).filter(|text| text.is_file()).collect();
    files.extend(texts);
    contents(state, cancel, &files)
}

/// The first value of an input of a class that takes lists.
fn first<'a>(call: &'a Call<'_, '_>, name: &str) -> Result<&'a str> {
    match call.inputs.list(name)?.first() {
        Some(Value::Text(text)) => Ok(text),
        Some(_) | None => Err(Error::msg(format!("input '{name}' must hold a text"))),
    }
}

fn save(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let pictures = pictures(call)?;
    let texts = if call.inputs.optional("texts").is_some() { call.inputs.list("texts")? } else { &[] };
    let numbered = match first(call, "mode")? {
        "overwrite" => false,
        "increment" => true,
        other => return Err(unknown_choice("mode", other)),
    };
    let prefix = first(call, "filename_prefix")?;
    let folders = &call.state.services.folders;
    for (index, picture) in pictures.iter().enumerate() {
        call.cx.progress(index as f64, pictures.len() as f64)?;
        let target =
            folders.save_target(Kind::Output, &format!("{}/{prefix}", first(call, "folder_name")?), picture.width(), picture.height());
        let target = target.map_err(Error::other)?;
        let picture = picture.clone();
        let bytes = call.apart(picture.0.len(), move || {
            png::encode(&Raster::from_image(&picture, 0)?, &png::Options { compression: saving::SAVE_COMPRESSION, text: Vec::new() })
        })?;
        let text = match texts.get(index) {
            Some(Value::Text(text)) => Some(text.as_bytes()),
            Some(other) => return Err(Error::msg(format!("input 'texts' holds {}, give it texts", other.type_name()))),
            None => None,
        };
        let path = if numbered {
            target.dir.join(target.save(index, "png", &bytes).map_err(Error::other)?.filename)
        } else {
            let path = target.dir.join(format!("{}_{index:05}.png", target.prefix));
            whole::write(&path, &bytes, Replace::Yes)?;
            path
        };
        if let Some(text) = text {
            whole::write(&path.with_extension("txt"), text, Replace::Yes)?;
        }
    }
    Ok(NodeOutput::default())
}

/// One picture of each value of a list; the reference, too, takes the single pictures only.
fn pictures(call: &Call<'_, '_>) -> Result<Vec<Image>> {
    let mut pictures = Vec::new();
    for value in call.inputs.list("images")? {
        let image = value.downcast::<Image>().filter(|image| image.batch() == 1 && !image.0.is_empty());
        let image = image.ok_or_else(|| Error::msg("input 'images' must hold single pictures, not batches; take them apart first"))?;
        pictures.push(image.as_ref().clone());
    }
    Ok(pictures)
}

fn shuffle(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (images, texts) = (call.inputs.list("images")?, call.inputs.list("texts")?);
    if texts.len() < images.len() {
        return Err(Error::msg(format!("there are {} pictures and only {} texts; give each picture one", images.len(), texts.len())));
    }
    let mut order: Vec<usize> = (0..images.len()).collect();
    let mut random = Generator::new(call.first::<u64>("seed")? % SEEDS);
    for last in (1..order.len()).rev() {
        order.swap(last, below(&mut random, last));
    }
    let picked = |values: &[Value]| Value::list(order.iter().map(|index| values[*index].clone()).collect());
    Ok(NodeOutput::values([picked(images), picked(texts)]))
}
