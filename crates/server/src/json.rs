//! A JSON body, parsed whatever the content type says, as ComfyUI's clients rely on.

use axum::extract::{FromRequest, Request};
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
        let value = serde_json::from_slice(&bytes)
            .map_err(|e| ApiError::new(axum::http::StatusCode::BAD_REQUEST, "invalid_json", format!("the body is not valid JSON: {e}")))?;
        Ok(Self(value))
    }
}

impl<S: Send + Sync> FromRequest<S> for OptionalJson {
    type Rejection = ApiError;

    async fn from_request(req: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = body::text(req, state).await?;
        Ok(Self(serde_json::from_slice(&bytes).unwrap_or_else(|_| serde_json::json!({}))))
    }
}
