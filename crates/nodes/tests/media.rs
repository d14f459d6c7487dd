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
use ndarray::{Array3, Array4, s};
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
    let images = probe.video().is_ok().then(|| work(|work| media.decode_frames(path, &probe, Window::default(), None, work)));
    let audio = probe.last_audio().and_then(|stream| work(|work| media.decode_sound(path, stream, Window::default(), work)));
    Opened { probe, images, audio }
}

/// What is told of a stream that must be equal.
fn facts(stream: &Stream) -> String {
    let Stream { codec_type, width, height, channels, .. } = stream;
    let (codec, rate, fps) = (stream.codec(), stream.sample_rate(), stream.frame_rate());
    let alpha = stream.tags.iter().any(|(name, text)| name.eq_ignore_ascii_case("alpha_mode") && text == "1");
    let (depth, space) = (stream.bit_depth(), stream.color_space());
    format!("{codec_type} {codec:?} {width}x{height} {channels} {rate} {fps:.4} {depth} {space:?} {alpha}")
}

/// Names of tags, as programs that read them compare them.
fn tag_names(probe: &Probe) -> Vec<String> {
    let own = |name: &&String| !["encoder", "major_brand", "minor_version", "compatible_brands", "tss"].contains(&&*name.to_lowercase());
    let mut names: Vec<String> = probe.tags().keys().filter(own).cloned().collect();
    names.sort_unstable();
    names
}

