//! Working memory that threads keep between calls, so that a kernel does not ask the system for fresh pages each time.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// What a thread keeps at most: 28 MiB.
const KEPT_MAX_LEN: usize = 7 << 20;

thread_local! {
    /// Those that were used last come last: who takes several gets the same as the time before.
    static KEPT: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Numbers in a cache line, at the start of one of which a buffer begins.
const LINE: usize = 16;

/// A buffer with whatever numbers its last user left; goes back to the thread when dropped.
pub(crate) struct Scratch {
    buffer: Vec<f32>,
    start: usize,
    len: usize,
}

impl Scratch {
    /// A buffer of `len` numbers.
    pub(crate) fn take(len: usize) -> Self {
        let mut buffer = KEPT.with(|kept| kept.borrow_mut().pop().unwrap_or_default());
        if buffer.len() < len + LINE {
            buffer.resize(len + LINE, 0.0);
        }
        let start = buffer.as_ptr().align_offset(4 * LINE).min(LINE);
        Self { buffer, start, len }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        // A thread that is ending has nothing to keep the buffer in; then it is simply freed.
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.iter().map(Vec::len).sum::<usize>() + buffer.len() <= KEPT_MAX_LEN {
                kept.push(buffer);
            }
        });
    }
}

impl Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.buffer[self.start..self.start + self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[self.start..self.start + self.len]
    }
}
