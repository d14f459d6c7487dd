//! Sound and film: what files hold, their content as arrays and back, conversions from file to file, through the FFmpeg programs that the
//! machine has; and what is computed on waveforms. Files are streamed through pipes, and only what a caller wants as an array is held. Knows
//! no node and no client.
//!
//! Files come from strangers: FFmpeg is told to open local files only, with demuxers that open no further ones (a playlist would name any
//! file of the machine), and pictures of a bounded size; it is ended with the prompt, and when it does nothing for long.

mod decode;
mod encode;
mod error;
mod filter;
mod probe;
mod process;
mod resample;
mod tags;
mod transcode;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use comfyd_node::CancellationToken;

pub use crate::encode::{ColorSpace, Container, Film, Sound, SoundFormat, VideoCodec};
pub use crate::error::{Error, Result};
pub use crate::filter::{Biquad, filter};
pub use crate::probe::{Probe, Stream, Window};
use crate::process::{Args, Process, Program};
pub use crate::resample::{resample, resampled_len};
pub use crate::transcode::Transcode;

/// Demuxers that are used: those of containers, of bare streams and of animated pictures. None of them opens another file.
const DEMUXERS: &str = "mov,mp4,matroska,webm,avi,asf,flv,mpegts,mpeg,mpegvideo,m4v,h264,hevc,vvc,obu,av1,ivf,nut,mxf,dv,rm,gif,apng,webp_pipe,\
                        webp_anim,png_pipe,jpeg_pipe,mjpeg,yuv4mpegpipe,swf,bink,smk,rawvideo,flac,mp3,ogg,wav,w64,aiff,aac,ac3,eac3,amr,amrnb,\
                        amrwb,caf,au,dts,dtshd,truehd,mlp,tta,ape,wv,mpc,mpc8,opus,voc,qcp,loas,spdif,oma,f32le,ffmetadata";

/// What FFmpeg's `-v` is set to: errors, without what it says of itself.
const QUIET: [&str; 3] = ["-hide_banner", "-v", "error"];

/// What [`Options::launcher`] ends with where the program cannot be started: what shells have for it.
pub const NOT_STARTED: u8 = 127;

/// How FFmpeg is used.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program, by its path or by a name that is looked for where the system looks for programs.
    pub ffmpeg: PathBuf,
    /// The one beside it that tells what files hold.
    pub ffprobe: PathBuf,
    /// Words before the program's: what starts it so that it ends with this process and within bounds, or ends with
    /// [`NOT_STARTED`].
    pub launcher: Vec<OsString>,
    /// Where what is handed to it in files lies meanwhile.
    pub temp: PathBuf,
    /// Pixels of a frame of a file.
    pub max_pixels: u64,
}

impl Options {
    /// The programs of the system, with files for them in this folder.
    pub fn new(temp: impl Into<PathBuf>) -> Self {
        Self { ffmpeg: "ffmpeg".into(), ffprobe: "ffprobe".into(), launcher: Vec::new(), temp: temp.into(), max_pixels: 1 << 28 }
    }
}

/// What a piece of work is asked and told.
pub struct Work<'a> {
    /// Ends it.
    pub cancel: &'a CancellationToken,
    /// Asks for so many bytes more; the error says why there are none.
    pub room: &'a mut dyn FnMut(u64) -> std::result::Result<(), String>,
    /// So much of so much is done, in frames or samples.
    pub progress: &'a mut dyn FnMut(f64, f64),
    /// The most bytes that one array may have.
    pub most: u64,
}

/// FFmpeg. A clone is the same.
#[derive(Debug, Clone)]
pub struct Media {
    options: Arc<Options>,
    /// Whether it is older than the option `-fps_mode`.
    old: Arc<OnceLock<bool>>,
}

impl Media {
    /// FFmpeg, used like this. That it is missing shows when it is needed.
    pub fn new(options: Options) -> Self {
        Self { options: Arc::new(options), old: Arc::default() }
    }

    fn ffmpeg(&self, args: &Args, cancel: &CancellationToken) -> Result<Process> {
        Process::start(self, Program::Ffmpeg, args, cancel)
    }

    /// What is said before a file that is read.
    fn reading(&self, args: &mut Args, path: &Path) {
        args.add(["-max_pixels", &self.options.max_pixels.to_string()]);
        args.add(["-protocol_whitelist", "file", "-format_whitelist", DEMUXERS, "-i"]).file(path);
    }

    /// Fails where the program is not there. It is started for that once.
    pub fn check(&self, cancel: &CancellationToken) -> Result<()> {
        self.is_old(cancel).map(drop)
    }

    fn is_old(&self, cancel: &CancellationToken) -> Result<bool> {
        if let Some(old) = self.old.get() {
            return Ok(*old);
        }
        let mut process = self.ffmpeg(Args::default().add(["-version"]), cancel)?;
        process.close();
        let told = process.read_all(64 << 10)?;
        process.wait()?;
        Ok(*self.old.get_or_init(|| is_old(&String::from_utf8_lossy(&told))))
    }

    /// Has frames keep their times, none doubled and none left out.
    fn keep_times(&self, args: &mut Args, cancel: &CancellationToken) -> Result<()> {
        args.add([if self.is_old(cancel)? { "-vsync" } else { "-fps_mode" }, "passthrough"]);
        Ok(())
    }

    /// A file for FFmpeg, which goes when it is dropped.
    fn scratch(&self) -> Result<tempfile::NamedTempFile> {
        std::fs::create_dir_all(&self.options.temp)?;
        // Hidden from clients, and taken for a left-over where this process is killed.
        Ok(tempfile::Builder::new().prefix(".").suffix(".part").rand_bytes(16).tempfile_in(&self.options.temp)?)
    }
}

/// Whether `ffmpeg -version` tells of one before 5.1. What has no number is built from newer sources.
fn is_old(told: &str) -> bool {
    let number = told.split_whitespace().nth(2).unwrap_or_default().trim_start_matches('n');
    let mut parts = number.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let (Some(Ok(major)), minor) = (parts.next(), parts.next()) else { return false };
    (major, minor.and_then(|minor| minor.ok()).unwrap_or(0)) < (5, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart() {
        for (told, old) in [
            ("ffmpeg version 5.1.9-0+deb12u1 Copyright (c) 2000-2026", false),
            ("ffmpeg version 4.4.2-0ubuntu0.22.04.1 Copyright", true),
            ("ffmpeg version 5.0 Copyright", true),
            ("ffmpeg version n7.1 Copyright", false),
            ("ffmpeg version N-118193-g5f38c82536 Copyright", false),
            ("ffmpeg version 8.0", false),
            ("", false),
        ] {
            assert_eq!(is_old(told), old, "{told}");
        }
    }
}
