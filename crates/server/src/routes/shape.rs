//! Which of the two API shapes a request wants: `?shape=documented|wire`, or the server's default.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::Uri;
use axum::http::request::Parts;

use crate::{ApiShape, App};

impl ApiShape {
    /// The shape that an address asks for.
    pub(crate) fn asked(uri: &Uri, default: Self) -> Self {
        let asked = uri.query().unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("shape="));
        match asked {
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
