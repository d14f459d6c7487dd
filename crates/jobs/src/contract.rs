//! The test-suite of every `JobStore`: what each must do, and a comparison with a naive model over random operations. It knows the
//! contract only, nothing of how a store works. [`sink`] is the same for event sinks.
//!
//! A store's tests implement [`Harness`] and call [`run`]. Each check gets stores of its own; a failed one panics with its name first.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Test code in a library, so that other crates' tests can call it.

use serde_json::json;
use tokio::task::JoinSet;

use crate::memory::Options as Limits;
use crate::secrets::Secrets;
use crate::store::{Error, HistoryQuery, Job, JobStore, NewJob, OnRestart, Outcome, Position, Recovered, Status};

pub mod cluster;
mod handover;
mod harness;
mod holders;
mod lists;
mod model;
mod owners;
pub mod sink;

pub use self::harness::{Harness, job, outcome, snapshot, worker};
use self::harness::{LIMITS, RERUN, claim, enqueue, expect, finish, forged, ids, pass, restarted, text, total};

/// Runs every check.
///
/// # Panics
/// When a check fails; the message begins with the check's name.
pub async fn run(harness: &dyn Harness) {
    order(harness).await;
    numbers(harness).await;
    duplicates(harness).await;
    full(harness).await;
    full_in_bytes(harness).await;
    owners::run(harness).await;
    removal(harness).await;
    life_cycle(harness).await;
    requeue(harness).await;
    outcome_bound(harness).await;
    verbatim(harness).await;
    secrets(harness).await;
    history_pages(harness).await;
    lists::run(harness).await;
    history_bound(harness).await;
    history_removal(harness).await;
    versions(harness).await;
    concurrency(harness).await;
    abandoned_claims(harness).await;
    handover::run(harness).await;
    holders::run(harness).await;
    recover_in_place(harness).await;
    restart_order(harness).await;
    restart_rerun(harness).await;
    restart_fail(harness).await;
    crashes(harness).await;
    if harness.durable() {
        restart_bounds(harness).await;
    }
    for seed in 1..=12 {
        model::compare(harness, seed, 120).await;
    }
}

async fn order(harness: &dyn Harness) {
    const CHECK: &str = "order";
    let store = harness.fresh(LIMITS).await;
    let store = store.as_ref();
    expect(store, CHECK, "opening", "running | pending | history").await;
    assert!(store.claim(&worker()).await.unwrap().is_none(), "{CHECK}: an empty queue gave a job");
    enqueue(store, CHECK, "a", Position::Back).await;
    enqueue(store, CHECK, "b", Position::Back).await;
    enqueue(store, CHECK, "c", Position::Front).await;
    enqueue(store, CHECK, "d", Position::At(0.5)).await;
    enqueue(store, CHECK, "e", Position::At(1.0)).await;
    enqueue(store, CHECK, "f", Position::At(-2.0)).await;
    enqueue(store, CHECK, "g", Position::Back).await;
    let state = "running | pending c@-2 f@-2 a@0 d@0.5 b@1 e@1 g@3 | history";
    expect(store, CHECK, "enqueueing at the back, the front and given numbers", state).await;
    for id in ["c", "f", "a", "d", "b", "e", "g"] {
        assert_eq!(claim(store, CHECK).await.job.id, id, "{CHECK}: claimed out of order");
    }
    expect(store, CHECK, "claiming all", "running c@-2 f@-2 a@0 d@0.5 b@1 e@1 g@3 | pending | history").await;
}

async fn numbers(harness: &dyn Harness) {
    const CHECK: &str = "numbers";
    let store = harness.fresh(LIMITS).await;
    let store = store.as_ref();
    let first = enqueue(store, CHECK, "a", Position::Front).await;
    assert!(first == 0.0 && first.is_sign_positive(), "{CHECK}: the first job at the front must get 0, not {first:?}");
    assert_eq!(enqueue(store, CHECK, "b", Position::At(7.25)).await, 7.25, "{CHECK}: a given number must be kept");
    assert_eq!(enqueue(store, CHECK, "c", Position::Front).await, -1.0, "{CHECK}: the front is the counter, negated");
    assert_eq!(enqueue(store, CHECK, "d", Position::Back).await, 2.0, "{CHECK}: the front uses up a number, a given number does not");
    let zero = enqueue(store, CHECK, "e", Position::At(-0.0)).await;
    assert!(zero.is_sign_positive(), "{CHECK}: -0 must become 0");
    enqueue(store, CHECK, "f", Position::At(f64::NAN)).await;
    enqueue(store, CHECK, "g", Position::At(f64::MAX)).await;
    let state = format!("running | pending c@-1 a@0 e@0 d@2 b@7.25 g@{} f@inf | history", f64::MAX);
    expect(store, CHECK, "enqueueing odd numbers", &state).await;
}

