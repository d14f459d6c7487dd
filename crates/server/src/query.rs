//! The query of a request: each key's first value, as ComfyUI's framework reads it. What cannot be decoded is replaced, never refused.

use std::collections::HashMap;
use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::Uri;
use axum::http::request::Parts;
use url::form_urlencoded;

/// The decoded values by key.
pub(crate) struct Query(pub HashMap<String, String>);

impl Query {
    /// Reads the query of an address.
    pub(crate) fn of(uri: &Uri) -> Self {
        let mut values = HashMap::new();
        for (key, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            values.entry(key.into_owned()).or_insert_with(|| value.into_owned());
        }
        Self(values)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.uri))
    }
}
