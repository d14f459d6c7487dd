//! What the targets share: where they write. What they call is in the crates' `fuzz.rs`.

use std::path::PathBuf;

/// A file or folder of this process alone; in memory where the system has such a place.
pub fn scratch() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    folder.join(format!("comfyd-fuzz-{}", std::process::id()))
}
