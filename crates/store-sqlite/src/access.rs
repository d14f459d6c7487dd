//! Who may use the writer: its thread, which takes what waits in a queue, or a caller whose change is small while nothing waits. For
//! handing a change of 50 microseconds to a thread and waiting for its answer costs about as much as the change itself. Knows nothing of
//! what is written.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use crate::command::Command;
use crate::writer::Writer;

/// The writer, and who waits for it.
#[derive(Debug)]
pub(crate) struct WriteAccess {
    /// `None` once it is closed.
    writer: Mutex<Option<Writer>>,
    /// Commands in the queue, or taken from it and not done yet. While there are any, nobody goes before them.
    waiting: AtomicUsize,
    /// Whether callers may write themselves: not where each commit waits for the disk.
    open: bool,
    /// The thread is to end once what waits is done.
    closing: AtomicBool,
    /// What runs then goes back into the queue.
    orderly: AtomicBool,
}

impl WriteAccess {
    pub(crate) fn new(writer: Writer, open: bool) -> Self {
        Self {
            writer: Mutex::new(Some(writer)),
            waiting: AtomicUsize::new(0),
            open,
            closing: AtomicBool::new(false),
            orderly: AtomicBool::new(false),
        }
    }

    /// Does a command on the caller's thread, if that is quick; gives it back otherwise, also where another program has the database:
    /// callers may be threads that must not wait.
    pub(crate) fn do_now(&self, command: Command, queue: &mpsc::Sender<Command>) -> Result<(), Command> {
        if !self.open || !command.is_small() {
            return Err(command);
        }
        let Some(mut place) = self.writer.try_lock() else { return Err(command) };
        let Some(writer) = place.as_mut() else { return Err(command) };
        if self.waiting.load(Ordering::Acquire) > 0 || !writer.is_free_for(&command) {
            return Err(command);
        }
        writer.work(command, &mut || None);
        let more = writer.needs_maintenance();
        drop(place);
        if more {
            // A full queue needs no waking: the thread is about to look.
            let _ = queue.try_send(Command::Wake);
        }
        Ok(())
    }

    /// Puts a command into the queue. False if the thread has ended.
    pub(crate) async fn queue(&self, command: Command, queue: &mpsc::Sender<Command>) -> bool {
        let Ok(place) = queue.reserve().await else { return false };
        // Nothing is awaited between the two, so that none is counted that does not come.
        self.waiting.fetch_add(1, Ordering::AcqRel);
        place.send(command);
        true
    }

    /// Has the thread end, and the database closed, once what waits is done. What runs goes back into the queue if the end is orderly.
    pub(crate) fn close(&self, queue: &mpsc::Sender<Command>, orderly: bool) {
        self.orderly.store(orderly, Ordering::Release);
        self.closing.store(true, Ordering::Release);
        // A full queue needs no waking.
        let _ = queue.try_send(Command::Wake);
    }

