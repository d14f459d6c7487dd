//! Files that several servers share: a store has them, and the folders here hold copies, of which as many stay as there is room for. Does not
//! know which store it is.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fs::{self, File, Metadata};
use std::hash::BuildHasher as _;
use std::io::{Error, ErrorKind, Result, Seek as _, Write as _};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use comfyd_node::actor;
use parking_lot::Mutex;

use crate::FileVersion;
use crate::listing::Listing;
use crate::roots::Roots;
use crate::whole::{Replace, Unfinished};

/// Files of one folder that a listing has.
const MAX_LISTED: usize = 200_000;
/// How long a listing is good: combos ask for it again and again. Whether a certain file is there is asked of the store itself.
const FRESH: Duration = Duration::from_secs(1);
/// Whoever was given a copy may not have opened it yet: it stays for so long.
const IN_USE: Duration = Duration::from_secs(60);
/// To which part of the bound copies are removed once there are more, so that it is not done for each file.
const ROOM_PART: f64 = 0.9;
/// Copies that are made at once of different files, more or less: two of one file wait for each other.
const TURNS: usize = 64;
/// How long whoever waits for the store waits until it is asked again, besides what the store takes to say that it cannot be reached.
const PAUSE: Duration = Duration::from_millis(200);
/// How often a file is changed anew that others change too.
const MAX_ATTEMPTS: usize = 16;
/// How long a change that others were faster with waits at most before it is tried again, in microseconds.
const MAX_YIELD_US: u64 = 20_000;

/// A version of a shared file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedFile {
    /// Which one: another for each content that the name has had.
    pub version: String,
    /// How large it is.
    pub bytes: u64,
    /// Since when it is there.
    pub modified: SystemTime,
}

/// Under which condition a file is put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// Whatever is there.
    Always,
    /// Only where there is none of that name.
    New,
    /// Only where this version is still there.
    Still(String),
}

/// Has files that several servers share, by names such as `input/a.png`. Its calls wait, and may be made from any thread that can; what fails
/// is nobody's fault who named a file, but the store's: `HostUnreachable` where that may pass by itself, `StorageFull` where it has no room. A
/// call that failed may be made again. What was put is seen by all from then on.
///
/// Implementations run `contract::run` in their tests.
pub trait FileStore: Send + Sync {
    /// Stores a file; `None` if the condition does not hold.
    fn put(&self, name: &str, file: &Path, when: &When) -> Result<Option<SharedFile>>;

    /// Writes a file's content; `None` if there is none of that name.
    fn get(&self, name: &str, into: &mut File) -> Result<Option<SharedFile>>;

    /// What is known of a file.
    fn look(&self, name: &str) -> Result<Option<SharedFile>>;

    /// All files in a folder, such as `input` or `user/default`, and in those in it, by their names; at most so many.
    fn list(&self, folder: &str, most: usize) -> Result<Vec<(String, SharedFile)>>;

    /// Removes a file. Whether there was one.
    fn remove(&self, name: &str) -> Result<bool>;
}

impl SharedFile {
    /// The time that a copy of this version has here: it tells the version, so that nothing else need be kept of copies, and is the same on
    /// all servers, whose validators are made of it. The part below a second stands for the version.
    pub fn time(&self) -> SystemTime {
        let seconds = self.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let [a, b, c, d, ..] = *blake3::hash(self.version.as_bytes()).as_bytes();
        let microseconds = u32::from_le_bytes([a, b, c, d]) % 1_000_000;
        SystemTime::UNIX_EPOCH + Duration::new(seconds, microseconds * 1_000)
    }

    fn is(&self, copy: &Metadata) -> bool {
        copy.is_file() && copy.len() == self.bytes && copy.modified().is_ok_and(|time| time == self.time())
    }
}

/// The files below a folder, by their names in it, sorted.
pub(crate) type Listed = Arc<Vec<(String, SharedFile)>>;

