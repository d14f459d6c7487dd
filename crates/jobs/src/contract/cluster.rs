//! The test-suite of stores that several processes share: each has a store of its own, and all have the same jobs. A store that one process
//! has to itself passes it too, as far as it tells: there all processes are one.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;

use super::harness::{enqueue, ids, job, outcome, snapshot};
use crate::memory::Options as Limits;
use crate::store::{Error, JobStore, Position, Status, WorkerId};

const LIMITS: Limits =
    Limits { max_pending: 500, max_pending_bytes: usize::MAX, max_of_owner: usize::MAX, max_history: 500, max_outcome_bytes: 1 << 20 };

/// After so many workers that ended before it did, a job has failed.
pub const MAX_TRIES: u32 = 3;

/// What a store's tests provide.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// Begins anew with nothing stored.
    async fn fresh(&self);

    /// The store of a further process. What a process holds that has ended is given back within seconds, and after [`MAX_TRIES`] times it has
    /// failed.
    async fn join(&self, name: &str, limits: Limits) -> Arc<dyn JobStore>;

    /// Ends a process without telling anybody.
    async fn kill(&self, store: Arc<dyn JobStore>);

    /// Whether processes are told apart. If not, [`Cluster::join`] gives the same store each time, and nothing is killed.
    fn apart(&self) -> bool {
        true
    }
}

/// Runs every check.
///
/// # Panics
/// When a check fails; the message begins with the check's name.
pub async fn run(cluster: &dyn Cluster) {
    same_lists(cluster).await;
    numbers(cluster).await;
    once_each(cluster).await;
    removals(cluster).await;
    if cluster.apart() {
        given_back(cluster).await;
        cut_off(cluster).await;
        tries(cluster).await;
    }
}

