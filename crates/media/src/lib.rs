//! Sound and film: what files hold, their content as arrays and back, conversions from file to file, through the FFmpeg programs that the
//! machine has; and what is computed on waveforms. Files are streamed through pipes, and only what a caller wants as an array is held. Knows
//! no node and no client.
//!
//! Files come from strangers: FFmpeg is told to open local files only, with demuxers that open no further ones (a playlist would name any
//! file of the machine), and pictures of a bounded size; it is ended with the prompt, and when it does nothing for long.

mod decode;
mod encode;
mod error;
mod ffmpeg;
mod filter;
mod options;
mod probe;
mod process;
mod resample;
mod tags;
mod transcode;

pub use crate::encode::{ColorSpace, Container, Film, Sound, SoundFormat, VideoCodec};
pub use crate::error::{Error, Result};
pub use crate::ffmpeg::Media;
pub use crate::filter::{Biquad, filter};
pub use crate::options::{NOT_STARTED, Options, Work};
pub use crate::probe::{Probe, Stream, Window};
pub use crate::resample::{resample, resampled_len};
pub use crate::transcode::Transcode;
