//! How a job is written where queue and history list it, and what both are asked to remove.

use comfyd_jobs::Job;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::ApiError;
use crate::json::{Plain, is_set};

/// `[number, id, graph, extra_data, outputs]`; what is stored is written as it stands.
#[derive(Debug, Serialize)]
pub(super) struct QueueItem<'a>(Plain, &'a str, &'a RawValue, &'a RawValue, &'a [String]);

impl<'a> QueueItem<'a> {
    pub(super) fn of(job: &'a Job) -> Self {
        Self(Plain(job.number), &job.id, &job.prompt, &job.extra_data, &job.outputs)
    }
}

/// What is to be removed of a list.
#[derive(Debug)]
pub(super) struct ListChange {
    /// All of it.
    pub clear: bool,
    /// The prompts with these ids.
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
