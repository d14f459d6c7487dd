//! The database file: its lock, its format and migrations, and reading the queue at start. It knows nothing of what happens later.

use std::fs::{self, File, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use comfyd_jobs::line::{Line, Place, Running};
use comfyd_jobs::{Job, Secrets, Status, secrets};
use rusqlite::config::DbConfig;
use rusqlite::types::Type;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, Row, Transaction};
use serde_json::value::RawValue;

use crate::state::{Index, State};
use crate::{Durability, Error, Options};

/// Marks a database as comfyd's ("cmfd").
const APPLICATION_ID: i64 = 0x636d_6664;

/// Up to this size the whole file is checked at start; checking larger ones would delay it.
const MAX_CHECKED_BYTES: u64 = 64 << 20;

/// How many pages (of 4 KiB) the write-ahead log has before a commit brings them into the database.
const MAX_LOG_PAGES: i64 = 16_384;

/// The steps from each format to the next; the format is their number. Never change one that was released: add another.
///
/// `jobs` holds what a prompt was submitted with, written once; `queue` and `history` say where it stands. Rows of `history` up to
/// `state.history_floor` are deleted, and are removed a few at a time.
const MIGRATIONS: &[Migration] = &[create, keep_no_secrets];

type Migration = fn(&Transaction<'_>) -> rusqlite::Result<()>;

fn create(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "CREATE TABLE jobs (
            seq INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            number REAL NOT NULL,
            created_ms INTEGER NOT NULL,
            outputs TEXT NOT NULL,
            extra_data TEXT NOT NULL,
            prompt TEXT NOT NULL
        ) STRICT;
        CREATE TABLE queue (
            seq INTEGER PRIMARY KEY,
            rank INTEGER NOT NULL DEFAULT 0,
            claim INTEGER,
            claimed_ms INTEGER
        ) STRICT;
        CREATE TABLE history (
            ended INTEGER PRIMARY KEY,
            seq INTEGER NOT NULL UNIQUE,
            status TEXT NOT NULL,
            started_ms INTEGER NOT NULL,
            ended_ms INTEGER NOT NULL,
            messages TEXT NOT NULL,
            outputs TEXT NOT NULL,
            meta TEXT NOT NULL
        ) STRICT;
        CREATE TABLE state (
            key TEXT PRIMARY KEY,
            value INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;
        INSERT INTO state (key, value) VALUES ('next_number', 0), ('history_floor', 0);",
    )
}

/// Takes the secrets out of what earlier versions stored, and notes their names as a restart does. Whatever is left of them in unused
/// space goes with [`scrub`].
fn keep_no_secrets(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "ALTER TABLE jobs ADD COLUMN secrets TEXT NOT NULL DEFAULT '[]';
         INSERT INTO state (key, value) SELECT 'scrub_due', 1 WHERE EXISTS (SELECT 1 FROM jobs);",
    )?;
    let names = secrets::NAMES.map(str::to_owned);
    let suspects = transaction
        .prepare("SELECT seq FROM jobs WHERE extra_data LIKE '%' || ?1 || '%' OR extra_data LIKE '%' || ?2 || '%'")?
        .query_map(rusqlite::params_from_iter(&names), |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<i64>>>()?;
    let mut select = transaction.prepare("SELECT CAST(extra_data AS BLOB) FROM jobs WHERE seq = ?1")?;
    let mut update = transaction.prepare("UPDATE jobs SET extra_data = ?2, secrets = ?3 WHERE seq = ?1")?;
    for seq in suspects {
        let text: Vec<u8> = select.query_row([seq], |row| row.get(0))?;
        // What cannot be read is no use to anybody, and must not keep a secret.
        let mut extra_data = serde_json::from_slice(&text).unwrap_or_else(|_| serde_json::json!({}));
        let found = Secrets::take(&mut extra_data, &names).names();
        update.execute(rusqlite::params![seq, extra_data.to_string(), list(&found)?])?;
    }
    Ok(())
}

