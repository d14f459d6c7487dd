//! The one error type of handlers, and the table of statuses. Every error is `{"error": {type, message, details, extra_info}, "node_errors": {}}`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// A handler's failure.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    body: Value,
}

impl ApiError {
    /// An error with a status, a machine-readable kind and a sentence.
    pub fn new(status: StatusCode, kind: &str, message: impl Into<String>) -> Self {
        let error = json!({"type": kind, "message": message.into(), "details": "", "extra_info": {}});
        Self { status, body: json!({"error": error, "node_errors": {}}) }
    }

    /// 400: the request cannot be used.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// 403: not allowed.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// 404: there is no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// 409: it is there already.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    /// 413: over a bound.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// 500: the server's fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    /// Adds details.
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.body["error"]["details"] = Value::String(details.into());
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

/// A prompt that did not pass validation: the report is the body.
impl From<comfyd_graph::Rejected> for ApiError {
    fn from(rejected: comfyd_graph::Rejected) -> Self {
        Self { status: StatusCode::BAD_REQUEST, body: rejected.to_json() }
    }
}

impl From<comfyd_jobs::Error> for ApiError {
    fn from(error: comfyd_jobs::Error) -> Self {
        let (status, kind) = match &error {
            comfyd_jobs::Error::Duplicate(_) => (StatusCode::CONFLICT, "duplicate_prompt_id"),
            comfyd_jobs::Error::Full(_) => (StatusCode::SERVICE_UNAVAILABLE, "queue_full"),
            comfyd_jobs::Error::NotRunning(_) => (StatusCode::CONFLICT, "not_running"),
            comfyd_jobs::Error::Storage(_) => (StatusCode::INTERNAL_SERVER_ERROR, "storage_failed"),
        };
        Self::new(status, kind, error.to_string())
    }
}

impl From<comfyd_folders::Error> for ApiError {
    fn from(error: comfyd_folders::Error) -> Self {
        match error {
            comfyd_folders::Error::Outside { .. } | comfyd_folders::Error::Unfinished { .. } => Self::bad_request(error.to_string()),
            comfyd_folders::Error::Create { .. } | comfyd_folders::Error::Write { .. } | comfyd_folders::Error::ExtraPaths { .. } => {
                Self::internal(error.to_string())
            }
        }
    }
}
