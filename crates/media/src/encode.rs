//! Arrays to files: sound, and pictures with sound. Samples and frames go to FFmpeg as they are needed; only the sound of a film waits in a
//! file, since a program has one standard input.

use std::borrow::Cow;
use std::io::{BufWriter, Write};
use std::path::Path;

use comfyd_node::CancellationToken;
use comfyd_values::{Audio, Image};
use ndarray::ArrayView2;

use crate::process::{Args, Process};
use crate::tags::Tags;
use crate::{Error, Media, QUIET, Result, Work};

/// Samples that are handed over at once, of each channel.
const SAMPLES: usize = 16 << 10;

/// A format of files of sound, with how good it is to be: the reference's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SoundFormat {
    /// Lossless, in 16 bits.
    Flac,
    /// By quality as far as the format goes, or by so many bits a second.
    Mp3(Option<u32>),
    /// So many bits a second.
    Opus(u32),
}

impl SoundFormat {
    /// How a file's name ends.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Flac => "flac",
            Self::Mp3(_) => "mp3",
            Self::Opus(_) => "opus",
        }
    }

    /// The rate at which it keeps sound of another rate.
    pub fn rate(self, rate: u32) -> u32 {
        match self {
            Self::Opus(_) => [8_000, 12_000, 16_000, 24_000, 48_000].into_iter().find(|known| *known >= rate).unwrap_or(48_000),
            Self::Flac | Self::Mp3(_) => rate,
        }
    }

    fn args(self, channels: usize, args: &mut Args) {
        match self {
            // As the reference has it, whose encoder takes what it is first offered.
            Self::Flac => args.add(["-c:a", "flac", "-sample_fmt", "s16", "-f", "flac"]),
            Self::Mp3(bits) => {
                match bits {
                    Some(bits) => args.add(["-b:a", &bits.to_string()]),
                    None => args.add(["-q:a", "0"]),
                };
                if channels > 2 {
                    args.add(["-ac", "2"]);
                }
                args.add(["-c:a", "libmp3lame", "-f", "mp3"])
            }
            Self::Opus(bits) => args.add(["-c:a", "libopus", "-b:a", &bits.to_string(), "-f", "opus"]),
        };
    }
}

/// A waveform that becomes a file.
pub struct Sound<'a> {
    /// (C, N), at a rate that the format knows ([`SoundFormat::rate`]).
    pub waveform: ArrayView2<'a, f32>,
    /// Samples a second.
    pub sample_rate: u32,
    /// What the file is to be.
    pub format: SoundFormat,
}

/// A container of films.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// ISO's.
    Mp4,
    /// Matroska.
    Mkv,
    /// Matroska with codecs that browsers have.
    WebM,
}

impl Container {
    /// How a file's name ends.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4",
            Self::Mkv => "mkv",
            Self::WebM => "webm",
        }
    }

    /// FFmpeg's name.
    pub(crate) fn muxer(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4",
            Self::Mkv => "matroska",
            Self::WebM => "webm",
        }
    }

    /// Writes to this file.
    pub(crate) fn output(self, args: &mut Args, into: &Path) {
        if self == Self::Mp4 {
            // Else tags of other names than the format's own would be left out. What is asked first for stands first.
            args.add(["-movflags", "use_metadata_tags+faststart"]);
        }
        args.add(["-f", self.muxer(), "-y"]).file(into);
    }

    /// How its sound is encoded.
    pub(crate) fn sound(self) -> &'static str {
        match self {
            Self::WebM => "libopus",
            Self::Mp4 | Self::Mkv => "aac",
        }
    }

    /// The rate of its sound.
    pub(crate) fn rate(self, rate: u32) -> u32 {
        match self {
            Self::WebM => 48_000,
            Self::Mp4 | Self::Mkv => rate,
        }
    }
}

/// What frames are encoded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VideoCodec {
    /// H.264.
    H264,
    /// AV1.
    Av1,
    /// VP9.
    Vp9,
}

impl VideoCodec {
    /// FFmpeg's name of the encoder.
    pub(crate) fn encoder(self) -> &'static str {
        match self {
            Self::H264 => "libx264",
            Self::Av1 => "libsvtav1",
            Self::Vp9 => "libvpx-vp9",
        }
    }

    /// The name of the codec.
    pub fn name(self) -> &'static str {
        match self {
            Self::H264 => "h264",
            Self::Av1 => "av1",
            Self::Vp9 => "vp9",
        }
    }

    /// How good it is to be; the encoder's own measure without a number.
    pub(crate) fn quality(self, crf: Option<f64>, args: &mut Args) {
        match (self, crf) {
            (_, None) => {}
            (Self::Av1, Some(0.0)) => drop(args.add(["-svtav1-params", "lossless=1"])),
            (_, Some(crf)) => drop(args.add(["-crf", &crf.to_string()])),
        }
    }
}