/// Writes the whole file anew, so that nothing that was removed can be found in it or in the log beside it.
fn scrub(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("VACUUM")?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    connection.execute("DELETE FROM state WHERE key = 'scrub_due'", [])?;
    Ok(())
}

/// What was on disk at start.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) state: State,
    /// Entries of the history up to this key are deleted.
    pub(crate) floor: i64,
    /// The next job to be claimed gets this.
    pub(crate) next_claim: i64,
}

/// An advisory lock beside the database, held as long as this lives and released by the system if the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    pub(crate) fn acquire(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(PathBuf::from(name)).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // Only for the message; on some systems a locked file cannot be read.
                let known = file.read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
                let holder = if known { format!("process {}", pid.trim()) } else { "another process".to_owned() };
                return Err(Error::InUse { path: path.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        file.set_len(0).map_err(io)?;
        write!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self { _file: file })
    }
}

/// The database's one true path, so that a detour over a link finds the same lock. Makes the folder.
pub(crate) fn locate(path: &Path) -> Result<PathBuf, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    if path.exists() {
        return fs::canonicalize(path).map_err(io);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(io)?;
    let name = path.file_name().ok_or_else(|| io(std::io::Error::other("the path names no file")))?;
    Ok(fs::canonicalize(folder).map_err(io)?.join(name))
}

/// Opens the database, brings it to the current format and reads the queue.
pub(crate) fn open(path: &Path, options: &Options) -> Result<(Connection, Loaded), Error> {
    let failed = |error| failure(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(failed)?;
    let format = examine(&connection, path)?;
    configure(&connection, options.durability).map_err(failed)?;
    migrate(&mut connection, format).map_err(failed)?;
    let scrub_due = connection.query_row("SELECT 1 FROM state WHERE key = 'scrub_due'", [], |_| Ok(())).optional().map_err(failed)?;
    if scrub_due.is_some()
        && let Err(error) = scrub(&connection)
    {
        tracing::warn!(%error, "secrets that an earlier version stored may still lie in unused space of the database; the next start tries again");
    }
    let loaded = load(&connection).map_err(failed)?;
    Ok((connection, loaded))
}

/// The database's format, 0 for a new one. Changes nothing.
fn examine(connection: &Connection, path: &Path) -> Result<usize, Error> {
    let failed = |error| failure(path, error);
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(failed);
    let format = number("user_version")?;
    let application = number("application_id")?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    if application != APPLICATION_ID && (tables > 0 || application != 0) {
        return Err(Error::Foreign { path: path.to_owned() });
    }
    let known = MIGRATIONS.len();
    let Ok(format) = usize::try_from(format) else {
        return Err(Error::Corrupt { path: path.to_owned(), detail: format!("its format is {format}") });
    };
    if format > known {
        return Err(Error::Newer { path: path.to_owned(), found: format as i64, known: known as i64 });
    }
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() <= MAX_CHECKED_BYTES) {
        let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
        if verdict != "ok" {
            return Err(Error::Corrupt { path: path.to_owned(), detail: verdict });
        }
    }
    Ok(format)
}

