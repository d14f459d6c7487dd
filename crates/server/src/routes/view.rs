//! `/view` and `/view_metadata`: files of the input, output and temp folders, and what a model file says of itself. Also how any file is
//! sent: validators, ranges, and never in a form that a browser would run.

use std::io::{Cursor, Read, SeekFrom};
use std::path::Path;
use std::time::UNIX_EPOCH;

use axum::body::Body;
use axum::extract::{Path as UrlPath, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use comfyd_folders::{Kind, extension, join_inside, split_annotation};
use comfyd_imaging::decode::Limits;
use image::{DynamicImage, ImageFormat};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use crate::json::whole;
use crate::openapi::{Doc, Table};
use crate::query::Query;
use crate::{ApiError, App};

/// Longest JSON header of a safetensors file that `/view_metadata` reads, in bytes.
const MAX_METADATA: u64 = 1024 * 1024;
/// Largest file that is decoded, in bytes.
const MAX_DECODE: u64 = 1 << 30;
/// Largest side that WebP can hold, in pixels.
const MAX_WEBP_SIDE: u32 = 16_383;
/// WebP and JPEG quality unless the request says otherwise.
const QUALITY: u8 = 90;

/// The routes of this module.
pub(super) fn routes() -> Table {
    Table::default()
        .get(
            "/view",
            view,
            Doc::new("files", "A file of the input, output or temp folder; ranges and validators are answered.")
                .query("filename", "string", "Its name.")
                .query("type", "string", "input, output or temp; output if it is missing.")
                .query("subfolder", "string", "Its folder.")
                .query("preview", "string", "webp or jpeg, with ;quality behind it.")
                .query("channel", "string", "rgb, a or rgba.")
                .bytes("application/octet-stream")
                .status(206, "A range.")
                .status(304, "It has not changed."),
        )
        .get(
            "/view_metadata/{folder_name}",
            view_metadata,
            Doc::new("models", "What a safetensors file says of itself.").query("filename", "string", "The file's name.").json("Object"),
        )
}

async fn view(State(app): State<App>, Query(query): Query, headers: HeaderMap) -> Result<Response<Body>, ApiError> {
    let Some(filename) = query.get("filename") else {
        return Err(ApiError::not_found("no file is named: add ?filename=..."));
    };
    let (filename, kind) = split_annotation(filename);
    if filename.is_empty() || filename.starts_with('/') || filename.contains("..") || filename.contains('\0') {
        return Err(ApiError::bad_request("the file name must be a plain name: put its folder in 'subfolder'").details(filename));
    }
    let kind = match kind {
        Some(kind) => kind,
        None => parse_kind(query.get("type").map_or("output", String::as_str))?,
    };
    let subfolder = query.get("subfolder").map_or("", String::as_str);
    let folder = app
        .folders
        .inside(kind, Path::new(subfolder))
        .map_err(|_| ApiError::forbidden("the subfolder leads outside: give a relative one").details(subfolder))?;
    let name = filename.rsplit('/').next().unwrap_or(filename);
    let path = join_inside(&folder, Path::new(name))?;
    if name.is_empty() || !tokio::fs::metadata(&path).await.is_ok_and(|m| m.is_file()) {
        return Err(ApiError::not_found("there is no such file").details(name));
    }
    let channel = query.get("channel").map_or("", String::as_str);
    let shape = match query.get("preview") {
        Some(preview) => Some(Shape::preview(preview, channel)),
        None => match channel {
            "rgb" => Some(Shape::Rgb),
            "a" => Some(Shape::Alpha),
            _ => None,
        },
    };
    match shape {
        Some(shape) => send_picture(&path, name, shape, &headers).await,
        None => send_file(&path, name, &headers, Disposition::Inline).await,
    }
}

/// The folder that a client names, or 400.
pub(crate) fn parse_kind(name: &str) -> Result<Kind, ApiError> {
    Kind::parse(name).ok_or_else(|| ApiError::bad_request("the type must be 'input', 'output' or 'temp'").details(name))
}

/// How a browser is to treat a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// Shown if it is of a kind that a browser only shows; stored by the browser otherwise.
    Inline,
    /// A part of the page: no `Content-Disposition`, its own type, checked again on each use.
    Page,
}

