//! Jobs: the model of a queued prompt, its history and its events, and the [`JobStore`] contract. This crate knows neither SQL nor HTTP.
//!
//! [`memory`] holds the implementations for tests. The feature `contract` has the test-suites that every store and every event sink passes.

pub mod cache;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod event;
pub mod index;
pub mod line;
pub mod memory;
pub mod message;
pub mod secrets;
mod store;
mod waiting;

pub use crate::event::{Event, EventKind, EventSink};
pub use crate::message::{Failure, Interruption, Message, NodeRef};
pub use crate::secrets::Secrets;
pub use crate::store::{
    Claim, Counts, Cursor, Error, HistoryEntry, HistoryQuery, Job, JobStore, Needs, NewJob, OnRestart, Order, Outcome, Page, Position,
    Queue, Recovered, Result, Status, Ticket, Token, Versions, WorkerId, now_ms,
};