async fn duplicates(harness: &dyn Harness) {
    const CHECK: &str = "duplicates";
    let store = harness.fresh(LIMITS).await;
    let store = store.as_ref();
    let refused = async |step: &str| {
        let result = store.enqueue(job("a", Position::Back)).await;
        assert!(matches!(&result, Err(Error::Duplicate(id)) if id == "a"), "{CHECK}: of a job that {step}: {result:?}");
    };
    enqueue(store, CHECK, "a", Position::Back).await;
    refused("waits").await;
    let claimed = claim(store, CHECK).await;
    refused("runs").await;
    finish(store, CHECK, &claimed, Status::Success).await;
    refused("is in the history").await;
    assert_eq!(enqueue(store, CHECK, "b", Position::Back).await, 1.0, "{CHECK}: a refused job must not use up a number");
    assert_eq!(store.delete_history(&ids(&["a"])).await.unwrap(), 1, "{CHECK}: deleting the entry");
    enqueue(store, CHECK, "a", Position::Back).await;
    store.remove_pending(&ids(&["a"])).await.unwrap();
    enqueue(store, CHECK, "a", Position::Back).await;
    store.clear_pending().await.unwrap();
    pass(store, CHECK, &["a"]).await;
    store.clear_history().await.unwrap();
    pass(store, CHECK, &["a"]).await;
    expect(store, CHECK, "an id that was forgotten is free again", "running | pending | history a:success").await;
}

async fn full(harness: &dyn Harness) {
    const CHECK: &str = "full";
    let store = harness.fresh(Limits { max_pending: 2, ..LIMITS }).await;
    let store = store.as_ref();
    enqueue(store, CHECK, "a", Position::Back).await;
    enqueue(store, CHECK, "b", Position::Back).await;
    let result = store.enqueue(job("c", Position::Front)).await;
    assert!(matches!(result, Err(Error::Full(2))), "{CHECK}: the third of two: {result:?}");
    let result = store.enqueue(job("a", Position::Back)).await;
    assert!(matches!(result, Err(Error::Duplicate(_))), "{CHECK}: a known id is told first: {result:?}");
    let claimed = claim(store, CHECK).await;
    assert_eq!(enqueue(store, CHECK, "c", Position::Back).await, 2.0, "{CHECK}: running jobs don't count, refused ones use no number");
    store.requeue(&claimed.token).await.unwrap();
    expect(store, CHECK, "a job that was accepted can always go back", "running | pending a@0 b@1 c@2 | history").await;
}

async fn full_in_bytes(harness: &dyn Harness) {
    const CHECK: &str = "full in bytes";
    let one = job("a", Position::Back);
    let bytes = one.prompt.get().len() + one.extra_data.get().len();
    let store = harness.fresh(Limits { max_pending_bytes: 2 * bytes, ..LIMITS }).await;
    let store = store.as_ref();
    enqueue(store, CHECK, "a", Position::Back).await;
    enqueue(store, CHECK, "b", Position::Back).await;
    let refused = async |id| matches!(store.enqueue(job(id, Position::Back)).await, Err(Error::FullBytes(limit)) if limit == 2 * bytes);
    assert!(refused("c").await, "{CHECK}: the third of two");
    let claimed = claim(store, CHECK).await;
    assert_eq!(enqueue(store, CHECK, "c", Position::Back).await, 2.0, "{CHECK}: running jobs don't count, refused ones use no number");
    store.requeue(&claimed.token).await.unwrap();
    assert!(refused("d").await, "{CHECK}: what went back counts again");
    store.remove_pending(&ids(&["a", "c"])).await.unwrap();
    enqueue(store, CHECK, "d", Position::Back).await;
    assert!(refused("e").await, "{CHECK}: two wait again");
    store.clear_pending().await.unwrap();
    enqueue(store, CHECK, "e", Position::Back).await;
    enqueue(store, CHECK, "f", Position::Back).await;
    assert!(refused("g").await, "{CHECK}: two wait once more");
}

async fn removal(harness: &dyn Harness) {
    const CHECK: &str = "removal";
    let store = harness.fresh(LIMITS).await;
    let store = store.as_ref();
    for id in ["a", "b", "c", "d"] {
        enqueue(store, CHECK, id, Position::Back).await;
    }
    claim(store, CHECK).await;
    let removed = store.remove_pending(&ids(&["a", "c", "nobody", "c"])).await.unwrap();
    assert_eq!(removed, 1, "{CHECK}: running and unknown ids are passed over, repeated ones count once");
    expect(store, CHECK, "removing one", "running a@0 | pending b@1 d@3 | history").await;
    assert_eq!(store.clear_pending().await.unwrap(), 2, "{CHECK}: clear_pending");
    expect(store, CHECK, "clearing", "running a@0 | pending | history").await;
    assert_eq!(store.clear_pending().await.unwrap(), 0, "{CHECK}: clear_pending of nothing");
    assert_eq!(store.remove_pending(&[]).await.unwrap(), 0, "{CHECK}: remove_pending of nothing");
    enqueue(store, CHECK, "e", Position::Back).await;
    expect(store, CHECK, "numbers go on", "running a@0 | pending e@4 | history").await;
}

