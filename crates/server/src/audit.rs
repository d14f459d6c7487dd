//! The audit log: who, from where, changed what, and who was not let in. JSON, one record a line, in files of bounded size and number. Knows
//! no route.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

use comfyd_jobs::now_ms;
use serde::Serialize;

/// The file in the user folder, and those that it was before.
const FILE: &str = "audit.jsonl";
/// Bytes of one file, and how many older ones are kept.
const MAX_FILE_BYTES: u64 = 16 << 20;
const OLDER: usize = 4;
/// Records that may wait to be written; those beyond are counted.
const MAX_WAITING: usize = 4096;

/// One line.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Record {
    /// When, in milliseconds since 1970.
    pub time_ms: i64,
    /// Who; empty where nobody is told apart, or whoever it was showed no good key.
    pub user: Arc<str>,
    /// The id of the key.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// From where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// What: a method and a path, or the program's own command.
    pub action: String,
    /// To what: ids of prompts, names of files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub what: Vec<String>,
    /// The answer's status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// The log of a running server, written by a thread of its own: no request waits for it.
#[derive(Debug)]
pub struct Audit {
    lines: SyncSender<Record>,
    lost: Arc<AtomicU64>,
}

impl Audit {
    /// The log in a user folder. Its file is made with the first record.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(user_folder: PathBuf) -> io::Result<Self> {
        let mut writer: Option<Writer> = None;
        let (lines, waiting) = sync_channel::<Record>(MAX_WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let missed = Arc::clone(&lost);
        std::thread::Builder::new().name("audit".into()).spawn(move || {
            for record in waiting {
                let gap = missed.swap(0, Ordering::Relaxed);
                let told = writer.take().map_or_else(|| Writer::open(&user_folder), Ok).and_then(|mut open| {
                    if gap > 0 {
                        open.write(&Record::of(format!("{gap} records are missing")))?;
                    }
                    open.write(&record)?;
                    writer = Some(open);
                    Ok(())
                });
                if let Err(error) = told {
                    missed.fetch_add(gap + 1, Ordering::Relaxed);
                    tracing::error!(%error, "the audit log cannot be written: make room, or look after '{FILE}' in the user folder");
                }
            }
        })?;
        Ok(Self { lines, lost })
    }

    /// Writes a record before this returns: for a command, which ends then.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(user_folder: &Path, record: &Record) -> io::Result<()> {
        Writer::open(user_folder)?.write(record)
    }

    pub(crate) fn tell(&self, record: Record) {
        if self.lines.try_send(record).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Record {
    /// Something that was done now.
    pub fn of(action: impl Into<String>) -> Self {
        Self { time_ms: now_ms(), action: action.into(), ..Self::default() }
    }
}

/// The ids or names that a request concerned, left at its answer for the record.
#[derive(Debug, Clone)]
pub(crate) struct Concerns(pub Vec<String>);

struct Writer {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Writer {
    fn open(user_folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(user_folder)?;
        let path = user_folder.join(FILE);
        let mut options = File::options();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path, file, bytes })
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        if self.bytes >= MAX_FILE_BYTES {
            self.turn()?;
        }
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.bytes += line.len() as u64;
        self.file.write_all(&line)
    }

    /// Begins a new file; the oldest goes.
    fn turn(&mut self) -> io::Result<()> {
        let older = |number: usize| self.path.with_extension(format!("{number}.jsonl"));
        for number in (1..OLDER).rev() {
            match fs::rename(older(number), older(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, older(1))?;
        *self = Self::open(self.path.parent().unwrap_or(Path::new(".")))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn files_are_bounded_in_size_and_number() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path()).unwrap();
        for _ in 0..OLDER + 3 {
            writer.write(&Record { what: vec!["x".repeat(100)], ..Record::of("POST /prompt") }).unwrap();
            writer.bytes = MAX_FILE_BYTES;
        }
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["audit.1.jsonl", "audit.2.jsonl", "audit.3.jsonl", "audit.4.jsonl", "audit.jsonl"]);
        assert!(fs::read_to_string(dir.path().join("audit.jsonl")).unwrap().contains("\"action\":\"POST /prompt\""));
    }
}
