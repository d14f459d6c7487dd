//! The database file: its format and migrations, and reading the queue at start. It knows nothing of what happens later.

use std::borrow::Cow;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use comfyd_jobs::index::{Facts, Index};
use comfyd_jobs::line::{Line, Place, Running};
use comfyd_jobs::{Error as JobError, HistoryEntry, Job, Outcome, Secrets, Status, now_ms, secrets};
use rusqlite::config::DbConfig;
use rusqlite::types::{Type, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, Row, Transaction, params};
use serde_json::value::RawValue;

use crate::error::Error;
use crate::options::{Durability, Options};
use crate::state::State;

/// Marks a database as comfyd's ("cmfd").
const APPLICATION_ID: i64 = 0x636d_6664;

/// Up to this size the whole file is checked at start; checking larger ones would delay it.
const MAX_CHECKED_BYTES: u64 = 64 << 20;

/// How many pages (of 4 KiB) the write-ahead log has before a commit brings them into the database.
pub(crate) const MAX_LOG_PAGES: i64 = 16_384;

/// How long opening waits for another program that has the database.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// How many damaged rows are told of, and how many are kept aside.
pub const MAX_DAMAGED: i64 = 100;

/// The steps from each format to the next; the format is their number. Never change one that was released: add another.
///
/// `jobs` holds what a prompt was submitted with and `senders` by whom, written once; `queue` and `history` say where it stands, and
/// `crashes` how often it was running when the server ended. Rows of
/// `history` up to `state.history_floor` are deleted, and are removed a few at a time. `damaged` holds rows of `jobs` as they were found,
/// whatever they hold.
const MIGRATIONS: &[Migration] = &[create, keep_no_secrets, keep_damaged, keep_senders, count_crashes];

/// The format that this version writes.
pub(crate) const FORMAT: usize = MIGRATIONS.len();

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
        let found = Secrets::take(&mut extra_data, &names).unwrap_or_default().names();
        update.execute(params![seq, extra_data.to_string(), list(&found)?])?;
    }
    Ok(())
}

fn keep_damaged(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch("CREATE TABLE damaged (found_ms, reason, seq, id, number, created_ms, outputs, extra_data, prompt);")
}

/// Keeps who sent a prompt and of which workflow it is, and finds it in what earlier versions stored. In a table of its own, so that neither
/// this nor who filters the history reads the large texts of `jobs`: a column that is added to a strict table has all of it checked, and
/// one damaged value would keep everybody out.
fn keep_senders(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    // A longer one, be it a workflow's, which the index has in memory, or a client's, is nobody's.
    let text = |path: &str| {
        let is_id = format!("json_type(extra_data, '{path}') = 'text' AND length(extra_data ->> '{path}') <= 256");
        format!("CASE WHEN json_valid(extra_data) THEN CASE WHEN {is_id} THEN extra_data ->> '{path}' END END")
    };
    let (client_id, workflow_id) = (text("$.client_id"), text("$.extra_pnginfo.workflow.id"));
    transaction.execute_batch(&format!(
        "CREATE TABLE senders (
            seq INTEGER PRIMARY KEY,
            owner TEXT NOT NULL,
            client_id TEXT,
            workflow_id TEXT
        ) STRICT;
        INSERT INTO senders SELECT seq, '', {client_id}, {workflow_id} FROM jobs;
        CREATE TRIGGER forget_sender AFTER DELETE ON jobs BEGIN
            DELETE FROM senders WHERE seq = old.seq;
        END;"
    ))
}

/// Counts how often a prompt was running when the server ended, for the few of which that is so. In a table of its own for the reason that
/// [`keep_senders`] tells.
fn count_crashes(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "CREATE TABLE crashes (
            seq INTEGER PRIMARY KEY,
            count INTEGER NOT NULL
        ) STRICT;
        CREATE TRIGGER forget_crashes AFTER DELETE ON queue BEGIN
            DELETE FROM crashes WHERE seq = old.seq;
        END;",
    )
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
}

