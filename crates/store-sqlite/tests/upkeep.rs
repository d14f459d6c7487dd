//! Checking, backing up and restoring databases.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use comfyd_jobs::{HistoryQuery, JobStore as _, OnRestart, Position, Recovered, Status, contract};
use comfyd_store_sqlite::{Error, Lock, Options, Report, SqliteStore, backup, check, restore};
use rusqlite::Connection;

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, Options::default()).unwrap()
}

/// Two ended prompts, one that runs and one that waits.
async fn fill(store: &SqliteStore) {
    for id in ["a", "b", "runs", "waits"] {
        store.enqueue(contract::job(id, Position::Back)).await.unwrap();
    }
    for _ in 0..2 {
        let claim = store.claim(&contract::worker()).await.unwrap().unwrap();
        store.finish(&claim.token, &contract::outcome(Status::Success)).await.unwrap();
    }
    store.claim(&contract::worker()).await.unwrap().unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn change(path: &Path, sql: &str) {
    Connection::open(path).unwrap().execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Flips bytes in the middle of the file.
fn tear(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    for byte in bytes.iter_mut().skip(8192).step_by(37) {
        *byte ^= 0x5a;
    }
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn what_is_damaged_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let store = open(&path);
    fill(&store).await;
    let whole = Report { queued: 2, ended: 2, ..Report::default() };
    assert_eq!(check(&path).unwrap(), whole, "while it is open");
    drop(store);
    assert_eq!(check(&path).unwrap(), whole, "when it is closed");
    for (damage, named) in [
        ("UPDATE jobs SET prompt = '{' WHERE id = 'waits'", "prompt 'waits' of the queue: "),
        ("UPDATE history SET outputs = '' WHERE ended = 1", "prompt 'a' of the history: "),
        ("DELETE FROM jobs WHERE id = 'b'", "of the history: it is missing"),
        ("INSERT INTO senders (seq, owner) VALUES (99, '')", "senders of no prompt: 1"),
        ("DELETE FROM queue WHERE claim IS NULL", "prompts in neither the queue nor the history: 1"),
    ] {
        let copy = folder.path().join("copy.db");
        fs::copy(&path, &copy).unwrap();
        change(&copy, damage);
        let bytes = fs::read(&copy).unwrap();
        let report = check(&copy).unwrap();
        assert!(!report.is_whole() && report.structure.is_empty(), "{damage}");
        assert!(report.prompts.len() == 1 && report.prompts[0].contains(named), "{damage}: {:?}", report.prompts);
        assert_eq!(fs::read(&copy).unwrap(), bytes, "{damage}: untouched");
    }
    let torn = folder.path().join("torn.db");
    fs::copy(&path, &torn).unwrap();
    tear(&torn);
    assert!(!check(&torn).unwrap().structure.is_empty());
    for (name, text) in [("text.db", "no database at all, ".repeat(100)), ("empty.db", String::new())] {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        assert!(!check(&file).unwrap().structure.is_empty(), "{name}");
    }
    let other = folder.path().join("other.db");
    change(&other, "CREATE TABLE birds (name TEXT)");
    assert!(matches!(check(&other), Err(Error::Foreign { .. })));
    assert!(matches!(check(&folder.path().join("none.db")), Err(Error::Missing { .. })));
    assert!(matches!(check(folder.path()), Err(Error::Missing { .. })), "a folder is none");
    change(&path, "DROP TRIGGER forget_crashes; DROP TABLE crashes; PRAGMA user_version = 4;");
    assert_eq!(check(&path).unwrap(), Report { earlier_format: Some(4), ..Report::default() });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_one_moment_of_a_store_at_work() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let store = Arc::new(SqliteStore::open(&path, Options { max_pending: usize::MAX, ..Options::default() }).unwrap());
    fill(&store).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writes = tokio::spawn({
        let (store, stop) = (store.clone(), stop.clone());
        async move {
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) {
                store.enqueue(contract::job(&format!("n{written}"), Position::Back)).await.unwrap();
                written += 1;
            }
            written
        }
    });
    let backups = folder.path().join("backups");
    fs::create_dir(&backups).unwrap();
    let file = backups.join("jobs.db");
    let mut queued = 0;
    for _ in 0..10 {
        let (path, file) = (path.clone(), file.clone());
        let report = tokio::task::spawn_blocking(move || backup(&path, &file, true).unwrap()).await.unwrap();
        assert!(report.is_whole(), "{report:?}");
        assert!(report.queued >= queued, "what was accepted before is in it");
        queued = store.counts().await.unwrap().pending;
    }
    stop.store(true, Ordering::Relaxed);
    assert!(writes.await.unwrap() > 0);
    assert!(matches!(backup(&path, &file, false), Err(Error::Exists { .. })));
    assert_eq!(names(&backups), ["jobs.db"], "one file, and nothing half");
    // What ran waits in it: no crash is counted where it is used.
    let copy = open(&file);
    let recovered = copy.recover(&contract::worker(), OnRestart::Rerun { max_crashes: 1 }).await.unwrap();
    assert_eq!((recovered.rerun, recovered.failed), (0, 0));
    assert_eq!(copy.queue().await.unwrap().pending[0].id, "runs");
    assert_eq!(store.counts().await.unwrap().running, 1, "the store itself is as it was");
}

#[tokio::test]
async fn a_backup_never_takes_the_place_of_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let store = open(&path);
    fill(&store).await;
    for ending in ["", "-wal", "-shm", ".lock"] {
        let mut file = path.clone().into_os_string();
        file.push(ending);
        assert!(matches!(backup(&path, &PathBuf::from(file), true), Err(Error::Itself { .. })), "{ending}");
    }
    store.check().unwrap();
    assert!(matches!(backup(&path, &folder.path().join("no/such/folder"), false), Err(Error::Sqlite { .. })));
    assert!(matches!(backup(&folder.path().join("none.db"), &folder.path().join("b"), false), Err(Error::Missing { .. })));
    assert_eq!(names(folder.path()), ["jobs.db", "jobs.db-shm", "jobs.db-wal", "jobs.db.lock"], "nothing half is left");
}

