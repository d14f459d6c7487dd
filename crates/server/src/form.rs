//! `multipart/form-data`, read as ComfyUI's framework does: extended names (`filename*`) before plain ones, transfer codings and charsets
//! of the parts. Does not know what the parts are for.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use futures_util::TryStreamExt;
use multer::{Field, Multipart};

use crate::body::{self, parameter, parameters, text_of, to_text, unreadable};
use crate::error::ApiError;

/// Parts that one form may have.
const MAX_PARTS: usize = 32;
/// Bytes that one header of a part may have. More than what names are made of is nothing that a sender needs, and is looked through for each
/// piece of a name.
const MAX_HEADER_BYTES: usize = 8 << 10;
/// Bytes that may come while the headers of a part are waited for: with every few of them, all that came is looked through again.
const MAX_WAITED_BYTES: u64 = 64 << 10;
/// Longest name of a charset.
const MAX_CHARSET_BYTES: usize = 31;
/// Base64 as senders write it: with or without its padding.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent).with_decode_allow_trailing_bits(true),
);

/// The parts of a form that have a name, in their order.
pub(crate) struct Form(pub Vec<Part>);

/// A part of a form.
pub(crate) struct Part {
    name: String,
    /// The name that the sender gives the file; a part that is no file has none.
    pub file_name: Option<String>,
    pub bytes: Bytes,
    charset: String,
}

impl Form {
    /// The first part of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&Part> {
        self.0.iter().find(|part| part.name == name)
    }

    /// The text of the first part of that name.
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, ApiError> {
        self.get(name).map(|part| to_text(&part.charset, &part.bytes).map(|text| text.into_owned())).transpose()
    }
}

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (kind, found) = request.headers().get(CONTENT_TYPE).map(|value| parameters(&text_of(value))).unwrap_or_default();
        let boundary = parameter(&found, "boundary").filter(|boundary| !boundary.is_empty() && kind == "multipart/form-data");
        let boundary = boundary.ok_or_else(|| ApiError::bad_request("send the file as multipart/form-data with a boundary"))?;
        let came = AtomicU64::new(0);
        let count = |part: &Bytes| {
            came.fetch_add(part.len() as u64, Ordering::Relaxed);
        };
        let mut form = Multipart::new(body::parts(request).inspect_ok(count), boundary);
        let mut parts = Vec::new();
        let mut charset = "utf-8".to_owned();
        for count in 0.. {
            let Some(part) = next(&mut form, &came).await? else { break };
            if count >= MAX_PARTS {
                return Err(ApiError::bad_request(format!("the form has more than {MAX_PARTS} parts")));
            }
            let headers = part.headers().clone();
            if headers.values().any(|value| value.len() > MAX_HEADER_BYTES) {
                return Err(long_headers());
            }
            let bytes = body::put_together(part.try_collect().await, Ok).await?;
            let found = headers.get(CONTENT_DISPOSITION).map(|value| parameters(&text_of(value)).1).unwrap_or_default();
            let Some(name) = extended(&found, "name") else { continue };
            if count == 0 && name == "_charset_" && bytes.len() <= MAX_CHARSET_BYTES {
                charset = String::from_utf8_lossy(&bytes).trim().to_owned();
                continue;
            }
            let own = headers.get(CONTENT_TYPE).and_then(|value| parameter(&parameters(&text_of(value)).1, "charset"));
            let file_name = extended(&found, "filename").filter(|name| !name.is_empty());
            parts.push(Part { name, file_name, bytes: transferred(&headers, bytes)?, charset: own.unwrap_or_else(|| charset.clone()) });
        }
        Ok(Self(parts))
    }
}

/// The next part of a form, of which so much came.
async fn next<'f>(form: &mut Multipart<'f>, came: &AtomicU64) -> Result<Option<Field<'f>>, ApiError> {
    let mut next = pin!(form.next_field());
    let mut waits_from = None;
    poll_fn(|cx| {
        if let Poll::Ready(next) = next.as_mut().poll(cx) {
            return Poll::Ready(next.map_err(|e| unreadable(&e)));
        }
        let came = came.load(Ordering::Relaxed);
        let waited = came - *waits_from.get_or_insert(came);
        if waited > MAX_WAITED_BYTES { Poll::Ready(Err(long_headers())) } else { Poll::Pending }
    })
    .await
}

