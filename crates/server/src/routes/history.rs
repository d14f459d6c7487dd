//! `/history`: read from the store, rendered once per change and range; what is long is sent in parts, as far as the client takes it.

use std::io;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use comfyd_jobs::{HistoryEntry, HistoryQuery};
use comfyd_memory::Lease;
use futures_util::{StreamExt, stream};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::answer::{blocking, json_text, leased, written};
use crate::app::{App, MAX_HISTORY_BYTES};
use crate::audit::Concerns;
use crate::error::ApiError;
use crate::json::{LenientJson, Plain, whole};
use crate::openapi::named::graph;
use crate::openapi::{Doc, Table};
use crate::options::ApiShape;
use crate::permission::Permission::{Read, Run};
use crate::principal::Principal;
use crate::query::Query;
use crate::reading::{self, Part, Parts};
use crate::routes::item::{HistoryStatus, ListChange, QueueItem};

/// Entries of one owner that are removed at once: each is read for it.
const CLEARED_AT_ONCE: usize = 100;

pub(super) fn routes() -> Table {
    Table::default()
        .get(
            "/history",
            Read,
            list,
            Doc::new("history", "Prompts that ended.")
                .query("max_items", "integer", "At most so many: the newest ones, unless offset is given.")
                .query("offset", "integer", "Skips so many, counted from the oldest.")
                .shapes::<History<'_>, DocumentedHistory<'_>>(),
        )
        .post("/history", Run, change, Doc::new("history", "Removes entries.").body_of::<ListChange>().done())
        .get(
            "/history/{prompt_id}",
            Read,
            one,
            Doc::new("history", "One prompt that ended; while it has not, an empty object, or 404 in the API document's shape.")
                .shapes::<History<'_>, DocumentedHistoryEntry<'_>>(),
        )
}

/// The longest text of the history that custom nodes are told.
const MAX_FOR_PACKS: usize = 48 << 20;

/// Prompt id to entry, in the order in which they ended.
#[derive(ToSchema)]
#[schema(value_type = HashMap<String, WireEntry>)]
struct History<'a>(&'a [Arc<HistoryEntry>]);

impl Serialize for History<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|entry| (&entry.job.id, WireEntry::of(entry))))
    }
}

/// A prompt that ended: the wire's fields, and those that the API document names. What is stored is written as it stands.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HistoryEntry)]
struct WireEntry<'a> {
    prompt: QueueItem<'a>,
    /// Node id to what it shows.
    #[schema(value_type = Object)]
    outputs: &'a RawValue,
    status: HistoryStatus<'a>,
    /// Node id to where it belongs.
    #[schema(value_type = Object)]
    meta: &'a RawValue,
    prompt_id: &'a str,
    #[schema(value_type = f64)]
    number: Plain,
    /// When it ended, in milliseconds since 1970.
    timestamp: i64,
}

/// The same where `prompt` is the graph alone, and what the wire has beside it in `prompt` stands beside it in the entry.
#[derive(Debug, Serialize, ToSchema)]
struct DocumentedHistoryEntry<'a> {
    #[schema(schema_with = graph)]
    prompt: &'a RawValue,
    #[schema(value_type = Object)]
    extra_data: &'a RawValue,
    /// The output nodes that were to run.
    output_nodes: &'a [String],
    /// Node id to what it shows.
    #[schema(value_type = Object)]
    outputs: &'a RawValue,
    status: HistoryStatus<'a>,
    /// Node id to where it belongs.
    #[schema(value_type = Object)]
    meta: &'a RawValue,
    prompt_id: &'a str,
    #[schema(value_type = f64)]
    number: Plain,
    /// When it ended, in milliseconds since 1970.
    timestamp: i64,
}

/// The entries, in the order in which they ended.
#[derive(Serialize, ToSchema)]
struct DocumentedHistory<'a>(Vec<DocumentedHistoryEntry<'a>>);

impl<'a> WireEntry<'a> {
    fn of(entry: &'a HistoryEntry) -> Self {
        Self {
            prompt: QueueItem::of(&entry.job),
            outputs: &entry.outputs,
            status: HistoryStatus::of(entry),
            meta: &entry.meta,
            prompt_id: &entry.job.id,
            number: Plain(entry.job.number),
            timestamp: entry.ended_ms,
        }
    }
}

impl<'a> DocumentedHistoryEntry<'a> {
    fn of(entry: &'a HistoryEntry) -> Self {
        Self {
            prompt: &entry.job.prompt,
            extra_data: &entry.job.extra_data,
            output_nodes: &entry.job.outputs,
            outputs: &entry.outputs,
            status: HistoryStatus::of(entry),
            meta: &entry.meta,
            prompt_id: &entry.job.id,
            number: Plain(entry.job.number),
            timestamp: entry.ended_ms,
        }
    }
}

