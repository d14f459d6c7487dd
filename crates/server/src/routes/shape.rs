//! Which of the two API shapes a request wants: `?shape=documented|wire`, or the server's default.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::Uri;
use axum::http::request::Parts;

use crate::query::Query;
use crate::{ApiShape, App};

impl ApiShape {
    /// The shape that an address asks for.
    pub(crate) fn asked(uri: &Uri, default: Self) -> Self {
        if uri.query().is_none() {
            return default;
        }
        let Query(query) = Query::of(uri);
        match query.get("shape").map(String::as_str) {
            Some("documented") => Self::Documented,
            Some("wire") => Self::Wire,
            Some(_) | None => default,
        }
    }
}

impl FromRequestParts<App> for ApiShape {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        Ok(Self::asked(&parts.uri, app.options.shape))
    }
}
