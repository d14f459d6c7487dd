//! `POST /api/assets`: a form whose file goes to the disk as it comes, hashed on its way, and into its place once all is known.

use std::path::PathBuf;

use axum::Json;
use axum::RequestExt;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use comfyd_assets::{MAX_METADATA_BYTES, MODELS, New, canonical_hash, destination, tidy_tags};
use comfyd_folders::Kind;
use multer::{Field, Multipart};
use serde_json::{Map, Value};

use super::enabled::{Enabled, invalid, no_hash};
use crate::answer::blocking;
use crate::app::App;
use crate::body::{parameter, parameters, text_of, unreadable};
use crate::error::{ApiError, Coded};
use crate::permission::Permission::Admin;
use crate::principal::Principal;
use crate::services::assets::{AssetInfo, Incoming, base_name, opened};

/// Parts that one form may have.
const MAX_PARTS: usize = 512;
/// Longest part that is no file, in bytes.
const MAX_FIELD_BYTES: usize = MAX_METADATA_BYTES;
/// So much of a file is written at once, in bytes.
const WRITE_BYTES: usize = 1 << 20;

/// What a form says.
#[derive(Default)]
struct Parsed {
    file: Option<Incoming>,
    file_name: Option<String>,
    tags: Vec<String>,
    name: Option<String>,
    metadata: Option<String>,
    hash: Option<String>,
    /// Whether there is content of that hash.
    known: bool,
    mime: Option<String>,
    preview: Option<String>,
}

pub(super) async fn upload(
    State(app): State<App>,
    enabled: Enabled,
    principal: Principal,
    request: Request,
) -> Result<(StatusCode, Json<AssetInfo>), Coded> {
    let parsed = parse(&app, &enabled, &principal, request).await?;
    let metadata = metadata(parsed.metadata.as_deref())?;
    let (tags, mime, preview) = (parsed.tags, parsed.mime, parsed.preview);
    if let (Some(hash), true) = (&parsed.hash, parsed.known) {
        let digits = hash.trim_start_matches("blake3:");
        let name = base_name(parsed.name.as_deref().unwrap_or_default(), digits).to_owned();
        let (hash, new) = (hash.clone(), New { name, tags, metadata, mime, preview, job: None });
        let asset = enabled.work(move |store, viewer| store.from_hash(viewer, &hash, &new)).await?;
        return Ok((StatusCode::OK, Json(AssetInfo::new(&app.folders, asset, Some(false)))));
    }
    let file =
        parsed.file.ok_or_else(|| refused("MISSING_FILE", "no file came: send it as the part 'file', or the hash of known content"))?;
    if file.size == 0 {
        return Err(refused("EMPTY_UPLOAD", "the file is empty: send one with content"));
    }
    let hashed = file.hashed();
    if parsed.hash.is_some_and(|hash| hash != hashed.hash) {
        return Err(refused("HASH_MISMATCH", "the file has another hash than it was said to have: send it again"));
    }
    let digits = hashed.hash.trim_start_matches("blake3:").to_owned();
    let called = parsed.file_name.filter(|name| !name.is_empty()).or_else(|| parsed.name.clone()).unwrap_or_default();
    let name = base_name(parsed.name.as_deref().unwrap_or(&called), &digits).to_owned();
    let mime = mime.or_else(|| comfyd_assets::mime_of(&called).map(str::to_owned));
    let new = New { name, tags, metadata, mime, preview, job: None };
    let asked = app.clone();
    let stored = blocking(move || {
        let place = place(&asked, &principal, &new.tags, hashed.size);
        let mut refusal = None;
        let put = || match place {
            Ok(folder) => Ok(file.put(&folder, &called)?),
            // Known content needs no place.
            Err(error) => {
                refusal = Some(error);
                Err(comfyd_assets::Error::NoFile)
            }
        };
        let stored = opened(&enabled.assets)?.upload(&enabled.viewer, &hashed, &new, put);
        Ok(refusal.map_or_else(|| stored.map_err(Coded::from), Err))
    });
    let (asset, created) = stored.await??;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(AssetInfo::new(&app.folders, asset, Some(created)))))
}

fn refused(code: &str, message: &str) -> Coded {
    Coded::new(StatusCode::BAD_REQUEST, code, message)
}

/// The folder that new content goes into, if its sender may write there and has room.
fn place(app: &App, principal: &Principal, tags: &[String], size: u64) -> Result<PathBuf, Coded> {
    let _acting = principal.act();
    let (folder, root) = destination(&app.folders, tags)?;
    if root == MODELS {
        principal.caller().map_or(Ok(()), |caller| Admin.ask(caller))?;
    } else {
        let (owner, folders) = principal.files(app);
        app.usage.room(&owner, &app.folders, &folders, size)?;
    }
    Ok(folder)
}

