//! Runs prompts: cache with a memory budget, lists, lazy inputs, execution blockers, expansion into sub-graphs, cancellation and
//! progress. Does not know HTTP, where jobs are stored, or what a tensor is.

mod cache;
mod calls;
mod executor;
mod guard;
mod hosts;
mod known;
mod options;
mod outside;
mod places;
mod progress;
mod results;
mod run;
mod stop;
mod watch;
pub mod worker;

pub use crate::executor::{Executor, Learn};
pub use crate::options::{CachePolicy, ExecutorOptions};
pub use crate::places::{BeforeNode, Showing};
pub use crate::watch::OnNode;
pub use crate::worker::{Handle, Shutdown, Worker, WorkerOptions};