/// Sends a file with validators; answers `If-None-Match` and single ranges. 404 if it cannot be read.
pub(crate) async fn send_file(path: &Path, name: &str, request: &HeaderMap, how: Disposition) -> Result<Response<Body>, ApiError> {
    let missing = |_| ApiError::not_found("there is no such file").details(name);
    let mut file = tokio::fs::File::open(path).await.map_err(missing)?;
    let meta = file.metadata().await.map_err(missing)?;
    if !meta.is_file() {
        return Err(ApiError::not_found("there is no such file").details(name));
    }
    let mut headers = HeaderMap::new();
    let etag = etag(&meta, "");
    headers.insert(header::ETAG, header_value(&etag));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let mime = mime_guess::from_path(name).first_raw().unwrap_or("application/octet-stream");
    let stored = how == Disposition::Inline && !is_passive(name, mime);
    headers
        .insert(header::CONTENT_TYPE, if stored { HeaderValue::from_static("application/octet-stream") } else { content_type(mime, how) });
    if how == Disposition::Inline {
        headers.insert(header::CONTENT_DISPOSITION, disposition(name, stored));
    }
    if none_match(request, &etag) {
        headers.remove(header::CONTENT_TYPE);
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    let size = meta.len();
    let (start, end, status) = match range(request, size, &etag) {
        Range::Whole => (0, size, StatusCode::OK),
        Range::Part { start, end } => {
            headers.insert(header::CONTENT_RANGE, header_value(&format!("bytes {start}-{}/{size}", end - 1)));
            file.seek(SeekFrom::Start(start)).await.map_err(|e| ApiError::internal(format!("cannot read the file: {e}")))?;
            (start, end, StatusCode::PARTIAL_CONTENT)
        }
        Range::Outside => {
            let headers = [(header::CONTENT_RANGE, header_value(&format!("bytes */{size}")))];
            let error = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "bad_range", "the range starts behind the file's end");
            return Ok((headers, error).into_response());
        }
    };
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(end - start));
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(end - start), 64 * 1024));
    Ok((status, headers, body).into_response())
}

fn content_type(mime: &'static str, how: Disposition) -> HeaderValue {
    let text = mime.starts_with("text/") || matches!(mime, "application/json" | "application/javascript" | "image/svg+xml");
    if text && how == Disposition::Page { header_value(&format!("{mime}; charset=utf-8")) } else { HeaderValue::from_static(mime) }
}

/// Endings of plain text. Those of scripts and of settings that a system acts on count as plain text, too, where types are guessed.
const PLAIN_TEXT: [&str; 3] = [".txt", ".text", ".log"];

/// Whether a browser only shows what is in a file: pictures, sounds, videos, texts. What is not known to be harmless is not.
fn is_passive(name: &str, mime: &str) -> bool {
    match mime.split_once('/') {
        Some(("image" | "audio" | "video", kind)) => !kind.ends_with("xml"),
        Some(("text", "plain")) => PLAIN_TEXT.contains(&extension(name).as_str()),
        Some((_, _)) => matches!(mime, "application/json" | "text/csv" | "text/markdown"),
        None => false,
    }
}

/// `Content-Disposition` with the name in ASCII, and in UTF-8 where they differ (RFC 6266).
fn disposition(name: &str, attachment: bool) -> HeaderValue {
    let kind = if attachment { "attachment" } else { "inline" };
    let ascii: String = name.chars().map(|c| if c.is_ascii_graphic() && c != '"' && c != '\\' || c == ' ' { c } else { '_' }).collect();
    let mut value = format!("{kind}; filename=\"{ascii}\"");
    if ascii != name {
        value.push_str("; filename*=UTF-8''");
        value.push_str(&percent_encode(name));
    }
    header_value(&value)
}

