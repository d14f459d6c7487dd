//! The account of memory: who holds how much of the budget. What is large asks it first, and what does not fit is refused with words or
//! waits, so that memory never runs out where nobody can say so. Knows nothing of what is held.

mod account;
pub mod machine;

pub use crate::account::{Account, Lease, OutOfMemory};

#[cfg(test)]
mod tests;
