//! What the writer is told and what it answers. Nothing here knows how that is done.

use std::sync::Arc;

use comfyd_jobs::{Claim, Error as JobError, HistoryEntry, NewJob, OnRestart, Recovered, Result as JobResult, Ticket, Token, WorkerId};
use tokio::sync::{mpsc, oneshot};

use crate::state::Shared;

/// How many bytes of JSON a small operation brings at most.
const SMALL_BYTES: usize = 64 << 10;

/// What the writer is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Do it, and say when it is committed.
    Write { operation: Operation, reply: Reply },
    /// Claim the next job as soon as there is one.
    Next { worker: WorkerId, reply: Reply },
    /// Look at the abandoned jobs.
    Wake,
}

/// Where an answer goes.
pub(crate) type Reply = oneshot::Sender<JobResult<Answer>>;

/// A change that a caller wants.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Enqueue(Box<NewJob>),
    Claim(WorkerId),
    Finish(Token, Arc<HistoryEntry>),
    /// The end of one job, and the claim of the next.
    HandOver(Token, Arc<HistoryEntry>),
    Requeue(Token),
    RemovePending(Vec<String>),
    ClearPending,
    DeleteHistory(Vec<String>),
    ClearHistory,
    Recover(WorkerId, OnRestart),
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Answer {
    Done,
    Count(usize),
    Ticket(Ticket),
    Claimed(Option<Claimed>),
    Recovered(Recovered),
}

/// A claimed job on its way to the caller. If the caller is gone before it takes the job, the job goes back into the queue.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) claim: Option<Claim>,
    /// Once the claim is committed; one that was rolled back leaves nothing to put back.
    pub(crate) committed: bool,
    pub(crate) shared: Arc<Shared>,
    pub(crate) writer: mpsc::WeakSender<Command>,
}

impl Answer {
    pub(crate) fn done(self) -> JobResult<()> {
        match self {
            Self::Done => Ok(()),
            other => Err(other.misplaced()),
        }
    }

    pub(crate) fn count(self) -> JobResult<usize> {
        match self {
            Self::Count(count) => Ok(count),
            other => Err(other.misplaced()),
        }
    }

    /// The error for an answer to something else: a mistake in this crate.
    pub(crate) fn misplaced(&self) -> JobError {
        JobError::Storage(format!("its writer answered another question: {self:?}"))
    }
}

impl Claimed {
    /// The job: from now on it is the caller's to finish.
    pub(crate) fn keep(mut self) -> Claim {
        // It is there until `drop`, and `keep` is called once, as it takes `self`.
        #[allow(clippy::expect_used)]
        self.claim.take().expect("kept once")
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if self.committed
            && let Some(claim) = self.claim.take()
        {
            self.shared.abandoned.lock().push(claim.token);
            if let Some(writer) = self.writer.upgrade() {
                // A full channel needs no waking: the writer is about to look.
                let _ = writer.try_send(Command::Wake);
            }
        }
    }
}

impl Command {
    /// Whether it is short work, which may be done where it comes up.
    pub(crate) fn is_small(&self) -> bool {
        match self {
            Self::Write { operation, .. } => operation.is_small(),
            Self::Next { .. } | Self::Wake => true,
        }
    }
}

impl Operation {
    fn is_small(&self) -> bool {
        match self {
            Self::Enqueue(_) | Self::Finish(..) | Self::HandOver(..) => self.bytes() <= SMALL_BYTES,
            Self::Claim(_) | Self::Requeue(_) => true,
            Self::RemovePending(_) | Self::ClearPending | Self::DeleteHistory(_) | Self::ClearHistory | Self::Recover(..) => false,
        }
    }

    /// About how much JSON it brings.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Enqueue(new) => new.prompt.get().len() + new.extra_data.get().len(),
            Self::Finish(_, entry) | Self::HandOver(_, entry) => {
                entry.messages.get().len() + entry.outputs.get().len() + entry.meta.get().len()
            }
            Self::Claim(_)
            | Self::Requeue(_)
            | Self::RemovePending(_)
            | Self::ClearPending
            | Self::DeleteHistory(_)
            | Self::ClearHistory
            | Self::Recover(..) => 0,
        }
    }
}