fn long_headers() -> ApiError {
    ApiError::bad_request(format!("a part of the form has headers of more than {MAX_HEADER_BYTES} bytes: give it a shorter name"))
}

/// A parameter in the best of the forms in which it may come: `key*` (RFC 5987), `key`, or in pieces (`key*0`, `key*1*`; RFC 2231).
fn extended(parameters: &[(String, String)], key: &str) -> Option<String> {
    let decoded = parameter(parameters, &format!("{key}*")).and_then(|value| percent_decoded(&value));
    decoded.or_else(|| parameter(parameters, key).map(|value| value.trim_start_matches(['/', '\\']).to_owned())).or_else(|| {
        let mut value = String::new();
        let mut coded = false;
        for number in 0..parameters.len() {
            if let Some(piece) = parameter(parameters, &format!("{key}*{number}*")) {
                coded = true;
                value.push_str(&piece);
            } else if let Some(piece) = parameter(parameters, &format!("{key}*{number}")) {
                value.push_str(&piece);
            } else {
                break;
            }
        }
        if coded { percent_decoded(&value) } else { Some(value).filter(|value| !value.is_empty()) }
    })
}

/// `charset'language'percent-encoded`. `None` if it is not of that form.
fn percent_decoded(value: &str) -> Option<String> {
    let mut pieces = value.splitn(3, '\'');
    let (charset, _, value) = (pieces.next()?, pieces.next()?, pieces.next()?);
    let bytes: Vec<u8> = percent_encoding::percent_decode_str(value).collect();
    to_text(if charset.is_empty() { "utf-8" } else { charset }, &bytes).ok().map(|text| text.into_owned())
}

