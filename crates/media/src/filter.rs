//! Filters of waveforms, as torchaudio has them: second-order sections (R. Bristow-Johnson, "Audio EQ Cookbook") in single precision, whose
//! output is kept between -1 and 1.

use std::f64::consts::{LN_10, PI};

use comfyd_values::Audio;

/// A second-order section.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Biquad {
    b: [f32; 3],
    a: [f32; 2],
}

/// What the three kinds have in common.
struct Terms {
    /// The root of the gain.
    amplitude: f32,
    alpha: f32,
    cos: f32,
}

impl Terms {
    fn new(rate: u32, frequency: f64, gain_db: f64, q: f64) -> Self {
        let w0 = (2.0 * PI) as f32 * frequency as f32 / rate as f32;
        Self { amplitude: (gain_db as f32 / 40.0 * LN_10 as f32).exp(), alpha: w0.sin() / 2.0 / q as f32, cos: w0.cos() }
    }
}

impl Biquad {
    fn new(b: [f32; 3], a: [f32; 3]) -> Self {
        Self { b: b.map(|b| b / a[0]), a: [a[1] / a[0], a[2] / a[0]] }
    }

    /// Raises or lowers what is below a frequency, in Hz.
    pub fn low_shelf(rate: u32, frequency: f64, gain_db: f64, q: f64) -> Self {
        let Terms { amplitude: a, alpha, cos } = Terms::new(rate, frequency, gain_db, q);
        let (root, less, more) = (2.0 * a.sqrt() * alpha, (a - 1.0) * cos, (a + 1.0) * cos);
        Self::new(
            [a * ((a + 1.0) - less + root), 2.0 * a * ((a - 1.0) - more), a * ((a + 1.0) - less - root)],
            [(a + 1.0) + less + root, -2.0 * ((a - 1.0) + more), (a + 1.0) + less - root],
        )
    }

    /// Raises or lowers what is above a frequency, in Hz.
    pub fn high_shelf(rate: u32, frequency: f64, gain_db: f64, q: f64) -> Self {
        let Terms { amplitude: a, alpha, cos } = Terms::new(rate, frequency, gain_db, q);
        let (root, less, more) = (2.0 * a.sqrt() * alpha, (a - 1.0) * cos, (a + 1.0) * cos);
        Self::new(
            [a * ((a + 1.0) + less + root), -2.0 * a * ((a - 1.0) + more), a * ((a + 1.0) + less - root)],
            [(a + 1.0) - less + root, 2.0 * ((a - 1.0) - more), (a + 1.0) - less - root],
        )
    }

    /// Raises or lowers what is around a frequency, in Hz.
    pub fn peak(rate: u32, frequency: f64, gain_db: f64, q: f64) -> Self {
        let Terms { amplitude: a, alpha, cos } = Terms::new(rate, frequency, gain_db, q);
        let double = -2.0 * cos;
        Self::new([1.0 + alpha * a, double, 1.0 - alpha * a], [1.0 + alpha / a, double, 1.0 - alpha / a])
    }
}

/// The waveform through these, one after the other.
pub fn filter(audio: &Audio, filters: &[Biquad]) -> Audio {
    let mut waveform = audio.waveform.to_owned();
    for Biquad { b, a } in filters {
        for mut channel in waveform.rows_mut() {
            let (mut x1, mut x2, mut y1, mut y2) = (0.0, 0.0, 0.0, 0.0);
            for sample in &mut channel {
                let x0 = *sample;
                let mut y0 = b[0] * x0 + b[1] * x1 + b[2] * x2;
                y0 -= a[1] * y2;
                y0 -= a[0] * y1;
                (x2, x1, y2, y1) = (x1, x0, y1, y0);
                *sample = y0.clamp(-1.0, 1.0);
            }
        }
    }
    Audio::new(waveform, audio.sample_rate)
}