/// Opens the database, brings it to the current format and reads the queue.
pub(crate) fn open(path: &Path, options: &Options) -> Result<(Connection, Loaded), Error> {
    let failed = |error| failure(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(PATIENCE).map_err(failed)?;
    let format = identify(&connection, path)?;
    examine(&connection, path)?;
    configure(&connection, options.durability).map_err(failed)?;
    migrate(&mut connection, format).map_err(failed)?;
    let scrub_due = connection.query_row("SELECT 1 FROM state WHERE key = 'scrub_due'", [], |_| Ok(())).optional().map_err(failed)?;
    if scrub_due.is_some()
        && let Err(error) = scrub(&connection)
    {
        tracing::warn!(%error, "secrets that an earlier version stored may still lie in unused space of the database; the next start tries again");
    }
    let loaded = load(&mut connection).map_err(failed)?;
    Ok((connection, loaded))
}

/// The database's format, 0 for a new one. Changes nothing.
pub(crate) fn identify(connection: &Connection, path: &Path) -> Result<usize, Error> {
    identify_as(connection, path, APPLICATION_ID, FORMAT)
}

/// The format of a database with an application id, of which formats up to `known` are known; 0 for a new one. Changes nothing.
///
/// # Errors
/// [`Error`], where it is none of that application, or cannot be read.
pub fn identify_as(connection: &Connection, path: &Path, application_id: i64, known: usize) -> Result<usize, Error> {
    let failed = |error| failure(path, error);
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(failed);
    let format = number("user_version")?;
    let application = number("application_id")?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    if application != application_id && (tables > 0 || application != 0) {
        return Err(Error::Foreign { path: path.to_owned() });
    }
    let Ok(format) = usize::try_from(format) else {
        return Err(Error::Corrupt { path: path.to_owned(), detail: format!("its format is {format}") });
    };
    if format > known {
        return Err(Error::Newer { path: path.to_owned(), found: format as i64, known: known as i64 });
    }
    Ok(format)
}

/// A quick look at the whole file, unless it is large.
fn examine(connection: &Connection, path: &Path) -> Result<(), Error> {
    let failed = |error| failure(path, error);
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() <= MAX_CHECKED_BYTES) {
        let mut check = connection.prepare(&format!("PRAGMA quick_check({MAX_DAMAGED})")).map_err(failed)?;
        let verdicts: Vec<String> = check.query_map([], |row| row.get(0)).and_then(Iterator::collect).map_err(failed)?;
        for verdict in verdicts.iter().filter(|verdict| *verdict != "ok") {
            if !concerns_a_row(verdict) {
                return Err(Error::Corrupt { path: path.to_owned(), detail: verdict.clone() });
            }
            tracing::error!(verdict, "a value in the job store is damaged");
        }
    }
    Ok(())
}