/// As of when something is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Now,
    Recent,
}

/// The copies that are here.
pub struct Copies {
    store: Arc<dyn FileStore>,
    /// The names of the folders that are shared, and where their copies are.
    places: [(&'static str, PathBuf); 4],
    most_bytes: u64,
    known: Mutex<Known>,
    turns: Vec<Mutex<()>>,
    listings: Mutex<HashMap<String, (Instant, Listed)>>,
    /// Short-lived files that this server has put.
    passing: Mutex<Vec<String>>,
}

impl std::fmt::Debug for Copies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copies").field("most_bytes", &self.most_bytes).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Known {
    copies: HashMap<String, Used>,
    bytes: u64,
}

struct Used {
    bytes: u64,
    at: Option<Instant>,
    version: Option<FileVersion>,
}

impl Copies {
    /// Copies of what is in this store below these folders, of at most so many bytes.
    pub fn new(store: Arc<dyn FileStore>, roots: &Roots, most_bytes: u64) -> Self {
        let Roots { input, output, temp, user, .. } = roots.clone();
        let places = [("input", input), ("output", output), ("temp", temp), ("user", user)];
        let mut known = Known::default();
        // What is kept of users lies beside the program's own files, and is small.
        for (place, root) in &places[..3] {
            for file in Listing::read(root).files {
                let bytes = fs::metadata(root.join(&file)).map_or(0, |found| found.len());
                known.add(format!("{place}/{file}"), Used { bytes, at: None, version: None });
            }
        }
        Self {
            store,
            places,
            most_bytes,
            known: Mutex::new(known),
            turns: (0..TURNS).map(|_| Mutex::default()).collect(),
            listings: Mutex::default(),
            passing: Mutex::default(),
        }
    }

