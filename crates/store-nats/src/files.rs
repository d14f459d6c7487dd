//! Files that servers share, in the cluster's NATS: a document for each name in a bucket, which tells the version, the size and the time, and
//! has short contents in it; longer ones are in the object store beside it, each under a name of its own that nothing else ever has. A name
//! gets another content by another document that follows the one before. Does not know what the files are.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Error as IoError, ErrorKind, Read as _, Result, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use comfyd_folders::shared::{FileStore, SharedFile, When};
use comfyd_jobs::Error as JobError;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::bucket::{Bucket, Document, Found, Purpose, Refused};
use crate::connect::Link;
use crate::document::{SCHEMA, nonce};
use crate::error::Error;

/// How many bytes a content has at most that is in its document.
const MAX_SHORT_BYTES: u64 = 64 << 10;
/// How many bytes the key of a name has at most: NATS bounds the line that it is in.
const MAX_KEY_BYTES: usize = 3000;
/// How long it is tried to write or read.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it is remembered that a file is gone: whoever wants to write where it was finds the document to follow.
const GONE_KEPT: Duration = Duration::from_hours(1);
/// How many contents are looked at in one go, of those that may be named by nobody.
const MAX_SWEPT: usize = 1_000_000;
/// How often a name is written or read anew that others write at the same time.
const MAX_ROUNDS: usize = 16;

/// What a document says of a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Head {
    /// The schema of who wrote it.
    v: u32,
    /// The least schema of who may read it.
    from: u32,
    nonce: u64,
    /// `None` where there is no file any more.
    file: Option<About>,
}

/// What is said of a file that is there.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct About {
    bytes: u64,
    /// Since the epoch.
    modified_ms: u64,
    /// The object that holds it, if the document does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    object: Option<String>,
}

/// The files of a cluster.
pub struct NatsFiles {
    bucket: Bucket,
    runtime: Handle,
}

impl NatsFiles {
    /// Opens them, or makes their place in NATS, on so many servers (`None`: on three where NATS is a cluster, else on one). Calls are driven
    /// by the runtime that it is opened in, and are to be made outside of its threads.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn open(link: &Link, cluster: &str, replicas: Option<usize>) -> std::result::Result<Self, Error> {
        let purpose = Purpose { cluster, name: "files", objects: "contents", holds: "files", replicas, patience: PATIENCE };
        Ok(Self { bucket: Bucket::open(link.client.clone(), &purpose).await?, runtime: Handle::current() })
    }

    /// What stands under a key: its document's revision, 0 if there is none, and the file, with its content if that is short.
    async fn last(&self, key: &str) -> Result<(u64, Option<(About, Bytes)>)> {
        let Some(Found { revision, head, texts }) = self.bucket.last(key).await.map_err(away)? else { return Ok((0, None)) };
        Ok((revision, file(&head)?.map(|file| (file, texts))))
    }

    /// Writes a document that follows one of this revision. `None` if another one was written meanwhile.
    async fn write(&self, key: &str, file: Option<About>, content: Bytes, after: u64) -> Result<Option<u64>> {
        let kept = file.is_none().then_some(GONE_KEPT);
        let head = Head { v: SCHEMA, from: SCHEMA, nonce: nonce(), file };
        let document = Document { key, head: serde_json::to_string(&head)?, nonce: head.nonce, texts: content, after: Some(after), kept };
        match self.bucket.write(&document).await {
            Ok(revision) => Ok(Some(revision)),
            Err(Refused::Conflict) => Ok(None),
            Err(Refused::Failed(error)) => Err(away(error)),
        }
    }

    async fn put_content(&self, key: &str, about: About, content: Bytes, when: &When) -> Result<Option<SharedFile>> {
        for _ in 0..MAX_ROUNDS {
            let (after, there) = self.last(key).await?;
            if !holds(when, after, there.is_some()) {
                return Ok(None);
            }
            if let Some(revision) = self.write(key, Some(about.clone()), content.clone(), after).await? {
                self.forget(there.and_then(|(before, _)| before.object)).await;
                return Ok(Some(about.told(revision)));
            }
        }
        Err(busy())
    }

    /// Drops contents that have been there for long and that no document names: a process ended before it wrote one, or after it wrote
    /// another. How many there were.
    ///
    /// # Errors
    /// When NATS does not answer.
    pub async fn sweep(&self, age: Duration) -> Result<usize> {
        let mut kept = self.bucket.kept_for(age, MAX_SWEPT).await.map_err(away)?;
        let mut named = HashSet::new();
        let mut failed = Ok(());
        let take = |_: &str, _, head: &str| {
            match file(head) {
                Ok(about) => named.extend(about.and_then(|about| about.object)),
                // What it names is not known.
                Err(error) => failed = Err(error),
            }
            failed.is_ok()
        };
        self.bucket.below(None, take).await.map_err(away)?;
        failed?;
        kept.retain(|object| !named.contains(object));
        for object in &kept {
            self.bucket.drop_object(object).await;
        }
        Ok(kept.len())
    }

    /// Drops a content that no document names any more.
    async fn forget(&self, object: Option<String>) {
        if let Some(object) = object {
            self.bucket.drop_object(&object).await;
        }
    }
}

