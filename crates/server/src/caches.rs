//! Answers that were rendered once and are asked for again and again, until what they show changes.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;

/// The bodies of one version of something, by what was asked for. Bounded: the oldest goes.
pub(crate) struct Rendered<K> {
    max_bodies: usize,
    max_bytes: usize,
    state: Mutex<(u64, VecDeque<(K, Bytes)>)>,
}

impl<K: PartialEq> Rendered<K> {
    /// A cache of so many bodies; larger ones than `max_bytes` are not kept.
    pub(crate) fn new(max_bodies: usize, max_bytes: usize) -> Self {
        Self { max_bodies, max_bytes, state: Mutex::default() }
    }

    /// What was rendered of a version.
    pub(crate) fn get(&self, version: u64, key: &K) -> Option<Bytes> {
        let state = self.state.lock();
        (state.0 == version).then(|| state.1.iter().find(|(k, _)| k == key).map(|(_, body)| body.clone()))?
    }

    /// Keeps what was rendered of a version that was read before; what was rendered of another goes.
    pub(crate) fn put(&self, version: u64, key: K, body: &Bytes) {
        if body.len() > self.max_bytes {
            return;
        }
        let mut state = self.state.lock();
        if state.0 != version {
            *state = (version, VecDeque::new());
        }
        if state.1.len() >= self.max_bodies {
            state.1.pop_front();
        }
        state.1.push_back((key, body.clone()));
    }
}
