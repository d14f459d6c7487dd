//! Files of film to other files: their streams as they are where that will do, else encoded anew, frame by frame inside of FFmpeg.

use std::path::Path;

use comfyd_node::CancellationToken;

use crate::decode::{seek, trim};
use crate::encode::{ColorSpace, Container, VideoCodec};
use crate::probe::{Probe, Stream, Window};
use crate::process::Args;
use crate::tags::Tags;
use crate::{Error, Media, QUIET, Result, Work};

/// Codecs that a WebM file may hold.
const WEBM: [(&str, &[&str]); 3] = [("video", &["av1", "vp8", "vp9"]), ("audio", &["opus", "vorbis"]), ("subtitle", &["webvtt"])];

/// A film in a file that becomes another file.
pub struct Transcode<'a> {
    /// The file.
    pub path: &'a Path,
    /// What it holds.
    pub probe: &'a Probe,
    /// Which part of it.
    pub window: Window,
    /// What the file is to be; `None`: as the source is, where that can be.
    pub container: Option<Container>,
    /// What its frames are encoded with; `None`: as they are, where that can be.
    pub codec: Option<VideoCodec>,
    /// How good it is to be if it is encoded anew.
    pub crf: Option<f64>,
    /// What the colors are.
    pub color_space: Option<ColorSpace>,
}

impl Transcode<'_> {
    /// What the file will be.
    pub fn target(&self) -> Container {
        self.container.unwrap_or(Container::Mp4)
    }

    /// Whether its streams can stay as they are.
    fn keeps_streams(&self) -> Result<bool> {
        let same_container = self.container.is_none_or(|container| self.probe.containers().any(|name| name == container.muxer()));
        let fits = self.target() != Container::WebM || fits_webm(&self.probe.streams);
        let video = self.probe.video()?;
        let same_codec = self.codec.is_none_or(|codec| video.codec() == Some(codec.name()));
        Ok(same_container && fits && same_codec && self.crf.is_none() && self.color_space.is_none() && self.window.is_whole())
    }
}

fn fits_webm(streams: &[Stream]) -> bool {
    streams.iter().filter(|stream| stream.codec().is_some()).all(|stream| {
        let allowed = WEBM.iter().find(|(kind, _)| *kind == stream.codec_type);
        allowed.is_none_or(|(_, codecs)| stream.codec().is_some_and(|codec| codecs.contains(&codec)))
    })
}

impl Media {
    /// Writes a film with the tags of its file, those given instead of ones of the same name.
    pub fn transcode(&self, film: &Transcode<'_>, tags: &[(String, String)], into: &Path, work: &mut Work<'_>) -> Result<()> {
        let video = film.probe.video()?;
        let codec = match (film.codec, film.target()) {
            (Some(codec), _) => codec,
            (None, Container::WebM) => VideoCodec::Av1,
            (None, Container::Mp4 | Container::Mkv) => VideoCodec::H264,
        };
        if let (Some(known), Some(wanted)) = (video.color_space(), film.color_space)
            && known != wanted.name()
        {
            let wanted = wanted.name();
            return Err(Error::unfit(format!("the film's colors are {known} and cannot be told to be {wanted}; take auto or {known}")));
        }
        if film.keeps_streams()? {
            match self.copy(film, tags, into, work.cancel) {
                // A container that does not take them: they are encoded anew.
                Err(Error::Failed { told, .. }) => {
                    tracing::info!("the streams are encoded anew, since copying them fails: {}", told.trim())
                }
                done => return done,
            }
        }
        self.encode_anew(film, codec, tags, into, work)
    }

    fn copy(&self, film: &Transcode<'_>, tags: &[(String, String)], into: &Path, cancel: &CancellationToken) -> Result<()> {
        let tags = Tags::new(self, tags)?;
        let mut args = Args::default();
        args.add(QUIET);
        self.reading(&mut args, film.path);
        tags.input(&mut args);
        for stream in &film.probe.streams {
            if stream.codec().is_some() && ["video", "audio", "subtitle"].contains(&&*stream.codec_type) {
                args.add(["-map", &format!("0:{}", stream.index)]);
            }
        }
        own_tags(&mut args);
        args.add(["-c", "copy"]);
        film.target().output(&mut args, into);
        let mut process = self.ffmpeg(&args, cancel)?;
        process.close();
        process.wait()
    }