/// The colors of a film's pixels, which files tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColorSpace {
    /// BT.709 primaries, sRGB's curve.
    Srgb,
    /// BT.2020 with the hybrid logarithmic curve.
    Hlg,
    /// BT.2020 with the perceptual quantizer.
    Pq,
}

impl ColorSpace {
    /// The reference's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Srgb => "sRGB",
            Self::Hlg => "HDR",
            Self::Pq => "HDR PQ",
        }
    }

    /// Whether it takes ten bits.
    pub(crate) fn is_hdr(self) -> bool {
        self != Self::Srgb
    }

    /// The matrix between RGB and luma and chroma, as the scaler knows it.
    fn matrix(self) -> &'static str {
        if self.is_hdr() { "bt2020" } else { "bt709" }
    }

    /// A filter that tells it with each frame, and options that tell it to the encoder.
    pub(crate) fn told(self, args: &mut Args) -> String {
        let (primaries, transfer, space) = match self {
            Self::Srgb => ("bt709", "iec61966-2-1", "bt709"),
            Self::Hlg => ("bt2020", "arib-std-b67", "bt2020nc"),
            Self::Pq => ("bt2020", "smpte2084", "bt2020nc"),
        };
        args.add(["-color_primaries", primaries, "-color_trc", transfer, "-colorspace", space, "-color_range", "tv"]);
        format!("setparams=range=tv:color_primaries={primaries}:color_trc={transfer}:colorspace={space}")
    }
}

/// Pictures, and sound with them, that become a file.
pub struct Film<'a> {
    /// The frames: (B, H, W, C) of 3 channels, or 4 where the codec is VP9, which keeps what is transparent.
    pub images: &'a Image,
    /// Frames a second.
    pub frame_rate: f64,
    /// The sound, of which no more is taken than there are frames for.
    pub audio: Option<&'a Audio>,
    /// What the file is to be.
    pub container: Container,
    /// What its frames are encoded with.
    pub codec: VideoCodec,
    /// Bits of each color.
    pub bit_depth: u8,
    /// How good it is to be, smaller is better; the encoder's own measure without.
    pub crf: Option<f64>,
    /// What its colors are; not told without.
    pub color_space: Option<ColorSpace>,
}

impl Film<'_> {
    /// Frames a second as files have them: in thousandths.
    fn rate(&self) -> u64 {
        (self.frame_rate * 1000.0).round().max(1.0) as u64
    }

    fn is_ten_bit(&self) -> bool {
        self.bit_depth >= 10 || self.color_space.is_some_and(ColorSpace::is_hdr)
    }

    fn has_alpha(&self) -> bool {
        self.images.channels() == 4 && self.codec == VideoCodec::Vp9
    }

    /// What FFmpeg is handed, and what the encoder gets.
    fn pixels(&self) -> (&'static str, &'static str) {
        match (self.has_alpha(), self.is_ten_bit()) {
            (true, _) => ("rgba", "yuva420p"),
            (false, true) => ("rgb48le", "yuv420p10le"),
            (false, false) => ("rgb24", "yuv420p"),
        }
    }
}

impl Media {
    /// Writes a file of sound with these tags.
    pub fn encode_sound(&self, sound: &Sound<'_>, tags: &[(String, String)], into: &Path, cancel: &CancellationToken) -> Result<()> {
        let channels = sound.waveform.nrows();
        let tags = Tags::new(self, tags)?;
        let mut args = Args::default();
        args.add(QUIET);
        args.add(["-f", "f32le", "-ac", &channels.to_string(), "-ar", &sound.sample_rate.to_string(), "-i", "pipe:0"]);
        tags.input(&mut args);
        args.add(["-map", "0:a", "-map_metadata", "1"]);
        sound.format.args(channels, &mut args);
        args.add(["-y"]).file(into);
        let mut process = self.ffmpeg(&args, cancel)?;
        interleaved(sound.waveform, |bytes| process.write(bytes))?;
        process.close();
        process.wait()
    }

