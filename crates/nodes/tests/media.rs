//! Sound and film: the recorded cases of `conformance/media`, and what no recording shows. All of it needs FFmpeg.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::Path;
use std::sync::Arc;

use comfyd_media::{Media, Options, Probe, Stream, Window, Work};
use comfyd_node::{CancellationToken, Hidden, Value};
use comfyd_nodes::Limits;
use comfyd_values::{Audio, FilmFile, Frames, Image, Video};
use common::{Bench, compare, conformance, inputs, values};
use ndarray::{Array3, Array4};
use serde_json::{Map, Value as Json, json};

/// FFmpeg, where it is: else it is said that nothing was looked at.
fn ffmpeg() -> Option<Media> {
    let media = Media::new(Options::new(std::env::temp_dir()));
    let there = media.probe(&conformance().join("media/snd0.wav"), &CancellationToken::default());
    if let Err(error) = &there {
        eprintln!("SKIPPED: sound and film are not tested here: {error}");
    }
    there.is_ok().then_some(media)
}

fn work<T>(job: impl FnOnce(&mut Work<'_>) -> comfyd_media::Result<T>) -> T {
    let cancel = CancellationToken::default();
    job(&mut Work { cancel: &cancel, room: &mut |_| Ok(()), progress: &mut |_, _| {}, most: 1 << 30 }).unwrap()
}

/// A file with what is in it.
struct Opened {
    probe: Probe,
    images: Option<Image>,
    audio: Option<Audio>,
}

fn open(media: &Media, path: &Path) -> Opened {
    let probe = media.probe(path, &CancellationToken::default()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let images = probe.video().is_ok().then(|| work(|work| media.decode_frames(path, &probe, Window::default(), work)));
    let audio = probe.last_audio().and_then(|stream| work(|work| media.decode_sound(path, stream, Window::default(), work)));
    Opened { probe, images, audio }
}

/// What is told of a stream that must be equal.
fn facts(stream: &Stream) -> String {
    let Stream { codec_type, width, height, channels, .. } = stream;
    let (codec, rate, fps) = (stream.codec(), stream.sample_rate(), stream.frame_rate());
    format!("{codec_type} {codec:?} {width}x{height} {channels} {rate} {fps:.4} {} {:?}", stream.bit_depth(), stream.color_space())
}

/// Names of tags, as programs that read them compare them.
fn tag_names(probe: &Probe) -> Vec<String> {
    let own = |name: &&String| !matches!(&***name, "encoder" | "major_brand" | "minor_version" | "compatible_brands" | "ENCODER" | "TSS");
    let mut names: Vec<String> = probe.tags().keys().filter(own).cloned().collect();
    names.sort_unstable();
    names
}

fn compare_files(media: &Media, got: &Path, want: &Path) -> Result<(), String> {
    let lossless = want.extension().is_some_and(|ending| ending == "flac");
    let (got, want) = (open(media, got), open(media, want));
    let all = |opened: &Opened| opened.probe.streams.iter().map(facts).collect::<Vec<_>>();
    if all(&got) != all(&want) {
        return Err(format!("{:?}, reference {:?}", all(&got), all(&want)));
    }
    if tag_names(&got.probe) != tag_names(&want.probe) {
        return Err(format!("tags {:?}, reference {:?}", tag_names(&got.probe), tag_names(&want.probe)));
    }
    if !got.probe.containers().eq(want.probe.containers()) {
        return Err("another container".into());
    }
    match (&got.audio, &want.audio) {
        (Some(got), Some(want)) => compare_sound(got, want, lossless)?,
        (None, None) => {}
        (got, want) => return Err(format!("sound {}, reference {}", got.is_some(), want.is_some())),
    }
    let (Some(got), Some(want)) = (got.images, want.images) else { return Ok(()) };
    if got.0.shape() != want.0.shape() {
        return Err(format!("frames {:?}, reference {:?}", got.0.shape(), want.0.shape()));
    }
    let off = got.0.iter().zip(&want.0).map(|(got, want)| f64::from((got - want).abs())).sum::<f64>() / got.0.len() as f64;
    // Encoders of other versions.
    if off < 0.02 { Ok(()) } else { Err(format!("frames are off by {off:.4} on average")) }
}

fn compare_sound(got: &Audio, want: &Audio, lossless: bool) -> Result<(), String> {
    let shapes = (got.waveform.shape(), want.waveform.shape());
    if lossless {
        let off = got.waveform.iter().zip(&want.waveform).map(|(got, want)| (got - want).abs()).fold(0_f32, f32::max);
        // The last place of 16 bits, where rounding decides between two.
        let fits = shapes.0 == shapes.1 && off < 1.5 / 32768.0;
        return if fits { Ok(()) } else { Err(format!("{shapes:?}, off by {} of 65536", off * 32768.0)) };
    }
    let length = got.samples().min(want.samples());
    if got.samples().abs_diff(want.samples()) > want.samples() / 20 {
        return Err(format!("{} samples, reference {}", got.samples(), want.samples()));
    }
    let norm = |of: &dyn Fn(usize, usize) -> f32| {
        let all = (0..want.channels()).flat_map(|c| (0..length).map(move |n| (c, n)));
        all.map(|(c, n)| f64::from(of(c, n)).powi(2)).sum::<f64>().sqrt()
    };
    let off = norm(&|c, n| got.waveform[[0, c, n]] - want.waveform[[0, c, n]]) / (norm(&|c, n| want.waveform[[0, c, n]]) + 1e-9);
    // Encoders of other versions.
    if off < 0.12 { Ok(()) } else { Err(format!("relative error {off:.4}")) }
}

fn check(media: &Media, bench: &Bench, folder: &Path, case: &Json) -> Result<(), String> {
    let shown = bench.graph(case["workflow"].as_object().unwrap())?;
    let listed = |keys: &'static [&str]| shown.iter().flat_map(|ui| keys.iter().filter_map(|key| ui.get(*key)?.as_array())).flatten();
    if let Some(want) = case["texts"].as_array() {
        let got: Vec<&Json> = listed(&["text"]).collect();
        if got != want.iter().collect::<Vec<_>>() {
            return Err(format!("texts {got:?}, reference {want:?}"));
        }
    }
    let got: Vec<&Json> = listed(&["images", "audio"]).collect();
    let want = case["expect"].as_array().unwrap();
    if got.len() != want.len() {
        return Err(format!("{} files, reference {}", got.len(), want.len()));
    }
    for (got, want) in got.iter().zip(want) {
        let want = folder.join(want.as_str().unwrap());
        let compared = if want.extension().unwrap() == "png" {
            compare::pictures(&bench.saved(got), &std::fs::read(&want).unwrap(), 3)
        } else {
            compare_files(media, &bench.path(got), &want)
        };
        compared.map_err(|error| format!("{}: {error}", want.file_name().unwrap().display()))?;
    }
    Ok(())
}

fn with_files() -> Bench {
    let bench = Bench::with(false, Limits::default());
    for name in ["media/snd0.wav", "media/snd1.wav", "media/film0.mp4", "nodes/pic0.png"] {
        let from = conformance().join(name);
        std::fs::copy(&from, bench.folders.roots().input.join(from.file_name().unwrap())).unwrap();
    }
    bench
}

#[test]
fn all_cases_agree_with_the_reference() {
    let Some(media) = ffmpeg() else { return };
    let bench = with_files();
    let folder = conformance().join("media");
    let cases: Map<String, Json> = serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
    assert_eq!(cases.len(), 20);
    let failed: Vec<String> =
        cases.iter().filter_map(|(name, case)| check(&media, &bench, &folder, case).err().map(|e| format!("{name}: {e}"))).collect();
    assert!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), cases.len(), failed.join("\n"));
}
