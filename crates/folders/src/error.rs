//! The one error type of this crate.

use std::io;
use std::path::PathBuf;

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with folders.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder cannot be made.
    #[error("cannot make the folder {}: {}", path.display(), reason(source))]
    Create {
        /// The folder, as clients know it if they named it.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {}", path.display(), reason(source))]
    Write {
        /// The file, as clients know it.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file that is shared with other servers cannot be had.
    #[error("'{}' cannot be had: {source}", path.display())]
    Shared {
        /// The file, as clients know it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A name leads outside its folder.
    #[error("'{}' leads outside its folder: give a relative name without '..' at its start", path.display())]
    Outside {
        /// The name.
        path: PathBuf,
    },
    /// A name of a file that is not whole yet.
    #[error("'{}' is the name of an unfinished file: choose one that does not begin with a dot and end in .part", path.display())]
    Unfinished {
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

fn reason(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::HostUnreachable => source.to_string(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => format!("the disk is full ({source}); make room and try again"),
        _ => format!("{source}; check the folder's permissions, and the name"),
    }
}
