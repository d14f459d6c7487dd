//! For whom a thread works: what reads or writes files that are a user's own asks it. Where nobody is told apart it is nobody.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

/// For whom something is done.
#[derive(Debug, Clone, Default)]
pub struct Actor {
    /// The user; empty for nobody in particular.
    pub owner: Arc<str>,
    /// Whether what is others' is shown too.
    pub all: bool,
    /// What ends it, where it may wait for what cannot be had at present: a prompt that runs. Others are told at once.
    pub patient: Option<CancellationToken>,
}

thread_local! {
    static ACTOR: RefCell<Actor> = RefCell::default();
}

/// Until it is dropped, the thread works for somebody.
#[must_use]
#[derive(Debug)]
pub struct Acting {
    before: Actor,
    /// It ends on the thread on which it began.
    _here: PhantomData<*const ()>,
}

/// Has this thread work for somebody, and then for whom it did before.
pub fn acting_for(actor: Actor) -> Acting {
    Acting { before: ACTOR.replace(actor), _here: PhantomData }
}

/// For whom this thread works.
pub fn actor() -> Actor {
    ACTOR.with_borrow(Clone::clone)
}

impl Drop for Acting {
    fn drop(&mut self) {
        ACTOR.set(std::mem::take(&mut self.before));
    }
}