/// Whether what SQLite's check says is about one value of a wrong kind: its row is set aside when it is read. Anything else concerns the file.
pub(crate) fn concerns_a_row(verdict: &str) -> bool {
    verdict.contains(" value in ")
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
    // Where an ordinary sync leaves data in the disk's own memory (macOS).
    connection.pragma_update(None, "fullfsync", durability == Durability::Full)?;
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

fn load(connection: &mut Connection) -> rusqlite::Result<Loaded> {
    let value = |key: &str| connection.query_row("SELECT value FROM state WHERE key = ?1", [key], |row| row.get(0)).optional();
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    // Without the row, the numbers go on after the highest that is known.
    let next_number = match value("next_number")? {
        Some(number) => number,
        None => number("SELECT ifnull(CAST(max(abs(number)) AS INTEGER) + 1, 0) FROM jobs")?,
    };
    let next_number = u64::try_from(next_number).unwrap_or(0);
    let floor: i64 = value("history_floor")?.unwrap_or(0);
    let next_arrival = number("SELECT ifnull(max(seq), 0) FROM jobs")?.saturating_add(1);
    let mut line = Line::new(next_number, next_arrival);
    let mut damaged = Vec::new();
    {
        let mut places = connection.prepare(
            "SELECT queue.seq, rank, claim, claimed_ms, count FROM queue LEFT JOIN crashes ON crashes.seq = queue.seq ORDER BY claim",
        )?;
        // One by one, so that a damaged one cannot keep the others from being read.
        let mut jobs =
            connection.prepare(&format!("SELECT {JOB} FROM jobs LEFT JOIN senders ON senders.seq = jobs.seq WHERE jobs.seq = ?1"))?;
        let mut rows = places.query([])?;
        while let Some(row) = rows.next()? {
            let seq = row.get(0)?;
            let queued = jobs.query_row([seq], job).and_then(|job| Ok((job, row.get(1)?, row.get(2)?, row.get::<_, Option<i64>>(3)?)));
            match queued {
                Err(error) => damaged.push((seq, error)),
                Ok((job, rank, claim, claimed_ms)) => {
                    let crashes = row.get(4).unwrap_or_default();
                    let (place, job) = (Place { rank, number: job.number, arrival: seq, crashes }, Arc::new(job));
                    match claim {
                        None => line.insert(place, job, next_number),
                        // Whoever claimed it is gone with the process that had the database.
                        Some(claim) => {
                            let claimed_ms = claimed_ms.unwrap_or(0);
                            line.insert_running(Running { place, job, claimed_ms, claim, holder: None });
                        }
                    }
                }
            }
        }
    }
    for (seq, error) in damaged {
        if let Err(failed) = set_aside(connection, seq, &error.to_string(), floor) {
            // It stays where it is.
            tracing::error!(error = %failed, seq, reason = %error, "a damaged prompt of the queue is left out");
        }
    }
    let mut history = Index::new(floor.saturating_add(1));
    let mut select = connection.prepare(
        "SELECT ended, id, ifnull(owner, ''), workflow_id, status, created_ms, started_ms, ended_ms FROM history
             LEFT JOIN jobs ON jobs.seq = history.seq LEFT JOIN senders ON senders.seq = history.seq WHERE ended > ?1 ORDER BY ended",
    )?;
    let mut rows = select.query([floor])?;
    while let Some(row) = rows.next()? {
        let ended: i64 = row.get(0)?;
        match text(row.get_ref(1)?) {
            Some(id) => history.insert(ended, facts(row, &id)),
            None => tracing::error!(ended, "an entry of the history is left out, since its prompt is missing in the job store"),
        }
    }
    drop(rows);
    drop(select);
    Ok(Loaded { state: State { line, history }, floor })
}

/// What is known of an entry of the history; whatever is damaged in it is told when it is read.
fn facts(row: &Row<'_>, id: &str) -> Facts {
    Facts {
        id: id.into(),
        owner: row.get(2).unwrap_or_default(),
        workflow_id: row.get(3).unwrap_or_default(),
        status: status(row, 4).unwrap_or(Status::Error),
        created_ms: row.get(5).unwrap_or_default(),
        started_ms: row.get(6).unwrap_or_default(),
        ended_ms: row.get(7).unwrap_or_default(),
    }
}

/// Takes a damaged prompt out of the queue: it counts as failed, so that whoever waits for it is told, and what was found is kept.
fn set_aside(connection: &mut Connection, seq: i64, reason: &str, floor: i64) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found = |row: &Row<'_>| {
        let id = text(row.get_ref(0)?).unwrap_or_default();
        Ok(Job {
            id: id.into_owned(),
            number: row.get(1).unwrap_or_default(),
            created_ms: row.get(2).unwrap_or_default(),
            owner: Arc::default(),
            client_id: None,
            workflow_id: None,
            prompt: empty(),
            extra_data: empty(),
            secrets: Secrets::default(),
            outputs: Vec::new(),
            needs: Default::default(),
        })
    };
    let job = transaction.query_row("SELECT id, number, created_ms FROM jobs WHERE seq = ?1", [seq], found).optional()?;
    transaction.execute("DELETE FROM queue WHERE seq = ?1", [seq])?;
    if let Some(job) = &job {
        transaction.execute(
            "INSERT INTO damaged SELECT ?2, ?3, seq, id, number, created_ms, outputs, extra_data, prompt FROM jobs WHERE seq = ?1",
            params![seq, now_ms(), reason],
        )?;
        transaction.execute("DELETE FROM damaged WHERE rowid <= (SELECT max(rowid) FROM damaged) - ?1", [MAX_DAMAGED])?;
        transaction.execute(
            "UPDATE jobs SET id = ?2, number = ?3, created_ms = ?4, outputs = '[]', extra_data = '{}', prompt = '{}' WHERE seq = ?1",
            params![seq, job.id, job.number, job.created_ms],
        )?;
        let message = format!("the stored prompt is damaged ({reason}): submit it again");
        let outcome = Outcome::failed(&job.id, "DamagedPrompt", &message, now_ms(), now_ms());
        let entry = HistoryEntry::new(job.clone(), &outcome, usize::MAX)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        transaction.execute(
            "INSERT INTO history (ended, seq, status, started_ms, ended_ms, messages, outputs, meta)
             SELECT max(?2, ifnull(max(ended), 0)) + 1, ?1, ?3, ?4, ?4, ?5, ?6, ?7 FROM history",
            params![seq, floor, status_text(entry.status), entry.ended_ms, entry.messages.get(), entry.outputs.get(), entry.meta.get()],
        )?;
    }
    transaction.commit()?;
    let prompt_id = job.map(|job| job.id);
    tracing::error!(
        prompt_id,
        seq,
        reason,
        "a prompt of the queue is damaged and counts as failed; the table 'damaged' keeps what was found"
    );
    Ok(())
}

