//! `/jobs`: queue and history as one list of jobs, as newer front ends ask for them; one job in full; cancelling. Knows the shape of what
//! nodes show only as far as a preview needs it.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use axum::{Extension, Json};
use comfyd_folders::extension;
use comfyd_jobs::{HistoryEntry, HistoryQuery, Job, Order, Queue, Status};
use serde::de::{IntoDeserializer, value};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::answer::{blocking, json_text, leased, written};
use crate::app::App;
use crate::audit::Concerns;
use crate::error::ApiError;
use crate::json::{LenientJson, Plain, whole};
use crate::openapi::named::graph;
use crate::openapi::{Doc, Table};
use crate::permission::Permission::{Read, Run};
use crate::principal::Principal;
use crate::prompt_request::is_job_id;
use crate::query::Query;
use crate::reading::{self, Part, Parts};
use crate::routes::item::HistoryStatus;

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
            Read,
            list,
            Doc::new("jobs", "Queue and history as one list.")
                .query("status", "string", "Some of pending, in_progress, completed, failed, cancelled, with commas between them.")
                .query("workflow_id", "string", "Only jobs of this workflow.")
                .query("sort_by", "string", "created_at or execution_duration.")
                .query("sort_order", "string", "asc or desc.")
                .query("limit", "integer", "At most so many.")
                .query("offset", "integer", "Skips so many.")
                .json::<Jobs>(),
        )
        .post("/jobs/cancel", Run, cancel_many, Doc::new("jobs", "Cancels jobs.").body("JobIds").json::<Cancelled>())
        .get("/jobs/{job_id}", Read, one, Doc::new("jobs", "One job in full.").json::<JobAnswer<'_>>())
        .post(
            "/jobs/{job_id}/cancel",
            Run,
            cancel_one,
            Doc::new("jobs", "Takes a job out of the queue, or interrupts it.").json::<Cancelled>(),
        )
}

/// Where a job is, by the names of the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Stage {
    #[default]
    Pending,
    InProgress,
    Completed,
    Failed,
    Cancelled,
}

impl Stage {
    fn of(entry: &HistoryEntry) -> Self {
        match entry.status {
            Status::Success => Self::Completed,
            Status::Error => Self::Failed,
            Status::Interrupted => Self::Cancelled,
        }
    }
}

/// A page of jobs.
#[derive(Debug, Serialize, ToSchema)]
struct Jobs {
    #[schema(value_type = Vec<JobAnswer<'static>>)]
    jobs: Vec<Box<RawValue>>,
    #[schema(inline)]
    pagination: Pagination,
}

/// Which part of the list a page is.
#[derive(Debug, Serialize, ToSchema)]
struct Pagination {
    offset: usize,
    limit: usize,
    total: usize,
    has_more: bool,
}

/// What is told of a job; what is stored is written as it stands.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = Job)]
struct JobAnswer<'a> {
    id: &'a str,
    #[schema(inline)]
    status: Stage,
    /// The prompt's number.
    #[schema(value_type = f64)]
    priority: Plain,
    /// Milliseconds since 1970.
    create_time: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    workflow_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    execution_start_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    execution_end_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    execution_error: Option<&'a RawValue>,
    /// Results, but for texts that are only shown.
    outputs_count: usize,
    /// Those of them that can be looked at or listened to.
    previewable_outputs_count: usize,
    /// The result that stands for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    preview_output: Option<Value>,
    /// Of one job.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    outputs: Option<Cow<'a, RawValue>>,
    /// Of one job.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = HistoryStatus, required = false)]
    execution_status: Option<HistoryStatus<'a>>,
    /// Of one job.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    execution_meta: Option<&'a RawValue>,
    /// Of one job.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = JobWorkflow, required = false)]
    workflow: Option<JobWorkflow<'a>>,
}

