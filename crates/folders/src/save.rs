//! Names for saved files: `{prefix}_{counter:05}_.{ending}`, for sound without the second `_`, counting on from what the folder holds.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::whole::{Replace, Unfinished};
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
    /// Saves `bytes` under the next free number. Never replaces a file. `batch_index` fills `%batch_num%`; `ending` comes without dot.
    pub fn save(&self, batch_index: usize, ending: &str, bytes: &[u8]) -> Result<SavedFile> {
        let mut saving = self.begin()?;
        if let Err(source) = saving.file().write_all(bytes) {
            return Err(saving.failed(source));
        }
        saving.finish(batch_index, ending)
    }

    /// Takes the next free number for a file that is too large to be held in memory.
    pub fn begin(&self) -> Result<Saving<'_>> {
        let begun = Unfinished::begin(&self.dir).or_else(|error| {
            // Somebody removed the folder since.
            if self.dir.is_dir() {
                return Err(error);
            }
            fs::create_dir_all(&self.dir).and_then(|()| Unfinished::begin(&self.dir))
        });
        let file = begun.map_err(|source| Error::Write { path: self.shown(&self.prefix), source })?;
        Ok(Saving { target: self, file, number: self.next_number() })
    }

    /// A file's name for messages: with the folders that clients know.
    fn shown(&self, filename: &str) -> PathBuf {
        Path::new(self.kind.as_str()).join(&self.subfolder).join(filename)
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

/// A file that is being saved. Its name is given when it is finished, and what is not finished leaves no file.
#[derive(Debug)]
pub struct Saving<'a> {
    target: &'a SaveTarget,
    file: Unfinished,
    number: u64,
}

impl Saving<'_> {
    /// Where to write.
    pub fn file(&mut self) -> &mut File {
        self.file.file()
    }

    /// Where it lies meanwhile, for another program that writes it.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The number that the file's name will have, unless another program takes it before.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The error for what could not be written.
    pub fn failed(&self, source: std::io::Error) -> Error {
        Error::Write { path: self.target.shown(&self.target.prefix), source }
    }

    /// Gives the file its name: that of the next number that no file has.
    pub fn finish(self, batch_index: usize, ending: &str) -> Result<SavedFile> {
        self.finish_as(batch_index, &format!("_.{ending}"))
    }

    /// The same with all that follows the number: files of sound have only their ending there.
    pub fn finish_as(mut self, batch_index: usize, tail: &str) -> Result<SavedFile> {
        let SaveTarget { dir, subfolder, prefix, kind, .. } = self.target;
        let prefix = prefix.replace("%batch_num%", &batch_index.to_string());
        loop {
            let filename = format!("{prefix}_{:05}{tail}", self.number);
            match self.file.put(&dir.join(&filename), Replace::No) {
                Ok(true) => return Ok(SavedFile { filename, subfolder: subfolder.clone(), kind: *kind }),
                Ok(false) => self.number = self.target.next_number(),
                Err(source) => return Err(Error::Write { path: self.target.shown(&filename), source }),
            }
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
    let subfolder = dir.strip_prefix(root).ok().and_then(Path::to_str).unwrap_or_default().to_owned();
    if !dir.is_dir() {
        let shown = || Path::new(kind.as_str()).join(&subfolder);
        fs::create_dir_all(&dir).map_err(|source| Error::Create { path: shown(), source })?;
    }
    Ok(SaveTarget { dir, subfolder, prefix: name, kind, counters })
}

/// The highest number among the files `{prefix}_{number}_…` and `{prefix}_{number}.…`; zero if there is none.
fn highest_number(dir: &Path, prefix: &str) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let numbers = entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        let rest = name.to_str()?.strip_prefix(prefix)?.strip_prefix('_')?;
        rest.split(['_', '.']).next()?.parse::<u64>().ok()
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
