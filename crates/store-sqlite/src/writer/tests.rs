//! The writer without its thread.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use comfyd_jobs::{Claim, Outcome, Position, Status, contract};
use tokio::sync::oneshot;

use super::*;

struct Bench {
    folder: tempfile::TempDir,
    _sender: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    writer: Writer,
}

fn bench(options: Options) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let (connection, loaded) = crate::database::open(&folder.path().join("jobs.db"), &options).unwrap();
    let shared = Arc::new(Shared::new(loaded.state.clone(), 1 << 20));
    let (sender, _) = mpsc::channel(1);
    let writer = Writer::new(connection, loaded, options, shared.clone(), sender.downgrade());
    Bench { folder, _sender: sender, shared, writer }
}

/// Does the operations as one group.
fn group(writer: &mut Writer, operations: Vec<Operation>) -> Vec<JobResult<Answer>> {
    let (group, receivers): (Vec<Waiting>, Vec<_>) = operations
        .into_iter()
        .map(|operation| {
            let (reply, receiver) = oneshot::channel();
            (Waiting { operation, reply: Some(reply) }, receiver)
        })
        .unzip();
    // Whether it succeeded is in the answers.
    let _ = writer.commit(group);
    receivers.into_iter().map(|mut receiver| receiver.try_recv().unwrap()).collect()
}

fn enqueue(id: &str) -> Operation {
    Operation::Enqueue(Box::new(contract::job(id, Position::Back)))
}

fn enqueue_large(id: &str, bytes: usize) -> Operation {
    let prompt = serde_json::value::RawValue::from_string(format!("\"{}\"", "x".repeat(bytes))).unwrap();
    Operation::Enqueue(Box::new(NewJob { prompt: prompt.into(), ..contract::job(id, Position::Back) }))
}

fn claim() -> Operation {
    Operation::Claim(contract::worker())
}

/// The job that an answer to a claim, or to the end of another job, brought.
fn kept(answer: JobResult<Answer>) -> Claim {
    match answer {
        Ok(Answer::Claimed(Some(claimed))) => claimed.keep(),
        other => panic!("{other:?}"),
    }
}

fn end(claim: &Claim, outcome: &Outcome) -> (Token, Arc<HistoryEntry>) {
    (claim.token.clone(), Arc::new(HistoryEntry::new(claim.job.as_ref().clone(), outcome, usize::MAX).unwrap()))
}

fn finish(claim: &Claim) -> Operation {
    let (token, entry) = end(claim, &contract::outcome(Status::Success));
    Operation::Finish(token, entry)
}

fn hand_over(claim: &Claim, outcome: &Outcome) -> Operation {
    let (token, entry) = end(claim, outcome);
    Operation::HandOver(token, entry)
}

