//! How FFmpeg is used, and what a piece of work with it is asked and told.

use std::ffi::OsString;
use std::path::PathBuf;

use comfyd_node::CancellationToken;

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
