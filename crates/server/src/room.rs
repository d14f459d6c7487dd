//! Memory that requests take together: bodies in work, what is read of them, pictures while they are turned into others, answers that are
//! put together. What does not fit waits a while and is refused then. Does not know what the memory is for.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use comfyd_memory::{Account, Lease};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;

/// How long a request waits for others to be done.
const PATIENCE: Duration = Duration::from_secs(30);
/// The part of all that one request's body and what is read of it may take at once.
const ONE_OF: u64 = 4;

/// The memory. Clones share it.
#[derive(Clone)]
pub(crate) struct Room {
    all: Account,
    /// What requests may have that take more and more. The rest is for the one whose turn it is, or they could all wait for each other.
    growing: Account,
    turn: Arc<Semaphore>,
}

/// Why memory is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// So much, and at most so much is given at once.
    TooMuch { bytes: u64, most: u64 },
    /// Others have it.
    Crowded,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMuch { bytes, most } => {
                write!(
                    f,
                    "this takes {} MiB of memory, and a request may have {} MiB: send or ask for less at once",
                    bytes >> 20,
                    most >> 20
                )
            }
            Self::Crowded => f.write_str("there is not enough memory for this request beside others: try again when they are done"),
        }
    }
}

impl std::error::Error for Refused {}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::TooMuch { .. } => Self::too_large(refused.to_string()),
            Refused::Crowded => Self::new(StatusCode::SERVICE_UNAVAILABLE, "too_much_in_work", refused.to_string()),
        }
    }
}

impl Room {
    /// What an account has for requests.
    pub(crate) fn new(account: Account) -> Self {
        let growing = account.part(account.budget() - account.budget() / ONE_OF);
        Self { all: account, growing, turn: Arc::new(Semaphore::new(1)) }
    }

    /// How many bytes there are in all.
    pub(crate) fn bytes(&self) -> u64 {
        self.all.budget()
    }

    /// Takes so many bytes; waits for them for a while.
    pub(crate) async fn take(&self, bytes: u64) -> Result<Lease, Refused> {
        at_most(bytes, self.bytes())?;
        self.all.reserve_within(bytes, PATIENCE).await.map_err(|_| Refused::Crowded)
    }
}

fn at_most(bytes: u64, most: u64) -> Result<(), Refused> {
    if bytes > most { Err(Refused::TooMuch { bytes, most }) } else { Ok(()) }
}

/// What one request has taken so far, until the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Work {
    room: Room,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    leases: Vec<Lease>,
    turn: Option<OwnedSemaphorePermit>,
}

impl Work {
    pub(crate) fn new(room: &Room) -> Self {
        Self { room: room.clone(), taken: Arc::default() }
    }

    /// Takes more. The first one that has to wait has its turn until it is done.
    pub(crate) async fn more(&self, bytes: u64) -> Result<(), Refused> {
        let Room { all, growing, turn } = &self.room;
        at_most(bytes, all.budget() / ONE_OF)?;
        let mut lease = None;
        if self.taken.lock().turn.is_none() {
            tokio::select! {
                biased;
                got = growing.reserve_within(bytes, PATIENCE) => lease = Some(got),
                Ok(got) = Arc::clone(turn).acquire_owned() => self.taken.lock().turn = Some(got),
            }
        }
        let lease = match lease {
            Some(lease) => lease,
            None => all.reserve_within(bytes, PATIENCE).await,
        };
        self.taken.lock().leases.push(lease.map_err(|_| Refused::Crowded)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Each has a part of what it needs when nothing is left. Time passes at once here: who waits for what cannot come is refused.
    #[tokio::test(start_paused = true)]
    async fn requests_that_grow_do_not_wait_for_each_other_for_ever() {
        let room = Room::new(Account::new(1000));
        let begun = Arc::new(tokio::sync::Barrier::new(7));
        let requests: Vec<_> = (0..7)
            .map(|_| {
                let (room, begun) = (room.clone(), Arc::clone(&begun));
                tokio::spawn(async move {
                    let work = Work::new(&room);
                    work.more(100).await?;
                    begun.wait().await;
                    work.more(100).await?;
                    work.more(50).await
                })
            })
            .collect();
        for request in requests {
            assert_eq!(request.await.unwrap(), Ok(()));
        }
        assert_eq!(room.all.held(), 0);
        assert_eq!(Work::new(&room).more(251).await, Err(Refused::TooMuch { bytes: 251, most: 250 }));
    }
}
