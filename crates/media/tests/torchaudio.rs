//! What is computed on waveforms, against what torchaudio 2.11 gives for the same.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use comfyd_media::{Biquad, filter, resample};
use comfyd_values::Audio;
use ndarray::Array3;
use serde_json::Value as Json;

fn input(rate: u32) -> Audio {
    let sample = |at: usize| ((0.02 * (at * at) as f64 / (1.0 + 0.03 * at as f64)).sin() * 0.7) as f32;
    Audio::new(Array3::from_shape_fn((1, 1, 260), |(_, _, at)| sample(at)), rate)
}

fn recorded() -> Json {
    serde_json::from_str(include_str!("torchaudio.json")).unwrap()
}

/// The largest difference.
fn off(got: &Audio, want: &Json) -> f32 {
    let want: Vec<f32> = want.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect();
    assert_eq!(got.samples(), want.len());
    got.waveform.iter().zip(&want).map(|(got, want)| (got - want).abs()).fold(0.0, f32::max)
}

#[test]
fn resampling_equals_torchaudios() {
    for case in recorded()["resample"].as_array().unwrap() {
        let (from, to) = (case["from"].as_u64().unwrap() as u32, case["to"].as_u64().unwrap() as u32);
        let off = off(&resample(&input(from), to), &case["out"]);
        assert!(off < 1e-6, "{from} to {to}: {off}");
    }
}

#[test]
fn filters_equal_torchaudios() {
    for case in recorded()["filter"].as_array().unwrap() {
        let number = |name: &str| case[name].as_f64().unwrap();
        let make = match case["kind"].as_str().unwrap() {
            "low" => Biquad::low_shelf,
            "peak" => Biquad::peak,
            _ => Biquad::high_shelf,
        };
        let biquad = make(22050, number("frequency"), number("gain"), number("q"));
        let off = off(&filter(&input(22050), &[biquad]), &case["out"]);
        // They are recursive, so that rounding adds up: at low frequencies it is what a sample of 16 bits has as its last place, 3e-5.
        assert!(off < 1.5e-5, "{case}: {off}", case = case["kind"]);
    }
}