#[tokio::test]
async fn a_backup_takes_the_place_of_the_database_which_is_kept() {
    for damaged in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (path, file) = (folder.path().join("jobs.db"), folder.path().join("backup.db"));
        let store = open(&path);
        fill(&store).await;
        backup(&path, &file, false).unwrap();
        store.enqueue(contract::job("later", Position::Back)).await.unwrap();
        assert!(matches!(Lock::database(&path), Err(Error::InUse { .. })), "a server has it");
        drop(store);
        if damaged {
            // A log that nobody can read with it.
            tear(&path);
            fs::copy(&file, folder.path().join("jobs.db-wal")).unwrap();
        }
        let lock = Lock::database(&path).unwrap();
        let kept = restore(&lock, &file).unwrap().unwrap();
        let store = SqliteStore::open_locked(lock, Options::default()).unwrap();
        let recovered = store.recover(&contract::worker(), OnRestart::Rerun { max_crashes: 1 }).await.unwrap();
        assert_eq!(recovered, Recovered { pending: 2, rerun: 0, failed: 0 });
        let ended = store.history(&HistoryQuery::default()).await.unwrap().entries.len();
        assert_eq!((ended, store.counts().await.unwrap().pending), (2, 2));
        drop(store);
        assert_eq!(check(&file).unwrap(), check(&path).unwrap(), "the backup is still there");
        if damaged {
            assert!(!check(&kept).unwrap().structure.is_empty());
        } else {
            let kept = open(&kept);
            let counts = kept.counts().await.unwrap();
            assert_eq!((counts.running, counts.pending, counts.running_ids), (1, 2, vec!["runs".to_owned()]));
        }
    }
    // Where there was none; and what cannot be read changes nothing.
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = (folder.path().join("new/jobs.db"), folder.path().join("backup.db"));
    fill(&open(&file)).await;
    let lock = Lock::database(&path).unwrap();
    let text = folder.path().join("text.db");
    fs::write(&text, "no database at all, ".repeat(100)).unwrap();
    assert!(matches!(restore(&lock, &text), Err(Error::Corrupt { .. })));
    assert_eq!(names(path.parent().unwrap()), ["jobs.db.lock"]);
    assert_eq!(restore(&lock, &file).unwrap(), None);
    assert_eq!(check(&path).unwrap().ended, 2);
}
