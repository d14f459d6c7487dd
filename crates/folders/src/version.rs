//! By what a change of a file is noticed without reading it. Does not know what is in it.

use std::fs::Metadata;
use std::io;
use std::time::{Duration, SystemTime};

use crate::listing::TICK;

/// The state of a file as the file system tells it. A file that is written, or replaced by another one, gets another state: on Unix even
/// if its size and its modification time are made equal, since the time of the change itself cannot be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileVersion {
    bytes: u64,
    modified: SystemTime,
    #[cfg(unix)]
    place: (u64, u64),
    #[cfg(unix)]
    changed: (i64, i64),
}

impl FileVersion {
    /// The state that this metadata tells.
    pub fn of(metadata: &Metadata) -> io::Result<Self> {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt;
        Ok(Self {
            bytes: metadata.len(),
            modified: metadata.modified()?,
            #[cfg(unix)]
            place: (metadata.dev(), metadata.ino()),
            #[cfg(unix)]
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Whether a file that has this state at any later time has the content that it has `now`. Not so if it changed a moment ago, since
    /// it may change again within one tick of the file system's clock.
    pub fn tells_content(&self, now: SystemTime) -> bool {
        #[cfg(unix)]
        {
            let (seconds, nanoseconds) = self.changed;
            let changed = u64::try_from(seconds).ok().zip(u32::try_from(nanoseconds).ok());
            let changed = changed.and_then(|(s, ns)| SystemTime::UNIX_EPOCH.checked_add(Duration::new(s, ns)));
            // Some file systems count whole seconds, or pairs of them.
            let tick = if nanoseconds == 0 { Duration::from_secs(2) } else { TICK };
            changed.and_then(|changed| now.duration_since(changed).ok()).is_some_and(|age| age > tick)
        }
        #[cfg(not(unix))]
        {
            let _ = (now, TICK, Duration::ZERO);
            false
        }
    }
}
