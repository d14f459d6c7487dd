//! JSON that is kept, and answered as the text that it is.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use comfyd_memory::Lease;
use serde::Serialize;

use crate::error::ApiError;

/// An answer as JSON.
pub(crate) fn written(answer: &impl Serialize) -> Result<Bytes, ApiError> {
    serde_json::to_vec(answer).map(Bytes::from).map_err(|e| ApiError::internal(format!("the answer cannot be written: {e}")))
}

/// Answers a text that is JSON.
pub(crate) fn json_text(body: impl Into<Body>) -> Response {
    ([(CONTENT_TYPE, "application/json")], body.into()).into_response()
}

/// A text that takes its memory until it is sent.
pub(crate) fn leased(text: impl AsRef<[u8]> + Send + 'static, leases: Vec<Lease>) -> Bytes {
    struct Leased<T> {
        text: T,
        _leases: Vec<Lease>,
    }

    impl<T: AsRef<[u8]>> AsRef<[u8]> for Leased<T> {
        fn as_ref(&self) -> &[u8] {
            self.text.as_ref()
        }
    }

    Bytes::from_owner(Leased { text, _leases: leases })
}
