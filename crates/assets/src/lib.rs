//! Assets: what is known of the files in the folders, and of names that users gave their content. Hashes, tags, metadata, and who may see
//! what, in an SQLite database of its own, and the thread that keeps it like the folders. This crate does not know HTTP, nor who a user is.

mod asset;
mod cursor;
mod database;
mod error;
mod facts;
mod list;
mod meta;
mod order;
mod outputs;
mod place;
mod scan;
mod seeder;
mod store;
mod time;
pub mod upkeep;

use std::sync::Arc;
use std::thread::JoinHandle;

use comfyd_folders::Folders;
use comfyd_store_sqlite::Lock;
use parking_lot::{Condvar, Mutex};

pub use crate::asset::{Asset, MAX_METADATA_BYTES, MAX_NAME, MAX_TAG_BYTES, MAX_TAGS, Sees, Viewer, canonical_hash, tidy_tags};
pub use crate::error::{Error, Result};
pub use crate::facts::mime_of;
pub use crate::list::{Filter, Listed, Page, TagPage};
pub use crate::order::{Order, Sort};
pub use crate::place::{MODELS, Place, destination, shown, subfolder_tag};
pub use crate::scan::Root;
use crate::seeder::Seeder;
pub use crate::seeder::{Progress, ScanEvent, Status, Tell};
pub use crate::store::{Change, Found, Hashed, New, Retagged, Store};
pub use crate::time::iso;

/// How assets are kept.
pub struct Options {
    /// The database, which is locked already.
    pub database: Lock,
    /// Whether scans read all bytes of files, for their hashes.
    pub hashes: bool,
}

/// The assets of a server. Dropping it ends its thread.
pub struct Assets {
    opened: Arc<Opened>,
    seeder: Seeder,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The database, once it is open.
#[derive(Default)]
struct Opened {
    store: Mutex<Option<std::result::Result<Arc<Store>, String>>>,
    changed: Condvar,
}

impl Assets {
    /// Opens the database and scans the folders, on a thread of its own: this returns at once.
    ///
    /// # Errors
    /// Fails where no thread can be started.
    pub fn start(options: Options, folders: Arc<Folders>, tell: Box<Tell>) -> std::io::Result<Self> {
        let Options { database, hashes } = options;
        let (opened, seeder) = (Arc::new(Opened::default()), Seeder::new(hashes, tell));
        // The first one is known before anybody can ask for another.
        seeder.start(&Root::ALL, true);
        let (place, scans) = (Arc::clone(&opened), seeder.clone());
        let work = move || {
            let store = Store::open(database.target(), folders).map(Arc::new);
            if let Err(error) = &store {
                tracing::error!("there are no assets: {error}");
            }
            let own = store.as_ref().ok().cloned();
            *place.store.lock() = Some(store.map_err(|error| error.to_string()));
            place.changed.notify_all();
            match own {
                Some(store) => scans.run(&store),
                None => scans.end(),
            }
            drop(database);
        };
        let thread = std::thread::Builder::new().name("assets".to_owned()).spawn(work)?;
        Ok(Self { opened, seeder, thread: Mutex::new(Some(thread)) })
    }

    /// The database. Waits until it is open.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where it could not be opened.
    pub fn store(&self) -> Result<Arc<Store>> {
        let mut store = self.opened.store.lock();
        loop {
            match &*store {
                Some(Ok(store)) => return Ok(Arc::clone(store)),
                Some(Err(error)) => return Err(Error::Unavailable(error.clone())),
                None => self.opened.changed.wait(&mut store),
            }
        }
    }

    /// Has these roots scanned. The scan's number; `None` while another one runs.
    pub fn seed(&self, roots: &[Root]) -> Option<u64> {
        self.seeder.start(roots, false)
    }

    /// Waits for the end of a scan.
    pub async fn seeded(&self, number: u64) {
        self.seeder.wait(number).await;
    }

    /// What the scan does.
    pub fn status(&self) -> Status {
        self.seeder.status()
    }

    /// Gives up the scan that runs. Whether one did.
    pub fn cancel(&self) -> bool {
        self.seeder.cancel()
    }

    /// Has scans wait while there is something better to do.
    pub fn pause(&self, paused: bool) {
        self.seeder.pause(paused);
    }

    /// Marks what is outside of all folders as missing. How much it was; `None` while a scan runs.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn prune(&self) -> Result<Option<usize>> {
        let store = self.store()?;
        self.seeder.between(|| store.mark_outside()).transpose()
    }

    /// Gives up scans and ends the thread. Blocks until it has ended.
    pub fn close(&self) {
        self.seeder.end();
        if self.thread.lock().take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of assets ended with a panic");
        }
    }
}

impl Drop for Assets {
    fn drop(&mut self) {
        self.close();
    }
}
