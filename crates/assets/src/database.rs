//! The database file: its format, and what becomes of one that is damaged. Knows nothing of what is in the tables.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::{Error, Result};
use crate::time::now_us;

/// Marks a database as one of assets ("cmfa").
pub(crate) const APPLICATION_ID: i64 = 0x636d_6661;
/// Up to this size the whole file is checked at start.
const MAX_CHECKED_BYTES: u64 = 64 << 20;
/// How long a change waits for another program that has the database.
const PATIENCE: Duration = Duration::from_secs(5);

/// The steps from each format to the next; the format is their number. Never change one that was released: add another.
///
/// `contents` are bytes, once each: without a hash until they were read. `assets` are what users see of them: a file (`path`), or a name
/// for content that is in other files. `tags` and `meta` (what the two kinds of metadata say together, value by value) are for filters.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE contents (
        id INTEGER PRIMARY KEY,
        hash TEXT UNIQUE,
        size INTEGER NOT NULL,
        mime TEXT
    ) STRICT;
    CREATE TABLE assets (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        content INTEGER NOT NULL,
        owner TEXT NOT NULL,
        root TEXT NOT NULL,
        path TEXT UNIQUE,
        loader_path TEXT,
        mtime_ns INTEGER,
        missing INTEGER NOT NULL DEFAULT 0,
        level INTEGER NOT NULL DEFAULT 0,
        name TEXT NOT NULL,
        preview TEXT,
        user_metadata TEXT,
        system_metadata TEXT,
        job TEXT,
        created INTEGER NOT NULL,
        updated INTEGER NOT NULL,
        accessed INTEGER NOT NULL,
        deleted INTEGER
    ) STRICT;
    CREATE INDEX assets_content ON assets (content);
    CREATE INDEX assets_created ON assets (created, id);
    CREATE INDEX assets_name ON assets (name, id);
    CREATE TABLE tags (
        asset INTEGER NOT NULL,
        tag TEXT NOT NULL,
        origin TEXT NOT NULL,
        PRIMARY KEY (asset, tag)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX tags_tag ON tags (tag, asset);
    CREATE TABLE tag_names (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
    CREATE TABLE meta (
        asset INTEGER NOT NULL,
        key TEXT NOT NULL,
        ordinal INTEGER NOT NULL,
        kind TEXT NOT NULL,
        value ANY NOT NULL,
        PRIMARY KEY (asset, key, ordinal)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX meta_key ON meta (key, kind, value);
    CREATE TRIGGER forget_asset AFTER DELETE ON assets BEGIN
        DELETE FROM tags WHERE asset = old.seq;
        DELETE FROM meta WHERE asset = old.seq;
    END;
"];

/// The format that this version writes.
pub(crate) const FORMAT: usize = MIGRATIONS.len();

/// Opens a database for reading and writing, twice: who reads does not wait for who writes. A damaged one is set aside, and a new one begun.
pub(crate) fn open(path: &Path) -> Result<(Connection, Connection)> {
    let opened = match whole(path) {
        Err(Unusable::Damaged(why)) => {
            let kept = set_aside(path)?;
            tracing::error!(
                "the database of assets '{}' is damaged ({why}): it was set aside as '{}', and a new one is begun; files are found again, \
                 and tags and metadata that users gave are in the old one",
                path.display(),
                kept.display()
            );
            whole(path)
        }
        opened => opened,
    };
    let write = opened.map_err(|unusable| match unusable {
        Unusable::Damaged(why) => Error::Unavailable(format!("the database of assets cannot be made ({why}): check the disk")),
        Unusable::Other(error) => error,
    })?;
    Ok((write, connect(path).map_err(Error::from)?))
}

/// Why a database cannot be used.
enum Unusable {
    Damaged(String),
    Other(Error),
}

impl From<rusqlite::Error> for Unusable {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(error.to_string()),
            _ => Self::Other(Error::Unavailable(format!(
                "the database of assets cannot be opened ({error}): check the folder's permissions and the free space"
            ))),
        }
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(PATIENCE)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn whole(path: &Path) -> std::result::Result<Connection, Unusable> {
    let mut connection = connect(path)?;
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, format) = (number("application_id")?, number("user_version")?);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let refuse = |why: String| Err(Unusable::Other(Error::Unavailable(why)));
    if application != APPLICATION_ID && (tables > 0 || application != 0) {
        return refuse(format!("'{}' is the database of another program: name a file of its own with --database-url", path.display()));
    }
    let Some(steps) = usize::try_from(format).ok().and_then(|format| MIGRATIONS.get(format..)) else {
        return refuse(format!("'{}' was written by a later version: upgrade comfyd, or name another file", path.display()));
    };
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() <= MAX_CHECKED_BYTES) {
        let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(Unusable::Damaged(verdict));
        }
    }
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return refuse(format!("the file system of '{}' allows no write-ahead log: name a file on a local disk", path.display()));
    }
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    let transaction = connection.transaction()?;
    for step in steps {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", FORMAT as i64)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.commit()?;
    Ok(connection)
}

/// Moves a database away, with what SQLite has beside it.
fn set_aside(path: &Path) -> Result<PathBuf> {
    let named = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let ending = format!(".damaged-{}", now_us() / 1_000_000);
    let kept = named(&ending);
    fs::rename(path, &kept)?;
    for beside in ["-wal", "-shm"] {
        let from = named(beside);
        if from.exists() {
            fs::rename(from, named(&format!("{ending}{beside}")))?;
        }
    }
    Ok(kept)
}
