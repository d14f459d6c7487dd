//! The bucket in NATS: writes that succeed only where nothing else was written meanwhile, and reads. It knows neither what a document says
//! nor who wants it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State as ConnectionState;
use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, push};
use async_nats::jetstream::context::{CreateStreamErrorKind, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::object_store::{self, ObjectStore};
use async_nats::jetstream::stream::{self, DiscardPolicy, LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{self, Context, ErrorCode};
use bytes::Bytes;
use comfyd_jobs::Error as JobError;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;

use crate::error::Error;
use crate::options::Options;

/// The header that holds what a document says in short.
pub(crate) const HEAD: &str = "Comfyd-Head";

/// How long one attempt waits for its answer.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Before the next attempt.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a change may take while the one before failed.
const IMPATIENCE: Duration = Duration::from_millis(300);
/// How often a consumer tells that it is there.
const IDLE_HEARTBEAT: Duration = Duration::from_secs(2);
/// After how long the servers forget a consumer that nobody listens to.
const CONSUMER_KEPT: Duration = Duration::from_secs(60);
/// How much of what is written may be for heads and the protocol, in bytes.
const OVERHEAD_BYTES: usize = 64 << 10;
/// How many bytes a text in a message has at most, where the servers allow more.
const MAX_INLINE_BYTES: usize = 256 << 10;

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

/// The bucket of a cluster's jobs.
#[derive(Clone)]
pub(crate) struct Bucket {
    client: Client,
    context: Context,
    stream: Stream,
    objects: ObjectStore,
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
    pub async fn open(client: Client, options: &Options) -> Result<Self, Error> {
        let context = jetstream::ContextBuilder::new().timeout(ATTEMPT * 2).ack_timeout(ATTEMPT).build(client.clone());
        let bucket = format!("comfyd-{}-jobs", options.cluster);
        let prefix = format!("$KV.{bucket}.");
        let name = format!("KV_{bucket}");
        let config = |replicas| stream::Config {
            name: name.clone(),
            description: Some(format!("comfyd: the jobs of the cluster '{}'", options.cluster)),
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
        let stream = made(&context, &name, options.replicas, config).await?;
        let replicas = stream.cached_info().config.num_replicas;
        let name = format!("comfyd-{}-large", options.cluster);
        let objects = match context.get_object_store(&name).await {
            Ok(objects) => objects,
            Err(_missing) => {
                let config = object_store::Config { bucket: name, num_replicas: replicas, ..object_store::Config::default() };
                context.create_object_store(config).await.map_err(|error| Error::Refused(error.to_string()))?
            }
        };
        Ok(Self { client, context, stream, objects, prefix, patience: options.patience, down: Arc::default() })
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
        let began = Instant::now();
        loop {
            let error = match self.stream.get_last_raw_message_by_subject(&format!("{}{key}", self.prefix)).await {
                Ok(message) => return Ok(found(message)),
                Err(error) => match error.kind() {
                    LastRawMessageErrorKind::NoMessageFound => return Ok(None),
                    LastRawMessageErrorKind::JetStream(_) | LastRawMessageErrorKind::InvalidSubject | LastRawMessageErrorKind::Other => {
                        error
                    }
                },
            };
            if began.elapsed() >= self.patience {
                return Err(unavailable(&error.to_string()));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The document of a revision, unless another one has taken its place.
    pub async fn read(&self, revision: u64) -> Result<Option<Found>, JobError> {
        // Any server may answer this, and one may be behind.
        if let Ok(message) = self.stream.direct_get(revision).await {
            return Ok(found(message));
        }
        let began = Instant::now();
        loop {
            let error = match self.stream.get_raw_message(revision).await {
                Ok(message) => return Ok(found(message)),
                Err(error) => match error.kind() {
                    LastRawMessageErrorKind::NoMessageFound => return Ok(None),
                    LastRawMessageErrorKind::JetStream(_) | LastRawMessageErrorKind::InvalidSubject | LastRawMessageErrorKind::Other => {
                        error
                    }
                },
            };
            if began.elapsed() >= self.patience {
                return Err(unavailable(&error.to_string()));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// How many bytes a text may have that is written in a message.
    pub fn max_inline(&self) -> usize {
        (self.client.max_payload().saturating_sub(OVERHEAD_BYTES) / 2).min(MAX_INLINE_BYTES)
    }

    /// Keeps a text that is too long for a message.
    pub async fn put_object(&self, name: &str, text: &str) -> Result<(), JobError> {
        let meta = object_store::ObjectMetadata { name: name.to_owned(), ..object_store::ObjectMetadata::default() };
        self.objects.put(meta, &mut text.as_bytes()).await.map(drop).map_err(|error| unavailable(&error.to_string()))
    }

    /// Reads such a text.
    pub async fn get_object(&self, name: &str) -> Result<String, JobError> {
        let failed = |error: String| unavailable(&error);
        let mut object = self.objects.get(name).await.map_err(|error| failed(error.to_string()))?;
        let mut text = String::new();
        object.read_to_string(&mut text).await.map_err(|error| failed(error.to_string()))?;
        Ok(text)
    }

    /// Forgets such a text. That it cannot be forgotten now is no failure of whoever wants it: it stays.
    pub async fn drop_object(&self, name: &str) {
        if let Err(error) = self.objects.delete(name).await {
            tracing::warn!(%error, name, "a text that is no longer needed stays in NATS");
        }
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

fn found(message: async_nats::jetstream::message::StreamMessage) -> Option<Found> {
    let head = message.headers.get(HEAD)?.as_str().to_owned();
    Some(Found { revision: message.sequence, head, texts: message.payload })
}

pub(crate) fn unavailable(detail: &str) -> JobError {
    JobError::Unavailable(format!("NATS does not answer ({detail}): try again when it does, and look at its servers"))
}
