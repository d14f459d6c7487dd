//! Looks after a database file: checks it, backs it up and restores it. Knows nothing of a store that is open; what only reads goes on
//! beside one. What is not of the queue's tables serves other databases of the server too.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, ToSql, Transaction};

use crate::database::{FORMAT, JOB, PATIENCE, concerns_a_row, identify, job};
pub use crate::database::{MAX_DAMAGED, failure, identify_as};
use crate::error::Error;
use crate::guard::{Lock, beside};
use crate::reader::{REST, entry};

/// What [`check`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The format, if it is an earlier version's: prompts are not looked at then.
    pub earlier_format: Option<usize>,
    /// Prompts that wait or run.
    pub queued: usize,
    /// Prompts in the history.
    pub ended: usize,
    /// Damaged prompts that were found earlier, and whose rows are kept in the table `damaged`.
    pub set_aside: usize,
    /// What is wrong with the file, which keeps the server from using it; the first hundred things.
    pub structure: Vec<String>,
    /// What is wrong with single prompts, which are failed or left out; the first hundred things.
    pub prompts: Vec<String>,
}

impl Report {
    /// Whether nothing is damaged.
    pub fn is_whole(&self) -> bool {
        self.structure.is_empty() && self.prompts.is_empty()
    }

    fn complain(&mut self, problem: String) {
        if self.prompts.len() < MAX_DAMAGED as usize {
            self.prompts.push(problem);
        }
    }
}

/// Reads everything in a database, as it stands at one moment, and says what is damaged. Changes nothing.
///
/// # Errors
/// [`Error`], when it cannot be told, or is no database of this program.
pub fn check(path: &Path) -> Result<Report, Error> {
    let mut connection = open(path)?;
    let mut report = Report::default();
    match look(&mut connection, path, &mut report) {
        Ok(()) => Ok(report),
        Err(Error::Corrupt { detail, .. }) => {
            report.structure.push(detail);
            Ok(report)
        }
        Err(error) => Err(error),
    }
}

/// Writes a database, as it stands at one moment, into a file: beside it first, so that the file is whole or not there. What runs waits in
/// it. Gives what a check of the file says.
///
/// # Errors
/// [`Error`]; [`Error::Exists`] if the file is there and is not to be replaced.
pub fn backup(database: &Path, file: &Path, replace: bool) -> Result<Report, Error> {
    backup_with(database, file, replace, &check)
}

/// [`backup`] of a database of another kind, of which `check` tells what is in it.
///
/// # Errors
/// As [`backup`].
pub fn backup_with<R>(database: &Path, file: &Path, replace: bool, check: &dyn Fn(&Path) -> Result<R, Error>) -> Result<R, Error> {
    let io = |source| Error::Io { path: file.to_owned(), source };
    let source = open(database)?;
    let true_path = |path: &Path| fs::canonicalize(path).ok();
    let own = ["", "-wal", "-shm", ".lock"].map(|ending| beside(database, ending));
    if true_path(file).is_some_and(|file| own.iter().any(|own| true_path(own).as_ref() == Some(&file))) {
        return Err(Error::Itself { path: file.to_owned() });
    }
    if file.exists() && !replace {
        return Err(Error::Exists { path: file.to_owned() });
    }
    let name = file.file_name().ok_or_else(|| io(io::Error::other("the path names no file")))?;
    let part = file.with_file_name(format!(".{}.{}.part", name.to_string_lossy(), std::process::id()));
    let report = copy(&source, database, &part).and_then(|()| {
        let report = check(&part)?;
        fs::rename(&part, file).and_then(|()| sync_folder(file)).map_err(io)?;
        Ok(report)
    });
    if report.is_err() {
        remove(&part);
    }
    report
}

/// Puts the copy of a backup in the place of the database that is locked, and gives the name under which that one is kept, if there was one.
///
/// # Errors
/// [`Error`]; the database is as it was then, unless only the last step failed.
pub fn restore(lock: &Lock, file: &Path) -> Result<Option<PathBuf>, Error> {
    restore_with(lock, file, &identify)
}