impl About {
    fn told(&self, revision: u64) -> SharedFile {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(self.modified_ms);
        SharedFile { version: revision.to_string(), bytes: self.bytes, modified }
    }
}

impl FileStore for NatsFiles {
    fn put(&self, name: &str, file: &Path, when: &When) -> Result<Option<SharedFile>> {
        let key = key(name)?;
        let mut source = File::open(file)?;
        let bytes = source.metadata()?.len();
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut about = About { bytes, modified_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX), object: None };
        let mut content = Vec::new();
        let short = bytes <= MAX_SHORT_BYTES;
        if short {
            source.read_to_end(&mut content)?;
            about.bytes = content.len() as u64;
        }
        self.runtime.block_on(async {
            if !short {
                // What is long is sent first, which is for nothing where the name is taken already.
                let (after, there) = self.last(&key).await?;
                if !holds(when, after, there.is_some()) {
                    return Ok(None);
                }
                let object = uuid::Uuid::new_v4().simple().to_string();
                self.bucket.put_file(&object, &mut tokio::fs::File::from_std(source)).await.map_err(away)?;
                about.object = Some(object);
            }
            let object = about.object.clone();
            let put = self.put_content(&key, about, content.into(), when).await;
            if !matches!(put, Ok(Some(_))) {
                self.forget(object).await;
            }
            put
        })
    }

    fn get(&self, name: &str, into: &mut File) -> Result<Option<SharedFile>> {
        use std::io::Seek as _;
        let key = key(name)?;
        let start = into.stream_position()?;
        self.runtime.block_on(async {
            let mut read = None;
            for _ in 0..MAX_ROUNDS {
                let (revision, there) = self.last(&key).await?;
                let Some((about, content)) = there else { return Ok(None) };
                let Some(object) = &about.object else {
                    into.write_all(&content)?;
                    return Ok(Some(about.told(revision)));
                };
                match (self.bucket.read_kept(object, |piece| into.write_all(piece)).await, read) {
                    (Ok(()), _) => return Ok(Some(about.told(revision))),
                    (Err(error), Some(before)) if before == revision => return Err(away(error)),
                    // It may have been written over meanwhile.
                    (Err(_), _) => read = Some(revision),
                }
                into.set_len(start)?;
                into.seek(std::io::SeekFrom::Start(start))?;
            }
            Err(busy())
        })
    }

    fn look(&self, name: &str) -> Result<Option<SharedFile>> {
        let key = key(name)?;
        let (revision, there) = self.runtime.block_on(self.last(&key))?;
        Ok(there.map(|(about, _)| about.told(revision)))
    }

    fn list(&self, folder: &str, most: usize) -> Result<Vec<(String, SharedFile)>> {
        let key = key(folder)?;
        let (mut files, mut failed) = (Vec::new(), Ok(()));
        let take = |key: &str, revision: u64, head: &str| {
            match file(head) {
                Ok(about) => files.extend(self::name(key).zip(about.map(|about| about.told(revision)))),
                Err(error) => failed = Err(error),
            }
            files.len() < most && failed.is_ok()
        };
        self.runtime.block_on(self.bucket.below(Some(&key), take)).map_err(away)?;
        failed.map(|()| files)
    }

    fn remove(&self, name: &str) -> Result<bool> {
        let key = key(name)?;
        self.runtime.block_on(async {
            for _ in 0..MAX_ROUNDS {
                let (after, there) = self.last(&key).await?;
                let Some((before, _)) = there else { return Ok(false) };
                let removed = match self.write(&key, None, Bytes::new(), after).await {
                    // Or room could not be made. Who wrote it anew meanwhile comes first.
                    Err(error) if error.kind() == ErrorKind::StorageFull => {
                        self.bucket.drop_documents(&key).await.map_err(away)?;
                        true
                    }
                    written => written?.is_some(),
                };
                if removed {
                    self.forget(before.object).await;
                    return Ok(true);
                }
            }
            Err(busy())
        })
    }
}