/// Percent-encodes everything but letters, digits and `-._~`.
pub(crate) fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A header of text that was made here; what cannot stand in a header becomes empty.
fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// A strong validator from time and size; `variant` tells apart what is derived from one file.
fn etag(meta: &std::fs::Metadata, variant: &str) -> String {
    let time = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    format!("\"{:x}-{:x}{variant}\"", time.as_nanos(), meta.len())
}

fn none_match(request: &HeaderMap, etag: &str) -> bool {
    let Some(known) = request.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()) else { return false };
    known.split(',').map(str::trim).any(|k| k == "*" || k.strip_prefix("W/").unwrap_or(k) == etag)
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    Whole,
    /// Bytes `start..end`.
    Part {
        start: u64,
        end: u64,
    },
    Outside,
}

/// The range that is asked for. Several ranges, other units and stale `If-Range` mean the whole file, as RFC 9110 allows.
fn range(request: &HeaderMap, size: u64, etag: &str) -> Range {
    let text = |name: HeaderName| request.get(name).and_then(|v| v.to_str().ok());
    let Some(spec) = text(header::RANGE).and_then(|r| r.strip_prefix("bytes=")) else { return Range::Whole };
    if text(header::IF_RANGE).is_some_and(|known| known != etag) {
        return Range::Whole;
    }
    let Some((first, last)) = spec.split_once('-') else { return Range::Whole };
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        return match last.parse::<u64>() {
            Ok(0) => Range::Outside,
            Ok(_) if size == 0 => Range::Outside,
            Ok(count) => Range::Part { start: size.saturating_sub(count), end: size },
            Err(_) => Range::Whole,
        };
    }
    let Ok(start) = first.parse::<u64>() else { return Range::Whole };
    let end = match last {
        "" => size,
        last => match last.parse::<u64>() {
            Ok(last) if last >= start => last.saturating_add(1).min(size),
            Ok(_) | Err(_) => return Range::Whole,
        },
    };
    if start >= size { Range::Outside } else { Range::Part { start, end } }
}

/// What a picture is turned into before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// WebP; with `true` without its alpha.
    Webp { quality: u8, opaque: bool },
    /// JPEG.
    Jpeg { quality: u8 },
    /// PNG of the colours.
    Rgb,
    /// PNG, black, of the alpha.
    Alpha,
}

impl Shape {
    /// From `webp;80`. JPEG has no alpha: with a channel that asks for it, WebP stands in.
    fn preview(text: &str, channel: &str) -> Self {
        let format = text.split(';').next().unwrap_or_default();
        let quality = text.rsplit(';').next().and_then(whole).flatten().map_or(QUALITY, |q| q.clamp(1, 100) as u8);
        if format == "jpeg" && !channel.contains('a') { Self::Jpeg { quality } } else { Self::Webp { quality, opaque: channel == "rgb" } }
    }

    fn mime(self) -> &'static str {
        match self {
            Self::Webp { .. } => "image/webp",
            Self::Jpeg { .. } => "image/jpeg",
            Self::Rgb | Self::Alpha => "image/png",
        }
    }

    fn encode(self, picture: &DynamicImage) -> Result<Vec<u8>, ApiError> {
        match self {
            Self::Webp { quality, opaque } => encode_webp(picture, quality, opaque),
            Self::Jpeg { quality } => {
                let mut out = Vec::new();
                let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut out, quality);
                picture.to_rgb8().write_with_encoder(encoder).map_err(encoding)?;
                Ok(out)
            }
            Self::Rgb => png(&DynamicImage::ImageRgb8(picture.to_rgb8())),
            Self::Alpha => {
                let mut pixels = picture.to_rgba8();
                for pixel in pixels.pixels_mut() {
                    pixel.0 = [0, 0, 0, pixel.0[3]];
                }
                png(&DynamicImage::ImageRgba8(pixels))
            }
        }
    }
}