fn rows(writer: &Writer, table: &str) -> i64 {
    writer.connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

#[test]
fn one_that_fails_does_not_fail_its_group_and_leaves_nothing() {
    let Bench { mut writer, shared, .. } = bench(Options::default());
    assert!(group(&mut writer, vec![enqueue("before")])[0].is_ok());
    let pages: i64 = writer.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    writer.connection.query_row(&format!("PRAGMA max_page_count = {}", pages + 20), [], |_| Ok(())).unwrap();

    let answers = group(&mut writer, vec![claim(), enqueue("a"), enqueue_large("large", 1 << 20), enqueue("b")]);
    assert!(matches!(&answers[0], Ok(Answer::Claimed(Some(claimed))) if claimed.claim.as_ref().unwrap().job.id == "before"));
    assert!(matches!(&answers[1], Ok(Answer::Ticket(ticket)) if ticket.number == 1.0), "{:?}", answers[1]);
    assert!(matches!(&answers[2], Err(JobError::NoSpace)), "{:?}", answers[2]);
    assert!(matches!(&answers[3], Ok(Answer::Ticket(ticket)) if ticket.number == 2.0), "{:?}", answers[3]);
    let counts = shared.state.lock().line.counts();
    assert_eq!((counts.pending, counts.running), (2, 1));
    assert_eq!((rows(&writer, "jobs"), rows(&writer, "queue")), (3, 3));
    assert!(shared.abandoned.lock().is_empty(), "the claim of the transaction that was rolled back must not put the job back");

    writer.connection.query_row("PRAGMA max_page_count = 1000000", [], |_| Ok(())).unwrap();
    assert!(group(&mut writer, vec![enqueue_large("large", 1 << 20)])[0].is_ok(), "the id is still free");
    drop(answers);
    assert_eq!(shared.abandoned.lock()[0].prompt_id, "before", "nobody took the job");
    let back = writer.abandoned();
    writer.commit(back).unwrap();
    assert_eq!(shared.state.lock().line.counts().running, 0);
}

fn waiter(writer: &mut Writer) -> oneshot::Receiver<JobResult<Answer>> {
    let (reply, receiver) = oneshot::channel();
    writer.waiters.push_back((contract::worker(), reply));
    receiver
}

fn served(receiver: &mut oneshot::Receiver<JobResult<Answer>>) -> Option<Claim> {
    receiver.try_recv().ok().map(kept)
}

fn served_id(receiver: &mut oneshot::Receiver<JobResult<Answer>>) -> Option<String> {
    served(receiver).map(|claim| claim.job.id.clone())
}

#[test]
fn who_waits_for_a_job_is_served_in_the_commit_that_brings_it() {
    let Bench { mut writer, shared, .. } = bench(Options::default());
    let (mut first, gone, mut second) = (waiter(&mut writer), waiter(&mut writer), waiter(&mut writer));
    drop(gone);
    let before = shared.versions.borrow().queue;
    assert!(group(&mut writer, vec![enqueue("a"), enqueue("b"), enqueue("c")]).iter().all(Result::is_ok));
    assert_eq!(shared.versions.borrow().queue, before + 1, "one commit");
    assert_eq!((served_id(&mut first).as_deref(), served_id(&mut second).as_deref()), (Some("a"), Some("b")));
    let claimed = |writer: &Writer| -> i64 {
        writer.connection.query_row("SELECT count(*) FROM queue WHERE claim IS NOT NULL", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(claimed(&writer), 2);

    // A job that waits already needs no other operation.
    let mut third = waiter(&mut writer);
    writer.serve();
    assert_eq!(served_id(&mut third).as_deref(), Some("c"));

    // A transaction that fails serves nobody; the next one does.
    let mut fourth = waiter(&mut writer);
    writer.connection.execute_batch("ALTER TABLE state RENAME TO hidden").unwrap();
    assert!(matches!(group(&mut writer, vec![enqueue("d")])[0], Err(JobError::Storage(_))));
    assert!(served(&mut fourth).is_none());
    writer.connection.execute_batch("ALTER TABLE hidden RENAME TO state").unwrap();
    assert!(group(&mut writer, vec![enqueue("d")])[0].is_ok());
    assert_eq!(served_id(&mut fourth).as_deref(), Some("d"));
    assert_eq!((claimed(&writer), shared.state.lock().line.counts().running), (4, 4));
}

#[test]
fn the_end_of_a_job_and_the_next_claim_are_one_commit() {
    let Bench { mut writer, shared, .. } = bench(Options::default());
    let mut first = waiter(&mut writer);
    group(&mut writer, vec![enqueue("a"), enqueue("b")]);
    let first = served(&mut first).unwrap();
    assert_eq!(first.job.id, "a");
    let before = *shared.versions.borrow();
    let operation = hand_over(&first, &contract::outcome(Status::Success));
    writer.connection.execute_batch("ALTER TABLE history RENAME TO hidden").unwrap();
    assert!(matches!(group(&mut writer, vec![operation.clone()])[0], Err(JobError::Storage(_))));
    assert_eq!(shared.state.lock().line.counts().running_ids, ["a"], "neither is done");
    writer.connection.execute_batch("ALTER TABLE hidden RENAME TO history").unwrap();
    assert_eq!(kept(group(&mut writer, vec![operation]).remove(0)).job.id, "b");
    let after = *shared.versions.borrow();
    assert_eq!((after.queue, after.history), (before.queue + 1, before.history + 1), "both are done at once");
}

#[test]
fn readers_see_nothing_of_a_failed_transaction() {
    let Bench { mut writer, shared, .. } = bench(Options::default());
    let claimed = kept(group(&mut writer, vec![enqueue("a"), claim()]).remove(1));
    let before = *shared.versions.borrow();
    writer.connection.execute_batch("ALTER TABLE history RENAME TO hidden").unwrap();
    let finish = finish(&claimed);
    let answers = group(&mut writer, vec![finish.clone()]);
    assert!(matches!(&answers[0], Err(JobError::Storage(_))), "{:?}", answers[0]);
    assert_eq!(*shared.versions.borrow(), before);
    assert_eq!(shared.state.lock().line.counts().running, 1);
    writer.connection.execute_batch("ALTER TABLE hidden RENAME TO history").unwrap();
    assert!(group(&mut writer, vec![finish])[0].is_ok(), "the job can be finished later");
}

#[test]
fn deleted_entries_leave_the_disk_in_slices_and_give_back_their_space() {
    let Bench { mut writer, .. } = bench(Options { max_history: 150, ..Options::default() });
    for n in 0..200 {
        let id = format!("j{n}");
        let claimed = kept(group(&mut writer, vec![enqueue_large(&id, 100_000), claim()]).remove(1));
        assert!(group(&mut writer, vec![finish(&claimed)])[0].is_ok());
    }
    assert_eq!(rows(&writer, "history"), 150, "the oldest go with the transaction that drops them");
    let pages = |writer: &Writer| writer.connection.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0)).unwrap();
    let large = pages(&writer);

    assert!(matches!(group(&mut writer, vec![Operation::ClearHistory])[0], Ok(Answer::Count(150))));
    assert!(rows(&writer, "history") > 0, "clearing does not wait for the disk");
    assert!(group(&mut writer, vec![enqueue("j199")])[0].is_ok(), "the id is free though its old row is not purged");
    let mut slices = 0;
    while writer.maintain() {
        slices += 1;
    }
    assert!(slices > 3, "in slices, not at once: {slices}");
    assert_eq!((rows(&writer, "history"), rows(&writer, "jobs"), rows(&writer, "queue")), (0, 1, 1));
    assert!(pages(&writer) < large / 2, "{} of {large} pages are left", pages(&writer));
}

#[test]
fn a_full_disk_holds_up_only_what_needs_space_and_only_while_it_is_full() {
    let Bench { mut writer, shared, .. } = bench(Options::default());
    let mut first = waiter(&mut writer);
    assert!(group(&mut writer, vec![enqueue("a"), enqueue("b")]).iter().all(Result::is_ok));
    let first = served(&mut first).unwrap();
    let max_pages = |writer: &Writer, pages: i64| {
        writer.connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
    };
    // A bound below what there is counts as what there is.
    max_pages(&writer, 1);
    let mut large = contract::outcome(Status::Success);
    large.outputs = serde_json::json!({"1": {"text": ["x".repeat(1 << 20)]}});
    let finish = hand_over(&first, &large);
    for _ in 0..3 {
        assert!(matches!(group(&mut writer, vec![finish.clone()])[0], Err(JobError::NoSpace)));
    }
    assert_eq!(shared.state.lock().line.counts().running_ids, ["a"]);
    let mut second = waiter(&mut writer);
    writer.serve();
    assert_eq!(served_id(&mut second).as_deref(), Some("b"), "a claim needs none");
    max_pages(&writer, 1_000_000);
    assert!(group(&mut writer, vec![finish])[0].is_ok(), "at once");
}

#[test]
fn callers_are_told_what_is_wrong_with_the_disk() {
    let told = |code| job_error(&rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None));
    assert!(matches!(told(rusqlite::ffi::SQLITE_TOOBIG), JobError::Unstorable(_)), "no row can hold it");
    assert!(matches!(told(rusqlite::ffi::SQLITE_FULL), JobError::NoSpace));
    assert!(matches!(told(rusqlite::ffi::SQLITE_IOERR_SHMSIZE), JobError::NoSpace), "the index of the log found no space");
    assert!(matches!(told(rusqlite::ffi::SQLITE_IOERR_WRITE), JobError::Storage(_)));
    assert!(matches!(told(rusqlite::ffi::SQLITE_BUSY), JobError::Unavailable(_)));
}

