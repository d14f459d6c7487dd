//! How a job is written where queue and history list it, and what both are asked to remove.

use comfyd_jobs::{HistoryEntry, Job, Status};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::openapi::schema::{AllOfBuilder, ArrayBuilder, ArrayItems, Object, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::answer::types::{Ended, Names};
use crate::error::ApiError;
use crate::json::{Plain, is_set};
use crate::openapi::named::graph;

/// `[number, id, graph, extra_data, outputs]`; what is stored is written as it stands.
#[derive(Debug, Serialize)]
pub(super) struct QueueItem<'a>(Plain, &'a str, &'a RawValue, &'a RawValue, &'a [String]);

impl<'a> QueueItem<'a> {
    pub(super) fn of(job: &'a Job) -> Self {
        Self(Plain(job.number), &job.id, &job.prompt, &job.extra_data, &job.outputs)
    }
}

impl PartialSchema for QueueItem<'_> {
    fn schema() -> RefOr<Schema> {
        let object = || Schema::Object(Object::with_type(Type::Object));
        // A reference cannot stand here by itself.
        let graph = Schema::AllOf(AllOfBuilder::new().item(graph()).build());
        let fields =
            [Schema::Object(Object::with_type(Type::Number)).into(), String::schema(), graph.into(), object().into(), Names::schema()];
        let items = ArrayBuilder::new().items(ArrayItems::False).prefix_items(fields).min_items(Some(5));
        items.description(Some("[number, prompt id, graph, extra data, output nodes]")).build().into()
    }
}

impl ToSchema for QueueItem<'_> {}

/// How a prompt ended.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HistoryStatus<'a> {
    #[schema(inline)]
    status_str: Ended,
    completed: bool,
    /// Each is [event, data].
    #[schema(value_type = Vec<Vec<Value>>)]
    messages: &'a RawValue,
}

impl<'a> HistoryStatus<'a> {
    pub(super) fn of(entry: &'a HistoryEntry) -> Self {
        // On the wire an interrupted prompt is an error, as in the reference; the messages tell.
        let status_str = match entry.status {
            Status::Success => Ended::Success,
            Status::Error | Status::Interrupted => Ended::Error,
        };
        Self { status_str, completed: entry.status == Status::Success, messages: &entry.messages }
    }
}

/// What is to be removed of a list.
#[derive(Debug, ToSchema)]
pub(super) struct ListChange {
    /// Removes all.
    #[schema(required = false)]
    pub clear: bool,
    /// Removes these prompts.
    #[schema(required = false)]
    pub delete: Vec<String>,
}

impl ListChange {
    pub(super) fn read(body: &Value) -> Result<Self, ApiError> {
        let delete = match body.get("delete") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(items)) => items.iter().map(|i| i.as_str().map_or_else(|| i.to_string(), str::to_owned)).collect(),
            Some(_) => return Err(ApiError::bad_request("'delete' must be a list of prompt ids")),
        };
        Ok(Self { clear: is_set(body.get("clear")), delete })
    }
}
