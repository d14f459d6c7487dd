//! ComfyUI's HTTP and WebSocket API over the domain crates. The only crate that turns domain errors into statuses; it does not know how
//! nodes work.

mod app;
mod body;
#[cfg(test)]
mod document_tests;
mod doors;
mod error;
mod form;
mod frames;
mod hub;
mod json;
pub mod listen;
mod openapi;
mod query;
mod router;
mod routes;
mod sent;

pub use crate::app::{ApiShape, App, Control, FrontEnd, Inner, Options};
pub use crate::doors::{HostRule, Origin, OriginRule};
pub use crate::error::ApiError;
pub use crate::hub::Hub;
pub use crate::router::router;
pub use crate::routes::misc::keep_log_line;
pub use crate::routes::queue::announce_changes;
