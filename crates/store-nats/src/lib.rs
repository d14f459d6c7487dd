//! The `JobStore` of several hosts, on NATS JetStream: one bucket with a document for each job, and in every process the line and the
//! history's index as the bucket has them.
//!
//! A change is one document that follows another by its revision, so that of two who want to change a job one succeeds: a claim, an end and
//! a removal are such changes, and the end of a job that was given to another worker meanwhile is refused. What a call wrote has been
//! confirmed by the majority of the servers when it returns, and is in this process's lists. A process that is not heard of for the length
//! of a lease has lost what it ran. This crate knows neither HTTP nor what a graph is.

mod affinity;
mod bucket;
mod connect;
mod document;
mod error;
mod events;
mod files;
mod fleet;
mod inner;
mod leases;
mod members;
mod mirror;
mod options;
mod said;
mod store;
#[cfg(feature = "testing")]
pub mod testing;

pub use crate::connect::Link;
pub use crate::error::Error;
pub use crate::events::Post;
pub use crate::files::NatsFiles;
pub use crate::fleet::MAX_TEXT_BYTES;
pub use crate::members::{Abilities, About, AboutDevice, Command, Does, Lack, Member, Told};
pub use crate::options::{Connection, Options};
pub use crate::said::{Ears, Ran, Said};
pub use crate::store::NatsStore;
