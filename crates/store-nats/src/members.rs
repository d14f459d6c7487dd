//! What processes of a cluster tell of themselves and may be asked. It knows neither how that is sent nor what becomes of it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use comfyd_jobs::Needs;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::document::SCHEMA;

/// How much of what is missing is named.
const MAX_NAMED: usize = 16;

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
    /// Those of them that need more memory than any of its devices has: how many bytes, at least.
    pub heavy: BTreeMap<Arc<str>, BTreeMap<Arc<str>, u64>>,
    /// What it tells of classes that others may lack, by the host that runs them beside it.
    pub told: BTreeMap<Arc<str>, Told>,
}

/// A text that others read in parts where they do not have it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Told {
    /// BLAKE3 of it, in hexadecimal digits.
    pub digest: String,
    /// Its length.
    pub bytes: usize,
}

impl Told {
    /// What is said of a text.
    pub fn of(text: &str) -> Self {
        Self { digest: blake3::hash(text.as_bytes()).to_hex().to_string(), bytes: text.len() }
    }
}

impl Abilities {
    /// The same text for the same abilities.
    pub fn digest(&self) -> String {
        blake3::hash(&serde_json::to_vec(self).unwrap_or_default()).to_hex()[..16].to_owned()
    }

    /// What is missing for a job; `None` if nothing is.
    pub fn lack(&self, needs: &Needs) -> Option<Lack> {
        self.lacks(needs).into_iter().next()
    }

    /// All that is missing for a job: classes first, then models, then memory.
    fn lacks(&self, needs: &Needs) -> Vec<Lack> {
        let classes = needs.classes.iter().filter(|class| !self.classes.contains(*class)).cloned().map(Lack::Class);
        let has = |folder, file| self.models.get(folder).is_some_and(|files: &BTreeSet<Arc<str>>| files.contains(file));
        let models = needs.models.iter().filter(|(folder, file)| !has(folder, file));
        let models = models.map(|(folder, file)| Lack::Model { folder: folder.clone(), file: file.clone() });
        let heavy = needs.models.iter().filter_map(|(folder, file)| Some((*self.heavy.get(folder)?.get(file)?, file)));
        let memory = heavy.max().map(|(bytes, file)| Lack::Memory { bytes, file: file.clone() });
        classes.chain(models).chain(memory).collect()
    }
}

/// What is missing for a job where none of these can run it: what the nearest lacks. Where another one has some of that, all that no worker
/// has together. `None` if one can run it.
pub(crate) fn missing(workers: &[Arc<Abilities>], needs: &Needs) -> Option<String> {
    let lacks: Vec<Vec<Lack>> = workers.iter().map(|worker| worker.lacks(needs)).collect();
    let nearest = lacks.iter().max_by_key(|lacks| (lacks.first().map(Lack::rank), Reverse(lacks.len())))?;
    let first = nearest.first()?;
    if lacks.iter().any(Vec::is_empty) {
        return None;
    }
    let same = |one: &Lack, other: &Lack| one == other || one.file().is_some_and(|file| other.file() == Some(file));
    let has = |other: &Vec<Lack>, lack: &Lack| !other.iter().any(|lacks| same(lacks, lack));
    if !nearest.iter().any(|lack| lacks.iter().any(|other| has(other, lack))) {
        return Some(first.to_string());
    }
    let all: BTreeSet<&Lack> = lacks.iter().flatten().collect();
    let named: Vec<String> = all.iter().take(MAX_NAMED).map(|lack| lack.what()).collect();
    let more = if all.len() > MAX_NAMED { format!(" and {} more", all.len() - MAX_NAMED) } else { String::new() };
    Some(format!("one worker that has all of this together: {}{more}", named.join(", ")))
}

/// What a process lacks for a job. Who lacks the latter is nearer to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lack {
    /// A node class.
    Class(Arc<str>),
    /// A model file.
    Model {
        /// Its folder's name.
        folder: Arc<str>,
        /// The file's.
        file: Arc<str>,
    },
    /// A device on which a model has room.
    Memory {
        /// How much that is at least.
        bytes: u64,
        /// The model's file.
        file: Arc<str>,
    },
}

impl Lack {
    /// Whoever lacks a thing of a higher one is nearer.
    fn rank(&self) -> u8 {
        match self {
            Self::Class(_) => 0,
            Self::Model { .. } => 1,
            Self::Memory { .. } => 2,
        }
    }

    /// The model's file that it is about.
    fn file(&self) -> Option<&Arc<str>> {
        match self {
            Self::Class(_) => None,
            Self::Model { file, .. } | Self::Memory { file, .. } => Some(file),
        }
    }

