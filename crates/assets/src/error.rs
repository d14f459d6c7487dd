//! Why something could not be done with an asset.

use std::io;

use rusqlite::ErrorCode;

/// Why something could not be done with an asset.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none of that id, or it is somebody else's.
    #[error("there is no asset {0}: list the assets for those that there are")]
    NotFound(String),
    /// It may be seen, but not be changed.
    #[error("the asset {0} is not yours: ask an administrator to change what is everybody's")]
    NotOwner(String),
    /// There is nothing of that hash.
    #[error("there is no content of the hash {0}: upload the file")]
    UnknownHash(String),
    /// Its file is gone.
    #[error("the file of the asset is not there any more: put it back, or upload it again")]
    NoFile,
    /// What came cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// A cursor cannot be used.
    #[error("{0}: begin again without 'after'")]
    Cursor(String),
    /// The disk is full, or the store.
    #[error("{0}")]
    Full(String),
    /// The store could not be opened.
    #[error("{0}")]
    Unavailable(String),
    /// A file could not be read or written.
    #[error("a file cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// The database failed.
    #[error("the database of assets failed: {0}")]
    Storage(rusqlite::Error),
}

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full("the disk is full: make room and try again".to_owned()),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Self::Unavailable("another program has the database of assets: end it, or try again".to_owned())
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Unavailable(format!("the database of assets is damaged ({error}): start the server again, which sets it aside"))
            }
            _ => Self::Storage(error),
        }
    }
}
