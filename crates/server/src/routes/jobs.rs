//! `/jobs`: queue and history as one list of jobs, as newer front ends ask for them; one job in full; cancelling. Knows the shape of what
//! nodes show only as far as a preview needs it.

use std::cmp::Reverse;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use comfyd_jobs::{HistoryEntry, HistoryQuery, Job, Queue, Status};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::answer::blocking;
use crate::app::App;
use crate::error::ApiError;
use crate::json::{LenientJson, Plain, whole};
use crate::openapi::{Doc, Table};
use crate::query::Query;

/// Jobs that one answer has unless the request says otherwise, and at most.
const DEFAULT_LIMIT: usize = 1_000;
const MAX_LIMIT: usize = 10_000;
/// Characters of a text that are shown as a job's preview.
const MAX_TEXT_PREVIEW: usize = 1024;
/// Jobs that one request may cancel.
const MAX_CANCELLED: usize = 10_000;

pub(super) fn routes() -> Table {
    Table::default()
        .get(
            "/jobs",
            list,
            Doc::new("jobs", "Queue and history as one list.")
                .query("status", "string", "Some of pending, in_progress, completed, failed, cancelled, with commas between them.")
                .query("workflow_id", "string", "Only jobs of this workflow.")
                .query("sort_by", "string", "created_at or execution_duration.")
                .query("sort_order", "string", "asc or desc.")
                .query("limit", "integer", "At most so many.")
                .query("offset", "integer", "Skips so many.")
                .json("Jobs"),
        )
        .post("/jobs/cancel", cancel_many, Doc::new("jobs", "Cancels jobs.").body("JobIds").json("Cancelled"))
        .get("/jobs/{job_id}", one, Doc::new("jobs", "One job in full.").json("Job"))
        .post("/jobs/{job_id}/cancel", cancel_one, Doc::new("jobs", "Takes a job out of the queue, or interrupts it.").json("Cancelled"))
}

/// Where a job is, by the names of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Pending,
    InProgress,
    Completed,
    Failed,
    Cancelled,
}

impl Stage {
    const ALL: [Self; 5] = [Self::Pending, Self::InProgress, Self::Completed, Self::Failed, Self::Cancelled];

    fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    fn of(entry: &HistoryEntry) -> Self {
        match entry.status {
            Status::Success => Self::Completed,
            Status::Error => Self::Failed,
            Status::Interrupted => Self::Cancelled,
        }
    }
}

struct ListParams {
    status: Option<String>,
    workflow_id: Option<String>,
    sort_by: Option<String>,
    sort_order: Option<String>,
    limit: Option<String>,
    offset: Option<String>,
}

/// What a list is asked for.
struct Wanted {
    stages: Vec<Stage>,
    workflow_id: Option<String>,
    by_duration: bool,
    ascending: bool,
    limit: usize,
    offset: usize,
}

impl Wanted {
    fn parse(params: ListParams) -> Result<Self, ApiError> {
        let names = params.status.as_deref().unwrap_or_default();
        let mut stages = Vec::new();
        for name in names.split(',').map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty()) {
            let stage = Stage::ALL.into_iter().find(|stage| stage.as_str() == name);
            stages.push(stage.ok_or_else(|| {
                ApiError::bad_request("'status' must list some of pending, in_progress, completed, failed, cancelled").details(name)
            })?);
        }
        if stages.is_empty() {
            stages = Stage::ALL.to_vec();
        }
        let by_duration = match params.sort_by.as_deref().unwrap_or("created_at") {
            "created_at" => false,
            "execution_duration" => true,
            other => return Err(ApiError::bad_request("'sort_by' must be created_at or execution_duration").details(other)),
        };
        let ascending = match params.sort_order.as_deref().unwrap_or("desc") {
            "asc" => true,
            "desc" => false,
            other => return Err(ApiError::bad_request("'sort_order' must be asc or desc").details(other)),
        };
        let limit = match params.limit.as_deref() {
            None => DEFAULT_LIMIT,
            Some(text) => match whole(text).flatten() {
                Some(limit) if limit > 0 => limit.min(MAX_LIMIT),
                Some(_) | None => return Err(ApiError::bad_request("'limit' must be a whole number above 0").details(text)),
            },
        };
        let offset = match params.offset.as_deref() {
            None => 0,
            // Negative numbers count as 0, as in the reference.
            Some(text) => {
                let offset = whole(text).ok_or_else(|| ApiError::bad_request("'offset' must be a whole number").details(text))?;
                offset.unwrap_or(0)
            }
        };
        let workflow_id = params.workflow_id.filter(|id| !id.is_empty());
        Ok(Self { stages, workflow_id, by_duration, ascending, limit, offset })
    }

    fn wants(&self, stage: Stage) -> bool {
        self.stages.contains(&stage)
    }

    /// Whether all entries of the history are wanted in the order in which they are kept: then only one page of them is read.
    fn pages_history(&self) -> bool {
        let all = [Stage::Completed, Stage::Failed, Stage::Cancelled].into_iter().all(|stage| self.wants(stage));
        all && self.workflow_id.is_none() && !self.by_duration
    }

    fn wants_history(&self) -> bool {
        [Stage::Completed, Stage::Failed, Stage::Cancelled].into_iter().any(|stage| self.wants(stage))
    }
}

