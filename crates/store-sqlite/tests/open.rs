//! Opening databases: in use, damaged, of others, of later versions; and what `kill -9` leaves.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use comfyd_jobs::{Claim, HistoryQuery, JobStore as _, NewJob, OnRestart, Position, Secrets, Status, contract};
use comfyd_store_sqlite::{Error, Lock, Options, SqliteStore};
use rusqlite::Connection;

/// Names the database to the child process of [`what_was_answered_survives_kill_9`].
const CHILD: &str = "COMFYD_TEST_CRASHING_STORE";

fn open(path: &Path) -> Result<SqliteStore, Error> {
    SqliteStore::open(path, Options::default())
}

/// Claims the next job, ends it and says which it was.
async fn pass_next(store: &SqliteStore) -> String {
    let claim = store.claim(&contract::worker()).await.unwrap().unwrap();
    store.finish(&claim.token, &contract::outcome(Status::Success)).await.unwrap();
    claim.job.id.clone()
}

/// Fills a database with some prompts of which one waits and closes it.
async fn fill(path: &Path, many: usize) {
    let store = open(path).unwrap();
    for n in 0..many {
        store.enqueue(contract::job(&format!("j{n}"), Position::Back)).await.unwrap();
        pass_next(&store).await;
    }
    store.enqueue(contract::job("waits", Position::Back)).await.unwrap();
}

#[tokio::test]
async fn a_database_is_opened_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new folder/jobs.db");
    let first = open(&path).unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    assert!(error.to_string().contains("stop that server"), "{error}");
    #[cfg(unix)]
    {
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        let link = folder.path().join("link.db");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(open(&link), Err(Error::InUse { .. })), "by way of a link");
    }
    first.enqueue(contract::job("a", Position::Back)).await.unwrap();
    drop(first);
    assert_eq!(open(&path).unwrap().counts().await.unwrap().pending, 1);
}

#[tokio::test]
async fn later_formats_and_other_programs_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let later = folder.path().join("later.db");
    fill(&later, 1).await;
    Connection::open(&later).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let bytes = fs::read(&later).unwrap();
    let error = open(&later).unwrap_err();
    assert!(matches!(error, Error::Newer { found: 99, .. }), "{error}");
    assert_eq!(fs::read(&later).unwrap(), bytes, "untouched");

    let other = folder.path().join("other.db");
    Connection::open(&other).unwrap().execute_batch("CREATE TABLE birds (name TEXT)").unwrap();
    let bytes = fs::read(&other).unwrap();
    let error = open(&other).unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error}");
    assert_eq!(fs::read(&other).unwrap(), bytes, "untouched");
}

/// From the format that counts crashes to the one before.
const FORMAT_4: &str = "DROP TRIGGER forget_crashes; DROP TABLE crashes; PRAGMA user_version = 4;";

/// From there to the format that does not know senders.
const FORMAT_3: &str = "DROP TRIGGER forget_sender; DROP TABLE senders; PRAGMA user_version = 3;";

/// A database of the first format, with keys in a waiting and in a finished prompt, and in one that was deleted.
async fn make_it_old(path: &Path) {
    fill(path, 2).await;
    let old = Connection::open(path).unwrap();
    old.pragma_update(None, "secure_delete", "OFF").unwrap();
    old.execute_batch(&format!("{FORMAT_4}{FORMAT_3}")).unwrap();
    old.execute_batch(
        r#"DROP TABLE damaged;
        ALTER TABLE jobs DROP COLUMN secrets;
        UPDATE jobs SET extra_data = '{"client_id": "me", "api_key_comfy_org": "S3CRET-' || id || '", "x": {"AUTH_token_comfy_org": "S3CRET"}}';
        PRAGMA user_version = 1;"#,
    )
    .unwrap();
    let gone: i64 = old.query_row("SELECT seq FROM jobs WHERE id = 'j0'", [], |row| row.get(0)).unwrap();
    old.execute("DELETE FROM history WHERE seq = ?1", [gone]).unwrap();
    old.execute("DELETE FROM jobs WHERE seq = ?1", [gone]).unwrap();
    drop(old);
    assert!(found_in_files(path, "S3CRET"), "the test's own database");
}

