//! What can go wrong with sound and film.

use std::io;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program is not there.
    #[error(
        "'{program}' cannot be started: {source}; sound and video files need FFmpeg: install it (apt-get install ffmpeg, brew install ffmpeg, \
         winget install ffmpeg), or name it with --ffmpeg"
    )]
    Missing {
        /// Its name, or where it was looked for.
        program: String,
        /// What the system says.
        source: io::Error,
    },
    /// The program ended with an error.
    #[error("{program} fails: {told}")]
    Failed {
        /// Its name.
        program: &'static str,
        /// The last that it said.
        told: String,
    },
    /// The program neither read nor wrote for so long.
    #[error("{program} did nothing for {seconds} s and was ended: the file may be damaged; try another one")]
    Stalled {
        /// Its name.
        program: &'static str,
        /// How long.
        seconds: u64,
    },
    /// The prompt was interrupted.
    #[error("interrupted")]
    Interrupted,
    /// More than there is room for.
    #[error("{0}")]
    NoRoom(String),
    /// What was asked for cannot be done with this file or these values.
    #[error("{0}")]
    Unfit(String),
    /// A file or a pipe.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Error {
    /// Something that does not fit, in words.
    pub(crate) fn unfit(message: impl Into<String>) -> Self {
        Self::Unfit(message.into())
    }
}

/// What this crate's functions give.
pub type Result<T> = std::result::Result<T, Error>;
