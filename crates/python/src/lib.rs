//! The classes of a user's own ComfyUI, run in Python processes beside comfyd. The installation stays as it is: a worker boots its
//! unchanged `main.py` without its port and calls single nodes on request. This crate knows frames, handles and processes, and neither
//! HTTP nor how a graph is ordered.

mod away;
mod error;
mod facts;
mod files;
mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod host;
mod hosted;
mod interpreter;
mod key;
mod link;
mod manifest;
mod portable;
mod process;
mod remote;
mod report;
mod schema;
mod settings;
mod supervisor;
mod wire;
mod worker;

pub use crate::away::{Ask, classes as away};
pub use crate::error::Error;
pub use crate::host::State;
pub use crate::report::{Pack, Report};
pub use crate::settings::{HistoryWanted, Network, Outlet, Patience, Settings, Tell};
pub use crate::worker::Worker;
