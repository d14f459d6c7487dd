//! What a file holds, as ffprobe tells it.

use std::collections::HashMap;
use std::path::Path;

use comfyd_node::CancellationToken;
use serde::Deserialize;

use crate::process::{Args, Process, Program};
use crate::{DEMUXERS, Error, Media, QUIET, Result};

/// The most that is read of what ffprobe says. The workflow is in it.
const MAX_TOLD: usize = 64 << 20;

/// A file of sound or film.
#[derive(Debug, Clone, Deserialize)]
pub struct Probe {
    /// Its streams, in their order.
    #[serde(default)]
    pub streams: Vec<Stream>,
    format: Format,
}

#[derive(Debug, Clone, Deserialize)]
struct Format {
    #[serde(default)]
    format_name: String,
    duration: Option<String>,
    #[serde(default)]
    tags: HashMap<String, String>,
}

/// One stream of a file.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Stream {
    /// Its number in the file.
    pub index: usize,
    /// `video`, `audio`, `subtitle` or another kind.
    #[serde(default)]
    pub codec_type: String,
    codec_name: Option<String>,
    /// Pixels wide, before it is turned.
    #[serde(default)]
    pub width: usize,
    /// Pixels high, before it is turned.
    #[serde(default)]
    pub height: usize,
    #[serde(default)]
    pix_fmt: String,
    #[serde(default)]
    color_transfer: String,
    #[serde(default)]
    chroma_location: String,
    #[serde(default)]
    avg_frame_rate: String,
    #[serde(default)]
    time_base: String,
    start_pts: Option<i64>,
    duration_ts: Option<i64>,
    nb_frames: Option<String>,
    nb_read_packets: Option<String>,
    sample_rate: Option<String>,
    /// Channels of sound.
    #[serde(default)]
    pub channels: usize,
    #[serde(default)]
    side_data_list: Vec<SideData>,
    /// What the file says of it.
    #[serde(default)]
    pub tags: HashMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
struct SideData {
    rotation: Option<f64>,
}

/// A part of a film: from `start` seconds on, for `duration` seconds, or to its end if that is zero. A negative start counts from the end.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Window {
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub duration: f64,
}

impl Window {
    /// Whether it is all.
    pub fn is_whole(self) -> bool {
        self.start == 0.0 && self.duration == 0.0
    }
}

/// `"30000/1001"` or `"1:90000"` as numerator and denominator; `None` for those that are no number.
fn ratio(text: &str) -> Option<(i64, i64)> {
    let (numerator, denominator) = text.split_once(['/', ':'])?;
    let (numerator, denominator) = (numerator.parse::<i64>().ok()?, denominator.parse::<i64>().ok()?);
    (numerator > 0 && denominator > 0).then_some((numerator, denominator))
}

impl Stream {
    /// The name of what it is encoded with, where FFmpeg knows it.
    pub fn codec(&self) -> Option<&str> {
        self.codec_name.as_deref().filter(|name| *name != "unknown" && *name != "none")
    }

    /// Samples a second.
    pub fn sample_rate(&self) -> u32 {
        self.sample_rate.as_deref().and_then(|rate| rate.parse().ok()).unwrap_or(0)
    }

    /// Frames a second on average.
    pub(crate) fn average_rate(&self) -> Option<(i64, i64)> {
        ratio(&self.avg_frame_rate)
    }

    /// Frames a second on average; 1 where that is unknown.
    pub fn frame_rate(&self) -> f64 {
        self.average_rate().map_or(1.0, |(frames, seconds)| frames as f64 / seconds as f64)
    }

    /// What its times are counted in, in seconds: numerator and denominator.
    pub(crate) fn time_base(&self) -> (i64, i64) {
        ratio(&self.time_base).unwrap_or((1, 1_000_000))
    }

    /// A time in seconds in its own unit, cut as the reference cuts it.
    pub(crate) fn pts(&self, seconds: f64) -> i64 {
        let (numerator, denominator) = self.time_base();
        (seconds * denominator as f64 / numerator as f64) as i64
    }

