//! Request bodies as their headers say: `Content-Encoding` for every route, the charset of what is text. Bounded before and after decoding.
//! Does not know what is in a body.

use std::borrow::Cow;
use std::error::Error;
use std::io;
use std::pin::Pin;

use async_compression::tokio::bufread::{DeflateDecoder, GzipDecoder, ZlibDecoder};
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use encoding_rs::Encoding;
use futures_util::TryStreamExt;
use http_body_util::{LengthLimitError, Limited};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, BufReader};
use tokio_util::io::{ReaderStream, StreamReader};

use crate::error::ApiError;

/// Codings that may lie on each other.
const MAX_CODINGS: usize = 3;
/// What is decoded at once, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// Decodes a request's body, of which at most `max_bytes` are read. The route's own bound then holds for what comes out.
pub(crate) async fn decoded(max_bytes: usize, mut request: Request) -> Result<Request, ApiError> {
    let codings = codings(&request)?;
    request.headers_mut().remove(CONTENT_ENCODING);
    if !codings.is_empty() && !request.body().is_end_stream() {
        // Endless codes for nothing must end as well.
        let encoded = Limited::new(std::mem::take(request.body_mut()), max_bytes);
        let stream = Body::new(encoded).into_data_stream().map_err(io::Error::other);
        *request.body_mut() = decode(Box::pin(StreamReader::new(stream)), &codings).await.map_err(|e| unreadable(&e))?;
        request.headers_mut().remove(CONTENT_LENGTH);
    }
    Ok(request)
}

#[derive(Clone, Copy)]
enum Coding {
    Gzip,
    Deflate,
}

/// The codings in the order in which they were applied.
fn codings(request: &Request) -> Result<Vec<Coding>, ApiError> {
    let mut codings = Vec::new();
    for value in request.headers().get_all(CONTENT_ENCODING) {
        for name in text_of(value).split(',').map(|name| name.trim().to_ascii_lowercase()) {
            match name.as_str() {
                "" | "identity" => {}
                "gzip" | "x-gzip" => codings.push(Coding::Gzip),
                "deflate" => codings.push(Coding::Deflate),
                other => {
                    let what = format!("the body's coding '{other}' is not known: send gzip, deflate or the plain body");
                    return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unknown_coding", what));
                }
            }
        }
    }
    if codings.len() > MAX_CODINGS {
        return Err(ApiError::bad_request(format!("the body has more than {MAX_CODINGS} codings: send it with one")));
    }
    Ok(codings)
}

type Source = Pin<Box<dyn AsyncBufRead + Send>>;

async fn decode(mut source: Source, codings: &[Coding]) -> io::Result<Body> {
    fn buffered(reader: impl AsyncRead + Send + 'static) -> Source {
        Box::pin(BufReader::new(reader))
    }
    for coding in codings.iter().rev() {
        // Nothing stays nothing, and who sends deflate may leave out the header of zlib that belongs to it.
        let Some(first) = source.fill_buf().await?.first().copied() else { return Ok(Body::empty()) };
        source = match coding {
            Coding::Gzip => {
                let mut decoder = GzipDecoder::new(source);
                decoder.multiple_members(true);
                buffered(decoder)
            }
            Coding::Deflate if first & 0x0f == 8 => buffered(ZlibDecoder::new(source)),
            Coding::Deflate => buffered(DeflateDecoder::new(source)),
        };
    }
    Ok(Body::from_stream(ReaderStream::with_capacity(source, CHUNK_BYTES)))
}

/// The bytes of a body.
pub(crate) async fn bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    Bytes::from_request(request, state).await.map_err(|error| unreadable(&error))
}

/// The text of a body in UTF-8. Without a charset it is taken as that, and may not be: who reads it finds out.
pub(crate) async fn text<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    let charset = request.headers().get(CONTENT_TYPE).and_then(|value| parameter(&parameters(&text_of(value)).1, "charset"));
    let bytes = bytes(request, state).await?;
    let charset = charset.as_deref().map(|name| name.trim_matches(['\'', ' '])).filter(|name| !name.is_empty()).unwrap_or("utf-8");
    if Encoding::for_bom(&bytes).is_none() && label(charset) == "utf-8" {
        return Ok(bytes);
    }
    to_text(charset, &bytes).map(|text| Bytes::from(text.into_owned()))
}