/// A text, whatever its bytes are; `None` if it is none.
fn text(value: ValueRef<'_>) -> Option<Cow<'_, str>> {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(String::from_utf8_lossy(bytes)),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => None,
    }
}

fn empty() -> Arc<RawValue> {
    RawValue::NULL.to_owned().into()
}

/// The columns that [`job`] reads.
pub(crate) const JOB: &str = "jobs.id, jobs.number, jobs.created_ms, jobs.outputs, jobs.extra_data, jobs.prompt, jobs.secrets,
    ifnull(senders.owner, ''), senders.client_id, senders.workflow_id";

/// A job from the first columns of a row.
pub(crate) fn job(row: &Row<'_>) -> rusqlite::Result<Job> {
    Ok(Job {
        id: row.get(0)?,
        number: row.get(1)?,
        created_ms: row.get(2)?,
        outputs: texts(row, 3)?,
        extra_data: json(row, 4)?,
        prompt: json(row, 5)?,
        secrets: Secrets::lost(texts(row, 6)?),
        owner: row.get(7)?,
        client_id: row.get(8)?,
        workflow_id: row.get(9)?,
        needs: Default::default(),
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
fn texts(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<String>> {
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

/// Whether another program has the database.
pub(crate) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed))
}

/// SQLite takes one failure of the system for a full disk. A quota that is used up and a limit on the size of files are no different for
/// whoever writes. To be called right after the failure: the system tells of its last one only.
pub(crate) fn with_cause(error: rusqlite::Error) -> rusqlite::Error {
    let cause = io::Error::last_os_error().kind();
    if error.sqlite_error().map(|error| error.extended_code) != Some(rusqlite::ffi::SQLITE_IOERR_WRITE) {
        return error;
    }
    match cause {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None)
        }
        _other => error,
    }
}

/// What a caller is told of an error.
pub(crate) fn job_error(error: &rusqlite::Error) -> JobError {
    if is_busy(error) {
        return JobError::Unavailable("another program keeps the database to itself: end that program, and try again".to_owned());
    }
    let extended = error.sqlite_error().map(|error| error.extended_code);
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => JobError::NoSpace,
        Some(_) if extended == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE) => JobError::NoSpace,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            JobError::Storage(format!("the database is damaged ({error}): stop the server, and look at it with `comfyd db check`"))
        }
        Some(ErrorCode::TooBig) => JobError::Unstorable(format!("it is larger than the database takes: {error}")),
        Some(_) | None => JobError::Storage(error.to_string()),
    }
}

/// What whoever wants to use a database is told of an error.
pub fn failure(path: &Path, error: rusqlite::Error) -> Error {
    let path = path.to_owned();
    match &error {
        rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::QueryReturnedNoRows => {
            Error::Corrupt { path, detail: error.to_string() }
        }
        other if is_busy(other) => Error::InUse { path, holder: "another program".to_owned() },
        other => match other.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Error::Corrupt { path, detail: error.to_string() },
            Some(_) | None => Error::Sqlite { path, source: error },
        },
    }
}
