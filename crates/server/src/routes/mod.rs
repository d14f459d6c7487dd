//! One module per family of routes; each offers `routes()`.

pub(crate) mod download;
pub(crate) mod frontend;
pub(crate) mod history;
mod jobs;
pub(crate) mod misc;
mod models;
pub(crate) mod object_info;
mod prompt;
pub(crate) mod queue;
mod settings;
pub(crate) mod shape;
mod system;
mod upload;
mod userdata;
mod view;
mod ws;

use crate::openapi::{self, Table};

/// All routes, without prefix.
pub(crate) fn all() -> Table {
    Table::default()
        .merge(download::routes())
        .merge(frontend::routes())
        .merge(history::routes())
        .merge(misc::routes())
        .merge(jobs::routes())
        .merge(models::routes())
        .merge(object_info::routes())
        .merge(openapi::routes())
        .merge(prompt::routes())
        .merge(queue::routes())
        .merge(settings::routes())
        .merge(system::routes())
        .merge(upload::routes())
        .merge(userdata::routes())
        .merge(view::routes())
        .merge(ws::routes())
}