/// Why a body could not be read to its end.
pub(crate) fn unreadable(error: &(dyn Error + 'static)) -> ApiError {
    if over_limit(error) {
        ApiError::too_large("the body is over the limit: raise --max-upload-size")
    } else {
        ApiError::bad_request("the body could not be read: send it again as its headers say").details(cause(error).to_string())
    }
}

/// Whether a body was longer than its bound.
pub(crate) fn over_limit(error: &(dyn Error + 'static)) -> bool {
    // The framework boxes its own once more.
    error.is::<LengthLimitError>() || error.is::<Box<LengthLimitError>>() || inner(error).is_some_and(over_limit)
}

/// The innermost error: those around it say nothing of the cause.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    inner(error).map_or(error, cause)
}

fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    // An I/O error does not name what it was made of as its source.
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(made_of) => Some(made_of),
        None => error.source(),
    }
}

/// A header's value as text: UTF-8, or else Latin-1.
pub(crate) fn text_of(value: &HeaderValue) -> Cow<'_, str> {
    std::str::from_utf8(value.as_bytes()).map_or_else(|_| encoding_rs::mem::decode_latin1(value.as_bytes()), Cow::Borrowed)
}

/// `a/b; key=value; key="value"`: what stands before the parameters, in lower case, and these with their keys in lower case.
pub(crate) fn parameters(header: &str) -> (String, Vec<(String, String)>) {
    let (first, mut rest) = header.split_once(';').unwrap_or((header, ""));
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        if rest.is_empty() {
            return (first.trim().to_ascii_lowercase(), found);
        }
        let end = rest.find(['=', ';']).unwrap_or(rest.len());
        let key = rest[..end].trim().to_ascii_lowercase();
        rest = &rest[end..];
        let Some(value) = rest.strip_prefix('=').map(str::trim_start) else { continue };
        if let Some(quoted) = value.strip_prefix('"') {
            let (value, end) = unquoted(quoted);
            found.push((key, value));
            rest = quoted[end..].split_once(';').map_or("", |(_, rest)| rest);
        } else {
            let (value, after) = value.split_once(';').unwrap_or((value, ""));
            found.push((key, value.trim_end().to_owned()));
            rest = after;
        }
    }
}

/// The value of what stands behind a quotation mark, and where it ends. A backslash stands for the ASCII character behind it.
fn unquoted(text: &str) -> (String, usize) {
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, at),
            '\\' => match chars.next_if(|(_, next)| next.is_ascii()) {
                Some((_, next)) => value.push(next),
                None => value.push(c),
            },
            c => value.push(c),
        }
    }
    (value, text.len())
}

/// The first value of a parameter.
pub(crate) fn parameter(parameters: &[(String, String)], key: &str) -> Option<String> {
    parameters.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone())
}

/// Python's and the web's names of a charset with one spelling each.
fn label(charset: &str) -> String {
    let name = charset.trim().to_ascii_lowercase().replace(['_', ' '], "-");
    match name.as_str() {
        "utf8" | "utf" | "u8" | "utf-8-sig" | "cp65001" => "utf-8".into(),
        "utf16" | "u16" | "utf-16-le" | "utf-16le" => "utf-16".into(),
        "utf-16-be" => "utf-16be".into(),
        "utf32" | "u32" | "utf-32-le" | "utf-32le" => "utf-32".into(),
        "utf-32-be" => "utf-32be".into(),
        "latin-1" | "latin1" | "latin" | "l1" | "iso8859-1" | "iso-8859-1-1987" | "iso88591" | "8859" | "cp819" => "iso-8859-1".into(),
        "us-ascii" | "646" => "ascii".into(),
        "cp932" | "ms932" | "s-jis" => "shift_jis".into(),
        "cp936" | "ms936" => "gbk".into(),
        "cp949" | "uhc" => "euc-kr".into(),
        "cp950" => "big5".into(),
        "eucjp" | "ujis" => "euc-jp".into(),
        "mac-roman" | "macroman" => "macintosh".into(),
        _ => name,
    }
}

