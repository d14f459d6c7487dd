//! Sound louder, softer, or with other weights of its frequencies.

use comfyd_media::{Biquad, filter};
use comfyd_node::{Error, Input, NodeOutput, Result, Value};
use comfyd_values::Audio;

use super::edit::{audio, schema};
use super::optional;
use crate::class::{Call, Class};

/// The width of both shelves' slopes.
const SHELF_Q: f64 = 0.707;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            schema("AudioAdjustVolume", "Adjust Audio Volume")
                .description("Makes a sound louder or softer.")
                .aliases(["louder", "softer", "gain"])
                .input(audio("audio"))
                .input(Input::int("volume").default(1).min(-100).max(100).tooltip("Decibels: 6 is about twice as loud, -6 about half."))
                .output("AUDIO")
        },
        volume,
    ),
    Class::new(
        || {
            let gain = |name: &str, text: &str| Input::float(name).default(0.0).min(-24.0).max(24.0).step(0.1).tooltip(text);
            let frequency = |name: &str, default: i64, (min, max): (i64, i64), text: &str| {
                Input::int(name).default(default).min(min).max(max).tooltip(text)
            };
            schema("AudioEqualizer3Band", "Audio Equalizer (3-Band)")
                .experimental()
                .description("Raises or lowers the low, the middle and the high frequencies of a sound.")
                .aliases(["bass", "treble", "tone control"])
                .input(audio("audio"))
                .input(gain("low_gain_dB", "Decibels for low frequencies."))
                .input(frequency("low_freq", 100, (20, 500), "Hertz below which is low."))
                .input(gain("mid_gain_dB", "Decibels for frequencies in between."))
                .input(frequency("mid_freq", 1000, (200, 4000), "Hertz around which is the middle."))
                .input(Input::float("mid_q").default(0.707).min(0.1).max(10.0).step(0.1).tooltip("How narrow the middle is."))
                .input(gain("high_gain_dB", "Decibels for high frequencies."))
                .input(frequency("high_freq", 5000, (1000, 15000), "Hertz above which is high."))
                .output("AUDIO")
        },
        equalize,
    ),
];

fn volume(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let Some(audio) = optional(call, "audio")? else { return Ok(NodeOutput::one(Value::Null)) };
    let decibels = call.int::<i32>("volume")?;
    if decibels == 0 {
        return Ok(NodeOutput::one(audio));
    }
    call.reserve(audio.waveform.shape())?;
    let gain = 10_f64.powf(f64::from(decibels) / 20.0) as f32;
    let waveform = call.aside(audio.waveform.len(), move || audio.waveform.mapv(|sample| sample * gain))?;
    Ok(NodeOutput::one(Audio::new(waveform, audio.sample_rate)))
}

fn equalize(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let Some(audio) = optional(call, "audio")? else { return Ok(NodeOutput::one(Value::Null)) };
    if audio.waveform.is_empty() || audio.sample_rate == 0 {
        return Ok(NodeOutput::one(audio));
    }
    let rate = audio.sample_rate;
    let q = call.float("mid_q")?;
    if q <= 0.0 {
        return Err(Error::msg(format!("input 'mid_q' is {q}, it must be above 0")));
    }
    let mut filters = Vec::new();
    let low = call.float("low_gain_dB")?;
    if low != 0.0 {
        filters.push(Biquad::low_shelf(rate, call.float("low_freq")?, low, SHELF_Q));
    }
    let mid = call.float("mid_gain_dB")?;
    if mid != 0.0 {
        filters.push(Biquad::peak(rate, call.float("mid_freq")?, mid, q));
    }
    let high = call.float("high_gain_dB")?;
    if high != 0.0 {
        filters.push(Biquad::high_shelf(rate, call.float("high_freq")?, high, SHELF_Q));
    }
    call.reserve(audio.waveform.shape())?;
    let filtered = call.aside(audio.waveform.len(), move || filter(&audio, &filters))?;
    Ok(NodeOutput::one(filtered))
}