    /// Its time in seconds where its last frame ends, if the file tells.
    pub(crate) fn end(&self) -> Option<f64> {
        let (numerator, denominator) = self.time_base();
        let pts = self.start_pts.unwrap_or(0).checked_add(self.duration_ts?)?;
        Some(pts as f64 * numerator as f64 / denominator as f64)
    }

    fn frames(&self) -> Option<u64> {
        self.nb_frames.as_deref().and_then(|frames| frames.parse().ok()).filter(|frames| *frames > 0)
    }

    /// Whether its frames are turned by a quarter when they are shown.
    fn is_turned(&self) -> bool {
        let rotation = self.side_data_list.iter().find_map(|data| data.rotation).unwrap_or(0.0);
        (rotation / 90.0).round() as i64 % 2 != 0
    }

    /// Width and height as they are shown.
    pub fn shown_size(&self) -> (usize, usize) {
        if self.is_turned() { (self.height, self.width) } else { (self.width, self.height) }
    }

    /// The most bits that a channel of a pixel has.
    pub fn bit_depth(&self) -> u8 {
        bit_depth(&self.pix_fmt)
    }

    /// Whether its pixels are of the kinds that the reference reads as bytes: all others it converts to floats.
    pub(crate) fn is_bytes(&self) -> bool {
        matches!(&*self.pix_fmt, "yuvj420p" | "yuvj422p" | "yuvj444p" | "rgb24" | "rgba" | "pal8")
    }

    /// Where its chroma lies between the pixels, as options of the scaler. Older ones do not ask the frames.
    pub(crate) fn chroma(&self) -> &'static str {
        match &*self.chroma_location {
            "left" => ":in_h_chr_pos=0:in_v_chr_pos=128",
            "center" => ":in_h_chr_pos=128:in_v_chr_pos=128",
            "topleft" => ":in_h_chr_pos=0:in_v_chr_pos=0",
            "top" => ":in_h_chr_pos=128:in_v_chr_pos=0",
            "bottomleft" => ":in_h_chr_pos=0:in_v_chr_pos=256",
            "bottom" => ":in_h_chr_pos=128:in_v_chr_pos=256",
            _ => "",
        }
    }

    /// The reference's name of its colors, where it knows them.
    pub fn color_space(&self) -> Option<&'static str> {
        match &*self.color_transfer {
            "bt709" | "iec61966-2-1" => Some("sRGB"),
            "arib-std-b67" => Some("HDR"),
            "smpte2084" => Some("HDR PQ"),
            _ => None,
        }
    }
}

/// Bits by the name of a format of pixels: 10 for `yuv420p10le`.
fn bit_depth(name: &str) -> u8 {
    let name = name.trim_end_matches("le").trim_end_matches("be");
    if name.starts_with("nv1") || name.starts_with("nv4") {
        return 8;
    }
    if name.contains("f32") {
        return 32;
    }
    if name.contains("f16") || name.contains("48") || name.contains("64") {
        return 16;
    }
    let digits = |at: usize| name.get(at..).and_then(|digits| digits.parse::<u8>().ok());
    // `p010` and the like; `yuv420p10`; `gray12`, `xyz12`, `y210`, `x2rgb10`.
    let number = match name.rfind('p') {
        Some(0) => digits(name.len().saturating_sub(2)),
        Some(at) => digits(at + 1),
        None => digits(name.len().saturating_sub(2)),
    };
    number.filter(|bits| [9, 10, 12, 14, 16].contains(bits)).unwrap_or(8)
}

impl Probe {
    /// The first stream of pictures. Fails if there is none.
    pub fn video(&self) -> Result<&Stream> {
        self.streams
            .iter()
            .find(|stream| stream.codec_type == "video")
            .ok_or_else(|| Error::unfit("the file has no video; take another one"))
    }

    /// The first stream of sound. Fails if there is none.
    pub fn first_audio(&self) -> Result<&Stream> {
        self.streams
            .iter()
            .find(|stream| stream.codec_type == "audio")
            .ok_or_else(|| Error::unfit("the file has no sound; take another one"))
    }

