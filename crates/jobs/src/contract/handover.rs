//! What a worker needs of a store between two jobs: waiting for the next one, and ending one while taking the next.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::harness::{Harness, LIMITS, RERUN, claim, enqueue, expect, forged, ids, job, outcome, pass, restarted, worker};
use crate::memory::Options as Limits;
use crate::store::{Claim, Error, JobStore, Position, Recovered, Result, Status};

/// What a wait may take at most.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn run(harness: &dyn Harness) {
    next_job(harness).await;
    next_in_turn(harness).await;
    abandoned_waits(harness).await;
    finish_and_claim(harness).await;
    refused_finish(harness).await;
    handover_versions(harness).await;
    handover_restart(harness).await;
}

/// A caller that waits in the background.
fn waiter(store: &Arc<dyn JobStore>) -> tokio::task::JoinHandle<Result<Claim>> {
    let store = store.clone();
    tokio::spawn(async move { store.next_job(&worker()).await })
}

async fn served(check: &str, wait: impl Future<Output = std::result::Result<Result<Claim>, tokio::task::JoinError>>) -> Claim {
    let answer = tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{check}: who waits was not served"));
    answer.unwrap().unwrap_or_else(|error| panic!("{check}: next_job failed: {error}"))
}

/// Lets a caller come so far that it waits.
async fn polled_once<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = std::future::ready(()) => None,
    }
}

async fn next_job(harness: &dyn Harness) {
    const CHECK: &str = "next job";
    let store = harness.fresh(LIMITS).await;
    enqueue(store.as_ref(), CHECK, "a", Position::Back).await;
    let first = served(CHECK, waiter(&store)).await;
    assert_eq!(first.job.id, "a", "{CHECK}: one that waits is given at once");
    expect(store.as_ref(), CHECK, "taking one that waited", "running a@0 | pending | history").await;

    let waiting = waiter(&store);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!waiting.is_finished(), "{CHECK}: it must wait while nothing does");
    enqueue(store.as_ref(), CHECK, "b", Position::Back).await;
    assert_eq!(served(CHECK, waiting).await.job.id, "b", "{CHECK}: a job that comes is given to who waits");
    expect(store.as_ref(), CHECK, "serving who waits", "running a@0 b@1 | pending | history").await;

    let waiting = waiter(&store);
    tokio::time::sleep(Duration::from_millis(20)).await;
    store.requeue(&first.token).await.unwrap();
    assert_eq!(served(CHECK, waiting).await.job.id, "a", "{CHECK}: a job that was put back is given to who waits");
    expect(store.as_ref(), CHECK, "putting one back", "running b@1 a@0 | pending | history").await;
}

async fn next_in_turn(harness: &dyn Harness) {
    const CHECK: &str = "next job: many wait";
    let store = harness.fresh(LIMITS).await;
    let waiting: Vec<_> = (0..8).map(|_| waiter(&store)).collect();
    for n in 0..8 {
        enqueue(store.as_ref(), CHECK, &format!("j{n}"), Position::Back).await;
    }
    let mut given = Vec::new();
    for wait in waiting {
        given.push(served(CHECK, wait).await.job.id.clone());
    }
    given.sort();
    assert_eq!(given, (0..8).map(|n| format!("j{n}")).collect::<Vec<_>>(), "{CHECK}: each gets a job of its own");
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.running, counts.pending), (8, 0), "{CHECK}: all run");
}

