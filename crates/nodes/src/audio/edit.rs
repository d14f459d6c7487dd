//! Sound cut, split, joined and laid over each other.

use comfyd_media::{resample, resampled_len};
use comfyd_node::{Error, Input, NodeOutput, Result, Schema, Value};
use comfyd_values::Audio;
use ndarray::{ArcArray, Array3, Axis, Ix3, concatenate, s};

use super::optional;
use crate::class::{Call, Class, unknown_choice};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            schema("TrimAudioDuration", "Trim Audio Duration")
                .description("Cuts a part out of a sound.")
                .aliases(["cut sound", "shorten"])
                .input(audio("audio"))
                .input(
                    Input::float("start_index")
                        .default(0.0)
                        .min(-18_446_744_073_709_551_615_i128 as f64)
                        .max(u64::MAX)
                        .step(0.01)
                        .tooltip("Where the part begins, in seconds; from the end, if it is negative."),
                )
                .input(Input::float("duration").default(60.0).min(0.0).step(0.01).tooltip("How long it is, in seconds."))
                .output("AUDIO")
        },
        trim,
    ),
    Class::new(
        || {
            schema("SplitAudioChannels", "Split Audio Channels")
                .description("Gives the left and the right channel as a sound each.")
                .aliases(["left and right", "to mono"])
                .input(audio("audio"))
                .output_named("AUDIO", "left")
                .output_named("AUDIO", "right")
        },
        split,
    ),
    Class::new(
        || {
            schema("JoinAudioChannels", "Join Audio Channels")
                .description("Makes stereo of two sounds of one channel each. What is longer is cut; the lower rate is raised.")
                .aliases(["to stereo", "left and right"])
                .input(audio("audio_left"))
                .input(audio("audio_right"))
                .output_named("AUDIO", "audio")
        },
        join,
    ),
    Class::new(
        || {
            schema("AudioConcat", "Concatenate Audio")
                .description("Plays one sound after another. Mono becomes stereo; the lower rate is raised.")
                .aliases(["in a row", "attach sound"])
                .input(audio("audio1"))
                .input(audio("audio2"))
                .input(Input::combo("direction", ["after", "before"]).default("after").tooltip("Where audio2 stands."))
                .output("AUDIO")
        },
        concat,
    ),
    Class::new(
        || {
            schema("AudioMerge", "Merge Audio")
                .description(
                    "Lays one sound over another, as long as the first. What would be louder than files can hold is made softer as a whole.",
                )
                .aliases(["mix sound", "at once"])
                .input(audio("audio1"))
                .input(audio("audio2"))
                .input(
                    Input::combo("merge_method", ["add", "mean", "subtract", "multiply"]).tooltip("What is done with each pair of samples."),
                )
                .output("AUDIO")
        },
        merge,
    ),
];

pub(super) fn schema(class: &str, name: &str) -> Schema {
    Schema::new(class).display(name).category("audio").module("comfy_extras.nodes_audio").schema_generation()
}

pub(super) fn audio(name: &str) -> Input {
    Input::link(name, "AUDIO").tooltip("A sound.")
}

/// The sound at another rate.
pub(super) fn at_rate(call: &Call<'_, '_>, audio: Audio, rate: u32) -> Result<Audio> {
    if audio.sample_rate == 0 || rate == 0 {
        return Err(Error::msg("a sound has the rate 0, so that it cannot be told how long it is; give it a rate above 0"));
    }
    call.reserve(&[audio.batch(), audio.channels(), resampled_len(audio.samples(), audio.sample_rate, rate)])?;
    call.aside(audio.waveform.len(), move || resample(&audio, rate))
}

/// Both at the higher rate.
fn at_one_rate(call: &Call<'_, '_>, first: Audio, second: Audio) -> Result<(Audio, Audio)> {
    let rate = first.sample_rate.max(second.sample_rate);
    Ok((at_rate(call, first, rate)?, at_rate(call, second, rate)?))
}

/// What two inputs hold; where one is empty, what there is of them is the result.
fn both(call: &Call<'_, '_>, first: &str, second: &str) -> Result<std::result::Result<(Audio, Audio), NodeOutput>> {
    Ok(match (optional(call, first)?, optional(call, second)?) {
        (Some(first), Some(second)) => Ok((first, second)),
        (Some(only), None) | (None, Some(only)) => Err(NodeOutput::one(only)),
        (None, None) => Err(NodeOutput::one(Value::Null)),
    })
}

/// A time in samples, rounded as Python rounds.
fn samples(seconds: f64, rate: u32) -> i128 {
    (seconds * f64::from(rate)).round_ties_even() as i128
}

fn trim(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let Some(audio) = optional(call, "audio")? else { return Ok(NodeOutput::one(Value::Null)) };
    let length = audio.samples() as i128;
    if length == 0 {
        return Ok(NodeOutput::one(audio));
    }
    let (start, duration) = (call.float("start_index")?, call.float("duration")?);
    let begin = samples(start, audio.sample_rate).saturating_add(if start < 0.0 { length } else { 0 }).clamp(0, length);
    let end = begin.saturating_add(samples(duration, audio.sample_rate)).clamp(0, length);
    if begin >= end {
        let seconds = audio.seconds();
        return Err(Error::msg(format!("nothing is left of {seconds:.3} s of sound; start within it, with a duration above 0")));
    }
    let waveform = audio.waveform.slice_move(s![.., .., begin as usize..end as usize]);
    Ok(NodeOutput::one(Audio { waveform, sample_rate: audio.sample_rate }))
}

