//! Names for saved files: `{prefix}_{counter:05}_.{ending}`, counting on from what the folder holds.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::{Error, Kind, Result, join_inside};

/// The next number per folder and prefix, so that a folder with many files is read only once.
pub(crate) type Counters = HashMap<(PathBuf, String), u64>;

/// Prefixes whose counters are remembered; past that all are forgotten and read again.
const MAX_COUNTERS: usize = 10_000;

/// A folder and a name prefix for saving.
#[derive(Debug)]
pub struct SaveTarget {
    /// The folder, which exists.
    pub dir: PathBuf,
    /// The client's name of the folder below its kind, `""` for the top.
    pub subfolder: String,
    /// The name's prefix, variables filled except `%batch_num%`.
    pub prefix: String,
    /// Which of the client's folders it is in.
    pub kind: Kind,
    counters: Arc<Mutex<Counters>>,
}

/// A file that was saved, as clients are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedFile {
    /// Its name.
    pub filename: String,
    /// Its folder below the kind.
    pub subfolder: String,
    /// The kind.
    pub kind: Kind,
}

impl SavedFile {
    /// `{"filename", "subfolder", "type"}`.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({"filename": self.filename, "subfolder": self.subfolder, "type": self.kind.as_str()})
    }
}

impl SaveTarget {
    /// Writes `bytes` under the next free number. Never replaces a file. `batch_index` fills `%batch_num%`; `ending` comes without dot.
    pub fn save(&self, batch_index: usize, ending: &str, bytes: &[u8]) -> Result<SavedFile> {
        let prefix = self.prefix.replace("%batch_num%", &batch_index.to_string());
        loop {
            let number = self.next_number();
            let filename = format!("{prefix}_{number:05}_.{ending}");
            let path = self.dir.join(&filename);
            let fail = |source| Error::Write { path: path.clone(), source };
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    // Half a file would be worse than none.
                    write_all(file, bytes).inspect_err(|_| drop(fs::remove_file(&path))).map_err(fail)?;
                    return Ok(SavedFile { filename, subfolder: self.subfolder.clone(), kind: self.kind });
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                // Somebody removed the folder since.
                Err(e) if e.kind() == ErrorKind::NotFound && !self.dir.is_dir() => fs::create_dir_all(&self.dir).map_err(fail)?,
                Err(e) => return Err(fail(e)),
            }
        }
    }

    /// Takes the next free number for a file that is too large to be held in memory. `ending` comes without dot.
    pub fn reserve(&self, ending: &str) -> Result<Reserved> {
        loop {
            let number = self.next_number();
            let name = format!("{}_{number:05}_.{ending}", self.prefix);
            let (path, part) = (self.dir.join(&name), self.dir.join(name + ".part"));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(_) => return Ok(Reserved { part, path, number, finished: false }),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(source) => return Err(Error::Write { path, source }),
            }
        }
    }

    fn next_number(&self) -> u64 {
        let key = (self.dir.clone(), self.prefix.clone());
        let mut counters = self.counters.lock();
        if counters.len() >= MAX_COUNTERS {
            counters.clear();
        }
        let next = counters.entry(key).or_insert_with(|| highest_number(&self.dir, &self.prefix) + 1);
        let number = *next;
        *next += 1;
        number
    }
}

/// A number that was taken for a file, which is written beside its place first. What is not finished leaves no file.
#[derive(Debug)]
pub struct Reserved {
    path: PathBuf,
    part: PathBuf,
    number: u64,
    finished: bool,
}

impl Reserved {
    /// Where to write.
    pub fn part(&self) -> &Path {
        &self.part
    }

    /// The number in the file's name.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Puts what was written into its place.
    pub fn finish(mut self) -> Result<()> {
        fs::rename(&self.part, &self.path).map_err(|source| Error::Write { path: self.path.clone(), source })?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.finished {
            // Half a file would be worse than none; nothing can be done if it cannot be removed.
            drop(fs::remove_file(&self.part));
            drop(fs::remove_file(&self.path));
        }
    }
}

pub(crate) fn target(root: &Path, kind: Kind, prefix: &str, size: (usize, usize), counters: Arc<Mutex<Counters>>) -> Result<SaveTarget> {
    let filled = fill_variables(prefix, size);
    let path = join_inside(root, Path::new(&filled))?;
    // A prefix that ends in a slash, or is empty, leaves no name.
    let (dir, name) = match (path.parent(), path.file_name().and_then(|n| n.to_str())) {
        (Some(dir), Some(name)) if path != root => (dir.to_owned(), name.to_owned()),
        _ => (root.to_owned(), "ComfyUI".to_owned()),
    };
    if !dir.is_dir() {
        fs::create_dir_all(&dir).map_err(|source| Error::Create { path: dir.clone(), source })?;
    }
    let subfolder = dir.strip_prefix(root).ok().and_then(Path::to_str).unwrap_or_default().to_owned();
    Ok(SaveTarget { dir, subfolder, prefix: name, kind, counters })
}

fn write_all(mut file: File, bytes: &[u8]) -> std::io::Result<()> {
    file.write_all(bytes)
}

/// The highest number among the files `{prefix}_{number}_…`; zero if there is none.
fn highest_number(dir: &Path, prefix: &str) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let numbers = entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        let rest = name.to_str()?.strip_prefix(prefix)?.strip_prefix('_')?;
        rest.split('_').next()?.parse::<u64>().ok()
    });
    numbers.max().unwrap_or(0)
}

fn fill_variables(prefix: &str, (width, height): (usize, usize)) -> String {
    if !prefix.contains('%') {
        return prefix.to_owned();
    }
    let now = local_time();
    prefix
        .replace("%width%", &width.to_string())
        .replace("%height%", &height.to_string())
        .replace("%year%", &now.year.to_string())
        .replace("%month%", &format!("{:02}", now.month))
        .replace("%day%", &format!("{:02}", now.day))
        .replace("%hour%", &format!("{:02}", now.hour))
        .replace("%minute%", &format!("{:02}", now.minute))
        .replace("%second%", &format!("{:02}", now.second))
}

struct LocalTime {
    year: i16,
    month: i8,
    day: i8,
    hour: i8,
    minute: i8,
    second: i8,
}

fn local_time() -> LocalTime {
    let now = jiff::Zoned::now();
    LocalTime { year: now.year(), month: now.month(), day: now.day(), hour: now.hour(), minute: now.minute(), second: now.second() }
}
