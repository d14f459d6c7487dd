//! Reads history entries: from the cache, and what is missing there from disk, on blocking threads with connections of their own that
//! the writer does not hinder. It never writes.

use std::path::PathBuf;
use std::sync::Arc;

use comfyd_jobs::{Error, HistoryEntry, Job, Result, Secrets};
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row};
use tokio::sync::Semaphore;

use crate::database::{json, status, texts};
use crate::state::Shared;

/// How many reads may go on at once, each with a connection; further ones wait.
const MAX_READS: usize = 4;

const SELECT: &str = "SELECT jobs.id, jobs.number, jobs.created_ms, jobs.outputs, jobs.extra_data, jobs.prompt, history.status,
    history.started_ms, history.ended_ms, history.messages, history.outputs, history.meta
    FROM history JOIN jobs ON jobs.seq = history.seq WHERE history.ended = ?1";

/// The way to the history's entries.
#[derive(Debug)]
pub(crate) struct Reader {
    places: Arc<Semaphore>,
    connections: Arc<Connections>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Connections {
    path: PathBuf,
    /// Those at rest; `None` once closed.
    idle: Mutex<Option<Vec<Connection>>>,
}

impl Reader {
    pub(crate) fn new(path: PathBuf, shared: Arc<Shared>) -> Self {
        let connections = Arc::new(Connections { path, idle: Mutex::new(Some(Vec::new())) });
        Self { places: Arc::new(Semaphore::new(MAX_READS)), connections, shared }
    }

    /// The entries with these keys, in this order; those deleted meanwhile are left out.
    pub(crate) async fn entries(&self, keys: Vec<i64>) -> Result<Vec<Arc<HistoryEntry>>> {
        let mut entries: Vec<Option<Arc<HistoryEntry>>> = {
            let mut cache = self.shared.cache.lock();
            keys.iter().map(|key| cache.get(*key)).collect()
        };
        let missing: Vec<usize> = (0..keys.len()).filter(|index| entries[*index].is_none()).collect();
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
            let read = read.await.map_err(|error| Error::Storage(format!("reading the history was cut short: {error}")))?;
            let read = read.map_err(|error| Error::Storage(format!("cannot read the history: {error}")))?;
            for (index, entry) in missing.into_iter().zip(read) {
                entries[index] = entry;
            }
        }
        Ok(entries.into_iter().flatten().collect())
    }

    /// Closes the connections at rest; those in use close when they are done.
    pub(crate) fn close(&self) {
        drop(self.connections.idle.lock().take());
    }
}

impl Connections {
    fn read(&self, keys: &[i64], shared: &Shared) -> rusqlite::Result<Vec<Option<Arc<HistoryEntry>>>> {
        let idle = self.idle.lock().as_mut().and_then(Vec::pop);
        let connection = match idle {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let mut entries = Vec::with_capacity(keys.len());
        {
            // One transaction: SQLite takes its locks once, not for every entry.
            let transaction = connection.unchecked_transaction()?;
            let mut select = transaction.prepare_cached(SELECT)?;
            for key in keys {
                let entry = select.query_row([key], entry).optional()?.map(Arc::new);
                if let Some(entry) = &entry {
                    let mut cache = shared.cache.lock();
                    if keys.len() == 1 {
                        cache.insert(*key, entry.clone());
                    } else {
                        cache.insert_if_room(*key, entry.clone());
                    }
                }
                entries.push(entry);
            }
        }
        if let Some(idle) = self.idle.lock().as_mut() {
            idle.push(connection);
        }
        Ok(entries)
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.pragma_update(None, "cache_size", -1024)?;
        Ok(connection)
    }
}

fn entry(row: &Row<'_>) -> rusqlite::Result<HistoryEntry> {
    let job = Job {
        id: row.get(0)?,
        number: row.get(1)?,
        created_ms: row.get(2)?,
        outputs: texts(row, 3)?,
        extra_data: json(row, 4)?,
        prompt: json(row, 5)?,
        secrets: Secrets::default(),
    };
    Ok(HistoryEntry {
        job,
        status: status(row, 6)?,
        started_ms: row.get(7)?,
        ended_ms: row.get(8)?,
        messages: json(row, 9)?,
        outputs: json(row, 10)?,
        meta: json(row, 11)?,
    })
}