    /// What the store answers. Where it cannot be reached, a prompt that runs waits until it can be, as its outcome would.
    fn ask<T>(&self, mut ask: impl FnMut(&dyn FileStore) -> Result<T>) -> Result<T> {
        let mut waits = false;
        loop {
            let error = match ask(&*self.store) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let patient = actor().patient.filter(|interrupt| error.kind() == ErrorKind::HostUnreachable && !interrupt.is_cancelled());
            if patient.is_none() {
                return Err(unusable(error));
            }
            if !waits {
                tracing::warn!(%error, "a prompt waits for the store of files, until it is interrupted");
                waits = true;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// What all call a file; `None` if it is none that is shared.
    fn name(&self, path: &Path) -> Option<String> {
        let (place, below) = self.places.iter().find_map(|(place, root)| Some((place, path.strip_prefix(root).ok()?)))?;
        let mut name = (*place).to_owned();
        for part in below.components() {
            let Component::Normal(part) = part else { return None };
            name.push('/');
            name.push_str(part.to_str()?);
        }
        Some(name)
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        let (place, below) = name.split_once('/')?;
        self.places.iter().find(|(known, _)| *known == place).map(|(_, root)| root.join(below))
    }

    fn turn(&self, name: &str) -> &Mutex<()> {
        let [first, ..] = *blake3::hash(name.as_bytes()).as_bytes();
        &self.turns[usize::from(first) % TURNS]
    }

    /// Whether there is such a file.
    pub(crate) fn has(&self, path: &Path) -> Result<bool> {
        let Some(name) = self.name(path) else { return Ok(path.is_file()) };
        Ok(self.ask(|store| store.look(&name))?.is_some())
    }

    /// Sees to it that the file is here as it is there. Whether it is there at all.
    pub(crate) fn fetch(&self, path: &Path) -> Result<bool> {
        let Some(name) = self.name(path) else { return Ok(path.is_file()) };
        let _turn = self.turn(&name).lock();
        self.fetch_named(&name, path)
    }

    fn fetch_named(&self, name: &str, path: &Path) -> Result<bool> {
        let Some(file) = self.ask(|store| store.look(name))? else {
            self.drop_copy(name, path);
            return Ok(false);
        };
        if let Ok(copy) = fs::metadata(path)
            && file.is(&copy)
        {
            self.uses(name, &copy);
            return Ok(true);
        }
        let folder = path.parent().ok_or(ErrorKind::InvalidFilename)?;
        fs::create_dir_all(folder)?;
        let mut unfinished = Unfinished::begin(folder)?;
        // Its time must not be set while something still writes.
        let get = |store: &dyn FileStore| {
            // Nothing is left of an attempt that failed.
            let into = unfinished.file();
            into.rewind()?;
            into.set_len(0)?;
            store.get(name, into)
        };
        let Some(file) = self.ask(get)? else { return Ok(false) };
        self.settle(name, unfinished, path, &file)?;
        Ok(true)
    }

    /// Removes a copy of what was removed elsewhere. What is no copy stays: it is nowhere else.
    fn drop_copy(&self, name: &str, path: &Path) {
        let copied = self.known.lock().copies.get(name).and_then(|used| used.version);
        let here = fs::metadata(path).ok().and_then(|found| FileVersion::of(&found).ok());
        if copied.is_some() && copied == here && removed(path).is_ok() {
            self.known.lock().forget(name);
        }
    }

    /// Puts a copy in its place.
    fn settle(&self, name: &str, mut unfinished: Unfinished, path: &Path, file: &SharedFile) -> Result<()> {
        unfinished.file().flush()?;
        unfinished.file().set_modified(file.time())?;
        unfinished.put(path, Replace::Yes)?;
        self.uses(name, &fs::metadata(path)?);
        self.make_room();
        Ok(())
    }

    /// Shares what was written, and puts it in its place here; gives it back if the condition does not hold.
    pub(crate) fn place(&self, mut unfinished: Unfinished, path: &Path, when: &When) -> Result<Option<Unfinished>> {
        let name = self.name(path).ok_or(ErrorKind::InvalidFilename)?;
        let _turn = self.turn(&name).lock();
        unfinished.file().flush()?;
        let written = unfinished.path().to_owned();
        let Some(file) = self.ask(|store| store.put(&name, &written, when))? else { return Ok(Some(unfinished)) };
        self.put_by_us(&name);
        self.settle(&name, unfinished, path, &file)?;
        Ok(None)
    }

    /// The same for bytes.
    pub(crate) fn write(&self, path: &Path, bytes: &[u8], when: &When) -> Result<bool> {
        let folder = path.parent().ok_or(ErrorKind::InvalidFilename)?;
        fs::create_dir_all(folder)?;
        let mut unfinished = Unfinished::begin(folder)?;
        unfinished.file().write_all(bytes)?;
        Ok(self.place(unfinished, path, when)?.is_none())
    }

    /// Shares a file that somebody wrote into a folder. Whether the condition held.
    fn publish(&self, name: &str, path: &Path, when: &When) -> Result<bool> {
        let Some(file) = self.ask(|store| store.put(name, path, when))? else { return Ok(false) };
        self.put_by_us(name);
        File::options().append(true).open(path)?.set_modified(file.time())?;
        self.uses(name, &fs::metadata(path)?);
        self.make_room();
        Ok(true)
    }

    /// Shares a file that a program wrote which knows nothing of this, unless it is shared as it is. Another server may have a file of that
    /// name: then this one gets another name, which is returned.
    pub(crate) fn announce(&self, path: &Path) -> Result<Option<PathBuf>> {
        let Some(name) = self.name(path) else { return Ok(None) };
        let version = FileVersion::of(&fs::metadata(path)?)?;
        let before = self.known.lock().copies.get(&name).map(|used| used.version);
        if before == Some(Some(version)) {
            return Ok(None);
        }
        // What was a copy before was written over on purpose.
        let when = if before.flatten().is_some() { When::Always } else { When::New };
        let turn = self.turn(&name).lock();
        if self.publish(&name, path, &when)? {
            return Ok(None);
        }
        if self.ask(|store| store.look(&name))?.is_some_and(|file| fs::metadata(path).is_ok_and(|copy| file.is(&copy))) {
            return Ok(None);
        }
        drop(turn);
        for number in 1.. {
            let other = numbered(path, number).ok_or(ErrorKind::InvalidFilename)?;
            let Some(name) = self.name(&other) else { continue };
            if other.exists() || self.ask(|store| store.look(&name))?.is_some() {
                continue;
            }
            fs::rename(path, &other)?;
            if self.publish(&name, &other, &When::New)? {
                return Ok(Some(other));
            }
            fs::rename(&other, path)?;
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    /// Removes a file everywhere. Whether there was one.
    pub(crate) fn remove(&self, path: &Path) -> Result<bool> {
        let Some(name) = self.name(path) else { return removed(path) };
        let _turn = self.turn(&name).lock();
        let was_there = self.ask(|store| store.remove(&name))?;
        removed(path)?;
        self.known.lock().forget(&name);
        self.changed(&name);
        Ok(was_there)
    }

    /// Gives a file another name. Whether it has it: `false` only where there is a file of that name that is not to be replaced.
    pub(crate) fn rename(&self, from: &Path, to: &Path, replace: Replace) -> Result<bool> {
        if !self.fetch(from)? {
            return Err(ErrorKind::NotFound.into());
        }
        let folder = to.parent().ok_or(ErrorKind::InvalidFilename)?;
        fs::create_dir_all(folder)?;
        let mut unfinished = Unfinished::begin(folder)?;
        std::io::copy(&mut File::open(from)?, unfinished.file())?;
        let when = if replace == Replace::No { When::New } else { When::Always };
        if self.place(unfinished, to, &when)?.is_some() {
            return Ok(false);
        }
        self.remove(from)?;
        Ok(true)
    }

    /// Changes a file that others may change too: `change` is told whether it is here, and gives what is to be there. Where another one changed
    /// it meanwhile, it is asked anew.
    pub(crate) fn change<E: From<Error>>(
        &self,
        path: &Path,
        mut change: impl FnMut(bool) -> std::result::Result<Vec<u8>, E>,
    ) -> std::result::Result<(), E> {
        let name = self.name(path).ok_or_else(|| Error::from(ErrorKind::InvalidFilename))?;
        for _ in 0..MAX_ATTEMPTS {
            let file = self.ask(|store| store.look(&name))?;
            let is_there = file.is_some() && self.fetch(path)?;
            let when = file.map_or(When::New, |file| When::Still(file.version));
            if self.write(path, &change(is_there)?, &when)? {
                return Ok(());
            }
            // So that not the same one is always the faster: by chance, up to a few times what a change takes.
            std::thread::sleep(Duration::from_micros(RandomState::new().hash_one(0) % MAX_YIELD_US));
        }
        Err(Error::new(ErrorKind::ResourceBusy, "others change this file all the time: try again").into())
    }

    /// The files below a folder, by their names in it, as they are or were a moment ago; whether this is another list than the last one.
    pub(crate) fn list(&self, folder: &Path, moment: Moment) -> Result<(Listed, bool)> {
        let Some(name) = self.name(folder) else { return Ok((Arc::default(), false)) };
        let now = Instant::now();
        let last = self.listings.lock().get(&name).cloned();
        if let Some((at, listed)) = &last
            && moment == Moment::Recent
            && now - *at < FRESH
        {
            return Ok((Arc::clone(listed), false));
        }
        let mut files = self.ask(|store| store.list(&name, MAX_LISTED))?;
        for (file, _) in &mut files {
            file.drain(..name.len() + 1);
        }
        files.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let differs = last.is_none_or(|(_, old)| !old.iter().map(|(name, _)| name).eq(files.iter().map(|(name, _)| name)));
        let listed = Arc::new(files);
        self.listings.lock().insert(name, (now, Arc::clone(&listed)));
        Ok((listed, differs))
    }

    /// Removes the short-lived files that this server has put.
    pub fn end(&self) {
        for name in std::mem::take(&mut *self.passing.lock()) {
            if let Err(error) = self.store.remove(&name) {
                tracing::warn!(name, %error, "a temporary file could not be removed from the store");
            }
        }
    }

    fn put_by_us(&self, name: &str) {
        if name.starts_with("temp/") {
            self.passing.lock().push(name.to_owned());
        }
        self.changed(name);
    }

    /// Lists of the folders that a file is in are out of date.
    fn changed(&self, name: &str) {
        self.listings.lock().retain(|folder, (at, _)| {
            if name.starts_with(folder.as_str()) {
                // It is compared with the next one.
                *at = at.checked_sub(FRESH).unwrap_or(*at);
            }
            true
        });
    }

    fn uses(&self, name: &str, copy: &Metadata) {
        let used = Used { bytes: copy.len(), at: Some(Instant::now()), version: FileVersion::of(copy).ok() };
        self.known.lock().add(name.to_owned(), used);
    }

    /// Removes the copies that were not used for longest, where there are too many. What is not in the store as it is here is no copy, and
    /// stays.
    fn make_room(&self) {
        let mut oldest: Vec<(Option<Instant>, String)> = {
            let known = self.known.lock();
            if known.bytes <= self.most_bytes {
                return;
            }
            let idle = |used: &Used| used.at.is_none_or(|at| at.elapsed() > IN_USE);
            known.copies.iter().filter(|(_, used)| idle(used)).map(|(name, used)| (used.at, name.clone())).collect()
        };
        oldest.sort_unstable();
        let wanted = (self.most_bytes as f64 * ROOM_PART) as u64;
        for (_, name) in oldest {
            if self.known.lock().bytes <= wanted {
                return;
            }
            let (Some(path), Some(_turn)) = (self.path(&name), self.turn(&name).try_lock()) else { continue };
            let is_copy =
                self.store.look(&name).is_ok_and(|file| file.is_some_and(|file| fs::metadata(&path).is_ok_and(|copy| file.is(&copy))));
            if !is_copy || removed(&path).is_ok() {
                self.known.lock().forget(&name);
            }
        }
    }
}

impl Known {
    fn add(&mut self, name: String, used: Used) {
        self.bytes += used.bytes;
        if let Some(before) = self.copies.insert(name, used) {
            self.bytes -= before.bytes;
        }
    }

    fn forget(&mut self, name: &str) {
        if let Some(before) = self.copies.remove(name) {
            self.bytes -= before.bytes;
        }
    }
}

fn removed(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether an error is the store's, which may pass.
pub fn is_unusable(error: &Error) -> bool {
    error.kind() == ErrorKind::HostUnreachable
}

fn unusable(error: Error) -> Error {
    if error.kind() == ErrorKind::StorageFull {
        return error;
    }
    Error::new(
        ErrorKind::HostUnreachable,
        format!("the store of files cannot be used ({error}): try again in a moment, or look whether it runs"),
    )
}

/// The file's name with the number behind the one that it has as a saved file, or with one of its own.
fn numbered(path: &Path, more: u64) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let (stem, ending) = name.rsplit_once('.').map_or((name, String::new()), |(stem, ending)| (stem, format!(".{ending}")));
    let counted = stem.strip_suffix('_').and_then(|stem| stem.rsplit_once('_')).and_then(|(prefix, number)| {
        let number: u64 = number.parse().ok()?;
        Some(format!("{prefix}_{:05}_", number.checked_add(more)?))
    });
    let stem = counted.unwrap_or_else(|| format!("{stem} ({more})"));
    Some(path.with_file_name(format!("{stem}{ending}")))
}
