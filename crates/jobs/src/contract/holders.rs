//! Who holds a job: only the worker that claimed it last ends it, and a worker that starts again gets back only what it held itself.

use super::harness::{Harness, LIMITS, RERUN, enqueue, expect, outcome, restarted};
use crate::store::{Error, JobStore, OnRestart, Position, Recovered, Status, Token, WorkerId};

pub(super) async fn run(harness: &dyn Harness) {
    stale_tokens(harness).await;
    two_workers(harness).await;
    orphans(harness).await;
}

/// Tries everything that a token allows.
async fn use_token(store: &dyn JobStore, token: &Token) -> [Result<(), Error>; 3] {
    let end = outcome(Status::Success);
    [store.finish(token, &end).await, store.finish_and_claim(token, &end).await.map(drop), store.requeue(token).await]
}

async fn stale_tokens(harness: &dyn Harness) {
    const CHECK: &str = "stale tokens";
    let store = harness.fresh(LIMITS).await;
    let store = store.as_ref();
    let (one, two) = (WorkerId::new("one"), WorkerId::new("two"));
    enqueue(store, CHECK, "a", Position::Back).await;
    let first = store.claim(&one).await.unwrap().unwrap();
    store.requeue(&first.token).await.unwrap();
    for refused in use_token(store, &first.token).await {
        assert!(matches!(&refused, Err(Error::NotRunning(id)) if id == "a"), "{CHECK}: of a job that was put back: {refused:?}");
    }
    for worker in [&two, &one] {
        let again = store.claim(worker).await.unwrap().unwrap();
        enqueue(store, CHECK, "b", Position::Back).await;
        for refused in use_token(store, &first.token).await {
            assert!(matches!(&refused, Err(Error::NotHeld(id)) if id == "a"), "{CHECK}: of a job that was claimed anew: {refused:?}");
        }
        let token = Token { worker: WorkerId::new("three"), ..again.token.clone() };
        for refused in use_token(store, &token).await {
            assert!(matches!(refused, Err(Error::NotHeld(_))), "{CHECK}: in another worker's name: {refused:?}");
        }
        store.remove_pending(&["b".to_owned()]).await.unwrap();
        store.requeue(&again.token).await.unwrap();
    }
    let last = store.next_job(&two).await.unwrap();
    assert_eq!(last.token.worker, two, "{CHECK}: who waits holds what it gets");
    store.finish(&last.token, &outcome(Status::Error)).await.unwrap();
    expect(store, CHECK, "its holder's end", "running | pending | history a:error").await;
}

async fn two_workers(harness: &dyn Harness) {
    const CHECK: &str = "two workers";
    for (on_restart, state) in
        [(RERUN, "running b@1 | pending a@0 c@2 | history"), (OnRestart::Fail, "running b@1 | pending c@2 | history a:error")]
    {
        let store = harness.fresh(LIMITS).await;
        let store = store.as_ref();
        let (one, two) = (WorkerId::new("one"), WorkerId::new("two"));
        for id in ["a", "b", "c"] {
            enqueue(store, CHECK, id, Position::Back).await;
        }
        let a = store.claim(&one).await.unwrap().unwrap();
        let b = store.claim(&two).await.unwrap().unwrap();
        let recovered = store.recover(&one, on_restart).await.unwrap();
        assert_eq!(recovered.rerun + recovered.failed, 1, "{CHECK}: the figures: {recovered:?}");
        expect(store, CHECK, "recovering one's", state).await;
        let late = store.finish(&a.token, &outcome(Status::Success)).await;
        assert!(matches!(late, Err(Error::NotRunning(_))), "{CHECK}: what was recovered cannot be ended as before: {late:?}");
        store.finish(&b.token, &outcome(Status::Success)).await.unwrap();
        let recovered = store.recover(&two, on_restart).await.unwrap();
        assert_eq!((recovered.rerun, recovered.failed), (0, 0), "{CHECK}: the other one holds nothing any more");
    }
}

/// What a process held that is gone is found by whichever worker starts first.
async fn orphans(harness: &dyn Harness) {
    const CHECK: &str = "orphans";
    if !harness.durable() {
        return;
    }
    let store = harness.fresh(LIMITS).await;
    enqueue(store.as_ref(), CHECK, "a", Position::Back).await;
    let lost = store.claim(&WorkerId::new("gone")).await.unwrap().unwrap();
    let store = restarted(harness, store).await;
    for refused in use_token(store.as_ref(), &lost.token).await {
        assert!(matches!(refused, Err(Error::NotHeld(_))), "{CHECK}: the process that held it is gone: {refused:?}");
    }
    let recovered = store.recover(&WorkerId::new("new"), RERUN).await.unwrap();
    assert_eq!(recovered, Recovered { pending: 1, rerun: 1, failed: 0 }, "{CHECK}: the figures");
}