async fn list(State(app): State<App>, Query(mut query): Query) -> Result<Json<Value>, ApiError> {
    let mut text = |name: &str| query.remove(name);
    let params = ListParams {
        status: text("status"),
        workflow_id: text("workflow_id"),
        sort_by: text("sort_by"),
        sort_order: text("sort_order"),
        limit: text("limit"),
        offset: text("offset"),
    };
    let wanted = Wanted::parse(params)?;
    let queue = app.store.queue().await?;
    if wanted.pages_history() {
        let length = app.store.history_len().await?;
        let active = active(&queue, &wanted);
        let (from_queue, range) = page(active.len(), length, &wanted);
        let query = HistoryQuery { offset: Some(range.start), max_items: Some(range.len()) };
        let mut entries = if range.is_empty() { Vec::new() } else { app.store.history(query).await? };
        if !wanted.ascending {
            entries.reverse();
        }
        let total = active.len() + length;
        return blocking(move || {
            let active: Vec<Value> = from_queue.filter_map(|at| active.get(at)).map(Active::describe).collect();
            let ended = entries.iter().map(|entry| ended(entry));
            let jobs = if wanted.ascending { ended.chain(active).collect() } else { active.into_iter().chain(ended).collect() };
            Ok(answer(jobs, total, &wanted))
        })
        .await;
    }
    let entries = if wanted.wants_history() { app.store.history(HistoryQuery::default()).await? } else { Vec::new() };
    blocking(move || Ok(filtered(&queue, &entries, &wanted))).await
}

/// A waiting or running job.
struct Active {
    job: Arc<Job>,
    stage: Stage,
}

impl Active {
    fn describe(&self) -> Value {
        let mut job = described(&self.job, self.stage);
        job["outputs_count"] = json!(0);
        job
    }
}

/// Those of the queue that are wanted, in the order that is wanted.
fn active(queue: &Queue, wanted: &Wanted) -> Vec<Active> {
    let running = queue.running.iter().map(|job| Active { job: Arc::clone(job), stage: Stage::InProgress });
    let pending = queue.pending.iter().map(|job| Active { job: Arc::clone(job), stage: Stage::Pending });
    let mut jobs: Vec<Active> = running.chain(pending).filter(|active| wanted.wants(active.stage)).collect();
    if wanted.ascending {
        jobs.sort_by_key(|active| active.job.created_ms);
    } else {
        jobs.sort_by_key(|active| Reverse(active.job.created_ms));
    }
    jobs
}

/// Which jobs of the queue, and which history entries counted from the oldest, are on the page. The queue's jobs are the newer ones.
fn page(active: usize, history: usize, wanted: &Wanted) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
    let start = wanted.offset.min(active + history);
    let end = start.saturating_add(wanted.limit).min(active + history);
    if wanted.ascending {
        let from_queue = start.max(history) - history..end.max(history) - history;
        return (from_queue, start.min(history)..end.min(history));
    }
    let skipped = start.max(active) - active;
    let last = end.max(active) - active;
    (start.min(active)..end.min(active), history - last..history - skipped)
}

