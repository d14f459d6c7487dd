//! The one error type of this crate.

/// What can go wrong with a picture.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The bytes are no picture, a damaged one, or one of an unsupported kind.
    #[error("cannot read the picture: {0}; check that the file is complete, or save it as PNG")]
    Decode(String),
    /// The picture could not be written.
    #[error("cannot write the picture: {0}")]
    Encode(String),
    /// The picture is larger than the configured limits allow.
    #[error("the picture has {found} {what}, the limit is {limit}; make it smaller or raise the limit")]
    TooLarge {
        /// What was counted, with its unit.
        what: &'static str,
        /// How many there are.
        found: u64,
        /// How many are allowed.
        limit: u64,
    },
    /// Arrays whose shapes do not fit the operation.
    #[error("{0}")]
    Shape(String),
    /// A parameter outside its range.
    #[error("{0}")]
    Parameter(String),
    /// The caller asked to stop.
    #[error("the work was interrupted")]
    Interrupted,
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;