fn found_in_files(path: &Path, what: &str) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    let beside = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap());
    let own = beside.filter(|entry| entry.file_name().to_str().unwrap().starts_with(&name));
    own.map(|entry| fs::read(entry.path()).unwrap()).any(|bytes| bytes.windows(what.len()).any(|window| window == what.as_bytes()))
}

#[tokio::test]
async fn who_sent_prompts_is_found_in_databases_of_earlier_versions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    make_it_old(&path).await;
    let extra = |id: &str, json: &str| change(&path, &format!("UPDATE jobs SET extra_data = '{json}' WHERE id = '{id}'"));
    extra("j1", r#"{"client_id": 5, "extra_pnginfo": {"workflow": {"id": "w", "nodes": []}}}"#);
    let store = open(&path).unwrap();
    let entry = store.history_entry("j1").await.unwrap().unwrap();
    assert_eq!((&*entry.job.owner, entry.job.client_id.as_deref(), entry.job.workflow_id.as_deref()), ("", None, Some("w")));
    assert_eq!(store.delete_history(&["j1".to_owned()]).await.unwrap(), 1);
    let senders = |path| Connection::open(path).unwrap().query_row("SELECT count(*) FROM senders", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(senders(&path), 1, "it goes with its prompt");
    store.enqueue(contract::job("j1", Position::Back)).await.unwrap();
    let waits = store.claim(&contract::worker()).await.unwrap().unwrap().job;
    assert_eq!((&*waits.owner, waits.client_id.as_deref(), waits.workflow_id.as_deref()), ("", Some("me"), None));
    drop(store);
    // A prompt that cannot be read keeps nobody from opening the others.
    change(&path, &format!("{FORMAT_4}{FORMAT_3}"));
    extra("j1", "x");
    change(&path, &unstrict("UPDATE jobs SET number = 'many' WHERE id = 'waits'"));
    let store = open(&path).unwrap();
    for id in ["j1", "waits"] {
        assert_eq!(store.history_entry(id).await.unwrap().unwrap().status, Status::Error);
    }
}

/// Opens a database in which prompts run, ends without warning, and says what ran then, and what failed.
async fn crash(path: &Path) -> (usize, usize) {
    let store = open(path).unwrap();
    let recovered = store.recover(&contract::worker(), OnRestart::Rerun { max_crashes: 2 }).await.unwrap();
    store.claim(&contract::worker()).await.unwrap();
    (recovered.rerun, recovered.failed)
}

#[tokio::test]
async fn crashes_are_counted_in_databases_of_earlier_versions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    fill(&path, 1).await;
    assert_eq!(crash(&path).await, (0, 0));
    // It runs, and its place is damaged in a way that a strict table must not see.
    change(&path, FORMAT_4);
    change(&path, &unstrict("INSERT INTO queue (seq, rank) VALUES (99, 'first')"));
    assert_eq!(crash(&path).await, (1, 0));
    let count = "SELECT count FROM crashes";
    let stored: i64 = Connection::open(&path).unwrap().query_row(count, [], |row| row.get(0)).unwrap();
    assert_eq!(stored, 1);
    // A count that is damaged begins anew.
    change(&path, &unstrict("UPDATE crashes SET count = 'many'"));
    assert_eq!(crash(&path).await, (1, 0));
    assert_eq!(crash(&path).await, (0, 1));
    let left: i64 = Connection::open(&path).unwrap().query_row("SELECT count(*) FROM crashes", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0, "it goes with its place");
    assert_eq!(ids(&open(&path).unwrap()).await, ["j0", "waits"]);
}

#[tokio::test]
async fn what_runs_at_an_orderly_end_has_not_crashed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    fill(&path, 0).await;
    for _ in 0..3 {
        let store = open(&path).unwrap();
        let recovered = store.recover(&contract::worker(), OnRestart::Rerun { max_crashes: 1 }).await.unwrap();
        assert_eq!((recovered.pending, recovered.rerun, recovered.failed), (1, 0, 0));
        store.claim(&contract::worker()).await.unwrap().unwrap();
        // Whoever runs it did not stop in time.
        store.close();
    }
}

