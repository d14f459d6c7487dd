//! What the bucket holds: one document a job, from its arrival until it leaves the history. A document's head travels in a header of its
//! message, so that a process learns the state of all jobs without their texts; the texts are the message's payload. It knows no NATS.

use std::sync::Arc;

use comfyd_jobs::index::Facts;
use comfyd_jobs::line::Place;
use comfyd_jobs::{Error, HistoryEntry, Job, Needs, NewJob, Outcome, Secrets, Status};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json};

/// The format of what this version writes. It reads every one up to it, and of later ones what it knows: a version adds members to heads and
/// needs, and takes none away as long as the version before may be running. What a later version has added stays when this one writes the
/// next document of a job; what it says of a state goes with that. Texts get no more members without another [`READABLE_FROM`].
pub(crate) const SCHEMA: u32 = 1;

/// The least version that can read what this one writes. A document that says more than [`SCHEMA`] here is left alone.
const READABLE_FROM: u32 = 1;

/// Ids that stand in a key as they are.
const MAX_PLAIN_BYTES: usize = 100;

/// What is known of a job at its last change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// [`SCHEMA`] of who wrote it.
    pub v: u32,
    /// The least schema of who may read it.
    pub from: u32,
    /// Another one with each write, so that who was not answered finds out whether his was stored.
    pub nonce: u64,
    /// The prompt id.
    pub id: String,
    /// What it is at.
    pub state: State,
    /// The number, as text: JSON knows no infinity.
    pub number: String,
    /// The revision of its first document; none in that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrival: Option<u64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rank: i64,
    #[serde(default, skip_serializing_if = "is_none")]
    pub crashes: u32,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub owner: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow_id: Option<Arc<str>>,
    pub created_ms: i64,
    /// Names of the secrets that it came with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// The session that was given it, which keeps the secrets themselves.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub origin: String,
    #[serde(default)]
    pub needs: Arc<Needs>,
    /// What the prompt and `extra_data` have together.
    pub bytes: usize,
    /// The objects that hold texts too long for a message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_object: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_object: Option<String>,
    /// What a later version says of it.
    #[serde(flatten)]
    pub more: Map<String, Json>,
}

/// What a job is at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "lowercase")]
pub(crate) enum State {
    Waiting,
    /// Held by a worker; the revision of this document is the claim's number.
    Running {
        worker: String,
        /// The process: its name and which of its lives.
        instance: String,
        session: String,
        claimed_ms: i64,
    },
    /// In the history.
    Ended {
        status: Status,
        started_ms: i64,
        ended_ms: i64,
        claim: u64,
    },
    /// Taken back, or out of the history. Such a document passes after a while.
    Gone,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde calls it.
fn is_zero(rank: &i64) -> bool {
    *rank == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde calls it.
fn is_none(crashes: &u32) -> bool {
    *crashes == 0
}

impl Head {
    /// That of a new job.
    pub fn new(new: &NewJob, number: f64, origin: &str) -> Self {
        Self {
            v: SCHEMA,
            from: READABLE_FROM,
            nonce: nonce(),
            id: new.id.clone(),
            state: State::Waiting,
            number: number.to_string(),
            arrival: None,
            rank: 0,
            crashes: 0,
            owner: new.owner.clone(),
            client_id: new.client_id.clone(),
            workflow_id: new.workflow_id.clone(),
            created_ms: new.created_ms,
            secrets: new.secrets.names(),
            origin: origin.to_owned(),
            needs: new.needs.clone(),
            bytes: new.prompt.get().len() + new.extra_data.get().len(),
            job_object: None,
            end_object: None,
            more: Map::new(),
        }
    }

    /// That of a job that is no longer known.
    pub fn gone(id: &str) -> Self {
        let (number, id) = ("0".to_owned(), id.to_owned());
        Self {
            v: SCHEMA,
            from: READABLE_FROM,
            nonce: nonce(),
            id,
            state: State::Gone,
            number,
            arrival: None,
            rank: 0,
            crashes: 0,
            owner: Arc::default(),
            client_id: None,
            workflow_id: None,
            created_ms: 0,
            secrets: Vec::new(),
            origin: String::new(),
            needs: Arc::default(),
            bytes: 0,
            job_object: None,
            end_object: None,
            more: Map::new(),
        }
    }

    /// The next one of a job whose document has this revision.
    pub fn next(&self, revision: u64, place: Place, state: State) -> Self {
        let (rank, crashes, arrival) = (place.rank, place.crashes, Some(self.arrival.unwrap_or(revision)));
        Self { v: SCHEMA, from: READABLE_FROM, nonce: nonce(), state, rank, crashes, arrival, ..self.clone() }
    }

    /// Where it stands in the line.
    pub fn place(&self, revision: u64) -> Place {
        let arrival = i64::try_from(self.arrival.unwrap_or(revision)).unwrap_or(i64::MAX);
        let number = self.number.parse().ok().filter(|number: &f64| !number.is_nan()).unwrap_or(f64::INFINITY);
        Place { rank: self.rank, number, arrival, crashes: self.crashes }
    }

    /// The job, with these texts.
    pub fn job(&self, texts: &JobTexts, secrets: Secrets) -> Job {
        Job {
            id: self.id.clone(),
            number: self.place(0).number,
            owner: self.owner.clone(),
            client_id: self.client_id.clone(),
            workflow_id: self.workflow_id.clone(),
            prompt: texts.prompt.clone(),
            extra_data: texts.extra_data.clone(),
            secrets,
            outputs: texts.outputs.clone(),
            created_ms: self.created_ms,
            needs: self.needs.clone(),
        }
    }

    /// What an index keeps of one in the history.
    pub fn facts(&self) -> Option<Facts> {
        let State::Ended { status, started_ms, ended_ms, .. } = self.state else { return None };
        let (id, owner, workflow_id, created_ms) = (self.id.as_str().into(), self.owner.clone(), self.workflow_id.clone(), self.created_ms);
        Some(Facts { id, owner, workflow_id, status, created_ms, started_ms, ended_ms })
    }

    /// As a header holds it: one line of ASCII.
    pub fn to_header(&self) -> String {
        let mut line = String::new();
        for char in serde_json::to_string(self).unwrap_or_default().chars() {
            if char.is_ascii() {
                line.push(char);
            } else {
                let mut units = [0; 2];
                char.encode_utf16(&mut units).iter().for_each(|unit| line.push_str(&format!("\\u{unit:04x}")));
            }
        }
        line
    }

    /// That of a header. `None` if it is of a version that wants not to be read by this one, or of none.
    pub fn from_header(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok().filter(|head: &Self| head.from <= SCHEMA)
    }
}

/// The texts of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct JobTexts {
    pub prompt: Arc<RawValue>,
    pub extra_data: Arc<RawValue>,
    pub outputs: Vec<String>,
}

/// The texts of its end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct EndTexts {
    pub messages: Arc<RawValue>,
    pub outputs: Arc<RawValue>,
    pub meta: Arc<RawValue>,
}

