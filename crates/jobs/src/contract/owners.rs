//! What owners have to do with each other: each one's jobs are counted and bounded by themselves, and owners take turns.

use std::sync::Arc;

use super::harness::{Harness, LIMITS, RERUN, claim, expect, finish, job, restarted, worker};
use crate::memory::Options as Limits;
use crate::store::{Counts, Error, JobStore, NewJob, Position, Status};

pub(super) async fn run(harness: &dyn Harness) {
    turns(harness).await;
    turns_are_remembered(harness).await;
    precedence(harness).await;
    figures(harness).await;
    bound(harness).await;
}

async fn enqueue(store: &dyn JobStore, ids: &[&str], position: Position) {
    for id in ids {
        // Whose it is its id begins with.
        let new = NewJob { owner: id[..1].into(), ..job(id, position) };
        store.enqueue(new).await.unwrap_or_else(|error| panic!("enqueue of '{id}' failed: {error}"));
    }
}

async fn turns(harness: &dyn Harness) {
    const CHECK: &str = "turns";
    let store = harness.fresh(LIMITS).await;
    enqueue(store.as_ref(), &["a1", "a2", "a3", "b1", "c1", "b2"], Position::Back).await;
    enqueue(store.as_ref(), &["a0"], Position::Front).await;
    enqueue(store.as_ref(), &["c0"], Position::At(0.0)).await;
    // Numbers order the jobs of one owner; who has the least begins.
    let state = "running | pending a0@-6 c0@0 b1@3 a1@0 c1@4 b2@5 a2@1 a3@2 | history";
    expect(store.as_ref(), CHECK, "enqueueing", state).await;
    let store = restarted(harness, store).await;
    let store = store.as_ref();
    expect(store, CHECK, "a restart", state).await;
    for id in ["a0", "c0", "b1", "a1"] {
        let claimed = claim(store, CHECK).await;
        assert_eq!(claimed.job.id, id, "{CHECK}: claimed out of turn");
        finish(store, CHECK, &claimed, Status::Success).await;
    }
    // Who comes anew is next, and once only.
    enqueue(store, &["d1", "d2"], Position::Back).await;
    for id in ["d1", "c1", "b2", "a2", "d2", "a3"] {
        assert_eq!(claim(store, CHECK).await.job.id, id, "{CHECK}: claimed out of turn");
    }
}

async fn turns_are_remembered(harness: &dyn Harness) {
    const CHECK: &str = "turns are remembered";
    let store = harness.fresh(LIMITS).await;
    let store = store.as_ref();
    enqueue(store, &["a1"], Position::Back).await;
    finish(store, CHECK, &claim(store, CHECK).await, Status::Success).await;
    // Who has nothing waiting has had a turn all the same: sending one after the other gains nothing.
    enqueue(store, &["a2", "b1", "b2"], Position::Back).await;
    for id in ["b1", "a2"] {
        let claimed = claim(store, CHECK).await;
        assert_eq!(claimed.job.id, id, "{CHECK}: claimed out of turn");
        finish(store, CHECK, &claimed, Status::Success).await;
    }
    enqueue(store, &["a3"], Position::Front).await;
    assert_eq!(claim(store, CHECK).await.job.id, "b2", "{CHECK}: claimed out of turn");
}

async fn precedence(harness: &dyn Harness) {
    const CHECK: &str = "precedence before turns";
    let store = harness.fresh(LIMITS).await;
    enqueue(store.as_ref(), &["a1", "b1", "a2", "c1"], Position::Back).await;
    for _ in 0..2 {
        claim(store.as_ref(), CHECK).await;
    }
    let store = restarted(harness, store).await;
    let store = store.as_ref();
    store.recover(&worker(), RERUN).await.unwrap();
    // What was running when the server stopped comes first, in its order.
    for id in ["a1", "b1"] {
        assert_eq!(claim(store, CHECK).await.job.id, id, "{CHECK}");
    }
    assert_eq!(claim(store, CHECK).await.job.id, "c1", "{CHECK}: it has had no turn yet");
}

async fn figures(harness: &dyn Harness) {
    const CHECK: &str = "figures of owners";
    let store = harness.fresh(LIMITS).await;
    let store = store.as_ref();
    store.enqueue(NewJob { owner: Arc::default(), ..job("nobody's", Position::Back) }).await.unwrap();
    enqueue(store, &["a1", "a2", "b1"], Position::Back).await;
    for _ in 0..2 {
        claim(store, CHECK).await;
    }
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.running, counts.pending, counts.owners.len()), (2, 2, 2), "{CHECK}");
    let of_a = Counts { running: 1, pending: 1, running_ids: vec!["a1".to_owned()], ..Counts::default() };
    assert_eq!((counts.of("a"), counts.of("b").pending, counts.of("c")), (of_a, 1, Counts::default()), "{CHECK}");
}

async fn bound(harness: &dyn Harness) {
    const CHECK: &str = "bound of owners";
    let store = harness.fresh(Limits { max_of_owner: 2, ..LIMITS }).await;
    let store = store.as_ref();
    enqueue(store, &["a1", "a2", "b1"], Position::Back).await;
    let running = claim(store, CHECK).await;
    let more = async |id: &str| store.enqueue(NewJob { owner: "a".into(), ..job(id, Position::Back) }).await;
    assert!(matches!(more("a3").await, Err(Error::OwnerFull(2))), "{CHECK}: what runs counts too");
    finish(store, CHECK, &running, Status::Success).await;
    assert!(more("a3").await.is_ok(), "{CHECK}: there is room again");
    for id in ["1", "2", "3"] {
        let nobodys = NewJob { owner: Arc::default(), ..job(id, Position::Back) };
        assert!(store.enqueue(nobodys).await.is_ok(), "{CHECK}: nobody in particular has no bound");
    }
}