    fn encode_anew(
        &self,
        film: &Transcode<'_>,
        codec: VideoCodec,
        tags: &[(String, String)],
        into: &Path,
        work: &mut Work<'_>,
    ) -> Result<()> {
        let video = film.probe.video()?;
        let (width, height) = video.shown_size();
        if width % 2 != 0 || height % 2 != 0 {
            let name = codec.name();
            return Err(Error::unfit(format!(
                "{name} films have an even width and height, this one is {width} x {height}; scale or crop it"
            )));
        }
        let window = self.settled(film.path, film.probe, film.window, work.cancel)?;
        let tags = Tags::new(self, tags)?;
        let mut args = Args::default();
        args.add(QUIET).add(["-progress", "pipe:1", "-stats_period", "0.5"]);
        seek(&mut args, window.start);
        self.reading(&mut args, film.path);
        tags.input(&mut args);
        own_tags(&mut args);
        let known = video.color_space();
        let hdr = film.color_space.is_some_and(ColorSpace::is_hdr) || known.is_some_and(|known| known != "sRGB");
        let format = if hdr || video.bit_depth() >= 10 { "yuv420p10le" } else { "yuv420p" };
        let mut filters = trim(video, window);
        filters.push_str(&format!("setpts=PTS-STARTPTS,scale={width}:{height}:flags=bilinear"));
        match (known, film.color_space) {
            (Some(_), _) => filters.push_str(&format!(",format={format}")),
            (None, Some(space)) => filters.push_str(&format!(":out_range=tv,format={format},{}", space.told(&mut args))),
            (None, None) => filters.push_str(&format!(":out_range=tv,format={format}")),
        }
        let (numerator, denominator) = video.time_base();
        args.add(["-map", &format!("0:{}", video.index), "-vf", &filters, "-pix_fmt", format]);
        // Frames out of their order would have irregular times end in the wrong places.
        args.add(["-c:v", codec.encoder(), "-bf", "0", "-enc_time_base:v", &format!("{numerator}:{denominator}")]);
        self.keep_times(&mut args, work.cancel)?;
        codec.quality(film.crf, &mut args);
        let seconds = length(video, window);
        if let Some(audio) = film.probe.last_audio() {
            sound(film.target(), audio, window, seconds, &mut args);
        }
        film.target().output(&mut args, into);
        let mut process = self.ffmpeg(&args, work.cancel)?;
        process.close();
        let mut line = [0; 1];
        let mut text = String::new();
        while process.read(&mut line)? == 1 {
            if line[0] != b'\n' {
                text.push(char::from(line[0]));
                continue;
            }
            if let (Some(done), Some(all)) = (text.strip_prefix("out_time_us=").and_then(|us| us.trim().parse::<f64>().ok()), seconds) {
                (work.progress)((done / 1e6).clamp(0.0, all), all);
            }
            text.clear();
        }
        process.wait()
    }
}

/// The given tags first, then those of the source that are not among them, and no chapters, of which a container would make a stream.
fn own_tags(args: &mut Args) {
    args.add(["-map_metadata", "1", "-map_metadata", "0", "-map_chapters", "-1"]);
}

/// How long the part is, as far as the stream tells.
fn length(video: &Stream, window: Window) -> Option<f64> {
    let left = video.end().map(|end| end - window.start);
    let asked = (window.duration > 0.0).then_some(window.duration);
    left.into_iter().chain(asked).reduce(f64::min).filter(|seconds| *seconds > 0.0)
}

/// The sound that goes with the frames, and no more of it.
fn sound(container: Container, audio: &Stream, window: Window, seconds: Option<f64>, args: &mut Args) {
    let mut filters = String::new();
    if window.start > 0.0 {
        filters.push_str(&format!("atrim=start_pts={},", (window.start * f64::from(audio.sample_rate())) as u64));
    }
    filters.push_str("asetpts=PTS-STARTPTS");
    match seconds {
        Some(seconds) => filters.push_str(&format!(",atrim=end={seconds:.6}")),
        None => drop(args.add(["-shortest"])),
    }
    args.add(["-map", &format!("0:{}", audio.index), "-af", &filters, "-c:a", container.sound()]);
    args.add(["-ar", &container.rate(audio.sample_rate()).to_string()]);
    if ![1, 2, 6].contains(&audio.channels) {
        args.add(["-ac", "2"]);
    }
}
