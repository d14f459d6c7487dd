//! The store of files that several servers share, on what the crate `object_store` speaks to: a folder that all mount, S3 and what is like it,
//! Google Cloud Storage, Azure. Does not know what the files are, nor what is kept of them elsewhere.

use std::fs::File;
use std::io::{Error as IoError, ErrorKind, Read as _, Result as IoResult, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use comfyd_folders::shared::{FileStore, SharedFile, When};
use futures_util::StreamExt as _;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Place;
use object_store::{
    ClientOptions, Error, ObjectMeta, ObjectStore, ObjectStoreExt as _, ObjectStoreScheme, PutMode, PutOptions, PutPayload, RetryConfig,
    UpdateVersion, WriteMultipart,
};
use tokio::runtime;
use url::Url;

/// Larger files are sent in parts of this size, in bytes.
const PART_BYTES: u64 = 8 << 20;
/// Parts that are on their way at once.
const PARTS_AT_ONCE: usize = 4;
/// How long a connection may take, how long one request, and how long it is tried again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(600);
const RETRY_TIMEOUT: Duration = Duration::from_secs(20);
const MAX_RETRIES: usize = 4;
/// What keeps two servers from changing the same folder's files on a condition at once.
const LOCK_FILE: &str = ".comfyd.lock";

/// Why a place cannot have the files.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It is none that is known.
    #[error("'{0}' is no place for files: write a folder, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX")]
    Unknown(String),
    /// It cannot be opened.
    #[error("the files at '{0}' cannot be used: {1}")]
    Refused(String, String),
}

/// Files on an object store, below a prefix.
pub struct ObjectFiles {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    runtime: runtime::Handle,
    /// The folder, if it is one: it knows no conditions, but locks.
    folder: Option<PathBuf>,
}

impl ObjectFiles {
    /// Those at this place, an absolute folder or an address. `settings` are the names and values that the store's own tools take from the
    /// environment, such as `AWS_ACCESS_KEY_ID`; those that it does not know are passed over. `runtime` drives the calls.
    pub fn open(place: &str, settings: &[(String, String)], runtime: runtime::Handle) -> Result<Self, Unusable> {
        let refused = |error: &dyn std::fmt::Display| Unusable::Refused(place.to_owned(), error.to_string());
        if Path::new(place).is_absolute() {
            std::fs::create_dir_all(place).map_err(|error| refused(&error))?;
            let store = LocalFileSystem::new_with_prefix(place).map_err(|error| refused(&error))?;
            return Ok(Self { store: Arc::new(store), prefix: String::new(), runtime, folder: Some(place.into()) });
        }
        let unknown = || Unusable::Unknown(place.to_owned());
        let url = Url::parse(place).map_err(|_| unknown())?;
        let (scheme, prefix) = ObjectStoreScheme::parse(&url).map_err(|_| unknown())?;
        let client = ClientOptions::new().with_connect_timeout(CONNECT_TIMEOUT).with_timeout(TIMEOUT);
        let retry = RetryConfig { max_retries: MAX_RETRIES, retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
        let settings = || settings.iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
        let store: Arc<dyn ObjectStore> = match scheme {
            ObjectStoreScheme::AmazonS3 => {
                let builder = AmazonS3Builder::new().with_url(place).with_client_options(client).with_retry(retry);
                let known = settings().filter_map(|(name, value)| Some((name.parse::<AmazonS3ConfigKey>().ok()?, value)));
                let builder = known.fold(builder, |builder, (key, value)| builder.with_config(key, value));
                Arc::new(builder.build().map_err(|error| refused(&error))?)
            }
            ObjectStoreScheme::GoogleCloudStorage => {
                let builder = GoogleCloudStorageBuilder::new().with_url(place).with_client_options(client).with_retry(retry);
                let known = settings().filter_map(|(name, value)| Some((name.parse::<GoogleConfigKey>().ok()?, value)));
                let builder = known.fold(builder, |builder, (key, value)| builder.with_config(key, value));
                Arc::new(builder.build().map_err(|error| refused(&error))?)
            }
            ObjectStoreScheme::MicrosoftAzure => {
                let builder = MicrosoftAzureBuilder::new().with_url(place).with_client_options(client).with_retry(retry);
                let known = settings().filter_map(|(name, value)| Some((name.parse::<AzureConfigKey>().ok()?, value)));
                let builder = known.fold(builder, |builder, (key, value)| builder.with_config(key, value));
                Arc::new(builder.build().map_err(|error| refused(&error))?)
            }
            _ => return Err(unknown()),
        };
        Ok(Self { store, prefix: prefix.to_string(), runtime, folder: None })
    }

    /// Asks the store for something, so that a wrong name or key is said at the start.
    pub fn check(&self) -> IoResult<()> {
        self.look("input/.comfyd").map(drop)
    }

    fn place(&self, name: &str) -> IoResult<Place> {
        let whole = if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) };
        Place::parse(whole).map_err(IoError::other)
    }

    fn told(meta: &ObjectMeta) -> SharedFile {
        let modified = SystemTime::from(meta.last_modified);
        // Where a store has no tags, the time tells, as far as it can.
        let since = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let version = meta.e_tag.clone().unwrap_or_else(|| format!("{}-{}", since.as_nanos(), meta.size));
        SharedFile { version, bytes: meta.size, modified }
    }

    async fn put_small(&self, place: &Place, bytes: Vec<u8>, mode: PutMode) -> Result<Option<String>, Error> {
        let put = self.store.put_opts(place, PutPayload::from(bytes), PutOptions::from(mode)).await?;
        Ok(put.e_tag)
    }

    /// Sends a file in parts, which no condition can be put on: a name that must be free is taken with an empty file first.
    async fn put_large(&self, place: &Place, mut file: File, mode: PutMode) -> Result<Option<String>, Error> {
        let claims = matches!(mode, PutMode::Create);
        if !matches!(mode, PutMode::Overwrite) {
            self.put_small(place, Vec::new(), mode).await?;
        }
        let sent = async {
            let upload = self.store.put_multipart(place).await?;
            let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES as usize);
            let mut part = vec![0; PART_BYTES as usize];
            loop {
                let read = file.read(&mut part).map_err(|error| Error::Generic { store: "the disk", source: error.into() })?;
                if read == 0 {
                    return upload.finish().await;
                }
                upload.wait_for_capacity(PARTS_AT_ONCE).await?;
                upload.write(&part[..read]);
            }
        };
        match sent.await {
            Ok(put) => Ok(put.e_tag),
            Err(error) => {
                if claims && let Err(error) = self.store.delete(place).await {
                    tracing::warn!(%error, "a file that could not be stored leaves an empty one of its name");
                }
                Err(error)
            }
        }
    }

    /// A folder cannot be told to write only where a version is still there: who does so has it alone meanwhile.
    fn put_still(&self, folder: &Path, name: &str, file: &Path, version: &str) -> IoResult<Option<SharedFile>> {
        let lock = File::options().create(true).append(true).open(folder.join(LOCK_FILE))?;
        lock.lock()?;
        if self.look(name)?.is_none_or(|there| there.version != version) {
            return Ok(None);
        }
        self.put(name, file, &When::Always)
    }
}