fn configure(connection: &Connection, durability: Durability) -> rusqlite::Result<()> {
    // Takes effect in a new database only: space that a cleared history leaves can be given back to the system.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        let message = format!("the file system allows no write-ahead log (journal mode '{mode}'): use a local disk");
        return Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN), Some(message)));
    }
    let synchronous = match durability {
        Durability::Normal => "NORMAL",
        Durability::Full => "FULL",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    // Checkpoints wait for the disk: the writer's thread makes them. This is for when it does not come to it.
    connection.pragma_update(None, "wal_autocheckpoint", MAX_LOG_PAGES)?;
    // Otherwise a statement is compiled again whenever a value that the planner looked at changes.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "cache_size", -4096)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

fn migrate(connection: &mut Connection, format: usize) -> rusqlite::Result<()> {
    for (index, step) in MIGRATIONS.iter().enumerate().skip(format) {
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        step(&transaction)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", index as i64 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

fn load(connection: &Connection) -> rusqlite::Result<Loaded> {
    let value = |key: &str| connection.query_row("SELECT value FROM state WHERE key = ?1", [key], |row| row.get::<_, i64>(0));
    let next_number = u64::try_from(value("next_number")?).unwrap_or(0);
    let floor = value("history_floor")?;
    let next_arrival: i64 = connection.query_row("SELECT ifnull(max(seq), 0) + 1 FROM jobs", [], |row| row.get(0))?;
    let mut line = Line::new(next_number, next_arrival);
    let mut next_claim = 1;
    let mut select = connection.prepare(
        "SELECT jobs.id, jobs.number, jobs.created_ms, jobs.outputs, jobs.extra_data, jobs.prompt, jobs.seq, queue.rank, queue.claim,
            queue.claimed_ms, jobs.secrets
         FROM queue JOIN jobs ON jobs.seq = queue.seq ORDER BY queue.claim",
    )?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let lost = Secrets::lost(texts(row, 10)?);
        let (job, place) =
            (Arc::new(Job { secrets: lost, ..job(row)? }), Place { rank: row.get(7)?, number: row.get(1)?, arrival: row.get(6)? });
        match row.get::<_, Option<i64>>(8)? {
            None => line.insert(place, job, next_number),
            Some(claim) => {
                next_claim = claim + 1;
                line.insert_running(Running { place, job, claimed_ms: row.get::<_, Option<i64>>(9)?.unwrap_or(0) });
            }
        }
    }
    let mut history = Index::new(floor + 1);
    let mut select = connection
        .prepare("SELECT history.ended, jobs.id FROM history JOIN jobs ON jobs.seq = history.seq WHERE history.ended > ?1 ORDER BY 1")?;
    let mut rows = select.query([floor])?;
    while let Some(row) = rows.next()? {
        history.insert(row.get(0)?, &row.get::<_, String>(1)?);
    }
    Ok(Loaded { state: State { line, history }, floor, next_claim })
}

fn job(row: &Row<'_>) -> rusqlite::Result<Job> {
    Ok(Job {
        id: row.get(0)?,
        number: row.get(1)?,
        created_ms: row.get(2)?,
        outputs: texts(row, 3)?,
        extra_data: json(row, 4)?,
        prompt: json(row, 5)?,
        secrets: Secrets::default(),
    })
}

/// A column of JSON, byte for byte.
pub(crate) fn json(row: &Row<'_>, column: usize) -> rusqlite::Result<Arc<RawValue>> {
    let text = RawValue::from_string(row.get(column)?).map_err(|error| unreadable(column, error))?;
    Ok(text.into())
}

/// A list of texts as it is stored.
pub(crate) fn list(texts: &[String]) -> rusqlite::Result<String> {
    serde_json::to_string(texts).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// A column that lists texts: output nodes, names of secrets.
pub(crate) fn texts(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<String>> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|error| unreadable(column, error))
}

/// A status as it is stored.
pub(crate) fn status_text(status: Status) -> &'static str {
    match status {
        Status::Success => "success",
        Status::Error => "error",
        Status::Interrupted => "interrupted",
    }
}

/// The column of the status.
pub(crate) fn status(row: &Row<'_>, column: usize) -> rusqlite::Result<Status> {
    match row.get_ref(column)?.as_str()? {
        "success" => Ok(Status::Success),
        "error" => Ok(Status::Error),
        "interrupted" => Ok(Status::Interrupted),
        other => Err(unreadable(column, std::io::Error::other(format!("unknown status '{other}'")))),
    }
}

fn unreadable(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

fn failure(path: &Path, error: rusqlite::Error) -> Error {
    let path = path.to_owned();
    match &error {
        rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::QueryReturnedNoRows => {
            Error::Corrupt { path, detail: error.to_string() }
        }
        other => match other.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Error::Corrupt { path, detail: error.to_string() },
            Some(_) | None => Error::Sqlite { path, source: error },
        },
    }
}