#[tokio::test]
async fn secrets_of_earlier_versions_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    make_it_old(&path).await;
    let store = open(&path).unwrap();
    assert!(!found_in_files(&path, "S3CRET"), "while it is open");
    let waits = store.claim(&contract::worker()).await.unwrap().unwrap().job;
    assert_eq!(waits.extra_data.get(), r#"{"client_id":"me","x":{}}"#);
    assert_eq!(waits.secrets.lost_names(), ["api_key_comfy_org"]);
    let entry = store.history_entry("j1").await.unwrap().unwrap();
    assert_eq!(entry.job.extra_data.get(), r#"{"client_id":"me","x":{}}"#);
    drop(store);
    assert!(!found_in_files(&path, "S3CRET"), "once it is closed");
}

#[tokio::test]
async fn secrets_never_reach_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let store = open(&path).unwrap();
    let mut extra_data = serde_json::json!({"auth_token_comfy_org": "S3CRET"});
    let secrets = Secrets::take(&mut extra_data, &["auth_token_comfy_org".to_owned()]).unwrap_or_default();
    store.enqueue(NewJob { secrets, ..contract::job("a", Position::Back) }).await.unwrap();
    let claim = store.claim(&contract::worker()).await.unwrap().unwrap();
    assert_eq!(claim.job.secrets.values()["auth_token_comfy_org"], "S3CRET");
    assert!(!found_in_files(&path, "S3CRET"), "while it runs");
    store.finish(&claim.token, &contract::outcome(Status::Success)).await.unwrap();
    drop(store);
    assert!(!found_in_files(&path, "S3CRET"), "when it has ended");
}

#[tokio::test]
async fn damaged_databases_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.db");
    fs::write(&text, "this is no database at all, ".repeat(100)).unwrap();
    let error = open(&text).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert_eq!(fs::read_to_string(&text).unwrap(), "this is no database at all, ".repeat(100), "untouched");

    let torn = folder.path().join("torn.db");
    fill(&torn, 200).await;
    let mut bytes = fs::read(&torn).unwrap();
    for byte in bytes.iter_mut().skip(8192).step_by(37) {
        *byte ^= 0x5a;
    }
    fs::write(&torn, &bytes).unwrap();
    let error = open(&torn).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("restore it from a backup"), "{error}");
    assert_eq!(fs::read(&torn).unwrap(), bytes, "untouched");
}

/// Opens a database under another program's eyes and changes it.
fn change(path: &Path, sql: &str) {
    Connection::open(path).unwrap().execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Makes a table take values of any kind.
fn unstrict(sql: &str) -> String {
    let loosen = "UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', '') WHERE type = 'table'";
    let tighten = "UPDATE sqlite_schema SET sql = sql || ' STRICT' WHERE name IN ('jobs', 'queue', 'history', 'crashes')";
    // The schema is read again after a change of its version.
    format!(
        "PRAGMA writable_schema = ON; {loosen}; PRAGMA writable_schema = RESET; {sql};
         PRAGMA writable_schema = ON; {tighten}; PRAGMA writable_schema = RESET;"
    )
}

async fn ids(store: &SqliteStore) -> Vec<String> {
    store.history(&HistoryQuery::default()).await.unwrap().entries.iter().map(|entry| entry.job.id.clone()).collect()
}

#[tokio::test]
async fn a_damaged_entry_of_the_history_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let seq = "(SELECT seq FROM jobs WHERE id = 'j1')";
    let damages = [
        format!("UPDATE history SET messages = '[' WHERE seq = {seq}"),
        format!("UPDATE history SET outputs = '' WHERE seq = {seq}"),
        format!("UPDATE history SET meta = CAST(x'22ff22' AS TEXT) WHERE seq = {seq}"),
        format!("UPDATE history SET status = 'odd' WHERE seq = {seq}"),
        "UPDATE jobs SET prompt = '{' WHERE id = 'j1'".to_owned(),
        "UPDATE jobs SET extra_data = 'x' WHERE id = 'j1'".to_owned(),
        "UPDATE jobs SET outputs = '{}' WHERE id = 'j1'".to_owned(),
        unstrict("UPDATE jobs SET number = 'many' WHERE id = 'j1'"),
        unstrict("UPDATE jobs SET prompt = x'00' WHERE id = 'j1'"),
        unstrict(&format!("UPDATE history SET started_ms = 'noon' WHERE seq = {seq}")),
    ];
    for (n, damage) in damages.iter().enumerate() {
        let path = folder.path().join(format!("{n}.db"));
        fill(&path, 3).await;
        change(&path, damage);
        let store = open(&path).unwrap_or_else(|error| panic!("{damage}: {error}"));
        assert_eq!(ids(&store).await, ["j0", "j2"], "{damage}");
        let error = store.history_entry("j1").await.unwrap_err();
        assert!(matches!(&error, comfyd_jobs::Error::Damaged { id, .. } if id == "j1"), "{damage}: {error}");
        assert!(store.history_entry("j2").await.unwrap().is_some(), "{damage}");
        assert_eq!(pass_next(&store).await, "waits", "{damage}");
        assert_eq!(store.delete_history(&["j1".to_owned()]).await.unwrap(), 1, "{damage}");
        store.enqueue(contract::job("j1", Position::Back)).await.unwrap_or_else(|error| panic!("{damage}: {error}"));
    }
    let path = folder.path().join("alone.db");
    fill(&path, 3).await;
    change(&path, "DELETE FROM jobs WHERE id = 'j1'; DELETE FROM state");
    let store = open(&path).unwrap();
    assert_eq!(ids(&store).await, ["j0", "j2"], "without its prompt");
    let ticket = store.enqueue(contract::job("after", Position::Back)).await.unwrap();
    assert_eq!(ticket.number, 4.0, "after the highest that is left");
    drop(store);
    let ticket = open(&path).unwrap().enqueue(contract::job("last", Position::Back)).await.unwrap();
    assert_eq!(ticket.number, 5.0, "the counter is there again");
}

