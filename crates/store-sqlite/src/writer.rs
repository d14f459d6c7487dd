//! The one that writes. It takes all operations that wait, does them in one transaction, publishes what changed and answers.
//! It knows nothing of how the history is read, nor on which thread it works (see [`crate::access`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use comfyd_jobs::line::{Bounds, Place};
use comfyd_jobs::{Error as JobError, HistoryEntry, NewJob, OnRestart, Result as JobResult, Ticket, Token, WorkerId, now_ms};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};
use tokio::sync::mpsc;

use crate::command::{Answer, Claimed, Command, Operation, Reply};
use crate::database::{Loaded, MAX_LOG_PAGES, is_busy, job_error, list, status_text, with_cause};
use crate::options::Options;
use crate::state::{Change, Shared, State};

/// How many operations go into one transaction.
const MAX_GROUP: usize = 256;

/// How many bytes of JSON, about, go into one transaction.
const MAX_GROUP_BYTES: usize = 16 << 20;

/// How many deleted entries are removed along with a transaction, beside two for each operation in it.
const PURGE_SLICE: usize = 32;

/// How many pages (of 4 KiB) the write-ahead log grows to before they are brought into the database.
const CHECKPOINT_PAGES: usize = 4096;

/// How many free pages are given back to the system at a time, and how many may stay.
const VACUUM_SLICE: i64 = 256;
const MAX_FREE_PAGES: i64 = 1024;

/// How long the thread waits for another program that writes to the database, and how long for one that reads when the write-ahead log has
/// grown long or the store is closed.
const PATIENCE: Duration = Duration::from_secs(5);
const LOG_PATIENCE: Duration = Duration::from_millis(100);
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// The connection that writes, and its state.
#[derive(Debug)]
pub(crate) struct Writer {
    connection: Connection,
    options: Options,
    shared: Arc<Shared>,
    itself: mpsc::WeakSender<Command>,
    /// Callers that wait for a job, longest first. They are served in the transaction that brings one.
    waiters: VecDeque<(WorkerId, Reply)>,
    /// The state with the changes of the transaction under way.
    state: State,
    /// Those changes.
    changes: Vec<Change>,
    /// Entries of the history up to this key are deleted.
    floor: i64,
    /// The floor of the published state; not yet on disk after a trim at start.
    published_floor: i64,
    /// What `state` on disk says.
    stored: Counters,
    /// Some deleted entries are still on disk.
    purging: bool,
    /// Much may be free in the file.
    vacuuming: bool,
    /// About how many pages the write-ahead log got since the last checkpoint.
    log_pages: usize,
    /// A transaction has begun, and nothing was done in it.
    begun: bool,
    /// The failure that was told of last, until a write succeeds.
    told: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counters {
    next_number: u64,
    floor: i64,
}

struct Waiting {
    operation: Operation,
    reply: Option<Reply>,
}

/// What a checkpoint says.
struct Log {
    /// Whether somebody kept it from its end.
    busy: bool,
    /// How many pages the log has.
    pages: i64,
}

/// What a transaction led to.
struct Done {
    /// By operation.
    answers: Vec<JobResult<Answer>>,
    /// Jobs for the first of those who wait for one.
    served: Vec<Claimed>,
}

impl Writer {
    pub(crate) fn new(
        connection: Connection,
        loaded: Loaded,
        options: Options,
        shared: Arc<Shared>,
        itself: mpsc::WeakSender<Command>,
    ) -> Self {
        let Loaded { state, floor } = loaded;
        let stored = Counters { next_number: state.line.next_number(), floor };
        let mut writer = Self {
            connection,
            options,
            shared,
            itself,
            waiters: VecDeque::new(),
            state,
            changes: Vec::new(),
            floor,
            published_floor: floor,
            stored,
            purging: true,
            vacuuming: false,
            log_pages: 0,
            begun: false,
            told: None,
        };
        writer.be_patient(Duration::ZERO);
        // The bound may be smaller than last time.
        writer.trim();
        writer.publish();
        writer
    }

    /// Whether a command can be done without waiting for another program. If it writes, its transaction has begun then.
    pub(crate) fn is_free_for(&mut self, command: &Command) -> bool {
        let writes = match command {
            Command::Write { .. } => true,
            Command::Next { .. } => self.state.line.waiting() > 0,
            Command::Wake => false,
        };
        if !writes && self.shared.abandoned.lock().is_empty() {
            return true;
        }
        // Any other error comes again when the command is done.
        !self.begin().is_err_and(|error| is_busy(&error))
    }

