//! API keys: whose they are, what they allow and until when. One file in the user folder keeps their hashes; the program's `key` commands
//! change it, and a running server follows it. Knows no request.

use std::fmt;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use comfyd_folders::FileVersion;
use comfyd_folders::whole::{self, Replace};
use comfyd_jobs::now_ms;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

/// The file in the user folder.
const FILE: &str = "keys.json";
/// How keys begin, so that they are known where they turn up.
const PREFIX: &str = "comfyd_";
/// Random bytes of a key.
const SECRET_BYTES: usize = 32;
/// Keys that may be kept: each request that shows one is compared with all.
const MAX_KEYS: usize = 1_000;
/// Longest name of a user. It is a folder's name too.
const MAX_NAME_BYTES: usize = 64;
/// Longest file that is read.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// How often a server looks whether the file has changed: so long a revoked key may still be good.
pub const FOLLOWED: Duration = Duration::from_millis(100);

/// What a key allows; each scope has those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Looking at one's own queue, history and files, and at what all share: node classes, models, the front end.
    Read,
    /// Having prompts run, with all that belongs to it.
    Run,
    /// Everything, and everybody's.
    Admin,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Read => "read",
            Self::Run => "run",
            Self::Admin => "admin",
        })
    }
}

/// What is kept of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Tells it from the user's others.
    pub id: String,
    /// Whose it is.
    pub user: String,
    /// What it allows.
    pub scope: Scope,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: i64,
    /// When it ends, if it does.
    pub expires_ms: Option<i64>,
    /// SHA-256 of the key, hexadecimal. Keys are 256 random bits: a hash that is slow would add nothing.
    hash: String,
}

#[derive(Default, Serialize, Deserialize)]
struct Kept {
    keys: Vec<Key>,
}

/// The file that keeps the keys.
#[derive(Debug, Clone)]
pub struct KeyFile {
    path: PathBuf,
}

impl KeyFile {
    /// The file in a user folder; it need not be there.
    pub fn of(user_folder: &Path) -> Self {
        Self { path: user_folder.join(FILE) }
    }

    /// Makes a key for a user. What it gives beside the key is all there ever is of it.
    ///
    /// # Errors
    /// A sentence.
    pub fn add(&self, user: &str, scope: Scope, lasts: Option<Duration>) -> Result<(Key, String), String> {
        check_name(user)?;
        let mut secret = [0; SECRET_BYTES];
        let random = rustls::crypto::ring::default_provider().secure_random;
        random.fill(&mut secret).map_err(|_| "the system gives no random numbers: no key can be made".to_owned())?;
        let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret));
        let hash = hex(&digest(&token));
        let created_ms = now_ms();
        let lasts_ms = lasts.map(|lasts| i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX));
        let expires_ms = lasts_ms.map(|lasts| created_ms.saturating_add(lasts));
        let key = Key { id: hash[..8].to_owned(), user: user.to_owned(), scope, created_ms, expires_ms, hash };
        self.change(|keys| {
            if keys.len() >= MAX_KEYS {
                return Err(format!("there are {MAX_KEYS} keys already: revoke some first"));
            }
            keys.push(key.clone());
            Ok(())
        })?;
        Ok((key, token))
    }

    /// All keys, those that have ended included.
    ///
    /// # Errors
    /// A sentence.
    pub fn list(&self) -> Result<Vec<Key>, String> {
        let unreadable = |reason: &dyn fmt::Display| {
            let path = self.path.display();
            format!("the keys in '{path}' cannot be read ({reason}): mend the file, or move it away, which revokes all keys")
        };
        match fs::metadata(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unreadable(&error)),
            Ok(found) if found.len() > MAX_FILE_BYTES => return Err(unreadable(&"it is too large")),
            Ok(_) => {}
        }
        let text = fs::read(&self.path).map_err(|error| unreadable(&error))?;
        let kept: Kept = serde_json::from_slice(&text).map_err(|error| unreadable(&error))?;
        Ok(kept.keys)
    }

    /// Removes the key of this id, or all of this user; gives what was removed.
    ///
    /// # Errors
    /// A sentence, also where there is no such key.
    pub fn revoke(&self, name: &str) -> Result<Vec<Key>, String> {
        let mut revoked = Vec::new();
        self.change(|keys| {
            revoked = keys.extract_if(.., |key| key.id == name || key.user == name).collect();
            if revoked.is_empty() { Err(format!("there is no key '{name}': `comfyd key list` names them")) } else { Ok(()) }
        })?;
        Ok(revoked)
    }

    /// Reads, changes and writes while no other program does.
    fn change(&self, change: impl FnOnce(&mut Vec<Key>) -> Result<(), String>) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("the keys in '{}' cannot be changed: {error}", self.path.display());
        fs::create_dir_all(self.path.parent().unwrap_or(Path::new("."))).map_err(failed)?;
        let lock = File::options().create(true).truncate(false).write(true).open(self.path.with_extension("lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        let mut keys = self.list()?;
        change(&mut keys)?;
        let text = serde_json::to_vec_pretty(&Kept { keys }).map_err(|error| failed(error.into()))?;
        whole::write_private(&self.path, &text, Replace::Yes).map_err(failed)?;
        Ok(())
    }

    fn version(&self) -> Option<FileVersion> {
        fs::metadata(&self.path).and_then(|found| FileVersion::of(&found)).ok()
    }
}

