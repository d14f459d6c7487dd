//! The one error type of handlers, and the table of statuses. Every error is `{"error": {type, message, details, extra_info}, "node_errors": {}}`,
//! or, in the API document's shape, `{"error": sentence, "node_errors": []}`. Calls about assets answer [`Coded`] ones, as ComfyUI's do.

use std::io::ErrorKind;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use comfyd_folders::shared::is_unusable;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::openapi::named::{node_error_list, node_errors};
use crate::options::ApiShape;

/// A handler's failure.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    body: Box<WireError>,
}

/// An error as ComfyUI's clients get it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct WireError {
    error: Problem,
    #[schema(schema_with = node_errors)]
    node_errors: Value,
    /// What a route tells besides.
    #[serde(flatten)]
    #[schema(ignore)]
    beside: Map<String, Value>,
}

/// What went wrong.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct Problem {
    /// A name for programs.
    #[serde(rename = "type")]
    kind: String,
    /// A sentence.
    message: String,
    details: String,
    #[schema(value_type = Object)]
    extra_info: Value,
}

/// An error as the API document has it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DocumentedError {
    /// The cause.
    error: String,
    #[schema(schema_with = node_error_list)]
    node_errors: Value,
}

impl ApiError {
    /// An error with a status, a machine-readable kind and a sentence.
    pub fn new(status: StatusCode, kind: &str, message: impl Into<String>) -> Self {
        let (kind, message, details) = (kind.to_owned(), message.into(), String::new());
        let error = Problem { kind, message, details, extra_info: json!({}) };
        Self { status, body: Box::new(WireError { error, node_errors: json!({}), beside: Map::new() }) }
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

    /// 507: the disk, or the user's share of it, is full.
    pub fn disk_full() -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", "the disk is full: make room and try again")
    }

    /// 503: the files that servers share are out of reach.
    fn files_unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "files_unavailable", message)
    }

    /// 500: the server's fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    /// The status of the answer.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The sentence.
    pub(crate) fn message(&self) -> &str {
        &self.body.error.message
    }

    /// Adds to the details.
    pub(crate) fn add_details(mut self, more: &str) -> Self {
        let details = &mut self.body.error.details;
        if !details.is_empty() {
            details.push_str("; ");
        }
        details.push_str(more);
        self
    }

    /// Tells a value beside the error.
    pub(crate) fn beside(mut self, name: &str, value: Value) -> Self {
        self.body.beside.insert(name.to_owned(), value);
        self
    }

    /// Sets the details.
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.body.error.details = details.into();
        self
    }
}

/// An error's body, kept beside the answer for [`in_shape`].
#[derive(Clone)]
struct ErrorBody(Arc<WireError>);

/// When who found the server unable to do something is told to ask again, in seconds.
const RETRY_SECONDS: u64 = 5;

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(&self.body)).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
        }
        response.extensions_mut().insert(ErrorBody(self.body.into()));
        response
    }
}

/// An error of calls about assets, as ComfyUI's clients get it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct CodedError {
    error: CodedProblem,
}

/// What went wrong.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct CodedProblem {
    /// A name for programs.
    code: String,
    /// A sentence.
    message: String,
    #[schema(value_type = Object)]
    details: Value,
}

/// A failure of a handler whose clients know errors by codes.
#[derive(Debug)]
pub(crate) struct Coded {
    error: ApiError,
    details: Value,
}

impl Coded {
    /// An error with a status, a code and a sentence.
    pub(crate) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        ApiError::new(status, code, message).into()
    }

    /// Sets the details, which are an object.
    pub(crate) fn details(self, details: Value) -> Self {
        Self { details, ..self }
    }
}

impl From<ApiError> for Coded {
    fn from(error: ApiError) -> Self {
        let told = &error.body.error.details;
        let details = if told.is_empty() { json!({}) } else { json!({ "cause": told }) };
        Self { error, details }
    }
}

impl IntoResponse for Coded {
    fn into_response(self) -> Response {
        let Self { error, details } = self;
        let Problem { kind, message, .. } = &error.body.error;
        let body = CodedError { error: CodedProblem { code: kind.to_uppercase(), message: message.clone(), details } };
        let mut response = error.into_response();
        response.headers_mut().remove(CONTENT_LENGTH);
        *response.body_mut() = Body::from(json!(body).to_string());
        response
    }
}