/// Negative numbers mean "not given", as in the reference.
fn bound(name: &str, text: Option<&str>) -> Result<Option<usize>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    whole(text).ok_or_else(|| ApiError::bad_request(format!("'{name}' must be a whole number, it is '{text}'")))
}

async fn list(State(app): State<App>, shape: ApiShape, principal: Principal, query: Query) -> Result<Response, ApiError> {
    let bound = |name| bound(name, query.get(name));
    let (limit, offset) = (bound("max_items")?, bound("offset")?);
    // By what is asked for, not by what that is at the moment.
    let newest = limit.is_some() && offset.is_none();
    let asked = HistoryQuery { owner: principal.only(), limit, offset: offset.unwrap_or(0), ..HistoryQuery::default() };
    let key = (HistoryQuery { descending: newest, ..asked }, shape);
    let version = app.store.versions().borrow().history;
    let known = app.history.get(version, &key);
    if let Some(body) = known.clone().filter(|body| !body.is_empty()) {
        return Ok(json_text(body));
    }
    let wanted = page(&app, principal.only(), limit, offset).await?;
    let mut writing = Writing { parts: Parts::new(&app, wanted), shape, opened: false, any: false };
    let most = if known.is_some() { 0 } else { MAX_HISTORY_BYTES };
    let (mut text, mut leases) = (Vec::new(), Vec::new());
    while let Some((more, lease)) = writing.next().await? {
        text.extend(more);
        leases.push(lease);
        if text.len() > most {
            app.history.put(version, key, &Bytes::new());
            let rest = stream::try_unfold(writing, async |mut writing| {
                let next = writing.next().await.map_err(|error| {
                    tracing::warn!(?error, "an answer with the history broke off");
                    io::Error::other("the history could not be read on")
                })?;
                Ok::<_, io::Error>(next.map(|(text, lease)| (leased(text, vec![lease]), writing)))
            });
            return Ok(json_text(Body::from_stream(stream::once(async { Ok(leased(text, leases)) }).chain(rest))));
        }
    }
    let body = Bytes::from(text);
    app.history.put(version, key, &body);
    Ok(json_text(body))
}

/// A list of the history that is being written.
struct Writing {
    parts: Parts,
    shape: ApiShape,
    opened: bool,
    /// Whether an entry stands in it.
    any: bool,
}

impl Writing {
    /// What is written of the next entries, with the memory that it takes; `None` behind the list's end.
    async fn next(&mut self) -> Result<Option<(Vec<u8>, Lease)>, ApiError> {
        let Some(Part { entries, lease, last }) = self.parts.next().await? else { return Ok(None) };
        let [open, close] = match self.shape {
            ApiShape::Wire => *b"{}",
            ApiShape::Documented => *b"[]",
        };
        let before = match (self.opened, self.any && !entries.is_empty()) {
            (false, _) => Some(open),
            (true, true) => Some(b','),
            (true, false) => None,
        };
        (self.opened, self.any) = (true, self.any || !entries.is_empty());
        let (shape, behind) = (self.shape, last.then_some(close));
        blocking(move || Ok(Some((write(&entries, shape, before, behind)?, lease)))).await
    }
}

/// Entries of a list, and what stands before and behind them.
fn write(entries: &[Arc<HistoryEntry>], shape: ApiShape, before: Option<u8>, behind: Option<u8>) -> Result<Vec<u8>, ApiError> {
    let list = match shape {
        ApiShape::Wire => serde_json::to_vec(&History(entries)),
        ApiShape::Documented => serde_json::to_vec(&DocumentedHistory(entries.iter().map(|e| DocumentedHistoryEntry::of(e)).collect())),
    };
    let mut text = list.map_err(|e| ApiError::internal(format!("the answer cannot be written: {e}")))?;
    // Its own brackets go.
    text.pop();
    text.splice(..1, before);
    text.extend(behind);
    Ok(text)
}

async fn one(State(app): State<App>, shape: ApiShape, principal: Principal, Path(prompt_id): Path<String>) -> Result<Response, ApiError> {
    let entry = app.store.history_entry(&prompt_id).await?.filter(|entry| principal.sees(&entry.job.owner));
    let none = move || ApiError::not_found(format!("there is no history entry '{prompt_id}': the prompt may be waiting or running"));
    let leases = reading::room_for(&app, entry.as_deref()).await?;
    let render = move || match shape {
        ApiShape::Wire => written(&History(entry.as_slice())),
        ApiShape::Documented => written(&DocumentedHistoryEntry::of(entry.as_deref().ok_or_else(none)?)),
    };
    blocking(render).await.map(|text| json_text(leased(text, leases)))
}