/// A user's name is a folder's: it must be one on every system, and no two may differ in their case only.
fn check_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = name.len() <= MAX_NAME_BYTES && name.bytes().all(|byte| plain(byte) || b"-_".contains(&byte));
    if fits && name.bytes().next().is_some_and(plain) {
        return Ok(());
    }
    Err(format!("'{name}' cannot be a user's name: take 1 to {MAX_NAME_BYTES} of a-z, 0-9, - and _, beginning with a letter or a digit"))
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Somebody who has shown a key.
#[derive(Debug, PartialEq, Eq)]
pub struct Caller {
    /// Whose key it is.
    pub user: Arc<str>,
    /// What it allows.
    pub scope: Scope,
    /// The key's id.
    pub id: String,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: Option<i64>,
    hash: [u8; 32],
}

impl Caller {
    fn of(key: &Key) -> Option<Self> {
        let digits = key.hash.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        let hash = digits.collect::<Option<Vec<u8>>>()?.try_into().ok()?;
        check_name(&key.user).ok()?;
        Some(Self { user: key.user.as_str().into(), scope: key.scope, id: key.id.clone(), expires_ms: key.expires_ms, hash })
    }

    fn ended(&self, now_ms: i64) -> bool {
        self.expires_ms.is_some_and(|end| end <= now_ms)
    }
}

/// The keys as a running server knows them.
pub struct Keys {
    file: Option<KeyFile>,
    known: RwLock<Arc<Known>>,
    required: Arc<AtomicBool>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Known {
    version: Option<FileVersion>,
    callers: Vec<Arc<Caller>>,
}

impl Default for Keys {
    /// No keys, and none is asked for.
    fn default() -> Self {
        Self { file: None, known: RwLock::default(), required: Arc::default(), changes: watch::Sender::default() }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("required", &self.required()).finish_non_exhaustive()
    }
}

impl Keys {
    /// The keys of a file. A key is asked for where `always` says so, and from when there is one.
    ///
    /// # Errors
    /// A sentence where they cannot be read.
    pub fn open(file: KeyFile, always: bool) -> Result<Self, String> {
        let keys = Self { required: Arc::new(AtomicBool::new(always)), file: Some(file), ..Self::default() };
        keys.read()?;
        Ok(keys)
    }

    /// Whether a key is asked for.
    pub fn required(&self) -> bool {
        self.required.load(Ordering::Acquire)
    }

    /// The same for who does not know keys.
    pub fn requires(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.required)
    }

    /// Whether there is one that is good.
    pub fn any(&self) -> bool {
        let now = now_ms();
        self.known.read().callers.iter().any(|caller| !caller.ended(now))
    }

    /// Whose key this is, if it is good. It takes as long for each: the key is compared with all, and each comparison looks at all bytes.
    pub fn find(&self, token: &str) -> Option<Arc<Caller>> {
        let hash = digest(token);
        let known = Arc::clone(&self.known.read());
        let mut found = None;
        for caller in &known.callers {
            if bool::from(caller.hash.ct_eq(&hash)) {
                found = Some(Arc::clone(caller));
            }
        }
        found.filter(|caller| !caller.ended(now_ms()))
    }

