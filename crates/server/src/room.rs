//! Memory that requests take together: bodies in work, what is read of them, pictures while they are turned into others, answers that are
//! put together. What does not fit waits a while and is refused then. Does not know what the memory is for.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use comfyd_memory::{Account, Lease};
use parking_lot::Mutex;

use crate::error::ApiError;

/// How long a request waits for others to be done.
const PATIENCE: Duration = Duration::from_secs(30);
/// The part of all that one request's body and what is read of it may take at once.
const ONE_OF: u64 = 4;

/// The memory. Clones share it.
#[derive(Clone)]
pub(crate) struct Room(Account);

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
        Self(account)
    }

    /// How many bytes there are in all.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.budget()
    }

    /// Takes so many bytes; waits for them for a while.
    pub(crate) async fn take(&self, bytes: u64) -> Result<Lease, Refused> {
        self.take_of(bytes, self.bytes()).await
    }

    async fn take_of(&self, bytes: u64, most: u64) -> Result<Lease, Refused> {
        if bytes > most {
            return Err(Refused::TooMuch { bytes, most });
        }
        self.0.reserve_within(bytes, PATIENCE).await.map_err(|_| Refused::Crowded)
    }
}

/// What one request has taken so far, until the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Work {
    room: Room,
    leases: Arc<Mutex<Vec<Lease>>>,
}

impl Work {
    pub(crate) fn new(room: &Room) -> Self {
        Self { room: room.clone(), leases: Arc::default() }
    }

    /// Takes more.
    pub(crate) async fn more(&self, bytes: u64) -> Result<(), Refused> {
        let lease = self.room.take_of(bytes, self.room.bytes() / ONE_OF).await?;
        self.leases.lock().push(lease);
        Ok(())
    }
}
