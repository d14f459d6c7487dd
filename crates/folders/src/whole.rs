//! Files that appear whole or not at all: they are written under a hidden name beside their place and renamed when all is written. Knows
//! no client's names.

use std::fs::{self, File};
use std::io::{ErrorKind, Result, Write};
use std::path::Path;

use tempfile::TempPath;

/// How a hidden name ends.
const ENDING: &str = ".part";
/// Random letters and digits in a hidden name.
const RANDOM: usize = 16;
/// Folders deeper than this are not searched for what earlier runs left.
const MAX_DEPTH: usize = 32;
/// Entries that are looked at in that search.
const MAX_ENTRIES: usize = 1_000_000;

/// Whether an existing file is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// Yes.
    Yes,
    /// No: it stays as it is.
    No,
}

/// A file that is being written. It is removed when it is dropped before it was put in its place.
#[derive(Debug)]
pub struct Unfinished {
    file: File,
    /// `None` once it is in its place.
    path: Option<TempPath>,
}

impl Unfinished {
    /// Begins a file in this folder, which must be there, with the permissions of any new file.
    pub fn begin(folder: &Path) -> Result<Self> {
        // What a file is made with by default; the process's mask takes its share away.
        Self::with_mode(folder, 0o666)
    }

    fn with_mode(folder: &Path, mode: u32) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".").suffix(ENDING).rand_bytes(RANDOM);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
        #[cfg(not(unix))]
        let _ = mode;
        let (file, path) = builder.tempfile_in(folder)?.into_parts();
        // Tells other servers that it is no left-over. Where the file system knows no locks, only this server's own lock does.
        drop(file.try_lock());
        Ok(Self { file, path: Some(path) })
    }

    /// What is written to.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Where it lies until then, for another program that writes it.
    pub fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// Puts it in its place, in the same file system. Whether it is there: `false` only where there is a file that is not to be replaced;
    /// another place can be tried then.
    pub fn put(&mut self, place: &Path, replace: Replace) -> Result<bool> {
        let Some(path) = self.path.take() else { return Ok(false) };
        let moved = match replace {
            Replace::Yes => path.persist(place),
            Replace::No => path.persist_noclobber(place),
        };
        let Err(failed) = moved else { return Ok(true) };
        self.path = Some(failed.path);
        match (replace, failed.error.kind()) {
            (Replace::No, ErrorKind::AlreadyExists) => Ok(false),
            // A file system that can neither link nor rename without replacing.
            (Replace::No, ErrorKind::Unsupported | ErrorKind::PermissionDenied | ErrorKind::InvalidInput) => self.claim(place),
            _ => Err(failed.error),
        }
    }

    /// Takes the name with an empty file, and replaces that.
    fn claim(&mut self, place: &Path) -> Result<bool> {
        match File::create_new(place) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
            claimed => drop(claimed?),
        }
        self.put(place, Replace::Yes).inspect_err(|_| drop(fs::remove_file(place)))
    }
}

/// Writes a file, making its folders. Whether it was put in its place: `false` only where there is one already that is not to be replaced.
pub fn write(path: &Path, bytes: &[u8], replace: Replace) -> Result<bool> {
    write_with_mode(path, bytes, replace, 0o666)
}

/// The same for a file that other users of the machine may not read, where the system knows such.
pub fn write_private(path: &Path, bytes: &[u8], replace: Replace) -> Result<bool> {
    write_with_mode(path, bytes, replace, 0o600)
}

fn write_with_mode(path: &Path, bytes: &[u8], replace: Replace, mode: u32) -> Result<bool> {
    let folder = path.parent().ok_or(ErrorKind::InvalidFilename)?;
    fs::create_dir_all(folder)?;
    let mut unfinished = Unfinished::with_mode(folder, mode)?;
    unfinished.file.write_all(bytes)?;
    unfinished.put(path, replace)
}

/// Gives a file another name in the same file system. Whether it has it: `false` only where there is a file of that name.
pub fn rename_new(from: &Path, to: &Path) -> Result<bool> {
    let mut unfinished = Unfinished { file: File::open(from)?, path: Some(TempPath::try_from_path(from)?) };
    let renamed = unfinished.put(to, Replace::No);
    if let Some(path) = unfinished.path.take() {
        path.keep().map_err(|failed| failed.error)?;
    }
    renamed
}