/// A worker that goes away while it waits must not take a job with it.
async fn abandoned_waits(harness: &dyn Harness) {
    const CHECK: &str = "next job: abandoned";
    let store = harness.fresh(LIMITS).await;
    let (mut taken, worker) = (0, worker());
    for n in 0..20 {
        let mut wait = Box::pin(store.next_job(&worker));
        if polled_once(wait.as_mut()).await.is_some() {
            taken += 1;
            continue;
        }
        enqueue(store.as_ref(), CHECK, &format!("j{n}"), Position::Back).await;
        // Half of them go while the answer may be there already.
        if n % 2 == 0 && polled_once(wait.as_mut()).await.is_some() {
            taken += 1;
        }
        drop(wait);
    }
    // Behind what the store had to do.
    store.remove_pending(&ids(&["nobody"])).await.unwrap();
    let mut waited = 0;
    loop {
        let counts = store.counts().await.unwrap();
        if counts.running == taken && counts.running + counts.pending <= 20 && counts.pending > 0 {
            break;
        }
        waited += 1;
        assert!(waited < 500, "{CHECK}: {taken} jobs were handed out, but the counts stay {counts:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let first = store.queue().await.unwrap().pending[0].id.clone();
    assert_eq!(served(CHECK, waiter(&store)).await.job.id, first, "{CHECK}: the next caller gets the first that waits");
}

async fn finish_and_claim(harness: &dyn Harness) {
    const CHECK: &str = "finish and claim";
    let store = harness.fresh(Limits { max_history: 2, ..LIMITS }).await;
    let store = store.as_ref();
    for id in ["a", "b", "c"] {
        enqueue(store, CHECK, id, Position::Back).await;
    }
    let a = claim(store, CHECK).await;
    let b = store.finish_and_claim(&a.token, &outcome(Status::Error)).await.unwrap().unwrap();
    assert_eq!((b.job.id.as_str(), &b.token.worker), ("b", &a.token.worker), "{CHECK}: the job that is next, for the same worker");
    expect(store, CHECK, "the first", "running b@1 | pending c@2 | history a:error").await;
    enqueue(store, CHECK, "d", Position::Front).await;
    let d = store.finish_and_claim(&b.token, &outcome(Status::Success)).await.unwrap().unwrap();
    assert_eq!(d.job.id, "d", "{CHECK}: the order is that of claim");
    let c = store.finish_and_claim(&d.token, &outcome(Status::Interrupted)).await.unwrap().unwrap();
    assert_eq!(c.job.id, "c", "{CHECK}: the last");
    let next = store.finish_and_claim(&c.token, &outcome(Status::Success)).await.unwrap();
    assert!(next.is_none(), "{CHECK}: nothing waits: {next:?}");
    expect(store, CHECK, "all", "running | pending | history d:interrupted c:success").await;
}

async fn refused_finish(harness: &dyn Harness) {
    const CHECK: &str = "finish and claim: refused";
    let store = harness.fresh(LIMITS).await;
    let store = store.as_ref();
    pass(store, CHECK, &["h"]).await;
    enqueue(store, CHECK, "a", Position::Back).await;
    for id in ["h", "a", "nobody"] {
        let result = store.finish_and_claim(&forged(id), &outcome(Status::Success)).await;
        assert!(matches!(&result, Err(Error::NotRunning(refused)) if refused == id), "{CHECK}: of '{id}': {result:?}");
    }
    expect(store, CHECK, "nothing is claimed", "running | pending a@1 | history h:success").await;
}

async fn handover_versions(harness: &dyn Harness) {
    const CHECK: &str = "finish and claim: versions";
    let store = harness.fresh(LIMITS).await;
    enqueue(store.as_ref(), CHECK, "a", Position::Back).await;
    enqueue(store.as_ref(), CHECK, "b", Position::Back).await;
    let before = *store.versions().borrow();
    let claimed = store.next_job(&worker()).await.unwrap();
    let taken = *store.versions().borrow();
    assert!(taken.queue > before.queue && taken.history == before.history, "{CHECK}: next_job changes the queue");
    store.finish_and_claim(&claimed.token, &outcome(Status::Success)).await.unwrap();
    let after = *store.versions().borrow();
    assert!(after.queue > taken.queue && after.history > taken.history, "{CHECK}: both change");
    let entry = store.history_entry("a").await.unwrap();
    assert!(entry.is_some(), "{CHECK}: the entry can be read once the call returns");
}

async fn handover_restart(harness: &dyn Harness) {
    const CHECK: &str = "finish and claim: restart";
    let store = harness.fresh(LIMITS).await;
    let waiting = waiter(&store);
    tokio::task::yield_now().await;
    for id in ["a", "b", "c"] {
        store.enqueue(job(id, Position::Back)).await.unwrap();
    }
    let first = served(CHECK, waiting).await;
    assert_eq!(first.job.id, "a", "{CHECK}: the first");
    store.finish_and_claim(&first.token, &outcome(Status::Success)).await.unwrap();
    let state = "running b@1 | pending c@2 | history a:success";
    expect(store.as_ref(), CHECK, "before", state).await;
    let store = restarted(harness, store).await;
    expect(store.as_ref(), CHECK, "opening", state).await;
    let recovered = store.recover(&worker(), RERUN).await.unwrap();
    assert_eq!(recovered, Recovered { pending: 2, rerun: 1, failed: 0 }, "{CHECK}: the figures");
    assert_eq!(store.next_job(&worker()).await.unwrap().job.id, "b", "{CHECK}: what ran runs first");
}
