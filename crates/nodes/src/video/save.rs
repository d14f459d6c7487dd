//! Films to files, with the workflow inside.

use comfyd_folders::Kind;
use comfyd_media::{ColorSpace, Container, Film, Transcode, VideoCodec};
use comfyd_node::{Branch, Error, Input, NodeOutput, Result, Schema};
use comfyd_values::{Frames, Video};
use serde_json::json;

use super::{film, probe, window};
use crate::class::{Call, Class, unknown_choice};
use crate::media::lacks_ffmpeg;
use crate::saving;

const PREFIX: &str = "Start of the file names. A slash makes folders; %width%, %height%, %year%, %month%, %day%, %hour%, %minute% and %second% \
                      are filled in.";

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("SaveWEBM")
                .display("Save WEBM")
                .category("video")
                .module("comfy_extras.nodes_video")
                .schema_generation()
                .experimental()
                .description("Saves pictures as a WebM video. Needs FFmpeg.")
                .aliases(["write webm", "transparent film"])
                .input(Input::link("images", "IMAGE").tooltip("The frames. vp9 keeps what is transparent in them."))
                .input(Input::text("filename_prefix").default("ComfyUI").tooltip(PREFIX))
                .input(Input::combo("codec", ["vp9", "av1"]).tooltip("How frames are encoded."))
                .input(Input::float("fps").default(24.0).min(0.01).max(1000.0).step(0.01).tooltip("Frames a second."))
                .input(Input::float("crf").default(32.0).min(0).max(63.0).step(1).tooltip("Smaller looks better and takes more space."))
                .hidden_metadata()
                .output_named("IMAGE", "images")
                .output_node()
        },
        webm,
    )
    .declines(lacks_ffmpeg),
    Class::new(
        || {
            // Older workflows have the codec beside the format.
            let format = |key: &str, codecs: &[&str]| Branch::new(key, [codec(codecs).newer()]);
            Schema::new("SaveVideo")
                .display("Save Video")
                .category("video")
                .module("comfy_extras.nodes_video")
                .schema_generation()
                .essentials("Basics")
                .description("Saves a video to the output folder. Needs FFmpeg.")
                .aliases(["write film", "mp4", "mkv"])
                .input(Input::link("video", "VIDEO").tooltip("The video to save."))
                .input(Input::text("filename_prefix").default("video/ComfyUI").tooltip(PREFIX))
                .input(
                    Input::branch(
                        "format",
                        [
                            format("auto", &["auto", "h264", "av1"]),
                            format("mp4", &["auto", "h264", "av1"]),
                            format("mkv", &["auto", "h264", "av1"]),
                            format("webm", &["auto", "av1"]),
                        ],
                    )
                    .tooltip("What the file is. auto keeps what a loaded video has, where that can be."),
                )
                .input(codec(&["auto", "h264", "av1"]).option("hidden", true).optional())
                .hidden_metadata()
                .output_named("VIDEO", "video")
                .output_node()
        },
        save,
    )
    .declines(lacks_ffmpeg),
];

fn codec(known: &[&str]) -> Input {
    let branch = |key: &&str| match *key {
        "h264" => Branch::new("h264", [encoding(23.0, 51.0)]),
        "av1" => Branch::new("av1", [encoding(30.0, 63.0)]),
        other => Branch::new(other, []),
    };
    Input::branch("codec", known.iter().map(branch))
        .tooltip("How frames are encoded. auto keeps those of a loaded video, where that can be.")
}

fn encoding(crf: f64, worst: f64) -> Input {
    let anew = [
        Input::float("crf").default(crf).min(0.0).max(worst).step(1.0).tooltip("Smaller looks better and takes more space."),
        Input::combo("color_space", ["auto", "sRGB", "HDR", "HDR PQ"])
            .default("auto")
            .display("color space")
            .tooltip("What the colors are told to be; they are not converted. auto keeps what a loaded video says; pictures are sRGB."),
    ];
    Input::branch("encoding", [Branch::new("auto", []), Branch::new("re-encode", anew)])
        .display("encoding mode")
        .tooltip("auto keeps frames that are encoded so already; re-encode does it anew.")
        .optional()
}

/// What was asked of a file.
struct Wanted {
    container: Option<Container>,
    codec: Option<VideoCodec>,
    crf: Option<f64>,
    color_space: Option<ColorSpace>,
}

