//! What processes of a cluster tell of themselves and may be asked. It knows neither how that is sent nor what becomes of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use comfyd_jobs::Needs;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::document::SCHEMA;

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

/// Who was heard of when.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    pub heard: Mutex<HashMap<String, Instant>>,
    /// Since when this process can write without a break.
    pub sound: Mutex<Option<Instant>>,
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