/// WebP of a quality in 1..=100.
pub(crate) fn encode_webp(picture: &DynamicImage, quality: u8, opaque: bool) -> Result<Vec<u8>, ApiError> {
    let (width, height) = (picture.width(), picture.height());
    if width > MAX_WEBP_SIDE || height > MAX_WEBP_SIDE {
        return Err(ApiError::bad_request(format!("{width}x{height} is too large for WebP: ask for preview=jpeg")));
    }
    let quality = f32::from(quality);
    let memory = match picture {
        DynamicImage::ImageRgb8(rgb) => webp::Encoder::from_rgb(rgb.as_raw(), width, height).encode(quality),
        picture if opaque || !picture.color().has_alpha() => {
            webp::Encoder::from_rgb(picture.to_rgb8().as_raw(), width, height).encode(quality)
        }
        picture => webp::Encoder::from_rgba(picture.to_rgba8().as_raw(), width, height).encode(quality),
    };
    Ok(memory.to_vec())
}

fn png(picture: &DynamicImage) -> Result<Vec<u8>, ApiError> {
    let mut out = Cursor::new(Vec::new());
    picture.write_to(&mut out, ImageFormat::Png).map_err(encoding)?;
    Ok(out.into_inner())
}

fn encoding(error: image::ImageError) -> ApiError {
    ApiError::internal(format!("cannot encode the picture: {error}"))
}

/// Decodes a picture within bounds of size and memory, as the nodes do.
pub(crate) fn decode(bytes: &[u8]) -> Result<DynamicImage, ApiError> {
    let raster = comfyd_imaging::decode::raster(bytes, &Limits::default()).map_err(|e| ApiError::bad_request(e.to_string()))?;
    let (width, height, alpha) = (raster.width() as u32, raster.height() as u32, raster.has_alpha());
    let pixels = raster.into_data();
    let picture = match alpha {
        true => image::RgbaImage::from_raw(width, height, pixels).map(DynamicImage::ImageRgba8),
        false => image::RgbImage::from_raw(width, height, pixels).map(DynamicImage::ImageRgb8),
    };
    picture.ok_or_else(|| ApiError::internal("the picture's size and its pixels differ"))
}

async fn send_picture(path: &Path, name: &str, shape: Shape, request: &HeaderMap) -> Result<Response<Body>, ApiError> {
    let missing = |_| ApiError::not_found("there is no such file").details(name);
    let meta = tokio::fs::metadata(path).await.map_err(missing)?;
    let etag = etag(&meta, &format!("-{shape:?}").replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', ""));
    let headers = [
        (header::ETAG, header_value(&etag)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CONTENT_DISPOSITION, disposition(name, false)),
    ];
    if none_match(request, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    if meta.len() > MAX_DECODE {
        return Err(ApiError::too_large("the file is too large for a preview: ask for it without 'preview' and 'channel'"));
    }
    let bytes = tokio::fs::read(path).await.map_err(missing)?;
    let encoded = blocking(move || shape.encode(&decode(&bytes)?)).await?;
    Ok((headers, [(header::CONTENT_TYPE, HeaderValue::from_static(shape.mime()))], encoded).into_response())
}

/// Runs work that takes long, or waits for the disk, off the threads that serve requests.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ApiError> + Send + 'static) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(ApiError::internal(format!("a worker thread failed: {e}"))),
    }
}

async fn view_metadata(
    State(app): State<App>,
    UrlPath(folder): UrlPath<String>,
    Query(query): Query,
) -> Result<axum::Json<Value>, ApiError> {
    let none = || ApiError::not_found("there is no such model with metadata: name a .safetensors file of the folder with ?filename=...");
    let name = query.get("filename").filter(|f| f.ends_with(".safetensors")).ok_or_else(none)?.clone();
    blocking(move || {
        let path = app.folders.model_path(&folder, &name).ok_or_else(none)?;
        let mut header = safetensors_header(&path, MAX_METADATA).ok_or_else(none)?;
        header.get_mut("__metadata__").map(Value::take).map(axum::Json).ok_or_else(none)
    })
    .await
}

