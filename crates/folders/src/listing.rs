//! The files below a folder, with what is needed to notice that they changed.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::whole;

/// Files beyond this number are not listed, so that a link to a whole disk cannot take the server down.
const MAX_FILES: usize = 200_000;
/// Folders deeper than this are not entered.
const MAX_DEPTH: usize = 32;
/// File systems keep times in ticks of a few milliseconds: a folder that changed this shortly before it was read may change again
/// without its time telling.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// One reading of a folder.
pub(crate) struct Listing {
    /// Files, relative with forward slashes, sorted.
    pub files: Vec<String>,
    /// Folders, likewise.
    pub folders: Vec<String>,
    watched: Vec<(PathBuf, Option<SystemTime>)>,
    settled: bool,
}

impl Listing {
    pub(crate) fn read(root: &Path) -> Self {
        let mut walk = Walk {
            root,
            listing: Self { files: Vec::new(), folders: Vec::new(), watched: Vec::new(), settled: true },
            entered: HashSet::new(),
        };
        walk.folder(root, 0);
        let mut listing = walk.listing;
        listing.files.sort_unstable();
        listing.folders.sort_unstable();
        listing
    }

    /// That of files which are listed already, in their order.
    pub(crate) fn of(files: Vec<String>) -> Self {
        let mut folders: Vec<String> = Vec::new();
        for file in &files {
            for (end, _) in file.match_indices('/') {
                if folders.last().is_none_or(|last| *last != file[..end]) {
                    folders.push(file[..end].to_owned());
                }
            }
        }
        folders.sort_unstable();
        folders.dedup();
        Self { files, folders, watched: Vec::new(), settled: true }
    }

    /// Whether no folder of it has another time than when it was read.
    pub(crate) fn is_current(&self) -> bool {
        self.settled && self.watched.iter().all(|(path, time)| modified(path) == *time)
    }

    pub(crate) fn same_content(&self, other: &Self) -> bool {
        self.files == other.files && self.folders == other.folders
    }
}

struct Walk<'a> {
    root: &'a Path,
    listing: Listing,
    entered: HashSet<PathBuf>,
}

impl Walk<'_> {
    fn folder(&mut self, path: &Path, depth: usize) {
        let time = modified(path);
        let now = SystemTime::now();
        if let Some(time) = time
            && now.duration_since(time).unwrap_or_default() < TICK
        {
            self.listing.settled = false;
        }
        self.listing.watched.push((path.to_owned(), time));
        // A link back to a folder above would otherwise be followed until MAX_DEPTH, once per level.
        if depth >= MAX_DEPTH || !fs::canonicalize(path).is_ok_and(|real| self.entered.insert(real)) {
            return;
        }
        let Ok(entries) = fs::read_dir(path) else { return };
        for entry in entries.flatten() {
            if self.listing.files.len() >= MAX_FILES {
                tracing::warn!(folder = %self.root.display(), "more than {MAX_FILES} files: the rest is not listed");
                return;
            }
            let child = entry.path();
            // Follows links, as people link model folders together.
            let Ok(meta) = fs::metadata(&child) else { continue };
            let Some(relative) = child.strip_prefix(self.root).ok().and_then(Path::to_str) else { continue };
            if meta.is_file() {
                if whole::is_unfinished(&entry.file_name().to_string_lossy()) {
                    continue;
                }
                self.listing.files.push(relative.to_owned());
            } else if meta.is_dir() && entry.file_name() != ".git" {
                self.listing.folders.push(relative.to_owned());
                self.folder(&child, depth + 1);
            }
        }
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|m| m.modified()).ok()
}
