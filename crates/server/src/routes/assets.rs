//! `/api/assets` and `/api/tags`: what is known of files. Where it is off, all answer 503.

mod enabled;
mod query;
mod upload;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path as UrlPath, Request, State};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::response::IntoResponse;
use comfyd_assets::{Change, New, Root, canonical_hash, tidy_tags};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use self::enabled::{Enabled, invalid, no_hash};
use self::query::Asked;
use crate::answer::blocking;
use crate::answer::file::{Disposition, send_file};
use crate::app::App;
use crate::body;
use crate::error::{ApiError, Coded};
use crate::openapi::{Doc, Table};
use crate::permission::Permission::{Admin, Read, Run};
use crate::query::Query;
use crate::services::assets::{AssetInfo, base_name, opened};

/// The routes of this module.
pub(super) fn routes() -> Table {
    let doc = |summary| Doc::new("assets", summary);
    let filtered = |summary| {
        let tags = [
            ("tags_all", "All of these tags, between commas or repeated."),
            ("tags_any", "One of these tags."),
            ("tags_none", "None of these tags."),
            ("include_tags", "An older name of tags_all."),
            ("exclude_tags", "An older name of tags_none."),
            ("name_contains", "A part of the name, in any case."),
            ("metadata_filter", "A JSON object of values in the metadata; of a list one of them; null: no value."),
        ];
        tags.into_iter().fold(doc(summary), |doc, (name, meaning)| doc.query(name, "string", meaning))
    };
    let list = filtered("Lists assets.")
        .query("limit", "integer", "At most so many: 1 to 500; 20 if it is missing.")
        .query("offset", "integer", "Without so many first.")
        .query("after", "string", "The next_cursor of the page before, in place of the offset.")
        .query("sort", "string", "name, created_at, updated_at, size or last_access_time.")
        .query("order", "string", "asc or desc.");
    let tags = doc("Lists tags, and how many assets have each.")
        .query("prefix", "string", "Those that begin so.")
        .query("limit", "integer", "At most so many: 1 to 1000; 100 if it is missing.")
        .query("offset", "integer", "Without so many first.")
        .query("order", "string", "count_desc or name_asc.")
        .query("include_zero", "boolean", "Those too that no asset has; true if it is missing.");
    let refine = filtered("Counts the tags of the assets that pass a filter.").query(
        "limit",
        "integer",
        "At most so many: 1 to 1000; 100 if it is missing.",
    );
    let upload = doc("Takes a file, or gives known content another name.")
        .form("AssetUpload")
        .json::<AssetInfo>()
        .json_status::<AssetInfo>(201, "The content is new.");
    let wait = doc("Has the folders scanned.")
        .body("AssetSeed")
        .query("wait", "boolean", "Answer when the scan is done.")
        .json::<Seeded>()
        .status(202, "A scan began.")
        .status(409, "One runs.");
    let inline = doc("The content of an asset; ranges and validators are answered.")
        .query("disposition", "string", "inline shows what is harmless; attachment if it is missing.")
        .bytes("application/octet-stream")
        .status(206, "A range.")
        .status(304, "It has not changed.");
    Table::default()
        .get("/api/assets", Read, listed, list.json::<AssetList>())
        .post("/api/assets", Run, upload::upload, upload)
        .post(
            "/api/assets/from-hash",
            Run,
            from_hash,
            doc("Gives known content another name.").body("AssetFromHash").json_status::<AssetInfo>(201, "It has it."),
        )
        .head("/api/assets/hash/{hash}", Read, known, doc("Whether there is content of a hash.").done())
        .get("/api/assets/tags/refine", Read, refined, refine.json::<TagCounts>())
        .post("/api/assets/seed", Run, seed, wait)
        .get("/api/assets/seed/status", Read, status, doc("How far the scan of the folders is.").json::<ScanStatus>())
        .post("/api/assets/seed/cancel", Admin, cancel, doc("Gives up the scan that runs.").json::<Outcome>())
        .post(
            "/api/assets/prune",
            Admin,
            prune,
            doc("Marks files outside of all folders as missing.").json::<Pruned>().status(409, "A scan runs."),
        )
        .get("/api/assets/{id}", Read, one, doc("An asset.").json::<AssetInfo>())
        .put("/api/assets/{id}", Run, update, doc("Changes what is said of an asset.").body("AssetChange").json::<AssetInfo>())
        .delete("/api/assets/{id}", Run, delete, doc("Hides an asset; its file stays.").status(204, "Done."))
        .get("/api/assets/{id}/content", Read, content, inline)
        .post("/api/assets/{id}/tags", Run, add_tags, doc("Adds tags.").body("TagList").json::<TagsAdded>())
        .delete("/api/assets/{id}/tags", Run, remove_tags, doc("Removes tags.").body("TagList").json::<TagsRemoved>())
        .get("/api/tags", Read, all_tags, tags.json::<TagPageAnswer>())
}

