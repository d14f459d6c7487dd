//! What the calls about assets begin with: that assets are on, and what is refused alike.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use comfyd_assets::{Assets, Store, Viewer};
use serde_json::json;

use crate::answer::blocking;
use crate::app::App;
use crate::error::Coded;
use crate::principal::Principal;
use crate::services::assets::{opened, viewer};

/// The assets, for somebody.
#[derive(Clone)]
pub(super) struct Enabled {
    pub assets: Arc<Assets>,
    pub viewer: Viewer,
}

impl Enabled {
    /// Does something with the database, on a thread that may wait.
    pub(super) async fn work<T: Send + 'static>(
        self,
        work: impl FnOnce(&Store, &Viewer) -> comfyd_assets::Result<T> + Send + 'static,
    ) -> Result<T, Coded> {
        // The error has more to tell than an `ApiError`.
        blocking(move || Ok(work(&*opened(&self.assets)?, &self.viewer))).await?.map_err(Coded::from)
    }
}

impl FromRequestParts<App> for Enabled {
    type Rejection = Coded;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Coded> {
        let Some(assets) = app.options.assets.clone() else {
            let message = "assets are off: start the server with --enable-assets";
            return Err(Coded::new(StatusCode::SERVICE_UNAVAILABLE, "SERVICE_DISABLED", message));
        };
        let Ok(principal) = Principal::from_request_parts(parts, app).await;
        Ok(Self { assets, viewer: viewer(&principal) })
    }
}

pub(super) fn no_hash() -> Coded {
    Coded::new(StatusCode::BAD_REQUEST, "INVALID_HASH", "a hash is written as blake3: and 64 hexadecimal digits")
}

pub(super) fn invalid(message: &str) -> Coded {
    Coded::new(StatusCode::BAD_REQUEST, "INVALID_BODY", message).details(json!({"errors": [{"msg": message}]}))
}
