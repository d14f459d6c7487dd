//! The processes of a cluster, as each tells of itself: what it is and can run, and what is asked of it. What a process says is kept in
//! memory of who listens, for as long as it is heard of.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use comfyd_jobs::{Needs, Result};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::NatsStore;
use crate::bucket::unavailable;
use crate::document::{SCHEMA, State as At};
use crate::events::subscribe;
use crate::inner::Inner;

/// How long who is asked has to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// What a process says of itself with every sign of life.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Its name.
    pub instance: String,
    /// The host.
    pub host: String,
    /// comfyd's version.
    pub version: String,
    /// Whether it answers clients.
    pub api: bool,
    /// What runs prompts; none if it only answers.
    pub devices: Vec<AboutDevice>,
    /// Changes when [`Abilities`] do.
    pub abilities: String,
}

/// What a process says of a device. Memory in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AboutDevice {
    /// `cpu`, or the kind and the number of a card.
    pub name: String,
    /// What there is.
    pub memory: u64,
    /// What is free.
    pub free: u64,
    /// What loaded models take.
    pub models: u64,
    /// Threads that were left behind.
    pub stuck_threads: usize,
}

/// What a process can run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Abilities {
    /// Node classes.
    pub classes: BTreeSet<Arc<str>>,
    /// Model files, by the names of their folders.
    pub models: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
}

impl Abilities {
    /// The same text for the same abilities.
    pub fn digest(&self) -> String {
        blake3::hash(&serde_json::to_vec(self).unwrap_or_default()).to_hex()[..16].to_owned()
    }

    /// What is missing for a job; `None` if nothing is.
    pub fn lack(&self, needs: &Needs) -> Option<String> {
        if let Some(class) = needs.classes.iter().find(|class| !self.classes.contains(*class)) {
            return Some(format!("a worker that has the node class '{class}'"));
        }
        let has = |folder, file| self.models.get(folder).is_some_and(|files: &BTreeSet<Arc<str>>| files.contains(file));
        let (folder, file) = needs.models.iter().find(|(folder, file)| !has(folder, file))?;
        Some(format!("a worker that has '{file}' in its folder '{folder}'"))
    }
}

/// A process of the cluster that is heard of.
#[derive(Debug, Clone)]
pub struct Member {
    /// Which life of its process it is.
    pub session: String,
    /// What it says of itself.
    pub about: About,
    /// What it can run, once it has said so.
    pub abilities: Option<Arc<Abilities>>,
    /// When it was heard of last.
    pub heard: Instant,
}

/// What may be asked of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum Command {
    /// Interrupt this prompt, or whatever runs.
    Interrupt {
        /// The prompt.
        prompt_id: Option<String>,
    },
    /// Free memory when nothing runs.
    Free {
        /// Unload models.
        unload_models: bool,
        /// Drop results, too.
        free_memory: bool,
    },
    /// Say what it can run.
    Abilities,
    /// The secrets of a prompt that came to it.
    Secrets {
        /// The prompt.
        prompt_id: String,
    },
}

/// Does what is asked of a process, and says whether there was anything to do.
pub type Does = Arc<dyn Fn(Command) -> BoxFuture<'static, bool> + Send + Sync>;

/// A sign of life.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Beat {
    pub v: u32,
    pub session: String,
    #[serde(default)]
    pub about: About,
    /// Whether it was the last one.
    #[serde(default)]
    pub ends: bool,
}

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
            members.retain(|_, member| member.heard.elapsed() < self.options.lease * 10);
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
        let payload = serde_json::to_vec(command).unwrap_or_default();
        let asked = self.link.client.request(self.asks(session), payload.into());
        match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
            Ok(Ok(answer)) => Ok(answer.payload),
            Ok(Err(error)) => Err(unavailable(&error.to_string())),
            Err(_elapsed) => Err(unavailable("a worker did not answer")),
        }
    }
}

impl NatsStore {
    /// Answers what is asked of this process, for as long as the runtime runs.
    ///
    /// # Errors
    /// When NATS cannot be asked for it.
    pub async fn obey(&self, does: Does) -> std::result::Result<JoinHandle<()>, crate::Error> {
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

    /// Says of this process from now on.
    pub fn tell(&self, about: About, abilities: Abilities) {
        let digest = abilities.digest();
        *self.inner.abilities.write() = Arc::new(abilities);
        *self.inner.about.lock() = About { abilities: digest, instance: self.inner.mirror.instance.clone(), ..about };
        self.inner.beat.notify_one();
    }

    /// Says how its devices are.
    pub fn tell_devices(&self, devices: Vec<AboutDevice>) {
        self.inner.about.lock().devices = devices;
    }

    /// Everybody who is heard of, by name.
    pub fn members(&self) -> Vec<Member> {
        let members = self.inner.members.lock();
        let heard = |member: &&Member| member.heard.elapsed() < self.inner.options.lease;
        let mut members: Vec<Member> = members.values().filter(heard).cloned().collect();
        members.sort_by(|a, b| (&a.about.host, &a.about.instance).cmp(&(&b.about.host, &b.about.instance)));
        members
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
            let lack = if workers.is_empty() {
                "a worker: none is there".to_owned()
            } else {
                let lacks: Option<Vec<String>> = workers.iter().map(|worker| worker.lack(needs)).collect();
                lacks?.into_iter().next()?
            };
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

/// What the first sign of life says.
pub(crate) fn beat(session: &str, about: About) -> Bytes {
    serde_json::to_vec(&Beat { v: SCHEMA, session: session.to_owned(), about, ends: false }).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told() {
        let mut abilities = Abilities::default();
        let needs = Needs { classes: vec!["A".into(), "B".into()], models: vec![("checkpoints".into(), "x.safetensors".into())] };
        assert_eq!(abilities.lack(&Needs::default()), None);
        abilities.classes.insert("A".into());
        assert_eq!(abilities.lack(&needs).as_deref(), Some("a worker that has the node class 'B'"));
        abilities.classes.insert("B".into());
        assert_eq!(abilities.lack(&needs).as_deref(), Some("a worker that has 'x.safetensors' in its folder 'checkpoints'"));
        let before = abilities.digest();
        abilities.models.entry("checkpoints".into()).or_default().insert("x.safetensors".into());
        assert_eq!(abilities.lack(&needs), None);
        assert_ne!(abilities.digest(), before);
    }
}