fn compare_files(media: &Media, got: &Path, want: &Path, of_film: bool) -> Result<(), String> {
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
        (Some(got), Some(want)) => compare_sound(got, want, lossless, of_film)?,
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

fn compare_sound(got: &Audio, want: &Audio, lossless: bool, of_film: bool) -> Result<(), String> {
    let shapes = (got.waveform.shape(), want.waveform.shape());
    if lossless {
        // A part begins at a time whose product with the rate the reference cuts, so that rounding may move it by a sample.
        let off = |moved: [usize; 2]| {
            let [got, want] = [(got, moved[0]), (want, moved[1])].map(|(of, from)| of.waveform.slice(s![.., .., from..]));
            got.iter().zip(&want).map(|(got, want)| (got - want).abs()).fold(0_f32, f32::max)
        };
        let off = if of_film { [[0, 0], [0, 1], [1, 0]].map(off).into_iter().fold(1.0, f32::min) } else { off([0, 0]) };
        // The last place of 16 bits, where rounding decides between two.
        // Newer FFmpegs cut what fills the last frame of AAC up.
        let longer = if of_film { 1024 } else { 0 };
        let fits = got.samples().abs_diff(want.samples()) <= longer && shapes.0[..2] == shapes.1[..2] && off < 1.5 / 32768.0;
        return if fits { Ok(()) } else { Err(format!("{shapes:?}, off by {} of 65536", off * 32768.0)) };
    }
    if got.samples().abs_diff(want.samples()) > want.samples() / 20 {
        return Err(format!("{} samples, reference {}", got.samples(), want.samples()));
    }
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    // A part may begin a few samples later than the reference's.
    let off = |moved: isize| {
        let [got, want] = [(got, moved.max(0)), (want, (-moved).max(0))].map(|(of, from)| of.waveform.slice(s![.., .., from..]));
        let length = got.shape()[2].min(want.shape()[2]);
        let [got, want] = [got, want].map(|of| of.slice_move(s![.., .., ..length]));
        norm(&mut got.iter().zip(&want).map(|(got, want)| f64::from(got - want))) / (norm(&mut want.iter().map(|v| f64::from(*v))) + 1e-9)
    };
    let off = (-4..=4).map(off).fold(f64::INFINITY, f64::min);
    // Encoders of other versions.
    if off < 0.25 { Ok(()) } else { Err(format!("relative error {off:.4}")) }
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
            compare::pictures(&bench.saved(got), &std::fs::read(&want).unwrap(), 3, 0.05)
        } else {
            compare_files(media, &bench.path(got), &want, case["workflow"].to_string().contains("film0.mp4"))
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
    assert_eq!(cases.len(), 27);
    let failed: Vec<String> =
        cases.iter().filter_map(|(name, case)| check(&media, &bench, &folder, case).err().map(|e| format!("{name}: {e}"))).collect();
    assert!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

fn film() -> Video {
    let path = Arc::from(conformance().join("media/film0.mp4"));
    Video::File(FilmFile { path, start: 0.0, duration: 0.0 })
}

fn frames(count: usize, (width, height): (usize, usize)) -> Video {
    let images =
        Image::new(Array4::from_shape_fn((count, height, width, 3), |(at, y, x, c)| ((at * 7 + y + x * 2 + c * 9) % 64) as f32 / 64.0));
    let audio = Audio::new(Array3::from_shape_fn((1, 2, 48_000), |(_, c, n)| ((n * (c + 1)) as f32 * 0.03).sin() * 0.5), 48_000);
    Video::Frames(Frames { images, audio: Some(audio), frame_rate: 24.0, bit_depth: 8 })
}

fn run(bench: &Bench, class: &str, widgets: Json, objects: &[(&str, Value)]) -> Result<Vec<Value>, String> {
    let mut given = inputs(&widgets);
    for (name, value) in objects {
        given.insert(*name, value.clone());
    }
    bench.run(class, given).map(|output| values(&output)).map_err(|error| error.to_string())
}

/// What a node saved last.
fn saved(bench: &Bench, class: &str, widgets: Json, objects: &[(&str, Value)]) -> std::path::PathBuf {
    let mut given = inputs(&widgets);
    for (name, value) in objects {
        given.insert(*name, value.clone());
    }
    let output = bench.run(class, given).unwrap();
    let ui = output.ui.unwrap();
    let shown = ui.get("images").or(ui.get("audio")).unwrap();
    bench.path(&shown[0])
}

/// More than an argument of a program may have, with all signs that a format could take for its own.
fn graph() -> Json {
    let text = "=;#\\\n\r\t\"é漢🦊{}[]".repeat(20_000);
    json!({"7": {"class_type": "SaveVideo", "inputs": {"text": text}}})
}

#[test]
fn the_graph_is_in_every_kind_of_file() {
    let Some(media) = ffmpeg() else { return };
    let mut bench = with_files();
    let workflow = json!({"nodes": [1, 2, {"title": "ü"}], "large": graph()});
    bench.hidden = Hidden {
        prompt: Arc::new(graph()),
        extra_data: Arc::new(json!({"extra_pnginfo": {"workflow": workflow.clone(), "mine": 3}})),
        ..Hidden::default()
    };
    let sound = run(&bench, "LoadAudio", json!({"audio": "snd0.wav"}), &[]).unwrap().remove(0);
    let video = |format: &str| json!({"filename_prefix": "x", "format": format, "format.codec": "auto"});
    let audio = |format: &str, quality: &str| json!({"filename_prefix": "x", "format": format, "format.quality": quality});
    let images = Value::object(Image::solid(2, 64, 64, 0x20_40_60));
    for path in [
        saved(&bench, "SaveAudioAdvanced", audio("flac", ""), &[("audio", sound.clone())]),
        saved(&bench, "SaveAudioAdvanced", audio("mp3", "V0"), &[("audio", sound.clone())]),
        saved(&bench, "SaveAudioAdvanced", audio("opus", "96k"), &[("audio", sound.clone())]),
        saved(&bench, "SaveVideo", video("mp4"), &[("video", Value::object(frames(3, (64, 64))))]),
        saved(&bench, "SaveVideo", video("mkv"), &[("video", Value::object(frames(3, (64, 64))))]),
        saved(&bench, "SaveVideo", video("mp4"), &[("video", Value::object(film()))]),
        saved(&bench, "SaveVideo", video("mkv"), &[("video", Value::object(film()))]),
        saved(&bench, "SaveWEBM", json!({"filename_prefix": "x", "codec": "vp9", "fps": 8.0, "crf": 40.0}), &[("images", images)]),
    ] {
        let probe = media.probe(&path, &CancellationToken::default()).unwrap();
        // Ogg has tags with the stream, and Matroska's are upper case.
        let all = probe.tags().iter().chain(probe.streams.iter().flat_map(|stream| &stream.tags));
        let tags: Map<String, Json> = all.map(|(name, text)| (name.to_lowercase(), json!(text))).collect();
        let there = || tags.iter().map(|(name, text)| format!("{name} of {} bytes", text.as_str().unwrap().len())).collect::<Vec<_>>();
        let text = |name: &str| tags.get(name).unwrap_or_else(|| panic!("{}: no {name}, but {:?}", path.display(), there()));
        let read = |name: &str| serde_json::from_str::<Json>(text(name).as_str().unwrap()).unwrap();
        assert!(read("prompt") == graph() && read("workflow") == workflow && read("mine") == 3, "{}", path.display());
    }
    // A film's own tags stay.
    let copied = saved(&bench, "SaveVideo", video("auto"), &[("video", Value::object(film()))]);
    assert_eq!(media.probe(&copied, &CancellationToken::default()).unwrap().tags()["title"], "a film");
}

#[test]
fn sound_may_be_missing() {
    let bench = Bench::new();
    let silent = |class: &str, widgets: Json, names: &[&str]| {
        let given: Vec<(&str, Value)> = names.iter().map(|name| (*name, Value::Null)).collect();
        run(&bench, class, widgets, &given).map(|values| values.iter().map(Value::type_name).collect::<Vec<_>>().join(" "))
    };
    let none = Ok("NONE".to_owned());
    assert_eq!(silent("TrimAudioDuration", json!({"start_index": 0.0, "duration": 1.0}), &["audio"]), none);
    assert_eq!(silent("SplitAudioChannels", json!({}), &["audio"]), Ok("NONE NONE".into()));
    assert_eq!(silent("JoinAudioChannels", json!({}), &["audio_left", "audio_right"]), none);
    assert_eq!(silent("AudioConcat", json!({"direction": "after"}), &["audio1", "audio2"]), none);
    assert_eq!(silent("AudioMerge", json!({"merge_method": "add"}), &["audio1", "audio2"]), none);
    assert_eq!(silent("AudioAdjustVolume", json!({"volume": 3}), &["audio"]), none);
    assert!(silent("SaveAudio", json!({"filename_prefix": "x"}), &["audio"]).unwrap_err().contains("has no sound"));
    assert!(silent("PreviewAudio", json!({}), &["audio"]).unwrap_err().contains("has no sound"));
}

#[test]
fn what_does_not_fit_together_is_told() {
    let bench = Bench::new();
    let sound = |channels: usize, samples: usize, rate: u32| Value::object(Audio::new(Array3::zeros((1, channels, samples)), rate));
    let told = |class: &str, widgets: Json, given: &[(&str, Value)]| run(&bench, class, widgets, given).unwrap_err();
    let both = |a: Value, b: Value| [("audio1", a), ("audio2", b)];
    let merge = json!({"merge_method": "add"});
    assert!(told("AudioMerge", merge.clone(), &both(sound(2, 4, 8000), sound(3, 4, 8000))).contains("2 and 3 channels"));
    assert!(told("AudioMerge", merge, &both(sound(2, 4, 8000), sound(2, 4, 0))).contains("rate 0"));
    assert!(told("AudioConcat", json!({"direction": "after"}), &both(sound(3, 4, 8000), sound(1, 4, 8000))).contains("do not fit"));
    let trim = |start: f64, duration: f64| json!({"start_index": start, "duration": duration});
    assert!(told("TrimAudioDuration", trim(2.0, 1.0), &[("audio", sound(1, 8000, 8000))]).contains("nothing is left of 1.000 s"));
    assert!(told("TrimAudioDuration", trim(0.0, 0.0), &[("audio", sound(1, 8000, 8000))]).contains("nothing is left"));
    assert!(told("SplitAudioChannels", json!({}), &[("audio", sound(1, 4, 8000))]).contains("1 channel"));
    let odd = Value::object(frames(1, (65, 64)));
    let mp4 = json!({"filename_prefix": "x", "format": "mp4", "format.codec": "auto"});
    if ffmpeg().is_some() {
        assert!(told("SaveVideo", mp4, &[("video", odd)]).contains("65 x 64; scale or crop"));
        let sdr = json!({"filename_prefix": "x", "format": "mp4", "format.codec": "h264", "format.codec.encoding": "re-encode",
            "format.codec.encoding.crf": 20.0, "format.codec.encoding.color_space": "HDR"});
        let made = saved(
            &bench,
            "SaveVideo",
            json!({"filename_prefix": "x", "format": "mp4", "format.codec": "h264"}),
            &[("video", Value::object(frames(2, (64, 64))))],
        );
        let file = Video::File(FilmFile { path: Arc::from(made), start: 0.0, duration: 0.0 });
        assert!(told("SaveVideo", sdr, &[("video", Value::object(file))]).contains("are sRGB and cannot be told to be HDR"));
    }
    let webm = json!({"filename_prefix": "x", "format": "webm", "format.codec": "h264"});
    assert!(told("SaveVideo", webm, &[("video", Value::object(frames(1, (64, 64))))]).contains("take av1 or auto"));
}

#[test]
fn parts_of_films_are_checked() {
    if ffmpeg().is_none() {
        return;
    }
    let bench = Bench::new();
    let slice = |start: f64, duration: f64, strict: bool, video: Video| {
        let widgets = json!({"start_time": start, "duration": duration, "strict_duration": strict});
        run(&bench, "Video Slice", widgets, &[("video", Value::object(video))])
    };
    // 15 frames, 12.5 a second; 3 frames, 24 a second.
    for (video, length) in [(film(), 1.2), (frames(24, (64, 64)), 1.0)] {
        assert!(slice(0.2, length, false, video.clone()).is_ok());
        assert!(slice(0.2, length, true, video.clone()).unwrap_err().contains("less than"));
        assert!(slice(0.2, length - 0.3, true, video.clone()).is_ok());
        assert!(slice(-0.2, 0.1, true, video.clone()).is_ok());
        assert!(slice(length + 1.0, 0.1, false, video).unwrap_err().contains("start earlier"));
    }
}

/// What is no film, and what names other files: nothing of them gets out.
#[test]
fn files_that_lead_elsewhere_are_refused() {
    if ffmpeg().is_none() {
        return;
    }
    let bench = with_files();
    let input = &bench.folders.roots().input;
    let film = conformance().join("media/film0.mp4").canonicalize().unwrap();
    let listed = format!("ffconcat version 1.0\nfile '{}'\n", film.display());
    let playlist = format!("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{}\n#EXT-X-ENDLIST\n", film.display());
    for (name, content) in [
        ("list.mp4", listed.as_bytes()),
        ("playlist.mp4", playlist.as_bytes()),
        ("text.mp4", b"no film at all"),
        ("empty.mp4", b""),
        ("-i.mp4", b"x"),
        ("http:x.mp4", b"x"),
    ] {
        std::fs::write(input.join(name), content).unwrap();
        let video = run(&bench, "LoadVideo", json!({"file": name}), &[]).unwrap().remove(0);
        let error = run(&bench, "GetVideoComponents", json!({}), &[("video", video)]).unwrap_err();
        assert!(error.starts_with("ffprobe fails") || error.contains("no video"), "{name}: {error}");
        assert!(!error.contains(bench.dir.path().to_str().unwrap()), "{name}: {error}");
    }
    std::fs::copy(&film, input.join("-i -y concat:a|b http:.mp4")).unwrap();
    let video = run(&bench, "LoadVideo", json!({"file": "-i -y concat:a|b http:.mp4"}), &[]).unwrap().remove(0);
    assert!(run(&bench, "GetVideoComponents", json!({}), &[("video", video)]).is_ok());
}

#[test]
fn what_is_too_large_is_refused_before_it_is_there() {
    if ffmpeg().is_none() {
        return;
    }
    let bench = Bench::with(false, Limits { max_tensor_bytes: 500_000, ..Limits::default() });
    let error = run(&bench, "GetVideoComponents", json!({}), &[("video", Value::object(film()))]).unwrap_err();
    assert!(error.contains("more than the limit"), "{error}");
    let error = run(&bench, "EmptyAudio", json!({"duration": 1e19, "sample_rate": 44100, "channels": 2}), &[]).unwrap_err();
    assert!(error.contains("more than the limit"), "{error}");
}

/// Where FFmpeg ends with the prompt, nothing is left of what it wrote.
#[cfg(unix)]
#[test]
fn an_interrupted_film_leaves_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (program, begun) = (folder.path().join("ffmpeg"), folder.path().join("begun"));
    std::fs::write(&program, format!("#!/bin/sh\necho > {}\nsleep 600\n", begun.display())).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let bench = Bench::with_ffmpeg(&program);
    let cancel = bench.cancel.clone();
    std::thread::spawn(move || {
        while !begun.exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        cancel.cancel();
    });
    let widgets = json!({"filename_prefix": "x", "format": "mp4", "format.codec": "h264"});
    let error = run(&bench, "SaveVideo", widgets, &[("video", Value::object(frames(20, (128, 128))))]);
    assert_eq!(error.unwrap_err(), "interrupted");
    let left = |folder: &Path| std::fs::read_dir(folder).unwrap().count();
    assert_eq!((left(&bench.folders.roots().output), left(&bench.folders.roots().temp)), (0, 0));
}

#[test]
fn a_missing_program_is_told_in_the_nodes_words() {
    let bench = Bench::with_ffmpeg(Path::new("/no/ffmpeg"));
    std::fs::copy(conformance().join("media/snd0.wav"), bench.folders.roots().input.join("snd0.wav")).unwrap();
    let error = run(&bench, "LoadAudio", json!({"audio": "snd0.wav"}), &[]).unwrap_err();
    assert!(error.contains("cannot be started") && error.contains("apt-get install ffmpeg"), "{error}");
}