/// Waits until it is so: what one process wrote the others see soon.
async fn until<F: Future<Output = bool>>(check: &str, what: &str, so: impl Fn() -> F) {
    for _ in 0..1500 {
        if so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{check}: waited in vain: {what}");
}

async fn shows(check: &str, store: &Arc<dyn JobStore>, state: &str) {
    until(check, state, async || snapshot(store.as_ref()).await == state).await;
}

async fn same_lists(cluster: &dyn Cluster) {
    const CHECK: &str = "cluster: same lists";
    cluster.fresh().await;
    let (one, two) = (cluster.join("one", LIMITS).await, cluster.join("two", LIMITS).await);
    enqueue(one.as_ref(), CHECK, "a", Position::Back).await;
    enqueue(one.as_ref(), CHECK, "b", Position::Front).await;
    shows(CHECK, &two, "running | pending b@-1 a@0 | history").await;
    let (w1, w2) = (WorkerId::new("w1"), WorkerId::new("w2"));
    let b = two.claim(&w2).await.unwrap().unwrap();
    assert_eq!(b.job.id, "b", "{CHECK}");
    assert!(b.job.prompt.get().contains("SaveImage"), "{CHECK}: its texts come along");
    shows(CHECK, &one, "running b@-1 | pending a@0 | history").await;
    let a = one.finish_and_claim(&one.next_job(&w1).await.unwrap().token, &outcome(Status::Success)).await.unwrap();
    assert!(a.is_none(), "{CHECK}: nothing waits");
    two.finish(&b.token, &outcome(Status::Error)).await.unwrap();
    for store in [&one, &two] {
        shows(CHECK, store, "running | pending | history a:success b:error").await;
        let entry = store.history_entry("a").await.unwrap().unwrap();
        assert!(entry.job.prompt.get().contains("SaveImage") && entry.outputs.get().contains("a_00001_"), "{CHECK}: the entry");
        let known = store.enqueue(job("b", Position::Back)).await;
        assert!(matches!(known, Err(Error::Duplicate(_))), "{CHECK}: {known:?}");
    }
    // Who comes later finds the same.
    let three = cluster.join("three", LIMITS).await;
    assert_eq!(snapshot(three.as_ref()).await, "running | pending | history a:success b:error", "{CHECK}: who comes later");
}

async fn numbers(cluster: &dyn Cluster) {
    const CHECK: &str = "cluster: numbers";
    cluster.fresh().await;
    let stores = [cluster.join("one", LIMITS).await, cluster.join("two", LIMITS).await];
    let mut tasks = JoinSet::new();
    for n in 0..60 {
        let store = stores[n % 2].clone();
        tasks.spawn(async move { store.enqueue(job(&format!("j{n}"), Position::Back)).await.unwrap().number });
        let store = stores[n % 2].clone();
        // An id that comes to all at once is taken once.
        tasks.spawn(async move { store.enqueue(job("same", Position::At(1000.0))).await.map_or(-1.0, |ticket| ticket.number) });
    }
    let mut numbers = tasks.join_all().await;
    numbers.retain(|number| *number >= 0.0);
    numbers.sort_by(f64::total_cmp);
    let wanted: Vec<f64> = (0..60).map(f64::from).chain([1000.0]).collect();
    assert_eq!(numbers, wanted, "{CHECK}: each job gets a number of its own");
    until(CHECK, "all wait", async || stores[0].counts().await.unwrap().pending == 61).await;
    let state = format!("running | pending {} same@1000 | history", sorted(stores[0].as_ref()).await);
    shows(CHECK, &stores[1], &state).await;
}

async fn sorted(store: &dyn JobStore) -> String {
    let pending = store.queue().await.unwrap().pending;
    let own: Vec<String> = pending.iter().filter(|job| job.id != "same").map(|job| format!("{}@{}", job.id, job.number)).collect();
    own.join(" ")
}

/// Many workers on several processes run each job once.
async fn once_each(cluster: &dyn Cluster) {
    const CHECK: &str = "cluster: once each";
    cluster.fresh().await;
    let mut stores = Vec::new();
    for name in ["one", "two", "three", "four"] {
        stores.push(cluster.join(name, LIMITS).await);
    }
    let mut tasks = JoinSet::new();
    for worker in 0..12 {
        let store = stores[worker % stores.len()].clone();
        tasks.spawn(async move {
            let id = WorkerId::new(&format!("w{worker}"));
            let mut ran = Vec::new();
            let mut next = None;
            loop {
                let claim = match next.take() {
                    Some(claim) => claim,
                    None => match tokio::time::timeout(Duration::from_secs(2), store.next_job(&id)).await {
                        Ok(claim) => claim.unwrap(),
                        Err(_elapsed) => return ran,
                    },
                };
                ran.push(claim.job.id.clone());
                next = store.finish_and_claim(&claim.token, &outcome(Status::Success)).await.unwrap();
            }
        });
    }
    for n in 0..200 {
        enqueue(stores[n % 2].as_ref(), CHECK, &format!("j{n}"), Position::Back).await;
    }
    let ran = tasks.join_all().await.concat();
    let once: HashSet<&String> = ran.iter().collect();
    assert_eq!((ran.len(), once.len()), (200, 200), "{CHECK}: each runs once");
    for store in &stores {
        until(CHECK, "all are in the history", async || super::total(store.as_ref()).await == 200).await;
    }
}

async fn removals(cluster: &dyn Cluster) {
    const CHECK: &str = "cluster: removals";
    cluster.fresh().await;
    let (one, two) = (cluster.join("one", LIMITS).await, cluster.join("two", LIMITS).await);
    for n in 0..40 {
        enqueue(one.as_ref(), CHECK, &format!("j{n}"), Position::Back).await;
    }
    until(CHECK, "all wait", async || two.counts().await.unwrap().pending == 40).await;
    // Taken back while others claim: each is one or the other.
    let claiming = async {
        let mut claimed = 0;
        while let Some(claim) = one.claim(&WorkerId::new("w")).await.unwrap() {
            one.finish(&claim.token, &outcome(Status::Success)).await.unwrap();
            claimed += 1;
        }
        claimed
    };
    let (claimed, removed) = tokio::join!(claiming, two.clear_pending());
    assert_eq!(claimed + removed.unwrap(), 40, "{CHECK}: each is claimed or removed");
    until(CHECK, "the queue is empty", async || two.counts().await.unwrap().pending == 0).await;
    until(CHECK, "the ends are seen", async || super::total(two.as_ref()).await == claimed).await;
    assert_eq!(two.clear_history().await.unwrap(), claimed, "{CHECK}: the history");
    until(CHECK, "the history is empty", async || super::total(one.as_ref()).await == 0).await;
    assert_eq!(two.delete_history(&ids(&["j0"])).await.unwrap(), 0, "{CHECK}: it is gone");
    enqueue(two.as_ref(), CHECK, "j0", Position::Back).await;
}

/// What a process held that has ended goes back to its place and runs elsewhere.
async fn given_back(cluster: &dyn Cluster) {
    const CHECK: &str = "cluster: given back";
    cluster.fresh().await;
    let (one, two) = (cluster.join("one", LIMITS).await, cluster.join("two", LIMITS).await);
    for id in ["a", "b", "c"] {
        enqueue(one.as_ref(), CHECK, id, Position::Back).await;
    }
    let kept = one.next_job(&WorkerId::new("w1")).await.unwrap();
    let lost = two.next_job(&WorkerId::new("w2")).await.unwrap();
    assert_eq!(lost.job.id, "b", "{CHECK}");
    cluster.kill(two).await;
    shows(CHECK, &one, "running a@0 | pending b@1 c@2 | history").await;
    // Whoever is heard of keeps what it has, for as long as it takes.
    tokio::time::sleep(Duration::from_secs(3)).await;
    one.finish(&kept.token, &outcome(Status::Success)).await.unwrap();
    let again = one.claim(&WorkerId::new("w1")).await.unwrap().unwrap();
    assert_eq!(again.job.id, "b", "{CHECK}: at its old number");
    one.finish(&again.token, &outcome(Status::Success)).await.unwrap();
    shows(CHECK, &one, "running | pending c@2 | history a:success b:success").await;
}

/// A worker that was cut off and comes back cannot overwrite what another made of its job.
async fn cut_off(cluster: &dyn Cluster) {
    const CHECK: &str = "cluster: cut off";
    cluster.fresh().await;
    let (one, two) = (cluster.join("one", LIMITS).await, cluster.join("two", LIMITS).await);
    enqueue(one.as_ref(), CHECK, "a", Position::Back).await;
    let (w1, w2) = (WorkerId::new("w1"), WorkerId::new("w2"));
    until(CHECK, "it is seen", async || two.counts().await.unwrap().pending == 1).await;
    let lost = two.claim(&w2).await.unwrap().unwrap();
    until(CHECK, "the claim is seen", async || one.counts().await.unwrap().running == 1).await;
    // As whoever gives it back in its place: it was not heard of.
    one.recover(&w2, super::harness::RERUN).await.unwrap();
    let again = one.claim(&w1).await.unwrap().unwrap();
    for late in [
        two.finish(&lost.token, &outcome(Status::Error)).await,
        two.finish_and_claim(&lost.token, &outcome(Status::Error)).await.map(drop),
        two.requeue(&lost.token).await,
    ] {
        assert!(matches!(late, Err(Error::NotHeld(_) | Error::NotRunning(_))), "{CHECK}: while the other runs it: {late:?}");
    }
    one.finish(&again.token, &outcome(Status::Success)).await.unwrap();
    let late = two.finish(&lost.token, &outcome(Status::Error)).await;
    assert!(matches!(late, Err(Error::NotHeld(_) | Error::NotRunning(_))), "{CHECK}: after the other's end: {late:?}");
    shows(CHECK, &two, "running | pending | history a:success").await;
}

/// A job whose workers end again and again has failed at last.
async fn tries(cluster: &dyn Cluster) {
    const CHECK: &str = "cluster: tries";
    cluster.fresh().await;
    let one = cluster.join("one", LIMITS).await;
    enqueue(one.as_ref(), CHECK, "a", Position::Back).await;
    for round in 1..=MAX_TRIES {
        let worker = cluster.join(&format!("worker{round}"), LIMITS).await;
        let claim = worker.next_job(&WorkerId::new("w")).await.unwrap();
        assert_eq!(claim.job.id, "a", "{CHECK}");
        cluster.kill(worker).await;
        let state = if round == MAX_TRIES { "running | pending | history a:error" } else { "running | pending a@0 | history" };
        shows(CHECK, &one, state).await;
    }
    let entry = one.history_entry("a").await.unwrap().unwrap();
    assert!(entry.messages.get().contains("ServerCrashed") && entry.messages.get().contains("3 times"), "{CHECK}: {}", entry.messages);
}