impl From<comfyd_assets::Error> for ApiError {
    fn from(error: comfyd_assets::Error) -> Self {
        use comfyd_assets::Error;
        let (status, kind) = match &error {
            Error::NotFound(_) | Error::UnknownHash(_) => (StatusCode::NOT_FOUND, "asset_not_found"),
            Error::NotOwner(_) => (StatusCode::FORBIDDEN, "forbidden"),
            Error::NoFile => (StatusCode::NOT_FOUND, "file_not_found"),
            Error::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid_body"),
            Error::Cursor(_) => (StatusCode::BAD_REQUEST, "invalid_cursor"),
            Error::Full(_) => (StatusCode::INSUFFICIENT_STORAGE, "disk_full"),
            Error::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "storage_unavailable"),
            Error::Io(source) if is_disk_full(source) => return Self::disk_full(),
            Error::Io(_) | Error::Storage(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        Self::new(status, kind, error.to_string())
    }
}

impl From<comfyd_assets::Error> for Coded {
    fn from(error: comfyd_assets::Error) -> Self {
        let id = match &error {
            comfyd_assets::Error::NotFound(id) | comfyd_assets::Error::NotOwner(id) => Some(id.clone()),
            _ => None,
        };
        let coded = Self::from(ApiError::from(error));
        match id {
            Some(id) => coded.details(json!({ "id": id })),
            None => coded,
        }
    }
}

/// Gives an error the shape that its request asked for.
pub(crate) fn in_shape(shape: ApiShape, mut response: Response) -> Response {
    if shape == ApiShape::Documented
        && let Some(ErrorBody(body)) = response.extensions_mut().remove::<ErrorBody>()
    {
        for name in [CONTENT_LENGTH, CONTENT_ENCODING] {
            response.headers_mut().remove(name);
        }
        *response.body_mut() = Body::from(json!(DocumentedError::of(&body)).to_string());
    }
    response
}

impl DocumentedError {
    fn of(WireError { error: Problem { message, details, .. }, node_errors, .. }: &WireError) -> Self {
        let error = if details.is_empty() || details == message { message.clone() } else { format!("{message}: {details}") };
        Self { error, node_errors: listed(node_errors) }
    }
}

/// Errors of nodes as the API document has them: a list, where each tells of which node it is.
pub(crate) fn listed(by_node: &Value) -> Value {
    let nodes = by_node.as_object().into_iter().flatten();
    let errors = nodes.flat_map(|(id, report)| {
        report["errors"].as_array().into_iter().flatten().map(move |error| {
            let mut told = json!({"node_id": id, "class_type": report["class_type"]});
            for (key, value) in error.as_object().into_iter().flatten() {
                told[key] = value.clone();
            }
            told["dependent_outputs"] = report["dependent_outputs"].clone();
            told
        })
    });
    errors.collect()
}

/// A prompt that did not pass validation: the report is the body.
impl From<comfyd_graph::Rejected> for ApiError {
    fn from(rejected: comfyd_graph::Rejected) -> Self {
        let status = match rejected.error {
            comfyd_graph::PromptProblem::Unchecked(_) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        };
        let refused = Self::new(status, rejected.error.kind(), rejected.error.to_string());
        let mut error = refused.details(rejected.error.details());
        error.body.error.extra_info = rejected.error.extra_info();
        error.body.node_errors = rejected.node_errors.to_json();
        error
    }
}

impl From<comfyd_jobs::Error> for ApiError {
    fn from(error: comfyd_jobs::Error) -> Self {
        let (status, kind) = match &error {
            comfyd_jobs::Error::Duplicate(_) => (StatusCode::CONFLICT, "duplicate_prompt_id"),
            comfyd_jobs::Error::Full(_) | comfyd_jobs::Error::FullBytes(_) => (StatusCode::SERVICE_UNAVAILABLE, "queue_full"),
            comfyd_jobs::Error::OwnerFull(_) => (StatusCode::TOO_MANY_REQUESTS, "too_many_prompts"),
            comfyd_jobs::Error::NotRunning(_) => (StatusCode::CONFLICT, "not_running"),
            comfyd_jobs::Error::NotHeld(_) => (StatusCode::CONFLICT, "not_held"),
            comfyd_jobs::Error::Unstorable(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            comfyd_jobs::Error::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "disk_full"),
            comfyd_jobs::Error::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "storage_unavailable"),
            comfyd_jobs::Error::Damaged { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "damaged"),
            comfyd_jobs::Error::Storage(_) => (StatusCode::INTERNAL_SERVER_ERROR, "storage_failed"),
        };
        Self::new(status, kind, error.to_string())
    }
}

impl From<comfyd_folders::Error> for ApiError {
    fn from(error: comfyd_folders::Error) -> Self {
        match &error {
            comfyd_folders::Error::Outside { .. } | comfyd_folders::Error::Unfinished { .. } => Self::bad_request(error.to_string()),
            comfyd_folders::Error::Create { source, .. } | comfyd_folders::Error::Write { source, .. } if is_disk_full(source) => {
                Self::disk_full()
            }
            comfyd_folders::Error::Shared { source, .. } | comfyd_folders::Error::Write { source, .. } if is_unusable(source) => {
                Self::files_unavailable(error.to_string())
            }
            comfyd_folders::Error::Create { .. }
            | comfyd_folders::Error::Write { .. }
            | comfyd_folders::Error::Shared { .. }
            | comfyd_folders::Error::ExtraPaths { .. } => Self::internal(error.to_string()),
        }
    }
}

/// A file that a client named cannot be read or written.
impl From<std::io::Error> for ApiError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            _ if is_disk_full(&error) => Self::disk_full(),
            _ if is_unusable(&error) => Self::files_unavailable(error.to_string()),
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Self::internal(format!("the file cannot be written: {error}")),
            ErrorKind::ResourceBusy => Self::conflict(error.to_string()),
            // What remains is about the name: too long, a folder, a file in place of a folder.
            _ => Self::bad_request(format!("no file can be written under that name: {error}")),
        }
    }
}

/// Whether the system refused because there is no room.
pub(crate) fn is_disk_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}
