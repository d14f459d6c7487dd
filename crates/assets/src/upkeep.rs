//! Looks after a database of assets: what a check of it tells, backups, and putting one in its place. What only reads goes on beside a server.

use std::path::{Path, PathBuf};

use comfyd_store_sqlite::upkeep::{self, MAX_DAMAGED, failure, identify_as, integrity, open};
use comfyd_store_sqlite::{Error, Lock};
use comfyd_wire::json;
use rusqlite::Connection;
use serde_json::Value;

use crate::asset::{Asset, COLUMNS, TABLES};
use crate::database::{APPLICATION_ID, FORMAT};

/// What [`check`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The format, if it is an earlier version's: assets are not looked at then.
    pub earlier_format: Option<usize>,
    /// Files, and names for content of other files.
    pub assets: usize,
    /// Contents, known by their bytes.
    pub contents: usize,
    /// What is wrong with the file, which the server would set aside; the first hundred things.
    pub structure: Vec<String>,
    /// What is wrong with single assets; the first hundred things.
    pub rows: Vec<String>,
}

impl Report {
    /// Whether nothing is damaged.
    pub fn is_whole(&self) -> bool {
        self.structure.is_empty() && self.rows.is_empty()
    }

    fn complain(&mut self, problem: String) {
        if self.rows.len() < MAX_DAMAGED as usize {
            self.rows.push(problem);
        }
    }
}

/// Whether a file is a database of assets, as far as its beginning tells.
pub fn is_of_assets(path: &Path) -> bool {
    let id = |connection: Connection| connection.pragma_query_value(None, "application_id", |row| row.get::<_, i64>(0)).ok();
    open(path).ok().and_then(id) == Some(APPLICATION_ID)
}

/// Reads everything in a database, as it stands at one moment, and says what is damaged. Changes nothing.
///
/// # Errors
/// [`Error`], when it cannot be told, or is no database of assets.
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

/// Writes a database, as it stands at one moment, into a file: whole, or not at all. Gives what a check of the file says.
///
/// # Errors
/// [`Error`]; [`Error::Exists`] if the file is there and is not to be replaced.
pub fn backup(database: &Path, file: &Path, replace: bool) -> Result<Report, Error> {
    upkeep::backup_with(database, file, replace, &check)
}

/// Puts the copy of a backup in the place of the database that is locked, and gives the name under which that one is kept, if there was one.
///
/// # Errors
/// [`Error`]; the database is as it was then, unless only the last step failed.
pub fn restore(lock: &Lock, file: &Path) -> Result<Option<PathBuf>, Error> {
    upkeep::restore_with(lock, file, &identify)
}

fn identify(connection: &Connection, path: &Path) -> Result<usize, Error> {
    identify_as(connection, path, APPLICATION_ID, FORMAT)
}

fn look(connection: &mut Connection, path: &Path, report: &mut Report) -> Result<(), Error> {
    let failed = |error| failure(path, error);
    let format = identify(connection, path)?;
    let transaction = connection.transaction().map_err(failed)?;
    (report.structure, report.rows) = integrity(&transaction).map_err(failed)?;
    if format == 0 {
        report.structure.push("it is empty: no server has used it".to_owned());
    } else if format != FORMAT {
        report.earlier_format = Some(format);
    } else {
        read_assets(&transaction, report).map_err(failed)?;
    }
    Ok(())
}

/// Reads every asset as the server does.
fn read_assets(connection: &Connection, report: &mut Report) -> rusqlite::Result<()> {
    let count = |sql: &str| connection.query_row(&format!("SELECT count(*) FROM {sql}"), [], |row| row.get::<_, i64>(0));
    let mut keys = connection.prepare("SELECT seq, CAST(id AS TEXT) FROM assets")?;
    let mut one = connection.prepare(&format!("SELECT {COLUMNS} FROM {TABLES} WHERE a.seq = ?"))?;
    let mut rows = keys.query([])?;
    while let Some(row) = rows.next()? {
        report.assets += 1;
        let seq: i64 = row.get(0)?;
        let read = one.query_row([seq], |row| {
            let metadata = [row.get::<_, Option<String>>(10)?, row.get(11)?];
            Asset::read(connection, row).map(|_asset| metadata)
        });
        let problem = match read {
            Ok(metadata) if metadata.iter().flatten().all(|text| is_object(text)) => continue,
            Ok(_) => "its metadata cannot be read".to_owned(),
            Err(rusqlite::Error::QueryReturnedNoRows) => "its content is missing".to_owned(),
            Err(error) => error.to_string(),
        };
        let id = row.get_ref(1)?.as_bytes().map_or_else(|_| format!("of row {seq}"), |id| format!("'{}'", String::from_utf8_lossy(id)));
        report.complain(format!("asset {id}: {problem}"));
    }
    report.contents = usize::try_from(count("contents")?).unwrap_or(0);
    for (what, sql) in [
        ("tags of no asset", "tags WHERE asset NOT IN (SELECT seq FROM assets)"),
        ("metadata of no asset", "meta WHERE asset NOT IN (SELECT seq FROM assets)"),
    ] {
        let many = count(sql)?;
        if many > 0 {
            report.complain(format!("{what}: {many}"));
        }
    }
    Ok(())
}

fn is_object(text: &str) -> bool {
    matches!(json::read(text.as_bytes()), Ok(Value::Object(_)))
}
