//! The processes of a cluster, as each tells of itself: what it is and can run, and what is asked of it. What a process says is kept in
//! memory of who listens, for as long as it is heard of.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Request;
use async_nats::client::{RequestError, RequestErrorKind};
use bytes::Bytes;
use comfyd_jobs::Result;
use futures_util::StreamExt as _;
use serde_json::Value as Json;
use tokio::task::JoinHandle;

use crate::bucket::unavailable;
use crate::document::State as At;
use crate::error::Error;
use crate::events::subscribe;
use crate::inner::Inner;
use crate::members::{Abilities, About, AboutDevice, Beat, Command, Does, Member, Told, missing};
use crate::store::NatsStore;

/// How long who is asked has to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// The same for a check of inputs, for which a process may have to be started.
const CHECK_TIMEOUT: Duration = Duration::from_secs(120);
/// How many bytes of a text come with one answer.
const PART_BYTES: usize = 512 << 10;
/// How many bytes a text has at most.
pub const MAX_TEXT_BYTES: usize = 64 << 20;

impl Inner {
    pub(crate) fn asks(&self, session: &str) -> String {
        format!("comfyd.{}.do.{session}", self.options.cluster)
    }

    /// Takes a sign of life in.
    pub(crate) async fn heard(&self, beat: Beat) {
        let Beat { session, about, .. } = beat;
        let missing = {
            let mut members = self.members.lock();
            let known = members.get(&session);
            let abilities = known.filter(|known| known.about.abilities == about.abilities).and_then(|known| known.abilities.clone());
            let missing = abilities.is_none() && !about.abilities.is_empty();
            members.insert(session.clone(), Member { session: session.clone(), about, abilities, heard: Instant::now() });
            missing
        };
        if missing && let Ok(answer) = self.ask(&session, &Command::Abilities).await {
            let abilities = serde_json::from_slice(&answer).ok().map(Arc::new);
            if let Some(member) = self.members.lock().get_mut(&session) {
                member.abilities = abilities;
            }
            self.fleet.send_modify(|changes| *changes += 1);
        }
    }

    pub(crate) async fn ask(&self, session: &str, command: &Command) -> Result<Bytes> {
        match self.ask_within(session, command, ANSWER_TIMEOUT).await {
            Ok(answer) => Ok(answer),
            Err(error) if error.kind() == RequestErrorKind::TimedOut => Err(unavailable("a worker did not answer")),
            Err(error) => Err(unavailable(&error.to_string())),
        }
    }

    async fn ask_within(&self, session: &str, command: &Command, patience: Duration) -> std::result::Result<Bytes, RequestError> {
        let payload = serde_json::to_vec(command).unwrap_or_default();
        let request = Request::new().payload(payload.into()).timeout(Some(patience));
        Ok(self.link.client.send_request(self.asks(session), request).await?.payload)
    }

    /// A part of a text that this process tells; nothing where it tells it no more.
    fn part(&self, digest: &str, from: usize) -> Bytes {
        let texts = self.texts.read();
        let Some(text) = texts.get(digest).filter(|text| from <= text.len()) else { return Bytes::new() };
        text.slice(from..text.len().min(from + PART_BYTES))
    }
}

impl NatsStore {
    /// Answers what is asked of this process, for as long as the runtime runs.
    ///
    /// # Errors
    /// When NATS cannot be asked for it.
    pub async fn obey(&self, does: Does) -> std::result::Result<JoinHandle<()>, Error> {
        let inner = self.inner.clone();
        let own = subscribe(&inner.link, &inner.asks(inner.session())).await?;
        let all = subscribe(&inner.link, &inner.asks("all")).await?;
        Ok(tokio::spawn(async move {
            let mut asked = futures_util::stream::select(own, all);
            while let Some(message) = asked.next().await {
                let Ok(command) = serde_json::from_slice::<Command>(&message.payload) else { continue };
                let answer = match command {
                    Command::Abilities => serde_json::to_vec(&*inner.abilities.read().clone()).unwrap_or_default(),
                    Command::Secrets { prompt_id } => {
                        let secrets = inner.mirror.state.lock().secrets.get(&prompt_id).map(|secrets| secrets.values());
                        serde_json::to_vec(&secrets).unwrap_or_default()
                    }
                    Command::Text { digest, from } => inner.part(&digest, from).into(),
                    command @ Command::Check { .. } => {
                        // It may take long, and what is asked behind it must not wait. Who finds no turn is told nothing, and asks another.
                        let Some(reply) = message.reply else { continue };
                        let client = inner.link.client.clone();
                        let Ok(turn) = inner.checks.clone().try_acquire_owned() else {
                            let _gone = client.publish(reply, Bytes::new()).await;
                            continue;
                        };
                        let checked = does(command);
                        tokio::spawn(async move {
                            let answer = serde_json::to_vec(&checked.await).unwrap_or_default();
                            let _gone = client.publish(reply, answer.into()).await;
                            drop(turn);
                        });
                        continue;
                    }
                    command @ (Command::Interrupt { .. } | Command::Free { .. }) => {
                        serde_json::to_vec(&does(command).await).unwrap_or_default()
                    }
                };
                if let Some(reply) = message.reply {
                    let _gone = inner.link.client.publish(reply, answer.into()).await;
                }
            }
        }))
    }