fn split(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let Some(audio) = optional(call, "audio")? else { return Ok(NodeOutput::values([Value::Null, Value::Null])) };
    if audio.channels() != 2 {
        return Err(Error::msg(format!("the sound has {} channel(s), 2 can be split; give it stereo", audio.channels())));
    }
    let channel = |at: usize| Audio { waveform: audio.waveform.clone().slice_move(s![.., at..=at, ..]), sample_rate: audio.sample_rate };
    Ok(NodeOutput::values([channel(0).into(), channel(1).into()]))
}

fn join(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (left, right) = match both(call, "audio_left", "audio_right")? {
        Ok(both) => both,
        Err(done) => return Ok(done),
    };
    if left.channels() != 1 || right.channels() != 1 {
        return Err(Error::msg("both sounds must have one channel; split them first (Split Audio Channels)"));
    }
    let (left, right) = at_one_rate(call, left, right)?;
    let length = left.samples().min(right.samples());
    let cut = |audio: &Audio| audio.waveform.clone().slice_move(s![.., .., ..length]);
    call.reserve(&[left.batch(), 2, length])?;
    let waveform = joined(Axis(1), &cut(&left), &cut(&right))?;
    Ok(NodeOutput::one(Audio::new(waveform, left.sample_rate)))
}

fn concat(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (first, second) = match both(call, "audio1", "audio2")? {
        Ok(both) => both,
        Err(done) => return Ok(done),
    };
    let (first, second) = at_one_rate(call, stereo(call, first)?, stereo(call, second)?)?;
    call.reserve(&[first.batch(), first.channels(), first.samples() + second.samples()])?;
    let waveform = match call.text("direction")? {
        "after" => joined(Axis(2), &first.waveform, &second.waveform)?,
        "before" => joined(Axis(2), &second.waveform, &first.waveform)?,
        other => return Err(unknown_choice("direction", other)),
    };
    Ok(NodeOutput::one(Audio::new(waveform, first.sample_rate)))
}

/// One channel twice; more stay as they are.
fn stereo(call: &Call<'_, '_>, audio: Audio) -> Result<Audio> {
    if audio.channels() != 1 {
        return Ok(audio);
    }
    call.reserve(&[audio.batch(), 2, audio.samples()])?;
    Ok(Audio::new(joined(Axis(1), &audio.waveform, &audio.waveform)?, audio.sample_rate))
}

fn joined(axis: Axis, first: &ArcArray<f32, Ix3>, second: &ArcArray<f32, Ix3>) -> Result<Array3<f32>> {
    let shape = |waveform: &ArcArray<f32, Ix3>| format!("{} with {} channel(s)", waveform.shape()[0], waveform.shape()[1]);
    let fits = (0..3).all(|other| other == axis.index() || first.shape()[other] == second.shape()[other]);
    if !fits {
        let (first, second) = (shape(first), shape(second));
        return Err(Error::msg(format!("the sounds do not fit together: {first}, and {second}; give them equal numbers")));
    }
    Ok(concatenate![axis, first.view(), second.view()])
}

fn merge(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (first, second) = match both(call, "audio1", "audio2")? {
        Ok(both) => both,
        Err(done) => return Ok(done),
    };
    let (first, second) = at_one_rate(call, first, second)?;
    if first.samples() == 0 || second.samples() == 0 {
        return Ok(NodeOutput::one(first));
    }
    let work: fn(f32, f32) -> f32 = match call.text("merge_method")? {
        "add" => |a, b| a + b,
        "subtract" => |a, b| a - b,
        "multiply" => |a, b| a * b,
        "mean" => |a, b| (a + b) / 2.0,
        other => return Err(unknown_choice("merge_method", other)),
    };
    let common = |a: usize, b: usize| if a == b || b == 1 { Some(a) } else { (a == 1).then_some(b) };
    let shape = common(first.batch(), second.batch()).zip(common(first.channels(), second.channels()));
    let fit = || {
        let (first, second) = (first.channels(), second.channels());
        Error::msg(format!("sounds of {first} and {second} channels cannot be laid over each other; give them equal numbers, or mono"))
    };
    let (batch, channels) = shape.ok_or_else(fit)?;
    let (length, rate) = (first.samples(), first.sample_rate);
    call.reserve(&[batch, channels, length])?;
    let waveform = call.aside(batch * channels * length, move || {
        let at = |audio: &Audio, (b, c, n): (usize, usize, usize)| {
            let (b, c) = (b.min(audio.batch() - 1), c.min(audio.channels() - 1));
            audio.waveform.get([b, c, n]).copied().unwrap_or(0.0)
        };
        let mut merged = Array3::from_shape_fn((batch, channels, length), |place| work(at(&first, place), at(&second, place)));
        let loudest = merged.iter().fold(0_f32, |most, sample| most.max(sample.abs()));
        if loudest > 1.0 {
            merged.mapv_inplace(|sample| sample / loudest);
        }
        merged
    })?;
    Ok(NodeOutput::one(Audio::new(waveform, rate)))
}