/// What a job was asked to run.
#[derive(Debug, Serialize, ToSchema)]
struct JobWorkflow<'a> {
    #[schema(schema_with = graph)]
    prompt: &'a RawValue,
    #[schema(value_type = Object)]
    extra_data: &'a RawValue,
}

/// Whether a job was taken out of the queue or interrupted.
#[derive(Debug, Serialize, ToSchema)]
struct Cancelled {
    cancelled: bool,
}

impl<'a> JobAnswer<'a> {
    fn of(job: &'a Job, stage: Stage) -> Self {
        Self {
            id: &job.id,
            status: stage,
            priority: Plain(job.number),
            create_time: job.created_ms,
            workflow_id: job.workflow_id.as_deref(),
            ..Self::default()
        }
    }

    fn ended(entry: &'a HistoryEntry) -> Self {
        let Shown { outputs_count, previewable_outputs_count, preview_output } = Shown::of(&parsed(&entry.outputs));
        Self {
            execution_start_time: Some(entry.started_ms),
            execution_end_time: Some(entry.ended_ms),
            execution_error: if entry.status == Status::Error { failure(&entry.messages) } else { None },
            outputs_count,
            previewable_outputs_count,
            preview_output,
            ..Self::of(&entry.job, Stage::of(entry))
        }
    }

    /// All of an ended job.
    fn whole(entry: &'a HistoryEntry) -> Result<Self, ApiError> {
        Ok(Self {
            outputs: Some(as_files(&entry.outputs)?),
            execution_status: Some(HistoryStatus::of(entry)),
            execution_meta: Some(&entry.meta),
            ..Self::ended(entry).with_workflow(&entry.job)
        })
    }

    fn with_workflow(self, job: &'a Job) -> Self {
        Self { workflow: Some(JobWorkflow { prompt: &job.prompt, extra_data: &job.extra_data }), ..self }
    }
}