async fn life_cycle(harness: &dyn Harness) {
    const CHECK: &str = "life cycle";
    let store = harness.fresh(LIMITS).await;
    let store = store.as_ref();
    let mut claims = Vec::new();
    for id in ["a", "b", "c"] {
        enqueue(store, CHECK, id, Position::Back).await;
        claims.push(claim(store, CHECK).await);
    }
    finish(store, CHECK, &claims[1], Status::Interrupted).await;
    finish(store, CHECK, &claims[0], Status::Error).await;
    expect(store, CHECK, "finishing out of order", "running c@2 | pending | history b:interrupted a:error").await;
    let again = store.finish(&claims[0].token, &outcome(Status::Success)).await;
    assert!(matches!(&again, Err(Error::NotRunning(id)) if id == "a"), "{CHECK}: finishing twice: {again:?}");
    let unknown = store.finish(&forged("nobody"), &outcome(Status::Success)).await;
    assert!(matches!(&unknown, Err(Error::NotRunning(_))), "{CHECK}: finishing an unknown one: {unknown:?}");
    enqueue(store, CHECK, "d", Position::Back).await;
    let waiting = store.finish(&forged("d"), &outcome(Status::Success)).await;
    assert!(matches!(&waiting, Err(Error::NotRunning(_))), "{CHECK}: finishing one that waits: {waiting:?}");
    expect(store, CHECK, "refused calls", "running c@2 | pending d@3 | history b:interrupted a:error").await;
}

async fn requeue(harness: &dyn Harness) {
    const CHECK: &str = "requeue";
    let store = harness.fresh(LIMITS).await;
    let store = store.as_ref();
    enqueue(store, CHECK, "a", Position::At(1.0)).await;
    enqueue(store, CHECK, "b", Position::At(1.0)).await;
    let claimed = claim(store, CHECK).await;
    enqueue(store, CHECK, "c", Position::At(1.0)).await;
    enqueue(store, CHECK, "d", Position::At(0.0)).await;
    store.requeue(&claimed.token).await.unwrap();
    expect(store, CHECK, "putting a job back", "running | pending d@0 a@1 b@1 c@1 | history").await;
    let waiting = store.requeue(&claimed.token).await;
    assert!(matches!(waiting, Err(Error::NotRunning(_))), "{CHECK}: of one that waits: {waiting:?}");
}

/// What can never be stored is refused as such, so that a worker does not try for ever; nothing has happened then.
async fn outcome_bound(harness: &dyn Harness) {
    const CHECK: &str = "outcome bound";
    let store = harness.fresh(Limits { max_outcome_bytes: 10_000, ..LIMITS }).await;
    let store = store.as_ref();
    enqueue(store, CHECK, "a", Position::Back).await;
    enqueue(store, CHECK, "b", Position::Back).await;
    let token = claim(store, CHECK).await.token;
    let parts: [fn(&mut Outcome, &str); 3] = [
        |outcome, text| outcome.messages.extend(Outcome::failed("a", "RuntimeError", text, 0, 0).messages),
        |outcome, text| outcome.outputs = json!({"1": {"text": [text]}}),
        |outcome, text| outcome.meta = vec![sink::node(text)],
    ];
    for set in parts {
        let mut large = outcome(Status::Success);
        set(&mut large, &"x".repeat(10_000));
        for result in [store.finish(&token, &large).await, store.finish_and_claim(&token, &large).await.map(drop)] {
            assert!(matches!(&result, Err(Error::Unstorable(why)) if why.contains("more than 10000 bytes")), "{CHECK}: {result:?}");
        }
    }
    expect(store, CHECK, "refused outcomes", "running a@0 | pending b@1 | history").await;
    let mut most = outcome(Status::Success);
    most.outputs = json!({"1": {"text": ["x".repeat(9_000)]}});
    // The clock was set back while it ran.
    most.ended_ms = most.started_ms - 5_000;
    store.finish(&token, &most).await.unwrap_or_else(|error| panic!("{CHECK}: one within the bound: {error}"));
    let entry = store.history_entry("a").await.unwrap().unwrap_or_else(|| panic!("{CHECK}: no entry"));
    assert_eq!((entry.started_ms, entry.ended_ms), (most.started_ms, most.started_ms), "{CHECK}: no job ends before it begins");
    expect(store, CHECK, "one within the bound", "running | pending b@1 | history a:success").await;
}

