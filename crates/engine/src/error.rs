//! The one error type of this crate.

use std::path::PathBuf;

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in the engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The prompt was interrupted.
    #[error("the work was interrupted")]
    Interrupted,
    /// Any other reason, as a sentence that says what to do.
    #[error("{0}")]
    Message(String),
    /// There is too little memory for it.
    #[error(transparent)]
    OutOfMemory(#[from] comfyd_memory::OutOfMemory),
    /// A file that cannot be used, and why.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: Box<Error>,
    },
    /// A file of weights cannot be read.
    #[error(transparent)]
    Weights(comfyd_weights::Error),
    /// A model failed.
    #[error(transparent)]
    Model(comfyd_models::Error),
    /// A sampler failed.
    #[error(transparent)]
    Sampler(comfyd_samplers::Error),
    /// Resizing failed.
    #[error(transparent)]
    Imaging(#[from] comfyd_imaging::Error),
    /// The tensor library failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// What a node's own function reports.
    #[error(transparent)]
    Node(comfyd_node::Error),
}

impl Error {
    /// An error with a sentence of its own.
    pub fn msg(message: impl Into<String>) -> Self {
        Self::Message(message.into())
    }

    /// Whether a card said that its memory is used up.
    fn is_of_a_full_card(&self) -> bool {
        match self {
            Self::Model(error) => error.is_out_of_memory(),
            Self::Tensor(error)
            | Self::Weights(comfyd_weights::Error::Tensor(error))
            | Self::Sampler(comfyd_samplers::Error::Tensor(error)) => comfyd_models::is_out_of_memory(error),
            Self::File { reason, .. } => reason.is_of_a_full_card(),
            Self::Interrupted
            | Self::Message(_)
            | Self::OutOfMemory(_)
            | Self::Weights(_)
            | Self::Sampler(_)
            | Self::Imaging(_)
            | Self::Node(_) => false,
        }
    }

    /// Names the file that the error is about.
    pub(crate) fn in_file(self, path: &std::path::Path) -> Self {
        match self {
            Self::Interrupted | Self::OutOfMemory(_) | Self::File { .. } => self,
            Self::Weights(ref error) if error.path().is_some() => self,
            Self::Message(_)
            | Self::Weights(_)
            | Self::Model(_)
            | Self::Sampler(_)
            | Self::Imaging(_)
            | Self::Tensor(_)
            | Self::Node(_) => Self::File { path: path.to_owned(), reason: Box::new(self) },
        }
    }
}

impl From<comfyd_weights::Error> for Error {
    fn from(error: comfyd_weights::Error) -> Self {
        match error {
            comfyd_weights::Error::Interrupted => Self::Interrupted,
            error => Self::Weights(error),
        }
    }
}

impl From<comfyd_models::Error> for Error {
    fn from(error: comfyd_models::Error) -> Self {
        match error {
            comfyd_models::Error::Interrupted => Self::Interrupted,
            error => Self::Model(error),
        }
    }
}

impl From<comfyd_samplers::Error> for Error {
    fn from(error: comfyd_samplers::Error) -> Self {
        match error {
            comfyd_samplers::Error::Interrupted => Self::Interrupted,
            comfyd_samplers::Error::Denoiser(inner) => match inner.downcast::<Self>() {
                Ok(error) => *error,
                Err(inner) => Self::Sampler(comfyd_samplers::Error::Denoiser(inner)),
            },
            error => Self::Sampler(error),
        }
    }
}

impl From<comfyd_node::Error> for Error {
    fn from(error: comfyd_node::Error) -> Self {
        match error {
            comfyd_node::Error::Interrupted => Self::Interrupted,
            error => Self::Node(error),
        }
    }
}

impl From<Error> for comfyd_samplers::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Interrupted => Self::Interrupted,
            error => Self::Denoiser(Box::new(error)),
        }
    }
}

impl From<Error> for comfyd_node::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Interrupted => Self::Interrupted,
            Error::Node(error) => error,
            Error::OutOfMemory(refused) => Self::out_of_memory(refused),
            error if error.is_of_a_full_card() => Self::out_of_memory(format!("the card's memory is used up: {error}")),
            error => Self::other(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_card_is_told_as_too_little_memory() {
        let full = || candle_core::Error::Msg("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".into());
        let told = [Error::from(full()), comfyd_models::Error::from(full()).into(), comfyd_samplers::Error::from(full()).into()];
        for error in told {
            let error = comfyd_node::Error::from(error.in_file("model.safetensors".as_ref()));
            assert!(matches!(error, comfyd_node::Error::OutOfMemory(_)) && error.to_string().contains("the card's memory"), "{error:?}");
        }
        let other = comfyd_node::Error::from(Error::from(candle_core::Error::Msg("another".into())));
        assert!(!matches!(other, comfyd_node::Error::OutOfMemory(_)));
    }
}