/// A page of assets.
#[derive(Debug, Serialize, ToSchema)]
struct AssetList {
    assets: Vec<AssetInfo>,
    total: u64,
    has_more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A page of tags.
#[derive(Debug, Serialize, ToSchema)]
struct TagPageAnswer {
    tags: Vec<TagUse>,
    total: u64,
    has_more: bool,
}

/// A tag.
#[derive(Debug, Serialize, ToSchema)]
struct TagUse {
    name: String,
    /// How many assets have it.
    count: u64,
}

/// Tags by how many assets have each.
#[derive(Debug, Serialize, ToSchema)]
struct TagCounts {
    #[schema(value_type = Object)]
    tag_counts: Map<String, Value>,
}

/// What became of tags that were to be added.
#[derive(Debug, Serialize, ToSchema)]
struct TagsAdded {
    added: Vec<String>,
    already_present: Vec<String>,
    total_tags: Vec<String>,
}

/// What became of tags that were to be removed.
#[derive(Debug, Serialize, ToSchema)]
struct TagsRemoved {
    removed: Vec<String>,
    not_present: Vec<String>,
    total_tags: Vec<String>,
}

/// How far a scan is, in files.
#[derive(Debug, Serialize, ToSchema)]
struct ScanProgress {
    scanned: usize,
    total: usize,
    created: usize,
    skipped: usize,
}

impl From<comfyd_assets::Progress> for ScanProgress {
    fn from(comfyd_assets::Progress { scanned, total, created, skipped }: comfyd_assets::Progress) -> Self {
        Self { scanned, total, created, skipped }
    }
}

/// A scan that is done.
#[derive(Debug, Serialize, ToSchema)]
struct Seeded {
    status: &'static str,
    progress: ScanProgress,
    errors: Vec<String>,
}

/// What the scan does.
#[derive(Debug, Serialize, ToSchema)]
struct ScanStatus {
    /// idle, running, paused or cancelling.
    state: &'static str,
    #[schema(required)]
    progress: Option<ScanProgress>,
    errors: Vec<String>,
}

/// What was done.
#[derive(Debug, Serialize, ToSchema)]
struct Outcome {
    status: &'static str,
}

/// What was pruned.
#[derive(Debug, Serialize, ToSchema)]
struct Pruned {
    status: &'static str,
    marked: usize,
}

async fn listed(State(app): State<App>, enabled: Enabled, asked: Asked) -> Result<Json<AssetList>, Coded> {
    let (filter, page) = (asked.filter()?, asked.page()?);
    let (by_cursor, offset) = (page.after.is_some(), page.offset as u64);
    let wrong = |error: comfyd_assets::Error| match error {
        comfyd_assets::Error::Invalid(message) => query::refused("metadata_filter", &message),
        error => error.into(),
    };
    let found = blocking(move || Ok(opened(&enabled.assets)?.list(&enabled.viewer, &filter, &page))).await?.map_err(wrong)?;
    let assets: Vec<AssetInfo> = found.assets.into_iter().map(|asset| AssetInfo::new(&app.folders, asset, None)).collect();
    let has_more = if by_cursor { found.next.is_some() } else { offset + (assets.len() as u64) < found.total };
    Ok(Json(AssetList { assets, total: found.total, has_more, next_cursor: found.next }))
}

async fn refined(enabled: Enabled, asked: Asked) -> Result<Json<TagCounts>, Coded> {
    let (filter, limit) = (asked.filter()?, asked.number("limit", 100, 1, 1000)?);
    let counts = enabled.work(move |store, viewer| store.refine(viewer, &filter, limit)).await?;
    Ok(Json(TagCounts { tag_counts: counts.into_iter().map(|(tag, count)| (tag, count.into())).collect() }))
}

async fn all_tags(enabled: Enabled, asked: Asked) -> Result<Json<TagPageAnswer>, Coded> {
    let page = asked.tag_page()?;
    let offset = page.offset as u64;
    let (tags, total) = enabled.work(move |store, viewer| store.tags(viewer, &page)).await?;
    let has_more = offset + (tags.len() as u64) < total;
    Ok(Json(TagPageAnswer { tags: tags.into_iter().map(|(name, count)| TagUse { name, count }).collect(), total, has_more }))
}

async fn known(enabled: Enabled, UrlPath(hash): UrlPath<String>) -> Result<StatusCode, Coded> {
    let hash = canonical_hash(&hash).ok_or_else(no_hash)?;
    let known = enabled.work(move |store, viewer| store.knows(viewer, &hash)).await?;
    Ok(if known { StatusCode::OK } else { StatusCode::NOT_FOUND })
}

/// The id in a path, as it is kept.
fn id_of(text: &str) -> Result<String, ApiError> {
    let id = Uuid::try_parse(text).ok().filter(|_| text.len() == 36);
    id.map(|id| id.to_string())
        .ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "asset_not_found", "no asset has such an id: it is a UUID").details(text))
}