    fn what(&self) -> String {
        match self {
            Self::Class(class) => format!("the node class '{class}'"),
            Self::Model { folder, file } => format!("'{file}' in its folder '{folder}'"),
            Self::Memory { bytes, file } => {
                format!("a device on which '{file}' has room, which needs {:.1} GiB", *bytes as f64 / f64::from(1 << 30))
            }
        }
    }
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let has = if matches!(self, Self::Memory { .. }) { "with" } else { "that has" };
        write!(f, "a worker {has} {}", self.what())
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
    /// A part of a text that it tells.
    Text {
        /// Which text.
        digest: String,
        /// Where the part begins.
        from: usize,
    },
    /// What one of its classes says of inputs.
    Check {
        /// The host beside it that has the class.
        host: String,
        /// What is asked: JSON whose numbers may be longer than this process reads.
        question: String,
    },
}

/// Does what is asked of a process: interrupts and frees, and says whether there was anything to do; checks, and gives the answer.
pub type Does = Arc<dyn Fn(Command) -> BoxFuture<'static, Json> + Send + Sync>;

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

impl Leases {
    /// Whether this process could write for the length of a lease: who was not heard of in it is not there.
    pub fn settled(&self, lease: Duration) -> bool {
        self.sound.lock().is_some_and(|since| since.elapsed() >= lease)
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
        let needs = Needs {
            classes: vec!["A".into(), "B".into()],
            models: vec![("checkpoints".into(), "x.safetensors".into())],
            ..Needs::default()
        };
        let lack = |abilities: &Abilities| abilities.lack(&needs).map(|lack| lack.to_string());
        assert_eq!(abilities.lack(&Needs::default()), None);
        abilities.classes.insert("A".into());
        assert_eq!(lack(&abilities).as_deref(), Some("a worker that has the node class 'B'"));
        abilities.classes.insert("B".into());
        assert_eq!(lack(&abilities).as_deref(), Some("a worker that has 'x.safetensors' in its folder 'checkpoints'"));
        let (before, far) = (abilities.digest(), abilities.lack(&needs));
        abilities.models.entry("checkpoints".into()).or_default().insert("x.safetensors".into());
        assert_eq!(lack(&abilities), None);
        assert_ne!(abilities.digest(), before);
        abilities.heavy.entry("checkpoints".into()).or_default().insert("x.safetensors".into(), 3 << 29);
        let told = "a worker with a device on which 'x.safetensors' has room, which needs 1.5 GiB";
        assert_eq!(lack(&abilities).as_deref(), Some(told));
        assert!(abilities.lack(&needs) > far, "it is nearer");
        assert_eq!(abilities.lack(&Needs { models: vec![], ..needs.clone() }), None, "others have room");
    }

    #[test]
    fn what_no_worker_has_together_is_told_whole() {
        let workers = |all: &[&[&str]]| -> Vec<Arc<Abilities>> {
            let classes = |classes: &&[&str]| classes.iter().map(|&class| class.into()).collect();
            all.iter().map(|all| Arc::new(Abilities { classes: classes(all), ..Abilities::default() })).collect()
        };
        let needs = Needs { classes: vec!["A".into(), "X".into(), "Y".into()], ..Needs::default() };
        let told = |all: &[&[&str]]| missing(&workers(all), &needs);
        assert_eq!(told(&[&["A"], &["A", "X", "Y"]]), None);
        assert_eq!(told(&[]), None, "that nobody is there is told in other words");
        assert_eq!(told(&[&["A", "X"], &["A"]]).as_deref(), Some("a worker that has the node class 'Y'"), "nobody has it");
        let together = "one worker that has all of this together: the node class 'X', the node class 'Y'";
        assert_eq!(told(&[&["A", "X"], &["A", "Y"], &["A"]]).as_deref(), Some(together));
        // A model without its class, and the class with the model where that has no room.
        let needs = Needs { classes: vec!["X".into()], models: vec![("m".into(), "f".into())], ..Needs::default() };
        let model = BTreeMap::from([("m".into(), BTreeSet::from(["f".into()]))]);
        let heavy = BTreeMap::from([("m".into(), BTreeMap::from([("f".into(), 3 << 29)]))]);
        let small = Abilities { classes: BTreeSet::from(["X".into()]), models: model.clone(), heavy, ..Abilities::default() };
        let plain = Abilities::default();
        let room = "a worker with a device on which 'f' has room, which needs 1.5 GiB";
        assert_eq!(missing(&[small.clone().into(), plain.into()], &needs).as_deref(), Some(room), "who lacks the model has no room for it");
        let large = Abilities { models: model, ..Abilities::default() };
        let together = "one worker that has all of this together: the node class 'X', a device on which 'f' has room, which needs 1.5 GiB";
        assert_eq!(missing(&[small.into(), large.into()], &needs).as_deref(), Some(together));
    }
}