    /// Takes the name of this process, which no two have at a time: whoever has it next, takes over what was left running under it. One that
    /// has ended does not answer by it any more.
    ///
    /// # Errors
    /// When another process has it, or NATS does not answer.
    pub async fn take_name(&self) -> std::result::Result<(), Error> {
        let inner = self.inner.clone();
        let name = self.instance();
        // Names may have what subjects may not.
        let subject = inner.asks(&format!("name.{}", blake3::hash(name.as_bytes()).to_hex()));
        let request = Request::new().payload(Bytes::new()).timeout(Some(ANSWER_TIMEOUT));
        match inner.link.client.send_request(subject.clone(), request).await {
            Ok(answer) => {
                let host = String::from_utf8_lossy(&answer.payload);
                let host = if host.is_empty() { String::new() } else { format!(" on host '{host}'") };
                return Err(Error::Options(format!(
                    "a process named '{name}' runs already{host}, and no two may have a name: end it first, or give this one \
                     another name with --instance"
                )));
            }
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {}
            Err(error) if error.kind() == RequestErrorKind::TimedOut => {
                tracing::warn!(name, "NATS knows a process of this name, which does not answer: it is taken for ended");
            }
            Err(error) => return Err(Error::Refused(error.to_string())),
        }
        let mut asked = subscribe(&inner.link, &subject).await?;
        self.keep(tokio::spawn(async move {
            while let Some(message) = asked.next().await {
                if let Some(reply) = message.reply {
                    let host = inner.about.lock().host.clone();
                    tracing::warn!("another process wants the name of this one: it is refused");
                    let _gone = inner.link.client.publish(reply, host.into()).await;
                }
            }
        }));
        Ok(())
    }

    /// Says of this process from now on. `texts` are those that the abilities tell, by their digests.
    pub fn tell(&self, about: About, abilities: Abilities, texts: HashMap<String, Bytes>) {
        let digest = abilities.digest();
        *self.inner.texts.write() = texts;
        *self.inner.abilities.write() = Arc::new(abilities);
        *self.inner.about.lock() = About { abilities: digest, instance: self.inner.mirror.instance.clone(), ..about };
        self.inner.beat.notify_one();
    }

    /// Says how its devices are.
    pub fn tell_devices(&self, devices: Vec<AboutDevice>) {
        self.inner.about.lock().devices = devices;
    }

    /// Everybody who is heard of, by name. While nobody could be heard, those who were before.
    pub fn members(&self) -> Vec<Member> {
        let settled = self.inner.leases.settled(self.inner.options.lease);
        let there = |member: &&Member| !settled || member.heard.elapsed() < self.inner.options.lease;
        let mut members: Vec<Member> = self.inner.members.lock().values().filter(there).cloned().collect();
        members.sort_by(|a, b| (&a.about.host, &a.about.instance).cmp(&(&b.about.host, &b.about.instance)));
        members
    }

    /// The texts that this process tells.
    pub fn told(&self) -> BTreeMap<Arc<str>, Told> {
        self.inner.abilities.read().told.clone()
    }

    /// Reads a text that another process tells.
    ///
    /// # Errors
    /// When that does not answer, or has become another's, or the text is longer than [`MAX_TEXT_BYTES`].
    pub async fn read_text(&self, session: &str, told: &Told) -> Result<String> {
        let damaged = |detail: String| comfyd_jobs::Error::Damaged { id: told.digest.clone(), detail };
        if told.bytes > MAX_TEXT_BYTES {
            return Err(damaged(format!("it has {} bytes, of which {MAX_TEXT_BYTES} are read", told.bytes)));
        }
        let mut text = Vec::with_capacity(told.bytes);
        while text.len() < told.bytes {
            let part = self.inner.ask(session, &Command::Text { digest: told.digest.clone(), from: text.len() }).await?;
            if part.is_empty() || text.len() + part.len() > told.bytes {
                return Err(damaged("its process tells another one by now".to_owned()));
            }
            text.extend_from_slice(&part);
        }
        let text = String::from_utf8(text).map_err(|error| damaged(error.to_string()))?;
        if Told::of(&text) == *told { Ok(text) } else { Err(damaged("it came damaged".to_owned())) }
    }

