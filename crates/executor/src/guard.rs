//! Code of nodes and hosts is called so that a panic of it is an error.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use comfyd_node::{Error, Result};

/// Runs node code: a panic becomes an error.
pub(crate) fn guarded<T>(code: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(code)).unwrap_or_else(|panic| Err(Error::Failed(format!("the node panicked: {}", panic_text(&*panic)))))
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text,
        (None, None) => "it gave no message",
    }
}
