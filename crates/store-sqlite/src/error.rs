//! Why a database could not be opened, backed up or restored.

use std::path::PathBuf;

/// Why a database could not be opened, backed up or restored. Nothing is ever deleted or overwritten because of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process, or another store of this one, has the database or the folder.
    #[error("'{}' is in use by {holder}: stop that server, or give this one a place of its own", path.display())]
    InUse {
        /// The database or folder.
        path: PathBuf,
        /// Who has it, as far as known.
        holder: String,
    },
    /// It was written by a later version.
    #[error(
        "the database '{}' has format {found}, and this version knows formats up to {known}: upgrade comfyd, or give it another database",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The last one that is known.
        known: i64,
    },
    /// It is a database, but not comfyd's.
    #[error("'{}' is the database of another program: give comfyd a file of its own", path.display())]
    Foreign {
        /// The database.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error(
        "the database '{}' is damaged ({detail}): restore it from a backup (`comfyd db restore FILE`), or move it away to start with an empty queue and history",
        path.display()
    )]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// There is none.
    #[error("there is no database '{}': check the path, --base-directory and --user-directory", path.display())]
    Missing {
        /// Where it was expected.
        path: PathBuf,
    },
    /// A backup would replace a file.
    #[error("'{}' is there already: choose another name, or replace it with --force", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A backup would replace the database itself, or a file of it.
    #[error("'{}' belongs to the database: write the backup into another file", path.display())]
    Itself {
        /// The file.
        path: PathBuf,
    },
    /// SQLite failed otherwise.
    #[error("cannot use the database '{}': {source}: check the folder's permissions and the free space", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What it said.
        source: rusqlite::Error,
    },
    /// A file or a thread could not be made.
    #[error("cannot use '{}': {source}: check the path, the permissions, and that it is on a local disk", path.display())]
    Io {
        /// The database, or the file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}