/// A message's payload: both texts, where they are not in objects.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Texts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Arc<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Arc<RawValue>>,
}

impl JobTexts {
    pub fn of(job: &Job) -> Self {
        Self { prompt: job.prompt.clone(), extra_data: job.extra_data.clone(), outputs: job.outputs.clone() }
    }
}

impl EndTexts {
    pub fn of(entry: &HistoryEntry) -> Self {
        Self { messages: entry.messages.clone(), outputs: entry.outputs.clone(), meta: entry.meta.clone() }
    }
}

/// Any of these as JSON text.
pub(crate) fn raw(value: &impl Serialize) -> Result<Arc<RawValue>, Error> {
    let text = serde_json::value::to_raw_value(value).map_err(|error| Error::Storage(format!("a prompt cannot be written: {error}")))?;
    Ok(text.into())
}

/// The end that an outcome is, as a head tells it.
pub(crate) fn ended(outcome: &Outcome, claim: u64) -> State {
    let Outcome { status, started_ms, ended_ms, .. } = *outcome;
    State::Ended { status, started_ms, ended_ms: ended_ms.max(started_ms), claim }
}

/// The key of a job: its id where that can be one.
pub(crate) fn key(id: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !id.is_empty() && id.len() <= MAX_PLAIN_BYTES && id.bytes().all(plain) {
        return format!("job.{id}");
    }
    format!("job.={}", blake3::hash(id.as_bytes()))
}

/// A number that no other write has.
pub(crate) fn nonce() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use comfyd_jobs::{Position, contract};

    use super::*;

    #[test]
    fn heads_survive_their_header() {
        for (id, number) in [("a", 0.0), ("ähm \u{1F600}\n\"", f64::INFINITY), ("b", -2.5), ("c", f64::MAX)] {
            let new = NewJob { id: id.to_owned(), owner: "Zoë".into(), ..contract::job("a", Position::Back) };
            let head = Head::new(&new, number, "s");
            let header = head.to_header();
            assert!(header.bytes().all(|byte| (b' '..0x7f).contains(&byte)), "{header}");
            let read = Head::from_header(&header).unwrap();
            assert_eq!(read, head);
            let place = read.place(7);
            assert_eq!((place.number, place.arrival, read.next(7, place, State::Gone).place(9).arrival), (number, 7, 7));
        }
    }

    /// A rolling upgrade: what a later version adds is passed over, and what it wants not to be read is left alone.
    #[test]
    fn documents_of_the_next_version_are_read() {
        let head = Head::new(&contract::job("a", Position::Back), 1.0, "s");
        let mut json = serde_json::to_value(&head).unwrap();
        json["v"] = 2.into();
        json["added"] = serde_json::json!({"by": ["version", 2]});
        json["state"]["more"] = true.into();
        json["needs"]["gpus"] = 2.into();
        let read = Head::from_header(&json.to_string()).unwrap();
        assert_eq!((read.v, read.id.as_str(), &read.state), (2, "a", &State::Waiting));
        // And it is still there when this version writes the next one.
        let next = read.next(7, read.place(7), State::Waiting);
        let written: Json = serde_json::from_str(&next.to_header()).unwrap();
        assert_eq!((&written["added"], &written["needs"]["gpus"]), (&json["added"], &json["needs"]["gpus"]));
        assert_eq!(written["v"], SCHEMA, "who wrote it is said");
        json["from"] = 2.into();
        assert!(Head::from_header(&json.to_string()).is_none());
        // And what an earlier one had not got has a default.
        for (name, _) in json.as_object().unwrap() {
            let needed = ["v", "from", "nonce", "id", "state", "number", "created_ms", "bytes"].contains(&name.as_str());
            let mut less = serde_json::to_value(&head).unwrap();
            less.as_object_mut().unwrap().remove(name);
            assert_eq!(Head::from_header(&less.to_string()).is_none(), needed, "{name}");
        }
    }

    #[test]
    fn keys_tell_ids_apart() {
        let ids = ["a", "A", "", "=", "a.b", "a b", "é", "*", ">", &"x".repeat(100), &"x".repeat(101)];
        let keys: std::collections::HashSet<String> = ids.iter().map(|id| key(id)).collect();
        assert_eq!(keys.len(), ids.len());
        assert!(keys.iter().all(|key| key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".=-_".contains(&byte))));
        assert_eq!(key("0f3c-1"), "job.0f3c-1");
    }
}