/// The last failure that the messages tell of.
fn failure(messages: &RawValue) -> Option<&RawValue> {
    let messages: Vec<(Cow<'_, str>, &RawValue)> = serde_json::from_str(messages.get()).ok()?;
    messages.into_iter().rfind(|(name, _)| name == "execution_error").map(|(_, data)| data)
}

/// What is stored.
fn parsed(stored: &RawValue) -> Value {
    comfyd_wire::json::read(stored.get().as_bytes()).unwrap_or_default()
}

/// What a list is asked for.
struct Wanted {
    /// All, if there is none.
    stages: Vec<Stage>,
    workflow_id: Option<Arc<str>>,
    by_duration: bool,
    ascending: bool,
    limit: usize,
    offset: usize,
}

impl Wanted {
    fn parse(query: &Query) -> Result<Self, ApiError> {
        let mut stages = Vec::new();
        let names = query.get("status").unwrap_or_default();
        for name in names.split(',').map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty()) {
            let stage: Result<_, value::Error> = Stage::deserialize(name.as_str().into_deserializer());
            stages.push(stage.map_err(|_| {
                ApiError::bad_request("'status' must list some of pending, in_progress, completed, failed, cancelled").details(name)
            })?);
        }
        let lower = |key: &str, usual: &str| query.get(key).unwrap_or(usual).to_ascii_lowercase();
        let by_duration = match lower("sort_by", "created_at").as_str() {
            "created_at" => false,
            "execution_duration" => true,
            other => return Err(ApiError::bad_request("'sort_by' must be created_at or execution_duration").details(other)),
        };
        let ascending = match lower("sort_order", "desc").as_str() {
            "asc" => true,
            "desc" => false,
            other => return Err(ApiError::bad_request("'sort_order' must be asc or desc").details(other)),
        };
        let limit = query.get("limit").map(|text| {
            let limit = whole(text).flatten().filter(|limit| *limit > 0);
            limit.ok_or_else(|| ApiError::bad_request("'limit' must be a whole number above 0").details(text))
        });
        let limit = limit.transpose()?.map_or(DEFAULT_LIMIT, |limit| limit.min(MAX_LIMIT));
        let offset = query
            .get("offset")
            .map(|text| whole(text).ok_or_else(|| ApiError::bad_request("'offset' must be a whole number").details(text)));
        // Negative numbers count as 0, as in the reference.
        let offset = offset.transpose()?.flatten().unwrap_or(0);
        let workflow_id = query.get("workflow_id").filter(|id| !id.is_empty()).map(Arc::from);
        Ok(Self { stages, workflow_id, by_duration, ascending, limit, offset })
    }

    fn wants(&self, stage: Stage) -> bool {
        self.stages.is_empty() || self.stages.contains(&stage)
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

async fn list(State(app): State<App>, principal: Principal, query: Query) -> Result<Response, ApiError> {
    let wanted = Wanted::parse(&query)?;
    let queue = principal.queue(&app).await?;
    let active = active(&queue, &wanted);
    // So many entries are on earlier pages wherever the queue's jobs stand among them.
    let passed = wanted.offset.saturating_sub(active.len());
    let (mut ended, mut total) = (Vec::new(), active.len());
    if let Some(query) = wanted.history(passed) {
        let mut parts = Parts::new(&app, HistoryQuery { owner: principal.only(), ..query });
        let by_duration = wanted.by_duration;
        while let Some(Part { entries, lease, .. }) = parts.next().await? {
            ended.extend(
                blocking(move || {
                    let told = entries.iter().map(|entry| Found::ended(entry, by_duration)).collect::<Result<Vec<_>, _>>();
                    drop(lease);
                    told
                })
                .await?,
            );
        }
        total += parts.total;
    }
    blocking(move || written(&merged(active, ended, total, passed, &wanted)?).map(json_text)).await
}

/// A waiting or running job, and which of both.
type Active = (Arc<Job>, Stage);

/// Those of the queue.
fn in_queue(queue: &Queue) -> impl Iterator<Item = Active> {
    let running = queue.running.iter().map(|job| (Arc::clone(job), Stage::InProgress));
    running.chain(queue.pending.iter().map(|job| (Arc::clone(job), Stage::Pending)))
}

/// Those of the queue that are wanted, in the order in which they were made, or the opposite one.
fn active(queue: &Queue, wanted: &Wanted) -> Vec<Active> {
    let matches = |job: &Job| wanted.workflow_id.is_none() || job.workflow_id == wanted.workflow_id;
    let mut jobs: Vec<Active> = in_queue(queue).filter(|(job, stage)| wanted.wants(*stage) && matches(job)).collect();
    jobs.sort_by_key(|(job, _)| if wanted.ascending { job.created_ms } else { -job.created_ms });
    jobs
}

/// A job of either list: what it is sorted by, and what is told of it.
struct Found {
    key: i64,
    told: Box<RawValue>,
}

impl Found {
    fn active((job, stage): &Active, by_duration: bool) -> Result<Self, ApiError> {
        Ok(Self { key: if by_duration { 0 } else { job.created_ms }, told: raw(&JobAnswer::of(job, *stage))? })
    }

    fn ended(entry: &HistoryEntry, by_duration: bool) -> Result<Self, ApiError> {
        let key = if by_duration { entry.ended_ms - entry.started_ms } else { entry.job.created_ms };
        Ok(Self { key, told: raw(&JobAnswer::ended(entry))? })
    }
}

fn raw(answer: &JobAnswer<'_>) -> Result<Box<RawValue>, ApiError> {
    to_raw_value(answer).map_err(|e| ApiError::internal(format!("the answer cannot be written: {e}")))
}

/// The page of queue and history, which have so many jobs; so many entries of the history are passed over already.
fn merged(active: Vec<Active>, mut ended: Vec<Found>, total: usize, passed: usize, wanted: &Wanted) -> Result<Jobs, ApiError> {
    let mut found = active.iter().map(|active| Found::active(active, wanted.by_duration)).collect::<Result<Vec<_>, _>>()?;
    // Among equal ones, those of the queue count as the newer ones.
    if wanted.ascending {
        std::mem::swap(&mut found, &mut ended);
    }
    found.extend(ended);
    if wanted.ascending {
        found.sort_by_key(|found| found.key);
    } else {
        found.sort_by_key(|found| Reverse(found.key));
    }
    let jobs: Vec<_> = found.into_iter().skip(wanted.offset - passed).take(wanted.limit).map(|found| found.told).collect();
    let has_more = wanted.offset.saturating_add(jobs.len()) < total;
    Ok(Jobs { jobs, pagination: Pagination { offset: wanted.offset, limit: wanted.limit, total, has_more } })
}

/// What a list tells of results.
#[derive(Debug, Default, PartialEq)]
struct Shown {
    outputs_count: usize,
    previewable_outputs_count: usize,
    preview_output: Option<Value>,
}

impl Shown {
    /// Counts results, and finds the one that stands for all: a saved picture, sound, film or shape, else one that is not kept, else a file of
    /// text, else a text. Texts never stand for what can be looked at, whichever came first.
    fn of(outputs: &Value) -> Self {
        let (mut shown, mut found) = (Self::default(), [const { None }; 4]);
        for (node, media, item) in items(outputs) {
            let place = match (file(item), item) {
                (Some(item), _) => {
                    shown.outputs_count += 1;
                    let Some(kind) = Preview::of(media, &item) else { continue };
                    shown.previewable_outputs_count += 1;
                    let place = match kind {
                        Preview::Media if item["type"] == "output" => 0,
                        Preview::Media => 1,
                        Preview::Text => 2,
                    };
                    found[place].get_or_insert_with(|| {
                        let mut told = item.into_owned();
                        told["nodeId"] = json!(node);
                        if told.get("mediaType").is_none() {
                            told["mediaType"] = json!(media);
                        }
                        told
                    });
                    continue;
                }
                (None, text) if media == "text" && !text.is_null() => &mut found[3],
                (None, _) => continue,
            };
            place.get_or_insert_with(|| text_preview(node, item));
        }
        shown.preview_output = found.into_iter().flatten().next();
        shown
    }
}

/// All results of all nodes: the node, under which name it shows them, and one.
fn items(outputs: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let nodes = outputs.as_object().into_iter().flatten();
    let media = nodes.flat_map(|(node, output)| output.as_object().into_iter().flatten().map(move |(media, items)| (node, media, items)));
    // `animated` says something about the pictures beside it.
    media
        .filter(|(_, media, _)| *media != "animated")
        .flat_map(|(node, media, items)| items.as_array().into_iter().flatten().map(move |item| (node.as_str(), media.as_str(), item)))
}

/// A result that is a file. Some nodes name one by a text.
fn file(item: &Value) -> Option<Cow<'_, Value>> {
    match item {
        Value::Object(_) => Some(Cow::Borrowed(item)),
        Value::String(name) if is_shape(name) => {
            Some(Cow::Owned(json!({"filename": name, "type": "output", "subfolder": "", "mediaType": "3d"})))
        }
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
    }
}

fn is_shape(name: &str) -> bool {
    [".obj", ".fbx", ".gltf", ".glb", ".usdz"].contains(&extension(name).as_str())
}

/// How a file can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Preview {
    Media,
    Text,
}

