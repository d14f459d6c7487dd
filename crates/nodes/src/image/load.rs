//! Pictures from files.

use comfyd_folders::Kind;
use comfyd_imaging::decode;
use comfyd_node::{CancellationToken, FileSource, Fingerprint, Input, Inputs, NodeOutput, Result, Schema};
use serde_json::json;

use crate::class::{Call, Class, MAX_RESOLUTION, unknown_choice};
use crate::services::State;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("LoadImage")
                .display("Load Image")
                .category("image")
                .essentials("Basics")
                .description(
                    "Reads a picture from the input folder; every frame of an animation becomes one image of the \
                     batch. The mask is what is transparent.",
                )
                .aliases(["picture file", "photo", "input"])
                .input(
                    Input::files("image", pictures())
                        .option("image_upload", true)
                        .tooltip("A picture in the input folder, or a new upload."),
                )
                .output("IMAGE")
                .output("MASK")
                .validates(["image"])
        },
        load_image,
    )
    .validate(validate_image)
    .fingerprint(image_fingerprint),
    Class::new(
        || {
            Schema::new("LoadImageMask")
                .display("Load Image (as Mask)")
                .category("image")
                .essentials("Image Tools")
                .description(
                    "Reads one channel of a picture as a mask. Alpha is inverted, so that what is transparent is \
                     masked.",
                )
                .aliases(["mask file", "alpha of a file"])
                .input(
                    Input::files("image", pictures())
                        .option("image_upload", true)
                        .tooltip("A picture in the input folder, or a new upload."),
                )
                .input(Input::combo("channel", ["alpha", "red", "green", "blue"]))
                .output("MASK")
                .validates(["image"])
        },
        load_mask,
    )
    .validate(validate_image)
    .fingerprint(image_fingerprint),
    Class::new(
        || {
            Schema::new("LoadImageOutput")
                .display("Load Image (from Outputs)")
                .category("image")
                .essentials("Basics")
                .experimental()
                .description("Reads a picture that was saved to the output folder before, to go on working with it.")
                .aliases(["earlier result", "reuse"])
                .input(
                    Input::remote("image")
                        .option("image_upload", true)
                        .option("image_folder", "output")
                        .option(
                            "remote",
                            json!({"route": "/internal/files/output", "refresh_button": true, "control_after_refresh": "first"}),
                        )
                        .tooltip("A picture in the output folder; the button reads the list again."),
                )
                .output("IMAGE")
                .output("MASK")
                .validates(["image"])
        },
        load_image,
    )
    .validate(validate_image)
    .fingerprint(image_fingerprint),
    Class::new(
        || {
            Schema::new("WebcamCapture")
                .display("Webcam Capture")
                .category("image")
                .essentials("Basics")
                .module("comfy_extras.nodes_webcam")
                .description("Takes a picture with the browser's camera.")
                .aliases(["camera", "photo"])
                .input(Input::link("image", "WEBCAM").tooltip("The camera's picture."))
                .input(
                    Input::int("width")
                        .default(0)
                        .min(0)
                        .max(MAX_RESOLUTION)
                        .step(1)
                        .tooltip("Wanted width in pixels; 0 leaves it to the camera."),
                )
                .input(
                    Input::int("height")
                        .default(0)
                        .min(0)
                        .max(MAX_RESOLUTION)
                        .step(1)
                        .tooltip("Wanted height in pixels; 0 leaves it to the camera."),
                )
                .input(Input::bool("capture_on_queue").default(true).tooltip("Takes a new picture each time the workflow is queued."))
                .output("IMAGE")
                .validates(["image"])
        },
        load_image,
    )
    .validate(validate_image)
    .fingerprint(image_fingerprint),
];

/// What is offered: files of the input folder with the endings of pictures.
fn pictures() -> FileSource {
    FileSource::InputFiles(decode::endings().into_iter().map(str::to_owned).collect())
}

fn load_image(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let bytes = call.state.read(&call.state.input_file(call.text("image")?)?)?;
    let loaded = call.decoded(bytes, decode::load_image)?;
    Ok(NodeOutput::values([loaded.image.into(), loaded.mask.into()]))
}

fn load_mask(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let channel = match call.text("channel")? {
        "alpha" => decode::Channel::Alpha,
        "red" => decode::Channel::Red,
        "green" => decode::Channel::Green,
        "blue" => decode::Channel::Blue,
        other => return Err(unknown_choice("channel", other)),
    };
    let bytes = call.state.read(&call.state.input_file(call.text("image")?)?)?;
    Ok(NodeOutput::one(call.decoded(bytes, move |bytes, limits| decode::load_mask(bytes, channel, limits))?))
}

/// The picture must be there (ComfyUI's words, which clients show).
fn validate_image(state: &State, inputs: &Inputs) -> std::result::Result<(), String> {
    validate_file(state, inputs, "image", "image")
}

/// A file that a client names in `input` must be there.
pub(crate) fn validate_file(state: &State, inputs: &Inputs, input: &str, what: &str) -> std::result::Result<(), String> {
    let Some(value) = inputs.optional(input) else { return Ok(()) };
    let invalid = |name: &str| format!("Invalid {what} file: {name}");
    let name = inputs.text(input).map_err(|_| invalid(&value.to_json().to_string()))?;
    let path = state.services.folders.annotated_path(name, Kind::Input);
    if path.is_ok_and(|path| path.is_file()) { Ok(()) } else { Err(invalid(name)) }
}

fn image_fingerprint(state: &State, inputs: &Inputs, cancel: &CancellationToken) -> Result<Fingerprint> {
    file_fingerprint(state, inputs, cancel, "image")
}

/// The content of the file that a client names in `input` decides the result.
pub(crate) fn file_fingerprint(state: &State, inputs: &Inputs, cancel: &CancellationToken, input: &str) -> Result<Fingerprint> {
    // A linked name is not known yet; the node is run again then, which reads the file as it is.
    if inputs.optional(input).is_none() {
        return Ok(Fingerprint::Always);
    }
    let path = state.input_file(inputs.text(input)?)?;
    // What no node reads need not be read here.
    if path.metadata()?.len() > state.services.limits.max_tensor_bytes {
        return Ok(Fingerprint::Always);
    }
    Ok(Fingerprint::Text(state.file_hash(&path, cancel)?.to_string()))
}