async fn verbatim(harness: &dyn Harness) {
    const CHECK: &str = "verbatim";
    let store = harness.fresh(LIMITS).await;
    let prompt = "{ \"b\":1.0e+2,\"a\" : [ 0.1000, -0, 123456789012345678901234567890 ],\"b\":\"\\u00e9 é \\ud83d\\ude00 😀\\/\"}";
    let extra = "{\"client_id\": null,\n\t\"extra_pnginfo\":{}}";
    let new = NewJob {
        id: "ähm 'quoted' \"id\" \u{1F600}".to_owned(),
        position: Position::Back,
        owner: "Zoë's".into(),
        client_id: Some("\"me\"\n".into()),
        workflow_id: Some("".into()),
        prompt: text(prompt),
        extra_data: text(extra),
        secrets: Secrets::default(),
        outputs: ids(&["9", "10:1", "", "é"]),
        created_ms: 1_700_000_000_123,
        needs: Default::default(),
    };
    store.enqueue(new.clone()).await.unwrap();
    let verify = |job: &Job, place: &str| {
        assert_eq!(job.id, new.id, "{CHECK}: the id {place}");
        assert_eq!(job.prompt.get(), prompt, "{CHECK}: the prompt {place}");
        assert_eq!(job.extra_data.get(), extra, "{CHECK}: extra_data {place}");
        assert_eq!(job.outputs, new.outputs, "{CHECK}: the outputs {place}");
        assert_eq!((&job.owner, &job.client_id), (&new.owner, &new.client_id), "{CHECK}: who sent it {place}");
        assert_eq!(job.workflow_id, new.workflow_id, "{CHECK}: the workflow {place}");
        assert_eq!(job.created_ms, new.created_ms, "{CHECK}: created_ms {place}");
    };
    verify(&store.queue().await.unwrap().pending[0], "in the queue");
    let store = restarted(harness, store).await;
    verify(&store.queue().await.unwrap().pending[0], "in the queue after a restart");
    let claimed = claim(store.as_ref(), CHECK).await;
    verify(&claimed.job, "when claimed");
    finish(store.as_ref(), CHECK, &claimed, Status::Success).await;
    verify_entry(store.as_ref(), CHECK, &new.id, &verify).await;
    let store = restarted(harness, store).await;
    verify_entry(store.as_ref(), CHECK, &new.id, &verify).await;
}

/// What is secret reaches whoever runs the job, and a restart leaves the names.
async fn secrets(harness: &dyn Harness) {
    const CHECK: &str = "secrets";
    let store = harness.fresh(LIMITS).await;
    let with_a_key = |id: &str| {
        let mut extra_data = json!({"api_key_comfy_org": "S3CRET"});
        let secrets = Secrets::take(&mut extra_data, &["api_key_comfy_org".to_owned()]).unwrap_or_default();
        NewJob { extra_data: text(&extra_data.to_string()), secrets, ..job(id, Position::Back) }
    };
    store.enqueue(with_a_key("a")).await.unwrap();
    store.enqueue(with_a_key("b")).await.unwrap();
    let claimed = claim(store.as_ref(), CHECK).await;
    assert_eq!(claimed.job.secrets.values()["api_key_comfy_org"], "S3CRET", "{CHECK}: when claimed");
    assert!(!format!("{claimed:?}").contains("S3CRET"), "{CHECK}: printed");
    finish(store.as_ref(), CHECK, &claimed, Status::Success).await;
    let entry = store.history_entry("a").await.unwrap().unwrap();
    assert!(entry.job.secrets.names().is_empty(), "{CHECK}: the history knows none");
    let store = restarted(harness, store).await;
    let claimed = claim(store.as_ref(), CHECK).await.job;
    assert_eq!(claimed.secrets.names(), ["api_key_comfy_org"], "{CHECK}: the names after a restart");
    if harness.durable() {
        assert_eq!(claimed.secrets.lost_names(), ["api_key_comfy_org"], "{CHECK}: a restart takes the values");
        assert!(claimed.secrets.values().is_empty(), "{CHECK}: no values after a restart");
    }
}

async fn verify_entry(store: &dyn JobStore, check: &str, id: &str, verify: &(dyn Fn(&Job, &str) + Sync)) {
    let wanted = outcome(Status::Success);
    let listed = store.history(&HistoryQuery::default()).await.unwrap().entries;
    let single = store.history_entry(id).await.unwrap().unwrap_or_else(|| panic!("{check}: no history entry"));
    assert_eq!(listed.len(), 1, "{check}: the history's length");
    for entry in [&listed[0], &single] {
        verify(&entry.job, "in the history");
        let messages = r#"[["execution_start",{"prompt_id":"contract","timestamp":1700000000000}],["execution_success",{"prompt_id":"contract","timestamp":1700000000500}]]"#;
        assert_eq!(entry.messages.get(), messages, "{check}: messages");
        assert_eq!(entry.outputs.get(), wanted.outputs.to_string(), "{check}: outputs");
        let meta = r#"{"1":{"node_id":"1","display_node":"1","parent_node":null,"real_node_id":"1"}}"#;
        assert_eq!(entry.meta.get(), meta, "{check}: meta");
        assert_eq!((entry.started_ms, entry.ended_ms), (wanted.started_ms, wanted.ended_ms), "{check}: times");
    }
}

