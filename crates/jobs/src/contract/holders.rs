//! Who holds a job: only the worker that claimed it last ends it, and a worker that starts again gets back only what it held itself.

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::JoinSet;

use super::harness::{Harness, LIMITS, RERUN, enqueue, expect, outcome, restarted, total};
use crate::store::{Error, JobStore, OnRestart, Position, Recovered, Status, Token, WorkerId};

/// What a wait may take at most.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn run(harness: &dyn Harness) {
    stale_tokens(harness).await;
    two_workers(harness).await;
    orphans(harness).await;
    restart_of_several(harness).await;
    a_free_worker(harness).await;
    many_workers(harness).await;
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

/// The workers of a process that ended recover one after the other, and all that ran keeps its order.
async fn restart_of_several(harness: &dyn Harness) {
    const CHECK: &str = "restart of several";
    let workers = ["one", "two", "three"].map(WorkerId::new);
    let store = harness.fresh(LIMITS).await;
    for id in ["a", "b", "c", "d"] {
        enqueue(store.as_ref(), CHECK, id, Position::Back).await;
    }
    // Not in the workers' order.
    for worker in [&workers[2], &workers[0], &workers[1]] {
        store.claim(worker).await.unwrap().unwrap();
    }
    let store = restarted(harness, store).await;
    let (mut rerun, mut pending) = (0, 0);
    for worker in &workers {
        let recovered = store.recover(worker, OnRestart::Rerun { max_crashes: 2 }).await.unwrap();
        assert_eq!(recovered.failed, 0, "{CHECK}: each has ended once: {recovered:?}");
        (rerun, pending) = (rerun + recovered.rerun, recovered.pending);
    }
    assert_eq!((rerun, pending), (3, 4), "{CHECK}: the figures");
    let mut order = Vec::new();
    for worker in &workers {
        order.push(store.claim(worker).await.unwrap().unwrap().job.id.clone());
    }
    // Where nobody was gone, each worker put its own first.
    let mut first = order.clone();
    first.sort();
    assert_eq!(first, ["a", "b", "c"], "{CHECK}: what ran goes before what waits");
    if harness.durable() {
        assert_eq!(order, ["a", "b", "c"], "{CHECK}: in the order in which it was claimed");
    }
}

/// Who is free gets what comes, and what is put back, while another one is busy.
async fn a_free_worker(harness: &dyn Harness) {
    const CHECK: &str = "a free worker";
    let store = harness.fresh(LIMITS).await;
    let (busy, free) = (WorkerId::new("busy"), WorkerId::new("free"));
    enqueue(store.as_ref(), CHECK, "a", Position::Back).await;
    let held = store.next_job(&busy).await.unwrap();
    for id in ["b", "c"] {
        let (waiting, worker) = (store.clone(), free.clone());
        let waiter = tokio::spawn(async move { waiting.next_job(&worker).await });
        enqueue(store.as_ref(), CHECK, id, Position::Back).await;
        let given = tokio::time::timeout(PATIENCE, waiter).await.unwrap_or_else(|_| panic!("{CHECK}: '{id}' waits though one is free"));
        let given = given.unwrap().unwrap();
        assert_eq!((given.job.id.as_str(), &given.token.worker), (id, &free), "{CHECK}: who waits gets it");
        store.finish(&given.token, &outcome(Status::Success)).await.unwrap();
    }
    let (waiting, worker) = (store.clone(), free.clone());
    let waiter = tokio::spawn(async move { waiting.next_job(&worker).await });
    store.requeue(&held.token).await.unwrap();
    let given = tokio::time::timeout(PATIENCE, waiter).await.unwrap_or_else(|_| panic!("{CHECK}: what was put back waits"));
    assert_eq!(given.unwrap().unwrap().job.id, "a", "{CHECK}: what one puts back another gets");
    let late = store.finish(&held.token, &outcome(Status::Success)).await;
    assert!(matches!(late, Err(Error::NotHeld(_))), "{CHECK}: who put it back cannot end it: {late:?}");
}

/// Several work at once while jobs come: each job is given out once and ends once, and nobody goes without.
async fn many_workers(harness: &dyn Harness) {
    const CHECK: &str = "many workers";
    const JOBS: usize = 60;
    let store = harness.fresh(LIMITS).await;
    let mut working = JoinSet::new();
    for name in ["one", "two", "three", "four"] {
        let (store, worker) = (store.clone(), WorkerId::new(name));
        working.spawn(async move {
            let mut ran = Vec::new();
            // Those that come last may get nothing: they are told by a job that ends them.
            let mut next = store.next_job(&worker).await.unwrap();
            loop {
                assert_eq!(next.token.worker, worker, "{CHECK}: held by who got it");
                let last = next.job.id.starts_with("end");
                ran.push(next.job.id.clone());
                tokio::task::yield_now().await;
                let claimed = match last {
                    true => store.finish(&next.token, &outcome(Status::Success)).await.map(|()| None),
                    false => store.finish_and_claim(&next.token, &outcome(Status::Success)).await,
                };
                next = match claimed.unwrap() {
                    _ if last => return ran,
                    Some(claim) => claim,
                    None => store.next_job(&worker).await.unwrap(),
                };
            }
        });
    }
    for n in 0..JOBS {
        enqueue(store.as_ref(), CHECK, &format!("j{n}"), Position::Back).await;
        if n % 7 == 0 {
            tokio::task::yield_now().await;
        }
    }
    for n in 0..4 {
        enqueue(store.as_ref(), CHECK, &format!("end{n}"), Position::Back).await;
    }
    let mut ran: HashMap<String, usize> = HashMap::new();
    let all = async {
        while let Some(done) = working.join_next().await {
            done.unwrap().into_iter().for_each(|id| *ran.entry(id).or_default() += 1);
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap_or_else(|_| panic!("{CHECK}: somebody waits though jobs do"));
    assert!(ran.values().all(|times| *times == 1) && ran.len() == JOBS + 4, "{CHECK}: each once: {ran:?}");
    assert_eq!(total(store.as_ref()).await, JOBS + 4, "{CHECK}: all are in the history");
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.running, counts.pending), (0, 0), "{CHECK}: nothing is left");
}