async fn change(
    State(app): State<App>,
    principal: Principal,
    LenientJson(body): LenientJson,
) -> Result<(Extension<Concerns>, StatusCode), ApiError> {
    let ListChange { clear, delete } = ListChange::read(&body)?;
    let mut delete = remove(&app, principal.only(), clear, delete).await?;
    if clear {
        delete.push("all".to_owned());
    }
    Ok((Extension(Concerns(delete)), StatusCode::OK))
}

/// What custom nodes see of the history.
#[derive(Debug, Clone, Default)]
pub struct PacksQuery {
    /// One prompt's entry.
    pub prompt_id: Option<String>,
    /// At most so many: the newest ones, unless there is an offset.
    pub max_items: Option<usize>,
    /// Without so many, counted from the oldest.
    pub offset: Option<usize>,
    /// Whose prompt runs, where users are told apart.
    pub owner: String,
}

impl App {
    /// The history as custom nodes see it: a JSON object of entries by the ids of their prompts. Where users are told apart, those of the
    /// user whose prompt runs. The error is a sentence.
    pub async fn history_for_packs(&self, wanted: PacksQuery) -> Result<Box<RawValue>, String> {
        let owner = self.gate.is_shut().then(|| Arc::from(wanted.owner.as_str()));
        let text = self.history_text(&wanted, owner).await.map_err(|error| error.message().to_owned())?;
        String::from_utf8(text).map_err(|e| e.to_string()).and_then(|text| RawValue::from_string(text).map_err(|e| e.to_string()))
    }

    async fn history_text(&self, wanted: &PacksQuery, owner: Option<Arc<str>>) -> Result<Vec<u8>, ApiError> {
        if owner.as_ref().is_some_and(|owner| owner.is_empty()) {
            return Ok(b"{}".to_vec());
        }
        if let Some(id) = &wanted.prompt_id {
            let entry = self.store.history_entry(id).await?.filter(|entry| owner.as_ref().is_none_or(|owner| entry.job.owner == *owner));
            return blocking(move || written(&History(entry.as_slice()))).await.map(Vec::from);
        }
        let query = page(self, owner, wanted.max_items, wanted.offset).await?;
        let mut writing = Writing { parts: Parts::new(self, query), shape: ApiShape::Wire, opened: false, any: false };
        let (mut text, mut leases) = (Vec::new(), Vec::new());
        while let Some((more, lease)) = writing.next().await? {
            text.extend(more);
            leases.push(lease);
            if text.len() > MAX_FOR_PACKS {
                return Err(ApiError::bad_request("this is too much of the history for one answer: ask for less of it"));
            }
        }
        Ok(text)
    }

    /// Removes entries for custom nodes; all, where no ids are given. Where users are told apart, those of the user whose prompt runs.
    pub async fn forget(&self, ids: Option<&[String]>, owner: &str) -> Result<(), String> {
        let only = self.gate.is_shut().then(|| Arc::from(owner));
        remove(self, only, ids.is_none(), ids.unwrap_or_default().to_vec()).await.map(drop).map_err(|error| error.message().to_owned())
    }
}

/// The entries that a page of the history has. Without an offset the newest are meant; the oldest stands first all the same.
async fn page(app: &App, owner: Option<Arc<str>>, limit: Option<usize>, offset: Option<usize>) -> Result<HistoryQuery, ApiError> {
    let mut wanted = HistoryQuery { owner, limit, offset: offset.unwrap_or(0), ..HistoryQuery::default() };
    if let (Some(newest), None) = (limit, offset) {
        let none = HistoryQuery { limit: Some(0), ..wanted.clone() };
        wanted.offset = app.store.history(&none).await?.total.saturating_sub(newest);
    }
    Ok(wanted)
}

/// Removes entries, or all; only those of an owner where one is given. The ids of those that were named.
async fn remove(app: &App, only: Option<Arc<str>>, clear: bool, mut delete: Vec<String>) -> Result<Vec<String>, ApiError> {
    match only {
        Some(owner) => {
            if clear {
                clear_of(app, &owner).await?;
            }
            let mut own = Vec::new();
            for id in delete {
                if app.store.history_entry(&id).await?.is_some_and(|entry| entry.job.owner == owner) {
                    own.push(id);
                }
            }
            delete = own;
        }
        None if clear => drop(app.store.clear_history().await?),
        None => {}
    }
    if !delete.is_empty() {
        app.store.delete_history(&delete).await?;
    }
    Ok(delete)
}

/// Removes all entries of an owner.
async fn clear_of(app: &App, owner: &Arc<str>) -> Result<(), ApiError> {
    let mut query = HistoryQuery { owner: Some(Arc::clone(owner)), limit: Some(CLEARED_AT_ONCE), ..HistoryQuery::default() };
    loop {
        let page = app.store.history(&query).await?;
        let ids: Vec<String> = page.entries.iter().map(|entry| entry.job.id.clone()).collect();
        app.store.delete_history(&ids).await?;
        if page.next.is_none() {
            return Ok(());
        }
        query.after = page.next;
    }
}
