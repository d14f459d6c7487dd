//! Files to arrays: sound as waveforms, film as pictures. Streamed, with room asked for as the arrays grow, since what a file says of its
//! length need not be true.

use std::path::Path;

use comfyd_values::{Audio, Image};
use ndarray::{Array3, Array4};

use crate::probe::{Probe, Stream, Window};
use crate::process::{Args, Process};
use crate::{Error, Media, QUIET, Result, Work};

/// What is read of a pipe at once, in bytes.
const CHUNK: usize = 64 << 10;

/// Numbers that become more, within bounds.
struct Growing {
    values: Vec<f32>,
    /// What there is room for, in numbers.
    asked: usize,
}

impl Growing {
    fn new() -> Self {
        Self { values: Vec::new(), asked: 0 }
    }

    /// Has place for so many more.
    fn place(&mut self, more: usize, work: &mut Work<'_>) -> Result<()> {
        let needed = self.values.len().saturating_add(more);
        if needed <= self.asked {
            return Ok(());
        }
        let most = usize::try_from(work.most / 4).unwrap_or(usize::MAX);
        if needed > most {
            let limit = work.most >> 20;
            return Err(Error::NoRoom(format!(
                "what the file holds takes more than the limit of {limit} MiB; take a part of it (Trim Video, Trim Audio Duration)"
            )));
        }
        // While it moves it is there twice.
        let wanted = needed.max(self.asked.saturating_mul(2)).min(most);
        (work.room)((wanted as u64).saturating_mul(4)).map_err(Error::NoRoom)?;
        self.values.try_reserve_exact(wanted - self.values.len()).map_err(|error| Error::NoRoom(error.to_string()))?;
        self.asked = wanted;
        Ok(())
    }

    /// The numbers, without the place that was not needed.
    fn done(mut self) -> Vec<f32> {
        self.values.shrink_to_fit();
        self.values
    }
}

impl Media {
    /// The samples of a stream of sound, (1, C, N), from `window` on. `None` where there are none.
    pub fn decode_sound(&self, path: &Path, stream: &Stream, window: Window, work: &mut Work<'_>) -> Result<Option<Audio>> {
        let (channels, rate) = (stream.channels, stream.sample_rate());
        if channels == 0 || rate == 0 {
            return Err(Error::unfit("the file does not tell how its sound is to be played; convert it to another format"));
        }
        let mut args = Args::default();
        args.add(QUIET);
        seek(&mut args, window.start);
        self.reading(&mut args, path);
        args.add(["-map", &format!("0:{}", stream.index), "-vn", "-sn", "-dn"]);
        if window.start > 0.0 {
            args.add(["-af", &format!("atrim=start_pts={}", (window.start * f64::from(rate)) as u64)]);
        }
        args.add(["-ac", &channels.to_string(), "-ar", &rate.to_string(), "-c:a", "pcm_f32le", "-f", "f32le", "pipe:1"]);
        let mut process = self.ffmpeg(&args, work.cancel)?;
        process.close();
        let wanted = if window.duration > 0.0 { (window.duration * f64::from(rate)) as usize } else { usize::MAX };
        let samples = read_samples(&mut process, wanted.saturating_mul(channels), work)?;
        let length = samples.len() / channels;
        if length == 0 {
            return Ok(None);
        }
        (work.room)(samples.len() as u64 * 4).map_err(Error::NoRoom)?;
        let mut waveform = Array3::zeros((1, channels, length));
        for (place, sample) in waveform.outer_iter_mut().flat_map(|one| one.reversed_axes().into_iter()).zip(&samples) {
            *place = *sample;
        }
        Ok(Some(Audio::new(waveform, rate)))
    }

