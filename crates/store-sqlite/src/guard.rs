//! Who may use a place on disk, and whether the files there are still those that were opened. Knows nothing of what is in them.

use std::fs::{self, File, Metadata, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use comfyd_jobs::{Error as JobError, Result as JobResult};
use parking_lot::Mutex;

use crate::error::Error;
use crate::state::Shared;

/// An advisory lock beside a database or in a folder, held as long as this lives and released by the system if the process dies.
#[derive(Debug)]
pub struct Lock {
    /// What is locked: its one true path, so that a detour over a link finds the same lock.
    target: PathBuf,
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Locks a database that is there or is to be made. Makes its folder, and changes nothing else.
    ///
    /// # Errors
    /// [`Error::InUse`] and [`Error::Io`].
    pub fn database(path: &Path) -> Result<Self, Error> {
        let target = locate(path)?;
        let lock = beside(&target, ".lock");
        Self::acquire(target, lock)
    }

    /// Locks a folder, for those who lock it too: the lock is a file `.comfyd.lock` in it. Makes the folder.
    ///
    /// # Errors
    /// [`Error::InUse`] and [`Error::Io`].
    pub fn folder(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(io)?;
        let target = fs::canonicalize(path).map_err(io)?;
        let file = target.join(Self::FILE);
        Self::acquire(target, file)
    }

    /// The name of a folder's lock.
    pub const FILE: &str = ".comfyd.lock";

    /// The files of a database that is locked: itself, SQLite's two beside it, and the lock.
    pub(crate) fn files(&self) -> [PathBuf; 4] {
        [self.target.clone(), beside(&self.target, "-wal"), beside(&self.target, "-shm"), self.path.clone()]
    }

    fn acquire(target: PathBuf, path: PathBuf) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.clone(), source };
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // Only for the message; on some systems a locked file cannot be read.
                let known = (&file).take(20).read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
                let holder = if known { format!("process {}", pid.trim()) } else { "another process".to_owned() };
                return Err(Error::InUse { path: target, holder });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        // The number is for the message above only; a full disk must not keep the server from starting.
        let told = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
        if let Err(error) = told {
            tracing::debug!(%error, path = %path.display(), "the lock does not say who holds it");
        }
        Ok(Self { target, path, _file: file })
    }

    /// What is locked.
    pub fn target(&self) -> &Path {
        &self.target
    }
}

/// A file beside another: its name with this ending.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// The database's one true path. Makes the folder.
fn locate(path: &Path) -> Result<PathBuf, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    if path.exists() {
        return fs::canonicalize(path).map_err(io);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(io)?;
    let name = path.file_name().ok_or_else(|| io(io::Error::other("the path names no file")))?;
    Ok(fs::canonicalize(folder).map_err(io)?.join(name))
}

/// Watches over the files of an open database: one that was deleted or replaced takes everything written from then on with it.
#[derive(Debug)]
pub(crate) struct Guard {
    lock: Lock,
    /// The files, and which ones they were when they were opened.
    files: Vec<(PathBuf, Identity)>,
    shared: Arc<Shared>,
    /// What was told of last.
    told: Mutex<Option<String>>,
}

/// Which file a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    number: u64,
}

impl Guard {
    /// For a database whose files are all there. Only looks at them: opening and closing a file would give up SQLite's locks on it.
    pub(crate) fn new(lock: Lock, shared: Arc<Shared>) -> Result<Self, Error> {
        let mut files = Vec::new();
        for path in lock.files() {
            let found = fs::metadata(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
            files.push((path, Identity::of(&found)));
        }
        Ok(Self { lock, files, shared, told: Mutex::default() })
    }

    /// The database.
    pub(crate) fn database(&self) -> &Path {
        &self.lock.target
    }

    /// Whether all files are still there. Tells once when that changes.
    pub(crate) fn check(&self) -> JobResult<()> {
        let found = self.files.iter().find_map(|(path, opened)| {
            let what = match fs::metadata(path) {
                Ok(found) if Identity::of(&found) != *opened => "was replaced".to_owned(),
                // An open database has a header at least.
                Ok(found) if found.len() == 0 && *path == self.lock.target => "was emptied".to_owned(),
                Ok(_found) => return None,
                Err(error) if error.kind() == io::ErrorKind::NotFound => "was deleted".to_owned(),
                Err(error) => format!("cannot be reached ({error})"),
            };
            Some(format!("'{}' {what} while the server runs: put it back, or stop the server and start it again", path.display()))
        });
        let mut told = self.told.lock();
        if *told != found {
            match &found {
                Some(problem) => {
                    let counts = self.shared.state.lock().line.counts();
                    let accepted = counts.pending + counts.running;
                    tracing::error!(
                        accepted,
                        "{problem}; new prompts are refused, and those that were accepted are lost when the server stops"
                    );
                }
                None => tracing::info!("the files of the job store are back; prompts are accepted again"),
            }
            told.clone_from(&found);
        }
        found.map_or(Ok(()), |problem| Err(JobError::Unavailable(problem)))
    }
}

impl Identity {
    #[cfg(unix)]
    fn of(found: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        Self { device: found.dev(), number: found.ino() }
    }

    /// Elsewhere an open file can be neither deleted nor replaced.
    #[cfg(not(unix))]
    fn of(_found: &Metadata) -> Self {
        Self { device: 0, number: 0 }
    }
}
