//! ComfyUI's HTTP and WebSocket API over the domain crates. The only crate that turns domain errors into statuses; it does not know how
//! nodes work.

mod app;
mod error;
mod hub;
mod json;
mod router;
pub mod routes;

pub use crate::app::{ApiShape, App, Control, FolderOptions, FrontEnd, Inner, Options};
pub use crate::error::ApiError;
pub use crate::hub::Hub;
pub use crate::router::router;