impl Preview {
    fn of(media: &str, item: &Value) -> Option<Self> {
        let text = |key: &str| item.get(key).and_then(Value::as_str).unwrap_or_default();
        if media == "text" || [".txt", ".md", ".json"].contains(&extension(text("filename")).as_str()) {
            return Some(Self::Text);
        }
        let format = text("format");
        let known = matches!(media, "images" | "video" | "audio" | "3d");
        let shown = known || format.starts_with("video/") || format.starts_with("audio/") || is_shape(text("filename"));
        shown.then_some(Self::Media)
    }
}

fn text_preview(node: &str, item: &Value) -> Value {
    let text = item.as_str().map_or_else(|| item.to_string(), str::to_owned);
    let mut told = json!({"content": text.chars().take(MAX_TEXT_PREVIEW).collect::<String>()});
    if text.chars().nth(MAX_TEXT_PREVIEW).is_some() {
        told["truncated"] = json!(true);
    }
    told["nodeId"] = json!(node);
    told["mediaType"] = json!("text");
    told
}

/// Results with files that were named by texts as files, and without what is empty; as they are stored where there are none of these.
fn as_files(stored: &RawValue) -> Result<Cow<'_, RawValue>, ApiError> {
    let mut outputs = parsed(stored);
    if !items(&outputs).any(|(_, _, item)| item.is_null() || item.is_string() && file(item).is_some()) {
        return Ok(Cow::Borrowed(stored));
    }
    for (_, output) in outputs.as_object_mut().into_iter().flatten() {
        for (_, items) in output.as_object_mut().into_iter().flatten().filter(|(media, _)| *media != "animated") {
            let Some(items) = items.as_array_mut() else { continue };
            items.retain(|item| !item.is_null());
            for item in items {
                if let Some(Cow::Owned(named)) = file(item) {
                    *item = named;
                }
            }
        }
    }
    to_raw_value(&outputs).map(Cow::Owned).map_err(|e| ApiError::internal(format!("the answer cannot be written: {e}")))
}

