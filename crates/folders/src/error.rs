//! The one error type of this crate.

use std::io;
use std::path::PathBuf;

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with folders.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder cannot be made.
    #[error("cannot make the folder {}: {source}", path.display())]
    Create {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A name leads outside its folder.
    #[error("'{}' leads outside its folder: give a relative name without '..' at its start", path.display())]
    Outside {
        /// The name.
        path: PathBuf,
    },
    /// A file of extra model paths cannot be used.
    #[error("cannot use {}: {reason}", path.display())]
    ExtraPaths {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}