impl FileStore for ObjectFiles {
    fn put(&self, name: &str, file: &Path, when: &When) -> IoResult<Option<SharedFile>> {
        if let (Some(folder), When::Still(version)) = (&self.folder, when) {
            return self.put_still(folder, name, file, version);
        }
        let mode = match when {
            When::Always => PutMode::Overwrite,
            When::New => PutMode::Create,
            When::Still(version) => PutMode::Update(UpdateVersion { e_tag: Some(version.clone()), version: None }),
        };
        let place = self.place(name)?;
        let mut content = File::open(file)?;
        let bytes = content.metadata()?.len();
        let put = if bytes > PART_BYTES {
            self.runtime.block_on(self.put_large(&place, content, mode))
        } else {
            let mut whole = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
            content.read_to_end(&mut whole)?;
            self.runtime.block_on(self.put_small(&place, whole, mode))
        };
        let tag = match put {
            Ok(tag) => tag,
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotFound { .. }) if *when != When::Always => {
                return Ok(None);
            }
            Err(error) => return Err(away(error)),
        };
        match self.look(name)? {
            Some(there) if tag.as_ref().is_none_or(|tag| *tag == there.version) => Ok(Some(there)),
            // Somebody wrote over it since.
            _ => Ok(Some(SharedFile { version: tag.unwrap_or_default(), bytes, modified: SystemTime::now() })),
        }
    }

    fn get(&self, name: &str, into: &mut File) -> IoResult<Option<SharedFile>> {
        let place = self.place(name)?;
        self.runtime.block_on(async {
            let got = match self.store.get(&place).await {
                Ok(got) => got,
                Err(Error::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(away(error)),
            };
            let told = Self::told(&got.meta);
            let mut content = got.into_stream();
            while let Some(part) = content.next().await {
                into.write_all(&part.map_err(away)?)?;
            }
            Ok(Some(told))
        })
    }

    fn look(&self, name: &str) -> IoResult<Option<SharedFile>> {
        let place = self.place(name)?;
        match self.runtime.block_on(self.store.head(&place)) {
            Ok(meta) => Ok(Some(Self::told(&meta))),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(away(error)),
        }
    }

    fn list(&self, folder: &str, most: usize) -> IoResult<Vec<(String, SharedFile)>> {
        let place = self.place(folder)?;
        self.runtime.block_on(async {
            let mut found = self.store.list(Some(&place)).take(most);
            let mut files = Vec::new();
            while let Some(meta) = found.next().await {
                let meta = meta.map_err(away)?;
                let whole = meta.location.as_ref();
                let name = if self.prefix.is_empty() {
                    Some(whole)
                } else {
                    whole.strip_prefix(&self.prefix).and_then(|name| name.strip_prefix('/'))
                };
                files.extend(name.map(|name| (name.to_owned(), Self::told(&meta))));
            }
            Ok(files)
        })
    }

    fn remove(&self, name: &str) -> IoResult<bool> {
        let place = self.place(name)?;
        // Stores do not tell whether there was one.
        let was_there = self.look(name)?.is_some();
        match self.runtime.block_on(self.store.delete(&place)) {
            Ok(()) => Ok(was_there),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(away(error)),
        }
    }
}

/// The store's error, by what may pass by itself and what wants room.
fn away(error: Error) -> IoError {
    let mut causes = std::iter::successors(Some(&error as &dyn std::error::Error), |cause| cause.source());
    let kind = causes.find_map(|cause| match (cause.downcast_ref::<HttpError>(), cause.downcast_ref::<IoError>()) {
        (Some(http), _) => match http.kind() {
            HttpErrorKind::Connect | HttpErrorKind::Request | HttpErrorKind::Timeout | HttpErrorKind::Interrupted => {
                Some(ErrorKind::HostUnreachable)
            }
            _ => None,
        },
        (_, Some(io)) => matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded).then_some(ErrorKind::StorageFull),
        _ => None,
    });
    IoError::new(kind.unwrap_or(ErrorKind::Other), error)
}
