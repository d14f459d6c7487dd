//! Sound from files, or none.

use comfyd_media::Window;
use comfyd_node::{CancellationToken, Error, Fingerprint, Input, Inputs, NodeOutput, Result, Schema};
use comfyd_values::{Audio, Latent};
use ndarray::{ArcArray, Array3, IxDyn};
use serde_json::json;

use crate::class::{Call, Class};
use crate::image::load::{file_fingerprint, validate_file};
use crate::media::{lacks_ffmpeg, sounds};
use crate::services::State;
use crate::tensors::TEMPORAL_RATIO;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("LoadAudio")
                .display("Load Audio")
                .category("audio")
                .module("comfy_extras.nodes_audio")
                .schema_generation()
                .essentials("Audio")
                .description("Reads the first sound track of a file in the input folder. Needs FFmpeg.")
                .aliases(["sound file", "music", "voice"])
                .input(
                    Input::files("audio", sounds())
                        .option("audio_upload", true)
                        .tooltip("A file with sound in the input folder, or a new upload. Videos will do."),
                )
                .output("AUDIO")
                .validates(["audio"])
        },
        load,
    )
    .declines(lacks_ffmpeg)
    .validate(validate)
    .fingerprint(fingerprint),
    Class::new(
        || {
            Schema::new("RecordAudio")
                .display("Record Audio")
                .category("audio")
                .module("comfy_extras.nodes_audio")
                .schema_generation()
                .description("Records with the browser's microphone. Needs FFmpeg.")
                .aliases(["microphone", "dictate"])
                .input(Input::link("audio", "AUDIO_RECORD").tooltip("The recording, which the browser uploads."))
                .output("AUDIO")
        },
        load,
    )
    .declines(lacks_ffmpeg),
    Class::new(
        || {
            Schema::new("EmptyAudio")
                .display("Empty Audio")
                .category("audio")
                .module("comfy_extras.nodes_audio")
                .schema_generation()
                .description("Silence of a given length.")
                .aliases(["silence", "pause"])
                .input(Input::float("duration").default(60.0).min(0.0).max(u64::MAX).step(0.01).tooltip("How long, in seconds."))
                .input(Input::int("sample_rate").default(44100).min(1).max(192_000).advanced().tooltip("Samples a second."))
                .input(Input::int("channels").default(2).min(1).max(2).advanced().tooltip("1 is mono, 2 is stereo."))
                .output("AUDIO")
        },
        silence,
    ),
    Class::new(
        || {
            Schema::new("EmptyLatentAudio")
                .display("Empty Latent Audio")
                .category("model/latent")
                .module("comfy_extras.nodes_audio")
                .schema_generation()
                .essentials("Audio")
                .description("Starts sound for Stable Audio.")
                .input(Input::float("seconds").default(47.6).min(1.0).max(1000.0).step(0.1).tooltip("How long, after decoding."))
                .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("How many at once."))
                .output("LATENT")
        },
        latent,
    ),
];

/// Samples of a latent's, at the rate that Stable Audio has.
const SAMPLES_PER_LATENT: f64 = 2048.0;
const STABLE_AUDIO_RATE: f64 = 44_100.0;

fn load(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let path = call.state.input_file(call.text("audio")?)?;
    let audio = call.media(|media, work| {
        let probe = media.probe(&path, work.cancel)?;
        media.decode_sound(&path, probe.first_audio()?, Window::default(), work)
    })?;
    let audio = audio.ok_or_else(|| Error::msg("no sound of the file can be decoded; take another one"))?;
    Ok(NodeOutput::one(audio))
}

/// It must be there (ComfyUI's words, which clients show).
fn validate(state: &State, inputs: &Inputs) -> std::result::Result<(), String> {
    validate_file(state, inputs, "audio", "audio")
}

fn fingerprint(state: &State, inputs: &Inputs, cancel: &CancellationToken) -> Result<Fingerprint> {
    file_fingerprint(state, inputs, cancel, "audio")
}

fn latent(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let pairs = (call.float("seconds")? * STABLE_AUDIO_RATE / SAMPLES_PER_LATENT / 2.0).round_ties_even();
    let shape = [call.count("batch_size", 1)?, 64, (pairs.max(0.0) as usize).saturating_mul(2)];
    call.reserve(&shape)?;
    let samples = ArcArray::zeros(IxDyn(&shape));
    let extra = json!({"type": "audio", TEMPORAL_RATIO: SAMPLES_PER_LATENT as u32});
    let extra = extra.as_object().cloned().unwrap_or_default();
    Ok(NodeOutput::one(Latent { extra, ..Latent::new(samples) }))
}

fn silence(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (rate, channels) = (call.int::<u32>("sample_rate")?, call.count("channels", 1)?);
    if rate == 0 {
        return Err(Error::msg("input 'sample_rate' is 0, it must be at least 1"));
    }
    let samples = (call.float("duration")? * f64::from(rate)).round_ties_even();
    // What is larger than this number is larger than any limit.
    let samples = samples.max(0.0) as usize;
    call.reserve(&[1, channels, samples])?;
    Ok(NodeOutput::one(Audio::new(Array3::zeros((1, channels, samples)), rate)))
}
