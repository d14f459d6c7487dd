//! JSON bodies, read whatever the content type says and as leniently as ComfyUI does; numbers and switches in them and in queries.

use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use bytes::Bytes;
use comfyd_wire::{json, python};
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::answer::laborious;
use crate::body;
use crate::error::ApiError;

/// The body as JSON. Fails with 400 if it is not.
pub struct LenientJson(pub Value);

/// The body as JSON; an empty object where there is no body or it is not JSON. What Python could not read as a text, or not hold, fails with
/// 400 all the same: it says something else than nothing.
pub struct OptionalJson(pub Value);

impl<S: Send + Sync> FromRequest<S> for LenientJson {
    type Rejection = ApiError;

    async fn from_request(req: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = body::text(req, state).await?;
        read(bytes).await?.0.map(Self).map_err(|error| invalid(&error))
    }
}

impl<S: Send + Sync> FromRequest<S> for OptionalJson {
    type Rejection = ApiError;

    async fn from_request(req: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = body::text(req, state).await?;
        let (read, bytes) = read(bytes).await?;
        match read {
            Ok(value) => Ok(Self(value)),
            Err(error) if error.is_too_deep() || std::str::from_utf8(&bytes).is_err() => Err(invalid(&error)),
            Err(_) => Ok(Self(serde_json::json!({}))),
        }
    }
}

/// Reads a text: one that is long not on a thread that serves others.
async fn read(text: Bytes) -> Result<(Result<Value, json::Error>, Bytes), ApiError> {
    let read = |text: Bytes| (json::read(&text), text);
    if text.len() <= body::SMALL_BYTES { Ok(read(text)) } else { laborious(text.len() as u64, move || Ok(read(text))).await }
}

/// The error of a body that is no JSON.
pub(crate) fn invalid(error: &json::Error) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", format!("the body is not valid JSON: {error}"))
}

/// A number, or a text that Python's `float` reads as one.
pub(crate) fn number(value: &Value) -> Option<f64> {
    python::float_of(value).filter(|number| number.is_finite())
}

/// Whether a switch is on.
pub(crate) fn is_set(switch: Option<&Value>) -> bool {
    match switch {
        Some(Value::Bool(b)) => *b,
        Some(Value::String(s)) => s == "true",
        Some(Value::Number(n)) => n.as_f64() != Some(0.0),
        Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => false,
    }
}

/// A number as JSON: without a fraction where it has none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Plain(pub f64);

impl Serialize for Plain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(number) = *self;
        if number.fract() == 0.0 && number.abs() < 9e15 {
            serializer.serialize_i64(number as i64)
        } else {
            serializer.serialize_f64(number)
        }
    }
}

/// A whole number of a query, as Python's `int` reads it; those below 0 are `None` inside.
pub(crate) fn whole(text: &str) -> Option<Option<usize>> {
    let number = python::int(text)?;
    // Rows are counted in 63 bits.
    Some(usize::try_from(number.min(i64::MAX.into())).ok())
}