    /// Has another process answer what is asked about inputs of a class that a host beside it has.
    ///
    /// # Errors
    /// When it does not answer: why.
    pub async fn check(&self, session: &str, host: &str, question: &str) -> std::result::Result<Json, String> {
        if !self.inner.link.is_connected() {
            return Err("NATS does not answer".to_owned());
        }
        let command = Command::Check { host: host.to_owned(), question: question.to_owned() };
        let mut connections = self.inner.link.connections.clone();
        connections.borrow_and_update();
        let answer = tokio::select! {
            answer = self.inner.ask_within(session, &command, CHECK_TIMEOUT) => answer,
            // An answer that came meanwhile is lost.
            _ = connections.changed() => return Err("NATS was away meanwhile".to_owned()),
        };
        let answer = answer.map_err(|error| match error.kind() {
            RequestErrorKind::TimedOut => "the worker that has it did not answer in time".to_owned(),
            RequestErrorKind::NoResponders => "the worker that had it is gone".to_owned(),
            _ => format!("NATS does not answer ({error})"),
        })?;
        if answer.is_empty() {
            return Err("the worker that has it checks as many prompts as it can already".to_owned());
        }
        serde_json::from_slice(&answer).map_err(|error| format!("the worker that has it answers what is not understood ({error})"))
    }

    /// Whether what is asked of a process reaches it, as far as is known: one that does not say is believed to be there.
    pub async fn listens(&self, session: &str) -> bool {
        if !self.inner.link.is_connected() {
            return false;
        }
        let asked = self.inner.ask_within(session, &Command::Secrets { prompt_id: String::new() }, ANSWER_TIMEOUT).await;
        asked.err().is_none_or(|error| error.kind() != RequestErrorKind::NoResponders)
    }

    /// Grows when who is there, or what they can run, changes.
    pub fn fleet(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.fleet.subscribe()
    }

    /// Interrupts what other processes run, or only this prompt. Whether anything ran.
    pub async fn interrupt(&self, prompt_id: Option<&str>) -> bool {
        let sessions: BTreeSet<String> = {
            let state = self.inner.mirror.state.lock();
            let running = state.live.values().filter(|live| prompt_id.is_none_or(|id| live.head.id == id));
            let held = running.filter_map(|live| match &live.head.state {
                At::Running { session, .. } if session != self.session() => Some(session.clone()),
                At::Running { .. } | At::Waiting | At::Ended { .. } | At::Gone => None,
            });
            held.collect()
        };
        let command = Command::Interrupt { prompt_id: prompt_id.map(str::to_owned) };
        let asked = sessions.iter().map(|session| self.inner.ask(session, &command));
        let answers = futures_util::future::join_all(asked).await;
        answers.into_iter().flatten().any(|answer| serde_json::from_slice(&answer).unwrap_or(false))
    }

    /// Asks every other process to free memory.
    pub async fn free(&self, unload_models: bool, free_memory: bool) {
        let command = serde_json::to_vec(&Command::Free { unload_models, free_memory }).unwrap_or_default();
        if let Err(error) = self.inner.link.client.publish(self.inner.asks("all"), command.into()).await {
            tracing::warn!(%error, "the other hosts were not told to free memory");
        }
    }

    /// What is missing for jobs that wait and that nobody who is there can run.
    pub(crate) fn lacking(&self) -> HashMap<String, String> {
        let members = self.members();
        let workers: Vec<Arc<Abilities>> =
            members.into_iter().filter(|member| !member.about.devices.is_empty()).filter_map(|member| member.abilities).collect();
        let state = self.inner.mirror.state.lock();
        let waiting = state.live.values().filter(|live| live.head.state == At::Waiting);
        let lacks = waiting.filter_map(|live| {
            let needs = &live.head.needs;
            let lack = if workers.is_empty() { "a worker: none is there".to_owned() } else { missing(&workers, needs)? };
            Some((live.head.id.clone(), lack))
        });
        lacks.collect()
    }

    /// The model files that some process has, by folder.
    pub fn models(&self) -> BTreeMap<Arc<str>, BTreeSet<Arc<str>>> {
        let mut models: BTreeMap<Arc<str>, BTreeSet<Arc<str>>> = BTreeMap::new();
        for member in self.members() {
            let Some(abilities) = member.abilities.filter(|_| !member.about.devices.is_empty()) else { continue };
            for (folder, files) in &abilities.models {
                models.entry(folder.clone()).or_default().extend(files.iter().cloned());
            }
        }
        models
    }
}