/// A part's content without its `Content-Transfer-Encoding`.
fn transferred(headers: &HeaderMap, bytes: Bytes) -> Result<Bytes, ApiError> {
    let coding = headers.get("content-transfer-encoding").map(|value| text_of(value).trim().to_ascii_lowercase()).unwrap_or_default();
    let wrong = |why: String| ApiError::bad_request(format!("the part is not the {coding} that it is said to be")).details(why);
    match coding.as_str() {
        "" | "binary" | "8bit" | "7bit" => Ok(bytes),
        "base64" => {
            // Line breaks, and whatever else does not belong to it, are left out as mail readers do.
            let code: Vec<u8> = bytes.iter().copied().filter(|b| b.is_ascii_alphanumeric() || b"+/=".contains(b)).collect();
            BASE64.decode(code).map(Bytes::from).map_err(|e| wrong(e.to_string()))
        }
        "quoted-printable" => {
            let decoded = quoted_printable::decode(&bytes, quoted_printable::ParseMode::Robust);
            decoded.map(Bytes::from).map_err(|e| wrong(e.to_string()))
        }
        other => Err(ApiError::bad_request(format!("the transfer coding '{other}' is not known: send the part as binary"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::io;

    use axum::body::Body;
    use futures_util::{StreamExt, stream};

    use super::*;

    fn file_name(disposition: &str) -> Option<String> {
        extended(&parameters(disposition).1, "filename")
    }

    #[test]
    fn the_best_name_of_a_file_is_taken() {
        for (disposition, wanted) in [
            ("form-data; filename*=UTF-8''%e2%82%ac%20x.png", "€ x.png"),
            ("form-data; filename=\"=?utf-8?B?w6kucG5n?=\"; filename*=utf-8''%C3%A9.png", "é.png"),
            ("form-data; filename*=iso-8859-1'en'%e9.png; filename=\"e.png\"", "é.png"),
            ("form-data; FileName*=''a%41.png", "aA.png"),
            ("form-data; filename*=\"utf-8''%C3%A9.png\"", "é.png"),
            ("form-data; filename*=utf-8''%ff.png; filename=plain.png", "plain.png"),
            ("form-data; filename*=none''a.png; filename=plain.png", "plain.png"),
            ("form-data; filename*=a.png; filename=plain.png", "plain.png"),
            ("form-data; filename=\"a;b=c.png\"", "a;b=c.png"),
            ("form-data; filename=\"日本.png\"", "日本.png"),
            ("form-data; filename=\"%41 b.png\"", "%41 b.png"),
            ("form-data; filename=\"/etc/a.png\"", "etc/a.png"),
            ("form-data; filename*0=\"a b\"; filename*1=.png", "a b.png"),
            ("form-data; filename*0*=utf-8''%C3%A9; filename*1*=.png", "é.png"),
        ] {
            assert_eq!(file_name(disposition).as_deref(), Some(wanted), "{disposition}");
        }
        assert_eq!(file_name("form-data; name=\"filename\""), None);
    }

    #[tokio::test]
    async fn headers_of_parts_are_bounded() {
        let refused = |body: Body| async move {
            let request = axum::http::Request::post("/").header(CONTENT_TYPE, "multipart/form-data; boundary=b").body(body).unwrap();
            Form::from_request(request, &()).await.err().map(|error| error.message().to_owned()).unwrap_or_default()
        };
        let pieces: String = (0..2000).map(|i| format!("; filename*{i}=x")).collect();
        let long = format!("--b\r\nContent-Disposition: form-data; name=image{pieces}\r\n\r\nx\r\n--b--\r\n");
        assert!(refused(long.into()).await.contains("headers of more than"));
        // They come without an end, a little at a time.
        let begin = Bytes::from_static(b"--b\r\nContent-Disposition: form-data; name=");
        let endless = stream::unfold(0, |n| async move {
            tokio::task::yield_now().await;
            (n < 100_000).then(|| (Ok::<_, io::Error>(Bytes::from_static(&[b'x'; 1024])), n + 1))
        });
        let endless = stream::iter([Ok(begin)]).chain(endless).inspect_ok(|_| assert!(READ.fetch_add(1, Ordering::Relaxed) < 1000));
        assert!(refused(Body::from_stream(endless)).await.contains("headers of more than"));
    }

    #[tokio::test]
    async fn forms_are_read_however_they_come() {
        let form = Bytes::from_static(b"--b\r\nContent-Disposition: form-data; name=image\r\n\r\nabc\r\n--b--\r\n");
        for pieces in [1, 2, 7, form.len()] {
            // Nothing, then all of it and its end at the next look.
            let pieces: Vec<Bytes> = form.chunks(form.len().div_ceil(pieces)).map(Bytes::copy_from_slice).collect();
            let body =
                stream::once(tokio::task::yield_now()).flat_map(move |()| stream::iter(pieces.clone().into_iter().map(Ok::<_, io::Error>)));
            let request = axum::http::Request::post("/").header(CONTENT_TYPE, "multipart/form-data; boundary=b");
            let form =
                Form::from_request(request.body(Body::from_stream(body)).unwrap(), &()).await.unwrap_or_else(|e| panic!("{}", e.message()));
            assert_eq!(form.get("image").unwrap().bytes, "abc");
        }
    }

    /// How much was taken of a form without an end.
    static READ: AtomicU64 = AtomicU64::new(0);

    #[test]
    fn transfer_codings_are_taken_off() {
        let decode = |coding: &str, text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("content-transfer-encoding", coding.parse().unwrap());
            transferred(&headers, Bytes::from_static(text.as_bytes())).ok().map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
        };
        assert_eq!(decode("Base64", "YWJj\r\nZA=").as_deref(), Some("abcd"));
        assert_eq!(decode("base64", "A").as_deref(), None);
        assert_eq!(decode("quoted-printable", "a=3Db=\r\nc").as_deref(), Some("a=bc"));
        assert_eq!(decode("8bit", "a=3D").as_deref(), Some("a=3D"));
        assert_eq!(decode("rot13", "a").as_deref(), None);
    }
}