async fn one(State(app): State<App>, enabled: Enabled, UrlPath(id): UrlPath<String>) -> Result<Json<AssetInfo>, Coded> {
    let id = id_of(&id)?;
    let asset = enabled.work(move |store, viewer| store.get(viewer, &id)).await?;
    Ok(Json(AssetInfo::new(&app.folders, asset, None)))
}

async fn delete(enabled: Enabled, UrlPath(id): UrlPath<String>) -> Result<StatusCode, Coded> {
    let id = id_of(&id)?;
    enabled.work(move |store, viewer| store.delete(viewer, &id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn content(enabled: Enabled, UrlPath(id): UrlPath<String>, query: Query, headers: HeaderMap) -> Result<Response<Body>, Coded> {
    let id = id_of(&id)?;
    let found = enabled.work(move |store, viewer| store.content(viewer, &id)).await?;
    let inline = query.get("disposition").is_some_and(|how| how.trim().eq_ignore_ascii_case("inline"));
    let how = if inline { Disposition::Asked } else { Disposition::Attachment };
    Ok(send_file(&found.path, &found.name, &headers, how).await?)
}

async fn update(
    State(app): State<App>,
    enabled: Enabled,
    UrlPath(id): UrlPath<String>,
    request: Request,
) -> Result<Json<AssetInfo>, Coded> {
    let (id, body) = (id_of(&id)?, object(request, &app).await?);
    let change = Change { name: text(&body, "name")?, metadata: metadata(&body)?, preview: text(&body, "preview_id")? };
    if change.name.is_none() && change.metadata.is_none() && change.preview.is_none() {
        return Err(invalid("give at least one of name, user_metadata and preview_id"));
    }
    let asset = enabled.work(move |store, viewer| store.update(viewer, &id, &change)).await?;
    Ok(Json(AssetInfo::new(&app.folders, asset, None)))
}

async fn from_hash(State(app): State<App>, enabled: Enabled, request: Request) -> Result<(StatusCode, Json<AssetInfo>), Coded> {
    let body = object(request, &app).await?;
    let hash = text(&body, "hash")?
        .as_deref()
        .and_then(canonical_hash)
        .ok_or_else(|| invalid("'hash' must be blake3: and 64 hexadecimal digits"))?;
    let tags = match body.get("tags") {
        Some(Value::Array(tags)) => tidy_tags(tags.iter().map(|tag| tag.as_str().map_or_else(|| tag.to_string(), str::to_owned))),
        Some(Value::String(tags)) => tidy_tags(tags.split(',')),
        Some(_) | None => Vec::new(),
    };
    let digits = hash.trim_start_matches("blake3:");
    let name = text(&body, "name")?.map_or_else(|| digits.to_owned(), |name| base_name(&name, digits).to_owned());
    let new = New {
        name,
        tags,
        metadata: metadata(&body)?.unwrap_or_default(),
        mime: text(&body, "mime_type")?.filter(|mime| !mime.is_empty()),
        preview: text(&body, "preview_id")?,
        job: None,
    };
    let asset = enabled.work(move |store, viewer| store.from_hash(viewer, &hash, &new)).await?;
    Ok((StatusCode::CREATED, Json(AssetInfo::new(&app.folders, asset, Some(false)))))
}

async fn add_tags(
    State(app): State<App>,
    enabled: Enabled,
    UrlPath(id): UrlPath<String>,
    request: Request,
) -> Result<Json<TagsAdded>, Coded> {
    let (id, tags) = (id_of(&id)?, tags(&object(request, &app).await?)?);
    let told = enabled.work(move |store, viewer| store.add_tags(viewer, &id, &tags)).await?;
    Ok(Json(TagsAdded { added: told.done, already_present: told.idle, total_tags: told.total }))
}

async fn remove_tags(
    State(app): State<App>,
    enabled: Enabled,
    UrlPath(id): UrlPath<String>,
    request: Request,
) -> Result<Json<TagsRemoved>, Coded> {
    let (id, tags) = (id_of(&id)?, tags(&object(request, &app).await?)?);
    let told = enabled.work(move |store, viewer| store.remove_tags(viewer, &id, &tags)).await?;
    Ok(Json(TagsRemoved { removed: told.done, not_present: told.idle, total_tags: told.total }))
}

async fn seed(State(app): State<App>, enabled: Enabled, query: Query, request: Request) -> Result<Response<Body>, Coded> {
    // Whatever cannot be read asks for everything.
    let bytes = body::text(request, &app).await?;
    let body = comfyd_wire::json::read(&bytes).unwrap_or_default();
    let roots: Vec<Root> = match body.get("roots") {
        Some(Value::Array(roots)) => Root::ALL.into_iter().filter(|root| roots.iter().any(|name| name == root.name())).collect(),
        Some(_) => Vec::new(),
        None => Root::ALL.to_vec(),
    };
    if roots.is_empty() {
        return Err(invalid("'roots' names none of models, input and output"));
    }
    let Some(number) = enabled.assets.seed(&roots) else {
        return Ok((StatusCode::CONFLICT, Json(Outcome { status: "already_running" })).into_response());
    };
    let waits = query.get("wait").is_some_and(|wait| matches!(wait.to_lowercase().as_str(), "true" | "1" | "yes"));
    if !waits {
        return Ok((StatusCode::ACCEPTED, Json(Outcome { status: "started" })).into_response());
    }
    enabled.assets.seeded(number).await;
    let status = enabled.assets.status();
    let progress = status.progress.unwrap_or_default().into();
    Ok(Json(Seeded { status: "completed", progress, errors: status.errors }).into_response())
}

async fn status(enabled: Enabled) -> Json<ScanStatus> {
    let status = enabled.assets.status();
    Json(ScanStatus { state: status.state, progress: status.progress.map(Into::into), errors: status.errors })
}

async fn cancel(enabled: Enabled) -> Json<Outcome> {
    Json(Outcome { status: if enabled.assets.cancel() { "cancelling" } else { "idle" } })
}

async fn prune(enabled: Enabled) -> Result<(StatusCode, Json<Pruned>), Coded> {
    let marked = blocking(move || Ok(enabled.assets.prune()?)).await?;
    Ok(match marked {
        Some(marked) => (StatusCode::OK, Json(Pruned { status: "completed", marked })),
        None => (StatusCode::CONFLICT, Json(Pruned { status: "scan_running", marked: 0 })),
    })
}

/// The body, which must be a JSON object.
async fn object(request: Request, app: &App) -> Result<Map<String, Value>, Coded> {
    let bytes = body::text(request, app).await?;
    match comfyd_wire::json::read(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(invalid("the body must be a JSON object")),
        Err(error) => Err(Coded::new(StatusCode::BAD_REQUEST, "INVALID_JSON", format!("the body is not valid JSON: {error}"))),
    }
}

/// A text of a body; `None` where it is missing or null.
fn text(body: &Map<String, Value>, name: &str) -> Result<Option<String>, Coded> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.trim().to_owned())),
        Some(_) => Err(invalid(&format!("'{name}' must be a text"))),
    }
}

fn metadata(body: &Map<String, Value>) -> Result<Option<Map<String, Value>>, Coded> {
    match body.get("user_metadata") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(metadata)) => Ok(Some(metadata.clone())),
        Some(_) => Err(invalid("'user_metadata' must be an object")),
    }
}

/// The tags of a body: at least one text.
fn tags(body: &Map<String, Value>) -> Result<Vec<String>, Coded> {
    let tags = body.get("tags").and_then(Value::as_array).filter(|tags| !tags.is_empty());
    let texts: Option<Vec<&str>> = tags.and_then(|tags| tags.iter().map(Value::as_str).collect());
    texts.map(tidy_tags).ok_or_else(|| invalid("'tags' must be a list of at least one text"))
}