fn wanted(call: &Call<'_, '_>) -> Result<Wanted> {
    let container = match call.text("format")? {
        "auto" => None,
        "mp4" => Some(Container::Mp4),
        "mkv" => Some(Container::Mkv),
        "webm" => Some(Container::WebM),
        other => return Err(unknown_choice("format", other)),
    };
    // Workflows of older versions have it beside the format, not in it.
    let name = if call.inputs.optional("format.codec").is_some() { "format.codec" } else { "codec" };
    let codec = match call.inputs.optional(name).map(|_| call.text(name)).transpose()? {
        None | Some("auto") => None,
        Some("h264") => Some(VideoCodec::H264),
        Some("av1") => Some(VideoCodec::Av1),
        Some(other) => return Err(unknown_choice(name, other)),
    };
    let of = |inner: &str| {
        let name = format!("{name}.encoding.{inner}");
        call.inputs.optional(&name).is_some().then_some(name)
    };
    let crf = of("crf").map(|name| call.float(&name)).transpose()?;
    let color_space = match of("color_space").map(|name| call.text(&name).map(str::to_owned)).transpose()?.as_deref() {
        None | Some("auto") => None,
        Some("sRGB") => Some(ColorSpace::Srgb),
        Some("HDR") => Some(ColorSpace::Hlg),
        Some("HDR PQ") => Some(ColorSpace::Pq),
        Some(other) => return Err(unknown_choice("color_space", other)),
    };
    if container == Some(Container::WebM) && codec == Some(VideoCodec::H264) {
        return Err(Error::msg("a webm file holds no h264; take av1 or auto, or another format"));
    }
    Ok(Wanted { container, codec, crf, color_space })
}

/// The graph last, as the reference has it in films.
fn tags(call: &Call<'_, '_>) -> Vec<(String, String)> {
    let mut tags = saving::metadata(call);
    if tags.first().is_some_and(|(key, _)| key == saving::PROMPT) {
        tags.rotate_left(1);
    }
    tags
}

fn save(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let Wanted { container, codec, crf, color_space } = wanted(call)?;
    let (prefix, tags) = (call.text("filename_prefix")?, tags(call));
    let video = film(call, "video")?;
    let file = match &video {
        Video::File(file) => {
            let probe = probe(call, file)?;
            let stream = probe.video().map_err(Error::other)?;
            let transcode = Transcode { path: &file.path, probe: &probe, window: window(file), container, codec, crf, color_space };
            let target = call.target(Kind::Output, prefix, (stream.width, stream.height))?;
            let tail = format!("_.{}", transcode.target().ending());
            call.written(&target, 0, &tail, |media, into, work| media.transcode(&transcode, &tags, into, work))?
        }
        Video::Frames(Frames { images, audio, frame_rate, bit_depth }) => {
            let container = container.unwrap_or(Container::Mp4);
            let usual = if container == Container::WebM { VideoCodec::Av1 } else { VideoCodec::H264 };
            let color_space = Some(color_space.unwrap_or(ColorSpace::Srgb));
            let audio = audio.as_ref().filter(|audio| !audio.waveform.is_empty() && audio.sample_rate > 0);
            let (frame_rate, bit_depth, codec) = (*frame_rate, *bit_depth, codec.unwrap_or(usual));
            let film = Film { images, frame_rate, audio, container, codec, bit_depth, crf, color_space };
            let target = call.target(Kind::Output, prefix, (images.width(), images.height()))?;
            let tail = format!("_.{}", container.ending());
            call.written(&target, 0, &tail, |media, into, work| media.encode_film(&film, &tags, into, work))?
        }
    };
    Ok(NodeOutput::one(video).with_ui("images", vec![file.to_json()]).with_ui("animated", vec![json!(true)]))
}

fn webm(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let images = call.image("images")?;
    let codec = match call.text("codec")? {
        "vp9" => VideoCodec::Vp9,
        "av1" => VideoCodec::Av1,
        other => return Err(unknown_choice("codec", other)),
    };
    let frame_rate = call.float("fps")?;
    if frame_rate <= 0.0 {
        return Err(Error::msg(format!("input 'fps' is {frame_rate}, it must be above 0")));
    }
    let film = Film {
        images: &images,
        frame_rate,
        audio: None,
        container: Container::WebM,
        codec,
        bit_depth: if codec == VideoCodec::Av1 { 10 } else { 8 },
        crf: Some(call.float("crf")?),
        color_space: None,
    };
    let target = call.target(Kind::Output, call.text("filename_prefix")?, (images.width(), images.height()))?;
    let tags = saving::metadata(call);
    let file = call.written(&target, 0, "_.webm", |media, into, work| media.encode_film(&film, &tags, into, work))?;
    Ok(NodeOutput::one(images).with_ui("images", vec![file.to_json()]).with_ui("animated", vec![json!(true)]))
}
