//! The test-suite of every [`FileStore`], and one in memory for tests. It knows the contract only, nothing of how a store works.
//!
//! A failed check panics with its name first.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Test code in a library, so that other crates' tests can call it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Result, Seek as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::shared::{FileStore, SharedFile, When};

/// Files in memory, which can be out of reach for a while.
#[derive(Default)]
pub struct MemoryFiles {
    files: Mutex<BTreeMap<String, (Vec<u8>, SharedFile)>>,
    next: Mutex<u64>,
    /// Whether every call fails.
    pub away: AtomicBool,
}

impl MemoryFiles {
    fn reach(&self) -> Result<()> {
        if self.away.load(Ordering::Relaxed) { Err(std::io::ErrorKind::HostUnreachable.into()) } else { Ok(()) }
    }
}

impl FileStore for MemoryFiles {
    fn put(&self, name: &str, file: &Path, when: &When) -> Result<Option<SharedFile>> {
        self.reach()?;
        let bytes = std::fs::read(file)?;
        let mut files = self.files.lock();
        let there = files.get(name).map(|(_, file)| &file.version);
        let holds = match when {
            When::Always => true,
            When::New => there.is_none(),
            When::Still(version) => there == Some(version),
        };
        if !holds {
            return Ok(None);
        }
        let mut next = self.next.lock();
        *next += 1;
        let put = SharedFile { version: next.to_string(), bytes: bytes.len() as u64, modified: SystemTime::now() };
        files.insert(name.to_owned(), (bytes, put.clone()));
        Ok(Some(put))
    }

    fn get(&self, name: &str, into: &mut File) -> Result<Option<SharedFile>> {
        self.reach()?;
        let Some((bytes, file)) = self.files.lock().get(name).cloned() else { return Ok(None) };
        into.write_all(&bytes)?;
        Ok(Some(file))
    }

    fn look(&self, name: &str) -> Result<Option<SharedFile>> {
        self.reach()?;
        Ok(self.files.lock().get(name).map(|(_, file)| file.clone()))
    }

