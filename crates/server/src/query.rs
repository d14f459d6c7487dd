//! The query of a request: each key's first value, as ComfyUI's framework reads it, and which of the two API shapes it asks for. What cannot
//! be decoded is replaced, never refused. Read once, at the entrance; handlers get what was read.

use std::collections::HashMap;
use std::convert::Infallible;

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use url::form_urlencoded;

use crate::options::ApiShape;

/// The decoded values by key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(pub HashMap<String, String>);

impl Query {
    /// Reads a request's query and leaves it, and the shape that it asks for (`?shape=documented|wire`), to the handler.
    pub(crate) fn read(request: &mut Request, default: ApiShape) -> ApiShape {
        let mut query = Self::default();
        for (key, value) in form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
            query.0.entry(key.into_owned()).or_insert_with(|| value.into_owned());
        }
        let shape = match query.get("shape") {
            Some("documented") => ApiShape::Documented,
            Some("wire") => ApiShape::Wire,
            Some(_) | None => default,
        };
        if !query.0.is_empty() {
            request.extensions_mut().insert(query);
        }
        request.extensions_mut().insert(shape);
        shape
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Whether a value is `true`, in any case.
    pub(crate) fn is_true(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.remove().unwrap_or_default())
    }
}

impl<S: Sync> FromRequestParts<S> for ApiShape {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().copied().unwrap_or_default())
    }
}
