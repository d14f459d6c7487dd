//! One module per family of routes; each offers `routes()`.

pub(crate) mod history;
pub(crate) mod object_info;
mod prompt;
pub(crate) mod queue;
pub(crate) mod shape;
mod system;
mod ws;

use axum::Router;

use crate::App;

/// All routes, without prefix.
pub(crate) fn all() -> Router<App> {
    Router::new()
        .merge(history::routes())
        .merge(object_info::routes())
        .merge(prompt::routes())
        .merge(queue::routes())
        .merge(system::routes())
        .merge(ws::routes())
}