/// Reads the form.
async fn parse(app: &App, enabled: &Enabled, principal: &Principal, request: Request) -> Result<Parsed, Coded> {
    let (kind, found) = request.headers().get(CONTENT_TYPE).map(|value| parameters(&text_of(value))).unwrap_or_default();
    let boundary = parameter(&found, "boundary").filter(|boundary| !boundary.is_empty() && kind.starts_with("multipart/"));
    let Some(boundary) = boundary else {
        let message = "send the file as multipart/form-data with a boundary";
        return Err(Coded::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", message));
    };
    // Nobody who has no room left needs to send his file first.
    let (asked, who) = (app.clone(), principal.clone());
    let folder = blocking(move || {
        let _acting = who.act();
        let (owner, folders) = who.files(&asked);
        asked.usage.room(&owner, &asked.folders, &folders, 0)?;
        Ok(asked.folders.own(Kind::Input))
    })
    .await?;
    let mut form = Multipart::new(request.with_limited_body().into_body().into_data_stream(), boundary);
    let mut parsed = Parsed::default();
    for count in 0.. {
        let Some(mut field) = form.next_field().await.map_err(|e| unreadable(&e))? else { break };
        if count >= MAX_PARTS {
            return Err(invalid(&format!("the form has more than {MAX_PARTS} parts")));
        }
        match field.name().unwrap_or_default() {
            "file" => {
                parsed.file_name = field.file_name().map(|name| name.trim().to_owned());
                let kept = !(parsed.hash.is_some() && parsed.known);
                let file = received(&mut field, kept.then(|| folder.clone())).await?;
                parsed.file = file.or(parsed.file);
            }
            "hash" => {
                let said = text(&mut field).await?;
                if !said.trim().is_empty() {
                    let hash = canonical_hash(&said).ok_or_else(no_hash)?;
                    let asked = hash.clone();
                    parsed.known = enabled.clone().work(move |store, viewer| store.knows(viewer, &asked)).await?;
                    parsed.hash = Some(hash);
                }
            }
            "tags" => {
                let more = tags(&text(&mut field).await?);
                parsed.tags = tidy_tags(parsed.tags.into_iter().chain(more));
            }
            "name" => parsed.name = Some(text(&mut field).await?.trim().to_owned()).filter(|name| !name.is_empty()),
            "user_metadata" => parsed.metadata = Some(text(&mut field).await?),
            "mime_type" => parsed.mime = Some(text(&mut field).await?.trim().to_owned()).filter(|mime| !mime.is_empty()),
            "preview_id" => parsed.preview = Some(text(&mut field).await?.trim().to_owned()).filter(|id| !id.is_empty()),
            "id" => return Err(refused("UNSUPPORTED_FIELD", "ids are given by the server: leave out 'id'")),
            _ => {}
        }
    }
    Ok(parsed)
}

/// Writes a file as it comes; without a folder it is let pass.
async fn received(field: &mut Field<'_>, folder: Option<PathBuf>) -> Result<Option<Incoming>, ApiError> {
    let mut incoming = match folder {
        Some(folder) => Some(blocking(move || Incoming::begin(&folder)).await?),
        None => None,
    };
    let mut waiting = Vec::new();
    loop {
        let chunk = field.chunk().await.map_err(|e| unreadable(&e))?;
        let ended = chunk.is_none();
        if incoming.is_some() {
            waiting.extend_from_slice(&chunk.unwrap_or_default());
        }
        if let Some(mut file) = incoming.take_if(|_| ended || waiting.len() >= WRITE_BYTES) {
            let bytes = std::mem::take(&mut waiting);
            incoming = Some(blocking(move || file.write(&bytes).map(|()| file)).await?);
        }
        if ended {
            return Ok(incoming);
        }
    }
}

/// The text of a part that is no file.
async fn text(field: &mut Field<'_>) -> Result<String, Coded> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(|e| unreadable(&e))? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_FIELD_BYTES {
            return Err(invalid(&format!("a part that is no file is longer than {MAX_FIELD_BYTES} bytes")));
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Tags as a form has them: a JSON list, or names between commas.
fn tags(text: &str) -> Vec<String> {
    let text = text.trim();
    match comfyd_wire::json::read(text.as_bytes()) {
        Ok(Value::Array(tags)) => tags.iter().map(|tag| tag.as_str().map_or_else(|| tag.to_string(), str::to_owned)).collect(),
        Ok(_) | Err(_) => text.split(',').map(str::to_owned).collect(),
    }
}

fn metadata(text: Option<&str>) -> Result<Map<String, Value>, Coded> {
    match text.map(str::trim).filter(|text| !text.is_empty()).map(|text| comfyd_wire::json::read(text.as_bytes())) {
        None => Ok(Map::new()),
        Some(Ok(Value::Object(metadata))) => Ok(metadata),
        Some(Ok(_)) => Err(invalid("'user_metadata' must be a JSON object")),
        Some(Err(error)) => Err(invalid(&format!("'user_metadata' must be a JSON object: {error}"))),
    }
}
