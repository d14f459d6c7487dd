//! A catalog that several threads use and that is replaced as a whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::catalog::Catalog;

/// The catalog of a program, which is replaced when classes come or go. Whoever works with it takes it once, at the beginning of a request
/// or a prompt, so that nothing changes meanwhile. Clones share it.
#[derive(Clone, Default)]
pub struct SharedCatalog {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    catalog: RwLock<Arc<Catalog>>,
    version: AtomicU64,
}

impl SharedCatalog {
    /// The catalog as it is now.
    pub fn current(&self) -> Arc<Catalog> {
        Arc::clone(&self.inner.catalog.read())
    }

    /// Puts another in its place.
    pub fn replace(&self, catalog: Arc<Catalog>) {
        *self.inner.catalog.write() = catalog;
        // Behind the change: what is made of a catalog shows at least the version that was read before.
        self.inner.version.fetch_add(1, Ordering::AcqRel);
    }

    /// A number that grows with each catalog.
    pub fn version(&self) -> u64 {
        self.inner.version.load(Ordering::Acquire)
    }
}

impl From<Arc<Catalog>> for SharedCatalog {
    fn from(catalog: Arc<Catalog>) -> Self {
        let shared = Self::default();
        shared.replace(catalog);
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_stays_when_another_comes() {
        let shared = SharedCatalog::from(Arc::new(Catalog::new()));
        let (taken, version, clone) = (shared.current(), shared.version(), shared.clone());
        clone.replace(Arc::new(Catalog::new()));
        assert!(shared.version() > version);
        assert!(!Arc::ptr_eq(&taken, &shared.current()));
    }
}