    /// [`Writer::work`] for who may wait for another program.
    pub(crate) fn work_patiently(&mut self, first: Command, more: &mut dyn FnMut() -> Option<Command>) -> usize {
        self.be_patient(PATIENCE);
        let done = self.work(first, more);
        self.be_patient(Duration::ZERO);
        done
    }

    /// Does a command, and along with it what `more` gives, answers, and says how many commands that expect an answer were done.
    pub(crate) fn work(&mut self, first: Command, more: &mut dyn FnMut() -> Option<Command>) -> usize {
        let mut group = self.abandoned();
        let (mut bytes, mut done) = (0, 0);
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Write { operation, reply } => {
                    bytes += operation.bytes();
                    done += 1;
                    group.push(Waiting { operation, reply: Some(reply) });
                }
                Command::Next { worker, reply } => {
                    done += 1;
                    self.waiters.push_back((worker, reply));
                }
                Command::Wake => {}
            }
            next = if group.len() < MAX_GROUP && bytes < MAX_GROUP_BYTES { more() } else { None };
        }
        self.log_pages += bytes / 4096;
        match self.commit(group) {
            Ok(()) => self.serve(),
            // It would only be waited for again.
            Err(error) => self.refuse_waiters(&error),
        }
        if std::mem::take(&mut self.begun) {
            self.roll_back();
        }
        done
    }

    /// Puts back everything that runs, for a process that ends in good order while somebody still works on it: it has not crashed.
    pub(crate) fn put_back_all(&mut self) {
        let tokens = self.state.line.tokens();
        self.shared.abandoned.lock().extend(tokens);
    }

    /// Puts back what was claimed for callers who are gone, brings the write-ahead log into the database and closes it. Without `in_place`,
    /// other files may have its names, and nothing under them is touched.
    pub(crate) fn close(mut self, in_place: bool) {
        self.be_patient(CLOSE_PATIENCE);
        // Nothing that goes back is for those who wait.
        self.waiters.clear();
        let group = self.abandoned();
        // What fails was told of, and is found at the next start.
        let _ = self.commit(group);
        if in_place {
            match self.checkpoint("TRUNCATE") {
                Ok(Log { busy: false, .. }) => {}
                Ok(Log { busy: true, .. }) => tracing::warn!("another program reads the job store: some of it stays in the file beside it"),
                Err(error) => tracing::warn!(%error, "the write-ahead log could not be brought into the database"),
            }
        } else if let Err(error) = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true) {
            tracing::warn!(%error, "the job store cannot be closed without a checkpoint");
        }
        if let Err((_connection, error)) = self.connection.close() {
            tracing::warn!(%error, "the job store was not closed properly");
        }
    }

    /// How long SQLite waits for other programs. Nothing waits unless it is asked to.
    fn be_patient(&self, patience: Duration) {
        if let Err(error) = self.connection.busy_timeout(patience) {
            tracing::debug!(%error, "the time that SQLite waits could not be set");
        }
    }

    /// Gives what waits already to those who wait for a job.
    fn serve(&mut self) {
        self.waiters.retain(|(_, reply)| !reply.is_closed());
        if self.waiters.is_empty() || self.state.line.waiting() == 0 {
            return;
        }
        if let Err(error) = self.attempt(&[]) {
            self.tell(&error);
            self.refuse_waiters(&error);
        }
    }

    fn refuse_waiters(&mut self, error: &rusqlite::Error) {
        if self.state.line.waiting() == 0 {
            return;
        }
        for (_, reply) in self.waiters.drain(..) {
            // A caller that is gone needs no answer.
            let _ = reply.send(Err(job_error(error)));
        }
    }

    fn abandoned(&self) -> Vec<Waiting> {
        let tokens = std::mem::take(&mut *self.shared.abandoned.lock());
        tokens.into_iter().map(|token| Waiting { operation: Operation::Requeue(token), reply: None }).collect()
    }

    /// Does a group in one transaction; if that fails, each operation in its own, so that one cannot fail the others. Fails if another
    /// program has the database: then all are refused at once, since each would wait for it again.
    fn commit(&mut self, group: Vec<Waiting>) -> rusqlite::Result<()> {
        if group.is_empty() {
            return Ok(());
        }
        let purging = self.purging;
        let error = match self.attempt(&group) {
            Ok(answers) => {
                reply(group, answers);
                return Ok(());
            }
            Err(error) => error,
        };
        if is_busy(&error) {
            self.refuse(group, &error);
            return Err(error);
        }
        if group.len() == 1 {
            // An id may be free and yet on disk, where a damaged prompt had it. While purging, it is removed there.
            if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) && !purging {
                return self.commit(group);
            }
            self.refuse(group, &error);
            return Ok(());
        }
        tracing::debug!(%error, operations = group.len(), "a group of writes to the job store failed, trying each alone");
        let mut group = group.into_iter();
        while let Some(waiting) = group.next() {
            if let Err(error) = self.commit(vec![waiting]) {
                self.refuse(group.collect(), &error);
                return Err(error);
            }
        }
        Ok(())
    }

    fn refuse(&mut self, group: Vec<Waiting>, error: &rusqlite::Error) {
        self.tell(error);
        for Waiting { operation, reply } in group {
            match (operation, reply) {
                // A caller that is gone needs no answer.
                (_, Some(reply)) => drop(reply.send(Err(job_error(error)))),
                // Nobody else will think of it.
                (Operation::Requeue(token), None) => self.shared.abandoned.lock().push(token),
                (_, None) => {}
            }
        }
    }

    /// Tells of a failure, once until it has changed or passed: it may repeat many times a second.
    fn tell(&mut self, error: &rusqlite::Error) {
        let text = error.to_string();
        if self.told.as_ref() != Some(&text) {
            tracing::error!(error = text, "a write to the job store failed");
            self.told = Some(text);
        }
    }

    fn begin(&mut self) -> rusqlite::Result<()> {
        if !self.begun {
            self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
            self.begun = true;
        }
        Ok(())
    }

    fn roll_back(&self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "a transaction of the job store could not be rolled back");
        }
    }

    /// One transaction. After an error nothing has happened.
    fn attempt(&mut self, group: &[Waiting]) -> rusqlite::Result<Vec<JobResult<Answer>>> {
        self.begin()?;
        self.begun = false;
        match self.transact(group) {
            Ok(Done { answers, served }) => {
                if !self.changes.is_empty() && self.told.take().is_some() {
                    tracing::info!("writing to the job store works again");
                }
                self.stored = self.counters();
                self.publish();
                // A commit writes each page that it touches: about four, and four more for each operation.
                self.log_pages += 4 + 4 * group.len();
                for mut claimed in served {
                    claimed.committed = true;
                    if let Some((_, reply)) = self.waiters.pop_front() {
                        // If the caller is gone, the job goes back by itself.
                        let _ = reply.send(Ok(Answer::Claimed(Some(claimed))));
                    }
                }
                Ok(answers)
            }
            Err(error) => {
                let error = with_cause(error);
                self.roll_back();
                self.state = self.shared.state.lock().clone();
                self.changes.clear();
                self.floor = self.published_floor;
                self.purging = true;
                if error.sqlite_error_code() == Some(ErrorCode::DiskFull) {
                    // Once it is in the database, the log's own space can be used again.
                    self.log_pages = CHECKPOINT_PAGES;
                }
                Err(error)
            }
        }
    }

    fn publish(&mut self) {
        self.published_floor = self.floor;
        self.shared.publish(&mut self.changes);
    }

    fn transact(&mut self, group: &[Waiting]) -> rusqlite::Result<Done> {
        self.waiters.retain(|(_, reply)| !reply.is_closed());
        let mut answers = Vec::with_capacity(group.len());
        for waiting in group {
            answers.push(self.perform(&waiting.operation)?);
        }
        let mut served = Vec::new();
        while let Some(worker) = self.waiters.get(served.len()).map(|(worker, _)| worker.clone())
            && let Some(claimed) = self.claim(worker)?
        {
            served.push(claimed);
        }
        if self.purging {
            self.purge(PURGE_SLICE + 2 * group.len())?;
        }
        self.store_counters()?;
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(Done { answers, served })
    }

    fn perform(&mut self, operation: &Operation) -> rusqlite::Result<JobResult<Answer>> {
        match operation {
            Operation::Enqueue(new) => self.enqueue(new),
            Operation::Claim(worker) => Ok(Ok(Answer::Claimed(self.claim(worker.clone())?))),
            Operation::Finish(token, entry) => self.finish(token, entry),
            Operation::HandOver(token, entry) => match self.finish(token, entry)? {
                Ok(_done) => Ok(Ok(Answer::Claimed(self.claim(token.worker.clone())?))),
                refused => Ok(refused),
            },
            Operation::Requeue(token) => self.requeue(token),
            Operation::RemovePending(ids) => self.remove_pending(ids),
            Operation::ClearPending => self.clear_pending(),
            Operation::DeleteHistory(ids) => self.delete_history(ids),
            Operation::ClearHistory => Ok(self.clear_history()),
            Operation::Recover(worker, on_restart) => self.recover(worker, *on_restart),
        }
    }

    fn enqueue(&mut self, new: &NewJob) -> rusqlite::Result<JobResult<Answer>> {
        if self.state.history.key(&new.id).is_some() {
            return Ok(Err(JobError::Duplicate(new.id.clone())));
        }
        let Options { max_pending: pending, max_pending_bytes: bytes, max_of_owner: of_owner, .. } = self.options;
        let (place, job) = match self.state.line.admit(new, Bounds { pending, bytes, of_owner }) {
            Ok(admitted) => admitted,
            Err(refused) => return Ok(Err(refused)),
        };
        if self.purging {
            self.purge_id(&new.id)?;
        }
        let (outputs, secrets) = (list(&job.outputs)?, list(&job.secrets.names())?);
        self.connection
            .prepare_cached(
                "INSERT INTO jobs (seq, id, number, created_ms, outputs, extra_data, prompt, secrets) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![place.arrival, job.id, job.number, job.created_ms, outputs, job.extra_data.get(), job.prompt.get(), secrets])?;
        self.connection
            .prepare_cached("INSERT INTO senders (seq, owner, client_id, workflow_id) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![place.arrival, &*job.owner, job.client_id.as_deref(), job.workflow_id.as_deref()])?;
        self.connection.prepare_cached("INSERT INTO queue (seq) VALUES (?1)")?.execute([place.arrival])?;
        let ticket = Ticket { id: job.id.clone(), number: job.number };
        self.changes.push(Change::Insert { place, job, next_number: self.state.line.next_number() });
        Ok(Ok(Answer::Ticket(ticket)))
    }

    fn claim(&mut self, worker: WorkerId) -> rusqlite::Result<Option<Claimed>> {
        let claimed_ms = now_ms();
        let Some((place, claim)) = self.state.line.claim(&worker, claimed_ms) else { return Ok(None) };
        self.connection.prepare_cached("UPDATE queue SET claim = ?2, claimed_ms = ?3 WHERE seq = ?1")?.execute([
            place.arrival,
            claim.token.claim,
            claimed_ms,
        ])?;
        self.changes.push(Change::Claim { worker, claimed_ms });
        Ok(Some(Claimed { claim: Some(claim), committed: false, shared: self.shared.clone(), writer: self.itself.clone() }))
    }

    fn finish(&mut self, token: &Token, entry: &Arc<HistoryEntry>) -> rusqlite::Result<JobResult<Answer>> {
        let running = match self.state.line.take_held(token) {
            Ok(running) => running,
            Err(refused) => return Ok(Err(refused)),
        };
        self.changes.push(Change::Take(token.clone()));
        self.push_history(running.place, entry)?;
        Ok(Ok(Answer::Done))
    }

    /// Moves a job that has left the line into the history.
    fn push_history(&mut self, place: Place, entry: &Arc<HistoryEntry>) -> rusqlite::Result<()> {
        self.connection.prepare_cached("DELETE FROM queue WHERE seq = ?1")?.execute([place.arrival])?;
        let key = self.state.history.push(entry.as_ref().into());
        self.connection
            .prepare_cached(
                "INSERT INTO history (ended, seq, status, started_ms, ended_ms, messages, outputs, meta)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                key,
                place.arrival,
                status_text(entry.status),
                entry.started_ms,
                entry.ended_ms,
                entry.messages.get(),
                entry.outputs.get(),
                entry.meta.get()
            ])?;
        self.changes.push(Change::PushHistory { entry: entry.clone() });
        self.trim();
        Ok(())
    }

    fn requeue(&mut self, token: &Token) -> rusqlite::Result<JobResult<Answer>> {
        let place = match self.state.line.requeue(token) {
            Ok(place) => place,
            Err(refused) => return Ok(Err(refused)),
        };
        self.connection.prepare_cached("UPDATE queue SET claim = NULL, claimed_ms = NULL WHERE seq = ?1")?.execute([place.arrival])?;
        self.changes.push(Change::Requeue(token.clone()));
        Ok(Ok(Answer::Done))
    }

    fn remove_pending(&mut self, ids: &[String]) -> rusqlite::Result<JobResult<Answer>> {
        let mut removed = 0;
        for id in ids {
            let Some(place) = self.state.line.remove(id) else { continue };
            self.connection.prepare_cached("DELETE FROM queue WHERE seq = ?1")?.execute([place.arrival])?;
            self.connection.prepare_cached("DELETE FROM jobs WHERE seq = ?1")?.execute([place.arrival])?;
            self.changes.push(Change::Remove { id: id.clone() });
            removed += 1;
        }
        Ok(Ok(Answer::Count(removed)))
    }

    fn clear_pending(&mut self) -> rusqlite::Result<JobResult<Answer>> {
        let removed = self.state.line.clear();
        if removed > 0 {
            self.connection.execute("DELETE FROM jobs WHERE seq IN (SELECT seq FROM queue WHERE claim IS NULL)", [])?;
            self.connection.execute("DELETE FROM queue WHERE claim IS NULL", [])?;
            self.changes.push(Change::Clear);
            self.vacuuming = true;
        }
        Ok(Ok(Answer::Count(removed)))
    }

    fn delete_history(&mut self, ids: &[String]) -> rusqlite::Result<JobResult<Answer>> {
        let mut removed = 0;
        for id in ids {
            let Some(key) = self.state.history.remove(id) else { continue };
            // By its key, since the id on disk may be damaged.
            self.connection.prepare_cached("DELETE FROM jobs WHERE seq = (SELECT seq FROM history WHERE ended = ?1)")?.execute([key])?;
            self.connection.prepare_cached("DELETE FROM history WHERE ended = ?1")?.execute([key])?;
            self.changes.push(Change::RemoveHistory { id: id.clone() });
            removed += 1;
        }
        Ok(Ok(Answer::Count(removed)))
    }

    fn clear_history(&mut self) -> JobResult<Answer> {
        let removed = self.state.history.clear();
        if removed > 0 {
            self.floor = self.state.history.last_key();
            self.purging = true;
            self.vacuuming = true;
            self.changes.push(Change::ClearHistory);
        }
        Ok(Answer::Count(removed))
    }

    fn recover(&mut self, worker: &WorkerId, on_restart: OnRestart) -> rusqlite::Result<JobResult<Answer>> {
        let restarted = self.state.line.restart(worker, on_restart);
        if restarted.figures.rerun + restarted.figures.failed > 0 {
            self.changes.push(Change::Restart(worker.clone(), on_restart));
        }
        for (place, _) in &restarted.reranked {
            self.connection
                .prepare_cached("UPDATE queue SET rank = ?2, claim = NULL, claimed_ms = NULL WHERE seq = ?1")?
                .execute([place.arrival, place.rank])?;
            // Those that have precedence from an earlier restart come along, with what they counted already.
            self.connection
                .prepare_cached("INSERT OR REPLACE INTO crashes (seq, count) VALUES (?1, ?2)")?
                .execute([place.arrival, i64::from(place.crashes)])?;
        }
        for running in &restarted.failed {
            let (prompt_id, crashes) = (&running.job.id, running.place.crashes);
            tracing::error!(prompt_id, crashes, "a prompt that was running when the server ended counts as failed and is not run again");
            let outcome = running.failed(on_restart, now_ms());
            match HistoryEntry::new(running.job.as_ref().clone(), &outcome, usize::MAX) {
                Ok(entry) => self.push_history(running.place, &Arc::new(entry))?,
                Err(error) => return Err(rusqlite::Error::ToSqlConversionFailure(Box::new(error))),
            }
        }
        Ok(Ok(Answer::Recovered(restarted.figures)))
    }

    /// Drops the oldest entries over the bound: from sight now, from disk with the next purges.
    fn trim(&mut self) {
        while self.state.history.len() > self.options.max_history {
            let Some(key) = self.state.history.pop_oldest() else { break };
            self.floor = key;
            self.purging = true;
            self.changes.push(Change::DropOldest);
        }
    }

    /// Removes up to `limit` deleted entries from disk.
    fn purge(&mut self, limit: usize) -> rusqlite::Result<()> {
        let dead: Vec<(i64, i64)> = self
            .connection
            .prepare_cached("SELECT ended, seq FROM history WHERE ended <= ?1 ORDER BY ended LIMIT ?2")?
            .query_map(params![self.floor, i64::try_from(limit).unwrap_or(i64::MAX)], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        for (ended, seq) in &dead {
            self.connection.prepare_cached("DELETE FROM jobs WHERE seq = ?1")?.execute([seq])?;
            self.connection.prepare_cached("DELETE FROM history WHERE ended = ?1")?.execute([ended])?;
        }
        self.purging = dead.len() == limit;
        Ok(())
    }

    /// Removes a deleted entry from disk whose id is to be used again.
    fn purge_id(&mut self, id: &str) -> rusqlite::Result<()> {
        let seq: Option<i64> =
            self.connection.prepare_cached("SELECT seq FROM jobs WHERE id = ?1")?.query_row([id], |row| row.get(0)).optional()?;
        if let Some(seq) = seq {
            self.connection.prepare_cached("DELETE FROM history WHERE seq = ?1")?.execute([seq])?;
            self.connection.prepare_cached("DELETE FROM jobs WHERE seq = ?1")?.execute([seq])?;
        }
        Ok(())
    }

    fn counters(&self) -> Counters {
        Counters { next_number: self.state.line.next_number(), floor: self.floor }
    }

    fn store_counters(&self) -> rusqlite::Result<()> {
        let counters = self.counters();
        let sql = "INSERT INTO state (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        let mut update = self.connection.prepare_cached(sql)?;
        if counters.next_number != self.stored.next_number {
            update.execute(params!["next_number", i64::try_from(counters.next_number).unwrap_or(i64::MAX)])?;
        }
        if counters.floor != self.stored.floor {
            update.execute(params!["history_floor", counters.floor])?;
        }
        Ok(())
    }

    /// Whether there is work that can wait until nothing else does.
    pub(crate) fn needs_maintenance(&self) -> bool {
        self.purging || self.vacuuming || self.log_pages >= CHECKPOINT_PAGES
    }

    /// A slice of that work; whether there is more.
    pub(crate) fn maintain(&mut self) -> bool {
        if self.log_pages >= CHECKPOINT_PAGES {
            self.log_pages = 0;
            match self.shorten_log() {
                Ok(()) => {}
                // Whoever wrote was told.
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {}
                Err(error) => tracing::warn!(%error, "the write-ahead log could not be brought into the database"),
            }
            return true;
        }
        if self.purging {
            // Without operations, the transaction only purges.
            if let Err(error) = self.attempt(&[]) {
                tracing::debug!(%error, "deleted history entries could not be removed from the database, which will be tried again");
                return false;
            }
            return true;
        }
        if !self.vacuuming {
            return false;
        }
        match self.vacuum() {
            Ok(more) => self.vacuuming = more,
            // It comes up again with the next change.
            Err(error) if is_busy(&error) => return false,
            Err(error) => {
                tracing::warn!(%error, "free space of the database could not be given back");
                self.vacuuming = false;
            }
        }
        self.vacuuming
    }

    /// Brings the write-ahead log into the database. The next write begins it anew unless somebody reads in it; where that was so for long,
    /// those who read are waited for a moment.
    fn shorten_log(&self) -> rusqlite::Result<()> {
        let log = self.checkpoint("PASSIVE")?;
        if log.pages > MAX_LOG_PAGES {
            self.be_patient(LOG_PATIENCE);
            let restarted = self.checkpoint("RESTART");
            self.be_patient(Duration::ZERO);
            if restarted?.busy {
                tracing::warn!(
                    mib = log.pages >> 8,
                    "the write-ahead log grows, since another program reads the job store all the time: end it"
                );
            }
        }
        Ok(())
    }

    fn checkpoint(&self, mode: &str) -> rusqlite::Result<Log> {
        let log = |row: &rusqlite::Row<'_>| Ok(Log { busy: row.get::<_, i64>(0)? != 0, pages: row.get(1)? });
        self.connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], log)
    }

    fn vacuum(&self) -> rusqlite::Result<bool> {
        let number = |name: &str| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let free = number("freelist_count")?;
        if free <= MAX_FREE_PAGES.max(number("page_count")? / 4) {
            return Ok(false);
        }
        let mut statement = self.connection.prepare(&format!("PRAGMA incremental_vacuum({VACUUM_SLICE})"))?;
        let mut rows = statement.query([])?;
        // Every step frees a page.
        while rows.next()?.is_some() {}
        drop(rows);
        Ok(number("freelist_count")? < free)
    }
}

fn reply(group: Vec<Waiting>, answers: Vec<JobResult<Answer>>) {
    for (waiting, mut answer) in group.into_iter().zip(answers) {
        if let Ok(Answer::Claimed(Some(claimed))) = &mut answer {
            claimed.committed = true;
        }
        if let Some(reply) = waiting.reply {
            // A caller that is gone needs no answer; a claimed job goes back by itself.
            let _ = reply.send(answer);
        }
    }
}

#[cfg(test)]
mod tests;