/// [`restore`] of a database of another kind, whose format `identify` tells.
///
/// # Errors
/// As [`restore`].
pub fn restore_with(
    lock: &Lock,
    file: &Path,
    identify: &dyn Fn(&Connection, &Path) -> Result<usize, Error>,
) -> Result<Option<PathBuf>, Error> {
    let source = open(file)?;
    identify(&source, file)?;
    let part = beside(lock.target(), ".restored.part");
    let placed = copy(&source, file, &part).and_then(|()| {
        let time: String = source
            .query_row("SELECT strftime('%Y%m%d-%H%M%S', 'now', 'localtime')", [], |row| row.get(0))
            .map_err(|error| failure(file, error))?;
        let names = (1_u32..).map(|n| if n == 1 { time.clone() } else { format!("{time}-{n}") });
        let mut free = names.map(|name| beside(lock.target(), &format!(".before-{name}"))).filter(|name| !name.exists());
        free.next().map_or(Ok(None), |kept| put_in_place(lock, &part, kept))
    });
    if placed.is_err() {
        remove(&part);
    }
    placed
}

/// Makes a file the database that is locked; what was it is kept under the other name.
fn put_in_place(lock: &Lock, part: &Path, kept: PathBuf) -> Result<Option<PathBuf>, Error> {
    let [database, log, index, _lock] = lock.files();
    let io = |source| Error::Io { path: kept.clone(), source };
    let there = database.exists();
    if there {
        // Everything into one file, if it can be read at all.
        drop(Connection::open(&database).and_then(|old| old.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))));
    }
    // A log that stays would be taken for that of the new one.
    if log.exists() {
        fs::rename(&log, beside(&kept, "-wal")).map_err(io)?;
    }
    if index.exists() {
        fs::remove_file(&index).map_err(io)?;
    }
    if there {
        // Under both names, so that there is no moment without a database.
        fs::hard_link(&database, &kept).or_else(|_no_links| fs::rename(&database, &kept)).map_err(io)?;
    }
    fs::rename(part, &database).and_then(|()| sync_folder(&database)).map_err(io)?;
    Ok(there.then_some(kept))
}

/// Opens a database that is there, for reading alone.
///
/// # Errors
/// [`Error::Missing`], and what SQLite says.
pub fn open(path: &Path) -> Result<Connection, Error> {
    if !path.is_file() {
        return Err(Error::Missing { path: path.to_owned() });
    }
    let failed = |error| failure(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(PATIENCE).map_err(failed)?;
    Ok(connection)
}

/// Everything into a new file that needs no other beside it, and onto the disk.
fn copy(source: &Connection, path: &Path, part: &Path) -> Result<(), Error> {
    remove(part);
    let copied = (|| {
        let mut target = Connection::open(part)?;
        // At once: in steps, it would begin anew whenever the server writes.
        let done = Backup::new(source, &mut target)?.step(-1)?;
        if done != StepResult::Done {
            let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
            return Err(rusqlite::Error::SqliteFailure(busy, None));
        }
        target.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))?;
        // Nobody works on it where the copy is used, and no crash has ended that. A damaged row stays as it is.
        let _ = target.execute("UPDATE queue SET claim = NULL, claimed_ms = NULL WHERE claim IS NOT NULL", []);
        target.close().map_err(|(_connection, error)| error)
    })();
    // A full disk is that of the new file.
    copied.map_err(|error| failure(if error.sqlite_error_code() == Some(ErrorCode::DiskFull) { part } else { path }, error))?;
    File::open(part).and_then(|file| file.sync_all()).map_err(|source| Error::Io { path: part.to_owned(), source })
}

fn remove(part: &Path) {
    for ending in ["", "-wal", "-shm", "-journal"] {
        // Usually, none is there.
        let _ = fs::remove_file(beside(part, ending));
    }
}

/// Has the system keep a new name of a file.
fn sync_folder(file: &Path) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

fn look(connection: &mut Connection, path: &Path, report: &mut Report) -> Result<(), Error> {
    let failed = |error| failure(path, error);
    let format = identify(connection, path)?;
    let transaction = connection.transaction().map_err(failed)?;
    (report.structure, report.prompts) = integrity(&transaction).map_err(failed)?;
    if format == 0 {
        report.structure.push("it is empty: no server has used it".to_owned());
    } else if format != FORMAT {
        report.earlier_format = Some(format);
    } else {
        read_prompts(&transaction, report).map_err(failed)?;
    }
    Ok(())
}

