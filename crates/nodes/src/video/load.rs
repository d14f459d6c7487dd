//! Films from files, and made of pictures.

use std::sync::Arc;

use comfyd_node::{CancellationToken, Error, Fingerprint, Input, Inputs, NodeOutput, Result, Schema};
use comfyd_values::{Audio, FilmFile, Frames, Video};

use crate::class::{Call, Class};
use crate::image::load::validate_file;
use crate::media::{films, lacks_ffmpeg};
use crate::services::State;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("LoadVideo")
                .display("Load Video")
                .category("video")
                .module("comfy_extras.nodes_video")
                .schema_generation()
                .essentials("Basics")
                .description("Takes a video from the input folder. It is read when somebody needs what is in it. Needs FFmpeg.")
                .aliases(["film", "movie", "clip"])
                .input(Input::files("file", films()).option("video_upload", true).tooltip("A video in the input folder, or a new upload."))
                .output("VIDEO")
                .validates(["file"])
        },
        |call| {
            let path = Arc::from(call.state.input_file(call.text("file")?)?);
            Ok(NodeOutput::one(Video::File(FilmFile { path, start: 0.0, duration: 0.0 })))
        },
    )
    .declines(lacks_ffmpeg)
    .validate(|state, inputs| validate_file(state, inputs, "file", "video"))
    .fingerprint(fingerprint),
    Class::new(
        || {
            Schema::new("CreateVideo")
                .display("Create Video")
                .category("video")
                .module("comfy_extras.nodes_video")
                .schema_generation()
                .essentials("Video Tools")
                .description("Makes a video of pictures, and of sound if there is any.")
                .aliases(["frames to film", "with sound"])
                .input(Input::link("images", "IMAGE").tooltip("The frames."))
                .input(Input::float("fps").default(30.0).min(1.0).max(120.0).step(1.0).tooltip("Frames a second."))
                .input(Input::link("audio", "AUDIO").tooltip("The sound.").optional())
                .input(
                    Input::int("bit_depth")
                        .default(8)
                        .min(8)
                        .max(10)
                        .step(2)
                        .option("display", "number")
                        .tooltip("Bits of each color when it is saved. Ten show finer shades; not every player knows them.")
                        .optional(),
                )
                .output("VIDEO")
        },
        create,
    ),
];

/// What the file system says of it: a film may be too large to be read for that.
fn fingerprint(state: &State, inputs: &Inputs, _: &CancellationToken) -> Result<Fingerprint> {
    if inputs.optional("file").is_none() {
        return Ok(Fingerprint::Always);
    }
    let metadata = state.input_file(inputs.text("file")?)?.metadata()?;
    let version = comfyd_folders::FileVersion::of(&metadata)?;
    Ok(Fingerprint::Text(format!("{version:?}")))
}

fn create(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let frame_rate = call.float("fps")?;
    if frame_rate <= 0.0 {
        return Err(Error::msg(format!("input 'fps' is {frame_rate}, it must be above 0")));
    }
    let bit_depth = call.inputs.optional("bit_depth").map_or(Ok(8), |_| call.int::<u8>("bit_depth"))?;
    let audio = call.inputs.get_optional::<Audio>("audio")?.map(Arc::unwrap_or_clone);
    let images = call.image("images")?;
    Ok(NodeOutput::one(Video::Frames(Frames { images, audio, frame_rate, bit_depth })))
}