/// Whether a condition holds where this revision stands, of a file or of none.
fn holds(when: &When, revision: u64, there: bool) -> bool {
    match when {
        When::Always => true,
        When::New => !there,
        When::Still(version) => there && revision.to_string() == *version,
    }
}

/// The file that a document tells of.
fn file(head: &str) -> Result<Option<About>> {
    let head: Head = serde_json::from_str(head)?;
    if head.from > SCHEMA {
        return Err(IoError::other("a later version of comfyd wrote it: upgrade this one"));
    }
    Ok(head.file)
}

/// The key of a name: its parts, each of letters, digits, `-`, `_` and `=XX` for every other byte.
fn key(name: &str) -> Result<String> {
    let mut key = String::with_capacity(name.len());
    for part in name.split('/') {
        if part.is_empty() {
            return Err(IoError::new(ErrorKind::InvalidInput, format!("'{name}' is no name of a shared file")));
        }
        if !key.is_empty() {
            key.push('.');
        }
        for byte in part.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_".contains(&byte) {
                key.push(char::from(byte));
            } else {
                key.push_str(&format!("={byte:02x}"));
            }
        }
    }
    if key.len() > MAX_KEY_BYTES {
        return Err(IoError::new(ErrorKind::InvalidFilename, format!("'{name}' is too long for NATS: choose a shorter name")));
    }
    Ok(key)
}

/// The name that a key is of.
fn name(key: &str) -> Option<String> {
    let mut name = Vec::with_capacity(key.len());
    let mut bytes = key.bytes();
    while let Some(byte) = bytes.next() {
        name.push(match byte {
            b'.' => b'/',
            b'=' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(name).ok()
}

fn away(error: JobError) -> IoError {
    let kind = match error {
        JobError::NoSpace => ErrorKind::StorageFull,
        JobError::Unavailable(_) => ErrorKind::HostUnreachable,
        _ => ErrorKind::Other,
    };
    IoError::new(kind, error)
}

fn busy() -> IoError {
    IoError::other("others write the same file all the time: try again")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn keys_tell_names_and_names_keys() {
        for (plain, encoded) in [
            ("input/a.png", "input.a=2epng"),
            ("user/default/日本 é.json", "user.default.=e6=97=a5=e6=9c=ac=20=c3=a9=2ejson"),
            ("temp/=2e*>", "temp.=3d2e=2a=3e"),
        ] {
            assert_eq!(key(plain).unwrap(), encoded);
            assert_eq!(name(encoded).as_deref(), Some(plain));
        }
        assert!(key("a//b").is_err() && key("").is_err() && key(&"é".repeat(1000)).is_err());
        assert_eq!([name("a=2"), name("a=zz"), name("=ff")], [None, None, None]);
    }

    #[test]
    fn documents_of_later_versions_are_read_or_refused_with_words() {
        let later = |from: u32| format!(r#"{{"v":9,"from":{from},"nonce":1,"more":[1],"file":{{"bytes":3,"modified_ms":4,"owner":"x"}}}}"#);
        assert_eq!(file(&later(SCHEMA)).unwrap().unwrap().bytes, 3);
        assert!(file(&later(SCHEMA + 1)).unwrap_err().to_string().contains("upgrade"));
    }
}
