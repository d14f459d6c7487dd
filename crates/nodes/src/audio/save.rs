//! Sound to files, with the workflow inside.

use comfyd_folders::Kind;
use comfyd_media::{Sound, SoundFormat};
use comfyd_node::{Branch, Input, NodeOutput, Result, Schema};
use comfyd_values::Audio;
use ndarray::Axis;

use super::sound;
use crate::class::{Call, Class, unknown_choice};
use crate::media::lacks_ffmpeg;
use crate::saving;

/// What is asked of MP3 and of Opus.
const MP3: [&str; 3] = ["V0", "128k", "320k"];
const OPUS: [&str; 5] = ["64k", "96k", "128k", "192k", "320k"];

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            saver("SaveAudio", "Save Audio (FLAC) (DEPRECATED)", "Saves sound as FLAC, which loses nothing. Needs FFmpeg.")
                .essentials("Audio")
                .deprecated()
                .aliases(["write flac", "lossless sound"])
        },
        |call| save(call, SoundFormat::Flac),
    )
    .declines(lacks_ffmpeg),
    Class::new(
        || {
            saver("SaveAudioMP3", "Save Audio (MP3) (DEPRECATED)", "Saves sound as MP3, which every player knows. Needs FFmpeg.")
                .essentials("Audio")
                .deprecated()
                .aliases(["write mp3"])
                .input(mp3())
        },
        |call| save(call, mp3_format(call.text("quality")?)?),
    )
    .declines(lacks_ffmpeg),
    Class::new(
        || {
            saver("SaveAudioOpus", "Save Audio (Opus) (DEPRECATED)", "Saves sound as Opus, which is small and good. Needs FFmpeg.")
                .deprecated()
                .aliases(["write opus"])
                .input(opus())
        },
        |call| save(call, opus_format(call.text("quality")?)?),
    )
    .declines(lacks_ffmpeg),
    Class::new(
        || {
            saver("SaveAudioAdvanced", "Save Audio (Advanced)", "Saves sound in one of several formats. Needs FFmpeg.")
                .aliases(["write sound", "flac", "mp3", "opus"])
                .input(
                    Input::branch("format", [Branch::new("flac", []), Branch::new("mp3", [mp3()]), Branch::new("opus", [opus()])])
                        .tooltip("flac loses nothing, mp3 is known everywhere, opus is smallest."),
                )
        },
        |call| {
            let format = match call.text("format")? {
                "flac" => SoundFormat::Flac,
                "mp3" => mp3_format(call.text("format.quality")?)?,
                "opus" => opus_format(call.text("format.quality")?)?,
                other => return Err(unknown_choice("format", other)),
            };
            save(call, format)
        },
    )
    .declines(lacks_ffmpeg),
    Class::new(
        || {
            Schema::new("PreviewAudio")
                .display("Preview Audio")
                .category("audio")
                .module("comfy_extras.nodes_audio")
                .schema_generation()
                .description("Plays sound in the browser and saves nothing. Needs FFmpeg.")
                .aliases(["listen", "hear"])
                .input(Input::link("audio", "AUDIO").tooltip("The sound to hear."))
                .hidden_metadata()
                .output_named("AUDIO", "audio")
                .output_node()
        },
        |call| {
            let audio = sound(call, "audio")?;
            let prefix = call.state.preview_prefix.clone();
            written(call, audio, Kind::Temp, &prefix, SoundFormat::Flac)
        },
    )
    .declines(lacks_ffmpeg),
];

fn saver(class: &str, name: &str, text: &str) -> Schema {
    Schema::new(class)
        .display(name)
        .category("audio")
        .module("comfy_extras.nodes_audio")
        .schema_generation()
        .description(text)
        .input(Input::link("audio", "AUDIO").tooltip("The sound to save."))
        .input(Input::text("filename_prefix").default("audio/ComfyUI").tooltip(
            "Start of the file names. A slash makes folders; %year%, %month%, %day%, %hour%, %minute%, %second% and %batch_num% are filled \
             in.",
        ))
        .hidden_metadata()
        .output_named("AUDIO", "audio")
        .output_node()
}

fn mp3() -> Input {
    Input::combo("quality", MP3).default("V0").tooltip("V0 takes as many bits as it needs, the others so many a second.")
}

fn opus() -> Input {
    Input::combo("quality", OPUS).default("128k").tooltip("Bits a second.")
}

fn mp3_format(quality: &str) -> Result<SoundFormat> {
    if quality == "V0" { Ok(SoundFormat::Mp3(None)) } else { Ok(SoundFormat::Mp3(Some(bits(quality, &MP3)?))) }
}

fn opus_format(quality: &str) -> Result<SoundFormat> {
    Ok(SoundFormat::Opus(bits(quality, &OPUS)?))
}

/// `128k` as a number.
fn bits(quality: &str, known: &[&str]) -> Result<u32> {
    let number = quality.strip_suffix('k').filter(|_| known.contains(&quality)).and_then(|number| number.parse::<u32>().ok());
    number.map(|thousands| thousands * 1000).ok_or_else(|| unknown_choice("quality", quality))
}

fn save(call: &Call<'_, '_>, format: SoundFormat) -> Result<NodeOutput> {
    written(call, sound(call, "audio")?, Kind::Output, call.text("filename_prefix")?, format)
}

/// A file of each waveform.
fn written(call: &Call<'_, '_>, audio: Audio, kind: Kind, prefix: &str, format: SoundFormat) -> Result<NodeOutput> {
    let target = call.target(kind, prefix, (0, 0))?;
    let tags = saving::metadata(call);
    let rate = format.rate(audio.sample_rate);
    let kept = if rate == audio.sample_rate { audio.clone() } else { super::edit::at_rate(call, audio.clone(), rate)? };
    let mut saved = Vec::with_capacity(kept.batch());
    for (index, waveform) in kept.waveform.axis_iter(Axis(0)).enumerate() {
        let sound = Sound { waveform, sample_rate: kept.sample_rate, format };
        let file = call.written(&target, index, &format!(".{}", format.ending()), |media, path, work| {
            media.encode_sound(&sound, &tags, path, work.cancel)
        })?;
        saved.push(file.to_json());
    }
    Ok(NodeOutput::one(audio).with_ui("audio", saved))
}
