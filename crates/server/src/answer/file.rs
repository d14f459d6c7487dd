//! How a file is sent, or what is made of one: validators, ranges, and never in a form that a browser would run.

use std::fs::Metadata;
use std::io::SeekFrom;
use std::path::Path;
use std::time::UNIX_EPOCH;

use axum::body::Body;
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use comfyd_folders::extension;
use headers::{AcceptRanges, ContentLength, ContentRange, ETag, HeaderMapExt, IfNoneMatch, IfRange};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use crate::error::ApiError;
use crate::room::Room;

/// Largest file that something is made of, in bytes.
const MAX_SOURCE: u64 = 1 << 30;
/// What is read of a file at once, in bytes.
const CHUNK_BYTES: usize = 64 << 10;
/// What is written as percent codes in a header's parameter.
const CODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How a browser is to treat a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// Shown if it is of a kind that a browser only shows; stored by the browser otherwise.
    Inline,
    /// The same, but what is of no known kind is left to the browser, which shows no bytes as anything else.
    Asked,
    /// Always stored by the browser.
    Attachment,
    /// A part of the page: no `Content-Disposition`, its own type, checked again on each use.
    Page,
}

/// Sends a file with validators; answers `If-None-Match` and single ranges. 404 if it cannot be read.
pub(crate) async fn send_file(path: &Path, name: &str, request: &HeaderMap, how: Disposition) -> Result<Response<Body>, ApiError> {
    // A pipe would keep whoever opens it waiting.
    regular(path, name).await?;
    let missing = |_| ApiError::not_found("there is no such file").details(name);
    let mut file = tokio::fs::File::open(path).await.map_err(missing)?;
    let meta = file.metadata().await.map_err(missing)?;
    let etag = etag(&meta, "")?;
    let mut headers = common_headers(&etag);
    headers.typed_insert(AcceptRanges::bytes());
    let mime = mime_guess::from_path(name).first_raw().unwrap_or("application/octet-stream");
    let drawing = how == Disposition::Inline && mime == "image/svg+xml";
    if drawing {
        // What is answered depends on who asks, so that nobody may keep it for another.
        headers.insert(header::VARY, HeaderValue::from_static("Sec-Fetch-Dest"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    // In an <img> no script of a drawing runs. Browsers tell so themselves, and pages cannot.
    let as_image = drawing && request.get("sec-fetch-dest").is_some_and(|dest| dest == "image");
    let active = how != Disposition::Page && !is_passive(name, mime) && !as_image;
    let attached = match how {
        Disposition::Inline => active,
        Disposition::Asked => active && mime != "application/octet-stream",
        Disposition::Attachment => true,
        Disposition::Page => false,
    };
    if how != Disposition::Page {
        headers.insert(header::CONTENT_DISPOSITION, disposition(name, attached));
    }
    if is_known(request, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    headers
        .insert(header::CONTENT_TYPE, if active { HeaderValue::from_static("application/octet-stream") } else { content_type(mime, how) });
    let size = meta.len();
    let (start, end, status) = match range(request, size, &etag) {
        Range::Whole => (0, size, StatusCode::OK),
        Range::Part { start, end } => {
            file.seek(SeekFrom::Start(start)).await.map_err(|e| ApiError::internal(format!("cannot read the file: {e}")))?;
            headers.extend(ContentRange::bytes(start..end, size).ok().map(|range| (header::CONTENT_RANGE, encoded(&range))));
            (start, end, StatusCode::PARTIAL_CONTENT)
        }
        Range::Outside => {
            let headers = [(header::CONTENT_RANGE, encoded(&ContentRange::unsatisfied_bytes(size)))];
            let error = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "bad_range", "the range starts behind the file's end");
            return Ok((headers, error).into_response());
        }
    };
    headers.typed_insert(ContentLength(end - start));
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(end - start), CHUNK_BYTES));
    Ok((status, headers, body).into_response())
}

/// Sends what `make` makes of a file's content, with validators; `variant` tells what is made of one file apart.
pub(crate) async fn send_made(
    path: &Path,
    name: &str,
    request: &HeaderMap,
    (variant, mime): (&str, &'static str),
    room: &Room,
    make: impl AsyncFnOnce(Vec<u8>) -> Result<Vec<u8>, ApiError>,
) -> Result<Response<Body>, ApiError> {
    let meta = regular(path, name).await?;
    let etag = etag(&meta, variant)?;
    let mut headers = common_headers(&etag);
    headers.insert(header::CONTENT_DISPOSITION, disposition(name, false));
    if is_known(request, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    if meta.len() > MAX_SOURCE {
        return Err(ApiError::too_large("the file is too large for a preview: ask for it without 'preview' and 'channel'"));
    }
    let _lease = room.take(meta.len()).await?;
    let bytes = tokio::fs::read(path).await.map_err(|_| ApiError::not_found("there is no such file").details(name))?;
    let made = make(bytes).await?;
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(mime));
    Ok((headers, made).into_response())
}

/// What the system says of a file. 404 if it is none, but a folder or a pipe.
async fn regular(path: &Path, name: &str) -> Result<Metadata, ApiError> {
    let meta = tokio::fs::metadata(path).await.ok().filter(Metadata::is_file);
    meta.ok_or_else(|| ApiError::not_found("there is no such file").details(name))
}

fn common_headers(etag: &ETag) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.typed_insert(etag.clone());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers
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
        value.push_str(&format!("; filename*=UTF-8''{}", utf8_percent_encode(name, CODED)));
    }
    header_value(&value)
}

