//! What ComfyUI's processes say besides answers, on its way to clients and into the queue. A process's thread must not wait: what clients are
//! told goes to the hub at once, all else to a task.

use std::sync::{Arc, OnceLock};

use comfyd_python::{HistoryWanted, Outlet, Tell};
use comfyd_server::{App, Hub, PacksQuery};
use comfyd_store_nats::{Post, Said};
use serde_json::Value as Json;
use tokio::sync::{Notify, mpsc};

use crate::beside::Beside;
use crate::devices::Runs;
use crate::python::Deaf;

/// Changes of the queue that may wait for the task.
const MAX_WAITING: usize = 1024;

/// A change of the queue that a custom node makes.
enum Change {
    /// For whose prompt it runs.
    Enqueue(Json, Option<Arc<str>>),
    Remove(Option<Vec<String>>),
    Forget(Option<Vec<String>>, String),
}

/// What a custom node wants to see of the history, and who tells it.
type Question = (HistoryWanted, Tell);

/// Where processes of a worker in a cluster say it: the servers tell their clients. What they say of the queue nobody hears.
#[derive(Clone, Default)]
pub(crate) struct Voice {
    post: Arc<OnceLock<Post>>,
    /// On which device: what is said while a user's prompt runs there concerns that user.
    runs: Runs,
}

impl Voice {
    /// From now on the servers are told.
    pub(crate) fn speak_to(&self, post: Post) {
        self.post.get_or_init(|| post);
    }

    /// The same for the processes of one device.
    pub(crate) fn of(&self, runs: Runs) -> Self {
        Self { runs, ..self.clone() }
    }
}

impl Outlet for Voice {
    fn event(&self, name: &str, data: Json, client: Option<&str>) {
        if let Some(post) = self.post.get() {
            let owner = self.runs.owner().map(|owner| owner.to_string());
            post.say(Said::Event { name: name.to_owned(), data, client: client.map(str::to_owned), owner });
        }
    }

    fn binary(&self, kind: u32, bytes: Vec<u8>, client: Option<&str>) {
        if let Some(post) = self.post.get() {
            let owner = self.runs.owner().map(|owner| owner.to_string());
            post.say(Said::Bytes { kind, bytes: Arc::new(bytes), client: client.map(str::to_owned), owner });
        }
    }

    fn enqueue(&self, item: Json) {
        Deaf.enqueue(item);
    }

    fn remove(&self, ids: Option<Vec<String>>) {
        Deaf.remove(ids);
    }

    fn history(&self, wanted: HistoryWanted, tell: Tell) {
        Deaf.history(wanted, tell);
    }

    fn forget(&self, ids: Option<Vec<String>>, owner: String) {
        Deaf.forget(ids, owner);
    }

    fn changed(&self) {
        Deaf.changed();
    }
}

/// Where processes say it.
#[derive(Clone)]
pub(crate) struct Mouth {
    hub: Arc<OnceLock<Hub>>,
    /// The clients of other servers hear it from there.
    others: Voice,
    changes: mpsc::Sender<Change>,
    questions: mpsc::Sender<Question>,
    changed: Arc<Notify>,
    /// On which device: what is said while a user's prompt runs there concerns that user.
    runs: Runs,
}

/// Where it is heard.
pub(crate) struct Ears {
    changes: mpsc::Receiver<Change>,
    questions: mpsc::Receiver<Question>,
    changed: Arc<Notify>,
}

pub(crate) fn channel() -> (Mouth, Ears) {
    let (sender, changes) = mpsc::channel(MAX_WAITING);
    let (asks, questions) = mpsc::channel(MAX_WAITING);
    let changed = Arc::new(Notify::new());
    let (hub, others, runs) = (Arc::default(), Voice::default(), Runs::default());
    let mouth = Mouth { hub, others, changes: sender, questions: asks, changed: Arc::clone(&changed), runs };
    (mouth, Ears { changes, questions, changed })
}

impl Mouth {
    /// From now on clients are told.
    pub(crate) fn speak_to(&self, hub: Hub) {
        self.hub.get_or_init(|| hub);
    }

    /// From now on those of the other servers of a cluster are told too.
    pub(crate) fn speak_beyond(&self, post: Post) {
        self.others.speak_to(post);
    }

    /// The same for the processes of one device.
    pub(crate) fn of(&self, runs: Runs) -> Self {
        Self { others: self.others.of(runs.clone()), runs, ..self.clone() }
    }

    fn change(&self, change: Change) {
        if self.changes.try_send(change).is_err() {
            tracing::error!("custom nodes change the queue faster than it can be stored: a change of theirs is left out");
        }
    }
}

impl Outlet for Mouth {
    fn event(&self, name: &str, data: Json, client: Option<&str>) {
        if let Some(hub) = self.hub.get() {
            hub.event(name, &data, client, self.runs.owner().as_deref());
        }
        self.others.event(name, data, client);
    }

    fn binary(&self, kind: u32, bytes: Vec<u8>, client: Option<&str>) {
        if let Some(hub) = self.hub.get() {
            hub.binary(kind, &bytes, client, self.runs.owner().as_deref());
        }
        self.others.binary(kind, bytes, client);
    }

    fn enqueue(&self, item: Json) {
        self.change(Change::Enqueue(item, self.runs.owner()));
    }

    fn remove(&self, ids: Option<Vec<String>>) {
        self.change(Change::Remove(ids));
    }

    fn history(&self, wanted: HistoryWanted, tell: Tell) {
        if let Err(error) = self.questions.try_send((wanted, tell)) {
            let (_, tell) = error.into_inner();
            tell(Err("custom nodes ask for the history faster than it can be read: ask again later".into()));
        }
    }

    fn forget(&self, ids: Option<Vec<String>>, owner: String) {
        self.change(Change::Forget(ids, owner));
    }

    fn changed(&self) {
        self.changed.notify_one();
    }
}

impl Ears {
    /// Obeys for good.
    pub(crate) async fn listen(self, app: App, besides: Vec<Arc<Beside>>) {
        let Self { mut changes, mut questions, changed } = self;
        let rebuilding = async {
            loop {
                changed.notified().await;
                let besides = besides.clone();
                if let Err(error) = tokio::task::spawn_blocking(move || besides.iter().for_each(|beside| beside.rebuild())).await {
                    tracing::error!(%error, "the classes could not be put together anew");
                }
            }
        };
        let obeying = async {
            while let Some(change) = changes.recv().await {
                let done = match change {
                    Change::Enqueue(item, owner) => app.enqueue(item, owner).await,
                    Change::Remove(ids) => app.take_out(ids.as_deref()).await,
                    Change::Forget(ids, owner) => app.forget(ids.as_deref(), &owner).await,
                };
                if let Err(error) = done {
                    tracing::error!(error, "a custom node could not change the queue");
                }
            }
        };
        let answering = async {
            while let Some((HistoryWanted { prompt_id, max_items, offset, owner }, tell)) = questions.recv().await {
                let told = app.history_for_packs(PacksQuery { prompt_id, max_items, offset, owner }).await;
                // Whoever asked may be slow to take it.
                drop(tokio::task::spawn_blocking(move || tell(told)).await);
            }
        };
        tokio::join!(rebuilding, obeying, answering);
    }
}
