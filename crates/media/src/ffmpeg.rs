//! FFmpeg's programs: what each run of them begins with, and which version there is. Knows no file's content.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use comfyd_node::CancellationToken;

use crate::error::Result;
use crate::options::Options;
use crate::process::{Args, Process, Program, STALL};

/// Demuxers that are used: those of containers, of bare streams and of animated pictures. None of them opens another file.
pub(crate) const DEMUXERS: &str = "mov,mp4,matroska,webm,avi,asf,flv,mpegts,mpeg,mpegvideo,m4v,h264,hevc,vvc,obu,av1,ivf,nut,mxf,dv,rm,gif,apng,webp_pipe,\
                        webp_anim,png_pipe,jpeg_pipe,mjpeg,yuv4mpegpipe,swf,bink,smk,rawvideo,flac,mp3,ogg,wav,w64,aiff,aac,ac3,eac3,amr,amrnb,\
                        amrwb,caf,au,dts,dtshd,truehd,mlp,tta,ape,wv,mpc,mpc8,opus,voc,qcp,loas,spdif,oma,f32le,ffmetadata";

/// How long a program may take to say what it is, and how long one may be silent that tells of a file.
pub(crate) const QUICK: Duration = Duration::from_secs(30);

/// What FFmpeg's `-v` is set to: errors, without what it says of itself.
pub(crate) const QUIET: [&str; 3] = ["-hide_banner", "-v", "error"];

/// FFmpeg. A clone is the same.
#[derive(Debug, Clone)]
pub struct Media {
    pub(crate) options: Arc<Options>,
    /// Whether it is older than the option `-fps_mode`.
    old: Arc<OnceLock<bool>>,
}

impl Media {
    /// FFmpeg, used like this. That it is missing shows when it is needed.
    pub fn new(options: Options) -> Self {
        Self { options: Arc::new(options), old: Arc::default() }
    }

    pub(crate) fn ffmpeg(&self, args: &Args, cancel: &CancellationToken) -> Result<Process> {
        Process::start(&self.options, Program::Ffmpeg, args, STALL, cancel)
    }

    /// What is said before a file that is read.
    pub(crate) fn reading(&self, args: &mut Args, path: &Path) {
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
        let mut process = Process::start(&self.options, Program::Ffmpeg, Args::default().add(["-version"]), QUICK, cancel)?;
        process.close();
        let told = process.read_all(64 << 10)?;
        process.wait()?;
        Ok(*self.old.get_or_init(|| is_old(&String::from_utf8_lossy(&told))))
    }

    /// Has frames keep their times, none doubled and none left out.
    pub(crate) fn keep_times(&self, args: &mut Args, cancel: &CancellationToken) -> Result<()> {
        args.add([if self.is_old(cancel)? { "-vsync" } else { "-fps_mode" }, "passthrough"]);
        Ok(())
    }

    /// A file for FFmpeg, which goes when it is dropped.
    pub(crate) fn scratch(&self) -> Result<tempfile::NamedTempFile> {
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