    /// The last stream of sound that can be decoded, which is the one that goes with a film.
    pub fn last_audio(&self) -> Option<&Stream> {
        self.streams.iter().rev().find(|stream| stream.codec_type == "audio" && stream.codec().is_some() && stream.sample_rate() > 0)
    }

    /// Names of its container, such as `mov`, `mp4` and others for the same.
    pub fn containers(&self) -> impl Iterator<Item = &str> {
        self.format.format_name.split(',')
    }

    /// What it says of itself.
    pub fn tags(&self) -> &HashMap<String, String> {
        &self.format.tags
    }

    /// Seconds, if the file tells.
    fn told_duration(&self) -> Option<f64> {
        let told = self.format.duration.as_deref().and_then(|duration| duration.parse::<f64>().ok()).filter(|d| d.is_finite());
        told.or_else(|| {
            let video = self.video().ok()?;
            Some(video.frames()? as f64 / video.average_rate().map(|_| video.frame_rate())?)
        })
    }

    /// How many frames a part has, as far as the file tells.
    pub(crate) fn estimate(&self, window: Window) -> Option<u64> {
        let video = self.video().ok()?;
        if window.is_whole() && video.frames().is_some() {
            return video.frames();
        }
        let left = self.told_duration()? - window.start;
        let seconds = if window.duration > 0.0 { window.duration.min(left) } else { left };
        Some((seconds.max(0.0) * video.frame_rate()).ceil() as u64 + 1)
    }
}

impl Media {
    /// What a file holds.
    pub fn probe(&self, path: &Path, cancel: &CancellationToken) -> Result<Probe> {
        self.told(path, &["-show_format", "-show_streams"], cancel)
    }

    fn told(&self, path: &Path, wanted: &[&str], cancel: &CancellationToken) -> Result<Probe> {
        let mut args = Args::default();
        args.add(QUIET).add(["-protocol_whitelist", "file", "-format_whitelist", DEMUXERS, "-of", "json"]).add(wanted);
        args.add(["-i"]).file(path);
        let mut process = Process::start(self, Program::Ffprobe, &args, cancel)?;
        process.close();
        let told = process.read_all(MAX_TOLD)?;
        process.wait()?;
        serde_json::from_slice(&told)
            .map_err(|error| Error::Failed { program: "ffprobe", told: format!("what it says cannot be read: {error}") })
    }

    /// How long a film is, in seconds. Where the file does not tell, its frames are counted.
    pub fn duration(&self, path: &Path, probe: &Probe, cancel: &CancellationToken) -> Result<f64> {
        if let Some(told) = probe.told_duration() {
            return Ok(told);
        }
        let counted = self.told(path, &["-show_format", "-show_streams", "-count_packets", "-select_streams", "v:0"], cancel)?;
        let video = counted.video()?;
        let packets = video.nb_read_packets.as_deref().and_then(|packets| packets.parse::<f64>().ok()).filter(|packets| *packets > 0.0);
        match (packets, video.average_rate()) {
            (Some(packets), Some(_)) => Ok(packets / video.frame_rate()),
            _ => Err(Error::unfit("how long the film is cannot be told from its file; convert it to another format")),
        }
    }

    /// A part with its start counted from the beginning.
    pub fn settled(&self, path: &Path, probe: &Probe, window: Window, cancel: &CancellationToken) -> Result<Window> {
        if window.start >= 0.0 {
            return Ok(window);
        }
        Ok(Window { start: (self.duration(path, probe, cancel)? + window.start).max(0.0), ..window })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_follow_from_names() {
        for (name, bits) in [
            ("yuv420p", 8),
            ("yuvj420p", 8),
            ("yuv420p10le", 10),
            ("yuv444p12be", 12),
            ("p010le", 10),
            ("gray10le", 10),
            ("rgb24", 8),
            ("rgb48le", 16),
            ("gbrp", 8),
            ("gbrap16le", 16),
            ("gbrpf32le", 32),
            ("x2rgb10le", 10),
            ("nv12", 8),
            ("pal8", 8),
            ("bgra", 8),
            ("", 8),
        ] {
            assert_eq!(bit_depth(name), bits, "{name}");
        }
    }
}