/// Whether a file of this name is one that is being written, or a left-over of one. Such names are neither listed nor given out.
pub fn is_unfinished(name: &str) -> bool {
    name.starts_with('.') && (name.ends_with(ENDING) || name.ends_with(".part.etag"))
}

/// Removes what ended programs left unfinished in a folder and in those below it. What another program is writing stays, and so do
/// downloads, which can be gone on with.
pub fn remove_unfinished(folder: &Path) {
    remove_below(folder, 0, &mut MAX_ENTRIES.clone());
}

fn remove_below(folder: &Path, depth: usize, left: &mut usize) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Some(fewer) = left.checked_sub(1) else { return };
        *left = fewer;
        // Links are not followed: what they lead to is somebody else's.
        let Ok(kind) = entry.file_type() else { continue };
        let path = entry.path();
        if kind.is_dir() && depth < MAX_DEPTH {
            remove_below(&path, depth + 1, left);
        }
        if kind.is_file() && entry.file_name().to_str().is_some_and(is_left_over) && !is_being_written(&path) {
            match fs::remove_file(&path) {
                Ok(()) => tracing::info!(file = %path.display(), "an unfinished file of an earlier run was removed"),
                Err(error) => tracing::warn!(file = %path.display(), "an unfinished file of an earlier run could not be removed: {error}"),
            }
        }
    }
}

/// Exactly the names that [`Unfinished::begin`] and its forerunner gave.
fn is_left_over(name: &str) -> bool {
    let random = name.strip_prefix('.').and_then(|name| name.strip_suffix(ENDING));
    random.is_some_and(|random| matches!(random.len(), RANDOM | 32) && random.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

fn is_being_written(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_file_appears_whole_and_replaces_only_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.json");
        assert!(write(&path, b"1", Replace::No).unwrap());
        assert!(!write(&path, b"2", Replace::No).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"1");
        assert!(write(&path, b"3", Replace::Yes).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"3");
        assert!(write(dir.path(), b"4", Replace::Yes).is_err(), "a folder is no place for a file");
        assert!(write(&dir.path().join("x".repeat(300)), b"5", Replace::No).is_err());
        assert_eq!(names(&dir.path().join("a")), ["b.json"], "no temporary file stays");
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn until_it_is_whole_there_is_only_a_hidden_file() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("x.png");
        let mut unfinished = Unfinished::begin(dir.path()).unwrap();
        unfinished.file().write_all(b"half").unwrap();
        let during = names(dir.path());
        assert!(during.len() == 1 && is_unfinished(&during[0]), "{during:?}");
        assert!(unfinished.put(&place, Replace::No).unwrap());
        assert_eq!(names(dir.path()), ["x.png"]);
        drop(Unfinished::begin(dir.path()).unwrap());
        assert_eq!(names(dir.path()), ["x.png"], "what is given up leaves nothing");
    }

    #[test]
    fn a_taken_place_is_left_and_another_one_can_be_had() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("1"), b"first").unwrap();
        let mut unfinished = Unfinished::begin(dir.path()).unwrap();
        assert!(!unfinished.put(&dir.path().join("1"), Replace::No).unwrap());
        assert!(unfinished.put(&dir.path().join("2"), Replace::No).unwrap());
        assert_eq!(fs::read(dir.path().join("1")).unwrap(), b"first");
    }

    #[cfg(unix)]
    #[test]
    fn permissions_are_those_of_any_new_file() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("plain"), b"").unwrap();
        write(&dir.path().join("whole"), b"", Replace::No).unwrap();
        let mode = |name: &str| dir.path().join(name).metadata().unwrap().mode();
        assert_eq!(mode("whole"), mode("plain"));
    }

    #[test]
    fn left_overs_go_and_what_is_being_written_stays() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        for name in [".0123456789abcdef.part", ".0123456789abcdef0123456789abcdef.part", ".m.safetensors.part", "notes.part", ".hidden"] {
            fs::write(below.join(name), b"x").unwrap();
        }
        let mut living = Unfinished::begin(&below).unwrap();
        remove_unfinished(dir.path());
        assert!(living.put(&below.join("whole"), Replace::No).unwrap());
        assert_eq!(names(&below), [".hidden", ".m.safetensors.part", "notes.part", "whole"]);
    }
}