#[tokio::test]
async fn a_damaged_prompt_of_the_queue_fails_and_the_others_run() {
    let folder = tempfile::tempdir().unwrap();
    let seq = "(SELECT seq FROM jobs WHERE id = 'waits')";
    let damages = [
        "UPDATE jobs SET prompt = '{' WHERE id = 'waits'".to_owned(),
        "UPDATE jobs SET extra_data = CAST(x'ff' AS TEXT) WHERE id = 'waits'".to_owned(),
        "UPDATE jobs SET outputs = '' WHERE id = 'waits'".to_owned(),
        unstrict("UPDATE jobs SET number = 'many' WHERE id = 'waits'"),
        unstrict("UPDATE jobs SET created_ms = 'noon' WHERE id = 'waits'"),
        unstrict(&format!("UPDATE queue SET rank = 'first' WHERE seq = {seq}")),
        unstrict(&format!("UPDATE queue SET claim = 'mine', claimed_ms = 1 WHERE seq = {seq}")),
        format!("UPDATE queue SET claim = 1, claimed_ms = 1 WHERE seq = {seq}; UPDATE jobs SET prompt = '{{' WHERE id = 'waits'"),
    ];
    for (n, damage) in damages.iter().enumerate() {
        let path = folder.path().join(format!("{n}.db"));
        fill(&path, 1).await;
        open(&path).unwrap().enqueue(contract::job("whole", Position::Back)).await.unwrap();
        change(&path, damage);
        let store = open(&path).unwrap_or_else(|error| panic!("{damage}: {error}"));
        store.recover(&contract::worker(), OnRestart::Rerun { max_crashes: 0 }).await.unwrap();
        let queue = store.queue().await.unwrap();
        assert_eq!(queue.pending.iter().map(|job| job.id.as_str()).collect::<Vec<_>>(), ["whole"], "{damage}");
        assert_eq!(ids(&store).await, ["j0", "waits"], "{damage}");
        let entry = store.history_entry("waits").await.unwrap().unwrap();
        assert_eq!(entry.status, Status::Error, "{damage}");
        assert!(entry.messages.get().contains("the stored prompt is damaged"), "{damage}: {}", entry.messages.get());
        drop(store);
        let kept: i64 = Connection::open(&path).unwrap().query_row("SELECT count(*) FROM damaged", [], |row| row.get(0)).unwrap();
        assert_eq!(kept, 1, "{damage}");
        assert_eq!(ids(&open(&path).unwrap()).await, ["j0", "waits"], "{damage}: once");
    }
    let path = folder.path().join("alone.db");
    fill(&path, 1).await;
    change(&path, "DELETE FROM jobs WHERE id = 'waits'");
    assert_eq!(open(&path).unwrap().counts().await.unwrap().pending, 0, "a place without a prompt");
}

