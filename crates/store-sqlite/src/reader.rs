//! Reads history entries: from the cache, and what is missing there from disk, on blocking threads with connections of their own that
//! the writer does not hinder. It never writes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use comfyd_jobs::{Error, HistoryEntry, Job, Result, Secrets};
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, Row};
use tokio::sync::Semaphore;

use crate::database::{JOB, job, job_error, json, status};
use crate::guard::Guard;
use crate::state::Shared;

/// How many reads may go on at once, each with a connection; further ones wait.
const MAX_READS: usize = 4;

/// How long a read waits for another program that keeps the database to itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// Of how many damaged entries it is remembered that they were told of.
const MAX_TOLD: usize = 10_000;

/// An entry's columns behind those of its job, and where all of them are.
pub(crate) const REST: &str = "history.status, history.started_ms, history.ended_ms, history.messages, history.outputs, history.meta
    FROM history JOIN jobs ON jobs.seq = history.seq LEFT JOIN senders ON senders.seq = jobs.seq WHERE history.ended = ?1";

/// The way to the history's entries.
#[derive(Debug)]
pub(crate) struct Reader {
    places: Arc<Semaphore>,
    connections: Arc<Connections>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Connections {
    guard: Arc<Guard>,
    /// Those at rest; `None` once closed.
    idle: Mutex<Option<Vec<Connection>>>,
    /// Damaged entries that were told of.
    told: Mutex<HashSet<i64>>,
}

/// What became of an entry.
enum Found {
    Whole(Arc<HistoryEntry>),
    /// It was deleted meanwhile.
    Gone,
    Damaged(String),
}

impl Reader {
    pub(crate) fn new(guard: Arc<Guard>, shared: Arc<Shared>) -> Self {
        let connections = Arc::new(Connections { guard, idle: Mutex::new(Some(Vec::new())), told: Mutex::default() });
        Self { places: Arc::new(Semaphore::new(MAX_READS)), connections, shared }
    }

    /// The entries with these keys, in this order; those deleted meanwhile and those that are damaged are left out.
    pub(crate) async fn entries(&self, keys: Vec<i64>) -> Result<Vec<Arc<HistoryEntry>>> {
        let whole = |found| match found {
            Found::Whole(entry) => Some(entry),
            Found::Gone | Found::Damaged(_) => None,
        };
        Ok(self.find(keys).await?.into_iter().filter_map(whole).collect())
    }

    /// The entry of a prompt that has this key.
    pub(crate) async fn entry(&self, id: &str, key: i64) -> Result<Option<Arc<HistoryEntry>>> {
        match self.find(vec![key]).await?.pop() {
            Some(Found::Whole(entry)) => Ok(Some(entry)),
            Some(Found::Damaged(detail)) => Err(Error::Damaged { id: id.to_owned(), detail }),
            Some(Found::Gone) | None => Ok(None),
        }
    }

    /// What is there under these keys, in this order.
    async fn find(&self, keys: Vec<i64>) -> Result<Vec<Found>> {
        let mut found: Vec<Found> = {
            let mut cache = self.shared.cache.lock();
            keys.iter().map(|key| cache.get(*key).map_or(Found::Gone, Found::Whole)).collect()
        };
        let missing: Vec<usize> = (0..keys.len()).filter(|index| matches!(found[*index], Found::Gone)).collect();
        if !missing.is_empty() {
            let place = self.places.clone().acquire_owned().await.map_err(|closed| Error::Storage(closed.to_string()))?;
            let connections = self.connections.clone();
            let shared = self.shared.clone();
            let wanted: Vec<i64> = missing.iter().map(|index| keys[*index]).collect();
            let read = tokio::task::spawn_blocking(move || {
                let read = connections.read(&wanted, &shared);
                drop(place);
                read
            });
            let read = read.await.map_err(|error| Error::Storage(format!("reading the history was cut short: {error}")))??;
            for (index, entry) in missing.into_iter().zip(read) {
                found[index] = entry;
            }
        }
        Ok(found)
    }

    /// Closes the connections at rest; those in use close when they are done.
    pub(crate) fn close(&self) {
        drop(self.connections.idle.lock().take());
    }
}

impl Connections {
    fn read(&self, keys: &[i64], shared: &Shared) -> Result<Vec<Found>> {
        let idle = self.idle.lock().as_mut().ok_or_else(closed)?.pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let found = self.read_from(&connection, keys, shared)?;
        if let Some(idle) = self.idle.lock().as_mut() {
            idle.push(connection);
        }
        Ok(found)
    }

    fn read_from(&self, connection: &Connection, keys: &[i64], shared: &Shared) -> Result<Vec<Found>> {
        let failed = |error| job_error(&error);
        let mut found = Vec::with_capacity(keys.len());
        // One transaction: SQLite takes its locks once, not for every entry.
        let transaction = connection.unchecked_transaction().map_err(failed)?;
        let mut select = transaction.prepare_cached(&format!("SELECT {JOB}, {REST}")).map_err(failed)?;
        for key in keys {
            if self.idle.lock().is_none() {
                return Err(closed());
            }
            found.push(match select.query_row([key], entry).optional() {
                Ok(Some(entry)) => {
                    let entry = Arc::new(entry);
                    let mut cache = shared.cache.lock();
                    if keys.len() == 1 {
                        cache.insert(*key, entry.clone());
                    } else {
                        cache.insert_if_room(*key, entry.clone());
                    }
                    Found::Whole(entry)
                }
                // The join finds nothing: either the entry was deleted since, or its prompt is missing.
                Ok(None) => Found::Gone,
                Err(error) if concerns_one_row(&error) => {
                    self.tell(*key, shared, &error);
                    Found::Damaged(error.to_string())
                }
                Err(error) => return Err(job_error(&error)),
            });
        }
        Ok(found)
    }

    /// Tells of a damaged entry, once.
    fn tell(&self, key: i64, shared: &Shared, error: &rusqlite::Error) {
        let mut told = self.told.lock();
        if told.len() >= MAX_TOLD {
            told.clear();
        }
        if told.insert(key) {
            let prompt_id = shared.state.lock().history.id(key);
            tracing::error!(%error, prompt_id = prompt_id.as_deref(), "an entry of the history is damaged and is left out: delete it, or mend the job store");
        }
    }

    fn connect(&self) -> Result<Connection> {
        let open = || {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(self.guard.database(), flags)?;
            connection.busy_timeout(PATIENCE)?;
            connection.pragma_update(None, "cache_size", -1024)?;
            Ok(connection)
        };
        let connection = open();
        // Another database may be there by now.
        self.guard.check()?;
        connection.map_err(|error| job_error(&error))
    }
}

fn closed() -> Error {
    Error::Unavailable("the server stops".to_owned())
}

/// Whether other rows may be whole.
fn concerns_one_row(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::Utf8Error(..) => true,
        other => other.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt),
    }
}

/// An entry from the columns of [`JOB`] and [`REST`].
pub(crate) fn entry(row: &Row<'_>) -> rusqlite::Result<HistoryEntry> {
    Ok(HistoryEntry {
        // A history knows no secrets.
        job: Job { secrets: Secrets::default(), ..job(row)? },
        status: status(row, 10)?,
        started_ms: row.get(11)?,
        ended_ms: row.get(12)?,
        messages: json(row, 13)?,
        outputs: json(row, 14)?,
        meta: json(row, 15)?,
    })
}
