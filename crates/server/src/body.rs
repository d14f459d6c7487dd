//! Request bodies as their headers say: `Content-Encoding` for every route, the charset of what is text. Bounded before and after decoding.
//! Does not know what is in a body.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_compression::tokio::bufread::{DeflateDecoder, GzipDecoder, ZlibDecoder};
use axum::RequestExt;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use comfyd_wire::json;
use encoding_rs::Encoding;
use futures_util::{Stream, TryStreamExt, stream};
use http_body_util::{LengthLimitError, Limited};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, BufReader};
use tokio::time::Sleep;
use tokio_util::io::{ReaderStream, StreamReader};

use crate::answer::laborious;
use crate::error::ApiError;
use crate::room::{Refused, Room, Work};

/// Codings that may lie on each other.
const MAX_CODINGS: usize = 3;
/// What is decoded at once, in bytes.
const CHUNK_BYTES: usize = 64 << 10;
/// Shorter bodies are not counted: so many as there are connections take little.
pub(crate) const SMALL_BYTES: usize = 64 << 10;

/// A body as it comes from a connection, which fails where its sender takes too long: for so long he may keep the server waiting in all, and
/// a second more for each so many bytes that came.
pub(crate) struct Paced {
    body: Incoming,
    grace: Duration,
    bytes_per_second: u64,
    came: u64,
    waited: Duration,
    /// Since when it waits, and until when it may.
    waits: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Paced {
    pub(crate) fn new(body: Incoming, (grace, bytes_per_second): (Duration, u64)) -> Self {
        Self { body, grace, bytes_per_second, came: 0, waited: Duration::ZERO, waits: None }
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            if let Some((since, _)) = self.waits.take() {
                self.waited += since.elapsed();
            }
            let bytes = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(Frame::data_ref).map_or(0, Bytes::len);
            self.came += bytes as u64;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let left = (self.grace + Duration::from_secs(self.came / self.bytes_per_second.max(1))).saturating_sub(self.waited);
        let (_, until) = self.waits.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
        until.as_mut().poll(cx).map(|()| Some(Err(TooSlow.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body came too slowly.
#[derive(Debug)]
struct TooSlow;

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body comes too slowly: send it again over a faster connection")
    }
}

impl Error for TooSlow {}

/// Makes who reads a request's body take room for it, unless it is small.
pub(crate) fn counted(room: &Room, request: &mut Request) -> Option<Work> {
    let most = request.body().size_hint().upper();
    if most.is_some_and(|most| most <= SMALL_BYTES as u64) {
        return None;
    }
    let work = Work::new(room);
    request.extensions_mut().insert(work.clone());
    Some(work)
}

/// The parts of a request's body, bounded, for which room is taken as they come: twice, since they are put together. Others are served
/// between them, however fast they come; and no part comes at once with the end behind it, of which a reader of forms (multer 3.1) that had looked
/// once in vain would say that nothing came.
pub(crate) fn parts(request: Request) -> impl Stream<Item = Result<Bytes, axum::Error>> {
    let work = request.extensions().get::<Work>().cloned();
    stream::try_unfold(request.with_limited_body().into_body().into_data_stream(), move |mut body| {
        let work = work.clone();
        async move {
            tokio::task::yield_now().await;
            let Some(part) = body.try_next().await? else { return Ok(None) };
            if let Some(work) = work {
                work.more(2 * part.len() as u64).await.map_err(axum::Error::new)?;
            }
            Ok(Some((part, body)))
        }
    })
}

/// Decodes a request's body, of which at most `max_bytes` are read. The route's own bound then holds for what comes out.
pub(crate) async fn decoded(max_bytes: usize, mut request: Request) -> Result<Request, ApiError> {
    let codings = codings(&request)?;
    request.headers_mut().remove(CONTENT_ENCODING);
    if !codings.is_empty() && !request.body().is_end_stream() {
        // Endless codes for nothing must end as well.
        let encoded = Limited::new(std::mem::take(request.body_mut()), max_bytes);
        let stream = TryStreamExt::map_err(Body::new(encoded).into_data_stream(), io::Error::other);
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
    if request.extensions().get::<Work>().is_none() {
        return Bytes::from_request(request, state).await.map_err(|error| unreadable(&error));
    }
    put_together(parts(request).try_collect().await, Ok).await
}

/// What `read` makes of the parts as a whole: where they are long they are copied, and read, on a thread that holds up nobody.
pub(crate) async fn put_together<T: Send + 'static, E: Error + 'static>(
    parts: Result<Vec<Bytes>, E>,
    read: impl FnOnce(Bytes) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let parts = parts.map_err(|error| unreadable(&error))?;
    let length: usize = parts.iter().map(Bytes::len).sum();
    let work = move || read(Bytes::from(parts.concat()));
    if length <= SMALL_BYTES { work() } else { laborious(length as u64, work).await }
}

/// The text of a JSON body in UTF-8, with room for what is read of it. Without a charset it is taken as UTF-8, and may not be: who reads it
/// finds out.
pub(crate) async fn text<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    let charset = request.headers().get(CONTENT_TYPE).and_then(|value| parameter(&parameters(&text_of(value)).1, "charset"));
    let Some(work) = request.extensions().get::<Work>().cloned() else {
        return in_utf8(charset.as_deref(), bytes(request, state).await?);
    };
    let counted = move |bytes| in_utf8(charset.as_deref(), bytes).map(|text| (json::bytes_when_read(&text), text));
    let (bytes, text) = put_together(parts(request).try_collect().await, counted).await?;
    work.more(bytes as u64).await?;
    Ok(text)
}

/// A body of this charset.
fn in_utf8(charset: Option<&str>, bytes: Bytes) -> Result<Bytes, ApiError> {
    let charset = charset.map(|name| name.trim_matches(['\'', ' '])).filter(|name| !name.is_empty()).unwrap_or("utf-8");
    if Encoding::for_bom(&bytes).is_none() && label(charset) == "utf-8" {
        return Ok(bytes);
    }
    Ok(Bytes::from(to_text(charset, &bytes)?.into_owned()))
}

/// Why a body could not be read to its end.
pub(crate) fn unreadable(error: &(dyn Error + 'static)) -> ApiError {
    let cause = cause(error);
    if over_limit(error) {
        ApiError::too_large("the body is over the limit: raise --max-upload-size")
    } else if let Some(refused) = cause.downcast_ref::<Refused>() {
        (*refused).into()
    } else if cause.is::<TooSlow>() {
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "too_slow", cause.to_string())
    } else {
        ApiError::bad_request("the body could not be read: send it again as its headers say").details(cause.to_string())
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
