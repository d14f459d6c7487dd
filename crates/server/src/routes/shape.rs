//! Which of the two API shapes a request wants: `?shape=documented|wire`, or the server's default.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::{ApiShape, App};

impl FromRequestParts<App> for ApiShape {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        let asked = parts.uri.query().unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("shape="));
        Ok(match asked {
            Some("documented") => Self::Documented,
            Some("wire") => Self::Wire,
            Some(_) | None => app.options.shape,
        })
    }
}