async fn history_pages(harness: &dyn Harness) {
    const CHECK: &str = "history pages";
    let store = harness.fresh(LIMITS).await;
    let store = store.as_ref();
    pass(store, CHECK, &["a", "b", "c", "d", "e"]).await;
    let cases: [(Option<usize>, Option<usize>, &str); 11] = [
        (None, None, "abcde"),
        (Some(2), None, "de"),
        (Some(9), None, "abcde"),
        (Some(0), None, ""),
        (None, Some(2), "cde"),
        (Some(2), Some(0), "ab"),
        (Some(2), Some(1), "bc"),
        (Some(2), Some(4), "e"),
        (Some(0), Some(1), ""),
        (Some(2), Some(5), ""),
        (Some(usize::MAX), Some(usize::MAX), ""),
    ];
    for (max_items, offset, wanted) in cases {
        // Without an offset, the newest are meant.
        let (newest, offset) = (max_items.is_some() && offset.is_none(), offset.unwrap_or(0));
        let query = HistoryQuery { limit: max_items, descending: newest, offset, ..HistoryQuery::default() };
        let page = store.history(&query).await.unwrap();
        let mut page: Vec<&str> = page.entries.iter().map(|entry| entry.job.id.as_str()).collect();
        if newest {
            page.reverse();
        }
        assert_eq!(page.concat(), wanted, "{CHECK}: {query:?}");
    }
    assert_eq!(total(store).await, 5, "{CHECK}: total");
    assert!(store.history_entry("nobody").await.unwrap().is_none(), "{CHECK}: an unknown id has no entry");
    enqueue(store, CHECK, "f", Position::Back).await;
    assert!(store.history_entry("f").await.unwrap().is_none(), "{CHECK}: a waiting job has no entry");
}

async fn history_bound(harness: &dyn Harness) {
    const CHECK: &str = "history bound";
    let store = harness.fresh(Limits { max_history: 3, ..LIMITS }).await;
    let store = store.as_ref();
    pass(store, CHECK, &["a", "b", "c", "d", "e"]).await;
    expect(store, CHECK, "finishing five", "running | pending | history c:success d:success e:success").await;
    assert_eq!(total(store).await, 3, "{CHECK}: total");
    assert!(store.history_entry("a").await.unwrap().is_none(), "{CHECK}: a dropped entry is gone");
    pass(store, CHECK, &["a"]).await;
    expect(store, CHECK, "the id of a dropped entry is free", "running | pending | history d:success e:success a:success").await;

    let store = harness.fresh(Limits { max_history: 0, ..LIMITS }).await;
    pass(store.as_ref(), CHECK, &["a", "b", "a"]).await;
    expect(store.as_ref(), CHECK, "a bound of none", "running | pending | history").await;
}

async fn history_removal(harness: &dyn Harness) {
    const CHECK: &str = "history removal";
    let store = harness.fresh(LIMITS).await;
    let store = store.as_ref();
    pass(store, CHECK, &["a", "b", "c", "d"]).await;
    enqueue(store, CHECK, "w", Position::Back).await;
    let removed = store.delete_history(&ids(&["b", "nobody", "w", "b"])).await.unwrap();
    assert_eq!(removed, 1, "{CHECK}: unknown and waiting ids are passed over, repeated ones count once");
    expect(store, CHECK, "deleting one", "running | pending w@4 | history a:success c:success d:success").await;
    assert!(store.history_entry("b").await.unwrap().is_none(), "{CHECK}: the entry is gone");
    assert_eq!(store.clear_history().await.unwrap(), 3, "{CHECK}: clear_history");
    expect(store, CHECK, "clearing", "running | pending w@4 | history").await;
    assert_eq!(store.clear_history().await.unwrap(), 0, "{CHECK}: clear_history of nothing");
    assert!(store.history_entry("a").await.unwrap().is_none(), "{CHECK}: a cleared entry is gone");
}