/// The JSON header of a safetensors file: its length in 8 bytes, little-endian, then the text. `None` if the file has none, or a longer
/// one than `max` bytes.
pub(crate) fn safetensors_header(path: &Path, max: u64) -> Option<Value> {
    let mut file = std::fs::File::open(path).ok()?;
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let length = u64::from_le_bytes(length);
    if length > max || length > file.metadata().ok()?.len().saturating_sub(8) {
        return None;
    }
    let mut text = vec![0; usize::try_from(length).ok()?];
    file.read_exact(&mut text).ok()?;
    comfyd_wire::json::read(&text).ok().filter(Value::is_object)
}

/// Joins a client's relative path to a folder. 403 if it leads outside.
pub(crate) fn inside(root: &Path, relative: &str) -> Result<std::path::PathBuf, ApiError> {
    join_inside(root, Path::new(relative)).map_err(|error| match error {
        comfyd_folders::Error::Outside { .. } => ApiError::forbidden("the path leads outside: give a relative one").details(relative),
        error => error.into(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn asked(range_header: &str) -> Range {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, range_header.parse().unwrap());
        range(&headers, 10, "\"e\"")
    }

    #[test]
    fn ranges_follow_rfc_9110() {
        assert_eq!(asked("bytes=2-4"), Range::Part { start: 2, end: 5 });
        assert_eq!(asked("bytes=2-"), Range::Part { start: 2, end: 10 });
        assert_eq!(asked("bytes=-3"), Range::Part { start: 7, end: 10 });
        assert_eq!(asked("bytes=-30"), Range::Part { start: 0, end: 10 });
        assert_eq!(asked("bytes=8-99"), Range::Part { start: 8, end: 10 });
        assert_eq!(asked("bytes=10-"), Range::Outside);
        assert_eq!(asked("bytes=-0"), Range::Outside);
        assert_eq!(asked("bytes=4-2"), Range::Whole);
        assert_eq!(asked("bytes=0-1,3-4"), Range::Whole);
        assert_eq!(asked("lines=0-1"), Range::Whole);
    }

    #[test]
    fn a_stale_if_range_gets_the_whole_file() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, "bytes=2-4".parse().unwrap());
        headers.insert(header::IF_RANGE, "\"old\"".parse().unwrap());
        assert_eq!(range(&headers, 10, "\"e\""), Range::Whole);
        headers.insert(header::IF_RANGE, "\"e\"".parse().unwrap());
        assert_eq!(range(&headers, 10, "\"e\""), Range::Part { start: 2, end: 5 });
    }

    #[test]
    fn names_cannot_break_the_disposition() {
        assert_eq!(disposition("a\"b.png", false), "inline; filename=\"a_b.png\"; filename*=UTF-8''a%22b.png");
        assert_eq!(disposition("é.html", true), "attachment; filename=\"_.html\"; filename*=UTF-8''%C3%A9.html");
    }

    #[test]
    fn jpeg_gives_way_when_alpha_is_asked_for() {
        assert_eq!(Shape::preview("jpeg;50", ""), Shape::Jpeg { quality: 50 });
        assert_eq!(Shape::preview("jpeg", "rgba"), Shape::Webp { quality: 90, opaque: false });
        assert_eq!(Shape::preview("gif;0", "rgb"), Shape::Webp { quality: 1, opaque: true });
    }

    #[test]
    fn a_header_longer_than_the_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        std::fs::write(&path, [&u64::MAX.to_le_bytes()[..], b"{}"].concat()).unwrap();
        assert_eq!(safetensors_header(&path, u64::MAX), None);
        std::fs::write(&path, [&2u64.to_le_bytes()[..], b"{}"].concat()).unwrap();
        assert_eq!(safetensors_header(&path, 2), Some(serde_json::json!({})));
        assert_eq!(safetensors_header(&path, 1), None);
    }
}