/// What SQLite finds wrong with a database: with the file, and with single rows; the first hundred things.
///
/// # Errors
/// What SQLite says where it cannot look.
pub fn integrity(connection: &Connection) -> rusqlite::Result<(Vec<String>, Vec<String>)> {
    let mut check = connection.prepare(&format!("PRAGMA integrity_check({MAX_DAMAGED})"))?;
    let verdicts: Vec<String> = check.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let (rows, structure) = verdicts.into_iter().filter(|verdict| verdict != "ok").partition(|verdict| concerns_a_row(verdict));
    Ok((structure, rows))
}

/// Reads every prompt as the server does.
fn read_prompts(transaction: &Transaction<'_>, report: &mut Report) -> rusqlite::Result<()> {
    let queued = |row: &Row<'_>| {
        job(row)?;
        let (_rank, _claim, _claimed_ms): (i64, Option<i64>, Option<i64>) = (row.get(10)?, row.get(11)?, row.get(12)?);
        Ok(())
    };
    let keys = "SELECT queue.seq, CAST(id AS TEXT) FROM queue LEFT JOIN jobs ON jobs.seq = queue.seq WHERE ?1 = ?1";
    let place = format!(
        "SELECT {JOB}, rank, claim, claimed_ms FROM queue JOIN jobs ON jobs.seq = queue.seq
             LEFT JOIN senders ON senders.seq = jobs.seq WHERE queue.seq = ?1"
    );
    report.queued = read_each(transaction, "the queue", [keys, &place], 0, &queued, report)?;
    let count = |sql: &str| transaction.query_row(sql, [], |row| row.get::<_, i64>(0));
    let floor = count("SELECT ifnull(max(value), 0) FROM state WHERE key = 'history_floor'")?;
    let keys = "SELECT ended, CAST(id AS TEXT) FROM history LEFT JOIN jobs ON jobs.seq = history.seq WHERE ended > ?1";
    let whole = format!("SELECT {JOB}, {REST}");
    report.ended = read_each(transaction, "the history", [keys, &whole], floor, &|row| entry(row).map(drop), report)?;
    report.set_aside = usize::try_from(count("SELECT count(*) FROM damaged")?).unwrap_or(0);
    for (what, sql) in [
        ("prompts in neither the queue nor the history", "jobs WHERE seq NOT IN (SELECT seq FROM queue UNION SELECT seq FROM history)"),
        ("senders of no prompt", "senders WHERE seq NOT IN (SELECT seq FROM jobs)"),
        ("counts of crashes of no prompt in the queue", "crashes WHERE seq NOT IN (SELECT seq FROM queue)"),
    ] {
        let many = count(&format!("SELECT count(*) FROM {sql}"))?;
        if many > 0 {
            report.complain(format!("{what}: {many}"));
        }
    }
    Ok(())
}

/// Reads one row after the other, names those that cannot be read, and says how many there are.
fn read_each(
    transaction: &Transaction<'_>,
    place: &str,
    [keys, one]: [&str; 2],
    from: i64,
    read: &dyn Fn(&Row<'_>) -> rusqlite::Result<()>,
    report: &mut Report,
) -> rusqlite::Result<usize> {
    let mut keys = transaction.prepare(keys)?;
    let mut one = transaction.prepare(one)?;
    let mut rows = keys.query([&from as &dyn ToSql])?;
    let mut many = 0;
    while let Some(row) = rows.next()? {
        many += 1;
        let key: i64 = row.get(0)?;
        if let Err(error) = one.query_row([key], read) {
            let detail = match error {
                rusqlite::Error::QueryReturnedNoRows => "it is missing".to_owned(),
                other => other.to_string(),
            };
            let id = row.get_ref(1)?.as_bytes().map_or_else(|_| format!("of row {key}"), |id| format!("'{}'", String::from_utf8_lossy(id)));
            report.complain(format!("prompt {id} of {place}: {detail}"));
        }
    }
    Ok(many)
}