#[test]
fn another_program_that_writes_is_not_waited_for_unless_asked_to() {
    let Bench { folder, mut writer, shared, .. } = bench(Options::default());
    group(&mut writer, vec![enqueue("a"), enqueue("b")]);
    let other = Connection::open(folder.path().join("jobs.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (reply, mut receiver) = oneshot::channel();
    let command = Command::Write { operation: enqueue("c"), reply };
    assert!(!writer.is_free_for(&command));
    assert!(receiver.try_recv().is_err(), "it is not refused: somebody else may wait");

    let token = Token { prompt_id: "a".to_owned(), worker: contract::worker(), claim: 0 };
    shared.abandoned.lock().push(token.clone());
    let started = std::time::Instant::now();
    let answers = group(&mut writer, (0..200).map(|n| enqueue(&format!("j{n}"))).collect());
    assert!(answers.iter().all(|answer| matches!(answer, Err(JobError::Unavailable(why)) if why.contains("another program"))));
    let mut waiting = waiter(&mut writer);
    writer.work(command, &mut || None);
    assert!(matches!(receiver.try_recv().unwrap(), Err(JobError::Unavailable(_))));
    assert!(matches!(waiting.try_recv().unwrap(), Err(JobError::Unavailable(_))));
    assert_eq!(*shared.abandoned.lock(), [token], "what is to be put back is not forgotten");
    assert!(!writer.maintain(), "cleaning up can wait");
    assert!(started.elapsed() < PATIENCE, "nobody waited");

    other.execute_batch("COMMIT").unwrap();
    shared.abandoned.lock().clear();
    let (reply, mut receiver) = oneshot::channel();
    let command = Command::Write { operation: enqueue("c"), reply };
    assert!(writer.is_free_for(&command));
    writer.work(command, &mut || None);
    assert!(receiver.try_recv().unwrap().is_ok());
    // What turns out to need no transaction leaves none behind.
    let (reply, _) = oneshot::channel();
    assert!(writer.is_free_for(&Command::Next { worker: contract::worker(), reply }));
    writer.work(Command::Wake, &mut || None);
    assert!(writer.connection.is_autocommit());
}

#[test]
fn an_id_that_only_the_disk_knows_is_free() {
    let Bench { mut writer, shared, .. } = bench(Options::default());
    group(&mut writer, vec![enqueue("a")]);
    while writer.maintain() {}
    writer.state.line.clear();
    shared.state.lock().line.clear();
    let answers = group(&mut writer, vec![enqueue("a")]);
    assert!(answers[0].is_ok(), "{:?}", answers[0]);
    assert_eq!(rows(&writer, "jobs"), 1);
}

#[test]
fn the_write_ahead_log_is_begun_anew_once_nobody_reads_in_it() {
    let Bench { folder, mut writer, .. } = bench(Options::default());
    while writer.maintain() {}
    let other = Connection::open(folder.path().join("jobs.db")).unwrap();
    let read = || other.query_row("SELECT count(*) FROM jobs", [], |row| row.get::<_, i64>(0)).unwrap();
    other.execute_batch("BEGIN").unwrap();
    read();
    let size = || std::fs::metadata(folder.path().join("jobs.db-wal")).unwrap().len();
    for n in 0..5 {
        group(&mut writer, vec![enqueue_large(&n.to_string(), 16 << 20)]);
        writer.log_pages = CHECKPOINT_PAGES;
        assert!(writer.maintain());
    }
    assert!(size() > 70 << 20, "somebody reads in it");
    // Whoever reads now begins before the other has ended: there is always somebody.
    let next = Connection::open(folder.path().join("jobs.db")).unwrap();
    next.execute_batch("BEGIN").unwrap();
    next.query_row("SELECT count(*) FROM jobs", [], |row| row.get::<_, i64>(0)).unwrap();
    other.execute_batch("COMMIT").unwrap();
    writer.log_pages = CHECKPOINT_PAGES;
    assert!(writer.maintain());
    next.execute_batch("COMMIT").unwrap();
    next.execute_batch("BEGIN").unwrap();
    assert_eq!(next.query_row("SELECT count(*) FROM jobs", [], |row| row.get::<_, i64>(0)).unwrap(), 5);
    group(&mut writer, vec![enqueue("small")]);
    assert!(size() <= 65 << 20, "{}", size());
}
