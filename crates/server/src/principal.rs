//! Who asks: nobody in particular, the owner of a key, or, where there are several users without keys, the one that the header `comfy-user`
//! names. Does not know whether there is such a user.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use comfyd_folders::Kind;
use comfyd_jobs::Queue;
use comfyd_node::{Acting, Actor, acting_for};

use crate::app::App;
use crate::error::ApiError;
use crate::keys::{Caller, Scope};
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
    /// A user, by a key.
    Keyed(Arc<Caller>),
}

impl Principal {
    /// The user whose files are meant.
    pub(crate) fn user(&self) -> &str {
        match self {
            Self::Anonymous => DEFAULT_USER,
            Self::User(id) => id,
            Self::Keyed(caller) => &caller.user,
        }
    }

    /// Whose jobs it makes: empty where nobody is told apart.
    pub(crate) fn owner(&self) -> Arc<str> {
        match self {
            Self::Anonymous => Arc::default(),
            Self::User(id) => id.as_str().into(),
            Self::Keyed(caller) => Arc::clone(&caller.user),
        }
    }

    /// The owner whose jobs alone it gets to see, and may change; `None` if that is everybody's.
    pub(crate) fn only(&self) -> Option<Arc<str>> {
        match self {
            Self::Keyed(caller) if caller.scope < Scope::Admin => Some(Arc::clone(&caller.user)),
            Self::Keyed(_) | Self::Anonymous | Self::User(_) => None,
        }
    }

    /// Whether it gets to see the jobs of this owner.
    pub(crate) fn sees(&self, owner: &str) -> bool {
        self.only().is_none_or(|only| *only == *owner)
    }

    /// Has this thread find and write the files that are its own.
    pub(crate) fn act(&self) -> Acting {
        acting_for(self.caller().map_or_else(Actor::default, |caller| Actor {
            owner: Arc::clone(&caller.user),
            all: self.only().is_none(),
            ..Actor::default()
        }))
    }

    /// The folders of its files, and whose they are for a bound on their space; nobody's where nobody is told apart.
    pub(crate) fn files(&self, app: &App) -> (Arc<str>, Vec<PathBuf>) {
        let Some(caller) = self.caller() else { return Default::default() };
        let _acting = self.act();
        let own = [Kind::Input, Kind::Output, Kind::Temp].map(|kind| app.folders.own(kind));
        (Arc::clone(&caller.user), own.into_iter().chain(app.users.folder(&caller.user)).collect())
    }

    /// The jobs in the queue that it gets to see.
    pub(crate) async fn queue(&self, app: &App) -> Result<Queue, ApiError> {
        let mut queue = app.store.queue().await?;
        if let Some(owner) = self.only() {
            queue.running.retain(|job| job.owner == owner);
            queue.pending.retain(|job| job.owner == owner);
        }
        Ok(queue)
    }

    /// Whether it may interrupt a job, which may not run at all.
    pub(crate) async fn runs(&self, app: &App, id: &str) -> Result<bool, ApiError> {
        Ok(self.only().is_none() || self.queue(app).await?.running.iter().any(|job| job.id == id))
    }

    /// The key that was shown.
    pub(crate) fn caller(&self) -> Option<&Arc<Caller>> {
        match self {
            Self::Keyed(caller) => Some(caller),
            Self::Anonymous | Self::User(_) => None,
        }
    }
}

impl FromRequestParts<App> for Principal {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        if let Some(caller) = parts.extensions.get::<Arc<Caller>>() {
            return Ok(Self::Keyed(Arc::clone(caller)));
        }
        let named = parts.headers.get("comfy-user").filter(|_| app.options.multi_user).and_then(|value| value.to_str().ok());
        let named = named.filter(|id| id.len() <= MAX_ID_BYTES);
        Ok(named.map_or(Self::Anonymous, |id| Self::User(id.to_owned())))
    }
}
