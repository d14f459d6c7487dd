//! ComfyUI's HTTP and WebSocket API over the domain crates. The only crate that turns domain errors into statuses; it does not know how
//! nodes work.

// What is built for tests names the crate as tests outside do.
#[cfg(test)]
extern crate self as comfyd_server;

mod answer;
mod app;
mod audit;
mod body;
mod caches;
mod connections;
mod devices;
#[cfg(test)]
mod document_tests;
mod doors;
mod error;
mod events;
#[cfg(test)]
mod events_tests;
mod form;
mod frames;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gate;
mod hub;
pub mod in_background;
mod installations;
mod json;
pub mod keys;
pub mod listen;
mod login;
mod metrics;
mod openapi;
mod options;
mod origins;
mod permission;
mod principal;
mod prompt_request;
mod query;
mod reading;
mod requeue;
mod room;
mod router;
mod routes;
mod sent;
mod services;

pub use crate::app::{App, Inner, Parts};
pub use crate::audit::{Audit, Record};
pub use crate::devices::{Device, DeviceState, Devices};
pub use crate::error::ApiError;
pub use crate::hub::{Hearer, Hub};
pub use crate::installations::{Installation, Installations, Stage};
pub use crate::metrics::{Metered, Metrics};
pub use crate::options::{ApiShape, FrontEnd, Options, Quotas, RequiredVersions};
pub use crate::origins::{HostRule, Origin, OriginRule};
pub use crate::router::router;
pub use crate::routes::history::PacksQuery;
pub use crate::services::log::Log;
