//! The nodes of the menu `video`. A film is a file, or a part of one, until somebody wants its pictures.

mod edit;
mod load;
mod save;

use std::sync::Arc;

use comfyd_media::{Probe, Window};
use comfyd_node::{Error, Result};
use comfyd_values::{FilmFile, Frames, Video};
use ndarray::s;

use crate::class::{Call, Class};

pub(crate) fn families() -> Vec<&'static [Class]> {
    vec![load::CLASSES, save::CLASSES, edit::CLASSES]
}

/// The film of an input.
fn film(call: &Call<'_, '_>, name: &str) -> Result<Video> {
    let video = Arc::unwrap_or_clone(call.inputs.get::<Video>(name)?);
    if let Video::Frames(Frames { images, frame_rate, .. }) = &video
        && (images.0.is_empty() || *frame_rate <= 0.0)
    {
        return Err(Error::msg(format!("input '{name}' holds a video without frames; give it one that is not empty")));
    }
    Ok(video)
}

/// What a file holds.
fn probe(call: &Call<'_, '_>, file: &FilmFile) -> Result<Probe> {
    call.media(|media, work| media.probe(&file.path, work.cancel))
}

fn window(file: &FilmFile) -> Window {
    Window { start: file.start, duration: file.duration }
}

/// How long a part of a file is, in seconds; not above zero where it lies outside.
fn file_seconds(call: &Call<'_, '_>, file: &FilmFile, probe: &Probe) -> Result<f64> {
    let whole = call.media(|media, work| media.duration(&file.path, probe, work.cancel))?;
    let left = if file.start < 0.0 { whole.min(-file.start) } else { whole - file.start };
    Ok(if file.duration > 0.0 { left.min(file.duration) } else { left })
}

/// A part of a film, from `start` seconds on, for `duration` seconds or to the end if it is zero. `None` where it is shorter than that and
/// must not be. Nothing is decoded or encoded for it.
fn part(call: &Call<'_, '_>, video: Video, start: f64, duration: f64, strict: bool) -> Result<Option<Video>> {
    let (cut, seconds) = match video {
        Video::File(file) => {
            let file = FilmFile { path: file.path, start: file.start + start, duration };
            let seconds = file_seconds(call, &file, &probe(call, &file)?)?;
            (Video::File(file), seconds)
        }
        Video::Frames(frames) => {
            let cut = part_of_frames(&frames, start, duration);
            let seconds = cut.seconds();
            // A frame counts for all of the time that it is shown.
            let missing = (duration - seconds).max(0.0);
            let within = missing < 1.0 / frames.frame_rate;
            let seconds = if seconds > 0.0 && within { seconds + missing } else { seconds };
            (Video::Frames(cut), seconds)
        }
    };
    if seconds <= 0.0 {
        return Err(Error::msg(format!("nothing of the video lies {start} s from where it begins; start earlier")));
    }
    Ok((!strict || seconds >= duration).then_some(cut))
}

fn part_of_frames(frames: &Frames, start: f64, duration: f64) -> Frames {
    let start = if start < 0.0 { (frames.seconds() + start).max(0.0) } else { start };
    // The first that begins at a time or later; what rounding adds is no time.
    let at = |seconds: f64, rate: f64| ((seconds * rate - 1e-6).ceil().max(0.0)) as usize;
    let ends = |count: usize, rate: f64| {
        let begin = at(start, rate).min(count);
        (begin, if duration > 0.0 { at(start + duration, rate).clamp(begin, count) } else { count })
    };
    let (begin, end) = ends(frames.images.batch(), frames.frame_rate);
    let images = comfyd_values::Image(frames.images.0.clone().slice_move(s![begin..end, .., .., ..]));
    let audio = frames.audio.clone().map(|mut audio| {
        let (begin, end) = ends(audio.samples(), f64::from(audio.sample_rate));
        audio.waveform = audio.waveform.slice_move(s![.., .., begin..end]);
        audio
    });
    Frames { images, audio, ..frames.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use comfyd_values::{Audio, Image};
    use ndarray::{Array3, Array4};

    #[test]
    fn parts_of_frames_are_those_that_begin_in_it() {
        let images = Image::new(Array4::from_shape_fn((10, 1, 1, 3), |(at, ..)| at as f32));
        let audio = Some(Audio::new(Array3::from_shape_fn((1, 1, 1000), |(_, _, at)| at as f32), 1000));
        let frames = Frames { images, audio, frame_rate: 10.0, bit_depth: 8 };
        for (start, duration, first, count) in [
            (0.0, 0.0, 0, 10),
            (0.3, 0.0, 3, 7),
            (0.25, 0.2, 3, 2),
            (-0.2, 0.0, 8, 2),
            (0.5, 9.0, 5, 5),
            (-9.0, 0.1, 0, 1),
            (2.0, 1.0, 10, 0),
        ] {
            let part = part_of_frames(&frames, start, duration);
            let shown: Vec<f32> = part.images.0.slice(s![.., 0, 0, 0]).to_vec();
            assert_eq!(shown, (first..first + count).map(|at| at as f32).collect::<Vec<_>>(), "{start} {duration}");
        }
        let sound = part_of_frames(&frames, 0.25, 0.2).audio.map(|audio| audio.waveform.iter().copied().collect::<Vec<_>>());
        assert_eq!(sound, Some((250..450).map(|at| at as f32).collect()));
    }
}