/// The list by reading every entry: for filters and orders that the store does not know.
fn filtered(queue: &Queue, entries: &[Arc<HistoryEntry>], wanted: &Wanted) -> Json<Value> {
    /// Its sorting key, and what it is told about it.
    type Found<'a> = (i64, Box<dyn Fn() -> Value + 'a>);
    let matches = |job: &Job| wanted.workflow_id.is_none() || job.workflow_id.as_deref() == wanted.workflow_id.as_deref();
    let active = active(queue, wanted);
    let mut found: Vec<Found<'_>> = Vec::new();
    for active in active.iter().filter(|active| matches(&active.job)) {
        let key = if wanted.by_duration { 0 } else { active.job.created_ms };
        found.push((key, Box::new(|| active.describe())));
    }
    for entry in entries.iter().filter(|entry| wanted.wants(Stage::of(entry)) && matches(&entry.job)) {
        let key = if wanted.by_duration { entry.ended_ms - entry.started_ms } else { entry.job.created_ms };
        found.push((key, Box::new(|| ended(entry))));
    }
    if wanted.ascending {
        found.sort_by_key(|(key, _)| *key);
    } else {
        found.sort_by_key(|(key, _)| Reverse(*key));
    }
    let jobs = found.iter().skip(wanted.offset).take(wanted.limit).map(|(_, describe)| describe()).collect();
    answer(jobs, found.len(), wanted)
}

fn answer(jobs: Vec<Value>, total: usize, wanted: &Wanted) -> Json<Value> {
    let has_more = wanted.offset.saturating_add(jobs.len()) < total;
    let pagination = json!({"offset": wanted.offset, "limit": wanted.limit, "total": total, "has_more": has_more});
    Json(json!({"jobs": jobs, "pagination": pagination}))
}

/// What is told of every job.
fn described(job: &Job, stage: Stage) -> Value {
    let mut told = json!({"id": job.id, "status": stage.as_str(), "priority": Plain(job.number), "create_time": job.created_ms});
    if let Some(id) = &job.workflow_id {
        told["workflow_id"] = json!(id);
    }
    told
}

/// What is told of a job that ended.
fn ended(entry: &HistoryEntry) -> Value {
    let mut told = described(&entry.job, Stage::of(entry));
    told["execution_start_time"] = json!(entry.started_ms);
    told["execution_end_time"] = json!(entry.ended_ms);
    if entry.status == Status::Error
        && let Value::Array(mut messages) = parsed(&entry.messages)
        && let Some(error) = messages.iter_mut().rfind(|message| message[0] == "execution_error")
    {
        told["execution_error"] = error[1].take();
    }
    let (count, preview) = shown(&parsed(&entry.outputs));
    told["outputs_count"] = json!(count);
    if let Some(preview) = preview {
        told["preview_output"] = preview;
    }
    told
}

/// How many results there are, and the one that stands for all: a saved one if there is one, else a temporary one.
fn shown(outputs: &Value) -> (usize, Option<Value>) {
    let (mut count, mut saved, mut temporary) = (0, None, None);
    for (node, output) in outputs.as_object().into_iter().flatten() {
        for (media, items) in output.as_object().into_iter().flatten() {
            // `animated` says something about the pictures beside it.
            let items = items.as_array().filter(|_| media != "animated");
            for item in items.into_iter().flatten() {
                count += 1;
                let Some(preview) = preview(node, media, item) else { continue };
                let place = if preview["type"] == "output" { &mut saved } else { &mut temporary };
                place.get_or_insert(preview);
            }
        }
    }
    (count, saved.or(temporary))
}

fn preview(node: &str, media: &str, item: &Value) -> Option<Value> {
    let mut preview = match item {
        Value::Object(_) if matches!(media, "images" | "gifs" | "video" | "audio" | "3d") => item.clone(),
        Value::String(text) if media == "text" => json!({"content": text.chars().take(MAX_TEXT_PREVIEW).collect::<String>()}),
        Value::Object(_) | Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => return None,
    };
    preview["nodeId"] = json!(node);
    preview["mediaType"] = json!(media);
    Some(preview)
}

async fn one(State(app): State<App>, Path(job_id): Path<String>) -> Result<Json<Value>, ApiError> {
    let queue = app.store.queue().await?;
    let running = queue.running.iter().find(|job| job.id == job_id).map(|job| (job, Stage::InProgress));
    let waiting = || queue.pending.iter().find(|job| job.id == job_id).map(|job| (job, Stage::Pending));
    if let Some((job, stage)) = running.or_else(waiting) {
        let mut told = Active { job: Arc::clone(job), stage }.describe();
        told["workflow"] = workflow(job);
        return Ok(Json(told));
    }
    let entry = app.store.history_entry(&job_id).await?.ok_or_else(|| no_job(&job_id))?;
    let mut told = ended(&entry);
    let status = if entry.status == Status::Success { "success" } else { "error" };
    told["outputs"] = parsed(&entry.outputs);
    told["execution_status"] =
        json!({"status_str": status, "completed": entry.status == Status::Success, "messages": parsed(&entry.messages)});
    told["execution_meta"] = parsed(&entry.meta);
    told["workflow"] = workflow(&entry.job);
    Ok(Json(told))
}