async fn versions(harness: &dyn Harness) {
    const CHECK: &str = "versions";
    let store = harness.fresh(LIMITS).await;
    let watch = store.versions();
    let mut last = *watch.borrow();
    let mut grew = |step: &str, queue: bool, history: bool| {
        let now = *watch.borrow();
        assert_eq!(now.queue > last.queue, queue, "{CHECK}: whether the queue's version grew after: {step}");
        assert_eq!(now.history > last.history, history, "{CHECK}: whether the history's version grew after: {step}");
        last = now;
    };
    assert!(store.claim(&worker()).await.unwrap().is_none(), "{CHECK}: empty");
    grew("claiming nothing", false, false);
    enqueue(store.as_ref(), CHECK, "a", Position::Back).await;
    grew("enqueue", true, false);
    let _ = store.enqueue(job("a", Position::Back)).await;
    grew("a refused enqueue", false, false);
    let claimed = claim(store.as_ref(), CHECK).await;
    grew("claim", true, false);
    store.requeue(&claimed.token).await.unwrap();
    grew("requeue", true, false);
    let again = claim(store.as_ref(), CHECK).await;
    grew("claim", true, false);
    let _ = store.finish(&claimed.token, &outcome(Status::Success)).await;
    grew("a refused finish", false, false);
    finish(store.as_ref(), CHECK, &again, Status::Success).await;
    grew("finish", true, true);
    store.remove_pending(&ids(&["a"])).await.unwrap();
    store.clear_pending().await.unwrap();
    store.delete_history(&ids(&["b"])).await.unwrap();
    grew("removing nothing", false, false);
    snapshot(store.as_ref()).await;
    grew("reading", false, false);
    enqueue(store.as_ref(), CHECK, "b", Position::Back).await;
    grew("enqueue", true, false);
    store.remove_pending(&ids(&["b"])).await.unwrap();
    grew("remove_pending", true, false);
    enqueue(store.as_ref(), CHECK, "b", Position::Back).await;
    grew("enqueue", true, false);
    store.clear_pending().await.unwrap();
    grew("clear_pending", true, false);
    store.delete_history(&ids(&["a"])).await.unwrap();
    grew("delete_history", false, true);
    pass(store.as_ref(), CHECK, &["c"]).await;
    grew("a whole cycle", true, true);
    store.clear_history().await.unwrap();
    grew("clear_history", false, true);
}

async fn concurrency(harness: &dyn Harness) {
    const CHECK: &str = "concurrency";
    let store = harness.fresh(LIMITS).await;
    let mut tasks = JoinSet::new();
    for n in 0..64 {
        let store = store.clone();
        tasks.spawn(async move { store.enqueue(job(&format!("j{n}"), Position::Back)).await.unwrap().number });
    }
    let mut numbers = tasks.join_all().await;
    numbers.sort_by(f64::total_cmp);
    assert_eq!(numbers, (0..64).map(f64::from).collect::<Vec<_>>(), "{CHECK}: each job gets a number of its own");

    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        let store = store.clone();
        tasks.spawn(async move { store.enqueue(job("same", Position::Back)).await.is_ok() });
    }
    let accepted = tasks.join_all().await.into_iter().filter(|accepted| *accepted).count();
    assert_eq!(accepted, 1, "{CHECK}: an id submitted many times at once is accepted once");

    let mut tasks = JoinSet::new();
    for _ in 0..80 {
        let store = store.clone();
        tasks.spawn(async move {
            let claimed = store.claim(&worker()).await.unwrap()?;
            store.finish(&claimed.token, &outcome(Status::Success)).await.unwrap();
            Some(claimed.job.id.clone())
        });
    }
    let mut claimed: Vec<String> = tasks.join_all().await.into_iter().flatten().collect();
    claimed.sort();
    claimed.dedup();
    assert_eq!(claimed.len(), 65, "{CHECK}: each job is claimed once");
    assert_eq!(total(store.as_ref()).await, 65, "{CHECK}: all are in the history");
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.running, counts.pending), (0, 0), "{CHECK}: the queue is empty");
}

