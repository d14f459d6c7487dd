//! The folders that hold everything else. Knows nothing of what is in them.

use std::path::PathBuf;

/// The folders that hold everything else.
#[derive(Debug, Clone)]
pub struct Roots {
    /// Holds `custom_nodes/`, and the other roots unless they are set apart.
    pub base: PathBuf,
    /// Uploads and other inputs.
    pub input: PathBuf,
    /// Results.
    pub output: PathBuf,
    /// Previews and other short-lived files.
    pub temp: PathBuf,
    /// Settings, workflows, the job store.
    pub user: PathBuf,
    /// Model files.
    pub models: PathBuf,
}

impl Roots {
    /// ComfyUI's layout under one folder.
    pub fn under(base: impl Into<PathBuf>) -> Self {
        let base = base.into();
        Self {
            input: base.join("input"),
            output: base.join("output"),
            temp: base.join("temp"),
            user: base.join("user"),
            models: base.join("models"),
            base,
        }
    }
}