fn workflow(job: &Job) -> Value {
    json!({"prompt": parsed(&job.prompt), "extra_data": parsed(&job.extra_data)})
}

/// What is stored.
fn parsed(stored: &RawValue) -> Value {
    comfyd_wire::json::read(stored.get().as_bytes()).unwrap_or_default()
}

fn no_job(id: &str) -> ApiError {
    ApiError::not_found("Job not found").details(id)
}

async fn cancel_one(State(app): State<App>, Path(job_id): Path<String>) -> Result<Json<Value>, ApiError> {
    if cancel(&app, &job_id).await? {
        return Ok(Json(json!({"cancelled": [job_id]})));
    }
    // A job that ended meanwhile is where the client wants it.
    app.store.history_entry(&job_id).await?.map(|_| Json(json!({"cancelled": []}))).ok_or_else(|| no_job(&job_id))
}

async fn cancel_many(State(app): State<App>, LenientJson(body): LenientJson) -> Result<Json<Value>, ApiError> {
    let bad = || ApiError::bad_request(format!("'job_ids' must be a list of at most {MAX_CANCELLED} job ids"));
    let ids = body.get("job_ids").and_then(Value::as_array).filter(|ids| ids.len() <= MAX_CANCELLED).ok_or_else(bad)?;
    let mut cancelled = Vec::new();
    for id in ids {
        let id = id.as_str().ok_or_else(bad)?;
        if cancel(&app, id).await? {
            cancelled.push(id);
        }
    }
    Ok(Json(json!({ "cancelled": cancelled })))
}

/// Takes a job out of the queue, or interrupts it. Whether it was in either.
async fn cancel(app: &App, id: &str) -> Result<bool, ApiError> {
    if app.store.remove_pending(&[id.to_owned()]).await? > 0 {
        return Ok(true);
    }
    Ok(app.devices.interrupt(Some(id)).await)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn wanted(offset: usize, limit: usize, ascending: bool) -> Wanted {
        Wanted { stages: Stage::ALL.to_vec(), workflow_id: None, by_duration: false, ascending, limit, offset }
    }

    #[test]
    fn a_page_goes_from_the_queue_into_the_history() {
        assert_eq!(page(2, 5, &wanted(0, 4, false)), (0..2, 3..5));
        assert_eq!(page(2, 5, &wanted(1, 3, false)), (1..2, 3..5));
        assert_eq!(page(2, 5, &wanted(4, 100, false)), (2..2, 0..3));
        assert_eq!(page(2, 5, &wanted(4, 2, true)), (0..1, 4..5));
        assert_eq!(page(2, 5, &wanted(9, 2, true)), (2..2, 5..5));
        assert_eq!(page(0, 0, &wanted(9, 2, false)), (0..0, 0..0));
    }

    #[test]
    fn a_saved_result_stands_for_all() {
        let outputs = json!({
            "1": {"images": [{"filename": "t.png", "type": "temp"}], "animated": [true]},
            "2": {"text": ["hello"]},
            "3": {"images": [{"filename": "o.png", "type": "output"}, {"filename": "p.png", "type": "output"}]},
        });
        let (count, preview) = shown(&outputs);
        assert_eq!(count, 4);
        assert_eq!(preview.unwrap(), json!({"filename": "o.png", "type": "output", "nodeId": "3", "mediaType": "images"}));
        assert_eq!(shown(&json!({"2": {"text": ["hi"]}})).1.unwrap(), json!({"content": "hi", "nodeId": "2", "mediaType": "text"}));
        assert_eq!(shown(&Value::Null), (0, None));
    }

    #[test]
    fn a_wrong_filter_is_named() {
        let ask = |status: &str, limit: &str| {
            Wanted::parse(ListParams {
                status: Some(status.into()),
                limit: Some(limit.into()),
                workflow_id: None,
                sort_by: None,
                sort_order: None,
                offset: None,
            })
        };
        assert!(ask("done", "1").is_err() && ask("pending", "0").is_err());
        assert!(!ask("pending", "1").unwrap().wants_history());
        assert!(ask("", "1").unwrap().pages_history() && ask("completed,failed, Cancelled", "1").unwrap().pages_history());
    }
}
