//! Who asks: nobody in particular, or, where there are several users, the one that the header `comfy-user` names. Does not know whether there
//! is such a user.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::app::App;
use crate::services::users::DEFAULT_USER;

/// Longest id that names a user: none is made as long, and every job keeps its owner's.
const MAX_ID_BYTES: usize = 256;

/// Whoever sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Principal {
    /// Nobody who is told from others.
    Anonymous,
    /// A user, by its id.
    User(String),
}

impl Principal {
    /// The user whose files are meant.
    pub(crate) fn user(&self) -> &str {
        match self {
            Self::Anonymous => DEFAULT_USER,
            Self::User(id) => id,
        }
    }

    /// Whose jobs it makes: empty where nobody is told apart.
    pub(crate) fn owner(&self) -> Arc<str> {
        match self {
            Self::Anonymous => Arc::default(),
            Self::User(id) => id.as_str().into(),
        }
    }
}

impl FromRequestParts<App> for Principal {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        let named = parts.headers.get("comfy-user").filter(|_| app.options.multi_user).and_then(|value| value.to_str().ok());
        let named = named.filter(|id| id.len() <= MAX_ID_BYTES);
        Ok(named.map_or(Self::Anonymous, |id| Self::User(id.to_owned())))
    }
}