    /// Whether a key that was good still is.
    pub fn holds(&self, caller: &Caller) -> bool {
        !caller.ended(now_ms()) && self.known.read().callers.iter().any(|known| **known == *caller)
    }

    /// Waits until somebody who was let in would not be any more: with a key, or without any while none was asked for.
    pub async fn shut_out(&self, caller: Option<&Caller>) {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            let good = caller.map_or_else(|| !self.required(), |caller| self.holds(caller));
            if !good {
                return;
            }
            let left_ms = caller.and_then(|caller| caller.expires_ms).map(|end| end.saturating_sub(now_ms()).max(0));
            let changed = changes.changed();
            let ended = match left_ms {
                Some(left) => tokio::time::timeout(Duration::from_millis(left.unsigned_abs()), changed).await.unwrap_or(Ok(())),
                None => changed.await,
            };
            if ended.is_err() {
                return;
            }
        }
    }

    /// Follows the file for good.
    pub async fn follow(self: Arc<Self>) {
        let Some(file) = self.file.clone() else { return };
        loop {
            tokio::time::sleep(FOLLOWED).await;
            let (keys, file) = (Arc::clone(&self), file.clone());
            let followed = tokio::task::spawn_blocking(move || {
                let known = keys.known.read().version;
                if file.version() == known { Ok(()) } else { keys.read() }
            });
            match followed.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!("the keys stay as they were: {error}"),
                Err(error) => tracing::error!(%error, "the keys could not be read"),
            }
        }
    }

    fn read(&self) -> Result<(), String> {
        let Some(file) = &self.file else { return Ok(()) };
        // Before it is read: a change meanwhile is noticed next time.
        let version = file.version();
        let kept = file.list().inspect_err(|_| {
            let callers = self.known.read().callers.clone();
            *self.known.write() = Arc::new(Known { version, callers });
        })?;
        let callers: Vec<_> = kept.iter().filter_map(Caller::of).map(Arc::new).collect();
        if callers.len() < kept.len() {
            tracing::error!("some keys are damaged and open nothing: `comfyd key list` names all, revoke and make them anew");
        }
        if !callers.is_empty() {
            self.required.store(true, Ordering::Release);
        }
        *self.known.write() = Arc::new(Known { version, callers });
        self.changes.send_modify(|changes| *changes += 1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn keys_are_kept_as_hashes_and_found_until_they_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeyFile::of(dir.path());
        let (key, token) = file.add("ann", Scope::Run, None).unwrap();
        let (_, short) = file.add("bob", Scope::Read, Some(Duration::ZERO)).unwrap();
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert!(!text.contains(&token[PREFIX.len()..]) && text.contains(&key.hash));
        let keys = Keys::open(file.clone(), false).unwrap();
        assert!(keys.required() && keys.any());
        let found = keys.find(&token).unwrap();
        assert_eq!((&*found.user, found.scope, &found.id), ("ann", Scope::Run, &key.id));
        assert!(keys.find(&short).is_none() && keys.find("").is_none() && keys.find(&key.hash).is_none());
        assert_eq!(file.revoke("ann").unwrap(), [key]);
        assert!(keys.holds(&found), "it is read when it is followed");
        keys.read().unwrap();
        assert!(!keys.holds(&found) && keys.find(&token).is_none() && keys.required() && !keys.any());
        assert!(file.revoke("ann").unwrap_err().contains("no key 'ann'"));
    }

    #[test]
    fn a_damaged_file_opens_nothing_and_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeyFile::of(dir.path());
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(Keys::open(file.clone(), false).is_err());
        assert!(file.add("ann", Scope::Run, None).is_err());
        assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap(), "{");
    }

    #[test]
    fn names_are_folders_everywhere() {
        for wrong in ["", "Ann", "a/b", "..", ".a", "-a", "a b", "ü", &"a".repeat(65)] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
        assert!(check_name("ann-1_b").is_ok() && check_name("0").is_ok());
    }
}
