//! A JSON body, read whatever the content type says and as leniently as ComfyUI does.

use axum::extract::{FromRequest, Request};
use comfyd_wire::{json, python};
use serde_json::Value;

use crate::{ApiError, body};

/// The body as JSON. Fails with 400 if it is not.
pub struct LenientJson(pub Value);

/// The body as JSON; an empty object where there is no body or it is not JSON.
pub struct OptionalJson(pub Value);

impl<S: Send + Sync> FromRequest<S> for LenientJson {
    type Rejection = ApiError;

    async fn from_request(req: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = body::text(req, state).await?;
        let value = json::read(&bytes)
            .map_err(|e| ApiError::new(axum::http::StatusCode::BAD_REQUEST, "invalid_json", format!("the body is not valid JSON: {e}")))?;
        Ok(Self(value))
    }
}

impl<S: Send + Sync> FromRequest<S> for OptionalJson {
    type Rejection = ApiError;

    async fn from_request(req: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = body::text(req, state).await?;
        Ok(Self(json::read(&bytes).unwrap_or_else(|_| serde_json::json!({}))))
    }
}

/// A number, or a text that Python's `float` reads as one.
pub(crate) fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => python::float(text),
        Value::Bool(value) => Some(f64::from(u8::from(*value))),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    number.filter(|number| number.is_finite())
}

/// A whole number of a query, as Python's `int` reads it; those below 0 are `None` inside.
pub(crate) fn whole(text: &str) -> Option<Option<usize>> {
    let number = python::int(text)?;
    // Rows are counted in 63 bits.
    Some(usize::try_from(number.min(i64::MAX.into())).ok())
}