#[tokio::test]
async fn a_damaged_page_concerns_its_prompt_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let store = open(&path).unwrap();
    for id in ["a", "b", "c"] {
        let graph = format!("\"{}\"", format!("{id}mark").repeat(5_000));
        let prompt = serde_json::value::RawValue::from_string(graph).unwrap().into();
        store.enqueue(comfyd_jobs::NewJob { prompt, ..contract::job(id, Position::Back) }).await.unwrap();
    }
    for _ in 0..2 {
        pass_next(&store).await;
    }
    store.close();
    drop(store);
    // The second page of the text, which names the page after it, then names one that there is not.
    let mut bytes = fs::read(&path).unwrap();
    let page = (0..bytes.len() / 4096).filter(|page| bytes[page * 4096 + 4..][..4092].windows(5).any(|w| w == b"amark")).nth(1).unwrap();
    bytes[page * 4096..][..4].fill(0xee);
    // Bytes behind the end of what is checked at start.
    bytes.extend(vec![0; 65 << 20]);
    fs::write(&path, bytes).unwrap();
    let store = open(&path).unwrap();
    assert_eq!(ids(&store).await, ["b"]);
    assert!(matches!(store.history_entry("a").await, Err(comfyd_jobs::Error::Damaged { .. })));
    assert_eq!(pass_next(&store).await, "c");
}

