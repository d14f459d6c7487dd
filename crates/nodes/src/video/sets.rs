//! Frames picked out of films, and lists of films: what training sets are made of.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use comfyd_folders::{Kind, extension};
use comfyd_kernels::random::Generator;
use comfyd_node::{Error, FileSource, Fingerprint, Input, Inputs, NodeOutput, Result, Schema, Value};
use comfyd_values::{FilmFile, Frames, Image, Video};
use ndarray::Axis;

use super::given::{film, part, probe, window};
use crate::class::{Call, Class, unknown_choice};
use crate::media::lacks_ffmpeg;
use crate::services::State;

/// numpy's seeds have 32 bits; larger ones are brought there so.
const SEEDS: u64 = u32::MAX as u64;

/// Endings of the films of a folder.
const ENDINGS: [&str; 6] = [".mp4", ".avi", ".mov", ".webm", ".mkv", ".flv"];

/// Films that one folder may hold; what is taken with a number before its name counts as often.
const MAX_FILMS: usize = 100_000;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            schema("VideoFrameSample", "Sample Video Frame", "video")
                .description("Picks some frames of a video and makes a video of them. Needs FFmpeg.")
                .aliases(["pick frames", "fewer frames"])
                .input(video())
                .input(Input::int("num_frames").default(16).min(1).max(9999).tooltip("How many frames."))
                .input(
                    Input::combo("strategy", ["uniform", "head", "tail", "random"])
                        .default("uniform")
                        .tooltip("Spread evenly, the first ones, the last ones, or such as the seed decides."),
                )
                .input(seed())
                .output_named("VIDEO", "video")
        },
        sample,
    )
    .declines(lacks_ffmpeg),
    Class::new(
        || {
            schema("VideoTemporalCrop", "Crop Video (Temporal)", "video/transform")
                .description("Takes some frames in a row out of a video. Needs FFmpeg.")
                .aliases(["frames from to", "cut film"])
                .input(video())
                .input(Input::int("start_frame").default(0).min(0).max(99_999).tooltip("The first of them, counted from 0."))
                .input(Input::int("length").default(16).min(1).max(99_999).tooltip("How many."))
                .output_named("VIDEO", "video")
        },
        |call| {
            let (video, start, length) = (film(call, "video")?, call.count("start_frame", 0)?, call.count("length", 1)?);
            let (total, rate) = counted(call, &video)?;
            let start = start.min(total.saturating_sub(1));
            row(call, video, start, length.min(total - start), rate)
        },
    )
    .declines(lacks_ffmpeg),
    Class::new(
        || {
            schema("VideoRandomTemporalCrop", "Crop Video (Temporal Random)", "video/transform")
                .description("Takes some frames in a row out of a video, from where the seed decides. Needs FFmpeg.")
                .aliases(["augmentation", "cut film"])
                .input(video())
                .input(Input::int("length").default(16).min(1).max(99_999).tooltip("How many."))
                .input(seed())
                .output_named("VIDEO", "video")
        },
        |call| {
            let (video, length) = (film(call, "video")?, call.count("length", 1)?);
            let mut random = Generator::new(call.int::<u64>("seed")? % SEEDS);
            let (total, rate) = counted(call, &video)?;
            let length = length.min(total);
            let start = below(&mut random, total - length);
            row(call, video, start, length, rate)
        },
    )
    .declines(lacks_ffmpeg),
    Class::new(
        || {
            schema("ShuffleVideoDataset", "Shuffle Videos List", "video/batch")
                .description("Brings a list of videos into an order that the seed decides.")
                .aliases(["random order"])
                .input(Input::link("videos", "VIDEO").tooltip("The videos."))
                .input(seed())
                .input_is_list()
                .output_list_named("VIDEO", "videos")
        },
        |call| {
            let mut videos = call.inputs.list("videos")?.to_vec();
            let order = shuffled(call, videos.len())?;
            videos = order.iter().map(|at| videos[*at].clone()).collect();
            Ok(NodeOutput::one(Value::list(videos)))
        },
    ),
    Class::new(
        || {
            schema("ShuffleVideoTextDataset", "Shuffle Pairs of Video-Text", "dataset/video")
                .description("Brings a list of videos and their texts into an order that the seed decides.")
                .aliases(["random order", "captions"])
                .input(Input::link("videos", "VIDEO").tooltip("The videos."))
                .input(Input::text("texts").tooltip("A text for each video."))
                .input(seed())
                .input_is_list()
                .output_list_named("VIDEO", "videos")
                .output_list_named("STRING", "texts")
        },
        |call| {
            let (videos, texts) = (call.inputs.list("videos")?, call.inputs.list("texts")?);
            if texts.len() < videos.len() {
                return Err(Error::msg(format!("there are {} videos and {} texts; give each video one", videos.len(), texts.len())));
            }
            let order = shuffled(call, videos.len())?;
            let taken = |values: &[Value]| Value::list(order.iter().map(|at| values[*at].clone()).collect());
            Ok(NodeOutput::values([taken(videos), taken(texts)]))
        },
    ),
    Class::new(
        || {
            schema("LoadVideoDataSetFromFolder", "Load Video (from Folder)", "video")
                .description("Takes all videos of a folder as a list, in the order of their names.")
                .aliases(["directory", "many files"])
                .input(folder())
                .output_list_named("VIDEO", "videos")
        },
        |call| {
            let files = chosen(call, false)?;
            Ok(NodeOutput::one(videos(&files)))
        },
    )
    .fingerprint(|state, inputs, _| files_fingerprint(state, inputs)),
    Class::new(
        || {
            schema("LoadVideoTextDataSetFromFolder", "Load Video-Text (from Folder)", "video")
                .description(
                    "Takes all videos of a folder as a list, with the text that lies beside each of them. Folders inside it whose names begin \
                     with a number and _ are taken so many times.",
                )
                .aliases(["captions", "directory"])
                .input(folder())
                .output_list_named("VIDEO", "videos")
                .output_list_named("STRING", "texts")
        },
        |call| {
            let files = chosen(call, true)?;
            let texts: Vec<Value> = files.iter().map(|file| Ok(text_beside(call.state, file)?.into())).collect::<Result<_>>()?;
            Ok(NodeOutput::values([videos(&files), Value::list(texts)]))
        },
    )
    .fingerprint(|state, inputs, _| files_fingerprint(state, inputs)),
];

