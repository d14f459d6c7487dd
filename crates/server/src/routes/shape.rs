//! Which of the two API shapes a request wants: `?shape=documented|wire`, or the server's default.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::query::Query;
use crate::{ApiShape, App};

impl FromRequestParts<App> for ApiShape {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        let Query(query) = Query::from_request_parts(parts, app).await?;
        Ok(match query.get("shape").map(String::as_str) {
            Some("documented") => Self::Documented,
            Some("wire") => Self::Wire,
            Some(_) | None => app.options.shape,
        })
    }
}
