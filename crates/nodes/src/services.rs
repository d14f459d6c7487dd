//! What the nodes work with: folders, limits, and the little state that they share.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use comfyd_engine::Engine;
use comfyd_folders::{FileVersion, Folders, Kind};
use comfyd_media::Media;
use comfyd_node::{CancellationToken, Error, Result};
use parking_lot::Mutex;

/// Files over this size are not hashed.
const MAX_HASHED_BYTES: u64 = 256 << 20;
/// File hashes that are remembered; past that all are forgotten and computed again.
const MAX_HASHES: usize = 10_000;

/// Bytes of a file that are read at once when it is hashed.
const HASH_CHUNK: u64 = 4 << 20;

/// The letters of a preview's random name. As in the reference, `w` is missing and `p` is there twice.
const PREVIEW_LETTERS: &[u8; 26] = b"abcdefghijklmnopqrstupvxyz";

/// What the built-in nodes need from outside.
#[derive(Clone)]
pub struct Services {
    /// Where files live.
    pub folders: Arc<Folders>,
    /// Saves files without the workflow inside.
    pub disable_metadata: bool,
    /// What nodes may use.
    pub limits: Limits,
    /// Loads models and runs them.
    pub engine: Engine,
    /// Reads and writes files of sound and film.
    pub media: Media,
}

/// Bounds for what one node may allocate.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of one array.
    pub max_tensor_bytes: u64,
    /// Bytes of one text.
    pub max_text_bytes: u64,
    /// Bytes of a file that is read as a whole.
    pub max_file_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_tensor_bytes: 8 << 30, max_text_bytes: 64 << 20, max_file_bytes: 1 << 30 }
    }
}

/// Services together with what nodes remember between calls.
pub(crate) struct State {
    pub(crate) services: Services,
    /// Distinguishes the previews of this run of the server from those that a browser remembers.
    pub(crate) preview_prefix: String,
    hashes: Mutex<HashMap<PathBuf, (FileVersion, Arc<str>)>>,
}

impl State {
    pub(crate) fn new(services: Services) -> Self {
        let mut random = RandomState::new().hash_one(0);
        let mut preview_prefix = String::from("ComfyUI_temp_");
        for _ in 0..5 {
            preview_prefix.push(char::from(PREVIEW_LETTERS[(random % 26) as usize]));
            random /= 26;
        }
        Self { services, preview_prefix, hashes: Mutex::default() }
    }

    /// An error that names files as clients know them, whichever crate it comes from.
    pub(crate) fn for_clients(&self, error: Error) -> Error {
        let folders = &self.services.folders;
        match error {
            Error::Failed(message) => Error::Failed(folders.without_roots(&message)),
            Error::Io(cause) => match WithoutRoots::of(&cause, folders) {
                Some(told) => Error::Io(std::io::Error::new(cause.kind(), told)),
                None => Error::Io(cause),
            },
            Error::Other(cause) => match WithoutRoots::of(&*cause, folders) {
                Some(told) => Error::other(told),
                None => Error::Other(cause),
            },
            error => error,
        }
    }

    /// The path of an input file that a client names; fails if it leads outside or is not there.
    pub(crate) fn input_file(&self, name: &str) -> Result<PathBuf> {
        self.file(name, Kind::Input)
    }

    /// The path of a file that a client names, in this folder unless the name says otherwise.
    pub(crate) fn file(&self, name: &str, default: Kind) -> Result<PathBuf> {
        let path = self.services.folders.annotated_path(name, default).map_err(Error::other)?;
        if path.is_file() {
            return Ok(path);
        }
        Err(Error::msg(format!("there is no file '{name}' in the {} folder; upload it or choose another one", default.as_str())))
    }

    /// A file's bytes, if they are not too many.
    pub(crate) fn read(&self, path: &Path) -> Result<Vec<u8>> {
        let limit = self.services.limits.max_file_bytes;
        let mut bytes = Vec::new();
        File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            return Err(Error::msg(format!("the file '{name}' is larger than the limit of {} MiB; take a smaller one", limit >> 20)));
        }
        Ok(bytes)
    }

    /// The hash (BLAKE3) of a file's content in hexadecimal. A file is read once, until it changes. Checkpoints and the like are too large to
    /// be read before they are loaded: by what the file system tells of them, they change when they are touched too.
    pub(crate) fn file_hash(&self, path: &Path, cancel: &CancellationToken) -> Result<Arc<str>> {
        let metadata = path.metadata()?;
        let version = FileVersion::of(&metadata)?;
        if metadata.len() > MAX_HASHED_BYTES {
            return Ok(format!("{version:?}").into());
        }
        let lasts = version.tells_content(SystemTime::now());
        if let Some((_, hash)) = self.hashes.lock().get(path).filter(|(known, _)| *known == version) {
            return Ok(Arc::clone(hash));
        }
        let mut file = File::open(path)?;
        let mut hasher = blake3::Hasher::new();
        let mut chunk = vec![0; metadata.len().clamp(1, HASH_CHUNK) as usize];
        loop {
            if cancel.is_cancelled() {
                return Err(Error::Interrupted);
            }
            match file.read(&mut chunk)? {
                0 => break,
                read => hasher.update_rayon(&chunk[..read]),
            };
        }
        let hash: Arc<str> = hasher.finalize().to_hex().as_str().into();
        if lasts {
            let mut hashes = self.hashes.lock();
            if hashes.len() >= MAX_HASHES {
                hashes.clear();
            }
            hashes.insert(path.to_owned(), (version, Arc::clone(&hash)));
        }
        Ok(hash)
    }
}

/// What an error and its causes say, without the places of folders.
#[derive(Debug)]
struct WithoutRoots {
    message: String,
    cause: Option<Box<Self>>,
}

impl WithoutRoots {
    /// `None` if they say so already.
    fn of(error: &(dyn std::error::Error + 'static), folders: &Folders) -> Option<Self> {
        let mut chain = vec![error.to_string()];
        let mut next = error.source();
        while let Some(cause) = next {
            chain.push(cause.to_string());
            next = cause.source();
        }
        let told: Vec<String> = chain.iter().map(|message| folders.without_roots(message)).collect();
        if told == chain {
            return None;
        }
        told.into_iter().rev().fold(None, |cause, message| Some(Self { message, cause: cause.map(Box::new) }))
    }
}

impl std::fmt::Display for WithoutRoots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for WithoutRoots {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}