/// Decodes a text by its charset. A byte order mark goes before the charset's name where both are Unicode's, and is left out.
pub(crate) fn to_text<'a>(charset: &str, bytes: &'a [u8]) -> Result<Cow<'a, str>, ApiError> {
    let label = label(charset);
    let text = match label.as_str() {
        "iso-8859-1" => Some(encoding_rs::mem::decode_latin1(bytes)),
        "ascii" => Some(bytes).filter(|bytes| bytes.is_ascii()).and_then(|bytes| std::str::from_utf8(bytes).ok()).map(Cow::Borrowed),
        "utf-32" | "utf-32be" => utf32(bytes, label.ends_with("be")).map(Cow::Owned),
        label => {
            let known = Encoding::for_label_no_replacement(label.as_bytes());
            let known = known.or_else(|| Encoding::for_label_no_replacement(label.replace('-', "").as_bytes())).ok_or_else(|| {
                let what = format!("the charset '{charset}' is not known: send utf-8");
                ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unknown_charset", what)
            })?;
            let marked = Encoding::for_bom(bytes).filter(|_| label.starts_with("utf-"));
            let (encoding, skip) = marked.unwrap_or((known, 0));
            encoding.decode_without_bom_handling_and_without_replacement(&bytes[skip..])
        }
    };
    text.ok_or_else(|| ApiError::bad_request(format!("the text is not in the charset '{charset}' that it is said to be in: send utf-8")))
}

fn utf32(bytes: &[u8], big: bool) -> Option<String> {
    let (units, rest) = bytes.as_chunks::<4>();
    let big = big || units.first() == Some(&[0, 0, 0xfe, 0xff]);
    let read = |unit: &[u8; 4]| char::from_u32(if big { u32::from_be_bytes(*unit) } else { u32::from_le_bytes(*unit) });
    let text: Option<String> = units.iter().map(read).collect();
    text.filter(|_| rest.is_empty()).map(|text| text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn headers_are_taken_apart() {
        let check = |header: &str, first: &str, wanted: &[(&str, &str)]| {
            let (kind, found) = parameters(header);
            let found: Vec<(&str, &str)> = found.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            assert_eq!((kind.as_str(), &found[..]), (first, wanted), "{header}");
        };
        check("Text/Plain", "text/plain", &[]);
        check("a/b; Charset = UTF-8 ;x=\"1;2\" ; y", "a/b", &[("charset", "UTF-8"), ("x", "1;2")]);
        check("form-data;name=a;filename=\"q\\\"\\\\.png\"", "form-data", &[("name", "a"), ("filename", "q\"\\.png")]);
        check("multipart/form-data; boundary=----=_Part_0", "multipart/form-data", &[("boundary", "----=_Part_0")]);
        check("a; x=\"open; y=1", "a", &[("x", "open; y=1")]);
        check(";;=;==\"\"\";", "", &[("", ""), ("", "=\"\"\"")]);
    }

    #[test]
    fn texts_are_decoded_by_pythons_and_the_webs_names() {
        for (charset, bytes) in [
            ("UTF8", &b"\xc3\xa9"[..]),
            ("utf-8-sig", b"\xef\xbb\xbf\xc3\xa9"),
            ("utf-16", b"\xff\xfe\xe9\x00"),
            ("UTF_16", b"\xfe\xff\x00\xe9"),
            ("utf-16le", b"\xe9\x00"),
            ("utf_16_be", b"\x00\xe9"),
            ("utf-32", b"\xff\xfe\x00\x00\xe9\x00\x00\x00"),
            ("utf-32-be", b"\x00\x00\x00\xe9"),
            ("latin-1", b"\xe9"),
            ("ISO-8859-1", b"\xe9"),
            ("latin_2", b"\xe9"),
            ("windows-1252", b"\xe9"),
            ("cp437-is-not-known", b""),
        ] {
            match to_text(charset, bytes) {
                Ok(text) => assert_eq!(text, "é", "{charset}"),
                Err(_) => assert_eq!(charset, "cp437-is-not-known"),
            }
        }
        assert_eq!(to_text("iso8859_1", b"\x80").unwrap(), "\u{80}");
        assert_eq!(to_text("cp1252", b"\x80").unwrap(), "€");
        assert_eq!(to_text("cp932", b"\x93\xfa").unwrap(), "日");
        for (charset, bytes) in [("utf-8", &b"\xe9"[..]), ("ascii", b"\xe9"), ("utf-16", b"\xe9"), ("utf-32", b"\xe9\x00\x00")] {
            assert!(to_text(charset, bytes).is_err(), "{charset}");
        }
    }
}