/// A header of text that was made here; what cannot stand in a header becomes empty.
fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn encoded(header: &impl headers::Header) -> HeaderValue {
    let mut values = Vec::new();
    header.encode(&mut values);
    values.pop().unwrap_or_else(|| HeaderValue::from_static(""))
}

/// A strong validator from time and size; `variant` tells apart what is derived from one file.
fn etag(meta: &Metadata, variant: &str) -> Result<ETag, ApiError> {
    let time = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let text = format!("\"{:x}-{:x}{variant}\"", time.as_nanos(), meta.len());
    text.parse().map_err(|_| ApiError::internal(format!("{text} is no validator")))
}

/// Whether the client has this already.
fn is_known(request: &HeaderMap, etag: &ETag) -> bool {
    request.typed_get::<IfNoneMatch>().is_some_and(|known| !known.precondition_passes(etag))
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

/// The range that is asked for. Several ranges, other units and stale `If-Range` mean the whole file, as RFC 9110 allows. Not read by
/// `headers::Range`: that leaves a range out which cannot be had, and with it the difference between nothing and all.
fn range(request: &HeaderMap, size: u64, etag: &ETag) -> Range {
    let spec = request.get(header::RANGE).and_then(|v| v.to_str().ok()).and_then(|r| r.strip_prefix("bytes="));
    let Some((first, last)) = spec.and_then(|spec| spec.split_once('-')) else { return Range::Whole };
    // One that cannot be read is as stale as another's.
    if request.contains_key(header::IF_RANGE) && request.typed_get::<IfRange>().is_none_or(|known| known.is_modified(Some(etag), None)) {
        return Range::Whole;
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn asked(fields: &[(header::HeaderName, &str)]) -> Range {
        let headers = fields.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        range(&headers, 10, &"\"e\"".parse().unwrap())
    }

    #[test]
    fn ranges_follow_rfc_9110() {
        for (text, wanted) in [
            ("bytes=2-4", Range::Part { start: 2, end: 5 }),
            ("bytes=2-", Range::Part { start: 2, end: 10 }),
            ("bytes=-3", Range::Part { start: 7, end: 10 }),
            ("bytes=-30", Range::Part { start: 0, end: 10 }),
            ("bytes=8-99", Range::Part { start: 8, end: 10 }),
            ("bytes=10-", Range::Outside),
            ("bytes=-0", Range::Outside),
            ("bytes=4-2", Range::Whole),
            ("bytes=0-1,3-4", Range::Whole),
            ("lines=0-1", Range::Whole),
        ] {
            assert_eq!(asked(&[(header::RANGE, text)]), wanted, "{text}");
        }
    }

    #[test]
    fn a_stale_if_range_gets_the_whole_file() {
        for (known, wanted) in [
            ("\"old\"", Range::Whole),
            ("W/\"e\"", Range::Whole),
            ("Sat, 29 Oct 1994 19:43:31 GMT", Range::Whole),
            ("?", Range::Whole),
            ("\"e\"", Range::Part { start: 2, end: 5 }),
        ] {
            assert_eq!(asked(&[(header::RANGE, "bytes=2-4"), (header::IF_RANGE, known)]), wanted, "{known}");
        }
    }

    #[test]
    fn names_cannot_break_the_disposition() {
        assert_eq!(disposition("a\"b.png", false), "inline; filename=\"a_b.png\"; filename*=UTF-8''a%22b.png");
        assert_eq!(disposition("é.html", true), "attachment; filename=\"_.html\"; filename*=UTF-8''%C3%A9.html");
    }
}