    fn list(&self, folder: &str, most: usize) -> Result<Vec<(String, SharedFile)>> {
        self.reach()?;
        let files = self.files.lock();
        let below = files.iter().filter(|(name, _)| name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')));
        Ok(below.take(most).map(|(name, (_, file))| (name.clone(), file.clone())).collect())
    }

    fn remove(&self, name: &str) -> Result<bool> {
        self.reach()?;
        Ok(self.files.lock().remove(name).is_some())
    }
}

/// A file of these bytes, with the folder that has it.
fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn put(store: &dyn FileStore, name: &str, bytes: &[u8], when: &When) -> Option<SharedFile> {
    store.put(name, file(bytes).path(), when).unwrap_or_else(|error| panic!("putting '{name}' failed: {error}"))
}

fn got(store: &dyn FileStore, name: &str) -> Option<(Vec<u8>, SharedFile)> {
    let mut into = tempfile::tempfile().unwrap();
    let told = store.get(name, &mut into).unwrap_or_else(|error| panic!("getting '{name}' failed: {error}"))?;
    let mut bytes = Vec::new();
    into.rewind().unwrap();
    into.read_to_end(&mut bytes).unwrap();
    Some((bytes, told))
}

fn names(store: &dyn FileStore, folder: &str, most: usize) -> Vec<String> {
    let mut names: Vec<String> = store.list(folder, most).unwrap().into_iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names
}

/// Runs every check on a store that is empty.
///
/// # Panics
/// When a check fails.
pub fn run(store: &Arc<dyn FileStore>) {
    contents(&**store);
    conditions(&**store);
    lists(&**store);
    races(store);
}

fn contents(store: &dyn FileStore) {
    const CHECK: &str = "contents";
    assert!(got(store, "input/none.png").is_none(), "{CHECK}: a file that there is not");
    assert!(store.look("input/none.png").unwrap().is_none() && !store.remove("input/none.png").unwrap(), "{CHECK}: it is not there");
    // Large enough to come in several pieces, and names as people give them.
    let large: Vec<u8> = (0..9_000_000_u32).map(|n| (n / 7) as u8).collect();
    for (name, bytes) in [
        ("input/a.png", &b"one"[..]),
        ("input/empty", b""),
        ("output/video/long name (2) 50% #1 & co.mp4", &large),
        ("user/default/workflows/日本語 é+.json", b"{}"),
    ] {
        let told = put(store, name, bytes, &When::Always).unwrap();
        assert_eq!(told.bytes, bytes.len() as u64, "{CHECK}: the size of '{name}'");
        let (content, read) = got(store, name).unwrap_or_else(|| panic!("{CHECK}: '{name}' is not there"));
        assert!(content == bytes, "{CHECK}: '{name}' is another file");
        assert_eq!(Some(&read), store.look(name).unwrap().as_ref(), "{CHECK}: all tell the same of '{name}'");
        assert_eq!((read.version, read.bytes), (told.version, told.bytes), "{CHECK}: what was put is what is there: '{name}'");
    }
    let first = store.look("input/a.png").unwrap().unwrap();
    let second = put(store, "input/a.png", b"two", &When::Always).unwrap();
    assert_ne!(first.version, second.version, "{CHECK}: other bytes are another version");
    assert_eq!(got(store, "input/a.png").unwrap().0, b"two", "{CHECK}: the last one is there");
    assert!(store.remove("input/a.png").unwrap() && !store.remove("input/a.png").unwrap(), "{CHECK}: it is removed once");
    assert!(store.look("input/a.png").unwrap().is_none() && got(store, "input/a.png").is_none(), "{CHECK}: it is gone");
}

fn conditions(store: &dyn FileStore) {
    const CHECK: &str = "conditions";
    let first = put(store, "output/c.json", b"1", &When::New).unwrap();
    assert!(put(store, "output/c.json", b"2", &When::New).is_none(), "{CHECK}: the name is taken");
    assert_eq!(got(store, "output/c.json").unwrap().0, b"1", "{CHECK}: what is there stays");
    let second = put(store, "output/c.json", b"22", &When::Still(first.version.clone())).unwrap();
    assert!(put(store, "output/c.json", b"3", &When::Still(first.version)).is_none(), "{CHECK}: another version is there");
    assert_eq!(got(store, "output/c.json").unwrap().0, b"22", "{CHECK}: what is there stays");
    assert!(store.remove("output/c.json").unwrap());
    assert!(put(store, "output/c.json", b"4", &When::Still(second.version)).is_none(), "{CHECK}: nothing is there any more");
    assert!(put(store, "output/c.json", b"5", &When::New).is_some(), "{CHECK}: the name is free again");
    assert!(store.remove("output/c.json").unwrap());
}

fn lists(store: &dyn FileStore) {
    const CHECK: &str = "lists";
    let all = ["temp/l/a.png", "temp/l/b c.png", "temp/l/deep/er/c.png", "temp/list/d.png", "temp/l.png"];
    for name in all {
        put(store, name, name.as_bytes(), &When::Always);
    }
    assert_eq!(
        names(store, "temp/l", 100),
        ["temp/l/a.png", "temp/l/b c.png", "temp/l/deep/er/c.png"],
        "{CHECK}: the folder's and no others'"
    );
    assert_eq!(names(store, "temp/nothing", 100), [""; 0], "{CHECK}: a folder that there is not");
    assert_eq!(names(store, "temp", 2).len(), 2, "{CHECK}: no more than were asked for");
    for (name, file) in store.list("temp", 100).unwrap() {
        assert_eq!(Some(file), store.look(&name).unwrap(), "{CHECK}: a list tells what is told of each: '{name}'");
        assert!(store.remove(&name).unwrap());
    }
}

/// Of several that want one name, one gets it.
fn races(store: &Arc<dyn FileStore>) {
    const CHECK: &str = "races";
    for round in 0..5 {
        let name = format!("output/race_{round:05}_.png");
        let want = |bytes: String| {
            let (store, name) = (Arc::clone(store), name.clone());
            std::thread::spawn(move || put(&*store, &name, bytes.as_bytes(), &When::New).map(|_| bytes))
        };
        let wanting: Vec<_> = (0..4).map(|n| want(format!("of {n}"))).collect();
        let won: Vec<String> = wanting.into_iter().filter_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(won.len(), 1, "{CHECK}: one gets the name");
        assert_eq!(got(&**store, &name).unwrap().0, won[0].as_bytes(), "{CHECK}: and what it put is there");
        assert!(store.remove(&name).unwrap());
    }
}
