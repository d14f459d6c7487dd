//! Waveforms at another rate: torchaudio's `functional.resample` with its defaults, which is interpolation by a windowed sinc
//! (<https://ccrma.stanford.edu/~jos/resample/>). Its kernel is computed in single precision, as there.

use std::f64::consts::PI;

use comfyd_values::Audio;
use ndarray::{Array3, ArrayView1, Axis};
use rayon::prelude::*;

/// Zero crossings of the sinc on each side.
const WIDTH: f32 = 6.0;
/// Where it cuts off, as a part of the lower rate's half.
const ROLLOFF: f64 = 0.99;

/// How many samples there are at the other rate.
pub fn resampled_len(len: usize, from: u32, to: u32) -> usize {
    let divisor = u64::from(common_divisor(from, to));
    let (from, to) = (u64::from(from) / divisor, u64::from(to) / divisor);
    // As the reference computes it: in single precision, rounded up.
    ((to as f64 * len as f64 / from as f64) as f32).ceil() as usize
}

fn common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a.max(1) } else { common_divisor(b, a % b) }
}

/// One phase of the kernel: its weights, and how far before the sample they begin.
struct Phase {
    first: isize,
    weights: Vec<f32>,
}

/// The waveform at another rate. Both rates are above 0.
pub fn resample(audio: &Audio, to: u32) -> Audio {
    let from = audio.sample_rate;
    if from == to || audio.waveform.is_empty() {
        return Audio { waveform: audio.waveform.clone(), sample_rate: to };
    }
    let divisor = common_divisor(from, to);
    let (from, new) = ((from / divisor) as usize, (to / divisor) as usize);
    let phases = phases(from, new);
    let (batch, channels, len) = audio.waveform.dim();
    let length = resampled_len(len, audio.sample_rate, to);
    let mut out = Array3::zeros((batch, channels, length));
    let input = &audio.waveform;
    for (mut out, input) in out.outer_iter_mut().zip(input.outer_iter()) {
        for (mut out, input) in out.axis_iter_mut(Axis(0)).zip(input.axis_iter(Axis(0))) {
            let input = input.as_standard_layout();
            let Some(out) = out.as_slice_mut() else { continue };
            out.par_chunks_mut(1 << 14).enumerate().for_each(|(chunk, out)| {
                for (at, place) in out.iter_mut().enumerate() {
                    let at = (chunk << 14) + at;
                    *place = phases[at % new].at(input.view(), (at / new * from) as isize);
                }
            });
        }
    }
    Audio::new(out, to)
}

impl Phase {
    fn at(&self, input: ArrayView1<'_, f32>, sample: isize) -> f32 {
        let first = sample + self.first;
        let skipped = first.min(0).unsigned_abs();
        let begin = first.max(0).unsigned_abs();
        let Some(input) = input.as_slice() else { return 0.0 };
        let weights = self.weights.get(skipped..).unwrap_or_default();
        let input = input.get(begin..).unwrap_or_default();
        weights.iter().zip(input).map(|(weight, sample)| weight * sample).sum()
    }
}

fn phases(from: usize, new: usize) -> Vec<Phase> {
    let base = from.min(new) as f64 * ROLLOFF;
    let width = (f64::from(WIDTH) * from as f64 / base).ceil() as isize;
    let scale = (base / from as f64) as f32;
    let phase = |at: usize| {
        let offset = -(at as f32) / new as f32;
        // The window is zero outside; what rounding makes of it there is far below a sample's last bit.
        let middle = (at as f64 * from as f64 / new as f64) as isize;
        let first = (middle - width - 1).max(-width);
        let last = (middle + width + 2).min(width + from as isize);
        let weights = (first..last).map(|index| weight((index as f32 / from as f32 + offset) * base as f32) * scale).collect();
        Phase { first, weights }
    };
    (0..new).into_par_iter().map(phase).collect()
}

/// The windowed sinc at `t` zero crossings from its middle.
fn weight(t: f32) -> f32 {
    let t = t.clamp(-WIDTH, WIDTH);
    let window = (t * PI as f32 / WIDTH / 2.0).cos().powi(2);
    let t = t * PI as f32;
    let sinc = if t == 0.0 { 1.0 } else { t.sin() / t };
    sinc * window
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn lengths_are_rounded_up() {
        assert_eq!(resampled_len(44_100, 44_100, 48_000), 48_000);
        assert_eq!(resampled_len(1, 48_000, 8_000), 1);
        assert_eq!(resampled_len(7, 48_000, 8_000), 2);
        assert_eq!(resampled_len(0, 48_000, 8_000), 0);
    }

    #[test]
    fn a_tone_stays_a_tone() {
        for (from, to) in [(8_000, 12_000), (44_100, 48_000), (48_000, 16_000), (22_050, 44_100)] {
            let tone = |rate: u32, at: usize| (at as f64 / f64::from(rate) * 440.0 * 2.0 * PI).sin() as f32;
            let input = Array3::from_shape_fn((1, 1, from as usize / 2), |(_, _, at)| tone(from, at));
            let out = resample(&Audio::new(input, from), to);
            assert_eq!((out.samples(), out.sample_rate), (to as usize / 2, to));
            // Away from the ends, beyond which there is silence.
            let wrong = (200..to as usize / 2 - 200).map(|at| (out.waveform[[0, 0, at]] - tone(to, at)).abs()).fold(0.0, f32::max);
            assert!(wrong < 0.01, "{from} to {to}: {wrong}");
        }
    }
}