fn schema(class: &str, name: &str, category: &str) -> Schema {
    Schema::new(class).display(name).category(category).module("comfy_extras.nodes_dataset").schema_generation().experimental()
}

fn video() -> Input {
    Input::link("video", "VIDEO").tooltip("The video.")
}

fn seed() -> Input {
    Input::int("seed").default(0).min(0).max(u64::MAX).tooltip("Decides the random numbers.")
}

fn folder() -> Input {
    Input::files("folder", FileSource::InputFolders).tooltip("A folder inside the input folder.")
}

/// A whole number up to and with `most`, as numpy's older generator draws it: bits are drawn until they fit.
fn below(random: &mut Generator, most: usize) -> usize {
    let Ok(most) = u32::try_from(most) else { return 0 };
    if most == 0 {
        return 0;
    }
    let mask = u32::MAX >> most.leading_zeros();
    loop {
        let drawn = random.next_u32() & mask;
        if drawn <= most {
            return drawn as usize;
        }
    }
}

/// Numbers below `count` in numpy's random order.
fn permutation(random: &mut Generator, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, below(random, last));
    }
    order
}

fn shuffled(call: &Call<'_, '_>, count: usize) -> Result<Vec<usize>> {
    Ok(permutation(&mut Generator::new(call.first::<u64>("seed")? % SEEDS), count))
}

/// How many frames a film has, at least one, and how many a second.
fn counted(call: &Call<'_, '_>, video: &Video) -> Result<(usize, f64)> {
    match video {
        Video::Frames(frames) => Ok((frames.images.batch(), frames.frame_rate)),
        Video::File(file) => {
            let probe = probe(call, file)?;
            let frames = call.media(|media, work| media.count_frames(&file.path, &probe, window(file), work.cancel))?;
            let rate = probe.video().map_err(Error::other)?.frame_rate();
            Ok((usize::try_from(frames).unwrap_or(usize::MAX), rate))
        }
    }
}

/// So many frames in a row.
fn row(call: &Call<'_, '_>, video: Video, start: usize, length: usize, rate: f64) -> Result<NodeOutput> {
    let cut = part(call, video, start as f64 / rate, length as f64 / rate, false)?;
    Ok(NodeOutput::one(cut.ok_or_else(|| Error::msg("the video has no such frames; take others"))?))
}