    /// The thread's work, until it is told to close or all senders are gone. Gives the writer back.
    pub(crate) fn run(&self, mut commands: mpsc::Receiver<Command>) -> Option<Writer> {
        loop {
            if self.closing.load(Ordering::Acquire) {
                commands.close();
            }
            let first = match commands.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) if self.writer.lock().as_mut().is_some_and(Writer::maintain) => continue,
                Err(TryRecvError::Empty) => match commands.blocking_recv() {
                    Some(command) => command,
                    None => break,
                },
            };
            let mut place = self.writer.lock();
            let Some(writer) = place.as_mut() else { break };
            let done = writer.work_patiently(first, &mut || commands.try_recv().ok());
            self.waiting.fetch_sub(done, Ordering::AcqRel);
        }
        let mut writer = self.writer.lock().take()?;
        if self.orderly.load(Ordering::Acquire) {
            writer.put_back_all();
        }
        Some(writer)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::sync::Arc;

    use comfyd_jobs::{NewJob, Position, contract};
    use serde_json::value::RawValue;
    use tokio::sync::oneshot;

    use super::*;
    use crate::Options;
    use crate::command::{Answer, Operation, Reply};
    use crate::state::Shared;

    type Answered = oneshot::Receiver<comfyd_jobs::Result<Answer>>;

    struct Bench {
        folder: tempfile::TempDir,
        access: WriteAccess,
        sender: mpsc::Sender<Command>,
        receiver: mpsc::Receiver<Command>,
    }

    fn bench(open: bool) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let options = Options::default();
        let (connection, loaded) = crate::database::open(&folder.path().join("jobs.db"), &options).unwrap();
        let shared = Arc::new(Shared::new(loaded.state.clone(), 1 << 20));
        let (sender, receiver) = mpsc::channel(1024);
        let writer = Writer::new(connection, loaded, options, shared, sender.downgrade());
        Bench { folder, access: WriteAccess::new(writer, open), sender, receiver }
    }

    fn enqueue(id: &str, bytes: usize) -> (Command, Answered) {
        let (reply, answer): (Reply, _) = oneshot::channel();
        let prompt = RawValue::from_string(format!("\"{}\"", "x".repeat(bytes))).unwrap();
        let operation = Operation::Enqueue(Box::new(NewJob { prompt: prompt.into(), ..contract::job(id, Position::Back) }));
        (Command::Write { operation, reply }, answer)
    }

    #[tokio::test]
    async fn a_small_change_is_made_at_once_unless_others_wait() {
        let Bench { access, sender, mut receiver, .. } = bench(true);
        let (command, mut answer) = enqueue("a", 10);
        assert!(access.do_now(command, &sender).is_ok(), "no thread is there, and none is needed");
        assert!(matches!(answer.try_recv().unwrap(), Ok(Answer::Ticket(_))), "it is answered when the call returns");
        assert!(access.do_now(enqueue("large", 1 << 20).0, &sender).is_err());
        let held = access.writer.lock();
        assert!(access.do_now(enqueue("b", 10).0, &sender).is_err(), "somebody else writes");
        drop(held);
        let (command, _answer) = enqueue("b", 10);
        assert!(access.queue(command, &sender).await);
        assert!(access.do_now(enqueue("c", 10).0, &sender).is_err(), "nobody overtakes what waits");
        while let Ok(command) = receiver.try_recv() {
            let done = access.writer.lock().as_mut().unwrap().work(command, &mut || None);
            access.waiting.fetch_sub(done, Ordering::AcqRel);
        }
        assert!(access.do_now(enqueue("c", 10).0, &sender).is_ok());
        receiver.close();
        assert!(!access.queue(enqueue("d", 10).0, &sender).await, "the thread has ended");
    }

    #[tokio::test]
    async fn a_caller_does_not_wait_for_another_program_but_the_thread_does() {
        let Bench { folder, access, sender, receiver } = bench(true);
        let other = rusqlite::Connection::open(folder.path().join("jobs.db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let Err(command) = access.do_now(enqueue("a", 10).0, &sender) else { panic!("nothing can be written") };
        assert!(matches!(command, Command::Write { .. }));
        let (command, answer) = enqueue("a", 10);
        assert!(access.queue(command, &sender).await);
        let access = Arc::new(access);
        let work = access.clone();
        let thread = std::thread::spawn(move || work.run(receiver));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        other.execute_batch("COMMIT").unwrap();
        assert!(matches!(answer.await.unwrap(), Ok(Answer::Ticket(_))), "it waited");
        access.close(&sender, false);
        assert!(thread.join().unwrap().is_some());
        assert!(access.do_now(enqueue("b", 10).0, &sender).is_err(), "it is closed");
        assert!(!access.queue(enqueue("b", 10).0, &sender).await);
    }

    #[test]
    fn where_commits_wait_for_the_disk_only_the_thread_writes() {
        let Bench { access, sender, .. } = bench(false);
        assert!(access.do_now(enqueue("a", 10).0, &sender).is_err());
    }

    #[test]
    fn the_thread_is_told_of_checkpoints_and_makes_them() {
        let Bench { folder, access, sender, mut receiver } = bench(true);
        while access.writer.lock().as_mut().unwrap().maintain() {}
        let size = || std::fs::metadata(folder.path().join("jobs.db")).unwrap().len();
        let before = size();
        let mut changes = 0;
        while receiver.try_recv().is_err() {
            assert!(access.do_now(enqueue(&changes.to_string(), 50_000).0, &sender).is_ok());
            changes += 1;
            assert!(changes < 2_000, "nobody was told");
        }
        assert!(size() < before + 1_000_000, "callers make no checkpoints");
        assert!(access.writer.lock().as_mut().unwrap().maintain());
        assert!(size() > before + 5_000_000, "{} bytes of {changes} changes", size());
        assert!(!access.writer.lock().as_mut().unwrap().needs_maintenance());
    }
}
