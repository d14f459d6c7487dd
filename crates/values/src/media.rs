//! Sound and film between nodes. Sound is an array, as in ComfyUI; a film is a file or a part of one, which nobody need hold in memory, or
//! what one is to be made of.

use std::path::Path;
use std::sync::Arc;

use comfyd_node::Opaque;
use ndarray::{ArcArray, Array3, Ix3};

use crate::arrays::{Image, counted};

/// Sound on a link, `AUDIO`: (batch, channels, samples), values nominally -1..1.
///
/// A clone shares the array.
#[derive(Debug, Clone, PartialEq)]
pub struct Audio {
    /// (B, C, N).
    pub waveform: ArcArray<f32, Ix3>,
    /// Samples a second.
    pub sample_rate: u32,
}

impl Audio {
    /// Takes an owned array (B, C, N).
    pub fn new(waveform: Array3<f32>, sample_rate: u32) -> Self {
        Self { waveform: waveform.into_shared(), sample_rate }
    }

    /// How many waveforms.
    pub fn batch(&self) -> usize {
        self.waveform.shape()[0]
    }

    /// Channels of a waveform.
    pub fn channels(&self) -> usize {
        self.waveform.shape()[1]
    }

    /// Samples of a channel.
    pub fn samples(&self) -> usize {
        self.waveform.shape()[2]
    }

    /// Its length in seconds.
    pub fn seconds(&self) -> f64 {
        self.samples() as f64 / f64::from(self.sample_rate)
    }
}

/// A film on a link, `VIDEO`.
#[derive(Debug, Clone, PartialEq)]
pub enum Video {
    /// A file, or a part of one.
    File(FilmFile),
    /// Pictures, and sound that goes with them.
    Frames(Frames),
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct FilmFile {
    /// The file.
    pub path: Arc<Path>,
    /// Where it begins, in seconds; from the end, if it is negative.
    pub start: f64,
    /// How long it is, in seconds; zero: to the file's end.
    pub duration: f64,
}

/// What a film is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Frames {
    /// The pictures.
    pub images: Image,
    /// The sound.
    pub audio: Option<Audio>,
    /// Pictures a second.
    pub frame_rate: f64,
    /// Bits of each color of a pixel when it becomes a file.
    pub bit_depth: u8,
}

impl Frames {
    /// Its length in seconds.
    pub fn seconds(&self) -> f64 {
        self.images.batch() as f64 / self.frame_rate
    }
}

impl Opaque for Audio {
    fn type_name(&self) -> &'static str {
        "AUDIO"
    }

    fn size_bytes(&self) -> usize {
        self.waveform.len() * size_of::<f32>()
    }

    fn describe(&self) -> String {
        let channels = counted(self.channels(), "channel");
        let batch = if self.batch() == 1 { String::new() } else { format!("{} times ", self.batch()) };
        format!("{batch}{:.3} s of sound, {channels} of {} Hz", self.seconds(), self.sample_rate)
    }
}

impl Opaque for Video {
    fn type_name(&self) -> &'static str {
        "VIDEO"
    }

    fn size_bytes(&self) -> usize {
        match self {
            Self::File(_) => 0,
            Self::Frames(Frames { images, audio, .. }) => images.size_bytes() + audio.as_ref().map_or(0, Audio::size_bytes),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::File(FilmFile { path, start, duration }) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                match (*start, *duration) {
                    (0.0, 0.0) => format!("the video '{name}'"),
                    (start, 0.0) => format!("the video '{name}' from {start} s on"),
                    (start, duration) => format!("{duration} s of the video '{name}' from {start} s on"),
                }
            }
            Self::Frames(Frames { images, audio, frame_rate, .. }) => {
                let sound = if audio.is_some() { ", with sound" } else { "" };
                format!("a video of {}, {frame_rate} a second{sound}", images.describe())
            }
        }
    }
}
