//! The bucket in NATS: writes that succeed only where nothing else was written meanwhile, and reads. It knows neither what a document says
//! nor who wants it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_nats::Client;
use async_nats::connection::State as ConnectionState;
use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, push};
use async_nats::jetstream::context::{CreateStreamErrorKind, PublishErrorKind};
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::object_store::{self, InfoErrorKind, ObjectStore};
use async_nats::jetstream::stream::{self, DiscardPolicy, LastRawMessageError, LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{self, Context, ErrorCode};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use comfyd_jobs::Error as JobError;
use futures_util::StreamExt as _;
use serde::Deserialize;
use tokio::time::Instant;

use crate::error::Error;

/// The header that holds what a document says in short.
pub(crate) const HEAD: &str = "Comfyd-Head";

/// How long one attempt waits for its answer.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Before the next attempt.
const PAUSE: Duration = Duration::from_millis(50);
/// How long it is tried to read while there is no connection: a server that starts anew is back by then.
const OUTAGE: Duration = Duration::from_secs(4);
/// How long a change may take while the one before failed.
const IMPATIENCE: Duration = Duration::from_millis(300);
/// How often a consumer tells that it is there.
const IDLE_HEARTBEAT: Duration = Duration::from_secs(2);
/// After how long the servers forget a consumer that nobody listens to.
const CONSUMER_KEPT: Duration = Duration::from_secs(60);
/// How long the next piece of what is read may take.
const PIECE_PAUSE: Duration = Duration::from_secs(10);
/// How much of what is written may be for heads and the protocol, in bytes.
const OVERHEAD_BYTES: usize = 64 << 10;
/// How many bytes a text in a message has at most, where the servers allow more.
const MAX_INLINE_BYTES: usize = 256 << 10;
/// The codes of NATS' errors which say that an account, a server, a server's disk or a stream has no room for more.
const FULL: [u16; 4] = [10002, 10023, 10047, 10077];

/// Why a document was not written.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Another one was meanwhile.
    Conflict,
    /// It could not be.
    Failed(JobError),
}

impl From<JobError> for Refused {
    fn from(error: JobError) -> Self {
        Self::Failed(error)
    }
}

/// A document as it is written.
pub(crate) struct Document<'a> {
    pub key: &'a str,
    pub head: String,
    /// The one in its head.
    pub nonce: u64,
    pub texts: Bytes,
    /// The revision that it follows; 0 if there is none. `None` where that does not matter.
    pub after: Option<u64>,
    /// After how long it passes.
    pub kept: Option<Duration>,
}

/// A document as it is read.
#[derive(Debug)]
pub(crate) struct Found {
    pub revision: u64,
    pub head: String,
    pub texts: Bytes,
}

#[derive(Deserialize)]
struct Nonced {
    nonce: u64,
}

/// What a bucket is for.
pub(crate) struct Purpose<'a> {
    /// Whose it is.
    pub cluster: &'a str,
    /// The end of its name.
    pub name: &'a str,
    /// The end of the name of the object store beside it.
    pub objects: &'a str,
    /// What is in it, for people.
    pub holds: &'a str,
    /// On how many servers it is made. `None`: on three where NATS is a cluster, else on one.
    pub replicas: Option<usize>,
    /// How long it is tried to write or read.
    pub patience: Duration,
}