fn sample(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let video = film(call, "video")?;
    let (total, rate) = counted(call, &video)?;
    let count = call.count("num_frames", 1)?.min(total);
    let picked: Vec<usize> = match call.text("strategy")? {
        "head" => return row(call, video, 0, count, rate),
        "tail" => return row(call, video, total - count, count, rate),
        "uniform" if count == 1 => vec![total / 2],
        "uniform" => (0..count).map(|at| (at as f64 * (total - 1) as f64 / (count - 1) as f64).round_ties_even() as usize).collect(),
        "random" => {
            let mut random = Generator::new(call.int::<u64>("seed")? % SEEDS);
            let mut picked = permutation(&mut random, total);
            picked.truncate(count);
            picked.sort_unstable();
            picked
        }
        other => return Err(unknown_choice("strategy", other)),
    };
    let images = match &video {
        Video::Frames(frames) => {
            let shape = frames.images.0.shape();
            call.reserve(&[picked.len(), shape[1], shape[2], shape[3]])?;
            Image(frames.images.0.select(Axis(0), &picked).into_shared())
        }
        Video::File(file) => {
            let wanted: BTreeSet<usize> = picked.iter().copied().collect();
            let probe = probe(call, file)?;
            call.media(|media, work| {
                let window = media.settled(&file.path, &probe, window(file), work.cancel)?;
                media.decode_frames(&file.path, &probe, window, Some(&wanted), work)
            })?
        }
    };
    Ok(NodeOutput::one(Video::Frames(Frames { images, audio: None, frame_rate: rate, bit_depth: 8 })))
}

fn is_film(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| ENDINGS.contains(&&*extension(name)))
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut entries = std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_unstable();
    Ok(entries)
}

/// The films of a folder in the order of their names, and, with `inner`, of those in it, as often as their names say.
fn files(state: &State, folder: &str, inner: bool) -> Result<Vec<PathBuf>> {
    let path = state.services.folders.found(Kind::Input, folder.as_ref()).map_err(Error::other)?;
    let mut found = Vec::new();
    for entry in sorted(&path)? {
        if is_film(&entry) {
            found.push(entry);
        } else if inner && entry.is_dir() {
            let name = entry.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let times = name.split('_').next().and_then(|number| number.parse::<usize>().ok()).unwrap_or(1);
            let films: Vec<PathBuf> = sorted(&entry)?.into_iter().filter(|file| is_film(file)).collect();
            if films.len().saturating_mul(times) <= MAX_FILMS {
                found.extend((0..times).flat_map(|_| films.iter().cloned()));
            } else {
                return Err(Error::msg(format!("the folder '{folder}' holds more than {MAX_FILMS} videos; divide it")));
            }
        }
        if found.len() > MAX_FILMS {
            return Err(Error::msg(format!("the folder '{folder}' holds more than {MAX_FILMS} videos; divide it")));
        }
    }
    Ok(found)
}

/// The films of the input's folder; fails if there are none.
fn chosen(call: &Call<'_, '_>, inner: bool) -> Result<Vec<PathBuf>> {
    let folder = call.text("folder")?;
    let files = files(call.state, folder, inner)?;
    if files.is_empty() {
        return Err(Error::msg(format!("there are no videos in the folder '{folder}'; upload some or choose another one")));
    }
    Ok(files)
}

fn videos(files: &[PathBuf]) -> Value {
    let file = |path: &PathBuf| Video::File(FilmFile { path: Arc::from(path.clone()), start: 0.0, duration: 0.0 });
    Value::list(files.iter().map(|path| file(path).into()).collect())
}

/// The text of a film: that of the file of its name with another ending; none if there is no such file.
fn text_beside(state: &State, film: &Path) -> Result<String> {
    let path = film.with_extension("txt");
    if !path.is_file() {
        return Ok(String::new());
    }
    let text = String::from_utf8(state.read(&path)?);
    let text = text.map_err(|_| Error::msg(format!("{} is no text in UTF-8; save it as such", path.display())))?;
    Ok(text.trim().to_owned())
}

/// What the file system says of the films and the texts beside them.
fn files_fingerprint(state: &State, inputs: &Inputs) -> Result<Fingerprint> {
    if inputs.optional("folder").is_none() {
        return Ok(Fingerprint::Always);
    }
    let mut told = String::new();
    for film in files(state, inputs.text("folder")?, true)? {
        for path in [film.with_extension("txt"), film] {
            if let Ok(metadata) = path.metadata() {
                told.push_str(&format!("{}:{:?};", path.display(), comfyd_folders::FileVersion::of(&metadata)?));
            }
        }
    }
    Ok(Fingerprint::Text(told))
}