    /// Writes a film with these tags.
    pub fn encode_film(&self, film: &Film<'_>, tags: &[(String, String)], into: &Path, work: &mut Work<'_>) -> Result<()> {
        let (width, height) = (film.images.width(), film.images.height());
        if film.codec != VideoCodec::Vp9 && (width % 2 != 0 || height % 2 != 0) {
            return Err(Error::unfit(format!(
                "{} films have an even width and height, these pictures are {width} x {height}; scale or crop them",
                film.codec.name()
            )));
        }
        let tags = Tags::new(self, tags)?;
        let sound = film.audio.map(|audio| self.sound_of(film, audio)).transpose()?;
        let (given, encoded) = film.pixels();
        let mut args = Args::default();
        args.add(QUIET);
        let rate = format!("{}/1000", film.rate());
        args.add(["-f", "rawvideo", "-pix_fmt", given, "-s", &format!("{width}x{height}"), "-framerate", &rate, "-i", "pipe:0"]);
        tags.input(&mut args);
        if let Some((file, channels, rate)) = &sound {
            args.add(["-f", "f32le", "-ac", &channels.to_string(), "-ar", &rate.to_string(), "-i"]).file(file.path());
        }
        args.add(["-map", "0:v", "-map_metadata", "1"]);
        let mut filters = String::from("scale=flags=bilinear");
        if let Some(space) = film.color_space {
            filters.push_str(&format!(":out_color_matrix={}:out_range=tv,format={encoded},{}", space.matrix(), space.told(&mut args)));
        } else {
            filters.push_str(&format!(",format={encoded}"));
        }
        args.add(["-vf", &filters, "-pix_fmt", encoded, "-c:v", film.codec.encoder()]);
        film.codec.quality(film.crf, &mut args);
        match film.codec {
            VideoCodec::H264 => {}
            // The reference's, for a container that has no other measure.
            VideoCodec::Vp9 => drop(args.add(["-b:v", "0"])),
            VideoCodec::Av1 if film.color_space.is_none() => drop(args.add(["-preset", "6"])),
            VideoCodec::Av1 => {}
        }
        if let Some((_, channels, rate)) = &sound {
            args.add(["-map", "2:a", "-c:a", film.container.sound(), "-ar", &film.container.rate(*rate).to_string()]);
            if ![1, 2, 6].contains(channels) {
                args.add(["-ac", "2"]);
            }
        }
        film.container.output(&mut args, into);
        let mut process = self.ffmpeg(&args, work.cancel)?;
        write_frames(film, &mut process, work)?;
        process.close();
        process.wait()
    }

    /// A film's sound as a file for FFmpeg, its channels and its rate.
    fn sound_of(&self, film: &Film<'_>, audio: &Audio) -> Result<(tempfile::NamedTempFile, usize, u32)> {
        let rate = u128::from(film.rate());
        // As much as there are frames for, rounded up.
        let samples = (u128::from(audio.sample_rate) * 1000 * film.images.batch() as u128).div_ceil(rate);
        let samples = audio.samples().min(usize::try_from(samples).unwrap_or(usize::MAX));
        let mut file = self.scratch()?;
        let mut out = BufWriter::new(file.as_file_mut());
        let first = audio.waveform.index_axis(ndarray::Axis(0), 0);
        interleaved(first.slice(ndarray::s![.., ..samples]), |bytes| Ok(out.write_all(bytes)?))?;
        out.flush()?;
        drop(out);
        Ok((file, audio.channels(), audio.sample_rate))
    }
}

/// Hands the samples on, those of one time beside each other.
fn interleaved(waveform: ArrayView2<'_, f32>, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut bytes = Vec::new();
    for times in waveform.axis_chunks_iter(ndarray::Axis(1), SAMPLES) {
        bytes.clear();
        bytes.extend(times.columns().into_iter().flatten().flat_map(|sample| sample.to_le_bytes()));
        take(&bytes)?;
    }
    Ok(())
}

fn write_frames(film: &Film<'_>, process: &mut Process, work: &mut Work<'_>) -> Result<()> {
    let channels = if film.has_alpha() { 4 } else { 3 };
    let mut bytes = Vec::new();
    for (at, frame) in film.images.0.outer_iter().enumerate() {
        (work.progress)(at as f64, film.images.batch() as f64);
        bytes.clear();
        for pixel in frame.rows() {
            // One channel is grey.
            let pixel = match pixel.len() {
                1 => Cow::Owned(vec![pixel[0]; 3]),
                _ => Cow::Borrowed(pixel.as_slice().unwrap_or_default()),
            };
            for value in pixel.iter().take(channels) {
                if film.is_ten_bit() && !film.has_alpha() {
                    bytes.extend(((value * 65535.0).clamp(0.0, 65535.0) as u16).to_le_bytes());
                } else {
                    bytes.push((value * 255.0).clamp(0.0, 255.0) as u8);
                }
            }
        }
        process.write(&bytes)?;
    }
    Ok(())
}
