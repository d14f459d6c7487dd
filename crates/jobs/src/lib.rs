//! Jobs: the model of a queued prompt, its history and its events, and the [`JobStore`] contract. This crate knows neither SQL nor HTTP.
//!
//! [`memory::MemoryStore`] is the implementation for tests and for `comfyd run`; [`contract`] is the test-suite that every
//! implementation passes.

pub mod contract;
pub mod event;
pub mod line;
pub mod memory;
mod store;

pub use crate::event::{Event, EventKind, EventSink};
pub use crate::store::{
    Counts, Error, HistoryEntry, HistoryQuery, Job, JobStore, NewJob, OnRestart, Outcome, Position, Queue, Recovered, Result, Status,
    Ticket, Versions, now_ms,
};