/// A bucket, and the object store for what is too long for it.
#[derive(Clone)]
pub(crate) struct Bucket {
    client: Client,
    context: Context,
    stream: Stream,
    objects: ObjectStore,
    /// The stream of these, and their name.
    kept: Stream,
    objects_name: String,
    prefix: String,
    patience: Duration,
    /// Whether the last change failed.
    down: Arc<AtomicBool>,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Bucket {
    /// Opens it, or makes it.
    pub async fn open(client: Client, purpose: &Purpose<'_>) -> Result<Self, Error> {
        let Purpose { cluster, patience, .. } = *purpose;
        let valid = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if !valid(cluster) {
            return Err(Error::Options(format!("'{cluster}' cannot be a cluster's name: letters, digits, '-' and '_' can")));
        }
        let context = jetstream::ContextBuilder::new().timeout(ATTEMPT * 2).ack_timeout(ATTEMPT).build(client.clone());
        let bucket = format!("comfyd-{cluster}-{}", purpose.name);
        let prefix = format!("$KV.{bucket}.");
        let name = format!("KV_{bucket}");
        let config = |replicas| stream::Config {
            name: name.clone(),
            description: Some(format!("comfyd: the {} of the cluster '{cluster}'", purpose.holds)),
            subjects: vec![format!("{prefix}>")],
            max_messages_per_subject: 1,
            discard: DiscardPolicy::New,
            num_replicas: replicas,
            allow_direct: true,
            allow_rollup: true,
            deny_delete: true,
            allow_message_ttl: true,
            // Who writes a document says which one it follows, so nothing need be known of what came before.
            duplicate_window: Duration::from_secs(1),
            ..stream::Config::default()
        };
        let stream = made(&context, &name, purpose.replicas, config).await?;
        let replicas = stream.cached_info().config.num_replicas;
        let name = format!("comfyd-{cluster}-{}", purpose.objects);
        let objects = match context.get_object_store(&name).await {
            Ok(objects) => objects,
            Err(_missing) => {
                let config = object_store::Config { bucket: name.clone(), num_replicas: replicas, ..object_store::Config::default() };
                context.create_object_store(config).await.map_err(|error| Error::Refused(error.to_string()))?
            }
        };
        let kept = context.get_stream(format!("OBJ_{name}")).await.map_err(|error| Error::Refused(error.to_string()))?;
        let objects_name = name;
        Ok(Self { client, context, stream, objects, kept, objects_name, prefix, patience, down: Arc::default() })
    }

    /// Writes a document and gives its revision.
    pub async fn write(&self, document: &Document<'_>) -> Result<u64, Refused> {
        let began = Instant::now();
        let patience = if self.down.load(Ordering::Relaxed) { IMPATIENCE } else { self.patience };
        // Whether an earlier attempt may have been stored though it was not answered.
        let mut unsure = false;
        loop {
            let error = match tokio::time::timeout(ATTEMPT, self.attempt(document)).await {
                Ok(Ok(revision)) => {
                    self.down.store(false, Ordering::Relaxed);
                    return Ok(revision);
                }
                Ok(Err(error)) => match error.kind() {
                    PublishErrorKind::WrongLastSequence => {
                        self.down.store(false, Ordering::Relaxed);
                        if unsure && let Some(revision) = self.is_last(document).await? {
                            return Ok(revision);
                        }
                        return Err(Refused::Conflict);
                    }
                    PublishErrorKind::MaxPayloadExceeded => {
                        return Err(Refused::Failed(JobError::Unstorable(format!(
                            "it has more bytes than NATS takes in a message: raise max_payload of its servers ({error})"
                        ))));
                    }
                    PublishErrorKind::StreamNotFound
                    | PublishErrorKind::WrongLastMessageId
                    | PublishErrorKind::TimedOut
                    | PublishErrorKind::BrokenPipe
                    | PublishErrorKind::MaxAckPending
                    | PublishErrorKind::Other => error.to_string(),
                },
                Err(_elapsed) => "it does not answer".to_owned(),
            };
            if is_full(&error) {
                return Err(Refused::Failed(JobError::NoSpace));
            }
            unsure = true;
            if began.elapsed() >= patience || self.client.connection_state() != ConnectionState::Connected && began.elapsed() >= IMPATIENCE
            {
                self.down.store(true, Ordering::Relaxed);
                return Err(Refused::Failed(unavailable(&error)));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn attempt(&self, document: &Document<'_>) -> Result<u64, async_nats::jetstream::context::PublishError> {
        let mut message = PublishMessage::build().payload(document.texts.clone()).header(HEAD, document.head.as_str());
        if let Some(revision) = document.after {
            message = message.expected_last_subject_sequence(revision);
        }
        if let Some(kept) = document.kept {
            message = message.ttl(kept);
        }
        Ok(self.context.send_publish(format!("{}{}", self.prefix, document.key), message).await?.await?.sequence)
    }

    /// The revision of a document that was written without an answer, if it is the last one of its key.
    async fn is_last(&self, document: &Document<'_>) -> Result<Option<u64>, JobError> {
        let last = self.last(document.key).await?;
        let own = |found: &Found| serde_json::from_str(&found.head).is_ok_and(|Nonced { nonce }| nonce == document.nonce);
        Ok(last.filter(own).map(|found| found.revision))
    }

    /// The last document of a key, as who leads the bucket knows it.
    pub async fn last(&self, key: &str) -> Result<Option<Found>, JobError> {
        let subject = format!("{}{key}", self.prefix);
        self.asked(|| self.stream.get_last_raw_message_by_subject(&subject)).await
    }

    /// The document of a revision, unless another one has taken its place.
    pub async fn read(&self, revision: u64) -> Result<Option<Found>, JobError> {
        // Any server may answer this, and one may be behind.
        if let Ok(Ok(message)) = tokio::time::timeout(ATTEMPT, self.stream.direct_get(revision)).await {
            return Ok(found(message));
        }
        self.asked(|| self.stream.get_raw_message(revision)).await
    }

    /// What the bucket answers, asked again until it does: a while, and less where there is no connection.
    async fn asked<F>(&self, ask: impl Fn() -> F) -> Result<Option<Found>, JobError>
    where
        F: Future<Output = Result<StreamMessage, LastRawMessageError>>,
    {
        let began = Instant::now();
        loop {
            let error = match tokio::time::timeout(ATTEMPT, ask()).await {
                Ok(Ok(message)) => return Ok(found(message)),
                Ok(Err(error)) => match error.kind() {
                    LastRawMessageErrorKind::NoMessageFound => return Ok(None),
                    LastRawMessageErrorKind::JetStream(_) | LastRawMessageErrorKind::InvalidSubject | LastRawMessageErrorKind::Other => {
                        error.to_string()
                    }
                },
                Err(_elapsed) => "it does not answer".to_owned(),
            };
            let is_connected = self.client.connection_state() == ConnectionState::Connected;
            if began.elapsed() >= if is_connected { self.patience } else { self.patience.min(OUTAGE) } {
                return Err(unavailable(&error));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// How many bytes a text may have that is written in a message.
    pub fn max_inline(&self) -> usize {
        (self.client.max_payload().saturating_sub(OVERHEAD_BYTES) / 2).min(MAX_INLINE_BYTES)
    }

    /// Drops the documents of a key, which takes no room: as if there never had been one.
    pub async fn drop_documents(&self, key: &str) -> Result<(), JobError> {
        self.stream.purge().filter(format!("{}{key}", self.prefix)).await.map(drop).map_err(|error| unavailable(&error.to_string()))
    }

    /// Keeps a text that is too long for a message.
    pub async fn put_object(&self, name: &str, text: &str) -> Result<(), JobError> {
        let meta = object_store::ObjectMetadata { name: name.to_owned(), ..object_store::ObjectMetadata::default() };
        self.objects.put(meta, &mut text.as_bytes()).await.map(drop).map_err(|error| not_kept(&error.to_string()))
    }

    /// Keeps a file.
    pub async fn put_file(&self, name: &str, file: &mut tokio::fs::File) -> Result<(), JobError> {
        let meta = object_store::ObjectMetadata { name: name.to_owned(), ..object_store::ObjectMetadata::default() };
        self.objects.put(meta, file).await.map(drop).map_err(|error| not_kept(&error.to_string()))
    }

    /// Hands out what was kept under a name, piece by piece.
    pub async fn read_kept(&self, name: &str, mut take: impl FnMut(&[u8]) -> std::io::Result<()>) -> Result<(), JobError> {
        let failed = |error: &dyn std::fmt::Display| unavailable(&error.to_string());
        let info = self.objects.info(name).await.map_err(|error| failed(&error))?;
        if info.deleted {
            return Err(unavailable("what it held is gone"));
        }
        if info.chunks == 0 {
            return Ok(());
        }
        let config = push::OrderedConfig {
            deliver_subject: self.client.new_inbox(),
            filter_subject: format!("$O.{}.C.{}", info.bucket, info.nuid),
            ..push::OrderedConfig::default()
        };
        let consumer = self.kept.create_consumer(config).await.map_err(|error| failed(&error))?;
        let mut pieces = consumer.messages().await.map_err(|error| failed(&error))?;
        let mut bytes = 0;
        for _ in 0..info.chunks {
            let next = tokio::time::timeout(PIECE_PAUSE, pieces.next()).await;
            let piece =
                next.ok().flatten().ok_or_else(|| unavailable("what it held did not come whole"))?.map_err(|error| failed(&error))?;
            bytes += piece.payload.len();
            take(&piece.payload).map_err(|error| JobError::Storage(format!("what came from NATS cannot be written: {error}")))?;
        }
        if bytes == info.size { Ok(()) } else { Err(unavailable("what it held came damaged")) }
    }

    /// Hands out the last documents of all keys below one, or of all, without texts: key, revision and head, for as long as they are wanted.
    pub async fn below(&self, prefix: Option<&str>, mut take: impl FnMut(&str, u64, &str) -> bool) -> Result<(), JobError> {
        let config = push::OrderedConfig {
            deliver_subject: self.client.new_inbox(),
            deliver_policy: DeliverPolicy::LastPerSubject,
            filter_subject: prefix.map_or_else(|| format!("{}>", self.prefix), |prefix| format!("{}{prefix}.>", self.prefix)),
            headers_only: true,
            ..push::OrderedConfig::default()
        };
        self.all_of(&self.stream, config, |message, info| {
            let head = message.headers.as_ref().and_then(|headers| headers.get(HEAD));
            match (self.key(&message.subject), head) {
                (Some(key), Some(head)) => take(key, info.stream_sequence, head.as_str()),
                _ => true,
            }
        })
        .await
    }

    /// Hands out all messages that a consumer finds, for as long as they are wanted.
    async fn all_of(
        &self,
        stream: &Stream,
        config: push::OrderedConfig,
        mut take: impl FnMut(&async_nats::jetstream::Message, &async_nats::jetstream::message::Info<'_>) -> bool,
    ) -> Result<(), JobError> {
        let failed = |error: &dyn std::fmt::Display| unavailable(&error.to_string());
        let consumer = stream.create_consumer(config).await.map_err(|error| failed(&error))?;
        if consumer.cached_info().num_pending == 0 {
            return Ok(());
        }
        let mut messages = consumer.messages().await.map_err(|error| failed(&error))?;
        loop {
            let next = tokio::time::timeout(PIECE_PAUSE, messages.next()).await;
            let message = next.ok().flatten().ok_or_else(|| unavailable("a list stopped short"))?.map_err(|error| failed(&error))?;
            let info = message.info().map_err(|error| failed(&error))?;
            if !take(&message, &info) || info.pending == 0 {
                return Ok(());
            }
        }
    }

    /// Reads such a text.
    pub async fn get_object(&self, name: &str) -> Result<String, JobError> {
        let mut text = Vec::new();
        self.read_kept(name, |piece| {
            text.extend_from_slice(piece);
            Ok(())
        })
        .await?;
        String::from_utf8(text).map_err(|error| unavailable(&error.to_string()))
    }

    /// Forgets what was kept under a name that nothing else ever has. That it cannot be forgotten now is no failure of whoever wants it: it
    /// stays.
    pub async fn drop_object(&self, name: &str) {
        let dropped = async {
            let info = match self.objects.info(name).await {
                Ok(info) => info,
                Err(error) if error.kind() == InfoErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error.to_string()),
            };
            // What is said of it first, so that nobody finds it; and not as the library does it, which leaves a word of each that was there.
            let said = format!("$O.{}.M.{}", info.bucket, URL_SAFE.encode(name));
            self.kept.purge().filter(said).await.map_err(|error| error.to_string())?;
            self.kept.purge().filter(format!("$O.{}.C.{}", info.bucket, info.nuid)).await.map_err(|error| error.to_string())?;
            Ok(())
        };
        if let Err(error) = dropped.await {
            tracing::warn!(error, name, "what is no longer needed stays in NATS");
        }
    }

    /// The names of what has been kept for so long, at most so many.
    pub async fn kept_for(&self, age: Duration, most: usize) -> Result<Vec<String>, JobError> {
        let mut names = Vec::new();
        let config = push::OrderedConfig {
            deliver_subject: self.client.new_inbox(),
            deliver_policy: DeliverPolicy::LastPerSubject,
            filter_subject: format!("$O.{}.M.>", self.objects_name),
            ..push::OrderedConfig::default()
        };
        self.all_of(&self.kept, config, |message, info| {
            let seconds = info.published.unix_timestamp();
            let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            let old = SystemTime::UNIX_EPOCH + since + age < SystemTime::now();
            if let (true, Ok(info)) = (old, serde_json::from_slice::<object_store::ObjectInfo>(&message.payload)) {
                names.push(info.name);
            }
            names.len() < most
        })
        .await?;
        Ok(names)
    }

    /// Everything that is written from a revision on, and first what stands; and how much of that there is.
    pub async fn follow(&self, from: u64, heads_only: bool) -> Result<(push::Messages, u64), String> {
        let config = push::Config {
            deliver_subject: self.client.new_inbox(),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from.max(1) },
            ack_policy: AckPolicy::None,
            headers_only: heads_only,
            flow_control: true,
            idle_heartbeat: IDLE_HEARTBEAT,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: CONSUMER_KEPT,
            ..push::Config::default()
        };
        let consumer: consumer::PushConsumer = self.stream.create_consumer(config).await.map_err(|error| error.to_string())?;
        let waiting = consumer.cached_info().num_pending;
        let messages = consumer.messages().await.map_err(|error| error.to_string())?;
        Ok((messages, waiting))
    }

    /// The last revision that there is, and when the bucket was made.
    pub async fn extent(&self) -> Result<(u64, String), String> {
        let info = self.stream.get_info().await.map_err(|error| error.to_string())?;
        Ok((info.state.last_sequence, info.created.to_string()))
    }

    /// Asks whoever leads the bucket, where there is a connection; without one nobody waits for it.
    pub async fn answers(&self) -> Result<(), JobError> {
        if self.client.connection_state() != ConnectionState::Connected {
            return Err(unavailable("it is not connected"));
        }
        self.extent().await.map(drop).map_err(|error| unavailable(&error))
    }

    /// How it is kept, for people.
    pub async fn replication(&self) -> Result<String, JobError> {
        let info = self.stream.get_info().await.map_err(|error| unavailable(&error.to_string()))?;
        let messages = info.state.messages;
        let mebibytes = info.state.bytes as f64 / f64::from(1 << 20);
        let Some(cluster) = info.cluster else { return Ok(format!("one server, {messages} documents, {mebibytes:.1} MiB")) };
        let replicas = cluster.replicas.iter().map(|peer| {
            let state = match (peer.offline, peer.current) {
                (true, _) => "offline".to_owned(),
                (false, true) => "current".to_owned(),
                (false, false) => format!("{} behind", peer.lag.unwrap_or_default()),
            };
            format!("{} {state}", peer.name)
        });
        let leader = cluster.leader.unwrap_or_else(|| "nobody".to_owned());
        let told = [format!("servers: {}", info.config.num_replicas), format!("{leader} leads")].into_iter().chain(replicas);
        let told: Vec<String> = told.chain([format!("{messages} documents"), format!("{mebibytes:.1} MiB")]).collect();
        Ok(told.join(", "))
    }

    /// The key of a message's subject.
    pub fn key<'a>(&self, subject: &'a str) -> Option<&'a str> {
        subject.strip_prefix(&self.prefix)
    }
}

/// The stream of this name; made with as many replicas as are wanted, if there is none.
async fn made(context: &Context, name: &str, replicas: Option<usize>, config: impl Fn(usize) -> stream::Config) -> Result<Stream, Error> {
    if let Ok(stream) = context.get_stream(name).await {
        return Ok(stream);
    }
    match context.create_stream(config(replicas.unwrap_or(3))).await {
        Ok(stream) => Ok(stream),
        Err(error) => {
            let single = matches!(error.kind(), CreateStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED);
            if single && replicas.is_none() {
                return context.create_stream(config(1)).await.map_err(|error| Error::Refused(error.to_string()));
            }
            // Another process may have made it meanwhile.
            context.get_stream(name).await.map_err(|_missing| Error::Refused(error.to_string()))
        }
    }
}

fn found(message: StreamMessage) -> Option<Found> {
    let head = message.headers.get(HEAD)?.as_str().to_owned();
    Some(Found { revision: message.sequence, head, texts: message.payload })
}

/// Whether NATS has no room for what was to be written.
fn is_full(error: &str) -> bool {
    // The client hands on the text alone, which has the code of the server's answer.
    FULL.iter().any(|code| error.contains(&format!("error code {code})")))
}

fn not_kept(error: &str) -> JobError {
    if is_full(error) { JobError::NoSpace } else { unavailable(error) }
}

pub(crate) fn unavailable(detail: &str) -> JobError {
    JobError::Unavailable(format!("NATS does not answer ({detail}): try again when it does, and look at its servers"))
}
