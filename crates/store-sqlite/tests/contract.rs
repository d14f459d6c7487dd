//! The contract's test-suite on SQLite.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use comfyd_jobs::contract::cluster::{self, Cluster};
use comfyd_jobs::contract::{self, Harness};
use comfyd_jobs::{JobStore, memory};
use comfyd_store_sqlite::{Durability, Options, SqliteStore};
use parking_lot::Mutex;
use tempfile::TempDir;

struct Sqlite {
    folder: TempDir,
    made: AtomicUsize,
    current: Mutex<PathBuf>,
    cache_bytes: usize,
    durability: Durability,
}

impl Sqlite {
    fn open(&self, limits: memory::Options) -> Arc<dyn JobStore> {
        let options = Options {
            max_pending: limits.max_pending,
            max_pending_bytes: limits.max_pending_bytes,
            max_of_owner: limits.max_of_owner,
            max_history: limits.max_history,
            max_outcome_bytes: limits.max_outcome_bytes,
            cache_bytes: self.cache_bytes,
            durability: self.durability,
        };
        Arc::new(SqliteStore::open(self.current.lock().as_path(), options).unwrap())
    }
}

#[async_trait]
impl Harness for Sqlite {
    async fn fresh(&self, limits: memory::Options) -> Arc<dyn JobStore> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        *self.current.lock() = self.folder.path().join(format!("{number}.db"));
        self.open(limits)
    }

    async fn reopen(&self, store: Arc<dyn JobStore>, limits: memory::Options) -> Arc<dyn JobStore> {
        assert_eq!(Arc::strong_count(&store), 1, "the suite keeps the store");
        drop(store);
        self.open(limits)
    }
}

/// Workers of one process share its store.
struct Shared {
    folder: TempDir,
    made: AtomicUsize,
    current: Mutex<Option<Arc<SqliteStore>>>,
}

#[async_trait]
impl Cluster for Shared {
    async fn fresh(&self) {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let store = SqliteStore::open(self.folder.path().join(format!("{number}.db")), Options::default()).unwrap();
        *self.current.lock() = Some(Arc::new(store));
    }

    async fn join(&self, _name: &str, _limits: memory::Options) -> Arc<dyn JobStore> {
        self.current.lock().clone().unwrap()
    }

    async fn kill(&self, _store: Arc<dyn JobStore>) {}

    fn apart(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_workers() {
    let folder = tempfile::tempdir().unwrap();
    cluster::run(&Shared { folder, made: AtomicUsize::new(0), current: Mutex::default() }).await;
}

async fn run(cache_bytes: usize, durability: Durability) {
    let folder = tempfile::tempdir().unwrap();
    contract::run(&Sqlite { folder, made: AtomicUsize::new(0), current: Mutex::default(), cache_bytes, durability }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_cache() {
    run(1 << 20, Durability::Normal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_disk_only_and_synced() {
    run(0, Durability::Full).await;
}
