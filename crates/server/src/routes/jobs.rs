//! `/jobs`: queue and history as one list of jobs, as newer front ends ask for them; one job in full; cancelling. Knows the shape of what
//! nodes show only as far as a preview needs it.

use std::cmp::Reverse;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use comfyd_jobs::{HistoryEntry, HistoryQuery, Job, Order, Page, Queue, Status};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::answer::blocking;
use crate::app::App;
use crate::error::ApiError;
use crate::frames::number;
use crate::json::{LenientJson, whole};
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
    workflow_id: Option<Arc<str>>,
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
        let workflow_id = params.workflow_id.filter(|id| !id.is_empty()).map(Arc::from);
        Ok(Self { stages, workflow_id, by_duration, ascending, limit, offset })
    }

    fn wants(&self, stage: Stage) -> bool {
        self.stages.contains(&stage)
    }

    /// The entries of the history that can be on the page if so many of it are passed over; `None` if none can.
    fn history(&self, passed: usize) -> Option<HistoryQuery> {
        let stages = [(Stage::Completed, Status::Success), (Stage::Failed, Status::Error), (Stage::Cancelled, Status::Interrupted)];
        let statuses: Vec<Status> = stages.into_iter().filter(|(stage, _)| self.wants(*stage)).map(|(_, status)| status).collect();
        (!statuses.is_empty()).then(|| HistoryQuery {
            statuses,
            workflow_id: self.workflow_id.clone(),
            order: if self.by_duration { Order::Duration } else { Order::Created },
            descending: !self.ascending,
            offset: passed,
            limit: Some(self.offset.saturating_add(self.limit) - passed),
            ..HistoryQuery::default()
        })
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
    let active = active(&queue, &wanted);
    // So many entries are on earlier pages wherever the queue's jobs stand among them.
    let passed = wanted.offset.saturating_sub(active.len());
    let history = match wanted.history(passed) {
        Some(query) => app.store.history(&query).await?,
        None => Page::default(),
    };
    blocking(move || Ok(merged(&active, &history, passed, &wanted))).await
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

/// Those of the queue that are wanted.
fn active(queue: &Queue, wanted: &Wanted) -> Vec<Active> {
    let running = queue.running.iter().map(|job| Active { job: Arc::clone(job), stage: Stage::InProgress });
    let pending = queue.pending.iter().map(|job| Active { job: Arc::clone(job), stage: Stage::Pending });
    let matches = |job: &Job| wanted.workflow_id.is_none() || job.workflow_id == wanted.workflow_id;
    running.chain(pending).filter(|active| wanted.wants(active.stage) && matches(&active.job)).collect()
}

/// The page of queue and history; so many entries of the history are passed over already.
fn merged(active: &[Active], history: &Page, passed: usize, wanted: &Wanted) -> Json<Value> {
    /// Its sorting key, and what it is told about it.
    type Found<'a> = (i64, Box<dyn Fn() -> Value + 'a>);
    let active = active
        .iter()
        .map(|active| -> Found<'_> { (if wanted.by_duration { 0 } else { active.job.created_ms }, Box::new(|| active.describe())) });
    let ended = history.entries.iter().map(|entry| -> Found<'_> {
        (if wanted.by_duration { entry.ended_ms - entry.started_ms } else { entry.job.created_ms }, Box::new(|| ended(entry)))
    });
    let total = active.len() + history.total;
    // Among equal ones, those of the queue count as the newer ones.
    let mut found: Vec<Found<'_>> = if wanted.ascending { ended.chain(active).collect() } else { active.chain(ended).collect() };
    if wanted.ascending {
        found.sort_by_key(|(key, _)| *key);
    } else {
        found.sort_by_key(|(key, _)| Reverse(*key));
    }
    let jobs: Vec<Value> = found.iter().skip(wanted.offset - passed).take(wanted.limit).map(|(_, describe)| describe()).collect();
    let has_more = wanted.offset.saturating_add(jobs.len()) < total;
    let pagination = json!({"offset": wanted.offset, "limit": wanted.limit, "total": total, "has_more": has_more});
    Json(json!({"jobs": jobs, "pagination": pagination}))
}

/// What is told of every job.
fn described(job: &Job, stage: Stage) -> Value {
    let mut told = json!({"id": job.id, "status": stage.as_str(), "priority": number(job.number), "create_time": job.created_ms});
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
    Ok(app.control.interrupt(Some(id)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

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
        assert!(ask("pending", "1").unwrap().history(0).is_none());
        for all in ["", "completed,failed, Cancelled"] {
            assert_eq!(ask(all, "1").unwrap().history(0).unwrap().statuses.len(), 3);
        }
    }
}
