//! What a caller must be allowed to do. Every route states it; nothing is enforced yet.

use serde::Serialize;

/// A kind of things that a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Permission {
    /// Looking at what the server shows.
    Read,
    /// Having prompts run, with all that belongs to it: files, settings, taking things back.
    Run,
    /// What concerns all users, or the machine: its memory, its models, its log and paths, who the users are.
    Admin,
}