async fn one(State(app): State<App>, principal: Principal, Path(job_id): Path<String>) -> Result<Response, ApiError> {
    let queue = principal.queue(&app).await?;
    if let Some((job, stage)) = in_queue(&queue).find(|(job, _)| job.id == job_id) {
        return written(&JobAnswer::of(&job, stage).with_workflow(&job)).map(json_text);
    }
    let entry = ended(&app, &principal, &job_id).await?.ok_or_else(|| no_job(&job_id))?;
    let leases = reading::room_for(&app, Some(&entry)).await?;
    blocking(move || written(&JobAnswer::whole(&entry)?).map(|text| json_text(leased(text, leases)))).await
}

/// A job in the history that the caller gets to see.
async fn ended(app: &App, principal: &Principal, id: &str) -> Result<Option<Arc<HistoryEntry>>, ApiError> {
    Ok(app.store.history_entry(id).await?.filter(|entry| principal.sees(&entry.job.owner)))
}

fn no_job(id: &str) -> ApiError {
    ApiError::not_found("Job not found").details(id)
}

/// A job that ended meanwhile is where the client wants it, and one that there is not is nowhere.
async fn cancel_one(State(app): State<App>, principal: Principal, Path(job_id): Path<String>) -> Result<Json<Cancelled>, ApiError> {
    Ok(Json(Cancelled { cancelled: cancel(&app, &principal, &job_id).await? }))
}

async fn cancel_many(
    State(app): State<App>,
    principal: Principal,
    LenientJson(body): LenientJson,
) -> Result<(Extension<Concerns>, Json<Cancelled>), ApiError> {
    let ids = body.get("job_ids").and_then(Value::as_array).ok_or_else(|| ApiError::bad_request("'job_ids' must be a list of job ids"))?;
    if ids.len() > MAX_CANCELLED {
        return Err(ApiError::bad_request(format!("'job_ids' must be a list of at most {MAX_CANCELLED} job ids")));
    }
    let invalid: Vec<&Value> = ids.iter().filter(|id| !id.as_str().is_some_and(is_job_id)).collect();
    if !invalid.is_empty() {
        let error = ApiError::bad_request("'job_ids' has ids that are no UUIDs in canonical lower-case form, see 'invalid_ids'");
        return Err(error.beside("invalid_ids", json!(invalid)));
    }
    let mut cancelled = Vec::new();
    for id in ids.iter().filter_map(Value::as_str) {
        if cancel(&app, &principal, id).await? {
            cancelled.push(id.to_owned());
        }
    }
    let any = !cancelled.is_empty();
    Ok((Extension(Concerns(cancelled)), Json(Cancelled { cancelled: any })))
}

