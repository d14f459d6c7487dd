//! What a caller must be allowed to do. Every route states it, and `crate::gate` asks it of whoever shows a key.

use serde::Serialize;

use crate::error::ApiError;
use crate::keys::{Caller, Scope};

/// A kind of things that a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Permission {
    /// Showing a key: nobody is asked for one before.
    Anybody,
    /// Looking at what the server shows.
    Read,
    /// Having prompts run, with all that belongs to it: files, settings, taking things back.
    Run,
    /// What concerns all users, or the machine: its memory, its models, its log and paths, who the users are.
    Admin,
}

impl Permission {
    /// The least scope of a key that gives it; `None` if no key is needed.
    pub(crate) fn scope(self) -> Option<Scope> {
        match self {
            Self::Anybody => None,
            Self::Read => Some(Scope::Read),
            Self::Run => Some(Scope::Run),
            Self::Admin => Some(Scope::Admin),
        }
    }

    /// Fails if a key does not give it.
    pub(crate) fn ask(self, caller: &Caller) -> Result<(), ApiError> {
        match self.scope() {
            Some(wanted) if caller.scope < wanted => Err(ApiError::forbidden(format!(
                "this key is for '{}', and this needs one for '{wanted}': ask whoever runs the server for it",
                caller.scope
            ))),
            Some(_) | None => Ok(()),
        }
    }
}
