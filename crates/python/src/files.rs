//! The worker's own Python files, which travel in the program.

use std::io;
use std::path::Path;

/// Names and texts; the first one is run.
pub(crate) const FILES: &[(&str, &str)] = &[];

/// Writes them to a folder.
pub(crate) fn write(folder: &Path) -> io::Result<()> {
    for (name, text) in FILES {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, text)?;
    }
    Ok(())
}
