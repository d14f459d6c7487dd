//! What the checks of a store share: what its tests provide, jobs and outcomes to try with, and the store's state as text.

use std::fmt::Write as _;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;
use serde_json::value::RawValue;

use super::sink;
use crate::memory::Options as Limits;
use crate::message::Message;
use crate::secrets::Secrets;
use crate::store::{Claim, HistoryQuery, JobStore, NewJob, OnRestart, Outcome, Position, Status, Token, WorkerId, now_ms};

/// What a store's tests provide.
#[async_trait]
pub trait Harness: Send + Sync {
    /// A new, empty store.
    async fn fresh(&self, limits: Limits) -> Arc<dyn JobStore>;

    /// Ends a store without telling it anything and opens its successor on the same storage, which has not been told to recover. The
    /// suite holds no other reference to the store. Called for durable stores only.
    async fn reopen(&self, store: Arc<dyn JobStore>, limits: Limits) -> Arc<dyn JobStore>;

    /// Whether anything outlives the store. If not, the checks of a restart use the same store on.
    fn durable(&self) -> bool {
        true
    }
}

/// The whole state as text: running and waiting jobs as `id@number`, and the history as `id:status`, oldest first.
pub async fn snapshot(store: &dyn JobStore) -> String {
    let queue = store.queue().await.expect("queue");
    let history = store.history(&HistoryQuery::default()).await.expect("history").entries;
    let mut text = String::from("running");
    for job in &queue.running {
        write!(text, " {}@{}", job.id, job.number).expect("a string takes all");
    }
    text.push_str(" | pending");
    for job in &queue.pending {
        write!(text, " {}@{}", job.id, job.number).expect("a string takes all");
    }
    text.push_str(" | history");
    for entry in &history {
        write!(text, " {}:{}", entry.job.id, status_name(entry.status)).expect("a string takes all");
    }
    text
}

/// A job with a small graph that carries its id.
pub fn job(id: &str, position: Position) -> NewJob {
    NewJob {
        id: id.to_owned(),
        position,
        owner: "someone".into(),
        client_id: Some("contract".into()),
        workflow_id: Some(format!("workflow of {id}").into()),
        prompt: text(&format!(r#"{{"1":{{"class_type":"SaveImage","inputs":{{"filename_prefix":"{id}"}}}}}}"#)),
        extra_data: text(r#"{"client_id":"contract"}"#),
        secrets: Secrets::default(),
        outputs: vec!["1".to_owned()],
        created_ms: now_ms(),
        needs: Default::default(),
    }
}

/// An outcome with something in every part.
pub fn outcome(status: Status) -> Outcome {
    Outcome {
        status,
        messages: vec![
            Message::Start { prompt_id: "contract".into(), timestamp_ms: 1_700_000_000_000 },
            Message::Success { prompt_id: "contract".into(), timestamp_ms: 1_700_000_000_500 },
        ],
        outputs: json!({"1": {"images": [{"filename": "a_00001_.png", "subfolder": "", "type": "output"}]}}),
        meta: vec![sink::node("1")],
        started_ms: 1_700_000_000_000,
        ended_ms: 1_700_000_000_500,
    }
}

/// The worker that claims, where it does not matter which does.
pub fn worker() -> WorkerId {
    WorkerId::new("worker")
}

/// However often the worker ended.
pub(super) const RERUN: OnRestart = OnRestart::Rerun { max_crashes: 0 };

/// A token that no store gave out, for a job that is not claimed.
pub(super) fn forged(id: &str) -> Token {
    Token { prompt_id: id.to_owned(), worker: worker(), claim: 0 }
}

pub(super) fn text(json: &str) -> Arc<RawValue> {
    RawValue::from_string(json.to_owned()).expect("the suite's own JSON").into()
}

pub(super) fn status_name(status: Status) -> &'static str {
    match status {
        Status::Success => "success",
        Status::Error => "error",
        Status::Interrupted => "interrupted",
    }
}

pub(super) const LIMITS: Limits =
    Limits { max_pending: 100, max_pending_bytes: usize::MAX, max_of_owner: usize::MAX, max_history: 100, max_outcome_bytes: 1 << 20 };

/// The store after a restart; for stores that keep nothing, itself.
pub(super) async fn restarted(harness: &dyn Harness, store: Arc<dyn JobStore>) -> Arc<dyn JobStore> {
    if harness.durable() { harness.reopen(store, LIMITS).await } else { store }
}

pub(super) async fn enqueue(store: &dyn JobStore, check: &str, id: &str, position: Position) -> f64 {
    match store.enqueue(job(id, position)).await {
        Ok(ticket) => {
            assert_eq!(ticket.id, id, "{check}: the ticket has another id");
            ticket.number
        }
        Err(error) => panic!("{check}: enqueue of '{id}' failed: {error}"),
    }
}

pub(super) async fn claim(store: &dyn JobStore, check: &str) -> Claim {
    store
        .claim(&worker())
        .await
        .unwrap_or_else(|error| panic!("{check}: claim failed: {error}"))
        .unwrap_or_else(|| panic!("{check}: nothing to claim"))
}

pub(super) async fn finish(store: &dyn JobStore, check: &str, claim: &Claim, status: Status) {
    let finished = store.finish(&claim.token, &outcome(status)).await;
    finished.unwrap_or_else(|error| panic!("{check}: finish of '{}' failed: {error}", claim.job.id));
}

/// Enqueues, claims and finishes.
pub(super) async fn pass(store: &dyn JobStore, check: &str, ids: &[&str]) {
    for id in ids {
        enqueue(store, check, id, Position::Back).await;
        let claimed = claim(store, check).await;
        assert_eq!(claimed.job.id, *id, "{check}: another job was claimed");
        finish(store, check, &claimed, Status::Success).await;
    }
}

pub(super) async fn expect(store: &dyn JobStore, check: &str, step: &str, state: &str) {
    assert_eq!(snapshot(store).await, state, "{check}: state after: {step}");
    let counts = store.counts().await.expect("counts");
    let queue = store.queue().await.expect("queue");
    assert_eq!(counts.pending, queue.pending.len(), "{check}: counts().pending after: {step}");
    assert_eq!(counts.running, queue.running.len(), "{check}: counts().running after: {step}");
    let running: Vec<&str> = queue.running.iter().map(|job| job.id.as_str()).collect();
    assert_eq!(counts.running_ids, running, "{check}: counts().running_ids after: {step}");
}

pub(super) fn ids(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

/// How many entries the history has.
pub(super) async fn total(store: &dyn JobStore) -> usize {
    store.history(&HistoryQuery { limit: Some(0), ..HistoryQuery::default() }).await.unwrap().total
}
