//! Parts of films, and what they are made of.

use comfyd_node::{Error, Input, NodeOutput, Result, Schema, Value};
use comfyd_values::{Frames, Video};

use super::{film, part, probe, window};
use crate::class::{Call, Class};
use crate::media::lacks_ffmpeg;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("GetVideoComponents")
                .display("Get Video Components")
                .category("video")
                .module("comfy_extras.nodes_video")
                .schema_generation()
                .description("Takes a video apart: its frames, its sound, and how it is played. Needs FFmpeg.")
                .aliases(["frames of a film", "sound of a film"])
                .input(Input::link("video", "VIDEO").tooltip("The video to take apart."))
                .output_named("IMAGE", "images")
                .output_named("AUDIO", "audio")
                .output_named("FLOAT", "fps")
                .output_named("INT", "bit_depth")
                .output_named("COMBO", "color_space")
        },
        components,
    )
    .declines(lacks_ffmpeg),
    Class::new(
        || {
            Schema::new("Video Slice")
                .display("Trim Video")
                .category("video")
                .module("comfy_extras.nodes_video")
                .schema_generation()
                .essentials("Video Tools")
                .description("Takes a part of a video.")
                .aliases(["cut film", "shorten", "skip the beginning"])
                .input(Input::link("video", "VIDEO").tooltip("The video."))
                .input(
                    Input::float("start_time")
                        .default(0.0)
                        .min(-100_000.0)
                        .max(100_000.0)
                        .step(0.001)
                        .tooltip("Where the part begins, in seconds; from the end, if it is negative."),
                )
                .input(Input::float("duration").default(0.0).min(0.0).step(0.001).tooltip("How long it is, in seconds; 0: to the end."))
                .input(Input::bool("strict_duration").default(false).tooltip("Fails where less than that is left."))
                .output("VIDEO")
        },
        slice,
    )
    .declines(lacks_ffmpeg),
];

fn components(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (images, audio, frame_rate, bit_depth, color_space) = match film(call, "video")? {
        Video::Frames(Frames { images, audio, frame_rate, bit_depth }) => (images, audio, frame_rate, bit_depth, "sRGB"),
        Video::File(file) => {
            let probe = probe(call, &file)?;
            let window = call.media(|media, work| media.settled(&file.path, &probe, window(&file), work.cancel))?;
            let images = call.media(|media, work| media.decode_frames(&file.path, &probe, window, work))?;
            let audio = match probe.last_audio() {
                Some(stream) => call.media(|media, work| media.decode_sound(&file.path, stream, window, work))?,
                None => None,
            };
            let stream = probe.video().map_err(Error::other)?;
            (images, audio, stream.frame_rate(), stream.bit_depth(), stream.color_space().unwrap_or("sRGB"))
        }
    };
    let audio = audio.map_or(Value::Null, Value::from);
    Ok(NodeOutput::values([images.into(), audio, frame_rate.into(), i64::from(bit_depth).into(), color_space.into()]))
}

fn slice(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (start, duration) = (call.float("start_time")?, call.float("duration")?);
    let strict = call.bool("strict_duration")?;
    let video = film(call, "video")?;
    match part(call, video, start, duration, strict)? {
        Some(part) => Ok(NodeOutput::one(part)),
        None => Err(Error::msg(format!(
            "the video has less than {duration} s from {start} s on; ask for less, or switch strict_duration off to take what there is"
        ))),
    }
}
