//! What the server keeps and does beside prompts, without a word of HTTP but the errors' statuses. The services that have a state are the
//! [`App`](crate::App)'s.

pub(crate) mod assets;
pub(crate) mod download;
pub(crate) mod log;
pub(crate) mod machine;
pub(crate) mod manifest;
pub(crate) mod models;
pub(crate) mod pages;
pub(crate) mod paths;
pub(crate) mod pictures;
pub(crate) mod proxy;
pub(crate) mod quotas;
pub(crate) mod stored;
pub(crate) mod uploads;
pub(crate) mod userdata;
pub(crate) mod users;