/// A worker that is dropped while it claims must not take the job with it.
async fn abandoned_claims(harness: &dyn Harness) {
    const CHECK: &str = "abandoned claims";
    let store = harness.fresh(LIMITS).await;
    for n in 0..20 {
        enqueue(store.as_ref(), CHECK, &format!("j{n}"), Position::Back).await;
    }
    let (mut claimed, worker) = (0, worker());
    for _ in 0..20 {
        // Polled once and dropped: a store may have answered at once, or have the request under way.
        tokio::select! {
            biased;
            result = store.claim(&worker) => claimed += usize::from(result.unwrap().is_some()),
            () = std::future::ready(()) => {}
        }
    }
    // Behind the claims: what they did is done when this returns, and only putting back is left.
    store.remove_pending(&ids(&["nobody"])).await.unwrap();
    let mut waited = 0;
    loop {
        let counts = store.counts().await.unwrap();
        if counts.running == claimed && counts.pending == 20 - claimed {
            break;
        }
        waited += 1;
        assert!(waited < 500, "{CHECK}: {claimed} jobs were handed out, but the counts stay {counts:?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

async fn recover_in_place(harness: &dyn Harness) {
    const CHECK: &str = "recover without a crash";
    let store = harness.fresh(LIMITS).await;
    enqueue(store.as_ref(), CHECK, "a", Position::Back).await;
    let recovered = store.recover(&worker(), RERUN).await.unwrap();
    assert_eq!(recovered, Recovered { pending: 1, rerun: 0, failed: 0 }, "{CHECK}: the figures");
    expect(store.as_ref(), CHECK, "recover", "running | pending a@0 | history").await;
}

async fn restart_order(harness: &dyn Harness) {
    const CHECK: &str = "restart: order and numbers";
    let store = harness.fresh(LIMITS).await;
    pass(store.as_ref(), CHECK, &["h1", "h2", "h3"]).await;
    store.delete_history(&ids(&["h2"])).await.unwrap();
    enqueue(store.as_ref(), CHECK, "a", Position::Back).await;
    enqueue(store.as_ref(), CHECK, "b", Position::At(3.0)).await;
    enqueue(store.as_ref(), CHECK, "c", Position::Front).await;
    enqueue(store.as_ref(), CHECK, "d", Position::Back).await;
    store.remove_pending(&ids(&["d"])).await.unwrap();
    let state = snapshot(store.as_ref()).await;
    assert_eq!(state, "running | pending c@-4 a@3 b@3 | history h1:success h3:success", "{CHECK}: before");
    let store = restarted(harness, store).await;
    let recovered = store.recover(&worker(), RERUN).await.unwrap();
    assert_eq!(recovered, Recovered { pending: 3, rerun: 0, failed: 0 }, "{CHECK}: the figures");
    expect(store.as_ref(), CHECK, "the restart", &state).await;
    let number = enqueue(store.as_ref(), CHECK, "e", Position::Back).await;
    assert_eq!(number, 6.0, "{CHECK}: numbers go on, even those of removed jobs are not used again");
    enqueue(store.as_ref(), CHECK, "f", Position::At(3.0)).await;
    let refused = store.enqueue(job("h3", Position::Back)).await;
    assert!(matches!(refused, Err(Error::Duplicate(_))), "{CHECK}: ids in the history are still known: {refused:?}");
    let state = "running | pending c@-4 a@3 b@3 f@3 e@6 | history h1:success h3:success";
    expect(store.as_ref(), CHECK, "newcomers run after equal numbers from before", state).await;
}

async fn restart_rerun(harness: &dyn Harness) {
    const CHECK: &str = "restart: rerun";
    let store = harness.fresh(LIMITS).await;
    enqueue(store.as_ref(), CHECK, "a", Position::Back).await;
    enqueue(store.as_ref(), CHECK, "b", Position::Back).await;
    let first = claim(store.as_ref(), CHECK).await;
    claim(store.as_ref(), CHECK).await;
    store.requeue(&first.token).await.unwrap();
    claim(store.as_ref(), CHECK).await;
    enqueue(store.as_ref(), CHECK, "c", Position::Front).await;
    expect(store.as_ref(), CHECK, "before", "running b@1 a@0 | pending c@-2 | history").await;
    let store = restarted(harness, store).await;
    expect(store.as_ref(), CHECK, "opening", "running b@1 a@0 | pending c@-2 | history").await;
    let recovered = store.recover(&worker(), RERUN).await.unwrap();
    assert_eq!(recovered, Recovered { pending: 3, rerun: 2, failed: 0 }, "{CHECK}: the figures");
    expect(store.as_ref(), CHECK, "recover", "running | pending b@1 a@0 c@-2 | history").await;
    assert_eq!(claim(store.as_ref(), CHECK).await.job.id, "b", "{CHECK}: what ran runs first, in the order of the claims");
    enqueue(store.as_ref(), CHECK, "d", Position::Front).await;
    expect(store.as_ref(), CHECK, "a newcomer at the front", "running b@1 | pending a@0 d@-3 c@-2 | history").await;
    let store = restarted(harness, store).await;
    let recovered = store.recover(&worker(), RERUN).await.unwrap();
    assert_eq!(recovered, Recovered { pending: 4, rerun: 1, failed: 0 }, "{CHECK}: the figures of the second restart");
    expect(store.as_ref(), CHECK, "a second restart", "running | pending b@1 a@0 d@-3 c@-2 | history").await;
}

async fn restart_fail(harness: &dyn Harness) {
    const CHECK: &str = "restart: fail";
    let store = harness.fresh(LIMITS).await;
    pass(store.as_ref(), CHECK, &["h"]).await;
    for id in ["a", "b", "c"] {
        enqueue(store.as_ref(), CHECK, id, Position::Back).await;
    }
    claim(store.as_ref(), CHECK).await;
    claim(store.as_ref(), CHECK).await;
    let store = restarted(harness, store).await;
    let before = *store.versions().borrow();
    let recovered = store.recover(&worker(), OnRestart::Fail).await.unwrap();
    assert_eq!(recovered, Recovered { pending: 1, rerun: 0, failed: 2 }, "{CHECK}: the figures");
    let after = *store.versions().borrow();
    assert!(after.queue > before.queue && after.history > before.history, "{CHECK}: the versions must grow");
    let state = "running | pending c@3 | history h:success a:error b:error";
    expect(store.as_ref(), CHECK, "recover", state).await;
    let entry = store.history_entry("a").await.unwrap().unwrap_or_else(|| panic!("{CHECK}: no entry"));
    let messages: serde_json::Value = serde_json::from_str(entry.messages.get()).unwrap();
    assert_eq!(messages[0][0], "execution_error", "{CHECK}: the entry says what happened");
    assert_eq!(messages[0][1]["prompt_id"], "a", "{CHECK}: the message names the prompt");
    assert!(entry.started_ms > 0 && entry.ended_ms >= entry.started_ms, "{CHECK}: the times");
    let store = restarted(harness, store).await;
    assert_eq!(store.recover(&worker(), OnRestart::Fail).await.unwrap().failed, 0, "{CHECK}: nothing fails twice");
    expect(store.as_ref(), CHECK, "a second restart", state).await;
}

/// What was running at too many crashes fails; what was put back in good order, or waited meanwhile, has not crashed.
async fn crashes(harness: &dyn Harness) {
    const CHECK: &str = "crashes";
    let two = OnRestart::Rerun { max_crashes: 2 };
    let mut store = harness.fresh(LIMITS).await;
    enqueue(store.as_ref(), CHECK, "a", Position::Back).await;
    enqueue(store.as_ref(), CHECK, "b", Position::Back).await;
    for _ in 0..3 {
        let claimed = claim(store.as_ref(), CHECK).await;
        assert_eq!(claimed.job.id, "a", "{CHECK}: another job was claimed");
        store.requeue(&claimed.token).await.unwrap();
        store = restarted(harness, store).await;
        let recovered = store.recover(&worker(), two).await.unwrap();
        assert_eq!(recovered, Recovered { pending: 2, rerun: 0, failed: 0 }, "{CHECK}: of one that was put back");
    }
    for (on_restart, failed) in [(RERUN, 0), (RERUN, 0), (two, 1)] {
        claim(store.as_ref(), CHECK).await;
        // Whoever looks does not change the count, and neither does an orderly end in between.
        store = restarted(harness, restarted(harness, store).await).await;
        let recovered = store.recover(&worker(), on_restart).await.unwrap();
        assert_eq!(recovered, Recovered { pending: 2 - failed, rerun: 1 - failed, failed }, "{CHECK}: the figures");
        if failed == 0 {
            let again = claim(store.as_ref(), CHECK).await;
            store.requeue(&again.token).await.unwrap();
        }
    }
    expect(store.as_ref(), CHECK, "the third crash", "running | pending b@1 | history a:error").await;
    let entry = store.history_entry("a").await.unwrap().unwrap_or_else(|| panic!("{CHECK}: no entry"));
    let messages: serde_json::Value = serde_json::from_str(entry.messages.get()).unwrap();
    assert_eq!((&messages[0][0], &messages[0][1]["exception_type"]), (&json!("execution_error"), &json!("ServerCrashed")), "{CHECK}");
    let told = messages[0][1]["exception_message"].as_str().unwrap_or_default();
    assert!(told.contains("ended 3 times") && told.contains("submit it again"), "{CHECK}: the entry says what to do: {told}");
    // The same id is another prompt, which has not crashed.
    store.delete_history(&ids(&["a"])).await.unwrap();
    store.clear_pending().await.unwrap();
    enqueue(store.as_ref(), CHECK, "a", Position::Back).await;
    claim(store.as_ref(), CHECK).await;
    let store = restarted(harness, store).await;
    let recovered = store.recover(&worker(), two).await.unwrap();
    assert_eq!(recovered, Recovered { pending: 1, rerun: 1, failed: 0 }, "{CHECK}: of a new prompt");
}

async fn restart_bounds(harness: &dyn Harness) {
    const CHECK: &str = "restart: smaller bounds";
    let store = harness.fresh(LIMITS).await;
    let names: Vec<String> = (0..60).map(|n| format!("h{n}")).collect();
    pass(store.as_ref(), CHECK, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for id in ["a", "b", "c"] {
        enqueue(store.as_ref(), CHECK, id, Position::Back).await;
    }
    let smaller = Limits { max_pending: 1, max_history: 2, ..LIMITS };
    let store = harness.reopen(store, smaller).await;
    store.recover(&worker(), RERUN).await.unwrap();
    assert_eq!(store.queue().await.unwrap().pending.len(), 3, "{CHECK}: accepted jobs stay");
    assert!(matches!(store.enqueue(job("d", Position::Back)).await, Err(Error::Full(1))), "{CHECK}: no more are accepted");
    let claimed = claim(store.as_ref(), CHECK).await;
    finish(store.as_ref(), CHECK, &claimed, Status::Success).await;
    let state = "running | pending b@61 c@62 | history h59:success a:success";
    expect(store.as_ref(), CHECK, "the history shrinks with the next entry at the latest", state).await;
    store.clear_pending().await.unwrap();
    pass(store.as_ref(), CHECK, &["h0", "h58", "h1"]).await;
    let state = "running | pending | history h58:success h1:success";
    expect(store.as_ref(), CHECK, "ids of dropped entries are free", state).await;
    let store = restarted(harness, store).await;
    expect(store.as_ref(), CHECK, "dropped entries do not come back", state).await;
}