/// Takes a job out of the queue, or interrupts it. Whether it was in either.
async fn cancel(app: &App, principal: &Principal, id: &str) -> Result<bool, ApiError> {
    if principal.only().is_some() && !in_queue(&principal.queue(app).await?).any(|(job, _)| job.id == id) {
        return Ok(false);
    }
    if app.store.remove_pending(&[id.to_owned()]).await? > 0 {
        return Ok(true);
    }
    Ok(app.devices.interrupt(Some(id)).await)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_saved_result_stands_for_all() {
        let outputs = json!({
            "0": {"text": ["hello"], "files": [{"filename": "a.latent", "type": "output"}]},
            "1": {"images": [{"filename": "t.png", "type": "temp"}], "animated": [true]},
            "2": {"text": [{"filename": "n.md", "type": "output"}, null]},
            "3": {"images": [{"filename": "o.png", "type": "output"}, {"filename": "p.png", "type": "output"}]},
        });
        let saved = json!({"filename": "o.png", "type": "output", "nodeId": "3", "mediaType": "images"});
        assert_eq!(Shown::of(&outputs), Shown { outputs_count: 5, previewable_outputs_count: 4, preview_output: Some(saved) });
        let one = |outputs: Value| Shown::of(&outputs).preview_output.unwrap_or_default();
        let without = |node: &str, outputs: &Value| {
            let mut outputs = outputs.clone();
            outputs.as_object_mut().unwrap().shift_remove(node);
            outputs
        };
        let (second, third) = (without("3", &outputs), without("1", &without("3", &outputs)));
        assert_eq!((&one(second)["filename"], &one(third.clone())["filename"]), (&json!("t.png"), &json!("n.md")));
        assert_eq!(one(without("2", &third)), json!({"content": "hello", "nodeId": "0", "mediaType": "text"}));
        let shape = json!({"filename": "x/A.GLB", "type": "output", "subfolder": "", "mediaType": "3d", "nodeId": "7"});
        assert_eq!(one(json!({"7": {"result": ["x/A.GLB", "other", null]}})), shape);
        assert_eq!(one(json!({"7": {"gifs": [{"filename": "a", "format": "video/mp4"}]}}))["mediaType"], "gifs");
        let long = one(json!({"7": {"text": ["é".repeat(MAX_TEXT_PREVIEW + 1)]}}));
        assert_eq!((long["content"].as_str().unwrap().chars().count(), &long["truncated"]), (MAX_TEXT_PREVIEW, &json!(true)));
        assert_eq!(Shown::of(&Value::Null), Shown::default());
    }

    #[test]
    fn files_that_are_named_by_texts_are_told_as_files() {
        let told = |stored: Value| as_files(&to_raw_value(&stored).unwrap()).unwrap().get().to_owned();
        let plain = json!({"1": {"text": ["a", 5], "animated": [null], "odd": 3}, "2": null});
        assert_eq!(told(plain.clone()), plain.to_string());
        let file = json!({"filename": "a.obj", "type": "output", "subfolder": "", "mediaType": "3d"});
        assert_eq!(told(json!({"1": {"result": ["a.obj", null, "b"]}})), json!({"1": {"result": [file, "b"]}}).to_string());
    }

    #[test]
    fn a_wrong_filter_is_named() {
        let ask = |status: &str, limit: &str| {
            Wanted::parse(&Query([("status", status), ("limit", limit)].map(|(key, value)| (key.into(), value.into())).into()))
        };
        assert!(ask("done", "1").is_err() && ask("pending", "0").is_err());
        assert!(ask("pending", "1").unwrap().history(0).is_none());
        for all in ["", "completed,failed, Cancelled"] {
            assert_eq!(ask(all, "1").unwrap().history(0).unwrap().statuses.len(), 3);
        }
    }
}