#[tokio::test]
async fn a_closed_store_is_in_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    for durability in [comfyd_store_sqlite::Durability::Normal, comfyd_store_sqlite::Durability::Full] {
        let store = std::sync::Arc::new(SqliteStore::open(&path, Options { durability, ..Options::default() }).unwrap());
        store.enqueue(contract::job("a", Position::Back)).await.unwrap();
        store.enqueue(contract::job("b", Position::Back)).await.unwrap();
        pass_next(&store).await;
        let waits = tokio::spawn({
            let store = store.clone();
            async move {
                store.claim(&contract::worker()).await.unwrap();
                store.next_job(&contract::worker()).await
            }
        });
        let begun = Instant::now();
        while store.counts().await.unwrap().running < 1 {
            assert!(begun.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Somebody else still holds the store.
        store.close();
        let alone = folder.path().join("copy.db");
        fs::copy(&path, &alone).unwrap();
        assert_eq!(ids(&open(&alone).unwrap()).await, ["a"]);
        assert!(matches!(open(&path), Err(Error::InUse { .. })), "the lock is held until it is dropped");
        assert!(matches!(store.enqueue(contract::job("c", Position::Back)).await, Err(comfyd_jobs::Error::Unavailable(_))));
        assert!(matches!(waits.await.unwrap(), Err(comfyd_jobs::Error::Unavailable(_))), "who waits is told");
        store.close();
        drop(store);
        assert!(!folder.path().join("jobs.db-wal").exists());
        fs::remove_file(&path).unwrap();
        fs::remove_file(&alone).unwrap();
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_that_is_deleted_or_replaced_meanwhile_is_noticed() {
    for (name, replaced) in [("jobs.db", false), ("jobs.db", true), ("jobs.db-wal", false), ("jobs.db.lock", false), ("jobs.db.lock", true)]
    {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jobs.db");
        let store = open(&path).unwrap();
        store.enqueue(contract::job("a", Position::Back)).await.unwrap();
        store.check().unwrap();
        let (file, aside) = (folder.path().join(name), folder.path().join("aside"));
        fs::rename(&file, &aside).unwrap();
        if replaced {
            fs::write(&file, "something else").unwrap();
        }
        for result in [store.check(), store.enqueue(contract::job("b", Position::Back)).await.map(drop)] {
            let told = if replaced { "was replaced" } else { "was deleted" };
            assert!(matches!(&result, Err(comfyd_jobs::Error::Unavailable(why)) if why.contains(told) && why.contains(name)), "{result:?}");
        }
        // What was accepted goes on.
        pass_next(&store).await;
        fs::rename(&aside, &file).unwrap();
        store.check().unwrap();
        store.enqueue(contract::job("b", Position::Back)).await.unwrap();
    }
}

#[cfg(unix)]
#[tokio::test]
async fn what_took_the_place_of_a_database_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let first = SqliteStore::open(&path, Options { cache_bytes: 0, ..Options::default() }).unwrap();
    first.enqueue(contract::job("first", Position::Back)).await.unwrap();
    pass_next(&first).await;
    for name in ["jobs.db", "jobs.db-wal", "jobs.db-shm", "jobs.db.lock"] {
        fs::remove_file(folder.path().join(name)).unwrap();
    }
    let second = open(&path).unwrap();
    second.enqueue(contract::job("second", Position::Back)).await.unwrap();
    assert!(first.history(&HistoryQuery::default()).await.is_err(), "another database must not be read in its place");
    drop(first);
    assert!(folder.path().join("jobs.db-wal").exists(), "the log of the other one must not go");
    second.check().unwrap();
    drop(second);
    assert_eq!(open(&path).unwrap().queue().await.unwrap().pending[0].id, "second");
}

#[test]
fn a_folder_is_locked_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/temp");
    let lock = Lock::folder(&path).unwrap();
    let error = Lock::folder(&path).unwrap_err();
    assert!(matches!(&error, Error::InUse { .. }), "{error}");
    drop(lock);
    Lock::folder(&path).unwrap();
}

/// What the child process does: enqueues, and prints each id once it is answered; claims and finishes some.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child process of what_was_answered_survives_kill_9"]
async fn crashing_child() {
    let path = std::env::var_os(CHILD).expect("run by what_was_answered_survives_kill_9 only");
    let store = std::sync::Arc::new(open(Path::new(&path)).unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            for n in 0.. {
                let id = format!("t{task}-{n}");
                let ticket = store.enqueue(contract::job(&id, Position::Back)).await.unwrap();
                println!("queued {} {id}", ticket.number);
                if task == 0 {
                    let Claim { job, token } = store.claim(&contract::worker()).await.unwrap().unwrap();
                    println!("claimed {} {}", job.number, job.id);
                    if n % 3 != 0 {
                        store.finish(&token, &contract::outcome(Status::Success)).await.unwrap();
                        println!("finished {} {}", job.number, job.id);
                    }
                }
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test]
async fn what_was_answered_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crashing_child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD, &path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).split(b'\n');
    let mut answered: Vec<String> = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    while answered.len() < 1500 && Instant::now() < deadline {
        answered.push(String::from_utf8(lines.next().unwrap().unwrap()).unwrap());
    }
    assert!(matches!(open(&path), Err(Error::InUse { .. })), "the child has it open");
    child.kill().unwrap();
    child.wait().unwrap();
    // Whole lines that were on their way when it was killed; the last may be cut off.
    answered.extend(lines.map_while(Result::ok).filter_map(|line| String::from_utf8(line).ok()));
    answered.pop();

    let store = open(&path).unwrap();
    let queue = store.queue().await.unwrap();
    let running: Vec<String> = queue.running.iter().map(|job| job.id.clone()).collect();
    let finished: Vec<String> =
        store.history(&HistoryQuery::default()).await.unwrap().entries.iter().map(|entry| entry.job.id.clone()).collect();
    let known = |id: &str| {
        queue.pending.iter().any(|job| job.id == id) || running.iter().any(|known| known == id) || finished.iter().any(|known| known == id)
    };
    let mut seen = [0; 3];
    let mut highest: f64 = -1.0;
    for line in &answered {
        let words: Vec<&str> = line.split(' ').collect();
        let ["queued" | "claimed" | "finished", number, id] = words[..] else { continue };
        highest = highest.max(number.parse().unwrap());
        match words[0] {
            "queued" => {
                seen[0] += 1;
                assert!(known(id), "'{id}' was answered and is lost");
            }
            "claimed" => {
                seen[1] += 1;
                assert!(running.iter().chain(&finished).any(|known| known == id), "the claim of '{id}' is lost");
            }
            _finished => {
                seen[2] += 1;
                assert!(finished.iter().any(|known| known == id), "the end of '{id}' is lost");
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "the child did too little: {seen:?}");
    let recovered = store.recover(&contract::worker(), OnRestart::Rerun { max_crashes: 0 }).await.unwrap();
    assert_eq!(recovered.rerun, running.len());
    assert_eq!(pass_next(&store).await, running[0], "what ran runs first");
    let ticket = store.enqueue(contract::job("after", Position::Back)).await.unwrap();
    assert!(ticket.number > highest, "number {} after {highest}", ticket.number);
}
