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

    /// Keeps what was rendered of a version that was read before; what was rendered of an older one goes.
    pub(crate) fn put(&self, version: u64, key: K, body: &Bytes) {
        let mut state = self.state.lock();
        if body.len() > self.max_bytes || version < state.0 {
            return;
        }
        if version > state.0 {
            *state = (version, VecDeque::new());
        }
        // Whoever asked at the same time rendered it too.
        state.1.retain(|(known, _)| *known != key);
        if state.1.len() >= self.max_bodies {
            state.1.pop_front();
        }
        state.1.push_back((key, body.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_body_replaces_none_of_a_newer_version_and_no_body_is_kept_twice() {
        let (cache, [old, new]) = (Rendered::new(2, 8), [&b"old"[..], b"new"].map(Bytes::from_static));
        for (version, key, body) in
            [(1, 'a', &old), (2, 'a', &new), (1, 'a', &old), (2, 'b', &new), (2, 'b', &new), (2, 'c', &vec![0; 9].into())]
        {
            cache.put(version, key, body);
        }
        assert_eq!(
            [(1, 'a'), (2, 'a'), (2, 'b'), (2, 'c')].map(|(version, key)| cache.get(version, &key)),
            [None, Some(new.clone()), Some(new), None]
        );
    }
}