    /// The pictures of a film's part, (B, H, W, 3). What the file says of their number is asked room for before.
    pub fn decode_frames(&self, path: &Path, probe: &Probe, window: Window, work: &mut Work<'_>) -> Result<Image> {
        let stream = probe.video()?;
        let (width, height) = stream.shown_size();
        let values = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3)).filter(|values| *values > 0);
        let values =
            values.ok_or_else(|| Error::unfit(format!("its frames are told to be {width} x {height}; convert it to another format")))?;
        let mut frames = Growing::new();
        let expected = usize::try_from(probe.estimate(window).unwrap_or(1)).unwrap_or(usize::MAX);
        frames.place(expected.saturating_mul(values), work)?;
        let mut args = Args::default();
        args.add(QUIET);
        seek(&mut args, window.start);
        self.reading(&mut args, path);
        let mut filters = trim(stream, window);
        let format = if stream.is_bytes() { "rgb24" } else { "gbrpf32le" };
        let chroma = stream.chroma();
        filters.push_str(&format!("scale={width}:{height}:flags=bilinear{chroma},format={format}"));
        args.add(["-map", &format!("0:{}", stream.index), "-an", "-sn", "-dn", "-vf", &filters]);
        self.keep_times(&mut args, work.cancel)?;
        args.add(["-pix_fmt", format, "-c:v", "rawvideo", "-f", "rawvideo", "pipe:1"]);
        let mut process = self.ffmpeg(&args, work.cancel)?;
        process.close();
        let mut bytes = vec![0; if stream.is_bytes() { values } else { values * 4 }];
        let mut count = 0;
        loop {
            let read = process.read(&mut bytes)?;
            if read < bytes.len() {
                break;
            }
            frames.place(values, work)?;
            if stream.is_bytes() {
                frames.values.extend(bytes.iter().map(|byte| f32::from(*byte) / 255.0));
            } else {
                interleave(&bytes, &mut frames.values);
            }
            count += 1;
            (work.progress)(f64::from(count), expected.max(count as usize) as f64);
        }
        process.wait()?;
        if count == 0 {
            return Err(Error::unfit(
                "no frame of the film lies in the part that was asked for, or none can be decoded; take another part",
            ));
        }
        let array = Array4::from_shape_vec((count as usize, height, width, 3), frames.done());
        Ok(Image::new(array.map_err(|error| Error::unfit(error.to_string()))?))
    }
}

/// Begins at the last frame from which decoding can start before a time; times stay those of the file.
pub(crate) fn seek(args: &mut Args, start: f64) {
    args.add(["-copyts"]);
    if start > 0.0 {
        args.add(["-noaccurate_seek", "-seek_timestamp", "1", "-ss", &format!("{start:.6}")]);
    }
}

/// Leaves the frames of a part, by the numbers that the file has for their times.
pub(crate) fn trim(stream: &Stream, window: Window) -> String {
    if window.is_whole() {
        return String::new();
    }
    let mut filter = format!("trim=start_pts={}", stream.pts(window.start));
    if window.duration > 0.0 {
        filter.push_str(&format!(":end_pts={}", stream.pts(window.start + window.duration)));
    }
    filter.push(',');
    filter
}

/// Samples as they come, at most so many.
fn read_samples(process: &mut Process, wanted: usize, work: &mut Work<'_>) -> Result<Vec<f32>> {
    let mut samples = Growing::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = process.read(&mut chunk)?;
        let came = chunk[..read].as_chunks::<4>().0;
        let taken = came.len().min(wanted - samples.values.len());
        samples.place(taken, work)?;
        samples.values.extend(came[..taken].iter().map(|bytes| f32::from_le_bytes(*bytes)));
        if read < chunk.len() {
            process.wait()?;
            return Ok(samples.done());
        }
        if samples.values.len() == wanted {
            // The rest is not wanted: it is ended when it is dropped.
            return Ok(samples.done());
        }
    }
}

/// Planes of green, blue and red as pixels.
fn interleave(planes: &[u8], out: &mut Vec<f32>) {
    let size = planes.len() / 3;
    let plane = |at: usize| planes[at * size..(at + 1) * size].as_chunks::<4>().0;
    for ((green, blue), red) in plane(0).iter().zip(plane(1)).zip(plane(2)) {
        out.extend([red, green, blue].map(|bytes| f32::from_le_bytes(*bytes)));
    }
}
